"""``intervene``: the forward pass with a gate set, against loops in NumPy that set the same gate."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_close, assert_same_bits, const, host, leaf
from tests.tinygrad182.nn.own_cells import MGU, LayerNormLSTM, Leaky, Peephole
from tests.tinygrad182.random_cells import Cell, cells
from tinygrad182.engine import modes

intervene, inspect = tg.inspect.intervene, tg.inspect
T, B, I, H = 5, 2, 2, 3  # noqa: E741
CLOSE = 1e-12

# --- the same in NumPy, real or complex, with a hook for every gate --------------------------------

Put = Callable[[str, Array], Array]


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def _lstm(put: Put, x: Array, h: Array, state: list[Array]) -> list[Array]:
    zi, zf, zg, zo = np.split(x + h, 4, -1)
    c = put("f", _sigmoid(zf)) * state[1] + put("i", _sigmoid(zi)) * put("g", np.tanh(zg))
    return [put("o", _sigmoid(zo)) * np.tanh(c), c]


def _peephole(
    put: Put, x: Array, h: Array, state: list[Array], p_i: Array, p_f: Array, p_o: Array
) -> list[Array]:
    (zi, zf, zg, zo), c = np.split(x + h, 4, -1), state[1]
    i, f = put("i", _sigmoid(zi + p_i * c)), put("f", _sigmoid(zf + p_f * c))
    c = f * c + i * put("g", np.tanh(zg))
    return [put("o", _sigmoid(zo + p_o * c)) * np.tanh(c), c]


def _gru(put: Put, x: Array, h: Array, state: list[Array]) -> list[Array]:
    (xr, xz, xn), (hr, hz, hn) = np.split(x, 3, -1), np.split(h, 3, -1)
    r, z = put("r", _sigmoid(xr + hr)), put("z", _sigmoid(xz + hz))
    return [(1 - z) * put("n", np.tanh(xn + r * hn)) + z * state[0]]


def _mgu(put: Put, x: Array, h: Array, state: list[Array]) -> list[Array]:
    (xf, xn), (hf, hn) = np.split(x, 2, -1), np.split(h, 2, -1)
    f = put("forget", _sigmoid(xf + hf))
    return [(1 - f) * state[0] + f * put("new", np.tanh(xn + f * hn))]


def _leaky(put: Put, x: Array, h: Array, state: list[Array], slopes: Array) -> list[Array]:
    first, second = np.split(slopes, 2)
    mean = 0.75 * state[1] + 0.25 * state[0]
    return [put("gate 0", np.tanh(first * x + second * h)) + mean / 2, mean]


def _rnn(put: Put, x: Array, h: Array, state: list[Array]) -> list[Array]:
    return [put("gate 0", np.tanh(x + h))]


def _linear(put: Put, x: Array, h: Array, state: list[Array]) -> list[Array]:
    return [put("gate 0", x + h)]


STEPS: dict[Any, Any] = {
    tg.nn.LSTM: _lstm,
    tg.nn.GRU: _gru,
    tg.nn.RNN: _rnn,
    MGU: _mgu,
    Peephole: _peephole,
    Leaky: _leaky,
}


class Setting(NamedTuple):
    """One gate, what is done to it in NumPy, and the context that does the same."""

    gate: str
    put: Callable[[Array], Array]
    how: dict[str, Any]
    times: Any = range(10**6)

    def context(self, path: str) -> Any:
        time = {} if self.times == range(10**6) else {"time": self.times}
        return intervene(path, self.gate, **self.how, **time)


PER_UNIT = np.array([0.5, -0.25, 2.0])


def settings_of(gate: str) -> Iterator[Setting]:
    """The ways in which a gate is set."""
    yield Setting(gate, lambda g: np.full_like(g, 0.7), {"value": 0.7})
    yield Setting(gate, lambda g: 0 * g + PER_UNIT, {"value": PER_UNIT}, (1, 3))
    yield Setting(gate, lambda g: 1.5 * g, {"scale": 1.5}, range(2, T))
    yield Setting(gate, lambda g: PER_UNIT * g, {"scale": PER_UNIT.tolist()}, [0])
    yield Setting(gate, lambda g: g * g + 0.1 * g, {"function": lambda g: g * g + 0.1 * g})


class Model(NamedTuple):
    """A layer, and the NumPy step of it."""

    layer: Any
    step: Any
    x: Array

    @property
    def path(self) -> str:
        return type(self.layer).__name__.lower()

    def by_hand(self, chosen: list[tuple[int, Setting]], given: dict[str, Array], x: Array) -> Any:
        """Every part of the last layer's state, ``(T, B, H)``; settings are of one layer each."""
        for k in range(self.layer.num_layers):
            w_x, w_h, b_x, *others = [v for name, v in given.items() if name.endswith(f"_l{k}")]
            b_h = others.pop(0) if f"bias_hh_l{k}" in given else 0
            state = [np.zeros((x.shape[1], H))] * len(self.layer.scan.parts)
            every = []
            for t, x_t in enumerate(x):

                def put(name: str, value: Array, k: int = k, t: int = t) -> Array:
                    for layer, s in chosen:
                        if (layer, s.gate) == (k, name) and t in (
                            [s.times] if isinstance(s.times, int) else s.times
                        ):
                            value = s.put(value)
                    return value

                state = self.step(put, x_t @ w_x.T + b_x, state[0] @ w_h.T + b_h, state, *others)
                every.append(state)
            x = np.stack([parts[0] for parts in every])
        return [np.stack(part) for part in zip(*every, strict=True)]

    def values(self) -> dict[str, Array]:
        return {name: host(p) for name, p in self.layer.named_parameters()}

    def states(self, x: Any) -> list[tg.Tensor]:
        """The last layer's states, for each part."""
        states = self.layer(x)[2]
        return [part[-1] for part in states]


