"""beam-tree: the source's answers, and that its claims can fail."""

import json

import pytest

from experiments.app.command_line import main
from experiments.questions import beam_tree
from experiments.questions.beam_tree import tree


def result(**options):
    class Progress:
        def add_task(self, *_, **__):
            return 0

        def advance(self, *_):
            pass

    return beam_tree.run(beam_tree.BeamTreeOptions(**options), Progress())


def test_all_claims_hold_and_the_table_is_the_sources():
    found = result()
    assert all(claim.holds for claim in found.claims)
    rows = {row["width"]: row for row in found.tables[0].rows}
    assert {K: row["found"] for K, row in rows.items()} == {
        1: "neural network network",
        2: "neural network network",
        3: "neural neural neural",
    }
    assert {K: row["dropped"] for K, row in rows.items()} == {1: 2, 2: 2, 3: None}
    assert rows[2]["gap"] == pytest.approx(0.40)
    assert rows[2]["missed"] == pytest.approx(0.39)
    assert [row["certified"] for row in rows.values()] == [False, False, True]
    assert len(found.figures) == 4


@pytest.mark.parametrize(
    ("prefix", "values", "word"),
    [
        ((), (-0.7, -0.6), "1 word "),
        ((0,), (-0.6, -0.8), "2 words "),
        ((0, 0), (-0.6, -0.6), "most"),
    ],
)
def test_another_tree_is_refuted(monkeypatch, prefix, values, word):
    monkeypatch.setitem(tree.TREE, prefix, values)
    failed = [claim.statement for claim in result().claims if not claim.holds]
    assert any(word in statement for statement in failed)


def test_the_command_writes_a_page_with_every_width(tmp_path, capsys):
    assert main(["beam-tree", "--beam-width", "2", "--out", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "K = 2 returns" in page
    assert (tmp_path / "run" / "beam_2.png").stat().st_size > 5000
    assert json.loads((tmp_path / "run" / "results.json").read_text())
    assert "optimum dropped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["beam-tree", "--beam-width", "0"], "--beam-width must be 1 or more"),
    ],
)
def test_options_are_checked(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
