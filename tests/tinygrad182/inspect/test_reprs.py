"""The text of a result at a prompt: a few lines with shapes and key numbers, without whole arrays."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tinygrad182.inspect.graph.selection import Nodes

MOST_LINES, WIDEST = 30, 160
inspect, schedules = tg.inspect, tg.optim.lr_scheduler


def loss_of(T: int = 50, H: int = 8, layer: type[Any] = tg.nn.LSTM, **options: Any) -> tg.Tensor:
    return layer(3, H, rng=0, **options)(tg.ones((T, 4, 3)))[0][-1].sum()


def an_edge() -> inspect.Edge:
    return inspect.trace(loss_of(H=64)).select(name="h", time=3)[0].edges[0]


def points() -> inspect.FixedPoints:
    return inspect.fixed_points(tg.nn.LSTM(3, 8, rng=0), x=np.ones(3))


def an_anomaly() -> Any:
    x = tg.tensor([1e-30] * 1000, requires_grad=True)
    return inspect.first_anomaly(inspect.trace((x * x * x).sum()))


def optimizer(kind: Callable[..., Any] = tg.optim.Adam) -> Any:
    return kind(tg.nn.LSTM(3, 64, 2, rng=0).parameters(), lr=0.001)


def search() -> tg.decode.SearchResult:
    table = np.log([[0.6, 0.4], [0.5, 0.5], [0.01, 0.99]])

    def step(tokens: Any, state: Any) -> Any:
        return table[np.where(state == 0, 0, tokens + 1)], state + 1

    return tg.decode.beam_search(
        step, np.zeros(1, int), 0, beam_width=2, max_length=400, trace=True
    )


def a_watch() -> inspect.Watch:
    lstm = tg.nn.LSTM(3, 4, 4, rng=0)
    with inspect.watch(lstm, every=1) as watch:
        for _ in range(30):
            lstm(tg.ones((20, 4, 3)))[0].sum().backward()
    return watch


def a_run() -> inspect.Watched:
    with tempfile.TemporaryDirectory() as folder:
        a_watch().save(f"{folder}/run.jsonl")
        return inspect.load_watch(f"{folder}/run.jsonl")


def a_trace() -> inspect.Trace:
    with tempfile.TemporaryDirectory() as folder:
        inspect.trace(loss_of()).save(f"{folder}/lstm.trace")
        return inspect.load_trace(f"{folder}/lstm.trace")


def compared(scale: float) -> tg.testing.CellComparison:
    def step(
        x: tg.Tensor, h: tg.Tensor, W_ih: tg.Tensor, W_hh: tg.Tensor, b: tg.Tensor
    ) -> tg.Tensor:
        return tg.tanh(x @ W_ih.T + scale * (h @ W_hh.T) + b)

    return tg.testing.compare_cells(step, tg.nn.RNNCell(3, 8, rng=0), np.ones((9, 4, 3)))


SHOWN: dict[str, Callable[[], Any]] = {
    "Graph": lambda: inspect.trace(loss_of()),
    "Graph.table": lambda: inspect.trace(loss_of()).table(),
    "Graph.nodes": lambda: inspect.trace(loss_of()).opened().nodes,
    "a selection": lambda: inspect.trace(loss_of()).select(op="sigmoid"),
    "an empty selection": lambda: inspect.trace(loss_of()).select(time=99),
    "GraphNode": lambda: inspect.trace(loss_of()).nodes[0],
    "Edge": an_edge,
    "GradientFlow": lambda: inspect.gradient_flow(loss_of()),
    "GradientFlow, recorded": lambda: inspect.gradient_flow(loss_of(), create_graph=True),
    "GradientFlow, 24 states": lambda: inspect.gradient_flow(
        loss_of(100, 4, num_layers=6, bidirectional=True)
    ),
    "GradientFlow, 3 recorded": lambda: inspect.gradient_flow(
        loss_of(20, 4, tg.nn.RNN, num_layers=3), create_graph=True
    ),
    "GradientFlow, long": lambda: inspect.gradient_flow(loss_of(10_000, 4, num_layers=2)),
    "StackFlow": lambda: inspect.gradient_flow(loss_of())["lstm.l0"],
    "StateFlow": lambda: inspect.gradient_flow(loss_of())["lstm.l0"].h,
    "path_split": lambda: inspect.path_split(loss_of()),
    "PathSplit": lambda: inspect.path_split(loss_of())["c"],
    "GainSplit": lambda: inspect.gain_split(loss_of(layer=tg.nn.RNN)),
    "HopSplit": lambda: inspect.grad_by_hops(loss_of(), 40),
    "StepJacobians": lambda: inspect.step_jacobians(loss_of()),
    "StepJacobians, recorded": lambda: inspect.step_jacobians(loss_of(20), create_graph=True),
    "StepFlow": lambda: inspect.step_flow(loss_of()),
    "StepOperation": lambda: inspect.step_flow(loss_of()).operations[3],
    "StepEdge": lambda: inspect.step_flow(loss_of()).edges[3],
    "StepVectors": lambda: inspect.step_flow(loss_of()).vectors(3, range(50)),
    "Through": lambda: inspect.trace(loss_of()).through(("c", 3), time=7),
    "Microscope": lambda: inspect.look(loss_of()),
    "FixedPoints": points,
    "FixedPoint": lambda: points()[0],
    "Nearest": lambda: points().nearest((np.zeros((9, 70, 8)), np.zeros((9, 70, 8)))),
    "Anomaly": an_anomaly,
    "intervene": lambda: inspect.intervene("lstm.l0", "f", scale=np.ones(99), time=range(9999)),
    "Watch": a_watch,
    "Watched": a_run,
    "Watched, a path": lambda: a_run()["lstm.l0"],
    "WatchedState": lambda: a_run()["lstm.l0"].h,
    "Trace": a_trace,
    "TraceDiff": lambda: inspect.diff(loss_of(), loss_of(forget_bias=1.0)),
    "TraceDiff, of one run": lambda: inspect.diff(loss_of(), loss_of()),
    "Playground": inspect.playground,
    "SGD": lambda: optimizer(tg.optim.SGD),
    "Adam": optimizer,
    "AdamW": lambda: optimizer(tg.optim.AdamW),
    "LambdaLR": lambda: schedules.LambdaLR(optimizer(), lambda steps: 1.0),
    "StepLR": lambda: schedules.StepLR(optimizer(), 3),
    "ExponentialLR": lambda: schedules.ExponentialLR(optimizer(), 0.5),
    "LinearLR": lambda: schedules.LinearLR(optimizer()),
    "CosineAnnealingLR": lambda: schedules.CosineAnnealingLR(optimizer(), 9),
    "LSTMStep": lambda: tg.decode.LSTMStep(
        tg.nn.Embedding(5, 3), tg.nn.LSTM(3, 4), tg.nn.Linear(4, 5)
    ),
    "SearchResult": search,
    "Hypothesis": lambda: search()[0],
    "Lattice": lambda: search().lattice,
    "LatticeStep": lambda: search().lattice.steps[1],
    "Scoring": lambda: search().lattice.scoring,
    "CellComparison": lambda: compared(0.5),
    "CellComparison, equal": lambda: compared(1.0),
    "GradientCheck": lambda: tg.testing.check_gradients(tg.sin, tg.ones(9, dtype="float64")),
}


@pytest.mark.parametrize("what", SHOWN)
def test_a_few_lines_without_arrays_or_addresses(what: str) -> None:
    text = repr(SHOWN[what]())
    lines = text.splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= WIDEST
    assert not re.search(r"0x[0-9a-f]+|array\(|tensor\(|object at|<function", text)


def test_every_public_class_is_shown() -> None:
    packages = inspect, tg.optim, schedules, tg.decode, tg.testing
    classes = {
        name
        for package in packages
        for name in package.__all__
        if isinstance(getattr(package, name), type)
    }
    shown = {type(make()).__name__ for make in SHOWN.values()}
    bases = {"Optimizer", "LRScheduler", "Hypotheses", "StackFlow", "RecordedStateFlow"}
    assert classes - shown - bases == {"SequentialLR"}  # below


# --- the numbers --------------------------------------------------------------------------------


def test_an_edge() -> None:
    edge = an_edge()
    norm = np.linalg.norm(np.asarray(edge.cotangent, np.float64))
    assert repr(edge) == f"<edge into {edge.consumer!r} as input 0: (4, 64), norm {norm:.3e}>"


def test_jacobians_show_the_singular_values_of_the_ends() -> None:
    jacobians = inspect.step_jacobians(loss_of())
    said, header, *rows = repr(jacobians).splitlines()
    assert said == "Jacobians ∂(h, c)_t/∂(h, c)_t₋₁, 16 × 16, of 50 steps"
    assert header.split() == ["t", "largest", "σ", "smallest", "σ"]
    assert rows[5] == "… 40 more"
    sizes = jacobians.singular_values
    for row, i in zip([*rows[:5], *rows[6:]], [*range(5), *range(45, 50)], strict=True):
        assert row.split() == [str(i), f"{sizes[i, 0]:.3e}", f"{sizes[i, -1]:.3e}"]
    short = repr(inspect.step_jacobians(loss_of(12))).splitlines()
    assert [row.split()[0] for row in short[2:]] == [str(t) for t in range(12)]


def test_long_jacobians_are_not_decomposed_to_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, svd = [], np.linalg.svd

    def counted(matrices: Any, **options: Any) -> Any:
        counts.append(len(matrices))
        return svd(matrices, **options)

    jacobians = inspect.step_jacobians(loss_of(200))
    monkeypatch.setattr(np.linalg, "svd", counted)
    repr(jacobians)
    assert counts == [10]


def test_path_split_shows_every_state() -> None:
    splits = inspect.path_split(loss_of())
    lines = repr(splits).splitlines()
    assert isinstance(splits, dict)
    assert lines[0] == "shares of ∂L/∂h"
    start = lines.index("shares of ∂L/∂c")
    assert lines[start + 1].split() == ["t", "direct", "via", "h", "local"]
    shares = [f"{share[0]:.3e}" for share in splits["c"].shares.values()]
    assert lines[start + 2].split() == ["0", *shares]
    assert repr(splits["c"]).count("\n") == 21


def test_many_hops_are_shown_by_the_first_and_the_last() -> None:
    split = inspect.grad_by_hops(loss_of(), 40)
    header, first, *_ = repr(split).splitlines()
    hops = re.findall(r"‖(\d+) hops‖", header)
    assert hops == ["0", "1", "2", "3", "4", "40"]
    assert first.split() == ["0", *(f"{split.grad_norm[int(j), 0]:.3e}" for j in hops)]
    few = repr(inspect.grad_by_hops(loss_of(), 5)).splitlines()[0]
    assert re.findall(r"‖(\d+) hops‖", few) == ["0", "1", "2", "3", "4", "5"]


def test_a_fixed_point() -> None:
    point = points()[0]
    assert repr(point) == (
        f"<fixed point of h (8,), c (8,): stable, |λ|max {point.spectral_radius:.6f}, "
        f"speed {point.speed:.1e}; {point.starts} starts led here, the nearest from "
        f"{point.distance:.3g}>"
    )
    cell = tg.nn.RNNCell(1, 2, nonlinearity="identity", bias=False, rng=0, dtype="float64")
    cell.load_state_dict({"weight_ih": np.ones((2, 1)), "weight_hh": np.diag([3.0, 2.0])})
    text = repr(inspect.fixed_points(cell)[0])
    assert "2 unstable modes, |λ|max 3.000000" in text


def test_operations_of_a_step() -> None:
    flow = inspect.step_flow(loss_of())
    said, _, *rows = repr(flow).splitlines()
    count = len(flow.operations)
    assert said == f"lstm.l0: {count} operations, {len(flow.edges)} edges, each of 50 steps"
    i = next(i for i, o in enumerate(flow.operations) if o.name == "o")
    gate = flow.operations[i]
    first, last = (f"{10 ** gate.log10_grad_norm[t]:.1e}" for t in (0, -1))
    (row,) = [row for row in rows if row.split()[0] == str(i)]
    assert row.split() == [str(i), "o", "sigmoid", "gate", first, last]
    assert repr(gate) == f"<o: sigmoid (4, 8), ‖grad‖ {first} … {last} over 50 steps>"
    edge = next(e for e in flow.edges if e.source == i)
    first, last = (f"{10 ** edge.log10_norm[t]:.1e}" for t in (0, -1))
    assert repr(edge) == f"<from {i} to {edge.target}: ‖grad‖ {first} … {last} over 50 steps>"
    assert any(repr(e).startswith(f"<from {e.source} to the loss") for e in flow.edges)


def test_nearest_points_are_counted() -> None:
    nearest = inspect.FixedPoints.nearest(points(), (np.zeros((9, 70, 8)), np.zeros((9, 70, 8))))
    said, _, row = repr(nearest).splitlines()
    assert said == "points nearest to states of shape (9, 70)"
    assert row.split() == ["0", "630", f"{nearest.distance.min():.3e}"]


def test_many_states_have_a_row_each() -> None:
    flow = inspect.gradient_flow(loss_of(100, 4, num_layers=2))
    header, *rows = repr(flow).splitlines()
    assert header.split()[:2] == ["state", "steps"]
    names = [(path, name) for path, stack in flow.items() for name in stack]
    for row, (path, name) in zip(rows, names, strict=True):
        state = flow[path][name]
        i = int(np.argmin(state.log10_grad_norm))
        norms = [state.grad_norm[k] for k in (0, -1, i)]
        ends = state.value_norm[[0, -1]].tolist()
        expected = [path, name, "100", *(f"{x:.3e}" for x in norms), str(i)]
        assert row.split() == [*expected, *(f"{x:.3e}" for x in ends)]


def test_gradients_beyond_float64_are_numbers() -> None:
    state = inspect.gradient_flow(loss_of(2000, 4, tg.nn.RNN))["rnn.l0"].h
    first = repr(state).splitlines()[1].split()[2]
    mantissa, exponent = first.split("e")
    assert state.grad_norm[0] == 0
    assert math.log10(float(mantissa)) + int(exponent) == pytest.approx(
        state.log10_grad_norm[0], abs=5e-4
    )


def test_optimizers_show_their_settings() -> None:
    assert repr(optimizer()) == (
        "Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0, 6 parameters in 1 group)"
    )
    w = [tg.ones(1, requires_grad=True) for _ in range(6)]
    groups = [{"params": w[0]}, {"params": w[1:3], "lr": 0.01}]
    two = tg.optim.SGD(groups, lr=0.1)
    assert repr(two) == "SGD(lr=0.1 | 0.01, momentum=0, weight_decay=0, 3 parameters in 2 groups)"
    five = tg.optim.SGD([{"params": p, "lr": 1.0 + i} for i, p in enumerate(w[:5])], lr=1)
    assert repr(five).startswith("SGD(lr=1 | 2 | 3 | …, ")
    one = tg.optim.SGD([w[5]], lr=1)
    one.param_groups[0]["lr"] = np.ones(10_000)  # a mistake, of which step() tells
    assert "1 parameter in 1 group" in repr(one)
    assert len(repr(one)) < 200


def test_schedules_show_their_rate() -> None:
    steps = schedules.StepLR(optimizer(), 2)
    assert repr(steps) == "StepLR(step_size=2, gamma=0.1, lr=0.001 after 0 steps)"
    steps.step()
    assert repr(steps).endswith("lr=0.001 after 1 step)")
    steps.step()
    assert repr(steps).endswith("lr=0.0001 after 2 steps)")
    adam = optimizer()
    parts = [schedules.LinearLR(adam), schedules.StepLR(adam, 2)]
    both = schedules.SequentialLR(adam, parts, [7])
    assert repr(both) == "SequentialLR(milestones=[7], lr=0.000333333 after 0 steps)"


def test_searches() -> None:
    found = search()
    lattice = found.lattice
    pruned = sum(lattice.pruned_at(n) for n in range(1, 401))
    assert repr(lattice).startswith(f"<Lattice of 400 steps: 800 prefixes kept, {pruned} pruned;")
    assert repr(lattice.steps[1]) == "<LatticeStep: 2 × 2 candidates, 2 kept, 0 ended>"
    best = found[0]
    assert repr(best).startswith("Hypothesis(tokens=(1, 1, 1, 1, 1, 1, … 392 more …, 1, 1), log_")
    short = type(best)((3, 1), -1.5, -0.75, True, lambda: None)
    assert repr(short) == (
        "Hypothesis(tokens=(3, 1), log_probability=-1.5, score=-0.75, finished=True)"
    )


# --- selections ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph() -> inspect.Graph:
    class Model(tg.nn.Module):
        def __init__(self) -> None:
            self.rnn = tg.nn.LSTM(1, 3, 2, rng=0)
            self.head = tg.nn.Linear(3, 1, rng=1)

        def forward(self, x: tg.Tensor) -> tg.Tensor:
            return self.head(self.rnn(x)[0])

    return inspect.trace(tg.square(Model()(tg.ones((30, 2, 1)))).sum())


EMPTY: dict[str, tuple[dict[str, Any], str]] = {
    "a step": ({"time": 99}, "no node has time=99; in this graph, time is -1 to 29"),
    "a step of an operation": (
        {"op": "tanh", "time": 99},
        "no node has op='tanh' and time=99; with op='tanh', time is 0 to 29",
    ),
    "a step of a module": (
        {"module": "head", "time": 3},
        "no node has module='head' and time=3; with time=3, module is 'rnn.l0', 'rnn.l1'; with "
        "module='head', nothing belongs to a time step",
    ),
    "an operation of a module": (
        {"op": "sum", "module": "rnn.l0"},
        "no node has op='sum' and module='rnn.l0'; with module='rnn.l0', op is 'leaf', 'lstm_scan', "
        "'index'; with op='sum', module is ''",
    ),
    "a name of an operation": (
        {"op": "matmul", "name": "h"},
        "no node has op='matmul' and name='h'; with name='h', op is 'leaf', 'multiply'; with "
        "op='matmul', nothing has a name",
    ),
    "three wishes": (
        {"op": "tanh", "module": "rnn.l0", "time": 99},
        "no node has op='tanh' and module='rnn.l0' and time=99; with op='tanh' and "
        "module='rnn.l0', time is 0 to 29",
    ),
}


@pytest.mark.parametrize("case", EMPTY)
def test_an_empty_selection_says_what_there_is(case: str, graph: inspect.Graph) -> None:
    options, words = EMPTY[case]
    found = graph.select(**options)
    assert found == []
    assert not found
    assert len(found) == 0
    assert list(found) == []
    assert repr(found) == f"[] ({words})"
    with pytest.raises(tg.errors.IndexOutOfRangeError) as error:
        found[0]
    assert str(error.value) == f"select: {words}"
    assert isinstance(error.value, IndexError)
    assert found[:1] == []


def test_two_wishes_that_nothing_has() -> None:
    w = tg.ones(2, requires_grad=True)
    found = inspect.trace(w.sum()).select(op="cosh", time=7)
    assert repr(found) == (
        "[] (no node has op='cosh' and time=7; in this graph, op is 'leaf', 'sum'; in this graph, "
        "nothing belongs to a time step)"
    )


def test_steps_with_gaps_and_many_names() -> None:
    h, every = tg.ones(1, requires_grad=True), [0, 1, 2, 5, 7, 8]
    for t in every:
        h = inspect.mark(h * 2.0, f"state{t}", time=t)
    for t in range(20, 30):
        h = inspect.mark(h * 2.0, f"state{t}", time=t + t % 2)
    found = inspect.trace(h.sum())
    assert repr(found.select(time=4)).endswith("time is 0 to 2, 5, 7 to 8, 20, 22, 24, 26, 28 …)")
    text = repr(found.select(op="sum", time=4))
    assert "with op='sum', nothing belongs to a time step" in text
    names = repr(found.select(name="state0", time=1))
    assert "with time=1, name is 'state1'" in names
    many = repr(found.select(op="multiply", name="state0", time=1))
    assert "with op='multiply' and time=1, name is 'state1'" in many
    all_names = "'state0', 'state1', 'state2', 'state5', 'state7', 'state8', 'state20', 'state21'"
    assert f"in this graph, name is {all_names} and 8 more" in repr(found.select(name="h"))
    several = repr(found.select(module="", op="tanh"))
    assert "with module='', op is 'leaf', 'multiply', 'sum'" in several


def test_the_nodes_that_are_there(graph: inspect.Graph) -> None:
    assert repr(graph.select(op="square")) == "[<square (30, 2, 1)>]"
    two = graph.select(name="h", time=4)
    assert repr(two) == f"[{two[0]!r},\n {two[1]!r}]"
    many = graph.select(op="sigmoid")
    lines = repr(many).splitlines()
    assert len(lines) == 21
    assert lines[0] == f"[{many[0]!r},"
    assert lines[10] == f" … {len(many) - 20} more …,"
    assert lines[-1] == f" {many[-1]!r}]"
    assert type(graph.nodes) is type(many) is Nodes
    with pytest.raises(IndexError, match="list index out of range"):
        many[len(many)]
