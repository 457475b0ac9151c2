"""The cells that recurrences are tested on: those of the layers, and two that only tests have."""

from __future__ import annotations

from typing import Any, NamedTuple

import tinygrad182 as tg
from tests.tinygrad182.nn.own_cells import Peephole
from tinygrad182.recurrence.scans import Scan


def minimal_step(xp: Any, x: Any, h: Any, state: Any) -> Any:
    """A gate of its sum, and a candidate of the input alone (Heck and Salem 2017, in another form)."""
    n = x.shape[-1] // 2
    f = xp.sigmoid(x[..., :n] + h[..., :n])
    return ((1 - f) * state[0] + f * xp.tanh(x[..., n:]),)


PEEPHOLE = Scan.of(
    "peephole", Peephole.step, Peephole.gates, Peephole.state, dict.fromkeys(Peephole.weights, 1)
)
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
