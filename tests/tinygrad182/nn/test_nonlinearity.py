"""Nonlinearities of your own, in layers, cells and blocks: functions and primitives."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, assert_close, assert_same_bits, const, host, host_only, leaf
from tests.tinygrad182.kernels.cases import loops
from tests.tinygrad182.nn.own_cells import SWISH, swish
from tinygrad182.recurrence import scans, tracing

T, B, I, H = 5, 2, 2, 3  # noqa: E741


class Slope:
    """An object that is a function, and has one as a method."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def __call__(self, x: Any) -> Any:
        return tg.tanh(self.slope * x)

    def bent(self, x: Any) -> Any:
        return tg.where(x > 0.0123, x, self.slope * x)


class Holder:
    """An object that has what it calls."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, x: Any) -> Any:
        return self.inner(x)


def leaky(x: Any, slope: float) -> Any:
    return tg.where(x > 0.0123, x, slope * x)


def _within(xp: Any, g: Any, y: Any, x: Any, limit: float) -> Any:
    return xp.where(abs(x) < limit, g, 0.25 * g)


BINARY = tg.Primitive(
    "binary", lambda xp, x, limit: xp.sign(x), (_within,), "elementwise"
)  # fmt: skip
"""A straight-through estimator: 1 or −1, with the derivative of another function."""

SCALED = tg.Primitive(
    "scaled",
    forward=lambda xp, x, scale: scale * xp.sin(x),
    vjp=lambda xp, g, y, x, scale: (g * scale * xp.cos(x), None),
    jvp="elementwise",
)
"""One rule for both inputs, of which one is a number."""

CHOICES: dict[str, Any] = {
    "function": swish,
    "lambda": lambda x: 0.5 * x * (1 + tg.tanh(0.8 * (x + 0.044715 * x**3))),
    "of the library": tg.sin,
    "composition": lambda x: tg.log(1 + tg.exp(x)),
    "partial": partial(leaky, slope=0.1),
    "object": Slope(0.7),
    "method": Slope(0.3).bent,
    "ufunc": np.sin,
    "primitive": SWISH,
    "of the table": tg.PRIMITIVES["atan"],
    "straight through": lambda x: tg.tanh(x) + 0.3 * tg.apply(BINARY, x, limit=0.8),
    "one rule": lambda x: tg.apply(SCALED, x, 0.6),
}
UNFUSED: dict[str, Any] = {
    "normed": lambda x: x / tg.sqrt(tg.mean(x * x, axis=-1, keepdims=True) + 0.1),
    "array": lambda x: tg.tanh(x) * const(np.ones(1, np.float32)).data,
    "linear primitive": tg.Primitive(
        "half", lambda xp, x: 0.5 * x, (lambda xp, g, y, x: g,), "linear"
    ),
}
every = pytest.mark.parametrize("name", [*CHOICES, *UNFUSED])


def made(nonlinearity: Any, **options: Any) -> Any:
    given = {"rng": 3, "dtype": "float64", **options}
    return tg.nn.RNN(I, H, 2, nonlinearity, **given)


def numbers(dtype: str = "float64") -> Array:
    return np.random.default_rng(5).standard_normal((T, B, I)).astype(dtype)


def by_gradients(layer: Any, dtype: str = "float64") -> dict[str, Array]:
    x = leaf(numbers(dtype))
    output, _ = layer(x)
    weighted = output * const(np.random.default_rng(6).normal(size=output.shape).astype(dtype))
    (weighted.sum() + (output * output).sum()).backward()
    found = {name: host(p.grad) for name, p in layer.named_parameters()}
    return found | {"x": host(x.grad), "output": host(output)}


def compare(found: dict[str, Array], expected: dict[str, Array], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_close(found[name], array, tolerance, name, floor=1e-3)


# --- as one operation and step by step ------------------------------------------------------------


@every
@pytest.mark.parametrize("form", ["compiled", "NumPy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_as_one_operation_and_step_by_step(name: str, form: str, dtype: str) -> None:
    function = (CHOICES | UNFUSED)[name]
    unrolled = by_gradients(made(function, fused=False, dtype=dtype), dtype)
    with loops(form):
        layer = made(function, dtype=dtype)
        assert layer.fused == (name in CHOICES)
        compare(by_gradients(layer, dtype), unrolled, 2e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("name", ["tanh", "relu", "identity"])
def test_a_function_does_what_the_name_does(name: str) -> None:
    function = {"tanh": tg.tanh, "relu": tg.relu, "identity": lambda x: x}[name]
    expected = by_gradients(made(name))
    for own in (function, tg.PRIMITIVES.get(name, function), lambda x: function(x)):
        for key, array in by_gradients(made(own)).items():
            assert_same_bits(array, expected[key], key)


def test_the_rule_of_a_primitive_is_its_derivative() -> None:
    """The rule counts even if the forward's slope differs: that of sign is 0, that of the rule ¼."""
    for fused in (True, False):
        layer = made(lambda x: tg.apply(BINARY, x, limit=0.0), fused=fused, bias=False)
        states, _ = layer(x := leaf(numbers()))
        assert layer.fused == fused
        (found,) = tg.grad(states[0].sum(), x)
        by_hand = np.ones((B, H)) / 16 @ host(layer.weight_ih_l1) @ host(layer.weight_ih_l0)
        assert_close(host(found)[0], by_hand, 1e-14)


