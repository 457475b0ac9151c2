"""Whole numbers of any integer type, and in any container, give what int64 gives."""

from __future__ import annotations

import decimal
import fractions
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, assert_same_bits, const, host, leaf
from tinygrad182._numbers import check_whole
from tinygrad182.arrays import backend
from tinygrad182.engine import modes

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
    """The sequence is long enough to run in windows."""
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
    "scatter_add": lambda n: tg.scatter_add(
        (5,), "float64", [((tg.as_tensor(n),), const(X[0, :, 0]))]
    ),
    "embedding": lambda n: tg.nn.Embedding(5, 3, padding_idx=2, rng=0)(n),
    "cross_entropy": lambda n: tg.nn.cross_entropy(leaf(TABLE[:3, :]), n * 0 + 3),
    "lengths": _layer(True),
    "lengths, truncated": _layer(True, truncate=4),
    "lengths, unrolled and truncated": _layer(False, truncate=2, last=True),
    "lengths, not recorded": _unrecorded,
    "expand": _expanded,
    "greedy": lambda n: [
        r.best.tokens for r in tg.decode.greedy(_step, None, start=n, max_length=4)
    ],
    "rescore": lambda n: tg.decode.rescore(_step, None, 1, host(n) - 1),
}


def _step(tokens: Any, state: Any) -> Any:
    return tg.log_softmax(const(TABLE)[tokens], axis=-1), state


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CALLS)
def test_every_integer_type_is_int64(name: str, dtype: str) -> None:
    call, numbers = CALLS[name], [4, 1, 3]
    expected = array(np.array(numbers, "int64"))
    with backend.on(expected):  # a call may compute with the raw array
        expected = call(expected)
        found = call(array(np.array(numbers, dtype)))
    assert_same_bits(_flat(found), _flat(expected))


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
    "mark": lambda n: (
        tg.inspect.gradient_flow(tg.inspect.mark(leaf(TABLE) * 2, "h", time=n).sum())[""].h.time
    ),
    "grad_by_hops": lambda n: (
        tg.inspect.grad_by_hops(
            tg.nn.RNN(2, 3, rng=0, dtype="float64")(const(X))[0].sum(), max_hops=n
        ).grad
    ),
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
    with pytest.raises(tg.ArgumentError, match="must be from 0 to T = 12"):
        tg.nn.RNN(2, 3, rng=0)(const(X[:, :2].astype("float32")), lengths=beyond)


# --- numbers beyond all floats, and numbers of Python's that NumPy has no type for ----------------

HUGE = 10**400


def _state_of(kind: Any, **settings: Any) -> None:
    optimizer = kind([leaf(np.ones(2))], 0.1)
    state = optimizer.state_dict()
    state["param_groups"][0].update(settings)
    optimizer.load_state_dict(state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tg.optim.SGD([leaf(np.ones(2))], HUGE), "^SGD: lr 1000.* finite number from 0"),
        (lambda: _state_of(tg.optim.SGD, lr=HUGE), "^load_state_dict of SGD: .*lr 1000"),
        (lambda: _state_of(tg.optim.Adam, betas=[0.1, [0.2, 0.3]]), "betas .* two numbers"),
        (lambda: _state_of(tg.optim.Adam, betas=(HUGE, 0.1)), "betas .* two numbers"),
        (lambda: _state_of(tg.optim.Adam, betas=HUGE), "betas .* two numbers"),
        (lambda: tg.nn.LSTM(1, 2, forget_bias=HUGE), "forget_bias 1000.* finite"),
        (lambda: tg.nn.LayerNorm(2, eps=HUGE), "eps 1000.* finite"),
        (lambda: tg.nn.init.uniform_(tg.zeros(2), -HUGE), "uniform_: low -1000.* finite"),
        (lambda: tg.nn.init.normal_(tg.zeros(2), std=HUGE), "normal_: std 1000.* finite"),
        (lambda: tg.nn.init.normal_(tg.zeros(2), std=-1.0), "normal_: std -1.* from 0"),
        (lambda: tg.nn.init.constant_(tg.zeros(2), HUGE), "constant_: cannot read 1000"),
        (lambda: tg.nn.init.orthogonal_(tg.eye(2), HUGE), "orthogonal_: gain 1000.* finite"),
        (
            lambda: tg.nn.init.scale_to_spectral_radius_(tg.eye(2), HUGE),
            "scale_to_spectral_radius_: radius 1000.* finite",
        ),
        (lambda: tg.nn.init.spectral_radius(HUGE), "spectral_radius: cannot read 1000"),
        (lambda: tg.nn.init.spectral_radius([[HUGE]]), r"spectral_radius: cannot read \[\[1000"),
        (lambda: tg.pad(tg.ones(2), 1, constant_values=HUGE), "^pad: 1000.* cannot be float32"),
        (lambda: tg.pad(tg.ones(2), 1, constant_values="a"), "^pad: constant_values 'a'"),
        (lambda: tg.tensor([1.0, 2.0]).assign([HUGE, 1]), r"^assign: cannot read \[1000"),
        (lambda: tg.norm(tg.ones(2), "x"), "^norm: ord='x'"),
    ],
)
def test_numbers_beyond_all_floats_raise(call: Any, message: str) -> None:
    with pytest.raises(tg.TinygradError, match=message):
        call()


@pytest.mark.parametrize(
    "value", [10**30, fractions.Fraction(1, 3), decimal.Decimal("0.1"), -(2**64)]
)
def test_what_float_takes_is_a_number(value: Any) -> None:
    for data in (value, [value, 1]):
        found = tg.tensor([0.0, 0.0]).assign(data)
        expected = np.float32([float(value), 1.0 if isinstance(data, list) else float(value)])
        np.testing.assert_array_equal(host(found), expected)
        made = tg.tensor(data)
        assert made.shape == np.shape(data)
        np.testing.assert_array_equal(np.broadcast_to(host(made), 2), expected)
    with pytest.raises(tg.DTypeError, match="not numeric"):
        tg.tensor([value, object()])


@pytest.mark.parametrize("value", [3, np.uint8(3), np.array(3, np.int16), const(np.int64(3))])
def test_a_whole_number_of_any_type_is_an_argument(value: Any) -> None:
    number = check_whole("f", "n", value, 3, 3)
    assert type(number) is int
    assert number == 3


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        *[(value, ()) for value in (True, 3.0, "3", None, [3], const([3, 4]))],
        *[(2, (3,)), (5, (3, 4)), (-1, (0,))],
    ],
)
def test_any_other_argument_is_refused(value: Any, limits: tuple[int, ...]) -> None:
    bounds = "".join(f" {word} {n}" for word, n in zip(("from", "to"), limits, strict=False))
    with pytest.raises(tg.ArgumentError, match=rf"^f: n .* must be a whole number{bounds}$"):
        check_whole("f", "n", value, *limits)