def model(kind: Any, layers: int = 1, **options: Any) -> Model:
    layer = kind(I, H, layers, return_states=True, rng=3, dtype="float64", **options)
    step = _linear if options.get("nonlinearity") == "identity" else STEPS[kind]
    return Model(layer, step, np.random.default_rng(1).normal(size=(T, B, I)))


def weighted(states: list[Any]) -> Any:
    """A number to which every element contributes, not only linearly."""
    rng, total = np.random.default_rng(2), 0.0
    for y in states:
        a: Any = rng.normal(size=y.shape)
        a = const(a) if isinstance(y, tg.Tensor) else a
        total = total + (y * y * a + y * (a - 0.5)).sum()
    return total


def assert_as_by_hand(m: Model, chosen: list[tuple[int, Setting]]) -> None:
    """States, and the gradients by x and by every parameter, which a complex step confirms."""
    with contextlib.ExitStack() as stack:
        for k, setting in chosen:
            stack.enter_context(setting.context(f"{m.path}.l{k}"))
        x = leaf(m.x)
        found = m.states(x)
    given = m.values()
    for part, expected in zip(found, m.by_hand(chosen, given, m.x), strict=True):
        assert_close(part, expected, CLOSE)
    parameters = dict(m.layer.named_parameters())
    inputs, loss = {"x": x, **parameters}, weighted(found)
    gradients = tg.grad(loss, [*inputs.values()]) if loss.requires_grad else [None] * len(inputs)
    at = {"x": m.x, **given}
    for name, g in zip(inputs, gradients, strict=True):
        expected = np.zeros(at[name].shape)
        for i in np.ndindex(expected.shape):
            moved = {n: v.astype(complex) for n, v in at.items()}
            moved[name][i] += 1e-30j
            expected[i] = weighted(m.by_hand(chosen, moved, moved.pop("x"))).imag / 1e-30
        assert_close(np.zeros_like(expected) if g is None else g, expected, CLOSE, name, 1e-6)


EVERY_GATE = [
    pytest.param(kind, gate, options, id=f"{kind.__name__} {gate} {' '.join(options.values())}")
    for kind, options in [
        *((kind, {}) for kind in STEPS),
        (tg.nn.RNN, {"nonlinearity": "identity"}),
    ]
    for gate in kind.scan.gates
]


@pytest.mark.parametrize(("kind", "gate", "options"), EVERY_GATE)
def test_a_gate_is_set_as_in_a_loop_by_hand(kind: Any, gate: str, options: dict[str, Any]) -> None:
    for setting in settings_of(gate):
        assert_as_by_hand(model(kind, **options), [(0, setting)])