def test_a_rule_that_looks_at_shapes() -> None:
    """Numbers of a rule that depend on the shape are not fixed in a program."""
    odd = tg.Primitive(
        "odd", lambda xp, x: xp.sin(x), (lambda xp, g, y, x: g / x.shape[-1],), "elementwise"
    )
    layer = made(odd)
    assert not layer.fused
    compare(by_gradients(layer), by_gradients(made(odd, fused=False)), 1e-13)


def primitive(forward: Any, rule: Any, jvp: Any = "elementwise") -> tg.Primitive:
    return tg.Primitive("own", forward, (rule,), jvp)


REASONS: dict[str, Any] = {
    "": primitive(lambda xp, x: xp.sin(x), lambda xp, g, y, x: g * xp.cos(x)),
    "step applies own, which does not say that it is elementwise; make it with": primitive(
        lambda xp, x: xp.sin(x), lambda xp, g, y, x: g * xp.cos(x), "linear"
    ),
    "step applies own, a rule of which is not elementwise": primitive(
        lambda xp, x: xp.sin(x), lambda xp, g, y, x: g * xp.sum(x)
    ),
    "step applies sum, which is not done for each hidden unit by itself; use": primitive(
        lambda xp, x: x - xp.sum(x, axis=-1, keepdims=True), lambda xp, g, y, x: g
    ),
    "step applies mean, which is not done for each hidden unit by itself; use": (
        lambda x: x - x.mean(axis=-1, keepdims=True)
    ),
    "step looks at numbers": primitive(lambda xp, x: np.sin(x), lambda xp, g, y, x: g),
}


@host_only("the last one calls NumPy")
@pytest.mark.parametrize("reason", REASONS)
def test_why_a_layer_runs_step_by_step(reason: str) -> None:
    layer = made(REASONS[reason])
    assert layer.why_unrolled.startswith(reason)
    assert layer.fused == (reason == "") == (layer.why_unrolled == "")


def test_the_framework_reports_a_wrong_rule() -> None:
    wrong = tg.Primitive("wrong", lambda xp, x: xp.sin(x), (lambda xp, g, y, x: g,), "elementwise")
    for nonlinearity, is_right in ((SWISH, True), (wrong, False)):
        layer = made(nonlinearity)
        if is_right:
            tg.testing.check_gradients(lambda x, f=layer: f(x)[0], const(numbers()))
        else:
            with pytest.raises(tg.GradientCheckError):
                tg.testing.check_gradients(lambda x, f=layer: f(x)[0], const(numbers()))


# --- views ----------------------------------------------------------------------------------------


