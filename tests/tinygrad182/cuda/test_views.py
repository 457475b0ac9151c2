"""The views of `tg.inspect` on CUDA: how often the host waits, and the numbers of the CPU.

Everything runs on the last card there is, while the current one is the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, host
from tinygrad182.arrays import backend

cupy = pytest.importorskip("cupy")
if not tg.cuda_is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

STAND_IN = getattr(cupy, "__fake__", False)
COUNT = cupy.cuda.runtime.getDeviceCount()
CUDA = f"cuda:{COUNT - 1}"

mark = tg.inspect.mark
Loss = tuple[tg.Tensor, dict[str, tg.Tensor]]
"""A loss, and the leaves that it depends on by name."""


@pytest.fixture(autouse=True)
def _made_where_told() -> Iterator[None]:
    with tg.use_device("cpu"):
        yield


@contextmanager
def waits(at_most: int) -> Iterator[None]:
    """Only the fake CuPy counts."""
    if not STAND_IN:
        yield
        return
    cupy.WAITS.clear()
    with cupy.counted("tinygrad182") as found:
        yield
    assert found["sync"] <= at_most, cupy.WAITS.most_common(5)


# --- models ---------------------------------------------------------------------------------------


def layer(kind: str, device: str, gain: float = 1.0, **options: Any) -> Any:
    """A layer of 3 inputs and 4 units; ``gain`` multiplies its recurrent weights."""
    if kind == "lstm":
        made: Any = tg.nn.LSTM(3, 4, rng=0, **options)
    elif kind == "gru":
        made = tg.nn.GRU(3, 4, rng=0, **options)
    else:
        made = tg.nn.RNN(3, 4, nonlinearity=kind, rng=0, **options)
    for name, parameter in made.named_parameters():
        if "weight_hh" in name:
            parameter.assign(parameter * gain)
    return made.to(device)


def data(*shape: int, dtype: str = "float64", seed: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def tensor(array: Any, device: str, requires_grad: bool = False) -> tg.Tensor:
    moved = tg.tensor(array).to(device).detach()
    moved.requires_grad = requires_grad
    return moved


def layers(kind: str, steps: int, gain: float = 1.0, dtype: str = "float64", **options: Any) -> Any:
    """Some layers over a sequence, and a loss at their last step; ``zeros``: with states of 0."""
    lengths, truncate = options.pop("lengths", None), options.pop("truncate", None)
    size = 0.0 if options.pop("zeros", False) else 1.0

    def loss(device: str) -> Loss:
        made = layer(kind, device, gain, dtype=dtype, **options)
        shape = (2, steps, 3) if options.get("batch_first") else (steps, 2, 3)
        x = tensor(data(*shape, dtype=dtype) * size, device, requires_grad=True)
        _, last = made(x, lengths=lengths, truncate=truncate)
        last = last[0] if kind == "lstm" else last
        return (last**2 + last).sum(), {"x": x, **dict(made.named_parameters())}

    return loss


def own_loop(steps: int, gain: float = 1.0, dtype: str = "float64") -> Callable[[str], Loss]:
    """A vanilla recurrence that marks its states."""

    def loss(device: str) -> Loss:
        w = tensor(data(4, 4, dtype=dtype) * gain, device, requires_grad=True)
        x = tensor(data(steps, 2, 4, dtype=dtype), device)
        h = mark(tensor(np.zeros((2, 4), dtype), device, requires_grad=True), "h", -1)
        leaves = {"w": w, "h": h}
        for t in range(steps):
            h = mark(tg.tanh(x[t] + h @ w), "h", t)
        return (h**2).sum(), leaves

    return loss


def with_a_gap(steps: int, gain: float, wide: bool = True) -> Callable[[str], Loss]:
    """Two layers with another operation in between; if ``wide``, it changes nothing."""

    def loss(device: str) -> Loss:
        below = layer("tanh", device, gain, dtype="float64")
        above = tg.nn.RNN(4, 4, rng=1, dtype="float64").to(device)
        above.weight_hh_l0.assign(above.weight_hh_l0 * gain)
        scale = tensor(data(4) if wide else np.full(4, 1e-200), device, requires_grad=True)
        between = below(tensor(data(steps, 2, 3), device))[0] * scale
        return (above(between)[0][-1] ** 2).sum(), {"scale": scale, "w": below.weight_hh_l0}

    return loss


def from_a_leaf(steps: int, gain: float) -> Callable[[str], Loss]:
    """A recurrence whose initial state requires grad."""

    def loss(device: str) -> Loss:
        made = layer("tanh", device, gain, dtype="float64")
        h = tensor(data(1, 2, 4), device, requires_grad=True)
        return made(tensor(data(steps, 2, 3), device), h)[0][-1].sum(), {"h": h}

    return loss


def encoder_and_decoder(kind: str, steps: int, gain: float) -> Callable[[str], Loss]:
    """A recurrence that starts from the last state of another one."""

    def loss(device: str) -> Loss:
        encoder, decoder = (layer(kind, device, gain, dtype="float64") for _ in range(2))
        x = tensor(data(steps, 2, 3), device)
        _, state = encoder(x)
        return (decoder(x, state)[0][-1] ** 2).sum(), dict(encoder.named_parameters())

    return loss


def behind_an_embedding(steps: int, gain: float) -> Callable[[str], Loss]:
    def loss(device: str) -> Loss:
        table = tg.nn.Embedding(5, 3, rng=0, dtype="float64").to(device)
        made = layer("lstm", device, gain, dtype="float64")
        tokens = tensor(np.arange(2 * steps).reshape(steps, 2) % 5, device)
        return (made(table(tokens))[0][-1] ** 2).sum(), {"table": table.weight}

    return loss


# --- gradient_flow --------------------------------------------------------------------------------

FLOWS: dict[str, Callable[[str], Loss]] = {
    **{
        f"{kind}, {n} layers, {how}, {regime}": layers(
            kind, 20, gain, num_layers=n, fused=how == "fused"
        )
        for kind in ("tanh", "relu", "lstm", "gru")
        for n in (1, 2)
        for how in ("fused", "unrolled")
        for regime, gain in (
            ("healthy", 1.0),
            ("vanishing", 1e-3 if kind in ("lstm", "gru") else 1e-30),
        )
    },
    "lstm, 200 steps": layers("lstm", 200),
    "tanh, 200 steps, unrolled": layers("tanh", 200, fused=False),
    "tanh, 200 steps, to 1e-400": layers("tanh", 200, 0.02),
    "tanh, 200 steps, to 1e-400, unrolled": layers("tanh", 200, 0.02, fused=False),
    "identity, to 1e+400": layers("identity", 100, 4e4, zeros=True, bias=False),
    "identity, to 1e+400, unrolled": layers(
        "identity", 100, 4e4, zeros=True, bias=False, fused=False
    ),
    "float32": layers("lstm", 20, dtype="float32"),
    "float32, vanishing": layers("tanh", 60, 0.1, dtype="float32", num_layers=2),
    "float32, vanishing, unrolled": layers("tanh", 60, 0.1, dtype="float32", fused=False),
    "lengths": layers("lstm", 20, lengths=[20, 7], num_layers=2),
    "truncated": layers("tanh", 20, truncate=8, num_layers=2),
    "truncated, vanishing": layers("tanh", 20, 1e-40, truncate=8, num_layers=2),
    "batch first": layers("lstm", 20, batch_first=True),
    "own loop": own_loop(20),
    "own loop, vanishing": own_loop(100, 1e-5),
    "own loop, float32, vanishing": own_loop(60, 1e-3, "float32"),
    "a gap": with_a_gap(20, 1.0),
    "a gap, vanishing": with_a_gap(20, 1e-30),
    "a gap that vanishes at once": with_a_gap(5, 1.0, wide=False),
    "initial leaf, to 1e-400": from_a_leaf(200, 0.02),
    "encoder and decoder": encoder_and_decoder("lstm", 10, 1.0),
    "encoder and decoder, vanishing": encoder_and_decoder("tanh", 60, 1e-8),
    "embedding, vanishing": behind_an_embedding(20, 1e-20),
}


def figures(flow: tg.inspect.GradientFlow) -> dict[str, Any]:
    """Everything there is in a flow, by name."""
    names = ("time", "log_grad_norm", "grad_norm", "value_norm", "sample_grad_norm")
    return {
        f"{path} {state} {name}": getattr(of_state, name)
        for path, stack in flow.items()
        for state, of_state in stack.items()
        for name in names
    }


def arrays(flow: tg.inspect.GradientFlow) -> dict[str, Any]:
    """The arrays of the model's type in a flow."""
    return {
        f"{path} {state} {name}": getattr(of_state, name)
        for path, stack in flow.items()
        for state, of_state in stack.items()
        for name in ("grad", "value", "initial_grad")
        if getattr(of_state, name) is not None
    }


