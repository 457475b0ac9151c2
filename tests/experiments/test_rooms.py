"""Imports between the rooms of experiments/ run one way: question, its package, regression, common."""

import ast
from pathlib import Path

import pytest

import experiments

ROOT = Path(experiments.__file__).parent
BESIDE = {"benchmarks"}
"""Programs of their own."""

RUNS_EVERYTHING = {"common/cli.py"}
"""Loads what the catalogue lists."""


def rooms_imported(source):
    """Names that follow ``experiments.`` in the imports of a file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("experiments.")}
    return found


def allowed(room):
    """Rooms that a file of ``room`` may import from."""
    order = ["common", "regression", room]
    return set(order[: order.index(room) + 1])


PACKAGED = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.glob("*/*.py")
    if path.parent.name not in BESIDE
)


@pytest.mark.parametrize("path", PACKAGED)
def test_imports_run_one_way(path):
    extra = {"catalogue"} if path in RUNS_EVERYTHING else set()
    assert rooms_imported((ROOT / path).read_text()) <= allowed(path.split("/")[0]) | extra


def test_an_import_the_other_way_is_seen():
    assert rooms_imported("from experiments import flow") - allowed("regression") == {"flow"}
    assert rooms_imported("import experiments.questions.skip.figures") - allowed("cells") == {
        "skips"
    }
    assert rooms_imported("def f():\n    from experiments.app.command_line import main") == {
        "common"
    }
