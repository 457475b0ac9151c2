"""``diff`` and ``first-anomaly`` on saved traces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tinygrad182 as tg
from tinygrad182.commands import main
from tinygrad182.inspect.graph.traced_anomaly import anomaly_in

Saved = Callable[..., str]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    def save(name: str, scale: float = 1.0, values: bool = True, **options: object) -> str:
        lstm = tg.nn.LSTM(2, 4, num_layers=2, rng=0)
        x = np.random.default_rng(0).normal(size=(8, 1, 2)).astype("float32") * scale
        loss = lstm(tg.tensor(x), **options)[0][-1].sum()
        tg.inspect.trace(loss).save(tmp_path / name, values)
        return str(tmp_path / name)

    return save


def test_diff_prints_what_diff_says(
    saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = saved("a"), saved("b", truncate=5)
    facts = tmp_path / "facts.json"
    assert main(["diff", a, b, "--json", str(facts)]) == 0
    told = capsys.readouterr().out
    found = tg.inspect.diff(a, b)
    assert all(sentence in told for sentence in found.sentences)
    assert str(found.table()) in told
    read = json.loads(facts.read_text())
    assert read["sentences"] == found.sentences
    assert not read["same"]
    assert read["gradients"]["time"] == 4
    assert read["differences"]["gradients"]["lstm.l1"]["h"][4] == 1.0
    assert read["differences"]["gradients"]["lstm.l1"]["h"][5] == 0.0


def test_diff_of_one_file_agrees(saved: Saved, capsys: pytest.CaptureFixture[str]) -> None:
    a = saved("a")
    assert main(["diff", a, a]) == 0
    assert "The gradients are the same to the last bit." in capsys.readouterr().out


def test_diff_writes_a_page(
    saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("vl_convert")
    a, b, page = saved("a"), saved("b", truncate=5), tmp_path / "page.html"
    assert main(["diff", a, b, "--out", str(page)]) == 0
    assert f"page: {page}" in capsys.readouterr().out
    assert "Content-Security-Policy" in page.read_text()


@pytest.mark.parametrize("command", ["diff", "first-anomaly"])
def test_files_that_are_not_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, *["nowhere"] * (1 + (command == "diff"))]) == 2
    assert capsys.readouterr().err.startswith("error: load_trace: there is no file")


# --- first-anomaly --------------------------------------------------------------------------------


def relu_loop(scale: float) -> tg.Tensor:
    rnn = tg.nn.RNN(1, 3, nonlinearity="relu", rng=0)
    rnn.weight_hh_l0.data[...] = scale
    rnn.weight_ih_l0.data[...] = 1.0
    return rnn(tg.ones((9, 1, 1)))[0][-1].sum()


def test_nothing_went_wrong(saved: Saved, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["first-anomaly", saved("a")]) == 0
    assert capsys.readouterr().out.startswith("nothing went wrong")
    assert main(["first-anomaly", saved("b", values=False)]) == 0
    assert "values were not saved" in capsys.readouterr().out


@pytest.mark.parametrize("scale", [1e20, 1e9])
def test_an_overflow_is_found_where_the_graph_has_it(scale: float) -> None:
    graph = tg.inspect.trace(relu_loop(scale))
    with np.errstate(all="ignore"):
        mine, other = anomaly_in(graph.numbers()), tg.inspect.first_anomaly(graph)
    assert mine is not None
    assert other is not None
    assert (mine.phase, mine.kind, mine.op, mine.time, mine.produced) == (
        other.phase, other.kind, other.node.op, other.node.time, other.produced
    )  # fmt: skip


def test_an_underflow_of_gradients_is_found_where_the_graph_has_it() -> None:
    rnn = tg.nn.RNN(1, 3, rng=0)
    rnn.weight_hh_l0.data[...] *= 1e-6
    graph = tg.inspect.trace(rnn(tg.ones((20, 1, 1)))[0][-1].sum())
    mine, other = anomaly_in(graph.numbers()), tg.inspect.first_anomaly(graph)
    assert mine is not None
    assert other is not None
    assert (mine.phase, mine.kind) == (other.phase, other.kind) == ("backward", "underflow")
    # the graph names the operation whose derivative rule lost it, the trace the gradient that is lost
    assert other.node.time is not None
    assert mine.time == other.node.time - (mine.label == "h")


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_comes_in_from_outside(wrong: float) -> None:
    rnn = tg.nn.RNN(1, 3, rng=0)
    x = np.ones((6, 1, 1), "float32")
    x[2] = wrong
    found = anomaly_in(tg.inspect.trace(rnn(tg.tensor(x))[0][-1].sum()).numbers())
    assert found is not None
    if np.isnan(wrong):
        assert (found.kind, found.produced, found.time) == ("nan", False, 2)
    else:
        assert (found.kind, found.produced) in {("inf", False), ("nan", True)}
    rnn.bias_ih_l0.data[1] = np.nan
    found = anomaly_in(tg.inspect.trace(rnn(tg.ones((3, 1, 1)))[0][-1].sum()).numbers())
    assert found is not None
    assert (found.label, found.produced) == ("bias_ih_l0", False)