@every
def test_views(name: str) -> None:
    function = (CHOICES | UNFUSED)[name]
    found = []
    for fused in (True, False):
        layer = made(function, fused=fused)
        losses = (layer(leaf(numbers()))[0] ** 2).sum(axis=(1, 2))
        loss, path = losses.sum(), "rnn.l0"
        graph = tg.inspect.trace(loss)
        states = [graph.select(name="h", time=t, module=path)[0] for t in range(T)]
        figures = {
            "flow": tg.inspect.gradient_flow(loss)[path].h.grad,
            "matrix": tg.inspect.state_grad_matrix([losses[t] for t in range(T)], path=path),
            "Jacobians": tg.inspect.step_jacobians(loss, path).matrices,
            "hops": tg.inspect.grad_by_hops(loss, 2, path=path).grad,
            "by time": tg.inspect.weight_grad_by_time(loss, layer.weight_hh_l0),
            "traced": np.stack([host(node.grad) for node in states]),
            "values": np.stack([host(node.value) for node in states]),
        }
        for part, array in tg.inspect.path_split(loss, path)["h"].parts.items():
            figures[part] = array
        found.append({key: np.asarray(host(array)) for key, array in figures.items()})
    compare(found[0], found[1], 1e-11)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("fused", [True, False])
def test_saturation_times_weight(name: str, fused: bool) -> None:
    """‖J_tᵀ δ‖ / ‖δ‖ by the Jacobian of the step is their product."""
    layer = made(CHOICES[name], fused=fused)
    loss = (layer(leaf(numbers()))[0][:, :1] ** 2).sum()  # of one sequence
    flow = tg.inspect.gradient_flow(loss)["rnn.l0"].h
    split = tg.inspect.gain_split(loss, "rnn.l0")
    jacobians = tg.inspect.step_jacobians(loss, "rnn.l0", 0).matrices
    deltas = host(flow.grad)[:, 0]
    arrived = np.einsum("ti,tij->tj", deltas, host(jacobians))
    gain = np.linalg.norm(arrived, axis=1) / np.linalg.norm(deltas, axis=1)
    assert_close(split.gain, gain, 1e-11)
    assert_close(split.saturation * split.weight, gain, 1e-11)


def test_saturation_is_the_slope() -> None:
    layer = tg.nn.RNN(I, H, 1, swish, dtype="float64", rng=0)
    x = numbers()[:, :1]
    output, _ = layer(leaf(x))
    split = tg.inspect.gain_split(output[-1].sum(), times=T - 1)
    before = host(output)[-2]
    z = leaf(
        x[-1] @ host(layer.weight_ih_l0).T
        + before @ host(layer.weight_hh_l0).T
        + host(layer.bias_ih_l0)
    )
    slope = host(tg.grad(swish(z).sum(), z)[0])
    assert_close(split.saturation, [np.linalg.norm(slope) / np.sqrt(H)], 1e-12)


def test_a_function_that_mixes_units_has_no_slope() -> None:
    loss = made(UNFUSED["normed"])(leaf(numbers()))[0].sum()
    with pytest.raises(tg.GraphError, match=r"gain_split: .* cannot be separated"):
        tg.inspect.gain_split(loss, "rnn.l0")


# --- what a function reads ------------------------------------------------------------------------


def readers() -> dict[str, tuple[Any, Callable[[float], None]]]:
    """Functions with a number around them, and how it is changed."""
    slope = Slope(0.5)
    inner = 0.5

    def closed(x: Any) -> Any:
        return tg.tanh(inner * x)

    def put(value: float) -> None:
        nonlocal inner
        inner = value

    def put_attribute(value: float) -> None:
        slope.slope = value

    return {
        "closure": (closed, put),
        "method": (slope.bent, put_attribute),
        "object": (slope, put_attribute),
        "an object around it": (lambda x: slope(x), put_attribute),
        "partial": (partial(leaky_by, slope), put_attribute),
        "primitive": (
            tg.Primitive(
                "reading",
                lambda xp, x: xp.tanh(inner * x),
                (lambda xp, g, y, x: g * inner * (1 - y * y),),
                "elementwise",
            ),
            put,
        ),
    }


