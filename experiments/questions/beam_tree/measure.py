"""A search of the tree at one width."""

from __future__ import annotations

from dataclasses import dataclass

import tinygrad182 as tg
from experiments.questions.beam_tree.tree import LENGTH, START, in_words, initial, step


@dataclass(frozen=True)
class Search:
    """A search of one width, and the fate of the most likely sequence."""

    width: int
    result: tg.decode.SearchResult
    lattice: tg.decode.Lattice
    optimum: tg.decode.Hypothesis

    @property
    def dropped(self) -> int | None:
        """The number of words after which the optimum was dropped."""
        return self.lattice.dropped(self.optimum.tokens)

    @property
    def missed(self) -> float:
        """The score of the optimum above that of the search."""
        return self.optimum.score - self.result.score

    def stored(self, length: int) -> list[tuple[str, float]]:
        """Prefixes of a length that are stored, best first."""
        nodes = self.lattice.nodes()[length - 1]
        return [(in_words(n.tokens), n.log_probability) for n in nodes if n.fate != "pruned"]


def search(device: str, width: int, optimum: tg.decode.Hypothesis) -> Search:
    """Search the tree with one width."""
    result = tg.decode.beam_search(step, initial(device), START, width, LENGTH, trace=True)
    assert isinstance(result, tg.decode.SearchResult)
    return Search(width, result, result.lattice, optimum)
