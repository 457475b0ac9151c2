"""Packages of experiments/ import only from those below them, and no question imports another."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

import experiments

ROOT = Path(experiments.__file__).parent
ORDER = ["drawing", "app", "regressors", "questions"]
"""From the lowest to the highest."""

FILES = sorted(
    path.relative_to(ROOT) for package in ORDER for path in (ROOT / package).rglob("*.py")
)


def imported(source):
    """Modules of experiments/ that a file imports, as tuples of names: ``("drawing", "charts")``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {tuple(name.split(".")[1:]) for name in names if name.startswith("experiments.")}
    return found


def forbidden(path, source):
    """Imports of a file that go upwards, or to another question."""
    package, name = path.parts[:2]
    below = ORDER[: ORDER.index(package)]
    return {
        module
        for module in imported(source)
        if module[0] not in below
        and (module[0] != package or (package == "questions" and module[1] != name))
    }


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_imports_only_from_below(path):
    assert not forbidden(path, (ROOT / path).read_text())


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("regressors/data.py", "from experiments.questions import skip"),
        ("drawing/charts.py", "def f():\n    from experiments.app.errors import OptionError"),
        ("questions/lstm/words.py", "import experiments.questions.skip.measure"),
        ("questions/lstm/words.py", "from experiments.questions import skip"),
    ],
)
def test_a_forbidden_import_is_found(path, source):
    assert forbidden(Path(path), source)


def test_every_question_has_the_same_files():
    for folder in (ROOT / "questions").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert {"__init__", "measure", "figures", "words"} <= {p.stem for p in folder.iterdir()}


def test_no_function_hides_a_file_of_the_same_name():
    for file in (ROOT / "questions").glob("*/*.py"):
        if file.stem != "__init__":
            question = importlib.import_module(f"experiments.questions.{file.parent.name}")
            assert isinstance(getattr(question, file.stem, ModuleType("")), ModuleType), file