def test_contexts_nest_by_gates_layers_and_order() -> None:
    m = model(tg.nn.LSTM, 2)
    times_two = Setting("f", lambda g: 2 * g, {"scale": 2}, range(3))
    less = Setting("f", lambda g: g - 0.25, {"function": lambda g: g - 0.25})
    shut = Setting("i", lambda g: 0 * g, {"value": 0}, 3)
    assert_as_by_hand(m, [(0, times_two), (0, less), (0, shut)])
    assert_as_by_hand(m, [(0, less), (1, shut), (0, times_two), (1, less)])


# --- expected effects -------------------------------------------------------------------------------


def test_with_f_1_and_i_0_the_cell_path_passes_the_gradient_unchanged() -> None:
    """The numbers are equal at every step, without any rounding."""
    lstm = tg.nn.LSTM(I, H, rng=0, dtype="float64")
    x = const(np.random.default_rng(0).normal(size=(40, B, I)))
    with intervene("lstm.l0", gate="f", value=1.0), intervene("lstm.l0", gate="i", value=0.0):
        output, (_, c_n) = lstm(x)
    loss = (output[-1] ** 2).sum() + (c_n**3).sum() + c_n.sum()
    pure = host(inspect.grad_by_hops(loss, 0, state="c", through="h").grad[0])
    assert np.abs(pure[-1]).min() > 0
    assert_same_bits(pure, np.broadcast_to(pure[-1], pure.shape))
    plain = inspect.gradient_flow(lstm(x)[0][-1].sum())["lstm.l0"].c.grad_norm
    assert plain[0] < 1e-6 * plain[-1]


@pytest.mark.parametrize("kind", STEPS)
def test_a_scale_of_1_changes_nothing(kind: Any) -> None:
    m = model(kind, 2)
    plain = m.states(const(m.x))
    for gate in kind.scan.gates:
        with intervene(f"{m.path}.l0", gate, scale=1.0), intervene(f"{m.path}.l1", gate, scale=1):
            found = m.states(const(m.x))
        for a, b in zip(found, plain, strict=True):
            assert_close(a, b, 1e-15)


@settings(max_examples=30, deadline=None)
@given(cell=cells(depth=2), seed=st.integers(0, 9))
def test_in_any_step_a_gate_scaled_by_one_changes_nothing_or_is_refused(
    cell: Cell, seed: int
) -> None:
    class Own(tg.nn.RecurrentLayer):
        scan = cell.scan

    layer = Own(I, H, rng=seed, dtype="float64", fused=False)
    x = const(np.random.default_rng(seed).normal(size=(3, B, I)))
    plain = layer(x)[0]
    for gate in cell.scan.gates:
        with contextlib.suppress(tg.ArgumentError), intervene("own.l0", gate, scale=1.0):
            assert_close(layer(x)[0], plain, CLOSE)


def views(loss: tg.Tensor, path: str, weight: tg.Tensor) -> list[Array]:
    """The results of all views of a layer."""
    flow = inspect.gradient_flow(loss)[path]
    split = inspect.path_split(loss, path)
    found = [flow.h.grad, flow.c.grad, flow.c.grad_norm, *split["c"].shares.values()]
    found += [inspect.step_jacobians(loss, path).matrices]
    found += [inspect.grad_by_hops(loss, 2, path=path, state="c", through="h").grad]
    return [*map(host, found), host(inspect.weight_grad_by_time(loss, weight))]


def test_every_view_shows_the_gradient_there_would_be() -> None:
    """Views of a layer with f set are those of a loop in which f is a constant."""
    lstm = tg.nn.LSTM(I, H, rng=0, dtype="float64")
    x = const(np.random.default_rng(0).normal(size=(T, B, I)))
    with intervene("lstm.l0", gate="f", value=0.9, time=[1, 2]):
        found = views((lstm(x)[0] ** 2).sum(), "lstm.l0", lstm.weight_hh_l0)
    mark, at = inspect.mark, [slice(k * H, (k + 1) * H) for k in range(4)]
    h, c = (mark(const(np.zeros((B, H))), name, -1) for name in "hc")
    w_x, w_h, outputs = lstm.weight_ih_l0.T, lstm.weight_hh_l0.T, []
    for t in range(T):
        z = x[t] @ w_x + lstm.bias_ih_l0 + h @ w_h
        i, g, o = tg.sigmoid(z[:, at[0]]), tg.tanh(z[:, at[2]]), tg.sigmoid(z[:, at[3]])
        f = tg.sigmoid(z[:, at[1]]) if t not in (1, 2) else 0.9
        c = f * c + i * g
        h = mark(o * tg.tanh(c), "h", t)
        c = mark(c, "c", t)
        outputs.append(h)
    expected = views((tg.stack(outputs) ** 2).sum(), "", lstm.weight_hh_l0)
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert_close(a, b, CLOSE, str(k))
    graph = inspect.trace(lstm(x)[0].sum())
    assert [node.is_fused for node in graph if node.op == "lstm_scan"] == [True]


