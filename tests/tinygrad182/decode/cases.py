"""Searches to check: a model, examples to search for together, and the search's options."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles.beam_search import NextToken, Rules

from .models import EXAMPLES, LAYOUTS, NETWORKS, VALUES, Model, Table, network

Search = Callable[..., Any]  # beam_search, or one with a fault in it
PENALTIES = (0.0, 0.0, 0.6, 1.0, 2.5, -0.7, -1.0)


@dataclass(frozen=True)
class Case:
    """A call of beam search."""

    model: Model
    examples: tuple[int, ...]  # which initial state each one has
    starts: tuple[int, ...]
    width: int
    rules: Rules
    told: str  # description of how the model was drawn

    def __repr__(self) -> str:
        return f"{self.told}: examples {self.examples} from {self.starts}, K = {self.width}, {self.rules}"

    def next_token(self, b: int) -> NextToken:
        return functools.partial(self.model.next_token, self.examples[b], self.starts[b])

    def each(self) -> range:
        return range(len(self.starts))

    def run(self, search: Search, **told: Any) -> list[tg.decode.SearchResult]:
        """The results of searching for all examples together."""
        given = {
            "step": self.model.step,
            "state": self.model.state(self.examples),
            "start": list(self.starts),
            "beam_width": self.width,
            "max_length": self.rules.max_length,
            "eos": self.rules.eos,
            "length_penalty": self.rules.penalty,
            "state_axis": self.model.axis,
        }
        results: list[tg.decode.SearchResult] = search(**{**given, **told})
        assert len(results) == len(self.starts)
        return results

    def of(self, order: Sequence[int]) -> Case:
        """This case with some of its examples, in a given order."""
        examples = tuple(self.examples[b] for b in order)
        return replace(self, examples=examples, starts=tuple(self.starts[b] for b in order))

    def with_(self, width: int | None = None, **rules: Any) -> Case:
        rules_ = self.rules._replace(**rules)
        return replace(self, width=self.width if width is None else width, rules=rules_)

    @property
    def tolerance(self) -> float:
        """0 for a table, which is looked up; a network's sums round differently for other batches."""
        return 0.0 if self.model.exact else 1e-12

    def same(self, a: float, b: float) -> bool:
        return a == b or math.isclose(a, b, rel_tol=self.tolerance, abs_tol=self.tolerance)


@st.composite
def models(draw: st.DrawFn, tokens: int) -> tuple[Model, str]:
    seed = draw(st.integers(0, 10**6))
    kind = draw(st.sampled_from([*sorted(VALUES), *sorted(VALUES), *NETWORKS]))
    if kind in NETWORKS:
        return network(kind, tokens, seed % 4), f"{kind}, {tokens} tokens, seed {seed % 4}"
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    return Table(kind, layout, tokens, seed), f"{kind} in a {layout}, {tokens} tokens, seed {seed}"


@st.composite
def cases(draw: st.DrawFn, wide: bool = True, penalties: Sequence[float] = PENALTIES) -> Case:
    """Searches; unless they are wide, they have few enough sequences to try all.

    Sizes are sampled from lists, those that ask most among them more often.
    """
    # Of 90 tokens and more there are more candidates than are sorted as they are.
    M = draw(st.sampled_from([3, 2, 4, 3, 2, 4, 1] + [90, 200] * wide))
    T = draw(st.sampled_from([3, 2, 1] if M > 4 else [4, 3, 4, 2, 1] if M > 3 else [5, 4, 3, 2, 1]))
    width = draw(st.sampled_from([3, 6, 9] if M > 4 else [2, 3, 1, 4, 6]))
    model, told = draw(models(M))
    eos = draw(st.sampled_from([*range(min(M, 4)), *range(min(M, 4)), None]))
    rules = Rules(T, eos, draw(st.sampled_from(penalties)))
    B = draw(st.sampled_from([2, 3, 1]))
    examples = draw(st.permutations(range(EXAMPLES)))[:B]
    starts = draw(st.lists(st.integers(0, min(M, 4) - 1), min_size=B, max_size=B))
    return Case(model, tuple(examples), tuple(starts), width, rules, told)
