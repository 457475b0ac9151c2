"""The notebooks: a short one for every question of the tutorial, stored clean, true when it is run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_there_is_a_quickstart_and_one_notebook_for_each_question() -> None:
    tutorial = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    questions = re.findall(r"^## (\d+)\.", tutorial, flags=re.M)
    assert [path.stem.split("-")[0] for path in NOTEBOOKS] == ["0", *questions]


@every_notebook
def test_a_notebook_is_stored_without_what_a_run_leaves(path: Path) -> None:
    """So that a change shows as what was changed."""
    for i, cell in enumerate(cells(path)):
        assert cell["id"] == f"{path.stem.split('-')[0]}-{i}"
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@every_notebook
def test_a_notebook_asks_measures_answers_and_checks_its_answer(path: Path) -> None:
    parts = cells(path)
    assert len(parts) <= 12
    question = source(parts[0]).splitlines()[0]
    assert question.startswith("# ")
    assert question.endswith("?")
    *_, answer, check = parts
    assert source(answer).startswith("**Answer.** ")
    assert all(line.startswith(("assert ", "    ")) for line in source(check).splitlines())
    assert "assert" not in "".join(source(cell) for cell in parts[:-1])
    assert not re.search(r"from (models|experiments)", "".join(map(source, parts)))


@every_notebook
def test_a_notebook_runs_and_its_answer_is_what_it_measures(path: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="pip install 'tinygrad182[notebooks]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install 'tinygrad182[notebooks]'")
    pytest.importorskip("ipykernel", reason="pip install 'tinygrad182[notebooks]'")
    pytest.importorskip("vl_convert", reason="pip install 'tinygrad182[notebooks]'")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=place).execute()
    shown = [
        output["data"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "data" in output
    ]
    pictures = [data["text/html"] for data in shown if "text/html" in data]
    assert any("<svg" in picture or "image/svg" in picture for picture in pictures)
