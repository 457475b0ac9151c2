"""Decoding: beam search with a bound on what it can have missed, exact search and sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._suggestions import calls as _calls
from .beam import beam_search, exhaustive, greedy
from .best_first import exact_search
from .lattice import Lattice, LatticeStep
from .lstm_step import LSTMStep
from .rescoring import rescore
from .result import Hypotheses, Hypothesis, SearchResult
from .sampling import sample

__all__ = [
    "Hypotheses",
    "Hypothesis",
    "LSTMStep",
    "Lattice",
    "LatticeStep",
    "SearchResult",
    "beam_search",
    "exact_search",
    "exhaustive",
    "greedy",
    "rescore",
    "sample",
]

_calls.explain_calls_in(globals())

if not TYPE_CHECKING:
    __getattr__ = _calls.names_of(__name__, "tg.decode", {})
