"""The lattice of a beam search: every prefix that it kept, pruned or finished, as text and picture."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..display import charts
from ..display.reprs import preformatted, shown
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
        The prefixes kept, best first: log-probability, the prefix that was extended, and the new token.
    ended : tuple of int
        The prefixes that were finished by the end token.
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
    """A prefix, and whether it was kept, pruned or finished."""

    tokens: tuple[int, ...]
    log_probability: float
    fate: Literal["kept", "pruned", "finished"]


@dataclass
class Lattice:
    """All prefixes that beam search compared for one example.

    ``print(lattice)`` shows them. :meth:`text` also takes names of tokens and the true optimum;
    :meth:`save_html` and :meth:`save_png` draw the lattice.

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
        """The prefixes of each step: kept ones first, then finished and pruned ones, best first.

        Parameters
        ----------
        most : int, optional
            The most pruned prefixes to return for a step.
        """
        found = []
        for length, (step, before) in enumerate(zip(self.steps, self.prefixes(), strict=False), 1):
            fate: Literal["kept", "finished"]
            fate = "finished" if length == self.scoring.max_length else "kept"
            places = list(zip(step.parents.tolist(), step.tokens.tolist(), strict=True))
            kept = [
                LatticeNode((*before[parent], token), value, fate)
                for (parent, token), value in zip(
                    places, step.log_probabilities.tolist(), strict=True
                )
            ]
            found.append(kept + self._not_kept(step, before, set(places), most))
        return found

    def _not_kept(
        self,
        step: LatticeStep,
        before: list[tuple[int, ...]],
        kept: set[tuple[int, int]],
        most: int | None,
    ) -> list[LatticeNode]:
        """The prefixes that a step finished by the end token, then those it pruned, best first."""
        ended = {(parent, self.eos) for parent in step.ended}
        finished: list[LatticeNode] = []
        pruned: list[LatticeNode] = []
        for flat in np.argsort(-step.candidates, axis=None, kind="stable").tolist():
            place = divmod(flat, step.candidates.shape[1])
            value = float(step.candidates[place])
            if place in kept or value == -np.inf:
                continue
            tokens = (*before[place[0]], place[1])
            if place in ended:
                finished.append(LatticeNode(tokens, value, "finished"))
            elif most is None or len(pruned) < most:
                pruned.append(LatticeNode(tokens, value, "pruned"))
            elif len(finished) == len(ended):
                break
        return finished + pruned

    def pruned_at(self, length: int) -> int:
        """The number of candidates that the step to prefixes of this length pruned."""
        step = self.steps[length - 1]
        reachable = int((step.candidates > -np.inf).sum())
        return reachable - len(step.tokens) - len(step.ended)

    def dropped(self, tokens: Sequence[int]) -> int | None:
        """The length of the prefix of a sequence that was pruned.

        It is None if the sequence was kept to its end, or as far as the search went.

        Raises
        ------
        ArgumentError
            The argument is not a sequence of tokens of the vocabulary, or it is longer than ``max_length``.
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
        """Write every step as lines of text.

        Parameters
        ----------
        words : sequence of str, or callable, optional
            Names of the tokens; their numbers by default.
        optimum : sequence of int, optional
            The best sequence of all, such as ``exact_search(...).tokens``. Its prefixes are marked with
            ``*``, and the step that pruned it is named.
        most : int
            The most pruned prefixes shown for a step; the others are counted.
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
        """The nodes to show: ``most`` pruned ones a step, and the pruned prefix of the optimum."""
        blocks = self.nodes(most)
        dropped = None if best is None else self.dropped(best)
        if best is None or dropped is None:
            return blocks
        prefix, nodes = best[:dropped], blocks[dropped - 1]
        beam = self.prefixes()[dropped - 1].index(prefix[:-1])
        value = float(self.steps[dropped - 1].candidates[beam, prefix[-1]])
        if value > -np.inf and all(node.tokens != prefix for node in nodes):
            nodes.append(LatticeNode(prefix, value, "pruned"))
        return blocks

    def check(self, tokens: Any) -> tuple[int, ...]:
        """Return a sequence of tokens, or those of a hypothesis, as a tuple of valid tokens."""
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
        """The picture in a notebook; the text if the extra ``viz`` is not installed."""
        try:
            return charts.inline(lattice_chart.TITLE, self.chart())
        except MissingDependencyError:
            return shown(preformatted(self))

    def chart(self, **options: Any) -> Any:
        """Return the picture as an Altair chart; parameters are those of :meth:`save_png`."""
        return lattice_chart.picture(self, **options)

    def save_html(self, path: str | Path, **options: Any) -> None:
        """Write the picture as a page that needs no network; parameters are those of :meth:`save_png`."""
        lattice_chart.save_html(self, path, **options)

    def save_png(self, path: str | Path, **options: Any) -> None:
        """Write the picture as an image.

        Parameters
        ----------
        path : str or Path
            A file there is replaced.
        words, optimum, most
            See :meth:`text`.
        gradient : GradientFlow, optional
            ``tg.inspect.gradient_flow(tg.decode.rescore(...).sum())``: the gradient of a hypothesis's
            log-probability by the states, drawn below the lattice over the same steps.
        title : str, optional

        Raises
        ------
        MissingDependencyError
            The extra ``viz`` is not installed.
        FileError
            The file cannot be written.
        """
        charts.save_png("save_png", self.chart(**options), path)


MOST_LINES = 40
"""The most lines of one step in the text."""

WIDEST = 60
"""The most characters of a prefix in the text."""

SIGNS = {"kept": "+", "pruned": "-", "finished": "#"}
"""The sign before a prefix in the text."""


def _cut(text: str) -> str:
    """Shorten a long prefix to its end; its beginning is in the lines above."""
    return text if len(text) <= WIDEST else "…" + text[1 - WIDEST :]
