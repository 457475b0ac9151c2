"""A hand-written cell: an LSTM whose gates also see the cell state."""

from __future__ import annotations

from typing import Any

import tinygrad182 as tg


class Peephole(tg.nn.RecurrentLayer):
    """LSTM with peepholes (Gers and Schmidhuber 2000)."""

    gates = ("i", "f", "g", "o")
    state = ("h", "c")
    weights = ("p_i", "p_f", "p_o")

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any, p_i: Any, p_f: Any, p_o: Any) -> Any:
        """One step."""
        c = state[1]
        i, f, g, o = xp.split(x + h, 4, axis=-1)
        c = xp.sigmoid(f + p_f * c) * c + xp.sigmoid(i + p_i * c) * xp.tanh(g)
        return xp.sigmoid(o + p_o * c) * xp.tanh(c), c
