"""LSTM and LSTMCell against a NumPy loop over the equations, at complex points; without PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles.derivatives import complex_gradients
from tests.oracles.recurrent import lstm as loop
from tests.oracles.recurrent import weights_of
from tests.support import Array, assert_close, assert_same_bits, const, draw, host, leaf, write

STEP = 1e-100  # of the derivatives below, the smallest is 1e-60, the largest 1e+25
sides = st.integers(1, 4)


def layer(I: int, H: int, layers: int = 1, **options: Any) -> tg.nn.LSTM:  # noqa: E741
    return tg.nn.LSTM(I, H, layers, rng=3, dtype="float64", **options)


# --- values -------------------------------------------------------------------------------------


@given(st.tuples(sides, sides, sides, sides), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_values_are_those_of_the_loop(
    sizes: tuple[int, int, int, int], layers: int, bias: bool, seed: int
) -> None:
    """They are checked at complex points too, and every result has a name."""
    T, B, I, H = sizes  # noqa: E741
    lstm = layer(I, H, layers, bias=bias, return_states=True)
    x, y, h_0, c_0 = draw(seed, (T, B, I), (T, B, I), (layers, B, H), (layers, B, H))
    for inputs in (x, x + 0.3j * y):
        h, c = loop(weights_of(lstm), inputs, h_0, c_0)
        output, (h_n, c_n), states = lstm(const(inputs), (const(h_0), const(c_0)))
        assert_close(output, h[-1], 1e-14, "output")
        assert_close(h_n, h[:, -1], 1e-14, "h_n")
        assert_close(c_n, c[:, -1], 1e-14, "c_n")
        assert_close(states.h, h, 1e-14, "states.h")
        assert_close(states.c, c, 1e-14, "states.c")


def test_states_of_one_sequence_have_no_batch_axis() -> None:
    lstm = layer(2, 3, 2, return_states=True)
    x, h_0, c_0 = draw(1, (5, 1, 2), (2, 1, 3), (2, 1, 3))
    output, (h_n, c_n), states = lstm(const(x), (const(h_0), const(c_0)))
    one, (h_1, c_1), states_1 = lstm(const(x[:, 0]), (const(h_0[:, 0]), const(c_0[:, 0])))
    assert (one.shape, h_1.shape, c_1.shape) == ((5, 3), (2, 3), (2, 3))
    assert states_1.h.shape == states_1.c.shape == (2, 5, 3)
    pairs = [(one, output[:, 0]), (h_1, h_n[:, 0]), (c_1, c_n[:, 0])]
    for a, b in [*pairs, (states_1.h, states.h[:, :, 0]), (states_1.c, states.c[:, :, 0])]:
        assert_same_bits(a, b.numpy())


def test_batch_first_swaps_input_and_output_but_no_state() -> None:
    plain, swapped = (layer(2, 3, 2, batch_first=b, return_states=True) for b in (False, True))
    x, h_0, c_0 = draw(2, (5, 4, 2), (2, 4, 3), (2, 4, 3))
    output, last, states = plain(const(x), (const(h_0), const(c_0)))
    output_1, last_1, states_1 = swapped(const(x.swapaxes(0, 1)), (const(h_0), const(c_0)))
    assert_close(output_1, output.numpy().swapaxes(0, 1), 1e-15)
    for a, b in zip([*last_1, *states_1], [*last, *states], strict=True):
        assert_close(a, b.numpy(), 1e-15)


def test_the_cell_in_a_loop_is_the_layer() -> None:
    lstm, cell = layer(2, 3), tg.nn.LSTMCell(2, 3, dtype="float64")
    cell.load_state_dict({n.removesuffix("_l0"): w for n, w in lstm.state_dict().items()})
    x, h_0, c_0 = draw(3, (5, 4, 2), (1, 4, 3), (1, 4, 3))
    output, (_, c_n) = lstm(const(x), (const(h_0), const(c_0)))
    h, c, states = const(h_0[0]), const(c_0[0]), []
    for x_t in const(x):
        h, c = cell(x_t, (h, c))
        states.append(h)
    assert_close(tg.stack(states), output.numpy(), 1e-14)
    assert_close(c, c_n[0].numpy(), 1e-14)
    ((output**2).sum() + c_n.sum()).backward()
    ((tg.stack(states) ** 2).sum() + c.sum()).backward()
    for name, p in cell.named_parameters():
        assert_close(p.grad, getattr(lstm, f"{name}_l0").grad.numpy(), 1e-13, name)


def test_a_sequence_may_be_run_in_two_halves() -> None:
    lstm = layer(2, 3, 2)
    (x,) = draw(4, (7, 4, 2))
    whole, last = lstm(const(x))
    first, carried = lstm(const(x[:3]))
    second, end = lstm(const(x[3:]), carried)
    assert_close(tg.concat([first, second]), whole.numpy(), 1e-14)
    for a, b in zip(end, last, strict=True):
        assert_close(a, b.numpy(), 1e-14)


def test_fused_or_not_gives_the_same_numbers() -> None:
    (x,) = draw(5, (5, 2, 2))
    runs = [layer(2, 3, fused=fused)(const(x)) for fused in (True, False)]
    assert_close(runs[0][0], runs[1][0].numpy(), 1e-15)


def test_float32_is_the_rounded_float64() -> None:
    (x,) = draw(6, (6, 3, 2))
    runs = []
    for dtype in ("float32", "float64"):
        lstm = tg.nn.LSTM(2, 4, rng=0, dtype=dtype)
        output, (_, c_n) = lstm(const(x.astype(dtype)))
        ((output**2).sum() + (c_n**2).sum()).backward()
        values = [output, c_n, *(p.grad for p in lstm.parameters())]
        assert {v.dtype for v in values} == {np.dtype(dtype)}
        runs.append(values)
    for single, double in zip(*runs, strict=True):
        assert_close(single, double.numpy(), 2e-6)


# --- gradients ----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2)),
    st.integers(1, 2),
    st.booleans(),
    st.integers(0, 99),
)
def test_gradients_are_those_of_the_complex_step(
    sizes: tuple[int, int, int, int], layers: int, bias: bool, seed: int
) -> None:
    T, B, I, H = sizes  # noqa: E741
    lstm, last = layer(I, H, layers, bias=bias), (layers, B, H)
    x, h_0, c_0, a, b, d = draw(seed, (T, B, I), last, last, (T, B, H), last, last)

    def loss(at: dict[str, Array]) -> Array:
        h, c = loop(at, at["x"], at["h_0"], at["c_0"])
        return np.sum(a * h[-1] ** 2) + np.sum(b * h[:, -1]) + np.sum(d * c[:, -1] ** 2)

    weights = {n: w for n, w in weights_of(lstm).items() if not n.startswith("bias_hh")}
    given_ = {"x": x, "h_0": h_0, "c_0": c_0}
    expected = complex_gradients(loss, {**weights, **given_})
    inputs = {name: leaf(value) for name, value in given_.items()}
    output, (h_n, c_n) = lstm(inputs["x"], (inputs["h_0"], inputs["c_0"]))
    ((const(a) * output**2).sum() + (const(b) * h_n).sum() + (const(d) * c_n**2).sum()).backward()
    tensors = {**dict(lstm.named_parameters()), **inputs}
    assert set(tensors) == set(expected)
    for name, tensor in tensors.items():
        assert tensor.grad is not None, name
        assert_close(tensor.grad, expected[name], 1e-12, name)


def vanishing(T: int) -> tuple[tg.nn.LSTM, Array, Array]:
    """Forget gates near 0.3 and small weights: nothing is kept for long."""
    lstm = layer(2, 3)
    write(lstm.weight_hh_l0, host(lstm.weight_hh_l0) * 0.5)
    write(lstm.bias_ih_l0, host(lstm.bias_ih_l0)[3:6] - 1.0, at=slice(3, 6))
    x, start = draw(11, (T, 1, 2), (2, 1, 1, 3))
    return lstm, x, start


def exploding(T: int) -> tuple[tg.nn.LSTM, Array, Array]:
    """C̃ with large weights, and states that stay at 0, so that the gates alone follow the input."""
    lstm = layer(2, 3)
    write(lstm.weight_ih_l0, 0.0, at=slice(6, 9))
    write(lstm.bias_ih_l0, 0.0, at=slice(6, 9))
    write(lstm.weight_hh_l0, host(lstm.weight_hh_l0)[6:9] * 9.0, at=slice(6, 9))
    (x,) = draw(12, (T, 1, 2))
    return lstm, x, np.zeros((2, 1, 1, 3))


@pytest.mark.parametrize(
    ("make", "T", "first"), [(vanishing, 150, (1e-75, 1e-50)), (exploding, 150, (1e20, 1e60))]
)
def test_gradients_of_every_step_however_small_or_large(
    make: Any, T: int, first: tuple[float, float]
) -> None:
    """∂L/∂h_t and ∂L/∂c_t, by a kick to each entry, all in one run of the loop: a sequence per kick."""
    lstm, x, (h_0, c_0) = make(T)
    a, b = draw(13, (3,), (3,))
    N = T * 3
    units = np.zeros((1, T, N, 3), complex)
    for n in range(N):
        units[0, n // 3, n, n % 3] = 1j * STEP
    many = [np.repeat(v, N, axis=1) for v in (x, h_0, c_0)]
    expected = {}
    for name in ("kick_h", "kick_c"):
        h, c = loop(weights_of(lstm), *many, **{name: units})
        expected[name[-1]] = ((h[0, -1] @ a + c[0, -1] @ b).imag / STEP).reshape(T, 1, 3)
    output, (_, c_n) = lstm(const(x), (const(h_0), const(c_0)))
    flow = tg.inspect.gradient_flow((const(a) * output[-1]).sum() + (const(b) * c_n).sum())
    for name, stack in flow["lstm.l0"].items():
        for t in range(T):  # each step on its own scale
            assert_close(stack.grad[t], expected[name][t], 1e-11, f"∂L/∂{name} at {t}")
        assert first[0] < stack.grad_norm[0] < first[1]


@pytest.mark.parametrize("make", [vanishing, exploding])
def test_tiny_imaginary_parts_go_through_the_layer(make: Any) -> None:
    """A complex step of the layer itself, by the initial states over 150 steps."""
    lstm, x, start = make(150)
    kick = 1j * STEP * draw(14, start.shape)[0]
    h, c = loop(weights_of(lstm), x, *(start + kick))
    output, (_, c_n) = lstm(const(x), tuple(const(s) for s in start + kick))
    for t in range(150):
        assert_close(output.numpy()[t].imag, h[0, t].imag, 1e-11, f"h at {t}")
    assert_close(c_n.numpy().imag, c[:, -1].imag, 1e-11, "c_n")
    largest = np.abs(h[0, -1].imag).max() / STEP
    assert largest < 1e-50 if make is vanishing else largest > 1e20


# --- initial values -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("forget_bias", [1.0, -2, np.float32(0.5)])
def test_forget_bias_moves_one_block_of_the_bias(dtype: str, forget_bias: float) -> None:
    """Everything else has equal draws and bits; the sum with the bias is rounded once."""
    exact = tg.nn.LSTM(2, 3, 2, rng=7, dtype="float64")
    moved = tg.nn.LSTM(2, 3, 2, forget_bias=forget_bias, rng=7, dtype=dtype)
    again = tg.nn.LSTM(2, 3, 2, forget_bias=forget_bias, rng=7, dtype=dtype)
    for name, p in exact.named_parameters():
        expected = p.numpy().copy()
        if "bias" in name:
            expected[3:6] += forget_bias
        assert_same_bits(getattr(moved, name), expected.astype(dtype), name)
        assert_same_bits(getattr(again, name), expected.astype(dtype), name)
    cell, plain = (
        tg.nn.LSTMCell(2, 3, forget_bias=f, rng=7, dtype=dtype) for f in (forget_bias, 0)
    )
    assert_close(
        cell.bias_ih.numpy() - plain.bias_ih.numpy(), forget_bias * np.repeat([0, 1, 0, 0], 3), 1e-6
    )
    assert_same_bits(cell.weight_ih, plain.weight_ih.numpy())


def test_forget_bias_opens_the_gate() -> None:
    """With f near 1, and nothing else, the cell state is kept."""
    lstm = layer(2, 3, forget_bias=40.0)
    write(lstm.weight_ih_l0, 0.0)
    write(lstm.weight_hh_l0, 0.0)
    write(lstm.bias_ih_l0, -40.0, at=slice(3))
    x, h_0, c_0 = draw(8, (50, 2, 2), (1, 2, 3), (1, 2, 3))
    _, (_, c_n) = lstm(const(x), (const(h_0), const(c_0)))
    assert_close(c_n, c_0, 1e-14)


def test_forget_bias_is_not_a_part_of_a_loaded_state() -> None:
    source, target = layer(2, 3), layer(2, 3, forget_bias=5.0)
    target.load_state_dict(source.state_dict())
    for a, b in zip(target.parameters(), source.parameters(), strict=True):
        assert_same_bits(a, b.numpy())


def test_options_are_shown() -> None:
    text = repr(layer(2, 3, 2, forget_bias=1.0, batch_first=True, return_states=True))
    assert text.startswith(
        "LSTM(2, 3, num_layers=2, forget_bias=1, batch_first=True, return_states=True)"
    )
    assert ", fused=False)" in repr(layer(2, 3, fused=False))
    assert repr(tg.nn.LSTMCell(2, 3, bias=False)).startswith("LSTMCell(2, 3, bias=False)")
    assert repr(tg.nn.LSTMCell(2, 3, forget_bias=0.5)).startswith("LSTMCell(2, 3, forget_bias=0.5)")
