"""Views of any cell: they show the same of a cell as one operation and of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, assert_close, host
from tinygrad182.engine.modes import scope
from tinygrad182.inspect.views import hop_polynomials, path_split, weight_grad
from tinygrad182.kernels.products import ProductOperands
from tinygrad182.recurrence.scans import Scan
from tinygrad182.recurrence.unrolling import run_steps
from tinygrad182.tensors import functions

inspect = tg.inspect
T, B, H = 6, 3, 4


def gates(*sums: Any, count: int) -> Iterator[tuple[Any, ...]]:
    """The blocks of both sums, gate after gate."""
    n = sums[0].shape[-1] // count
    for k in range(count):
        yield tuple(s[..., k * n : (k + 1) * n] for s in sums)


def gru(xp: Any, x: Any, h: Any, state: Any) -> Any:
    r, z, n = gates(x, h, count=3)
    reset, kept = xp.sigmoid(r[0] + r[1]), xp.sigmoid(z[0] + z[1])
    new = xp.tanh(n[0] + reset * n[1])
    return ((1 - kept) * new + kept * state[0],)


def peephole(xp: Any, x: Any, h: Any, state: Any, p_i: Any, p_f: Any, p_o: Any) -> Any:
    (i,), (f,), (g,), (o,) = gates(x + h, count=4)
    c = xp.sigmoid(f + p_f * state[1]) * state[1] + xp.sigmoid(i + p_i * state[1]) * xp.tanh(g)
    return xp.sigmoid(o + p_o * c) * xp.tanh(c), c


def leaky(xp: Any, x: Any, h: Any, state: Any, rate: Any) -> Any:
    keep = xp.sigmoid(rate)
    return (keep * state[0] + (1 - keep) * xp.tanh(x + h),)


def integrator(xp: Any, x: Any, h: Any, state: Any, gain: Any) -> Any:
    """The first part reads the previous step's second part; the second part reads this step's first."""
    n = x.shape[-1] // 2
    new = xp.tanh(x[..., :n] + h[..., :n]) * xp.sigmoid(x[..., n:]) + 0.3 * state[1]
    return new, 0.8 * state[1] + gain[:n] * new - gain[n:] * h[..., n:]


def normalized(xp: Any, x: Any, h: Any, state: Any, gain: Any) -> Any:
    """Hidden units depend on each other, so it is not compiled."""
    z = x + h
    z = z - xp.mean(z, axis=-1, keepdims=True)
    return (xp.tanh(gain * z / xp.sqrt(xp.mean(z * z, axis=-1, keepdims=True) + 1e-3)),)


SCANS = {
    "gru": Scan.of("gru_scan", gru, ("r", "z", "n"), ("h",)),
    "peephole": Scan.of(
        "peephole_scan", peephole, tuple("ifgo"), ("h", "c"), {"p_i": 1, "p_f": 1, "p_o": 1}
    ),
    "leaky": Scan.of("leaky_scan", leaky, ("h",), ("h",), {"rate": 1}),
    "integrator": Scan.of("integrator_scan", integrator, ("a", "b"), ("u", "m"), {"gain": 2}),
    "normalized": Scan.of("normalized_scan", normalized, ("h",), ("h",), {"gain": 1}),
}
ENDS = {"all": None, "several": np.array([6, 2, 4])}


class Run(NamedTuple):
    """A cell that was run over a sequence, and losses of its states."""

    scan: Scan
    operands: list[Any]
    states: list[tg.Tensor]
    losses: list[tg.Tensor]

    @property
    def loss(self) -> tg.Tensor:
        return sum(self.losses[1:], start=self.losses[0])

    @property
    def weights(self) -> dict[str, tg.Tensor]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", *self.scan.weights)
        named = zip(names, self.operands[1 + len(self.scan.parts) :], strict=True)
        return {name: w for name, w in named if isinstance(w, tg.Tensor)}


def numbers(scan: Scan, seed: int = 0) -> list[Array]:
    """Random operands of a cell."""
    rng, n = np.random.default_rng(seed), len(scan.gates)
    shapes: list[Any] = [(T, B, 2), *[(B, H)] * len(scan.parts), (n * H, 2), (n * H, H), (n * H,)]
    shapes += [(n * H,)] * scan.separate + [(k * H,) for k in scan.weights.values()]
    return [rng.normal(size=shape) * (0.6 if len(shape) == 2 else 1.0) for shape in shapes]


def run(name: str, fused: bool, ends: Any = None, dtype: str = "float64") -> Run:
    scan = SCANS[name]
    operands: list[Any] = [tg.tensor(a.astype(dtype), requires_grad=True) for a in numbers(scan)]
    if not scan.separate:
        operands.insert(4 + len(scan.parts), 0)
    lengths = [] if ends is None else [tg.tensor(ends)]
    params = {} if ends is None else {"shortest": int(ends.min())}
    with scope("cell"):
        for part, h in zip(scan.parts, operands[1:], strict=False):
            inspect.mark(h, part, -1)
        if fused:
            whole = tg.apply(scan, *operands, *lengths, **params)
            states = [whole] if len(scan.parts) == 1 else [whole[k] for k in range(len(scan.parts))]
        else:
            steps = run_steps(scan, [*operands, *lengths], params)
            states = [tg.stack(list(part)) for part in zip(*steps, strict=True)]
    shares = np.random.default_rng(9).normal(size=(len(states), T, B, H)).astype(dtype)
    every = sum((s * tg.tensor(w) for s, w in zip(states, shares, strict=True)), start=0.0)
    return Run(scan, operands, states, [every[t].sum() for t in range(T)])


def close(actual: Any, expected: Any, what: str, tolerance: float = 1e-12) -> None:
    assert_close(host(actual), host(expected), tolerance, what, floor=1e-3)


cells = pytest.mark.parametrize("name", list(SCANS))
lengths = pytest.mark.parametrize("ends", ENDS.values(), ids=list(ENDS))


# --- as one operation and step by step ------------------------------------------------------------


def compare(view: Callable[[Run], dict[str, Any]], name: str, ends: Any = None) -> None:
    """Check that a view shows the same of the cell as one operation and of its steps."""
    found, expected = (view(run(name, fused, ends)) for fused in (True, False))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        close(found[key], value, f"{name} {key}")


def flow(case: Run) -> dict[str, Any]:
    found = inspect.gradient_flow(case.loss, backward=True)["cell"]
    figures = {f"{n} {f}": getattr(s, f) for n, s in found.items() for f in ("grad", "grad_norm")}
    figures |= {f"{n} initial": s.initial_grad for n, s in found.items()}
    return figures | {
        n: w.grad.numpy() for n, w in [*case.weights.items(), ("x", case.operands[0])]
    }


def matrices(case: Run) -> dict[str, Any]:
    found = {p: inspect.state_grad_matrix(case.losses, state=p) for p in case.scan.parts}
    return {**found, "x": inspect.input_grad_matrix(case.losses)}


def by_path(case: Run) -> dict[str, Any]:
    split = inspect.path_split(case.loss)
    return {f"{n} {p}": g for n, s in split.items() for p, g in [*s.parts.items(), ("", s.grad)]}


def hops(case: Run) -> dict[str, Any]:
    pairs = [(state, through) for state in case.scan.parts for through in case.scan.parts]
    found = {p: inspect.grad_by_hops(case.loss, 2, state=p[0], through=p[1]) for p in pairs}
    return {f"{p} {f}": getattr(s, f) for p, s in found.items() for f in ("grad", "rest")}


def jacobians(case: Run) -> dict[str, Any]:
    found = [inspect.step_jacobians(case.loss, sample=i) for i in range(B)]
    return {f"{i} {f}": getattr(j, f) for i, j in enumerate(found) for f in ("time", "matrices")}


def by_time(case: Run) -> dict[str, Any]:
    found = {}
    for n, w in case.weights.items():
        found[n] = inspect.weight_grad_by_time(case.loss, w)
        found[f"{n} by sequence"] = inspect.weight_grad_by_time(case.loss, w, per_sample=True)
        found[f"{n} norms by sequence"] = inspect.weight_grad_by_time(
            case.loss, w, norm_only=True, per_sample=True
        )
    return found


def opened(case: Run) -> dict[str, Any]:
    """Every state in the graph, opened where it has to be."""
    graph = inspect.trace(case.loss)
    nodes = [n for part in case.scan.parts for n in graph.select(name=part) if n.time != -1]
    return {
        f"{n.name} {n.time} {what}": getattr(n, what) for n in nodes for what in ("value", "grad")
    }


def one_by_one(case: Run) -> dict[str, Any]:
    """Every state, each from a graph of its step alone."""
    graph = inspect.trace(case.loss)
    fused = [n for n in graph.nodes if n.is_fused]
    found = {}
    for time in range(T):
        here = graph.expand(fused[0], time) if fused else graph
        for part in case.scan.parts:
            (node,) = here.select(name=part, time=time)
            found |= {f"{part} {time} {f}": getattr(node, f) for f in ("value", "grad")}
    return found


VIEWS = [flow, matrices, by_path, hops, jacobians, by_time, opened, one_by_one]


@cells
@lengths
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_that_of_the_steps(view: Any, name: str, ends: Any) -> None:
    compare(view, name, ends)


@cells
def test_saturation_and_weight_that_cannot_be_split_raise(name: str) -> None:
    for fused in (True, False):
        with pytest.raises(tg.GraphError, match=r"is not a nonlinearity|is not linear"):
            inspect.gain_split(run(name, fused).loss, state=SCANS[name].parts[0])


@cells
def test_which_cells_run_as_one_operation(name: str) -> None:
    node = next(n for n in inspect.trace(run(name, fused=True).loss).nodes if n.is_fused)
    assert (node._node.residuals is None) == (name == "normalized")


# --- against finite differences -------------------------------------------------------------------

STEP = 1e-6


def walk(scan: Scan, given: list[Array], time: int = -1, place: int = 0, change: Any = 0.0) -> Any:
    """The states of every step; at one step an operand, or a part of the state after it, is changed."""
    operands, n = [a.copy() for a in given], 1 + len(scan.parts)
    if not scan.separate:
        operands.insert(n + 3, 0)
    state, states = operands[1:n], []
    for t in range(T):
        here = list(operands)
        if t == time and place >= n:
            here[place] = here[place] + change
        some = [tg.tensor(a) if isinstance(a, np.ndarray) else a for a in here]
        steps = scan.unrolled(functions, some[0][t : t + 1], *map(tg.tensor, state), *some[n:])
        next(steps)
        state = [part.numpy() for part in next(steps)]
        if t == time and 0 < place < n:
            state[place - 1] = state[place - 1] + change
        states.append(state)
    return np.array(states)  # (T, parts, B, H)


def slopes(scan: Scan, given: list[Array], time: int, place: int, shape: Any) -> Array:
    """The derivative of the loss by an operand at one step, or by a part of its state."""
    shares = np.random.default_rng(9).normal(size=(len(scan.parts), T, B, H)).swapaxes(0, 1)
    found = np.zeros(shape)
    for at in np.ndindex(*shape):
        change = np.zeros(shape)
        change[at] = STEP
        up, down = (walk(scan, given, time, place, sign * change) for sign in (1, -1))
        found[at] = ((up - down) * shares)[time:].sum() / (2 * STEP)
    return found


@cells
@pytest.mark.parametrize("time", [0, 3])
def test_weights_by_time_are_slopes(name: str, time: int) -> None:
    case = run(name, fused=True)
    given, n = numbers(case.scan), 1 + len(case.scan.parts)
    for i, (what, weight) in enumerate(case.weights.items()):
        place = n + i + (i >= 3 and not case.scan.separate)
        found = inspect.weight_grad_by_time(case.loss, weight, times=[time])[0]
        close(found, slopes(case.scan, given, time, place, weight.shape), f"{name} {what}", 1e-7)


@cells
def test_the_flow_of_the_last_part_is_slopes(name: str) -> None:
    """No other part of the step depends on it, so a state can be changed behind the step."""
    case = run(name, fused=True)
    part = {"peephole": 0, "integrator": 1}.get(name, 0)
    grads = inspect.gradient_flow(case.loss)["cell"][case.scan.parts[part]].grad
    for time in (0, 3, T - 1):
        expected = slopes(case.scan, numbers(case.scan), time, 1 + part, (B, H))
        close(grads[time], expected, f"{name} {time}", 1e-7)


@cells
def test_jacobians_are_slopes(name: str) -> None:
    case = run(name, fused=True)
    found, given = inspect.step_jacobians(case.loss, sample=1), numbers(case.scan)
    parts = len(case.scan.parts)
    for t in (2, 5):
        expected = np.empty((parts, H, parts, H))
        for k, j in np.ndindex(parts, H):
            change = np.zeros((B, H))
            change[1, j] = STEP
            up, down = (walk(case.scan, given, t - 1, 1 + k, s * change)[t, :, 1] for s in (1, -1))
            expected[:, :, k, j] = (up - down) / (2 * STEP)
        at = found.time.tolist().index(t)
        close(found.matrices[at], expected.reshape(parts * H, -1), f"{name} {t}", 1e-7)


# --- planted faults are noticed -------------------------------------------------------------------


def _of_x(setting: ProductOperands) -> Any:
    """The state's columns are taken to be the input's."""
    x, _, others = setting.program and COLUMNS(setting)  # type: ignore[misc]
    return x, x, others


COLUMNS: Any = ProductOperands.columns.fget  # type: ignore[attr-defined]
FAULTS: dict[str, tuple[Any, str, Any, Any, str]] = {
    "columns": (ProductOperands, "columns", property(_of_x), by_time, "gru"),
    "order of gates": (weight_grad, "as_declared", lambda m, by, *rest: by, by_time, "gru"),
    "hops": (hop_polynomials.Hopping, "_shift", lambda self, value: None, hops, "peephole"),
    "further weights": (
        weight_grad, "_use",
        lambda s, place, use=weight_grad._use: use(s, min(place, 4)), by_time, "peephole",
    ),
    "direct way": (
        path_split, "next_step_cotangents",
        lambda *given, back=path_split.next_step_cotangents: back(*given)._replace(
            values=0 * back(*given).values
        ),
        by_path, "peephole",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, wrong, view, name = FAULTS[fault]
    compare(view, name)
    monkeypatch.setattr(owner, attribute, wrong)
    with pytest.raises((AssertionError, tg.GraphError)):
        compare(view, name)


# --- layers ---------------------------------------------------------------------------------------


class Normalized(tg.nn.RecurrentLayer):
    gates, state, weights = 1, ("h",), ("gain",)
    step = staticmethod(normalized)


class Peephole(tg.nn.RecurrentLayer):
    gates, state, weights = tuple("ifgo"), ("h", "c"), ("p_i", "p_f", "p_o")
    step = staticmethod(peephole)


STACKS: dict[str, list[Any]] = {
    "gru": [tg.nn.GRU],
    "peephole": [Peephole],
    "definition": [Normalized],
    "definition below": [Normalized, tg.nn.GRU],
    "definition above": [Peephole, Normalized],
    "definition between": [tg.nn.GRU, Normalized, Peephole],
}


def stacked(
    kinds: list[Any], fused: bool, truncate: int | None
) -> tuple[list[Any], list[tg.Tensor]]:
    """Layers above each other, and a loss at every step."""
    x: Any = tg.tensor(np.random.default_rng(2).normal(size=(T, B, 2)))
    layers = []
    for seed, kind in enumerate(kinds):
        layers.append(kind(x.shape[-1], H, rng=seed, dtype="float64", fused=fused))
        x = layers[-1](x, lengths=np.array([6, 2, 4]), truncate=truncate)[0]
    weights = tg.tensor(np.random.default_rng(3).normal(size=x.shape))
    return layers, [(x * weights)[t].sum() for t in range(T)]


@pytest.mark.parametrize("truncate", [None, 4])
@pytest.mark.parametrize("kinds", STACKS.values(), ids=list(STACKS))
def test_layers_above_each_other(kinds: list[Any], truncate: int | None) -> None:
    found: list[dict[str, Any]] = []
    for fused in (True, False):
        layers, losses = stacked(kinds, fused, truncate)
        loss = sum(losses[1:], start=losses[0])
        views: dict[str, Any] = {}
        for path, stack in inspect.gradient_flow(loss, backward=True).items():
            for name, state in stack.items():
                views[f"{path} {name}"] = state.grad
                views[f"{path} {name} matrix"] = inspect.state_grad_matrix(losses, path, name)
                for way, part in inspect.path_split(loss, path)[name].parts.items():
                    views[f"{path} {name} {way}"] = part
                hops = inspect.grad_by_hops(loss, 1, state=name, through="h", path=path)
                views[f"{path} {name} hops"] = hops.grad
            views[f"{path} inputs"] = inspect.input_grad_matrix(losses, path)
            views[f"{path} jacobians"] = inspect.step_jacobians(loss, path).matrices
        for i, layer in enumerate(layers):
            for name, weight in layer.named_parameters():
                views[f"{i} {name}"] = weight.grad
                views[f"{i} {name} by time"] = inspect.weight_grad_by_time(loss, weight)
        for node in inspect.trace(loss).select(name="h"):
            if node.time != -1:
                views[f"{node.module} {node.time} trace"] = node.grad
        found.append(views)
    assert found[0].keys() == found[1].keys()
    for key, value in found[1].items():
        close(found[0][key], value, key)


@cells
def test_states_as_the_inputs_of_what_comes_after(name: str) -> None:
    """This holds also after a cell that runs by its definition, which a view opens."""
    case = run(name, True)
    y = 2 * case.states[0]
    losses = [(y[t] * y[t]).sum() for t in range(T)]
    found = inspect.input_grad_matrix(losses, inputs=y)
    expected = np.diag(np.linalg.norm(2 * host(y).reshape(T, -1), axis=1))
    close(found, expected, name)


def test_small_gradients_of_any_cell() -> None:
    """A gated unit in float32 whose gradient leaves the type many times over, beside float64."""
    logs = []
    for dtype, fused in (("float32", True), ("float32", False), ("float64", True)):
        gru = tg.nn.GRU(1, H, rng=0, dtype=dtype, fused=fused)
        with tg.no_grad():
            gru.bias_ih_l0.assign(host(gru.bias_ih_l0) - 6.0 * (np.arange(3 * H) // H == 1))
        output, _ = gru(tg.tensor(np.ones((300, 2, 1), dtype)))
        (stack,) = inspect.gradient_flow(output[-1].sum()).values()
        logs.append(stack.h.log_grad_norm)
    assert logs[0][0] < -200
    for found in logs[1:]:
        np.testing.assert_allclose(logs[0], found, rtol=1e-3)
