"""The cells that recurrences are tested on: those of the layers, and two that only tests have."""

from __future__ import annotations

from typing import Any, NamedTuple

import tinygrad182 as tg
from tinygrad182.recurrence.scans import Scan


def peephole_step(
    xp: Any, x: Any, h: Any, state: Any, peep_i: Any, peep_f: Any, peep_o: Any
) -> Any:
    """An LSTM whose gates also see the cell state (Gers and Schmidhuber 2000)."""
    z, c = x + h, state[1]
    n = z.shape[-1] // 4
    i = xp.sigmoid(z[..., :n] + peep_i * c)
    f = xp.sigmoid(z[..., n : 2 * n] + peep_f * c)
    c = f * c + i * xp.tanh(z[..., 2 * n : 3 * n])
    return xp.sigmoid(z[..., 3 * n :] + peep_o * c) * xp.tanh(c), c


def minimal_step(xp: Any, x: Any, h: Any, state: Any) -> Any:
    """A gate of its sum, and a candidate of the input alone (Heck and Salem 2017, in another form)."""
    n = x.shape[-1] // 2
    f = xp.sigmoid(x[..., :n] + h[..., :n])
    return ((1 - f) * state[0] + f * xp.tanh(x[..., n:]),)


PEEPHOLES = {"peep_i": 1, "peep_f": 1, "peep_o": 1}
PEEPHOLE = Scan.of("peephole", peephole_step, ("i", "f", "g", "o"), ("h", "c"), PEEPHOLES)
MINIMAL = Scan.of("minimal", minimal_step, ("f", "n"), ("h",))


class Kind(NamedTuple):
    """A recurrence, and the parameters of its step."""

    scan: Scan
    params: dict[str, Any]


def _kinds() -> dict[str, Kind]:
    lstm: Any = tg.PRIMITIVES["lstm_scan"]
    rnn: Any = tg.PRIMITIVES["rnn_scan"]
    gru: Any = tg.PRIMITIVES["gru_scan"]
    vanilla = {name: Kind(rnn, {"nonlinearity": name}) for name in ("tanh", "relu", "identity")}
    others = {"gru": gru, "peephole": PEEPHOLE, "minimal": MINIMAL}
    return {"lstm": Kind(lstm, {}), **vanilla, **{name: Kind(s, {}) for name, s in others.items()}}


KINDS = _kinds()