def test_derivatives_inside_are_checked_by_a_complex_step() -> None:
    """A complex step checks the first derivatives, five points the second ones."""
    m = model(tg.nn.LSTM)
    with intervene("lstm.l0", "f", function=lambda f: f**2, time=slice(1, None)):
        assert tg.testing.check_gradients(m.layer, const(m.x[:3])).error < CLOSE
        with intervene("lstm.l0", "i", scale=np.full((B, 1), 0.5)):
            second = tg.testing.check_gradients(
                lambda x: (m.layer(x)[0] ** 2).sum(), leaf(m.x[:2]), order=2
            )
    assert second.error < 1e-9


def test_a_value_that_requires_grad_gets_its_gradient() -> None:
    m = model(tg.nn.LSTM)

    def loss(f: tg.Tensor) -> tg.Tensor:
        with intervene("lstm.l0", "f", f):
            return weighted(m.states(const(m.x)))

    assert tg.testing.check_gradients(loss, leaf(np.full((B, H), 0.3))).error < CLOSE
    assert tg.testing.check_gradients(loss, leaf([[0.3], [0.6]])).error < CLOSE


# --- where it holds ---------------------------------------------------------------------------------


def test_lengths_windows_and_layouts_are_those_of_the_layer() -> None:
    """A gate that is multiplied by 1 changes nothing, and one that is set does so in every layout."""
    m = model(tg.nn.LSTM, 2)
    x, ends = const(m.x), [3, T]
    for how in ({"lengths": ends}, {"truncate": 2}, {"lengths": ends, "truncate": 2}):
        plain = m.layer(x, **how)
        with intervene("lstm.l0", "f", scale=1.0), intervene("lstm.l1", "o", scale=1.0):
            found = m.layer(x, **how)
        assert_close(found[0], plain[0], 1e-15)
        assert_close(weighted(list(found[2])), weighted(list(plain[2])), 1e-14)
        for a, b in zip(*[tg.grad(weighted(list(y[2])), m.layer.parameters()) for y in (found, plain)],
                        strict=True):  # fmt: skip
            assert_close(a, b, 1e-13)
    first = tg.nn.LSTM(I, H, 2, batch_first=True, return_states=True, rng=3, dtype="float64")
    with intervene("lstm.l0", "f", 0.25, time=3):
        there, whole, window = (
            first(tg.swapaxes(x, 0, 1))[0],
            m.layer(x)[0],
            m.layer(x, truncate=2)[0],
        )
    assert_same_bits(tg.swapaxes(there, 0, 1), whole)
    assert_same_bits(window, whole)  # the third window begins at step 4
    assert_close(whole[:3], m.layer(x)[0][:3], 1e-15)
    assert not np.array_equal(host(whole[3]), host(m.layer(x)[0][3]))


def test_a_reverse_direction_has_a_path_and_its_own_order_of_steps() -> None:
    both = tg.nn.LSTM(I, H, bidirectional=True, rng=3, dtype="float64")
    alone = tg.nn.LSTM(I, H, dtype="float64")
    own = {name: both.state_dict()[f"{name}_reverse"] for name in alone.state_dict()}
    alone.load_state_dict(own)
    x = const(np.random.default_rng(0).normal(size=(T, B, I)))
    with intervene("lstm.l0_reverse", "f", 0.25, time=[1, 2]):
        found = both(x)[0]
    with intervene("lstm.l0", "f", 0.25, time=[1, 2]):
        expected = alone(x[::-1])[0][::-1]
    assert_close(found[..., H:], expected, 1e-15)
    assert_same_bits(found[..., :H], both(x)[0][..., :H])