def leaky_by(slope: Slope, x: Any) -> Any:
    return slope.bent(x)


@pytest.mark.parametrize("name", readers())
def test_what_it_reads_may_change(name: str) -> None:
    function, put = readers()[name]
    layer, unrolled = made(function), made(function, fused=False)
    outputs = []
    for value in (0.5, 0.25, 0.5):
        put(value)
        with loops("NumPy"):
            compare(found := by_gradients(layer), by_gradients(unrolled), 1e-13)
        outputs.append(found["output"])
    assert_same_bits(outputs[0], outputs[2])
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


def test_a_number_that_becomes_a_tensor_gets_its_gradient() -> None:
    slope: Any = 0.5
    layer = made(lambda x: tg.tanh(slope * x))
    x = const(numbers())
    expected = host(layer(x)[0])
    slope = leaf(0.5)
    output, _ = layer(x)
    assert_close(output, expected, 1e-13)
    assert tg.grad(output.sum(), slope)[0].item() != 0


def test_functions_of_one_text_that_read_other_values_differ() -> None:
    def scaled(scale: Any) -> Any:
        return lambda x: tg.tanh(scale * x)

    pairs: list[tuple[Any, Any]] = [(1, 1.5), (tg.sin, tg.cos), (np.sin, np.cos)]
    pairs += [(Slope(0.5).bent, Slope(0.25).bent), (Holder(Slope(0.5)), Holder(Slope(0.25)))]
    for pair in pairs:
        functions = [f if callable(f) else scaled(f) for f in pair]
        found = [host(made(f)(const(numbers()))[0]) for f in functions]
        expected = [host(made(f, fused=False)(const(numbers()))[0]) for f in functions]
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b, 1e-13)
        assert np.abs(found[0] - found[1]).max() > 1e-3


def test_equal_functions_have_one_program() -> None:
    """A layer made again with a lambda written in the same place has nothing compiled again."""
    programs = set()
    for _ in range(3):
        layer = made(lambda x: tg.atan(0.375 * x))
        programs.add(layer.scan.program(nonlinearity=layer.nonlinearity))
    assert len(programs) == 1
    other = made(lambda y: tg.atan(0.375 * y))
    assert other.scan.program(nonlinearity=other.nonlinearity) in programs


def test_a_program_is_derived_under_detect_anomaly() -> None:
    with tg.detect_anomaly():
        layer = made(lambda x: tg.atan(0.21875 * x))
    assert (layer.fused, layer.why_unrolled) == (True, "")


def test_it_is_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[Any] = []

    def counted(*given: Any) -> Any:
        derived.append(given)
        return tracing.derive(*given)

    monkeypatch.setattr(scans, "derive", counted)
    layer = made(lambda x: tg.atan(0.4375 * x))
    for _ in range(3):
        by_gradients(layer)
    assert len(derived) == 1


def holding(kind: str, slope: Slope) -> Any:
    """A nonlinearity that has an object."""
    if kind == "function":
        return lambda x: slope(x)
    if kind == "primitive":
        rule = lambda xp, g, y, x: g * (1 - y * y) * slope.slope  # noqa: E731
        return tg.Primitive("held", lambda xp, x: xp.tanh(x * slope.slope), (rule,), "elementwise")
    return slope.bent


@pytest.mark.parametrize("kind", ["function", "method", "primitive"])
def test_it_is_not_kept_alive(kind: str) -> None:
    slope = Slope(0.5)
    by_gradients(made(holding(kind, slope)))
    watched = weakref.ref(slope)
    del slope
    gc.collect()
    assert watched() is None


def test_operations_inside_are_those_of_now_and_need_no_hash() -> None:
    """``select(op=)`` finds them in a function without a hash, keeps none, and sees what it has become."""

    @dataclass
    class Chosen:
        name: str

        def __call__(self, x: Any) -> Any:
            return getattr(tg, self.name)(x)

    chosen = Chosen("sin")
    layer = tg.nn.RNN(I, H, nonlinearity=chosen, rng=0)
    assert layer.fused
    for name, other in (("sin", "atan"), ("atan", "sin")):
        chosen.name = name
        graph = tg.inspect.trace(layer(tg.ones((T, B, I)))[0].sum())
        assert len(graph.select(op=name)) == len(graph.select(name="h", time=1)) * T
        assert not graph.select(op=other)
    gone = weakref.ref(chosen)
    del chosen, layer, graph
    gc.collect()
    assert gone() is None


