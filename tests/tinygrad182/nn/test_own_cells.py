"""Cells of your own, and the GRU: a declared step against NumPy, and every way in which it is run."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles.derivatives import complex_gradients
from tests.oracles.recurrent import weights_of
from tests.support import Array, assert_close, assert_same_bits, const, host, leaf
from tests.tinygrad182.nn.own_cells import (
    CELLS,
    GRU,
    MGU,
    ByFunction,
    ByPrimitive,
    LayerNormLSTM,
    Leaky,
    Own,
    Peephole,
    loop,
    swish,
)
from tinygrad182.engine.backpropagation import ancestors
from tinygrad182.engine.recording import node_of

T, B, I, H = 6, 3, 2, 4  # noqa: E741
LENGTHS = np.array([6, 2, 4])
EMPTY = np.array([3, 0, 6])
every_cell = pytest.mark.parametrize("own", CELLS, ids=str)
both_ways = pytest.mark.parametrize("bidirectional", [False, True], ids=["ahead", "both ways"])
every_loop = pytest.mark.parametrize("own", [own for own in CELLS if own.fused], ids=str)


def made(own: Own, layers: int = 2, **options: Any) -> Any:
    given = {"rng": 3, "dtype": "float64", **options}
    return own.layer(I, H, layers, **given)


def arrays(
    own: Own, layers: int = 2, steps: int = T, bidirectional: bool = False
) -> dict[str, Array]:
    """An input and an initial state."""
    rng = np.random.default_rng(5)
    shape = layers * (1 + bidirectional), B, H
    parts = {f"{part}_0": rng.standard_normal(shape) for part in own.layer.scan.parts}
    return {"x": rng.standard_normal((steps, B, I)), **parts}


def given(at: dict[str, Any]) -> tuple[Any, Any]:
    """The input, and the state as a layer takes it."""
    x, *state = at.values()
    return x, state[0] if len(state) == 1 else tuple(state)


def flat(results: Any) -> list[tg.Tensor]:
    if isinstance(results, (tuple, list)):
        return [y for part in results for y in flat(part)]
    return [results]


def weighted(results: list[Any], library: Any) -> Any:
    """A number to which every element of every result contributes, not only linearly."""
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal(y.shape) for y in results]
    if library is tg:
        weights = [const(w) for w in weights]
    return sum(library.sum(w * (y + y * y)) for w, y in zip(weights, results, strict=True))


# --- against NumPy ------------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("lengths", [None, LENGTHS, EMPTY], ids=["all", "lengths", "one of 0"])
@pytest.mark.parametrize(("fused", "bidirectional"), [(True, False), (False, False), (True, True)])
def test_every_result_and_every_gradient(
    own: Own, lengths: Array | None, fused: bool, bidirectional: bool
) -> None:
    """Gradients by complex steps through a NumPy loop: by weights, biases, the input and the states."""
    layer = made(own, return_states=True, fused=fused, bidirectional=bidirectional)
    at = arrays(own, bidirectional=bidirectional)
    directions = ("", "_reverse")[: 1 + bidirectional]
    weights = dict(layer.named_parameters())
    both = {name: weights_of(layer)[name] for name in weights} | at

    def computed(at: dict[str, Array]) -> list[Array]:
        run = loop(own, at, lengths, directions=directions)
        return [run.output, *run.last, *run.states]

    leaves = {name: leaf(values) for name, values in at.items()}
    x, state = given(leaves)
    found = flat(layer(x, state, lengths))
    for i, (a, b) in enumerate(zip(found, computed(both), strict=True)):
        assert_close(a, b, 1e-13, f"result {i}")
    weighted(found, tg).backward()
    expected = complex_gradients(lambda at: weighted(computed(at), np), both)
    for name, p in (weights | leaves).items():
        assert np.abs(expected[name]).max() > 1e-3, f"{name} is not used"
        assert_close(p.grad, expected[name], 1e-11, name)


@every_cell
def test_without_bias_and_batch_first(own: Own) -> None:
    layer = made(own, bias=False, batch_first=True)
    assert not any("bias" in name for name, _ in layer.named_parameters())
    at = arrays(own)
    run = loop(own, weights_of(layer) | at)
    x, state = given(at)
    output, last = layer(const(x.swapaxes(0, 1)), _moved(state))
    assert_close(output, run.output.swapaxes(0, 1), 1e-13)
    for a, b in zip(flat(last), run.last, strict=True):
        assert_close(a, b, 1e-13)


def _moved(state: Any) -> Any:
    return tuple(map(const, state)) if isinstance(state, tuple) else const(state)


@every_cell
def test_one_sequence_without_a_batch_axis(own: Own) -> None:
    layer = made(own, return_states=True)
    at = {name: const(values) for name, values in arrays(own).items()}
    x, state = given(at)
    one_x, one_state = given({"x": x[:, 0], **{n: a[:, 0] for n, a in at.items() if n != "x"}})
    together, alone = flat(layer(x, state)), flat(layer(one_x, one_state))
    assert alone[0].shape == (T, H)
    for a, b in zip(alone, together, strict=True):
        axis = 1 if b.ndim == 3 else 2
        assert_close(a, np.take(host(b), 0, axis=axis), 1e-14)


@every_cell
def test_the_state_is_zero_where_none_is_given(own: Own) -> None:
    layer = made(own)
    at = {n: v if n == "x" else np.zeros_like(v) for n, v in arrays(own).items()}
    run = loop(own, weights_of(layer) | at)
    assert_close(layer(const(at["x"]))[0], run.output, 1e-13)


# --- one way of running against another -------------------------------------------------------------


@every_loop
@pytest.mark.parametrize("options", [{}, {"lengths": LENGTHS}, {"truncate": 3, "lengths": EMPTY}])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@both_ways
def test_as_one_operation_and_step_by_step(
    own: Own, options: Any, dtype: str, bidirectional: bool
) -> None:
    """Results, gradients, and the gradients of a penalty on these."""
    found = []
    for fused in (True, False):
        layer = made(own, return_states=True, fused=fused, dtype=dtype, bidirectional=bidirectional)
        operands = arrays(own, bidirectional=bidirectional)
        at = {name: leaf(v.astype(dtype)) for name, v in operands.items()}
        x, state = given(at)
        results = flat(layer(x, state, **options))
        scans = {n.op for n in ancestors(map(node_of, results)) if n.op.endswith("_scan")}
        assert bool(scans) == fused
        targets = [*at.values(), *layer.parameters()]
        loss = sum((y * y + y).sum() for y in results)
        first = tg.grad(loss, targets, create_graph=True)
        penalty = sum((tg.square(g).sum() for g in first if g is not None), start=loss)
        found.append([*results, *first, *tg.grad(penalty, targets)])
    tolerance = 1e-12 if dtype == "float64" else 3e-5
    for i, (a, b) in enumerate(zip(*found, strict=True)):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype == np.dtype(dtype)
            assert_close(a, host(b), tolerance, f"result {i}", floor=1.0)


@every_cell
def test_truncated_is_a_loop_over_windows(own: Own) -> None:
    layer = made(own, layers=1)
    at = {name: leaf(v) for name, v in arrays(own, layers=1).items()}
    x, state = given(at)
    targets = [*at.values(), *layer.parameters()]
    output, last = layer(x, state, truncate=4)
    whole = [output, *flat(last)]
    first, middle = layer(x[:4], state)
    middle = tuple(part.detach() for part in flat(middle))
    second, last = layer(x[4:], middle[0] if len(middle) == 1 else middle)
    parts = [tg.concat([first, second]), *flat(last)]
    found = []
    for results in (whole, parts):
        found.append([*results, *tg.grad(weighted(results, tg), targets)])
    for a, b in zip(*found, strict=True):
        assert_close(a, host(b), 1e-13)


@every_cell
@pytest.mark.parametrize("fused", [True, False])
@both_ways
def test_truncation_changes_no_value(own: Own, fused: bool, bidirectional: bool) -> None:
    layer = made(own, return_states=True, fused=fused, bidirectional=bidirectional)
    operands = arrays(own, bidirectional=bidirectional)
    x, state = given({name: const(v) for name, v in operands.items()})
    for window in (1, 3, 4):
        found = layer(x, state, LENGTHS, truncate=window)
        for a, b in zip(flat(found), flat(layer(x, state, LENGTHS)), strict=True):
            assert_close(a, host(b), 1e-13, f"windows of {window}")


@every_cell
def test_checked_by_the_framework_itself(own: Own) -> None:
    """Derivatives of first and second order, and of every kind, by every operand and parameter."""
    layer = made(own, layers=1)
    x, state = given({n: const(v[:3]) if n == "x" else const(v) for n, v in arrays(own, 1).items()})
    tg.testing.check_gradients(layer, x, state)


@every_cell
def test_cells_make_the_same_steps(own: Own) -> None:
    """A cell takes the recurrence of a layer, its options among it."""

    class Cell(tg.nn.RecurrentCell):
        scan = own.layer.scan
        leak = 0.25
        nonlinearity = staticmethod(swish)

    layer, cell = made(own, layers=1), Cell(I, H, dtype="float64")
    state_dict = {n.removesuffix("_l0"): v for n, v in layer.state_dict().items()}
    cell.load_state_dict(state_dict)
    assert list(cell.state_dict()) == list(state_dict)
    at = {name: const(values) for name, values in arrays(own, layers=1).items()}
    x, *state = at.values()
    parts = tuple(part[0] for part in state)
    output, last = layer(*given(at))
    for t in range(T):
        new = cell(x[t], parts[0] if len(parts) == 1 else parts)
        parts = new if isinstance(new, tuple) else (new,)
        assert_close(parts[0], host(output[t]), 1e-13)
    for a, b in zip(parts, flat(last), strict=True):
        assert_close(a, host(b)[0], 1e-13)
    assert cell(x[0, 0]).shape == (H,) if len(parts) == 1 else cell(x[0, 0])[1].shape == (H,)


def test_a_step_that_mixes_units_runs_by_its_definition() -> None:
    layer = made(CELLS[-1])
    assert not layer.fused
    assert layer.why_unrolled.startswith(
        "step applies mean, which is not done for each hidden unit"
    )
    assert f", fused=False: {layer.why_unrolled})" in repr(layer)
    output, _ = layer(const(arrays(CELLS[-1])["x"]))
    assert node_of(output).op == "stack"
    assert made(GRU).fused
    unrolled = made(GRU, fused=False)
    assert not unrolled.fused
    assert ", fused=False)" in repr(unrolled)
    assert made(GRU).why_unrolled == unrolled.why_unrolled == ""


def test_an_option_that_becomes_a_tensor_gets_its_gradient() -> None:
    layer, x = Leaky(I, H, rng=0, dtype="float64"), const(arrays(CELLS[0])["x"])
    with_number = host(layer(x)[0])
    layer.leak = leaf(0.25)
    output = layer(x)[0]
    assert_close(host(output), with_number, 1e-14)
    (found,) = tg.grad(output.sum(), layer.leak)
    layer.fused = False  # nothing need be compiled for every number

    def value(leak: float) -> float:
        layer.leak = leak
        return float(layer(x)[0].sum())

    assert_close(host(found), (value(0.25 + 1e-6) - value(0.25 - 1e-6)) / 2e-6, 1e-8)


# --- views ----------------------------------------------------------------------------------------


def viewed(own: Own, fused: bool, lengths: Array | None, direction: str) -> dict[str, Array]:
    """Figures of the inspector, each by a name."""
    bidirectional = bool(direction)
    layer = made(own, fused=fused, bidirectional=bidirectional)
    operands = arrays(own, bidirectional=bidirectional)
    x, state = given({name: leaf(v) for name, v in operands.items()})

    def loss() -> tg.Tensor:
        return (layer(x, state, lengths)[0] ** 2).mean()

    found: dict[str, Array] = {}
    path = type(layer).__name__.lower()
    flow = tg.inspect.gradient_flow(loss())
    assert list(flow) == [f"{path}.l{k}{d}" for k in (0, 1) for d in dict.fromkeys(("", direction))]
    for place, states in flow.items():
        for name, gradient in states.items():
            found[f"{place}.{name}"] = gradient.grad
            found[f"{place}.{name} at first"] = gradient.initial_grad
    for name, split in tg.inspect.path_split(loss(), f"{path}.l1{direction}").items():
        for part, array in split.parts.items():
            found[f"{name} {part}"] = array
    for weight, p in layer.named_parameters():
        found[weight] = tg.inspect.weight_grad_by_time(loss(), p)
        total = tg.grad(loss(), [p])[0]
        assert_close(found[weight].sum(axis=0), host(total), 1e-12, weight)
    found["Jacobians"] = tg.inspect.step_jacobians(loss(), f"{path}.l0{direction}").matrices
    found["hops"] = tg.inspect.grad_by_hops(loss(), 2, path=f"{path}.l1{direction}").grad
    return {name: np.asarray(host(array)) for name, array in found.items()}


@every_cell
@pytest.mark.parametrize("lengths", [None, LENGTHS, EMPTY], ids=["all", "lengths", "one of 0"])
@pytest.mark.parametrize("direction", ["", "_reverse"])
def test_every_view(own: Own, lengths: Array | None, direction: str) -> None:
    fused, unrolled = (viewed(own, fused, lengths, direction) for fused in (True, False))
    assert fused.keys() == unrolled.keys()
    for name, array in fused.items():
        assert_close(unrolled[name], array, 1e-11, name, floor=1e-12)


class Delayed(tg.nn.RecurrentLayer):
    """One part is handed on as it is: the state before the last one."""

    gates = 1
    state = ("h", "before")

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        return xp.tanh(x + h - 0.5 * state[1]), state[0]


@pytest.mark.parametrize("fused", [True, False])
def test_a_part_that_is_handed_on_has_a_gradient_of_its_own(fused: bool) -> None:
    """∂L/∂before_t comes from the loss and from step t + 1, and holds nothing of h_{t−1}."""
    layer = Delayed(2, 3, rng=0, dtype="float64", return_states=True, fused=fused)
    draw = np.random.default_rng(0)
    x, weights = const(draw.normal(size=(T, B, 2))), draw.normal(size=(2, T, B, 3))
    start = tuple(leaf(draw.normal(size=(1, B, 3))) for _ in range(2))
    states = layer(x, start)[-1]
    loss = sum((part[0] * const(w)).sum() for part, w in zip(states, weights, strict=True))
    h, weight = states.h.numpy()[0], layer.weight_hh_l0.numpy()
    by_h, by_before = weights.copy()
    for t in range(T)[::-1]:
        if t + 1 < T:
            by_sum = (1 - h[t + 1] ** 2) * by_h[t + 1]
            by_h[t] += by_sum @ weight + by_before[t + 1]
            by_before[t] -= by_sum / 2
    flow = tg.inspect.gradient_flow(loss)["delayed.l0"]
    assert_close(flow.h.grad, by_h, 1e-12)
    assert_close(flow.before.grad, by_before, 1e-12)
    assert_close(host(flow.before.initial_grad), -(1 - h[0] ** 2) * by_h[0] / 2, 1e-12)
    split = tg.inspect.path_split(loss)
    assert_close(host(split["h"].parts["local"]), weights[0], 1e-12)
    assert_close(host(split["before"].parts["local"]), weights[1], 1e-12)
    assert_close(host(split["h"].parts["direct"]), by_h - weights[0], 1e-12)
    jacobian = np.block(
        [[(1 - h[1, 0] ** 2)[:, None] * weight, np.diag((h[1, 0] ** 2 - 1) / 2)],
         [np.eye(3), np.zeros((3, 3))]]
    )  # fmt: skip
    assert_close(tg.inspect.step_jacobians(loss).matrices[1], jacobian, 1e-12)
    hops = host(tg.inspect.grad_by_hops(loss, 1, state="before").grad)
    of_next = -(1 - h[1:] ** 2) * weights[0][1:] / 2
    assert_close(hops[0, :-1], weights[1][:-1] + of_next, 1e-12)


@every_cell
@pytest.mark.parametrize("fused", [True, False])
def test_windows_and_first_states_in_the_views(own: Own, fused: bool) -> None:
    """Steps are counted on from window to window, and the state that nobody gave is there too."""
    layer = made(own, layers=1, fused=fused, return_states=True)
    x = const(arrays(own)["x"])
    *_, states = layer(x)
    whole, windows = (
        tg.inspect.gradient_flow((layer(x, truncate=n)[0] ** 2).sum()) for n in (None, 4)
    )
    (whole,), (windows,) = whole.values(), windows.values()
    for name, part in zip(own.layer.scan.parts, states, strict=True):
        assert_close(windows[name].value, host(part)[0], 1e-13, name)
        assert list(windows[name].time) == list(range(T))
        assert_close(windows[name].grad[4:], host(whole[name].grad)[4:], 1e-13, name)
        assert np.abs(host(whole[name].grad - windows[name].grad)[3]).max() > 1e-3, (
            "a window is open"
        )
        assert whole[name].initial_grad.shape == (B, H)
        assert np.abs(host(whole[name].initial_grad)).max() > 0


class Decaying(tg.nn.RecurrentLayer):
    """A step that computes something from the state before alone, where no parameter is."""

    gates = 1
    state = ("h",)

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        return (xp.tanh(x + h) + 0.5 * xp.sin(state[0]),)


@pytest.mark.parametrize("fused", [True, False])
def test_what_a_step_computes_from_a_first_state_that_nobody_gave(fused: bool) -> None:
    """∂L/∂h_0 has it too, although that state is a constant."""
    layer = Decaying(I, H, rng=0, dtype="float64", fused=fused)
    output, _ = layer(tg.ones((1, 1, I), dtype="float64"))
    slope = 1 - np.tanh(layer.weight_ih_l0.numpy().sum(axis=1) + layer.bias_ih_l0.numpy()) ** 2
    flow = tg.inspect.gradient_flow(output.sum())["decaying.l0"]
    assert_close(host(flow.h.initial_grad)[0], slope @ layer.weight_hh_l0.numpy() + 0.5, 1e-12)


class Watched(tg.nn.RecurrentLayer):
    """Parts that no step computes from themselves, and one that no step reads: it is there to be seen."""

    gates = 2
    state = ("h", "gate", "last")

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        z, n = x + h, state[0].shape[-1]
        gate = xp.sigmoid(z[..., :n])
        return gate * xp.tanh(z[..., n:] + state[2]), gate, xp.sin(x[..., n:])


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all", "lengths"])
def test_parts_that_are_not_computed_from_themselves(lengths: Array | None) -> None:
    """They have their initial states, and their places in a Jacobian."""
    found = []
    for fused in (True, False):
        layer = Watched(I, H, rng=0, dtype="float64", fused=fused, return_states=True)
        draw = np.random.default_rng(0)
        state = tuple(const(draw.normal(size=(1, B, H))) for _ in range(3))
        *_, states = layer(const(draw.normal(size=(T, B, I))), state, lengths)
        loss = sum((part**2).sum() for part in states)
        flow = tg.inspect.gradient_flow(loss)["watched.l0"]
        assert list(flow) == ["h", "gate", "last"]
        jacobians = tg.inspect.step_jacobians(loss)
        found.append((flow.h.initial_grad, flow.last.initial_grad, jacobians.matrices[-T + 1 :]))
    for fused_one, unrolled in zip(*found, strict=True):
        assert_close(host(unrolled), host(fused_one), 1e-12)


class Written(tg.nn.RecurrentLayer):
    """An LSTM that computes its cell state twice, and a part that nothing else is computed from."""

    gates = 5
    state = ("h", "c", "last")

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        z, n = x + h, x.shape[-1] // 5
        i, f, g, o, a = (z[..., k * n : (k + 1) * n] for k in range(5))
        i, f, g = xp.sigmoid(i), xp.sigmoid(f), xp.tanh(g)
        return (
            xp.sigmoid(o) * xp.tanh(f * state[1] + i * g),
            f * state[1] + i * g,
            xp.tanh(a + state[2]),
        )


def test_equal_values_and_parts_that_stand_alone() -> None:
    """Two values of a step may be equal, and still have gradients of their own."""
    found = []
    for fused in (True, False):
        layer = Written(2, 3, rng=0, dtype="float64", return_states=True, fused=fused)
        x = const(np.random.default_rng(0).normal(size=(T, B, 2)))
        loss = sum((part**2).mean() for part in layer(x)[-1])
        graph, path = tg.inspect.trace(loss), "written.l0"
        flow, split = tg.inspect.gradient_flow(loss)[path], tg.inspect.path_split(loss)
        for name in Written.state:
            total = sum(host(part) for part in split[name].parts.values())
            assert_close(total, host(flow[name].grad), 1e-12)
            found.append(total)
            for t in range(T) if fused else ():
                (scan,) = (node for node in graph if node.is_fused)
                (node,) = graph.expand(scan, time=t).select(name=name, time=t)
                assert_close(host(node.grad), total[t], 1e-12)
    for a, b in zip(found[:3], found[3:], strict=True):
        assert_close(a, b, 1e-12)


@every_cell
def test_the_names_of_the_states(own: Own) -> None:
    layer = made(own, return_states=True)
    *_, states = layer(const(arrays(own)["x"]))
    assert states._fields == own.layer.scan.parts
    assert all(part.shape == (2, T, B, H) for part in states)
    again = pickle.loads(pickle.dumps(type(states)))
    assert again is type(states)


# --- parameters -------------------------------------------------------------------------------------


@every_cell
def test_state_dicts_and_copies(own: Own) -> None:
    layer, other = made(own), made(own, rng=8)
    x = const(arrays(own)["x"])
    expected = layer(x)[0]
    state = layer.state_dict()
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", *own.layer.scan.weights)
    assert list(state) == [f"{name}_l{k}" for k in range(2) for name in names]
    other.load_state_dict(state)
    for again in (other, copy.deepcopy(layer)):
        assert_same_bits(again(x)[0], host(expected))


def test_the_second_bias_is_a_parameter_where_it_matters() -> None:
    for own in CELLS:
        only_added = own.layer in (Peephole, ByFunction, ByPrimitive)
        assert hasattr(made(own), "bias_hh_l0") != only_added, str(own)
    layer = made(CELLS[2])
    state = layer.state_dict()
    assert not host(state["bias_hh_l0"]).any()
    state["bias_hh_l0"] = state["bias_ih_l0"] * 3
    before = host(layer.bias_ih_l0).copy()
    layer.load_state_dict(state)
    assert_close(layer.bias_ih_l0, 4 * before, 1e-15)


def test_initial_values() -> None:
    """Parameters have the values drawn, one after the other, unless the class says otherwise."""
    gru, again = made(GRU, rng=7), made(GRU, rng=7)
    for a, b in zip(gru.parameters(), again.parameters(), strict=True):
        assert_same_bits(a, host(b))
        assert 0 < np.abs(host(a)).max() <= H**-0.5
    assert len({host(p).tobytes() for p in gru.parameters()}) == 8
    square = MGU(H, H, 2, rng=0)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        first, second = (host(getattr(square, f"{name}_l{k}")) for k in range(2))
        assert (first != second).all(), f"both layers have the same {name}"
    norm = made(CELLS[-1])
    assert all((host(getattr(norm, f"gain_{n}_l1")) == 1.0).all() for n in "xhc")
    assert (np.abs(host(norm.weight_hh_l1)) <= H**-0.5).all()
    assert norm.gain_x_l0.shape == (4 * H,)


def test_options() -> None:
    """Options are attributes of the class, or set by its constructor."""
    x = const(arrays(Own(Leaky, loop))["x"])
    slow, quick = (Leaky(I, H, leak=leak, rng=0, dtype="float64") for leak in (0.0, 1.0))
    assert "leak=1.0" in repr(quick)
    assert np.abs(host(slow(x)[0]) - host(quick(x)[0])).max() > 0.01
    quick.leak = 0.0
    assert_same_bits(quick(x)[0], host(slow(x)[0]))

    class Defaulted(MGU):
        @staticmethod
        def step(xp: Any, x: Any, h: Any, state: Any, factor: float = 0.0) -> Any:
            return tuple(factor * part for part in MGU.step(xp, x, h, state))

    assert not host(Defaulted(I, H, rng=0, dtype="float64")(x)[0]).any()

    class Doubled(Defaulted):
        factor = 2.0

    assert host(Doubled(I, H, rng=0, dtype="float64")(x)[0]).any()


# --- classes of classes -----------------------------------------------------------------------------


def test_a_subclass_with_another_step() -> None:
    class Coupled(tg.nn.LSTM):
        """Input and forget gate are a single gate."""

        gates = ("f", "g", "o")

        @staticmethod
        def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
            z, n = x + h, x.shape[-1] // 3
            f, o = xp.sigmoid(z[..., :n]), xp.sigmoid(z[..., 2 * n :])
            c = state[1] + f * (xp.tanh(z[..., n : 2 * n]) - state[1])
            return o * xp.tanh(c), c

    layer = Coupled(I, H, return_states=True, rng=0, dtype="float64")
    assert layer.weight_hh_l0.shape == (3 * H, H)
    output, (h_n, _), states = layer(const(arrays(GRU)["x"]))
    assert type(states) is tg.nn.LSTMStates
    assert_same_bits(h_n[0], host(output[-1]))
    assert tg.nn.LSTM(I, H).weight_hh_l0.shape == (4 * H, H)

    open_, shut = (Coupled(I, H, forget_bias=f, rng=0, dtype="float64") for f in (2.0, 0.0))
    moved = host(open_.bias_ih_l0) - host(shut.bias_ih_l0)
    assert_close(moved, np.repeat([2.0, 0.0, 0.0], H), 1e-12, "the gate named f")

    class Renamed(tg.nn.LSTM):
        state = ("h", "cell")

    *_, states = Renamed(I, H, return_states=True)(tg.ones((T, B, I)))
    assert states._fields == ("h", "cell")

    class Named(tg.nn.GRU):
        """A subclass that declares nothing has its parent's recurrence."""

    assert Named.scan is tg.nn.GRU.scan
    assert Named(I, H, rng=0)(tg.ones((T, B, I)))[0].shape == (T, B, H)


class Faulty(MGU):
    """A step that is a little wrong: for the tests above."""

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        return (MGU.step(xp, x, h, state)[0] + 1e-6 * h[..., :H],)


def test_a_fault_in_a_step_is_seen() -> None:
    with pytest.raises(AssertionError, match="result 0"):
        test_every_result_and_every_gradient(CELLS[1]._replace(layer=Faulty), None, True, False)
    assert Peephole.scan is not LayerNormLSTM.scan
