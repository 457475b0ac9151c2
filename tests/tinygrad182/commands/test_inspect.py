"""``inspect``: from a checkpoint and a CSV file to a page, a table and JSON, in one command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import needs_torch
from tests.tinygrad182 import torch_files
from tinygrad182.commands import main

T, ROWS = 7, np.random.default_rng(3).normal(size=(7, 2)).round(3)


class Net(tg.nn.Module):
    """Two layers with a head, and an array that no layer knows."""

    def __init__(self, cell: Any = tg.nn.LSTM, **options: Any) -> None:
        self.rnn = cell(2, 4, 2, dtype="float64", rng=0, **options)
        self.head = tg.nn.Linear(4, 1, dtype="float64", rng=1)
        self.scale = tg.nn.Parameter(np.ones(2))

    def forward(self, x: Any) -> tg.Tensor:
        return self.head(self.rnn(x)[0])


def write_series(folder: Path) -> Path:
    lines = [
        "day,wind,sun",
        *(f"2026-01-{t + 1:02},{a},{b}" for t, (a, b) in enumerate(ROWS.tolist())),
    ]
    (folder / "series.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "series.csv"


def found_in(folder: Path) -> tuple[dict[str, Any], dict[tuple[str, str], list[list[float]]]]:
    """The JSON, and the columns behind t of the table, by path and state."""
    record = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    table: dict[tuple[str, str], list[list[float]]] = {}
    with (folder / "table.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            numbers = [float(row[name]) for name in ("value_norm", "grad_norm", "log10_grad_norm")]
            rows = table.setdefault((row["path"], row["state"]), [])
            assert len(rows) == int(row["t"])
            rows.append(numbers)
    return record, table


def leave_undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tg.inspect.Microscope, "page", lambda _: "undrawn")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their charts, which take the most time, in tests that do not look at them."""
    leave_undrawn(monkeypatch)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_one_command(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    if kind == "safetensors":
        request.getfixturevalue("undrawn")
    net, path, out = Net(), tmp_path / f"model.{kind}", tmp_path / "new" / "out"
    if kind == "pt":
        torch_files.write(
            path, {name: v.numpy() for name, v in net.state_dict().items()}, "state_dict"
        )
    else:
        tg.save(path, net)
    target = ["--target", "all"] if kind == "pt" else []
    files = [str(path), "--data", str(write_series(tmp_path)), "--out", str(out)]
    assert main(["inspect", *files, "--cell", "lstm", *target]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["page.html", "results.json", "table.csv"]

    output = net(tg.tensor(ROWS[:, None]))
    loss = output.sum() if target else output[-1].sum()
    record, table = found_in(out)
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-12)
    flow = tg.inspect.gradient_flow(loss)
    assert {path for path, _ in table} == set(flow)
    for (where, name), rows in table.items():
        state = flow[where][name]
        expected = np.stack([state.value_norm, state.grad_norm, state.log10_grad_norm], axis=1)
        np.testing.assert_allclose(rows, expected, rtol=1e-12)
        assert record["norms"][where][name]["log10_grad_norm"] == [row[2] for row in rows]
    assert record["modules"] == {"rnn": "LSTM(2, 4, num_layers=2)", "head": "Linear(4, 1)"}
    assert record["unused"] == {"scale": [2]}
    assert record["data"]["columns"] == ["wind", "sun"]
    assert record["sentences"]

    told = capsys.readouterr().out
    assert "rnn is LSTM(2, 4, num_layers=2), head is Linear(4, 1)." in told
    assert "Keys that are not used: scale (2,)." in told
    assert "Column 'day' is not numeric and was left out." in told
    assert f"page: {out / 'page.html'}" in told
    assert record["sentences"][0] in told
    page = (out / "page.html").read_text(encoding="utf-8")
    assert (page == "undrawn") == (kind == "safetensors")
    assert kind == "safetensors" or ("LSTM 2 → 4" in page and "rnn.l1" in page)


def test_numbers_are_those_of_pytorch(tmp_path: Path) -> None:
    """States of PyTorch's own modules, stepped by hand so that each has a gradient."""
    torch = needs_torch()

    class Theirs(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(2, 4, num_layers=2)
            self.head = torch.nn.Linear(4, 1)

    torch.manual_seed(0)
    net = Theirs().double()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "net.pt"), "--data", str(write_series(tmp_path)), "--out", str(out)]
    assert main(["inspect", *arguments]) == 0
    states: dict[tuple[str, str], list[Any]] = {}
    inputs = list(torch.tensor(ROWS[:, None]))
    for k in range(2):
        cell = torch.nn.LSTMCell(2 if not k else 4, 4).double()
        cell.load_state_dict(
            {name: getattr(net.lstm, f"{name}_l{k}") for name in dict(cell.named_parameters())}
        )
        h = c = torch.zeros(1, 4, dtype=torch.float64)
        for t, x in enumerate(inputs):
            h, c = cell(x, (h, c))
            for name, state in (("h", h), ("c", c)):
                state.retain_grad()
                states.setdefault((f"lstm.l{k}", name), []).append(state)
            inputs[t] = h
    net.head(inputs[-1]).sum().backward()
    _, table = found_in(out)
    assert table.keys() == states.keys()
    for where, every in states.items():
        grads = [0.0 if s.grad is None else s.grad.norm().item() for s in every]
        expected = np.stack([[s.detach().norm().item() for s in every], grads], axis=1)
        np.testing.assert_allclose(np.array(table[where])[:, :2], expected, rtol=1e-9)


