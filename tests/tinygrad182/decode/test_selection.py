"""The best candidates of a step against a stable sort of all of them."""

from __future__ import annotations

from typing import Any

import array_api_strict as strict
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support import Array, array, host
from tinygrad182.arrays import backend
from tinygrad182.decode import selection
from tinygrad182.decode.selection import Candidates, best_candidates

SIZES = [
    1,
    2,
    3,
    10,
    63,
    64,
    65,
    171,
    511,
    512,
    513,
    600,
]  # sizes around the limits between the methods
VALUES = {
    "smooth": lambda rng, shape: -rng.exponential(size=shape),
    "ties": lambda rng, shape: rng.choice([-0.5, -1.0, -2.0], size=shape),
    "near": lambda rng, shape: -1 - 1e-9 * rng.random(shape),
    "equal": lambda rng, shape: np.full(shape, -0.25),
    "holes": lambda rng, shape: rng.choice([-np.inf, -np.inf, -0.5, -1.0], size=shape),
    "one": lambda rng, shape: np.where(rng.random(shape) < 2 / shape[1], -0.5, -np.inf),
    "nothing": lambda rng, shape: np.full(shape, -np.inf),
    "falling": lambda rng, shape: -np.sort(rng.exponential(size=shape), axis=1),
}


def _all_sorted(
    prefixes: Array, tokens: Array, count: int, without: int | None, order: Any = lambda c: c
) -> list[Any]:
    """The best (−log-probability, parent, token) of each example, by a loop over all."""
    A, K = prefixes.shape
    M = tokens.shape[1]
    found = []
    for a in range(A):
        every = [
            (-(float(prefixes[a, k]) + float(tokens[a * K + k, m])), k, m)
            for k in range(K)
            for m in range(M)
            if m != without
        ]
        found.append(sorted(every, key=order)[:count])
    return found


def _best(prefixes: Any, tokens: Any, count: int, without: int | None) -> Candidates:
    """The candidates on the host, chosen as a search does: with the arrays' card as the current one."""
    with backend.namespace(tokens).on(tokens):
        return Candidates(*map(host, best_candidates(prefixes, tokens, count, without)))


def _check(
    prefixes: Array,
    tokens: Array,
    count: int,
    without: int | None,
    make: Any = array,
    find: Any = None,
) -> None:
    """Check that the candidates are those of the loop, and that the arrays are unchanged."""
    arrays = make(prefixes.copy()), make(tokens.copy())
    values, parent, token, top = (find or _best)(*arrays, count, without)
    expected = _all_sorted(prefixes, tokens, count, without)
    assert values.dtype == np.float64
    for a, row in enumerate(expected):
        assert values[a].tolist() == [-value for value, _, _ in row]
        there = [(k, m) for value, k, m in row if value < np.inf]
        at = zip(parent[a].tolist(), token[a].tolist(), strict=True)
        assert list(at)[: len(there)] == there
    np.testing.assert_array_equal(top, tokens.max(axis=1).reshape(prefixes.shape))
    np.testing.assert_array_equal(host(arrays[0]), prefixes)
    np.testing.assert_array_equal(host(arrays[1]), tokens)
    assert token.min(initial=0) >= 0
    assert token.max(initial=0) < tokens.shape[1]  # also of what cannot be reached