def test_other_layers_stay_one_operation() -> None:
    m = model(tg.nn.LSTM, 2)
    with intervene("lstm.l1", "f", 1.0):
        loss = m.layer(const(m.x))[0].sum()
    graph = inspect.trace(loss)
    assert [node.module for node in graph if node.is_fused] == ["lstm.l0"]


@pytest.mark.parametrize(
    ("layer", "cell", "gate"),
    [
        (tg.nn.LSTM, tg.nn.LSTMCell, "f"),
        (tg.nn.GRU, tg.nn.GRUCell, "n"),
        (tg.nn.RNN, tg.nn.RNNCell, None),
    ],
)
def test_a_cell_in_a_loop_is_the_layer(layer: Any, cell: Any, gate: str | None) -> None:
    m, one = model(layer), cell(I, H, rng=3, dtype="float64")
    outside, path = one(const(m.x[0])), cell.__name__.lower()
    state = None
    for t in range(T):
        with intervene(path, gate, 0.5) if t == 2 else tg.enable_grad():
            state = one(const(m.x[t]), state)
    with intervene(f"{m.path}.l0", gate, value=0.5, time=2):
        expected = m.layer(const(m.x))[1]
    states = state if isinstance(state, tuple) else (state,)
    for a, b in zip(states, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert_close(a, b[0], CLOSE)
    again = one(const(m.x[0]))
    assert_same_bits(again[0], outside[0])
    with (
        pytest.raises(tg.ArgumentError, match="enter the context at the steps"),
        intervene(path, gate, 0.5, time=2),
    ):
        one(const(m.x[0]))


class Twice(tg.nn.Module):
    """One layer called twice, beside another."""

    def __init__(self) -> None:
        self.encoder = tg.nn.GRU(H, H, rng=0, dtype="float64")
        self.decoder = tg.nn.GRU(H, H, rng=1, dtype="float64")

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        for layer in (self.encoder, self.decoder, self.encoder):
            x, _ = layer(x)
        return x


def test_a_path_is_that_of_gradient_flow() -> None:
    both, x = Twice(), const(np.random.default_rng(0).normal(size=(T, B, H)))
    plain = both(x)
    assert [*inspect.gradient_flow(plain.sum())] == ["encoder.l0", "decoder.l0", "encoder.l0#2"]

    def by_hand(*contexts: Any) -> tg.Tensor:
        y = x
        for layer, context in zip(
            (both.encoder, both.decoder, both.encoder), contexts, strict=True
        ):
            with context:
                y, _ = layer(y)
        return y

    one, none = intervene("gru.l0", "z", 0.5, time=[2]), tg.enable_grad()
    for path, contexts in {
        "encoder.l0": (one, none, one),
        "encoder.l0#1": (one, none, none),
        "encoder.l0#2": (none, none, one),
        "decoder.l0": (none, one, none),
    }.items():
        with intervene(path, "z", 0.5, time=[2]):
            found = both(x)
        assert_same_bits(found, by_hand(*contexts), path)


def test_what_is_run_again_in_the_backward_pass_is_intervened_in_again() -> None:
    m = model(tg.nn.LSTM)
    run, x = tg.remat(lambda x: m.layer(x)[0]), leaf(m.x)
    with intervene("lstm.l0", "f", function=lambda f: f**3):
        (plain,), (found,) = (
            tg.grad((f(x) ** 2).sum(), [x]) for f in (lambda x: m.layer(x)[0], run)
        )
        late = (run(x) ** 2).sum()
    assert_same_bits(found, plain)
    assert_same_bits(tg.grad(late, [x])[0], plain)
    outside = (run(x) ** 2).sum()
    (expected,) = tg.grad((m.layer(x)[0] ** 2).sum(), [x])
    with intervene("lstm.l0", "f", 0.0):
        m.layer(x)
        assert_same_bits(tg.grad(outside, [x])[0], expected)
    with intervene("lstm.l0#1", "f", 0.0):
        loss = run(x).sum()
    with pytest.raises(tg.GraphError, match="leave tg\\.remat away"):
        loss.backward()


def test_other_modes_hold_inside() -> None:
    m = model(tg.nn.LSTM)
    x = const(m.x)
    with intervene("lstm.l0", "f", 0.5):
        recorded = m.layer(x)[0]
        with tg.no_grad():
            assert_same_bits(m.layer(x)[0], recorded)
        with tg.detect_anomaly():
            assert_same_bits(m.layer(x)[0], recorded)
            with (
                pytest.raises(tg.AnomalyError, match=re.escape("in lstm.l0 at t = 1")),
                intervene("lstm.l0", "o", function=lambda o: o * np.nan, time=1),
            ):
                m.layer(x)


def test_it_ends_with_the_block_and_is_not_seen_by_other_threads() -> None:
    m = model(tg.nn.GRU)
    x, before = const(m.x), modes.MODES.get()
    plain, seen = m.layer(x)[0], list[Any]()
    with intervene("gru.l0", "z", 1.0):
        thread = threading.Thread(target=lambda: seen.append(m.layer(x)[0]))
        thread.start()
        thread.join()
        set_ = m.layer(x)[0]
    with pytest.raises(tg.DTypeError), intervene("gru.l0", "z", 1.0):
        m.layer("x")
    assert modes.MODES.get() is before
    assert_same_bits(seen[0], plain)
    assert_same_bits(m.layer(x)[0], plain)
    assert not np.array_equal(host(set_), host(plain))

    @intervene("gru.l0", "z", 1.0)
    def decorated() -> tg.Tensor:
        return m.layer(x)[0]

    assert_same_bits(decorated(), set_)
    with pytest.raises(tg.ArgumentError, match=re.escape("write with tg.inspect.intervene(): ...")):
        intervene("gru.l0", "z", 1.0)(3)
    context = intervene("gru.l0", "z", 1.0)
    for _ in range(2):  # one context may be entered again, and inside itself
        with context, context:
            assert_same_bits(m.layer(x)[0], set_)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_stays(dtype: str) -> None:
    class Masked(tg.nn.RecurrentLayer):
        gates, state = ("a", "b"), ("h",)

        @staticmethod
        def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
            z, n = x + h, x.shape[-1] // 2
            a = xp.tanh(z[..., :n])
            return (a + xp.sigmoid(z[..., n:]) * ((state[0] > 0) * state[0] + (state[0] > 0.1)),)

    layer = Masked(I, H, rng=0, dtype=dtype)
    x = tg.tensor(np.random.default_rng(0).normal(size=(T, B, I)), dtype=dtype)
    for how in ({"value": 0.3}, {"value": np.full(H, 0.3)}, {"scale": [0.3] * H}, {"scale": 2}):
        with intervene("masked.l0", "b", **how):
            output, _ = layer(x)
        assert output.dtype == dtype


# --- errors -----------------------------------------------------------------------------------------


def refused(
    error: Any, words: str, path: str, *args: Any, run: Callable[[], Any], **how: Any
) -> None:
    """Entering, running or leaving raises an error that says so."""
    with pytest.raises(error, match=re.escape(words)), intervene(path, *args, **how):
        run()


def test_unknown_names_raise() -> None:
    m = model(tg.nn.LSTM, 2)
    x = const(m.x)
    run, unknown = lambda: m.layer(x), tg.UnknownPathError
    refused(unknown, "'lstm.l0' has no gate 'w'; it has 'i', 'f'", "lstm.l0", "w", 1, run=run)
    refused(unknown, "the gates of 'lstm.l1': 'i', 'f', ", "lstm.l1", value=1, run=run)
    refused(
        unknown, "ran at 'lstm' inside; recurrences ran at 'lstm.l0', 'l", "lstm", "f", 1, run=run
    )
    refused(unknown, "'lstm.l0' was called 1 time inside", "lstm.l0#2", "f", 1, run=run)
    output = run()[0]
    late = "open the context around the call of a layer or cell"
    refused(unknown, late, "lstm.l0", "f", 1, run=lambda: inspect.gradient_flow(output.sum()))


def test_unknown_steps_raise() -> None:
    m = model(tg.nn.LSTM)
    x = const(m.x)
    for time, missed in (
        (T, "t = 5"),
        ([1, T, T + 1], "t = 5, 6"),
        (range(T, 9), "t = range(5, 9)"),
    ):
        words, run = f"'lstm.l0' ran inside, but not at {missed}", lambda: m.layer(x)
        refused(tg.IndexOutOfRangeError, words, "lstm.l0", "f", 1, run=run, time=time)
    with intervene("lstm.l0", "f", 1.0, time=slice(2, 99)):  # an end may lie beyond, as Python's do
        expected = m.layer(x)[0]
    with intervene("lstm.l0", "f", 1.0, time=np.arange(2, T)):
        assert_same_bits(m.layer(x)[0], expected)


def step_of(function: Callable[..., Any], *names: str) -> Any:
    """A layer of your own."""
    return type("Own", (tg.nn.RecurrentLayer,), {
        "gates": names, "state": ("h",), "step": staticmethod(function)})(I, H, rng=0)  # fmt: skip


def _halves(x: Any) -> tuple[Any, Any]:
    n = x.shape[-1] // 2
    return x[..., :n], x[..., n:]


AMBIGUOUS = {
    "used twice": lambda xp, x, h, s: (
        xp.tanh(_halves(x + h)[0]) + xp.sin(_halves(x)[0]) * _halves(h)[1],
    ),
    "once held fixed": lambda xp, x, h, s: (
        xp.tanh(xp.sigmoid(_halves(x + h)[0]).detach() * s[0] * xp.sigmoid(_halves(x + h)[0])),
    ),
    "two functions": lambda xp, x, h, s: (
        xp.sin(_halves(x + h)[0]) - xp.exp(_halves(x + h)[0]) * s[0],
    ),
    "two functions of a sum with the state": lambda xp, x, h, s: (
        xp.sin(_halves(x + h)[0] + s[0]) - xp.exp(_halves(x + h)[0] + s[0]) * s[0],
    ),
    "together": lambda xp, x, h, s: (xp.tanh(_halves(x + h)[0] + _halves(x + h)[1]),),
    "not used": lambda xp, x, h, s: (xp.tanh(_halves(x + h)[1]),),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_gate_that_cannot_be_identified_is_refused(name: str) -> None:
    layer = step_of(AMBIGUOUS[name], "a", "b")
    words, run = "'own.l0' is that of 'a' alone; let the step", lambda: layer(tg.ones((T, B, I)))
    refused(tg.ArgumentError, words, "own.l0", "a", 1, run=run)


def test_a_step_that_mixes_units_is_refused() -> None:
    layer = LayerNormLSTM(I, H, rng=0)
    words, run = (
        "step applies mean, which is not done for each hidden unit",
        lambda: layer(tg.ones((T, B, I))),
    )
    refused(tg.ArgumentError, words, "layernormlstm.l0", "f", 1, run=run)


GATES: dict[str, tuple[Callable[..., Any], Callable[[Array], Array]]] = {
    "hard sigmoid": (
        lambda xp, z: xp.clip(0.2 * z + 0.5, 0.0, 1.0),
        lambda z: np.clip(0.2 * z + 0.5, 0, 1),
    ),
    "swish": (lambda xp, z: z * xp.sigmoid(z), lambda z: z * _sigmoid(z)),
    "softsign": (lambda xp, z: z / (1 + abs(z)), lambda z: z / (1 + abs(z))),
    "decay": (lambda xp, z: xp.exp(-xp.exp(z)), lambda z: np.exp(-np.exp(z))),
    "square": (lambda xp, z: z * z, lambda z: z * z),
    "linear": (lambda xp, z: z, lambda z: z),
}


@pytest.mark.parametrize("name", GATES)
def test_a_gate_is_the_whole_of_its_nonlinearity(name: str) -> None:
    """It may be several operations; in 1 − f the gate is f."""
    ours, numpys = GATES[name]

    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        a, b = _halves(x + h)
        return (state[0] + (1 - ours(xp, a)) * (xp.tanh(b) - state[0]),)

    layer, seen = step_of(step, "a", "b"), list[tg.Tensor]()
    x = tg.tensor(np.random.default_rng(0).normal(size=(1, B, I)), dtype="float32")
    with intervene("own.l0", "a", function=lambda g: seen.append(g) or g):
        layer(x)
    z = host(x)[0] @ host(layer.weight_ih_l0).T + host(layer.bias_ih_l0)
    assert_close(seen[0], numpys(z[:, :H]), 1e-5)


class Mixed(tg.nn.RecurrentLayer):
    """A gain inside one gate, and a gate that is added to the state inside another nonlinearity."""

    gates, state, weights = ("a", "b"), ("h",), ("gain",)

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any, gain: Any) -> Any:
        a, b = _halves(x + h)
        return (xp.tanh(state[0].detach() * xp.sigmoid(gain * a) + xp.sin(b)),)


def test_a_gate_may_have_weights_and_end_inside_a_nonlinearity() -> None:
    layer = Mixed(I, H, rng=0, dtype="float64")
    x, seen = const(np.random.default_rng(0).normal(size=(2, B, I))), list[tg.Tensor]()
    for gate in "ab":
        with intervene("mixed.l0", gate, function=lambda g: seen.append(g) or g):
            found = tg.grad((layer(x)[0] ** 2).sum(), [*layer.parameters()])
        expected = tg.grad((layer(x)[0] ** 2).sum(), [*layer.parameters()])
        for a, b in zip(found, expected, strict=True):  # also where no cotangent is to go through
            assert_close(a, b, CLOSE)
    z = host(x[0]) @ host(layer.weight_ih_l0).T + host(layer.bias_ih_l0)
    assert_close(seen[0], _sigmoid(host(layer.gain_l0) * z[:, :H]), CLOSE)
    assert_close(seen[2], np.sin(z[:, H:]), CLOSE)


def test_a_gate_without_a_function_of_its_own_is_its_sum() -> None:
    """The gate is not the state, whose nonlinearity also takes other terms."""
    layer = step_of(
        lambda xp, x, h, s: (xp.tanh(_halves(x + h)[0] * s[0] + _halves(x + h)[1]),), "a", "b"
    )
    x, seen = np.random.default_rng(0).normal(size=(1, B, I)).astype("float32"), list[tg.Tensor]()
    for gate in "ab":
        with intervene("own.l0", gate, function=lambda g: seen.append(g) or g):
            layer(const(x))
    z = x[0] @ host(layer.weight_ih_l0).T + host(layer.bias_ih_l0)
    assert_close(seen[0], z[:, :H], 1e-5)
    assert_close(seen[1], np.tanh(z[:, H:]), 1e-5)


WRONG: dict[str, tuple[Any, ...]] = {
    "pass one of value=, scale= and function=, not none": ({},),
    "not value= and scale=": ({"value": 1.0, "scale": 1.0},),
    "function 3 cannot be called": ({"function": 3},),
    "counted from 0": tuple(
        {"value": 1.0, "time": t} for t in (-1, [0, -2], [], "x", 1.5, range(0))
    ),
    "is not a number or an array": (
        {"value": "open"},
        {"scale": {}},
        {"value": [[1.0], [1.0, 2.0]]},
    ),
    "a number or an array: write function=": ({"value": abs}, {"scale": abs}),
    "must be names": ({"gate": 3, "value": 1.0},),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_raise_at_once(message: str) -> None:
    for how in WRONG[message]:
        with pytest.raises(tg.TinygradError, match=message):
            intervene("lstm.l0", **{"gate": "f", **how})


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"value": np.ones((4, 1, 1))}, tg.ShapeError, r"is \(B, H\) = \(2, 3\); .*\(4, 1, 1\)"),
        ({"value": np.ones(2)}, tg.ShapeError, "gate 'f' of 'lstm.l0' is"),
        ({"scale": np.ones((4, 1, 1))}, tg.ShapeError, r"has shape \(4, 2, 3\)"),
        ({"function": lambda f: f[0]}, tg.ShapeError, r"has shape \(3,\)"),
        ({"function": lambda f: 1.0}, tg.DTypeError, "returns a float, not a Tensor"),
        ({"value": tg.ones(H)}, tg.DTypeError, r"is float32; write .astype\('float64'\)"),
    ],
)
def test_values_that_do_not_fit_the_gate_raise(how: Any, error: Any, message: str) -> None:
    m = model(tg.nn.LSTM)
    with pytest.raises(error, match=message), intervene("lstm.l0", "f", **how):
        m.layer(const(m.x))