def test_errors_are_a_line_and_leave_no_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tg.save("model", Net())
    tg.save("linear", tg.nn.Linear(1, 1))
    write_series(tmp_path)
    Path("wide.csv").write_text("a,b,c\n1,2,3\n", encoding="utf-8")
    Path("huge.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    tg.save("half", Net().half())
    Path("huge.csv").write_text("a,b\n1,1e9\n", encoding="utf-8")
    cases = [
        (["missing", "series.csv"], "there is no file"),
        (["linear", "series.csv"], "there is no recurrent layer"),
        (["model", "missing.csv"], "data: cannot read"),
        (["series.csv", "series.csv"], "is damaged, or not a safetensors file"),
        (
            ["model", "wide.csv"],
            "reads I = 2 numbers a step; wide.csv has 3: 'a', 'b', 'c'; choose with",
        ),
        (["model", "series.csv", "--columns", "sun"], "has 1: 'sun'; add the missing columns"),
        (["model", "series.csv", "--cell", "gru"], "cell is 'gru'"),
        (["model", "series.csv", "--steps", "99"], "99"),
        (["half", "huge.csv"], "has numbers too large for float16"),
        (["model", "series.csv", "--out", "model/x"], "inspect: "),
    ]
    before = sorted(tmp_path.iterdir())
    for (checkpoint, data, *rest), message in cases:
        if "--out" in rest:  # the last case, which goes wrong after the drawing
            leave_undrawn(monkeypatch)
        assert main(["inspect", checkpoint, "--data", data, *rest]) == 2, message
        told = capsys.readouterr()
        assert message in told.err
        assert told.err.count("\n") == 1
        assert not told.out
        assert sorted(tmp_path.iterdir()) == before


STEER = "<b>\x1b[31m</script>\x9b"
"""Dangerous text in a name."""


@pytest.mark.usefixtures("undrawn")
def test_names_of_other_people_are_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names in a state dict and of columns are printed in a table and a terminal."""
    state = tg.nn.RNN(1, 1, rng=0).state_dict()
    arrays = {f"{STEER}.{name}": value.numpy() for name, value in state.items()}
    torch_files.write(tmp_path / "f", {**arrays, f"{STEER}\n": np.ones(2)})
    (tmp_path / "f.csv").write_text(f"{STEER},b\nx,1\ny,2\n", encoding="utf-8")
    assert (
        main(
            [
                "inspect",
                str(tmp_path / "f"),
                "--data",
                str(tmp_path / "f.csv"),
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    told = capsys.readouterr().out
    table = (tmp_path / "table.csv").read_text(encoding="utf-8")
    for text in (told, table):
        assert text.replace("\n", "").isprintable()
        assert "<b>\\x1b[31m</script>\\x9b" in text


@pytest.mark.usefixtures("undrawn")
def test_a_linear_layer_in_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [tg.nn.Linear(2, 3, rng=0), tg.nn.LSTM(3, 4, rng=1), tg.nn.Linear(4, 1, rng=2)]
    state = tg.nn.ModuleDict(dict(zip(("a", "b", "c"), parts, strict=True))).state_dict()
    torch_files.write(tmp_path / "f", {name: value.numpy() for name, value in state.items()})
    arguments = [str(tmp_path / "f"), "--data", str(write_series(tmp_path)), "--out", str(tmp_path)]
    assert main(["inspect", *arguments]) == 0
    x = tg.tensor(ROWS[:, None], dtype="float32")
    expected = parts[2](parts[1](parts[0](x))[0])[-1].sum()
    assert found_in(tmp_path)[0]["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert "a is taken for the linear layer before" in capsys.readouterr().out
    assert main(["inspect", *arguments, "--front", "none"]) == 2
    assert "reads I = 3 numbers a step" in (told := capsys.readouterr().err)
    assert "a reads 2 and is not used; if it comes first, add --front a" in told


@pytest.mark.usefixtures("undrawn")
def test_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole numbers in one column go through the table of tokens that the checkpoint has."""
    table, gru = tg.nn.Embedding(5, 3, rng=0), tg.nn.GRU(3, 4, rng=1)
    tg.save(tmp_path / "f", tg.nn.ModuleDict({"table": table, "gru": gru}))
    (tmp_path / "tokens.csv").write_text("token\n4\n0\n2\n", encoding="utf-8")
    arguments = [str(tmp_path / "f"), "--data", str(tmp_path / "tokens.csv")]
    assert main(["inspect", *arguments, "--out", str(tmp_path / "out")]) == 0
    record, _ = found_in(tmp_path / "out")
    expected = gru(table(tg.tensor([[4], [0], [2]], dtype="int64")))[0][-1].sum()
    assert record["loss"] == pytest.approx(expected.item(), rel=1e-6)
    told = capsys.readouterr().out
    assert "The data are 3 steps, of 1 number each: 'token'." in told
    assert "not tokens" not in told
    (tmp_path / "numbers.csv").write_text("a,b,c\n1,2,3\n4,5,6\n", encoding="utf-8")
    arguments[-1] = str(tmp_path / "numbers.csv")
    assert main(["inspect", *arguments, "--out", str(tmp_path / "out")]) == 0
    assert "The embedding is not used, for the data are not tokens." in capsys.readouterr().out
    arguments[-1] = str(tmp_path / "tokens.csv")
    (tmp_path / "tokens.csv").write_text("token\n4.5\n0\n", encoding="utf-8")
    assert main(["inspect", *arguments]) == 2
    assert "reads I = 3 numbers a step, or one column of tokens" in capsys.readouterr().err