def assert_equal_by_step(actual: Any, expected: Any, tolerance: float, what: str) -> None:
    """Arrays with time first: relative to the largest of each step, however small that is."""
    a, b = host(actual), host(expected)
    assert (a.shape, a.dtype) == (b.shape, b.dtype), what
    for t in range(len(b)):
        floor = 10 * float(np.finfo(b.dtype).smallest_normal)  # a card makes subnormal float32 0
        assert_close(a[t], b[t], tolerance, f"{what} at {t}", floor=floor / tolerance)


@pytest.mark.parametrize("case", FLOWS)
def test_gradient_flow_waits_four_times_at_most(case: str) -> None:
    tolerance = 1e-5 if "float32" in case else 1e-12
    wanted_loss, wanted_leaves = FLOWS[case]("cpu")
    loss, leaves = FLOWS[case](CUDA)
    with waits(4):
        flow = tg.inspect.gradient_flow(loss, backward=True)
        found = figures(flow)
    wanted = tg.inspect.gradient_flow(wanted_loss, backward=True)
    assert found.keys() == figures(wanted).keys()
    for name, figure in figures(wanted).items():
        assert_close(found[name], figure, tolerance, name)
    on_card = arrays(flow)
    assert on_card.keys() == arrays(wanted).keys()
    for name, array in arrays(wanted).items():
        assert backend.namespace(on_card[name]).device(on_card[name]) == CUDA, name
        assert_equal_by_step(on_card[name], array, tolerance, name)
    for name, x in wanted_leaves.items():
        assert (leaves[name].grad is None) == (x.grad is None)
        if x.grad is not None:
            assert leaves[name].grad.device == CUDA
            assert_close(leaves[name].grad, x.grad, tolerance, name)


