"""``show``: the terminal shows the numbers of the views at any width, with and without colours."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from models.residual import ResidualNet
from tests.support import Array
from tinygrad182.display.reprs import scientific
from tinygrad182.inspect.graph import terminal

BLOCKS = "▁▂▃▄▅▆▇█"
CODES = re.compile(r"\x1b\[[0-9;]*m")


def shown(loss: tg.Tensor, width: int = 80) -> list[str]:
    graph = tg.inspect.trace(loss)
    try:
        flow = tg.inspect.gradient_flow(loss)
    except tg.GraphError:
        flow = None
    return terminal.text(terminal.described(graph, flow, width)).splitlines()


@dataclass
class States:
    """The data that a block is drawn from."""

    log10_grad_norm: Array
    value_norm: Array

    def __post_init__(self) -> None:
        self.time = np.arange(len(self.value_norm))


def block(logs: Any, values: Any = None, width: int = 60) -> list[str]:
    logs = np.array(logs, float)
    values = np.ones(len(logs)) if values is None else np.array(values, float)
    return terminal.text(terminal.over_time({"h": States(logs, values)}, width)).splitlines()


def spark(line: str) -> str:
    return re.findall(rf"[{BLOCKS}0N∞]+(?= \S+$)", line)[-1]


# --- sparklines ---------------------------------------------------------------------------------


number = st.floats(-400, 400) | st.sampled_from([-math.inf, math.inf, math.nan])


@given(logs=st.lists(number, min_size=1, max_size=40), every=st.integers(1, 7))
def test_a_character_is_the_smallest_of_its_steps(logs: list[float], every: int) -> None:
    low, high = terminal.scale_of([np.array(logs)])
    pieces = terminal.sparkline(np.array(logs), every, low, high)
    found = "".join(piece for piece, _ in pieces)
    for i, character in enumerate(found):
        some = logs[i * every : (i + 1) * every]
        if any(map(math.isnan, some)):
            assert character == "N"
        elif math.inf in some:
            assert character == "∞"
        elif -math.inf in some:
            assert character == "0"
        else:
            eighth = (min(some) - low) / (high - low) * 8
            assert character in BLOCKS[max(math.floor(eighth - 1e-9), 0) :][:2]
    assert len(found) == math.ceil(len(logs) / every)


def test_a_dip_of_one_step_in_ten_thousand_is_seen() -> None:
    logs = np.zeros(10_000)
    logs[7_321] = -30
    lines = block(logs)
    (steps,) = re.findall(r"the smallest of (\d+)$", " ".join(lines).split(" steps")[0])
    assert spark(lines[0]).index("▁") == 7_321 // int(steps)
    assert spark(lines[0]).count("█") == len(spark(lines[0])) - 1
    assert "‖∂L/∂h_t‖ is smallest at t = 7321: 1.0e-30" in lines


def test_a_scale_is_printed_and_covers_at_least_a_decade() -> None:
    lines = block([-400.0, -200.0, 0.5], [1.0, 1.1, 1.2])
    assert lines[0].split() == ["‖∂L/∂h_t‖", "1.0e-400", "▁▄█", "3.2e+00"]
    assert "gradients: ▁ 1.0e-400 to █ 3.2e+00, 400.5 decades" in lines
    assert "values: ▁ 1.2e-01 to █ 1.2e+00, 1 decade" in lines
    assert spark(lines[1]) == "███"
    assert not any("smallest" in line for line in [*lines, *block([0.0, -1.0, -3.0])])


def test_values_that_are_not_numbers_have_marks_that_are_explained() -> None:
    lines = block([-math.inf, -math.inf, 0.0, math.nan, math.inf, 1.0], [0, 1, 1, 1, 1, math.inf])
    assert lines[0].split()[1:] == ["0", "00▁N∞█", "1.0e+01"]
    assert lines[1].split()[1:] == ["0", "0████∞", "∞"]
    legend = [line for line in lines if line[0] in "0N∞"]
    assert legend == [
        "0: ‖∂L/∂h_t‖ is exactly 0 at 2 steps, t = 0 … 1",
        "0: ‖h_t‖ is exactly 0 at 1 step, t = 0",
        "N: ‖∂L/∂h_t‖ is NaN at 1 step, t = 3",
        "∞: ‖∂L/∂h_t‖ is infinite at 1 step, t = 4",
        "∞: ‖h_t‖ is infinite at 1 step, t = 5",
    ]
    assert not any(line[0] in "0N∞" for line in block([0.0, 1.0]))


def test_a_block_without_any_number() -> None:
    assert spark(block([-math.inf] * 3)[0]) == "000"
    assert spark(block([math.nan] * 3)[0]) == "NNN"


@given(st.floats(-3000, 3000), st.integers(0, 4))
def test_a_magnitude_is_written_with_any_exponent(log10: float, digits: int) -> None:
    mantissa, exponent = scientific(log10, digits).split("e")
    assert 1 <= float(mantissa) < 10
    assert len(mantissa) == digits + 1 + (digits > 0)
    assert abs(math.log10(float(mantissa)) + int(exponent) - log10) < 0.23 * 10.0**-digits
    if abs(log10) < 300:
        assert float(scientific(log10, digits)) == pytest.approx(
            10**log10, rel=0.51 * 10.0**-digits
        )


# --- the tree -----------------------------------------------------------------------------------


class Model(tg.nn.Module):
    def __init__(self, **options: Any) -> None:
        width = 3 * (1 + options.get("bidirectional", False))
        self.rnn = tg.nn.LSTM(1, 3, rng=0, dtype="float64", **options)
        self.head = tg.nn.Linear(width, 1, rng=1, dtype="float64")

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        return self.head(self.rnn(x)[0])


def loss_of(model: tg.nn.Module, T: int) -> tg.Tensor:
    x = np.random.default_rng(0).normal(size=(T, 2, 1))
    return tg.square(model(tg.tensor(x))[-1]).sum()


def own_loop(T: int) -> tg.Tensor:
    w = tg.tensor(0.1 * np.eye(2), requires_grad=True)
    h = tg.zeros((1, 2), dtype="float64")
    for t in range(T):
        h = tg.inspect.mark(tg.tanh(h @ w + 1.0), "h", time=t)
    return h.sum()


def feed_forward() -> tg.Tensor:
    return tg.tanh(tg.nn.Linear(3, 2, rng=0)(tg.ones((4, 3)))).sum()


LOSSES = {
    "LSTM": lambda: loss_of(Model(), 1000),
    "two layers": lambda: loss_of(Model(num_layers=2), 30),
    "bidirectional": lambda: loss_of(Model(bidirectional=True), 30),
    "step by step": lambda: loss_of(Model(fused=False), 5),
    "residual": lambda: ResidualNet(2, 4, depth=30, rng=0)(tg.ones((3, 2))).sum(),
    "own loop": lambda: own_loop(60),
    "feed-forward": feed_forward,
}


def number_at(lines: list[str], start: str) -> float:
    (line,) = [line for line in lines if line.lstrip("│├└─ ").startswith(start)]
    return float(line.split()[-1])


@pytest.mark.parametrize("case", LOSSES)
def test_no_line_is_wider_than_the_terminal(case: str) -> None:
    loss = LOSSES[case]()
    for width in (60, 80, 120):
        lines = shown(loss, width)
        assert max(map(len, lines)) <= width
        assert len(lines) < 60
        assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}])
def test_a_recurrent_model(options: dict[str, Any]) -> None:
    model = Model(**options)
    loss = loss_of(model, 300)
    lines = shown(loss)
    flow = tg.inspect.gradient_flow(loss, backward=True)
    paths = [line.strip("│├└─ ") for line in lines]
    for path, stack in flow.items():
        i = paths.index(path)
        assert paths[i + 1].startswith("lstm_scan, index")
        for row, (name, norms) in zip(
            paths[i + 2 :],
            [(f"‖∂L/∂{n}_t‖", s.log10_grad_norm) for n, s in stack.items()]
            + [(f"‖{n}_t‖", np.log10(s.value_norm)) for n, s in stack.items()],
            strict=False,
        ):
            label, first, _, last = row.split()
            ends = ["0" if x == -math.inf else scientific(x) for x in norms[[0, -1]].tolist()]
            assert (label, first, last) == (name, *ends)
    for name, p in model.named_parameters():
        prefix, _, short = name.rpartition(".")
        below = paths[paths.index(prefix) :]
        row = next(line for line in below if line.startswith(f"{short} "))
        assert row.split()[1:-1] == " × ".join(map(str, p.shape)).split()
        norm = np.linalg.norm(p.grad.numpy())
        assert row.split()[-1] == (f"{norm:.1e}" if norm else "0")


def test_a_gradient_beyond_float64() -> None:
    loss = own_loop(500)
    (row,) = [line for line in shown(loss) if "∂L/∂h_t" in line]
    first = row.split()[1]
    log10 = tg.inspect.gradient_flow(loss)[""].h.log10_grad_norm[0]
    assert log10 < -500
    assert first == scientific(log10)


def test_operations_are_counted_beside_recurrences() -> None:
    loss = loss_of(Model(), 300)
    add = tg.inspect.trace(loss).select(op="add", module="head")[-1]
    row = next(line for line in shown(loss) if "permute_dims, matmul, add → 300 × 2 × 1" in line)
    assert row.split()[-1] == f"{np.linalg.norm(add.grad):.1e}"
    assert "├─ matmul ×60, add ×60, sum → scalar" in shown(own_loop(60))[2]
    assert "└─ 60 steps: tanh 'h' ×60" in shown(own_loop(60))[3]
    residual = shown(ResidualNet(2, 4, depth=30, rng=0)(tg.ones((3, 2))).sum())
    assert any("30 steps: add 'h' ×30" in line for line in residual)
    lines = shown(loss_of(Model(fused=False), 5))
    (row,) = [line for line in lines if " steps: " in line]
    assert "5 steps: matmul ×5, index ×25, add ×" in row


def test_a_graph_without_a_recurrence_shows_every_operation() -> None:
    loss = feed_forward()
    lines, graph = shown(loss), tg.inspect.trace(loss)
    assert not any("t = " in line for line in lines)
    for node in graph:
        if node.op != "leaf":
            found = number_at(lines, f"{node.op} ")
            assert found == pytest.approx(np.linalg.norm(node.grad), rel=0.06)


def test_what_is_too_much_is_counted() -> None:
    lines = shown(ResidualNet(2, 4, depth=30, rng=0)(tg.ones((3, 2))).sum())
    assert any("… 26 more modules" in line for line in lines)
    assert any(line.endswith("─ blocks.29") for line in lines)
    assert not any(line.endswith("─ blocks.15") for line in lines)
    w = tg.ones(2, requires_grad=True)
    many = w
    for _ in range(1000):
        many = many * 1.0
    lines = shown(many.sum())
    assert any("… 991 more operations" in line for line in lines)


def test_modules_in_modules_in_modules() -> None:
    class Nested(tg.nn.Module):
        def __init__(self, depth: int) -> None:
            self.i = Nested(depth - 1) if depth else tg.nn.Linear(2, 2, rng=0)

        def forward(self, x: tg.Tensor) -> tg.Tensor:
            return self.i(x)

    lines = shown(Nested(100)(tg.ones((1, 2))).sum())
    assert max(map(len, lines)) <= 80
    assert any("matmul" in line for line in lines)


# --- where it is printed ------------------------------------------------------------------------


def printed(capsys: pytest.CaptureFixture[str], loss: tg.Tensor, width: int | None = None) -> str:
    terminal.show(tg.inspect.trace(loss), tg.inspect.gradient_flow(loss), width)
    return capsys.readouterr().out


@pytest.fixture
def _piped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "COLUMNS", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_piped")
def test_piped_it_is_plain_and_80_wide(capsys: pytest.CaptureFixture[str]) -> None:
    loss = loss_of(Model(), 300)
    text = printed(capsys, loss)
    assert text.rstrip("\n").splitlines() == shown(loss, 80)
    assert "\x1b" not in text


@pytest.mark.usefixtures("_piped")
def test_without_rich_it_is_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = loss_of(Model(), 300)
    for width in (None, 100):
        monkeypatch.undo()
        expected = printed(capsys, loss, width)
        monkeypatch.setitem(sys.modules, "rich.console", None)
        assert printed(capsys, loss, width) == expected


def test_colours_add_nothing_to_the_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    loss = loss_of(Model(), 300)
    text = printed(capsys, loss, 80)
    assert "\x1b[" in text
    assert CODES.sub("", text).rstrip("\n").splitlines() == shown(loss, 80)


def test_colours_are_those_of_magnitudes() -> None:
    logs = np.array([-8.0, -6.0, -4.0, -2.0, 0.0, -math.inf, math.nan])
    lines = terminal.over_time({"h": States(logs, np.ones(7))}, 60)
    assert lines[0][1:-1] == [
        ("▁", "red"),
        ("▃", "magenta"),
        ("▅", "cyan"),
        ("▇█", "green"),
        ("0", ""),
        ("N", "bold reverse"),
    ]
    assert {style for _, style in lines[1]} == {""}


@pytest.mark.parametrize("width", ["a", 0, 60.5])
def test_a_width_that_is_not_one(width: Any) -> None:
    graph = tg.inspect.trace(tg.nn.RNN(1, 2, rng=0)(tg.ones((3, 1, 1)))[0].sum())
    with pytest.raises(tg.ArgumentError, match=r"show: width .* whole number"):
        graph.show(width=width)
