"""Whole numbers of any integer type, and in any container, give what int64 gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, assert_same_bits, const, host, leaf
from tinygrad182 import modes

DTYPES = ["int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64"]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 3, 2))
TABLE = RNG.standard_normal((5, 4))

Call = Callable[[Any], Any]
"""A call with whole numbers ``n``: three of them from 1 to 4."""


def _layer(fused: bool, truncate: Any = None, last: bool = False) -> Call:
    """Outputs, and gradients by the weights, of sequences of three lengths."""

    def call(n: Any) -> Any:
        lstm = tg.nn.LSTM(2, 3, rng=0, dtype="float64", fused=fused)
        y, (h, _) = lstm(const(X), lengths=n, truncate=truncate)
        (h if last else y).sum().backward()
        return [y, *(p.grad for p in lstm.parameters())]

    return call


def _unrecorded(n: Any) -> Any:
    """Long enough to be run in windows."""
    rnn = tg.nn.RNN(2, 64, rng=0, dtype="float64")
    x = const(np.repeat(X, 3, axis=1).repeat(100, axis=0))
    with tg.no_grad():
        return rnn(x, lengths=np.tile(host(n), 3))[0]


def _expanded(n: Any) -> Any:
    rnn = tg.nn.RNN(2, 3, rng=0, dtype="float64")
    graph = tg.inspect.trace(rnn(const(X), lengths=n)[0].sum())
    (node,) = graph.select(op="rnn_scan")
    return [v.grad for v in graph.expand(node, time=host(n)[0]).nodes if v.requires_grad]


CALLS: dict[str, Call] = {
    "index": lambda n: leaf(TABLE)[n],
    "index, behind a slice": lambda n: leaf(TABLE)[:, n - 1],
    "index, apart": lambda n: leaf(X)[n, :, 0],
    "index by one": lambda n: leaf(TABLE)[n[0]],
    "take": lambda n: tg.take(leaf(TABLE), n, axis=0),
    "scatter_add": lambda n: tg.scatter_add((5,), "float64", [((tg.as_tensor(n),), const(X[0, :, 0]))]),
    "embedding": lambda n: tg.nn.Embedding(5, 3, padding_idx=2, rng=0)(n),
    "cross_entropy": lambda n: tg.nn.cross_entropy(leaf(TABLE[:3, :]), n * 0 + 3),
    "lengths": _layer(True),
    "lengths, truncated": _layer(True, truncate=4),
    "lengths, unrolled and truncated": _layer(False, truncate=2, last=True),
    "lengths, not recorded": _unrecorded,
    "expand": _expanded,
    "greedy": lambda n: [r.best.tokens for r in tg.decode.greedy(_step, None, start=n, max_length=4)],
    "rescore": lambda n: tg.decode.rescore(_step, None, 1, host(n) - 1),
}


def _step(tokens: Any, state: Any) -> Any:
    return tg.log_softmax(const(TABLE)[tokens], axis=-1), state


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CALLS)
def test_every_integer_type_is_int64(name: str, dtype: str) -> None:
    call, numbers = CALLS[name], [4, 1, 3]
    expected = call(array(np.array(numbers, "int64")))
    assert_same_bits(_flat(call(array(np.array(numbers, dtype)))), _flat(expected))


def _flat(found: Any) -> Any:
    several = found if isinstance(found, (list, tuple)) else [found]
    return np.concatenate([np.ravel(host(x)) for x in several])


SINGLE: dict[str, Call] = {
    "truncate": lambda n: _layer(True, truncate=n)(array([3, 9, 12])),
    "axis": lambda n: tg.sum(leaf(X), axis=n),
    "shape": lambda n: tg.zeros((n, 2)),
    "reshape": lambda n: tg.reshape(const(TABLE), (n * 0 + 5, -1)),
    "eye": lambda n: tg.eye(n),
    "pad": lambda n: tg.pad(leaf(TABLE), n),
    "at_time": lambda n: _recorded_at(n),
    "mark": lambda n: tg.inspect.gradient_flow(
        tg.inspect.mark(leaf(TABLE) * 2, "h", time=n).sum()
    )[""].h.time,
    "grad_by_hops": lambda n: tg.inspect.grad_by_hops(
        tg.nn.RNN(2, 3, rng=0, dtype="float64")(const(X))[0].sum(), max_hops=n
    ).grad,
}


def _recorded_at(n: Any) -> Any:
    with modes.at_time(n):
        scope = modes.MODES.get().scope
    assert type(scope.time) is int
    return np.array(scope.time)


@pytest.mark.parametrize("dtype", [*DTYPES, "int64"])
@pytest.mark.parametrize("name", SINGLE)
def test_one_number_of_an_integer_type_is_an_int(name: str, dtype: str) -> None:
    call = SINGLE[name]
    assert_same_bits(_flat(call(np.dtype(dtype).type(2))), _flat(call(2)))


def test_numbers_beyond_int64_are_out_of_range_and_not_negative() -> None:
    beyond = array(np.array([2**64 - 1, 0], "uint64"))  # −1 if it wrapped around
    with pytest.raises(tg.IndexOutOfRangeError):
        leaf(TABLE)[beyond]
    with pytest.raises(tg.IndexOutOfRangeError):
        tg.nn.Embedding(5, 3, rng=0)(beyond)
    with pytest.raises(tg.ArgumentError, match="must be from 1 to T = 12"):
        tg.nn.RNN(2, 3, rng=0)(const(X[:, :2].astype("float32")), lengths=beyond)
