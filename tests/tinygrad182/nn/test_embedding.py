"""Embedding: looked-up rows, sums of their gradients, and the inputs that it takes and refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_close, assert_same_bits, const, needs_torch, write

shapes = st.lists(st.integers(0, 4), max_size=3)


def drawn(shape: list[int], rows: int, width: int, seed: int) -> tuple[Array, Array]:
    """Tokens, and a cotangent for each of their vectors."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, rows, shape), rng.normal(size=(*shape, width))


def double(rows: int, width: int, **options: Any) -> tg.nn.Embedding:
    return tg.nn.Embedding(rows, width, rng=4, dtype="float64", **options)


@given(shapes, st.integers(1, 5), st.integers(0, 3), st.integers(0, 9))
def test_rows_and_their_gradient(shape: list[int], rows: int, width: int, seed: int) -> None:
    """∂L/∂weight_m is the sum of the cotangents at all places where m was looked up."""
    tokens, g = drawn(shape, rows, width, seed)
    layer = double(rows, width)
    y = layer(const(tokens))
    assert_same_bits(y, layer.weight.numpy()[tokens])
    (const(g) * y).sum().backward()
    expected = np.zeros((rows, width))
    for place in np.ndindex(tokens.shape):
        expected[tokens[place]] += g[place]
    assert_close(layer.weight.grad, expected, 1e-14, floor=1e-300)


@given(shapes, st.integers(2, 5), st.integers(0, 3), st.booleans(), st.integers(0, 9))
def test_against_torch(shape: list[int], rows: int, width: int, padded: bool, seed: int) -> None:
    torch = needs_torch()
    tokens, g = drawn(shape, rows, width, seed)
    padding = -2 if padded else None
    ours, theirs = (
        double(rows, width, padding_idx=padding),
        torch.nn.Embedding(rows, width, padding),
    )
    theirs.double().load_state_dict({"weight": torch.tensor(ours.weight.numpy().copy())})
    y_1, y_2 = ours(const(tokens)), theirs(torch.tensor(tokens))
    assert_same_bits(y_1, y_2.detach().numpy())
    (const(g) * y_1).sum().backward()
    (torch.tensor(g) * y_2).sum().backward()
    assert_close(ours.weight.grad, theirs.weight.grad.numpy(), 1e-14, floor=1e-300)


def test_a_padding_token_starts_at_zero_and_learns_nothing() -> None:
    layer = tg.nn.Embedding(4, 2, padding_idx=-3, rng=0)
    assert layer.padding_idx == 1
    assert (layer.weight.numpy()[1] == 0).all()
    assert (layer.weight.numpy()[[0, 2, 3]] != 0).all()
    write(layer.weight, 5.0)  # it may be given other values, as in PyTorch
    y = layer([[1, 2], [1, 1]])
    assert (y.numpy() == 5).all()
    y.sum().backward()
    assert_same_bits(layer.weight.grad, np.float32([[0, 0], [0, 0], [1, 1], [0, 0]]))


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "int16"])
def test_integers_of_any_kind(dtype: str) -> None:
    layer = tg.nn.Embedding(4, 2, rng=0)
    tokens = np.array([[0, 3], [2, 0]], dtype)
    assert_same_bits(layer(tokens), layer.weight.numpy()[tokens.astype(int)])
    assert_same_bits(layer(const(tokens)), layer.weight.numpy()[tokens.astype(int)])


def test_numbers_lists_and_no_tokens_at_all() -> None:
    layer = tg.nn.Embedding(4, 2, rng=0)
    rows = layer.weight.numpy()
    assert_same_bits(layer(3), rows[3])
    assert_same_bits(layer(np.int64(2)), rows[2])
    assert_same_bits(layer(np.array(1)), rows[1])
    assert_same_bits(layer((0, 2)), rows[[0, 2]])
    assert_same_bits(layer([[0], [2]]), rows[[[0], [2]]])
    assert layer([]).shape == (0, 2)
    assert tg.nn.Embedding(0, 2, rng=0)([]).shape == (0, 2)


def test_tokens_may_be_written_over_before_backward() -> None:
    layer, tokens = double(3, 1), np.array([0, 2])
    y = layer(tokens)
    tokens[...] = 1
    y.sum().backward()
    assert_same_bits(layer.weight.grad, np.array([[1.0], [0.0], [1.0]]))


def test_initial_values_are_normal() -> None:
    layer = tg.nn.Embedding(200, 100, rng=3)
    expected = np.random.default_rng(3).normal(size=(200, 100))
    assert_same_bits(layer.weight, expected.astype(np.float32))
    assert_same_bits(tg.nn.Embedding(200, 100, rng=3, dtype="float64").weight, expected)


def test_names_and_text() -> None:
    layer = tg.nn.Embedding(4, 2, 1, rng=0)
    assert list(layer.state_dict()) == ["weight"]
    assert repr(layer).startswith("Embedding(4, 2, padding_idx=1)  # 8 parameters")
    assert repr(tg.nn.Embedding(4, 2, rng=0)).startswith("Embedding(4, 2)")


def made() -> tg.nn.Embedding:
    return tg.nn.Embedding(4, 2, rng=0)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "beyond": (lambda: made()([0, 4]), tg.IndexOutOfRangeError, r"from 0 to 4; .* \[0, 4\)"),
    "negative": (lambda: made()([-1, 3]), tg.IndexOutOfRangeError, "from -1 to 3"),
    "a negative number": (lambda: made()(-1), tg.IndexOutOfRangeError, "from -1 to -1"),
    "no rows": (lambda: tg.nn.Embedding(0, 2)(0), tg.IndexOutOfRangeError, r"\[0, 0\)"),
    "floats": (lambda: made()([0.0, 1.0]), tg.DTypeError, "dtype float64.*dtype='int64'"),
    "a float": (lambda: made()(1.0), tg.DTypeError, "float64"),
    "a float Tensor": (lambda: made()(tg.tensor([1, 2])), tg.DTypeError, "dtype float32"),
    "Booleans": (lambda: made()(np.ones(4, bool)), tg.DTypeError, "dtype bool"),
    "text": (lambda: made()("ab"), tg.DTypeError, "indices in a str are not integers"),
    "nothing": (lambda: made()(None), tg.DTypeError, "in a NoneType"),
    "ragged": (lambda: made()([[0], [1, 2]]), tg.ArgumentError, "rows of unequal lengths"),
    "negative size": (lambda: tg.nn.Embedding(-1, 2), tg.ArgumentError, "num_embeddings -1"),
    "size as float": (lambda: tg.nn.Embedding(2, 2.0), tg.ArgumentError, r"embedding_dim 2\.0"),  # type: ignore[arg-type]
    "padding beyond": (
        lambda: tg.nn.Embedding(2, 2, 2),
        tg.ArgumentError,
        "padding_idx 2 must be a whole number from -2 to 1",
    ),
    "padding of text": (lambda: tg.nn.Embedding(2, 2, "0"), tg.ArgumentError, "padding_idx '0'"),  # type: ignore[arg-type]
    "whole numbers": (lambda: tg.nn.Embedding(2, 2, dtype="int64"), tg.DTypeError, "floating"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as caught:
        make()
    assert isinstance(caught.value, tg.TinygradError)
