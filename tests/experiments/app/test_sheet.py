"""The page of all questions: every one, its answer folded away, or left out."""

import dataclasses
import json
import re

import pytest

from experiments.app import command_line
from experiments.app.catalogue import CATALOGUE, lettered, load
from experiments.app.run_folder import Question, publish_sheet, staged
from tests.experiments.app.test_run_folder import a_chart, a_run
from tinygrad182.display.pages import prose

ASKED = lettered()


def test_every_letter_is_that_of_one_question_with_something_to_predict():
    letters = [load(name).letter for name in ASKED]
    assert len(set(letters)) == len(letters) > 1
    assert all(load(name).predict for name in ASKED)


def test_the_help_names_the_questions_that_it_leaves_out(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["all", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert {name for name in CATALOGUE if name in said.split("all but")[1].split(".")[0]} == (
        CATALOGUE.keys() - set(ASKED)
    )


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "all"
    run = a_run(a_chart())
    tables = [dataclasses.replace(table, printed=True) for table in run.result.tables]
    run = dataclasses.replace(run, result=dataclasses.replace(run.result, tables=tables))
    with staged(folder) as stage:
        publish_sheet([run], [run], stage, folder, replace=True)
    with staged(folder) as stage:  # again, into the folder that is there
        publish_sheet([run], [run], stage, folder, replace=True)
    return folder


def test_the_answer_is_folded_away_behind_the_question(sheet):
    page = (sheet / "report.html").read_text()
    question, answer = re.search(r"<section.*?</section>", page, re.S)[0].split("<details>", 1)
    for words in ("Q9", "Is it?", "Will it?"):
        assert words in question
    for words in ("It is 1e-60", "Verdicts", "does not hold", "toy/report.html"):
        assert words.replace("-", "\N{NON-BREAKING HYPHEN}") in answer or words in answer
        assert words not in question
    assert 'id="chart-0"' in answer
    assert answer.index("<figure") < answer.index("<table")
    assert len(re.findall(r"id=.chart-", page)) == 1
    assert not re.search(r"(src|href)=.http", page)


def test_each_run_has_its_own_folder_beside_the_page(sheet):
    files = {str(path.relative_to(sheet)) for path in sheet.rglob("*") if path.is_file()}
    assert {"report.html", "results.json", "toy/report.html", "toy/results.json"} <= files
    assert json.loads((sheet / "results.json").read_text())["toy"]["headline"] == "It is 1e-60."


def test_without_answers_nothing_is_run_written_or_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command_line, "run_one", None)
    assert command_line.main(["all", "--no-answers", "--out", str(tmp_path / "quiz")]) == 0
    assert [path.name for path in (tmp_path / "quiz").iterdir()] == ["report.html"]
    page = (tmp_path / "quiz" / "report.html").read_text()
    for name in ASKED:
        assert prose(load(name).predict) in page
    for secret in ("<details", 'class="holds', "<script", "Verdicts"):
        assert secret not in page
    assert "holds" not in capsys.readouterr().out


def test_questions_and_their_length_can_be_chosen(tmp_path, monkeypatch):
    asked = {}

    def run(name, experiment, options, err):
        asked[name] = options
        return dataclasses.replace(a_run(a_chart()), name=name)

    monkeypatch.setattr(command_line, "run_one", run)
    chosen = ["all", "--questions", "sensitivity", "target", "beam-cost", "--length", "7"]
    assert command_line.main([*chosen, "--seed", "3", "--out", str(tmp_path / "some")]) == 0
    assert list(asked) == ["sensitivity", "target", "beam-cost"]
    assert asked["target"].length == 7
    assert asked["beam-cost"].length == load("beam-cost").options().length  # it compares several
    assert {options.seed for options in asked.values()} == {3}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--questions", "lst"], "no experiment 'lst'. Did you mean lstm?"),
        (["--length", "2"], "--length must be 3 or more"),
        (["--questions", "LSTM"], "no experiment 'LSTM'. Did you mean lstm?"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_before_any_runs(
    arguments, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(command_line, "run_one", None)
    assert command_line.main(["all", *arguments, "--out", str(tmp_path / "none")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "arguments", [["--questions"], ["--questions", "beam-cost", "--length", "0"]]
)
def test_no_question_and_no_step_is_refused(arguments, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "run_one", None)
    with pytest.raises(SystemExit):
        command_line.main(["all", *arguments])
    assert f"{arguments[-2 if '0' in arguments else 0]} " in capsys.readouterr().err


def test_the_page_shows_the_pictures_that_its_questions_ask_about(tmp_path):
    """An experiment names its pictures; otherwise the first two are shown."""
    drawn = [dataclasses.replace(figure, name=name) for name in "abc" for figure in a_figure()]
    run = a_run(a_chart())
    run = dataclasses.replace(run, result=dataclasses.replace(run.result, figures=drawn))
    assert [figure.name for figure in run.answer] == ["a", "b"]
    asked = dataclasses.replace(run, pictures=("c", "a"))
    assert [figure.name for figure in asked.answer] == ["a", "c"]


def a_figure():
    return a_run(a_chart()).result.figures


@pytest.mark.parametrize(
    ("name", "words", "picture"),
    [
        ("beam-tree", "beam of 2", "beam_2"),
        ("beam-cost", "vocabulary is 100 times as large", "over_vocabulary"),
        ("nonlinearity", "halve all inputs", "input_size"),
        ("lstm", "8 times as large", "slopes"),
    ],
)
def test_what_is_predicted_is_drawn(name, words, picture):
    experiment = load(name)
    assert words in experiment.predict
    assert picture in (experiment.pictures or ("gradient_flow", "slopes"))


def test_a_question_needs_no_run():
    assert Question("toy", "Is it?").predict == ""
