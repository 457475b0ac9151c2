"""The lattice: every prefix that a search kept, and every one that it pruned."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from .._reprs import preformatted, shown
from ..errors import ArgumentError, MissingDependencyError, brief
from . import lattice_chart
from .result import Scoring
from .token_names import Words, namer

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
    ended : tuple of int
        The prefixes whose end token was counted.
    """

    candidates: Host
    log_probabilities: Host
    parents: Host
    tokens: Host
    ended: tuple[int, ...] = ()

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.candidates.shape))
        return (
            f"<LatticeStep: {shape} candidates, {len(self.tokens)} kept, {len(self.ended)} ended>"
        )


class LatticeNode(NamedTuple):
    """A prefix, and what became of it."""

    tokens: tuple[int, ...]
    log_probability: float
    fate: Literal["kept", "pruned", "finished"]


@dataclass
class Lattice:
    """What beam search looked at for one example.

    ``print(lattice)`` shows it; :meth:`text` does with words and the true optimum, :meth:`save_html` and
    :meth:`save_png` draw it.

    Attributes
    ----------
    scoring : Scoring
    eos : int or None
    steps : list of LatticeStep

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> table = np.log([[0.6, 0.4], [0.5, 0.5], [0.01, 0.99]])   # after the start, after 0, after 1
    >>> def step(tokens, state):
    ...     return table[np.where(state == 0, 0, tokens + 1)], state + 1
    >>> lattice = tg.decode.greedy(step, np.zeros(1, int), 0, max_length=2, trace=True).lattice
    >>> print(lattice.text(words="ab", optimum=(1, 1)))
    step 1  + a    -0.511
            - b    -0.916  the optimum is dropped here
    step 2  # a a  -1.204
            - a b  -1.204
    + kept   - pruned   # finished
    >>> lattice.dropped((1, 1))
    1
    """

    scoring: Scoring
    eos: int | None
    steps: list[LatticeStep] = field(default_factory=list)

    def __repr__(self) -> str:
        kept = sum(len(step.tokens) for step in self.steps)
        pruned = sum(map(self.pruned_at, range(1, len(self.steps) + 1)))
        return (
            f"<Lattice of {len(self.steps)} steps: {kept} prefixes kept, {pruned} pruned; print(lattice) "
            "shows them>"
        )

    def prefixes(self) -> list[list[tuple[int, ...]]]:
        """The prefixes kept by each step, the empty one first."""
        found: list[list[tuple[int, ...]]] = [[()]]
        for step in self.steps:
            pairs = zip(step.parents.tolist(), step.tokens.tolist(), strict=True)
            found.append([(*found[-1][parent], token) for parent, token in pairs])
        return found

    def nodes(self, most: int | None = None) -> list[list[LatticeNode]]:
        """What became of every prefix, by step; kept ones first, then finished and pruned, best first.

        Parameters
        ----------
        most : int, optional
            At each step, not more than so many of the pruned ones.
        """
        found = []
        for length, (step, before) in enumerate(zip(self.steps, self.prefixes(), strict=False), 1):
            last = length == self.scoring.max_length
            kept = set(zip(step.parents.tolist(), step.tokens.tolist(), strict=True))
            ended = {(parent, self.eos) for parent in step.ended}
            there = [
                LatticeNode((*before[parent], token), value, "finished" if last else "kept")
                for parent, token, value in zip(
                    step.parents.tolist(),
                    step.tokens.tolist(),
                    step.log_probabilities.tolist(),
                    strict=True,
                )
            ]
            ends: list[LatticeNode] = []
            pruned: list[LatticeNode] = []
            for flat in np.argsort(-step.candidates, axis=None, kind="stable").tolist():
                place = divmod(flat, step.candidates.shape[1])
                value = float(step.candidates[place])
                if place in kept or value == -np.inf:
                    continue
                node = (*before[place[0]], place[1])
                if place in ended:
                    ends.append(LatticeNode(node, value, "finished"))
                elif most is None or len(pruned) < most:
                    pruned.append(LatticeNode(node, value, "pruned"))
                elif len(ends) == len(ended):
                    break
            found.append([*there, *ends, *pruned])
        return found

    def pruned_at(self, length: int) -> int:
        """How many candidates a step pruned."""
        step = self.steps[length - 1]
        reachable = int((step.candidates > -np.inf).sum())
        return reachable - len(step.tokens) - len(step.ended)

    def dropped(self, tokens: Sequence[int]) -> int | None:
        """The step, counted from 1, at which a sequence was pruned.

        None for one that was kept to its end, or as far as the search went.

        Raises
        ------
        ArgumentError
            No sequence of tokens of the vocabulary, or a longer one than was searched for.
        """
        tokens = self.check(tokens)
        beam = 0
        for length, (step, token) in enumerate(zip(self.steps, tokens, strict=False), 1):
            if token == self.eos and self.eos is not None:
                return None if beam in step.ended else length
            at = np.flatnonzero((step.parents == beam) & (step.tokens == token))
            if not len(at):
                return length
            beam = int(at[0])
        return None

    def text(self, words: Words = None, optimum: Sequence[int] | None = None, most: int = 4) -> str:
        """Every step in lines of text.

        Parameters
        ----------
        words : sequence of str, or callable, optional
            What the tokens are called; their numbers by default.
        optimum : sequence of int, optional
            The best sequence of all, such as ``exact_search(...).tokens``: its prefixes are marked with
            ``*``, and the step at which it was dropped is told.
        most : int
            Pruned prefixes shown at each step; the others are counted.
        """
        name = namer(words)
        best = None if optimum is None else self.check(optimum)
        dropped = None if best is None else self.dropped(best)
        blocks = self.shown(most, best)
        texts = {n: _cut(" ".join(map(name, n.tokens))) for nodes in blocks for n in nodes}
        widest = max(map(len, texts.values()), default=0)
        lines = []
        for length, nodes in enumerate(blocks, 1):
            on_path = None if best is None else best[:length]
            hidden = self.pruned_at(length) - sum(n.fate == "pruned" for n in nodes)
            for i, node in enumerate(nodes):
                if i >= MOST_LINES and node.tokens != on_path:
                    hidden += 1
                    continue
                head = f"step {length}" if i == 0 else ""
                text = texts[node]
                line = (
                    f"{head:<{len(f'step {len(blocks)}')}}  {SIGNS[node.fate]} {text:<{widest}}  "
                )
                line += f"{node.log_probability:.3f}"
                if node.tokens == on_path:
                    line += "  the optimum is dropped here" if length == dropped else "  *"
                lines.append(line)
            if hidden:
                lines.append(" " * len(f"step {len(blocks)}") + f"    {hidden} more")
        legend = "   ".join(f"{sign} {fate}" for fate, sign in SIGNS.items())
        return "\n".join([*lines, legend + ("   * the optimum" if "  *" in str(lines) else "")])

    def shown(self, most: int, best: tuple[int, ...] | None) -> list[list[LatticeNode]]:
        """The nodes to show: not many, but that of the optimum where it was dropped."""
        blocks = self.nodes(most)
        dropped = None if best is None else self.dropped(best)
        if best is None or dropped is None:
            return blocks
        if not np.isfinite(self.value_of(best[:dropped])):
            return blocks  # it cannot be reached at all
        prefix = best[:dropped]
        if all(node.tokens != prefix for node in blocks[dropped - 1]):
            blocks[dropped - 1].append(LatticeNode(prefix, self.value_of(prefix), "pruned"))
        return blocks

    def value_of(self, prefix: tuple[int, ...]) -> float:
        """Log-probability of a candidate whose parent was kept."""
        step = self.steps[len(prefix) - 1]
        beam = self.prefixes()[len(prefix) - 1].index(prefix[:-1])
        return float(step.candidates[beam, prefix[-1]])

    def check(self, tokens: Any) -> tuple[int, ...]:
        """A sequence of tokens, or a hypothesis, as a tuple."""
        given = getattr(tokens, "tokens", tokens)
        try:
            found = tuple(map(operator.index, given))
        except TypeError as error:
            raise ArgumentError(f"lattice: {brief(tokens)} is not a sequence of tokens") from error
        M = self.steps[0].candidates.shape[1] if self.steps else 0
        if len(found) > self.scoring.max_length or not all(0 <= token < M for token in found):
            raise ArgumentError(
                f"lattice: {found} is not a sequence of at most {self.scoring.max_length} tokens from 0 "
                f"to {M - 1}"
            )
        return found

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        """The picture in a notebook; its lines of text without the extra ``viz``."""
        try:
            return lattice_chart.inline(self)
        except MissingDependencyError:
            return shown(preformatted(self))

    def chart(self, **options: Any) -> Any:
        """The picture as an Altair chart, for a notebook; parameters are those of :meth:`save_png`."""
        return lattice_chart.picture(self, **options)

    def save_html(self, path: str | Path, **options: Any) -> None:
        """Draw it on a page that needs no network; parameters are those of :meth:`save_png`."""
        lattice_chart.save_html(self, path, **options)

    def save_png(self, path: str | Path, **options: Any) -> None:
        """Draw it.

        Parameters
        ----------
        path : str or Path
            Replaced as a whole.
        words, optimum, most
            As for :meth:`text`.
        gradient : GradientFlow, optional
            ``tg.inspect.gradient_flow(tg.decode.rescore(...).sum())``: the gradient of a hypothesis's
            log-probability by the states, drawn below over the same steps.
        title : str, optional

        Raises
        ------
        MissingDependencyError
            Without the extra ``viz``.
        FileError
            The file cannot be written.
        """
        lattice_chart.save_png(self, path, **options)


MOST_LINES = 40
"""The most lines that one step has in text."""

WIDEST = 60
"""Characters of a prefix, in text."""

SIGNS = {"kept": "+", "pruned": "-", "finished": "#"}
"""What stands before a prefix in text."""


def _cut(text: str) -> str:
    """The end of a long prefix: its beginning stands in the lines above."""
    return text if len(text) <= WIDEST else "…" + text[1 - WIDEST :]