# --- layers, cells and blocks ---------------------------------------------------------------------


@every
def test_cells_and_blocks(name: str) -> None:
    function = (CHOICES | UNFUSED)[name]
    layer = tg.nn.RNN(I, H, 1, function, rng=3, dtype="float64")
    cell = tg.nn.RNNCell(I, H, nonlinearity=function, rng=3, dtype="float64")
    x, h = const(numbers()), None
    for t in range(T):
        h = cell(x[t], h)
    assert_close(h, host(layer(x)[0])[-1], 1e-13)
    block = tg.nn.ResBlock(I, function, rng=3, dtype="float64")
    z = block.linear(x)
    bent = tg.apply(function, z) if isinstance(function, tg.Primitive) else function(z)
    assert_close(block(x), host(bent + x), 1e-15)


@every
def test_copies_and_state_dicts(name: str) -> None:
    function = (CHOICES | UNFUSED)[name]
    layer, x = made(function), const(numbers())
    assert list(layer.state_dict()) == list(made("tanh").state_dict())
    assert [p.shape for p in layer.parameters()] == [p.shape for p in made("tanh").parameters()]
    again = copy.deepcopy(layer)
    if isinstance(function, tg.Primitive):
        assert again.nonlinearity is function
    other = made(function, rng=9)
    other.load_state_dict(layer.state_dict())
    for twin in (again, other):
        assert_same_bits(twin(x)[0], host(layer(x)[0]))


def test_names_in_reprs() -> None:
    names = {
        swish: "swish",
        SWISH: "swish",
        tg.sin: "sin",
        CHOICES["partial"]: "partial(leaky, slope=0.1)",
        CHOICES["method"]: "bent",
        CHOICES["object"]: "Slope",
    }
    for function, name in names.items():
        assert repr(made(function)).startswith(f"RNN(2, 3, num_layers=2, nonlinearity={name})")
        assert repr(tg.nn.ResBlock(2, function)).startswith(f"ResBlock({name})")


def test_a_function_may_have_a_number_for_every_unit() -> None:
    """The function and the step are traced with as many units as they will get."""
    slope = leaf(np.linspace(0.1, 0.5, 5))

    def bent(x: Any) -> Any:
        return tg.where(x > 0.0123, x, slope * x)

    x = const(np.random.default_rng(0).normal(size=(T, B, I)))
    layer = tg.nn.RNN(I, 5, nonlinearity=bent, rng=0, dtype="float64")
    cell = tg.nn.RNNCell(I, 5, nonlinearity=bent, rng=0, dtype="float64")
    h = tg.zeros((B, 5), dtype="float64")
    for x_t in x:
        h = cell(x_t, h)
    output, _ = layer(x)
    assert_close(host(output)[-1], host(h), 1e-14)
    output.sum().backward()
    assert slope.grad is not None
    assert host(slope.grad).any()
    assert tg.nn.ResBlock(5, bent, rng=0, dtype="float64")(h).shape == (B, 5)
    with pytest.raises(tg.ArgumentError, match=r"fails on a Tensor.*\(2, 6\)"):
        tg.nn.RNN(I, 6, nonlinearity=bent)


def test_a_module_with_a_parameter_is_trained_with_the_layer() -> None:
    class Bent(tg.nn.Module):
        def __init__(self) -> None:
            self.slope = tg.nn.Parameter(np.full((), 0.5))

        def forward(self, x: Any) -> Any:
            return tg.tanh(self.slope * x)

    layer = made(Bent())
    assert not layer.fused
    assert "nonlinearity.slope" in dict(layer.named_parameters())
    layer(const(numbers()))[0].sum().backward()
    assert layer.nonlinearity.slope.grad.item() != 0
