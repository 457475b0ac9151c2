"""einsum against NumPy for subscripts drawn at random; the fixed ones are in the table."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles import derivatives
from tests.support import Array, array, assert_close, const, leaf, leaves
from tinygrad182.engine.backpropagation import backpropagate

SIZES = dict(zip("abcde", (2, 3, 1, 2, 3), strict=True))
DOTS = (2, 3)


@st.composite
def sums(draw: Any) -> tuple[str, list[tuple[int, ...]]]:
    """Subscripts and shapes: repeated letters, letters summed alone, ``...``, implicit outputs."""
    terms, shapes = [], []
    dotted = draw(st.booleans())
    for _ in range(draw(st.integers(1, 3))):
        letters = draw(st.lists(st.sampled_from("abcde"), max_size=3))
        shape = [SIZES[c] for c in letters]
        if dotted and draw(st.integers(0, 3)):
            at = draw(st.integers(0, len(letters)))
            width = draw(st.integers(0, 2))
            hidden = [n if draw(st.booleans()) else 1 for n in DOTS[2 - width :]]
            letters[at:at] = ["..."]
            shape[at:at] = hidden
        terms.append("".join(letters))
        shapes.append(tuple(shape))
    subscripts = draw(st.sampled_from([",", " , "])).join(terms)
    if draw(st.booleans()):
        used = sorted(set("".join(terms)) - {"."})
        out = draw(st.permutations(used))[: draw(st.integers(0, len(used)))]
        dots = ["..."] if "..." in subscripts else []
        at = draw(st.integers(0, len(out)))
        subscripts += "->" + "".join([*out[:at], *dots, *out[at:]])
    return subscripts, shapes


def _check(subscripts: str, xs: list[Array], seed: int = 0) -> None:
    expected = np.asarray(np.einsum(subscripts, *xs))
    inputs = leaves(xs)
    y = tg.einsum(subscripts, *inputs)
    assert_close(y, expected, 1e-13, floor=1.0)
    g = np.random.default_rng(seed).standard_normal(expected.shape)
    found = tg.grad(y, inputs, const(g))

    def f(*xs: Any) -> tg.Tensor:
        return tg.sum(const(g) * tg.einsum(subscripts, *xs))

    jacobians = derivatives.complex_jacobians(f, xs)
    for i, d in enumerate(found):
        assert_close(np.zeros(xs[i].shape) if d is None else d, jacobians[i], 1e-12, floor=1.0)


@given(drawn=sums(), seed=st.integers(0, 1000))
def test_equals_numpy(drawn: tuple[str, list[tuple[int, ...]]], seed: int) -> None:
    subscripts, shapes = drawn
    rng = np.random.default_rng(seed)
    _check(subscripts, [rng.standard_normal(s) for s in shapes], seed)


@pytest.mark.parametrize("subscripts", ["ab,cd", "ba", "...a,a...", "bb", "aab->", "a...,a", ","])
def test_implicit_and_odd_outputs(subscripts: str) -> None:
    rng = np.random.default_rng(0)
    sizes = {"a": 2, "b": 3, "c": 2, "d": 1}
    terms = subscripts.partition("->")[0].split(",")
    shapes = [
        sum(((2, 3) if c == "." else (sizes[c],) for c in t.replace("...", ".")), ()) for t in terms
    ]
    _check(subscripts, [rng.standard_normal(s) for s in shapes])


def test_one_operand_under_two_names() -> None:
    x = const(np.arange(4.0).reshape(2, 2))
    square = tg.jacobian(lambda x: tg.einsum("ij,jk->ik", x, x), x)
    (expected,) = derivatives.complex_jacobians(
        lambda x: tg.einsum("ij,jk->ik", x, x), [x.numpy()]
    ).values()
    assert_close(square, expected, 1e-14)


def test_as_many_letters_as_there_are() -> None:
    """Extra leading axes and diagonals take fresh letters: enough are left beside many axes."""
    xs = [np.ones((1,) * 12), np.ones((1,) * 12)]
    _check("abcdefghijkl,mnopqrstuvwx->", xs)
    row = tg.jacobian(lambda x: tg.einsum("abcdefghijkl->l", x), const(xs[0]))
    assert row.shape == (1,) * 13


def test_a_letter_summed_in_one_operand_alone_may_be_any() -> None:
    x, y = leaf(np.arange(6.0).reshape(2, 3)), leaf([2.0, 3.0, 5.0])
    tg.einsum("Xi,i->i", x, y).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[2.0, 3.0, 5.0]] * 2


def test_einsum_carries_several_leading_axes() -> None:
    x = leaf(np.arange(6.0).reshape(2, 3))
    y = tg.einsum("ij,ij->i", x, x)
    assert x._node is not None
    assert y._node is not None
    g = np.arange(1.0, 25.0).reshape(3, 4, 2)
    found = backpropagate([(y._node, array(g))], {x._node})[x._node]
    assert_close(found, 2 * g[..., None] * x.numpy(), 1e-15)
    assert y._node.inputs is None  # freed, unless told otherwise


@pytest.mark.parametrize("letters", [string.ascii_lowercase, string.ascii_uppercase])
def test_new_letters_are_found_in_either_case(letters: str) -> None:
    x = leaf(np.full((1,) * 26, 3.0))
    jacobian = tg.jacobian(lambda x: tg.einsum(f"{letters},{letters}->", x, x), x)
    assert jacobian.item() == 6.0