def _drawn(data: st.DataObject) -> tuple[Array, Array, int, int | None]:
    draw = data.draw
    M = draw(st.sampled_from(SIZES), "M")
    A, K = draw(st.sampled_from([2, 1, 3]), "A"), draw(st.sampled_from([3, 2, 1, 5]), "K")
    kind, dtype = draw(st.sampled_from(sorted(VALUES))), draw(st.sampled_from(["f8", "f4"]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    tokens = VALUES[kind](rng, (A * K, M)).astype(dtype)
    prefixes = -np.sort(rng.choice([0.0, 0.5, 1.25, np.inf], size=(A, K)), axis=1)
    without = draw(st.none() | st.sampled_from([0, M // 2, M - 1]), "without")
    count = draw(st.sampled_from([K + 1, 1, 2, 9, K * M, K * M + 3]), "count")
    return prefixes, tokens, min(count, 40), without


@pytest.mark.parametrize("make", [array, strict.asarray], ids=["device", "strict"])
@given(st.data())
def test_equals_a_stable_sort(make: Any, data: st.DataObject) -> None:
    _check(*_drawn(data), make=make)


ORDERS = {
    "ties by the last": lambda c: (c[0], -c[1], -c[2]),
    "ties by the token": lambda c: (c[0], c[2], c[1]),
    "rounded to float32": lambda c: (np.float32(c[0]), c[1], c[2]),
    "the second best": lambda c: (c[0], c[1], c[2] ^ 1),
}


@pytest.mark.parametrize("fault", [*ORDERS, "the end token too"])
def test_wrong_choices_are_seen(fault: str) -> None:
    def find(prefixes: Array, tokens: Array, count: int, without: int | None) -> Any:
        omitted = None if fault == "the end token too" else without
        order = ORDERS.get(fault, lambda c: c)
        rows = _all_sorted(prefixes, tokens, count, omitted, order)
        chosen = np.array(rows, float).reshape(len(rows), len(rows[0]), 3)
        top = tokens.max(axis=1).reshape(prefixes.shape)
        return -chosen[..., 0], chosen[..., 1].astype(int), chosen[..., 2].astype(int), top

    @settings(
        max_examples=200, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    @given(st.data())
    def run(data: st.DataObject) -> None:
        _check(*_drawn(data), np.asarray, find)

    with pytest.raises(AssertionError):
        run()


@pytest.mark.parametrize("kind", sorted(VALUES))
@pytest.mark.parametrize("without", [None, 0, 4998, 4999])
def test_a_large_vocabulary(kind: str, without: int | None) -> None:
    rng = np.random.default_rng(5)
    tokens = VALUES[kind](rng, (2, 5000))
    for make in (array, strict.asarray):
        _check(np.array([[-0.5], [-0.75]]), tokens, 6, without, make)


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("kind", sorted(VALUES))
def test_many_rows_of_many_blocks(rows: int, kind: str) -> None:
    """There are too many numbers for the short methods."""
    rng = np.random.default_rng(7)
    A, K, M = rows, 8, 4000
    tokens = VALUES[kind](rng, (A * K, M))
    prefixes = -np.sort(rng.exponential(size=(A, K)), axis=1)
    found = _best(array(prefixes), array(tokens), 9, None)
    sums = (prefixes[:, :, None] + tokens.reshape(A, K, M)).reshape(A, -1)
    at = np.argsort(-sums, axis=1, kind="stable")[:, :9]
    expected = np.take_along_axis(sums, at, axis=1)
    np.testing.assert_array_equal(found.log_probability, expected)
    there = expected > -np.inf
    np.testing.assert_array_equal((found.parent * M + found.token)[there], at[there])


@pytest.mark.parametrize("M", [*range(43, 75), 505])
def test_few_of_many_prefixes(M: int) -> None:
    """A vocabulary that cannot be folded any more, although its maxima are still many."""
    rng = np.random.default_rng(M)
    prefixes = -np.sort(rng.exponential(size=(2, 12)), axis=1)
    _check(prefixes, VALUES["smooth"](rng, (24, M)), 1, None)


@pytest.mark.parametrize("M", [5, 600, 5000])
@pytest.mark.parametrize("without", [None, 0])
def test_a_nan_is_in_top(M: int, without: int | None) -> None:
    """Also in the end token's column, and in any block."""
    for at in (0, 1, M // 2, M - 1):
        tokens = np.full((4, M), -1.0)
        tokens[2, at] = np.nan
        found = _best(array(np.zeros((2, 2))), array(tokens), 3, without)
        np.testing.assert_array_equal(np.isnan(found.top), [[False, False], [True, False]])


@pytest.mark.parametrize("direct", [0, 10**6], ids=["in blocks", "all at once"])
@pytest.mark.parametrize("sort", [0, 10**6], ids=["partitioned", "sorted"])
def test_all_ways_agree(direct: int, sort: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The method does not change the result, for few numbers as for many."""
    rng = np.random.default_rng(3)
    monkeypatch.setattr(selection, "_DIRECT", direct)
    monkeypatch.setattr(selection, "_SORTED", sort)
    for kind in sorted(VALUES):
        for M in (1, 2, 4, 7, 30):
            for without in (None, 0, M - 1):
                tokens = VALUES[kind](rng, (6, M))
                prefixes = np.array([[-0.5, -0.5, -2.0], [0, -np.inf, -np.inf]])
                for make in (array, strict.asarray):
                    _check(prefixes, tokens, 6, without, make)
