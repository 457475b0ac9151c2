"""``dropout`` between recurrent layers, and ``bidirectional``, where PyTorch is not the reference."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, assert_same_bits, const, host, leaf
from tests.tinygrad182.nn.own_cells import Leaky, Peephole

T, B, I, H = 5, 3, 2, 4  # noqa: E741
LENGTHS = [5, 2, 4]
X = np.random.default_rng(0).normal(size=(T, B, I))
KINDS: dict[str, Any] = {
    "RNN": tg.nn.RNN,
    "LSTM": tg.nn.LSTM,
    "GRU": tg.nn.GRU,
    "Peephole": Peephole,
    "Leaky": Leaky,
}
kinds = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, layers: int = 2, **options: Any) -> Any:
    return KINDS[kind](I, H, layers, **{"rng": 3, "dtype": "float64", **options})


# --- dropout --------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_dropout_is_its_formula_between_layers(kind: str, fused: bool, both: bool) -> None:
    """Against single layers, with masks drawn where the initial values of the same seed end."""
    layer = made(kind, 3, dropout=0.25, fused=fused, bidirectional=both, return_states=True)
    state, draws = layer.state_dict(), np.random.default_rng(3)
    plain = made(kind, 3, bidirectional=both, rng=draws)
    for name, value in plain.state_dict().items():
        assert_same_bits(value, state[name], f"{name} with dropout")
    x = here = leaf(X)
    for k in range(3):
        single = KINDS[kind](x.shape[-1], H, bidirectional=both, dtype="float64")
        single.load_state_dict({n: state[n.replace("_l0", f"_l{k}")] for n in single.state_dict()})
        if k:
            kept = draws.random(x.shape) >= 0.25
            x = x * const(kept / 0.75)
        x, _ = single(x)
    there = leaf(X)
    output, _, states = layer(there)
    assert_close(output, host(x), 1e-13)
    assert_close(states[0][-1], host(x)[..., -H:], 1e-13)  # of the last layer nothing is left out
    (x**2).sum().backward()
    (output**2).sum().backward()
    assert_close(there.grad, host(here.grad), 1e-12)


@kinds
def test_dropout_acts_in_training_only_and_draws_the_same_for_a_seed(kind: str) -> None:
    layer, twin, other = (made(kind, dropout=0.5, rng=seed) for seed in (3, 3, 4))
    x = const(X)
    first, second = layer(x)[0], layer(x)[0]
    assert (host(first) != host(second)).any()
    assert_same_bits(twin(x)[0], first)
    assert_same_bits(copy.deepcopy(twin)(x)[0], second)
    other.load_state_dict(layer.state_dict())
    assert (host(other(x)[0]) != host(first)).any()
    assert_same_bits(layer.eval()(x)[0], made(kind)(x)[0])
    assert (host(layer.train()(x)[0]) != host(layer.eval()(x)[0])).any()


@kinds
@pytest.mark.parametrize("both", [True, False])
def test_dropout_and_the_padding_have_nothing_to_do_with_each_other(kind: str, both: bool) -> None:
    """NaN past an end reaches nothing, and no gradient comes from there."""
    inside = (np.arange(T)[:, None] < np.array(LENGTHS))[..., None]
    found = []
    for padding in (0.0, np.nan):
        layer, x = made(kind, dropout=0.5, bidirectional=both), leaf(np.where(inside, X, padding))
        output, last = layer(x, None, LENGTHS)
        loss = tg.where(const(inside), output, 0.0).sum()
        last = last if isinstance(last, tuple) else (last,)
        (loss + sum(part.sum() for part in last)).backward()
        assert (host(x.grad)[~np.broadcast_to(inside, X.shape)] == 0).all()
        found.append([host(output), *map(host, last), host(x.grad)])
    for a, b in zip(*found, strict=True):
        assert_same_bits(a, b)


def test_remat_draws_the_same_again() -> None:
    found = []
    for wrapped in (tg.remat, lambda f: f):
        layer, x = made("LSTM", dropout=0.5, bidirectional=True), leaf(X)
        wrapped(lambda x, layer=layer: layer(x)[0])(x).sum().backward()
        found.append([x.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*found, strict=True):
        assert_close(a, host(b), 1e-13)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "Peephole"])
def test_dropout_of_a_single_layer_warns_at_the_line_that_asks_for_it(kind: str) -> None:
    with pytest.warns(
        UserWarning, match=rf"^{kind}: dropout=0\.5 leaves nothing out with num_l"
    ) as found:
        layer = KINDS[kind](I, H, dropout=0.5, rng=3, dtype="float64")
    assert [warning.filename for warning in found] == [__file__]
    assert_same_bits(layer(const(X))[0], made(kind, 1)(const(X))[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(kind, 1, dropout=0.0)


@kinds
@pytest.mark.parametrize("rate", [-0.1, 1.5, np.nan, True, "half", None])
def test_rates_that_are_none(kind: str, rate: Any) -> None:
    with pytest.raises(tg.ArgumentError, match=rf"^{kind}: dropout .* from 0 to 1"):
        made(kind, dropout=rate)


# --- both directions ------------------------------------------------------------------------------


@kinds
def test_names_shapes_and_what_is_printed(kind: str) -> None:
    layer = made(kind, bidirectional=True, dropout=0.25, batch_first=True)
    shapes = {name: p.shape for name, p in layer.named_parameters()}
    ahead = {n: shape for n, shape in shapes.items() if not n.endswith("_reverse")}
    assert {f"{n}_reverse": shape for n, shape in ahead.items()} == {
        n: shape for n, shape in shapes.items() if n not in ahead
    }
    assert [n[-10:] for n in shapes][:: len(shapes) // 4][1::2] == ["l0_reverse", "l1_reverse"]
    assert layer.weight_ih_l0.shape[1] == I
    assert layer.weight_ih_l1.shape[1] == layer.weight_ih_l1_reverse.shape[1] == 2 * H
    assert ", batch_first=True, dropout=0.25, bidirectional=True)" in repr(layer)
    assert set(layer.state_dict()) >= {"bias_hh_l0_reverse", "bias_hh_l1_reverse"}


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_arguments_stand_where_pytorch_has_them(kind: str) -> None:
    """help() lists them too."""
    names = list(inspect.signature(KINDS[kind]).parameters)
    between = ["nonlinearity"] if kind == "RNN" else []
    expected = [
        "input_size",
        "hidden_size",
        "num_layers",
        *between,
        "bias",
        "batch_first",
        "dropout",
    ]
    assert names[: len(expected) + 1] == [*expected, "bidirectional"]


@kinds
@pytest.mark.parametrize("ends", [None, LENGTHS])
def test_layers_of_both_directions_in_every_layout(kind: str, ends: Any) -> None:
    """``batch_first``, one sequence, windows and ``return_states`` give the numbers of the plain call."""
    plain = made(kind, bidirectional=True, return_states=True)
    output, last, states = plain(const(X), None, ends)
    lasts = last if isinstance(last, tuple) else (last,)
    assert output.shape == (T, B, 2 * H)
    assert {part.shape for part in lasts} == {(4, B, H)}
    assert {part.shape for part in states} == {(4, T, B, H)}
    assert_same_bits(tg.concat([states[0][2], states[0][3]], axis=2), output)
    for part, every in zip(lasts, states, strict=True):
        for i, end in enumerate(ends or [T] * B):
            assert_same_bits(part[::2, i], every[::2, end - 1, i])
            assert_same_bits(part[1::2, i], every[1::2, 0, i])
    turned = made(kind, bidirectional=True, batch_first=True)(const(X.swapaxes(0, 1)), None, ends)
    assert_same_bits(turned[0].swapaxes(0, 1), output)
    windows = plain(const(X), None, ends, truncate=2)
    assert_close(windows[0], host(output), 1e-14)
    for i, end in enumerate(ends or [T] * B):
        alone, _, of_one = plain(const(X[:end, i]))
        assert_close(alone, host(output)[:end, i], 1e-14)
        assert_close(of_one[0], host(states[0])[:, :end, i], 1e-14)


@kinds
def test_windows_of_the_reverse_direction_begin_at_the_end(kind: str) -> None:
    """No gradient flows from one window to the window that was read before it."""
    layer, x = made(kind, 1, bidirectional=True), leaf(X)
    output, _ = layer(x, truncate=2)  # windows of the reverse direction: x_4 x_3, x_2 x_1, x_0
    for t, read in ((4, [4]), (3, [3, 4]), (2, [2]), (1, [1, 2]), (0, [0])):
        (found,) = tg.grad(output[t, :, H:].sum(), [x], retain_graph=True)
        assert np.flatnonzero(np.abs(host(found)).sum(axis=(1, 2))).tolist() == read


@kinds
def test_initial_states_need_two_for_each_layer(kind: str) -> None:
    layer = made(kind, bidirectional=True)
    parts = layer.scan.parts
    state = tuple(const(np.zeros((2, B, H))) for _ in parts)
    with pytest.raises(tg.ShapeError, match=r"_0 \(2·layers, B, H\).*\(2, 3, 4\).*\(4, 3, 4\)"):
        layer(const(X), state if len(parts) > 1 else state[0])


def test_a_cell_is_one_step_and_has_neither() -> None:
    for option in ("bidirectional", "dropout"):
        with pytest.raises(tg.CallError, match=f"there is no argument {option!r}"):
            tg.nn.LSTMCell(2, 3, **{option: 0.5})
    assert "bidirectional" not in repr(tg.nn.LSTMCell(2, 3, rng=0))


def test_names_that_are_taken() -> None:
    for name in ("dropout", "bidirectional"):
        with pytest.raises(tg.ArgumentError, match=rf"weights has {name!r}.*taken"):
            type(
                "Mine",
                (tg.nn.RecurrentLayer,),
                {
                    "gates": 1,
                    "state": ("h",),
                    "weights": (name,),
                    "step": staticmethod(
                        lambda xp, x, h, state, dropout=0, bidirectional=0: (x + h,)
                    ),
                },
            )