@pytest.mark.parametrize(
    "case", ["lstm, 200 steps", "tanh, 200 steps, to 1e-400", "initial leaf, to 1e-400", "lengths"]
)
def test_what_is_one_operation_stays_on_the_device(case: str) -> None:
    loss, _ = FLOWS[case](CUDA)
    flow = tg.inspect.gradient_flow(loss)
    for stack in flow.values():
        for state in stack.values():
            assert {type(g) for g, _ in state._states._grads} == {cupy.ndarray}


def test_a_watch_waits_at_the_passes_that_it_keeps_and_at_no_others() -> None:
    def run(device: str) -> tg.inspect.Watch:
        made = layer("lstm", device, dtype="float64")
        watch = tg.inspect.watch(made, every=3)
        for i in range(4):
            loss = made(tensor(data(5, 2, 3, seed=i), device))[0].sum()
            with waits(5 if device == CUDA and i in (0, 3) else 0):  # one of them for the loss
                loss.backward()
        watch.stop()
        return watch

    found, wanted = run(CUDA), run("cpu")
    assert found.steps.tolist() == [0, 3]
    np.testing.assert_allclose(found.loss, wanted.loss, rtol=1e-12)
    for name, state in wanted["lstm.l0"].items():
        logs = found["lstm.l0"][name].log10_grad_norm
        np.testing.assert_allclose(logs, state.log10_grad_norm, rtol=0, atol=1e-12)


@pytest.mark.skipif(not STAND_IN, reason="only the stand-in knows of waits")
def test_the_first_figure_brings_all_others() -> None:
    loss, _ = FLOWS["lstm, 2 layers, fused, healthy"](CUDA)
    flow = tg.inspect.gradient_flow(loss)
    with waits(1):
        assert flow["lstm.l0"].c.grad_norm.shape == (20,)
    with cupy.no_waits():
        figures(flow)


def test_infinite_gradients_are_what_they_are() -> None:
    def loss(device: str) -> tg.Tensor:
        made = layer("tanh", device, dtype="float64")
        return (made(tensor(data(5, 2, 3), device))[0][-1] * float("inf")).sum()

    with np.errstate(invalid="ignore"):
        with waits(4):
            found = tg.inspect.gradient_flow(loss(CUDA))["rnn.l0"].h.grad_norm
        wanted = tg.inspect.gradient_flow(loss("cpu"))["rnn.l0"].h.grad_norm
    np.testing.assert_array_equal(found, wanted)


# --- the views that look at numbers ---------------------------------------------------------------


