"""docs/architecture.md is true: every module has a room, and imports run from top to bottom."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import tinygrad182

PACKAGE = Path(tinygrad182.__file__).parent
TABLE = Path(__file__).parents[1] / "docs" / "architecture.md"


def _floors() -> dict[str, int]:
    """The row of each room, counted from the top."""
    found: dict[str, int] = {}
    for i, line in enumerate(TABLE.read_text(encoding="utf-8").splitlines()):
        if line.startswith("| `"):
            found |= dict.fromkeys(re.findall(r"`(\w+)(?:\.py|/)`", line.split("|")[1]), i)
    return found


def _imported(path: Path, tree: ast.Module) -> Iterator[str]:
    """The rooms that are imported when a file is: not those of type checkers, nor inside functions."""
    folder = path.relative_to(PACKAGE).parent.parts
    for node in _statements(tree.body):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((*base, *name.split("."))[0] for name in names)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from _statements(node.body)
        if isinstance(node, (ast.If, ast.Try)):
            yield from _statements(node.orelse)
        if isinstance(node, ast.Try):
            yield from _statements(node.body)


def test_every_module_has_a_room() -> None:
    rooms = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms - {"__init__"} == _floors().keys() - {"models", "experiments"}


def test_no_module_is_hidden_by_a_public_name() -> None:
    """A function ``tg.name`` beside a file ``name.py``: whichever is imported last would win."""
    for package in PACKAGE.rglob("__init__.py"):
        folder = package.parent.relative_to(PACKAGE.parent)
        module = importlib.import_module(".".join(folder.parts))
        for name in {path.stem for path in package.parent.iterdir()} & vars(module).keys():
            assert isinstance(getattr(module, name), ModuleType), f"{module.__name__}.{name}"


def test_imports_run_from_top_to_bottom() -> None:
    floors = _floors()
    upwards = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in _imported(path, ast.parse(path.read_text(encoding="utf-8"))):
            if other in floors and floors[other] > floors[room]:
                upwards.add((room, other))
    assert not upwards
