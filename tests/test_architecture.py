"""docs/architecture.md is true: its tables name every package and file, and imports run one way."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import tinygrad182

PACKAGE = Path(tinygrad182.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"

ORDERED = [PACKAGE, PACKAGE / "inspect"]
"""Packages whose page lists their parts in the order in which they import each other."""


def parts_of(package: Path) -> set[str]:
    """The files and packages in a package, as the page writes them: ``errors.py``, ``arrays/``."""
    files = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    return files | {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}


def rows_of(package: Path) -> list[set[str]]:
    """The rows of the table of a package; a row may name several files."""
    name = package.relative_to(PACKAGE.parent).as_posix()
    section = re.search(
        rf"^#+ [^\n]*`{re.escape(name)}/`[^\n]*\n(.*?)(?=^#|\Z)",
        PAGE.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    assert section, f"docs/architecture.md has no section about {name}/"
    lines = [line.split("|")[1] for line in section[1].splitlines() if line.startswith("| `")]
    return [set(re.findall(r"`([\w/.]+)`", cell)) for cell in lines]


PACKAGES = [path.parent for path in sorted(PACKAGE.rglob("__init__.py"))]


@pytest.mark.parametrize(
    "package", PACKAGES, ids=lambda p: p.relative_to(PACKAGE.parent).as_posix()
)
def test_the_page_names_every_file(package: Path) -> None:
    named = [part for row in rows_of(package) for part in row]
    assert len(named) == len(set(named))
    assert set(named) == parts_of(package)


def imported(path: Path, source: str) -> Iterator[tuple[str, ...]]:
    """Imports that run with the file, as paths in tinygrad182; without those for type checkers."""
    folder = path.relative_to(PACKAGE).parent.parts
    for node in statements(ast.parse(source).body):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((*base, *name.split(".")) for name in names)


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from statements(node.body)
        if isinstance(node, (ast.If, ast.Try)):
            yield from statements(node.orelse)
        if isinstance(node, ast.Try):
            yield from statements(node.body)


def upwards(package: Path, path: Path, source: str) -> set[tuple[str, str]]:
    """Imports of a file from parts of the package that come after its own in the table."""
    place = {
        part.removesuffix(".py").removesuffix("/"): i
        for i, row in enumerate(rows_of(package))
        for part in row
    }
    inside = package.relative_to(PACKAGE).parts
    own = path.relative_to(package).parts[0].removesuffix(".py")
    there = {
        t[len(inside)]
        for t in imported(path, source)
        if t[: len(inside)] == inside and len(t) > len(inside)
    }
    return {(own, other) for other in there if place.get(other, -1) > place[own]}


@pytest.mark.parametrize("package", ORDERED, ids=lambda p: p.name)
def test_imports_run_from_top_to_bottom(package: Path) -> None:
    files = [
        path
        for path in package.rglob("*.py")
        if path.parent != package or path.name != "__init__.py"
    ]
    assert not set().union(
        *(upwards(package, path, path.read_text(encoding="utf-8")) for path in files)
    )


def test_an_import_upwards_is_seen() -> None:
    source = "from ..tensors.tensor import Tensor\nfrom ..arrays import backend"
    assert upwards(PACKAGE, PACKAGE / "engine" / "marks.py", source) == {("engine", "tensors")}


def test_no_module_is_hidden_by_a_public_name() -> None:
    """A function ``tg.name`` beside a file ``name.py``: whichever is imported last would win."""
    for package in PACKAGES:
        folder = package.relative_to(PACKAGE.parent)
        module = importlib.import_module(".".join(folder.parts))
        for name in {path.stem for path in package.iterdir()} & vars(module).keys():
            assert isinstance(getattr(module, name), ModuleType), f"{module.__name__}.{name}"