def parts(split: Any) -> dict[str, Any]:
    """The arrays of what a view returns, by name."""
    if dataclasses.is_dataclass(split):
        split = {field.name: getattr(split, field.name) for field in dataclasses.fields(split)}
    if isinstance(split, dict):
        return {f"{k} {name}": x for k, v in split.items() for name, x in parts(v).items()}
    return {"": split} if backend.is_array(split) else {}


VIEWS: dict[str, Callable[[tg.Tensor, dict[str, tg.Tensor]], Any]] = {
    "path_split": lambda loss, _: tg.inspect.path_split(loss),
    "step_jacobians": lambda loss, _: tg.inspect.step_jacobians(loss),
    "grad_by_hops": lambda loss, _: tg.inspect.grad_by_hops(loss, 2),
    "gain_split": lambda loss, _: tg.inspect.gain_split(loss),
    "state_grad_matrix": lambda loss, _: tg.inspect.state_grad_matrix(
        [loss * i for i in (1, 2, 3)]
    ),
    "log state_grad_matrix": lambda loss, _: tg.inspect.state_grad_matrix(loss, log=True),
    "input_grad_matrix": lambda loss, _: tg.inspect.input_grad_matrix(
        [loss * i for i in (1, 2, 3)]
    ),
    "weight_grad_by_time": lambda loss, x: tg.inspect.weight_grad_by_time(loss, _weight(x)),
    "weight norms by sequence": lambda loss, x: tg.inspect.weight_grad_by_time(
        loss, _weight(x), norm_only=True, per_sample=True
    ),
    "weight norms": lambda loss, x: tg.inspect.weight_grad_by_time(
        loss, _weight(x), norm_only=True
    ),
}


def _weight(leaves: dict[str, tg.Tensor]) -> tg.Tensor:
    return next(x for name, x in leaves.items() if name in ("w", "weight_hh_l0"))


LOSSES: dict[str, Callable[[str], Loss]] = {
    "tanh": layers("tanh", 20),
    "tanh, to 1e-400": layers("tanh", 200, 0.02),
    "tanh, unrolled": layers("tanh", 20, fused=False),
    "lstm, lengths": layers("lstm", 12, lengths=[12, 5]),
    "float32": layers("tanh", 40, 0.1, dtype="float32"),
    "own loop": own_loop(20, 1e-20),
}


@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.parametrize("view", VIEWS)
def test_views_wait_ten_times_at_most(view: str, case: str) -> None:
    if view == "gain_split" and "lstm" in case:
        pytest.skip("an LSTM's state is not a nonlinearity of a sum")
    if view == "input_grad_matrix" and case == "own loop":
        pytest.skip("its inputs have to be named")
    (loss, leaves), (wanted_loss, wanted_leaves) = LOSSES[case](CUDA), LOSSES[case]("cpu")
    with waits(10):
        found = parts(VIEWS[view](loss, leaves))
    wanted = parts(VIEWS[view](wanted_loss, wanted_leaves))
    assert found.keys() == wanted.keys()
    tolerance = 1e-4 if case == "float32" else 1e-9
    for name, x in wanted.items():
        if isinstance(found[name], cupy.ndarray):
            assert backend.namespace(found[name]).device(found[name]) == CUDA, name
        assert_close(found[name], x, tolerance, name)
    if view in ("path_split", "grad_by_hops", "weight_grad_by_time"):
        assert any(isinstance(x, cupy.ndarray) for x in found.values())


def test_as_many_losses_as_one_likes_cost_one_transfer() -> None:
    made = layer("tanh", CUDA, dtype="float64")
    output, _ = made(tensor(data(30, 2, 3), CUDA))
    losses = (output**2).sum(axis=(1, 2))
    with waits(2):
        matrix = tg.inspect.state_grad_matrix(losses)
    assert matrix.shape == (30, 30)
    assert (matrix[5, 6:] == 0).all()
    assert (matrix[5, :6] > 0).all()


@pytest.mark.parametrize("fused", [True, False])
def test_inputs_cost_one_transfer(fused: bool) -> None:
    def found(device: str) -> list[Any]:
        made = layer("tanh", device, dtype="float64", fused=fused)
        x = tensor(data(10, 2, 3), device)
        w, h, losses = tensor(data(3, 3), device, requires_grad=True), x[0], []
        for t in range(10):
            h = tg.tanh(x[t] + h @ w)
            losses.append((h**2).sum())
        layers = (made(x)[0] ** 2).sum(axis=(1, 2))
        matrix, matrices = tg.inspect.input_grad_matrix, []
        for given, inputs in ((layers, None), (losses, x), (losses, list(x))):
            with waits(2):
                matrices.append(matrix(given, inputs=inputs))
        return matrices

    for on_card, on_host in zip(found(CUDA), found("cpu"), strict=True):
        assert_close(on_card, on_host, 1e-9)


