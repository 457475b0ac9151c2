"""The lattice: every prefix that a search kept, and every one that it pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .result import Scoring

Host = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class LatticeStep:
    """One step of a search, on the host.

    Attributes
    ----------
    candidates : ndarray (K', M), float64
        Log-probability of every continuation of the K' prefixes kept by the step before, the end token
        included.
    log_probabilities, parents, tokens : ndarrays (K,)
        The prefixes kept, best first: their log-probability, the prefix extended, and by which token.
    """

    candidates: Host
    log_probabilities: Host
    parents: Host
    tokens: Host


@dataclass
class Lattice:
    """What beam search looked at for one example.

    Attributes
    ----------
    scoring : Scoring
    eos : int or None
    steps : list of LatticeStep
    """

    scoring: Scoring
    eos: int | None
    steps: list[LatticeStep] = field(default_factory=list)

    def dropped(self, tokens: Sequence[int]) -> int | None:
        """The step, counted from 1, at which a sequence was pruned; None if it never was.

        Its prefix of that length was a candidate and not kept.
        """
        beam = 0
        for length, (step, token) in enumerate(zip(self.steps, tokens, strict=False), 1):
            if token == self.eos:
                return None
            at = np.flatnonzero((step.parents == beam) & (step.tokens == token))
            if not len(at):
                return length
            beam = int(at[0])
        return None
