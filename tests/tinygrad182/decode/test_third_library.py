"""Decoding with arrays of array-api-strict, which refuse what the standard does not promise."""

from __future__ import annotations

from typing import Any

import array_api_strict as xp
import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import host, host_only

pytestmark = host_only("arrays of the host are compared with others of the host")

SMALL, LARGE = 5, 700
SEARCHES: dict[str, Any] = {
    "beam_search": lambda *a, **k: tg.decode.beam_search(*a[:3], 3, *a[3:], **k),
    "penalty": lambda *a, **k: tg.decode.beam_search(*a[:3], 3, *a[3:], length_penalty=0.8, **k),
    "trace": lambda *a, **k: tg.decode.beam_search(*a[:3], 3, *a[3:], trace=True, **k),
    "greedy": tg.decode.greedy,
    "exhaustive": tg.decode.exhaustive,
    "exact_search": lambda *a, **k: tg.decode.exact_search(*a, max_expansions=30, **k),
    "sample": lambda *a, **k: tg.decode.sample(*a, count=3, rng=0, **k),
    "sample of a few": lambda *a, **k: tg.decode.sample(*a, count=3, rng=0, top_k=2, **k),
}


def _results(search: Any, library: Any, M: int, dtype: str, eos: int | None, tensors: bool) -> Any:
    rng = np.random.default_rng(2)
    z = rng.normal(size=(M, M)) * 2
    table = np.minimum(z - np.log(np.exp(z).sum(axis=1, keepdims=True)), 0).astype(dtype)
    table[rng.random(table.shape) < 0.2] = -np.inf
    rows = library.asarray(table)

    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        assert type(tokens) is type(rows)
        number = state["n"].data if tensors else state["n"]
        number = (number[0, ...] * 3 + tokens) % M
        values = library.take(rows, number, axis=0)
        state = {"n": number[None, ...], "none": None}
        if tensors:
            return tg.tensor(values), {**state, "n": tg.tensor(state["n"])}
        return values, state

    number = library.asarray(np.array([[1, 4]]))
    state = {"n": tg.tensor(number) if tensors else number, "none": None}
    length = 4 if search is not tg.decode.exhaustive else 2 if M == SMALL else 1
    found = search(step, state, [2, 0], length, eos, state_axis=1)
    return [
        [
            (h.tokens, h.log_probability, h.score, h.finished, host(h.state["n"]).tolist())
            for h in one
        ]
        + ([one.pruned, one.bound, one.certified, one.expanded] if hasattr(one, "bound") else [])
        for one in found
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(SEARCHES))
@pytest.mark.parametrize("M", [SMALL, LARGE])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("eos", [None, 1])
def test_strict_arrays_give_what_numpy_gives(
    name: str, M: int, dtype: str, eos: int | None
) -> None:
    search = SEARCHES[name]
    for tensors in (False, True):
        expected = _results(search, np, M, dtype, eos, tensors)
        assert _results(search, xp, M, dtype, eos, tensors) == expected
        assert expected[0][:1]


def test_start_tokens_choose_the_library_without_a_state() -> None:
    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        assert isinstance(tokens, type(xp.asarray(0)))
        return xp.take(xp.asarray(np.log([[0.5, 0.5], [0.25, 0.75]])), tokens, axis=0), None

    result = tg.decode.beam_search(step, None, xp.asarray([0, 1]), 2, 3)
    assert [one.tokens for one in result] == [(1, 1, 1), (1, 1, 1)]
