"""The page of all questions: every one, its answer folded away, or left out."""

import json
import re

import pytest

from experiments.catalogue import CATALOGUE, load
from experiments.common import cli
from experiments.common.run_folder import Question, publish_sheet, staged
from tests.experiments.test_run_folder import a_chart, a_run

ASKED = [name for name in CATALOGUE if load(name).letter]


def test_every_question_of_the_course_has_an_experiment():
    letters = [load(name).letter for name in ASKED]
    assert letters == ["Q1-intro", "Q1a", "Q1b", "Q1c", "Q1d", "Q1e", "Q1f", "Q2a–d", "Q2e", "S3"]
    assert all(load(name).predict for name in ASKED)


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "all"
    run = a_run(a_chart())
    with staged(folder) as stage:
        publish_sheet([run], [run], stage, folder, replace=True)
    with staged(folder) as stage:  # again, into the folder that is there
        publish_sheet([run], [run], stage, folder, replace=True)
    return folder


def test_the_answer_is_folded_away_behind_the_question(sheet):
    page = (sheet / "report.html").read_text()
    question, answer = re.search(r"<section.*?</section>", page, re.S)[0].split("<details>")
    for words in ("Q9", "Is it?", "Will it?"):
        assert words in question
    for words in ("It is 1e-60", "Verdicts", "does not hold", "toy/report.html"):
        assert words.replace("-", "\N{NON-BREAKING HYPHEN}") in answer or words in answer
        assert words not in question
    assert 'id="chart-0"' in answer
    assert len(re.findall(r"id=.chart-", page)) == 1
    assert not re.search(r"(src|href)=.http", page)


def test_each_run_has_its_own_folder_beside_the_page(sheet):
    files = {str(path.relative_to(sheet)) for path in sheet.rglob("*") if path.is_file()}
    assert {"report.html", "results.json", "toy/report.html", "toy/results.json"} <= files
    assert json.loads((sheet / "results.json").read_text())["toy"]["headline"] == "It is 1e-60."


def test_without_answers_nothing_is_run_written_or_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "run_one", None)
    assert cli.main(["all", "--no-answers", "--out", str(tmp_path / "quiz")]) == 0
    assert [path.name for path in (tmp_path / "quiz").iterdir()] == ["report.html"]
    page = (tmp_path / "quiz" / "report.html").read_text()
    for name in ASKED:
        assert load(name).predict.split(".")[0].split("'")[0] in page
    for secret in ("<details", 'class="holds', "<script", "Verdicts"):
        assert secret not in page
    assert "holds" not in capsys.readouterr().out


def test_a_question_needs_no_run():
    assert Question("toy", "Is it?").predict == ""