# --- graphs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["lstm, 2 layers, fused, healthy", "own loop"])
def test_a_table_costs_one_transfer(case: str) -> None:
    loss, _ = FLOWS[case](CUDA)
    graph = tg.inspect.trace(loss)
    with waits(1):
        table = graph.table(None)
    assert _words(table) == _words(tg.inspect.trace(FLOWS[case]("cpu")[0]).table(None))


def _words(table: str) -> list[list[str]]:
    """The cells of a table, numbers to three digits."""
    return [
        [f"{float(x):.2e}" if "e" in x and x[0].isdigit() else x for x in line.split()]
        for line in table.splitlines()
    ]


@pytest.mark.parametrize("fused", [True, False])
def test_a_recurrence_is_expanded_on_its_card(fused: bool) -> None:
    def inside(device: str) -> list[Any]:
        loss, _ = layers("lstm", 6, fused=fused)(device)
        graph = tg.inspect.trace(loss)
        nodes = graph.select(name="c", time=3)
        if fused:
            (scan,) = graph.select(op="lstm_scan")
            nodes += graph.expand(scan).select(name="h", time=2)
            nodes += graph.expand(scan, time=3).select(name="c", time=3)
        return [x for node in nodes for x in (node.grad, *(e.cotangent for e in node.edges))]

    found, wanted = inside(CUDA), inside("cpu")
    assert len(found) == len(wanted) > 2
    for a, b in zip(found, wanted, strict=True):
        assert backend.namespace(a).device(a) == CUDA
        assert_close(a, b, 1e-12)


def test_the_gradient_of_a_constant_is_summed_on_its_card() -> None:
    x, w = tensor(data(3), CUDA), tensor(data(3), CUDA, requires_grad=True)
    graph = tg.inspect.trace((x * w + x * w * w).sum())
    (constant,) = (node for node in graph.nodes if not node.requires_grad)
    assert_close(constant.grad, w.numpy() + w.numpy() ** 2, 1e-15)


def underflow(device: str) -> tg.Tensor:
    made = layer("tanh", device, 1e-12, dtype="float32")
    return (made(tensor(data(8, 2, 3, dtype="float32"), device))[0][-1] ** 2).sum()


def nan_inside(device: str) -> tg.Tensor:
    x = tensor(np.array([1.0, -1.0, 2.0]), device, requires_grad=True)
    return (tg.log(x * 2) * 3).sum()


def infinite_slope(device: str) -> tg.Tensor:
    x = tensor(np.array([1.0, 0.0, 2.0]), device, requires_grad=True)
    return (tg.sqrt(x * 2) * 3).sum()


@pytest.mark.parametrize("make", [underflow, nan_inside, infinite_slope])
def test_first_anomaly_is_found_in_the_graph_of_the_user(make: Callable[[str], tg.Tensor]) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):
        graph = tg.inspect.trace(make(CUDA))
        with waits(10):
            found = tg.inspect.first_anomaly(graph)
        wanted = tg.inspect.first_anomaly(tg.inspect.trace(make("cpu")))
    assert found is not None
    assert str(found) == str(wanted)
    assert found.node in list(graph.opened())
    assert isinstance(found.node.value, cupy.ndarray)


def test_no_anomaly_costs_no_more() -> None:
    graph = tg.inspect.trace(layers("lstm", 20)(CUDA)[0])
    with waits(10):
        assert tg.inspect.first_anomaly(graph) is None


# --- graphs that are not on one device ------------------------------------------------------------


def across(devices: tuple[str, str]) -> tg.Tensor:
    """Two layers on two devices."""
    below = layer("tanh", devices[0], dtype="float64")
    above = tg.nn.RNN(4, 4, rng=1, dtype="float64").to(devices[1])
    x = tensor(data(10, 2, 3), devices[0])
    return (above(below(x)[0].to(devices[1]))[0][-1] ** 2).sum()


