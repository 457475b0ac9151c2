"""Faults of recurrences over a whole sequence: mistakes of a loop over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tinygrad182.engine.recording import is_tensor
from tinygrad182.recurrence.scans import Operands, Scan

from .cases import Call
from .mutants import Fault, asks

Change = Callable[[Operands, Any], Operands]
"""``change(operands, xp)`` returns the operands that a wrong rule uses."""
OTHERS = {"tanh": "identity", "identity": "relu", "relu": "tanh"}


def of_scans(scan: Scan, kind: str) -> dict[str, Fault]:
    """The faults by name, for a site of that kind."""

    def operands(change: Change) -> Fault:
        def changed(call: Call) -> Call:
            found = change(scan.operands(call.xs), call.xp)
            xs = (found.x, *found.initial, *found[2:6], *found.others, found.lengths)
            return replace(call, xs=xs[: len(call.xs)])

        return asks(changed)

    found = {name: operands(change) for name, change in OPERANDS.items()}
    found |= {name: asks(change) for name, change in CALLS.items()}
    if kind == "vjp":
        found |= {name: asks(change) for name, change in COTANGENTS.items()}
    return found


# --- operands -----------------------------------------------------------------------------------


def _no(x: Any) -> Any:
    return x * 0


def _blocks(given: Operands) -> int:
    return int(given.weight_hh.shape[0] // given.weight_hh.shape[1])


def _transposed(given: Operands, xp: Any) -> Operands:
    """Each block of W_h is transposed."""
    n = given.weight_hh.shape[1]
    blocks = xp.reshape(given.weight_hh, (_blocks(given), n, n))
    other = xp.reshape(xp.permute_dims(blocks, (0, 2, 1)), given.weight_hh.shape)
    return given._replace(weight_hh=other)


def _ordered(*order: int) -> Change:
    """The gates are in another order."""

    def change(given: Operands, xp: Any) -> Operands:
        if _blocks(given) != len(order):
            return given
        n = given.weight_hh.shape[1]

        def arranged(x: Any) -> Any:
            if not hasattr(x, "shape"):
                return x
            shape = (len(order), n, *x.shape[1:])
            blocks = xp.reshape(x, shape)
            return xp.reshape(xp.stack([blocks[k] for k in order]), x.shape)

        weights = {name: arranged(getattr(given, name)) for name in _WEIGHTS}
        return given._replace(**weights)

    return change


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

OPERANDS: dict[str, Change] = {
    "W_x dropped": lambda o, xp: o._replace(weight_ih=_no(o.weight_ih)),
    "W_h dropped": lambda o, xp: o._replace(weight_hh=_no(o.weight_hh)),
    "W_h transposed": _transposed,
    "bias dropped": lambda o, xp: o._replace(bias_ih=_no(o.bias_ih)),
    "bias twice": lambda o, xp: o._replace(bias_ih=o.bias_ih * 2),
    "the state's bias dropped": lambda o, xp: o._replace(bias_hh=_no(o.bias_hh)),
    "the state's bias twice": lambda o, xp: o._replace(bias_hh=o.bias_hh * 2),
    "biases swapped": lambda o, xp: o._replace(bias_ih=o.bias_hh, bias_hh=o.bias_ih),
    "state before step 0 dropped": lambda o, xp: o._replace(initial=tuple(map(_no, o.initial))),
    "cell before step 0 dropped": lambda o, xp: o._replace(
        initial=(o.initial[0], *map(_no, o.initial[1:]))
    ),
    "parts of the state swapped": lambda o, xp: o._replace(initial=o.initial[::-1]),
    "sequences swapped before step 0": lambda o, xp: o._replace(
        initial=tuple(xp.flip(h, axis=0) for h in o.initial)
    ),
    "time backwards": lambda o, xp: o._replace(x=xp.flip(o.x, axis=0)),
    "inputs of the step before": lambda o, xp: o._replace(
        x=xp.concat([_no(o.x[:1]), o.x[:-1]], axis=0)
    ),
    "forget gate and input gate swapped": _ordered(1, 0, 2, 3),
    "cell gate and output gate swapped": _ordered(0, 1, 3, 2),
    "forget gate and cell gate swapped": _ordered(0, 2, 1, 3),
    "reset gate and update gate swapped": _ordered(1, 0, 2),
    "update gate and new gate swapped": _ordered(0, 2, 1),
}

# --- calls --------------------------------------------------------------------------------------


def _longer(by: int) -> Callable[[Call], Call]:
    """The lengths are wrong by some steps."""

    def change(call: Call) -> Call:
        if "shortest" not in call.params:
            return call
        params = call.params | {"shortest": max(call.params["shortest"] + by, 0)}
        return replace(call, xs=(*call.xs[:-1], call.xs[-1] + by), params=params)

    return change


def _endless(call: Call) -> Call:
    """The lengths are ignored."""
    if "shortest" not in call.params:
        return call
    params = {name: value for name, value in call.params.items() if name != "shortest"}
    return replace(call, xs=call.xs[:-1], params=params)


def _other_nonlinearity(call: Call) -> Call:
    if "nonlinearity" not in call.params:
        return call
    other = OTHERS[call.params["nonlinearity"]]
    return replace(call, params=call.params | {"nonlinearity": other})


CALLS: dict[str, Callable[[Call], Call]] = {
    "lengths longer by one": _longer(1),
    "lengths shorter by one": _longer(-1),
    "lengths overlooked": _endless,
    "another nonlinearity": _other_nonlinearity,
}

# --- cotangents ---------------------------------------------------------------------------------


def _part_overlooked(part: int) -> Callable[[Call], Call]:
    """The cotangent of one part of an LSTM's state is lost."""

    def change(call: Call) -> Call:
        if call.y.ndim < 4 or is_tensor(call.g):
            return call
        g = call.g.copy()
        g[..., part, :, :, :] = 0
        return replace(call, g=g)

    return change


def _steps_overlooked(steps: slice) -> Callable[[Call], Call]:
    def change(call: Call) -> Call:
        g = call.g.copy()
        g[..., steps, :, :] = 0
        return replace(call, g=g)

    return change


def _states_rolled(by: int) -> Callable[[Call], Call]:
    """States are taken from the previous or the next step; the last one comes before the first."""
    return lambda call: replace(call, y=call.xp.roll(call.y, by, axis=-3))


COTANGENTS: dict[str, Callable[[Call], Call]] = {
    "what arrives at h overlooked": _part_overlooked(0),
    "what arrives at c overlooked": _part_overlooked(1),
    "what arrives at the last step overlooked": _steps_overlooked(slice(-1, None)),
    "what arrives before the last step overlooked": _steps_overlooked(slice(-1)),
    "states of the step before": _states_rolled(1),
    "states of the step after": _states_rolled(-1),
}