@pytest.mark.parametrize("devices", [("cpu", CUDA), (CUDA, "cpu"), ("cuda:0", CUDA)])
def test_a_graph_may_lie_on_several_devices(devices: tuple[str, str]) -> None:
    wanted = tg.inspect.gradient_flow(across(("cpu", "cpu")))
    with waits(6):
        found = tg.inspect.gradient_flow(across(devices))
        logs = {path: stack.h.log_grad_norm for path, stack in found.items()}
    for path, stack in wanted.items():
        assert_close(logs[path], stack.h.log_grad_norm, 1e-12, path)
    for (path, stack), device in zip(found.items(), devices, strict=True):
        assert backend.namespace(stack.h.grad).device(stack.h.grad) == device, path
        split = tg.inspect.path_split(across(devices), path)["h"]
        assert backend.namespace(split.grad).device(split.grad) == device, path
        assert_close(split.grad, wanted[path].h.grad, 1e-12, path)


def test_the_weights_of_a_loop_on_the_host_may_be_on_a_card() -> None:
    """Their cotangents have a power of two, of which their own device knows nothing."""
    x, h, bias = (tensor(data(*shape) * 1e-200, "cpu") for shape in ((5, 2, 3), (2, 4), (4,)))

    def loss(device: str) -> Loss:
        w_ih, w_hh = (tensor(data(4, n), device, requires_grad=True) for n in (3, 4))
        weights = w_ih.to("cpu"), w_hh.to("cpu") * 1e80
        scan = tg.PRIMITIVES["rnn_scan"]
        states = tg.apply(scan, x, h, *weights, bias, 0, nonlinearity="identity")
        return states[-1].sum(), {"w_ih": w_ih, "w_hh": w_hh}

    (found, leaves), (wanted, wanted_leaves) = loss(CUDA), loss("cpu")
    flows = [tg.inspect.gradient_flow(some, backward=True)[""].h for some in (found, wanted)]
    assert_close(flows[0].log_grad_norm, flows[1].log_grad_norm, 1e-12)
    for name, w in wanted_leaves.items():
        assert w.grad is not None
        assert leaves[name].grad.device == CUDA
        assert_close(leaves[name].grad, w.grad, 1e-12, name)


@pytest.mark.parametrize("gain", [1.0, 1e-40])
def test_a_function_that_is_recomputed_runs_where_its_arrays_are(gain: float) -> None:
    def loss(device: str) -> tg.Tensor:
        made = layer("tanh", device, gain, dtype="float64")
        w = tensor(data(4, 4), device, requires_grad=True)
        output, _ = made(tensor(data(10, 2, 3), device))
        return tg.remat(lambda x: (tg.tanh(x @ w) ** 2).sum())(output[-1])

    with waits(10):
        found = tg.inspect.path_split(loss(CUDA))["h"]
        flow = tg.inspect.gradient_flow(loss(CUDA))["rnn.l0"].h.log_grad_norm
    wanted = tg.inspect.path_split(loss("cpu"))["h"]
    for name, share in wanted.shares.items():
        assert_close(found.shares[name], share, 1e-12, name)
    assert_close(flow, tg.inspect.gradient_flow(loss("cpu"))["rnn.l0"].h.log_grad_norm, 1e-12)


def test_a_primitive_of_your_own_may_know_the_arrays_of_its_device_only() -> None:
    def forward(xp: Any, x: Any) -> Any:
        assert isinstance(x, cupy.ndarray)
        return x * 3

    def vjp(xp: Any, g: Any, y: Any, x: Any) -> Any:
        assert isinstance(g, cupy.ndarray)
        assert isinstance(x, cupy.ndarray)
        return g * 3

    triple = tg.Primitive("triple", forward, (vjp,), "linear")
    made = layer("tanh", CUDA, dtype="float64")
    output, _ = made(tensor(data(10, 2, 3), CUDA))
    found = tg.inspect.path_split(tg.apply(triple, output[-1]).sum())["h"]
    once = tg.inspect.path_split(output[-1].sum())["h"]
    assert_close(found.grad, host(once.grad) * 3, 1e-12)


def test_a_change_of_a_weight_is_noticed_on_the_host_too() -> None:
    loss, leaves = own_loop(5)(CUDA)
    leaves["w"].assign(leaves["w"] * 2)
    with pytest.raises(tg.InPlaceError, match="changed in place"):
        tg.inspect.path_split(loss)


def test_views_of_the_host_make_no_twin_of_a_graph() -> None:
    from tinygrad182.engine.recording import node_of
    from tinygrad182.inspect.loops.hosting import copied_to_host

    loss, _ = own_loop(5)("cpu")
    found = copied_to_host([(node_of(loss), np.ones(()))])
    assert found.seeds[0][0] is node_of(loss)
    assert not found.twins
