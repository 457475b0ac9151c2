"""Faults between a step and its loops: in the derivation, its listings and the products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles.loops import step_by_step
from tests.support import const, leaf
from tests.tinygrad182.cells import KINDS, Kind
from tests.tinygrad182.kernels import cases
from tests.tinygrad182.kernels.cases import Case, make
from tinygrad182 import kernels
from tinygrad182.kernels import numpy_loops, products, program, runs
from tinygrad182.kernels.program import Listing, Program, Register, Tape
from tinygrad182.recurrence import scans, tracing
from tinygrad182.recurrence.scans import Scan

# --- comparison -----------------------------------------------------------------------------------


def _detaching(xp: Any, x: Any, h: Any, state: Any) -> Any:
    return (xp.tanh(x + h.detach() * xp.sigmoid(h)) + state[1].detach(), x * state[0].detach())


def _handing_on(xp: Any, x: Any, h: Any, state: Any) -> Any:
    return (xp.tanh(x + h) * state[1] * state[2], state[1], 0.5 * state[0])


def _gated_by_weights(xp: Any, x: Any, h: Any, state: Any, a: Any, b: Any) -> Any:
    n = state[0].shape[-1]
    f = xp.sigmoid(x[..., :n] + a[..., :n] * h[..., :n])
    return (f * xp.tanh(x[..., n:] + h[..., n:]) + a[..., n:] * xp.sin(b * state[0]),)


def _doubling(xp: Any, x: Any, h: Any, state: Any) -> Any:
    return (xp.tanh((x + x) + h * state[0]),)


def _by_size(xp: Any, x: Any, h: Any, state: Any) -> Any:
    return (xp.tanh(x + h) / x.shape[-1],)


SUBJECTS: dict[str, Kind] = {
    **KINDS,
    "detaching": Kind(Scan.of("detaching", _detaching, ("z",), ("h", "c")), {}),
    "handing on": Kind(Scan.of("handing on", _handing_on, ("z",), ("h", "c", "d")), {}),
    "gated by weights": Kind(
        Scan.of("gated by weights", _gated_by_weights, ("f", "g"), ("h",), {"a": 2, "b": 1}), {}
    ),
    "doubling": Kind(Scan.of("doubling", _doubling, ("z",), ("h",)), {}),
    "by size": Kind(Scan.of("by size", _by_size, ("z",), ("h",)), {}),
}
NUMBERS = {"lstm": (4, 4), "gru": (4, 4), "tanh": (1, 0), "relu": (1, 0), "identity": (1, 0)}
"""Largest numbers of sums and kept values of the layers' cells."""


def case_of(kind: str, lengths: bool) -> Case:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "CELLS", SUBJECTS)
        return make(kind, (4, 3, 2, 5), "float64", lead=(2,), bias="both", lengths=lengths)


def differs(kind: str) -> bool:
    """Whether a cell's loops differ from its definition, or save more than they need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "COMPILED", False)
        patch.setattr(cases, "CELLS", SUBJECTS)
        try:
            scan, params = SUBJECTS[kind]
            found = scan.program(**params)
            most = NUMBERS.get(kind)
            if found and most and (found.sums, found.saved) > most:
                return True
            if not all(_same(case_of(kind, lengths)) for lengths in (False, True)):
                return True
            return found is not None and not _same_inside(case_of(kind, False))
        except Exception:  # however a fault shows, it shows
            return True


def _same(case: Case) -> bool:
    states, *expected = case.defined()
    if case.scan.program(**SUBJECTS[case.kind].params) is None:
        assert case.scan.forward_with_residuals is not None
        return np.allclose(case.scan.forward(cases.NUMPY, *case.inputs, **case.params), states)
    pairs = zip([case.states(), *case.gradients()], [states, *expected], strict=True)
    return all(np.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in pairs)


def _same_inside(case: Case) -> bool:
    """Whether each state has the gradient that the definition gives it."""
    found = case.inside()
    kept = np.moveaxis(np.ldexp(found.states, found.powers), 0, 2)
    inputs, (T, B, H) = list(map(leaf, case.inputs)), found.states.shape[-3:]
    states, _ = step_by_step(case.scan, inputs, np.ones((T, B), bool), **case.params)
    gs = np.moveaxis(case.g.reshape(2, -1, T, B, H), 1, 2)
    for g, mine in zip(gs, kept, strict=True):
        by = tg.grad(states, states, list(map(const, g.reshape(-1, B, H))), retain_graph=True)
        true = np.array([d.numpy() for d in by]).reshape(mine.shape)
        if not np.allclose(mine, true, rtol=1e-10, atol=1e-12):
            return False
    return True


@contextmanager
def derived_anew() -> Iterator[None]:
    """Forget all programs, before and after."""
    _forget()
    try:
        yield
    finally:
        _forget()


def _forget() -> None:
    scans._DERIVED.clear()
    scans._BY_TEXT.clear()  # programs that are alive elsewhere were derived without a fault


# --- faults ---------------------------------------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]
FAULTS: dict[str, Plant] = {}


def fault(name: str) -> Callable[[Plant], Plant]:
    def named(plant: Plant) -> Plant:
        FAULTS[name] = plant
        return plant

    return named


def _around(patch: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replace a function by ``change(function, *operands)``."""
    function = getattr(owner, name)
    patch.setattr(owner, name, lambda *given, **more: change(function, *given, **more))


def _wherever(patch: pytest.MonkeyPatch, name: str, change: Callable[..., Any]) -> None:
    """Patch a function in every module that has imported it."""
    for module in (numpy_loops, products, program, runs, tracing, scans):
        if hasattr(module, name):
            _around(patch, module, name, change)


@fault("every gate has one sum")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tracing, "_shared", lambda after, gates: ((), tuple(range(gates))))


@fault("every gate has two sums")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tracing, "_shared", lambda after, gates: (tuple(range(gates)), ()))


@fault("gates with one sum and with two are confused")
def _(patch: pytest.MonkeyPatch) -> None:
    _around(patch, tracing, "_shared", lambda f, *given: f(*given)[::-1])


@fault("the input twice is the gate's sum")
def _(patch: pytest.MonkeyPatch) -> None:
    def whole(inputs: list[Any], places: dict[Any, int]) -> bool:
        return inputs[0] in places and places[inputs[0]] == places.get(inputs[1])

    patch.setattr(tracing, "_is_whole_sum", whole)


@fault("gates of the state are in the order of those of the input")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Program, "h_gates", property(lambda p: p.x_only + p.shared))


@fault("weights stay in the order that a cell declares")
def _(patch: pytest.MonkeyPatch) -> None:
    _wherever(patch, "of_gates", lambda f, m, weight, gates, H: weight)


@fault("gradients stay in the order of sums")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(products, "as_declared", lambda m, by, gates, H: by)


def _losing(kind: str, which: int) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def lost(f: Any, reverse: Any) -> Any:
            found = f(reverse)
            keys = sorted(key for key in found if key[0] == kind)
            return {key: r for key, r in found.items() if key not in keys[which:][:1]}

        _around(patch, tracing._Reverse, "_cotangents", lost)

    return plant


for _kind in ("sum", "weight", "before"):
    for _which in (0, -1):
        _place = "last" if _which else "first"
        FAULTS[f"the cotangent of the {_place} {_kind} is dropped"] = _losing(_kind, _which)


@fault("cotangents are written over, not added up")
def _(patch: pytest.MonkeyPatch) -> None:
    def make(f: Any, tape: Tape, op: str, *args: Any) -> Any:
        on_cotangents = [isinstance(a, Register) and a.is_cotangent for a in args]
        return args[1] if op == "add" and all(on_cotangents) else f(tape, op, *args)

    _around(patch, Tape, "make", make)


def _scaled_by(other: Callable[..., Any]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def make(f: Any, tape: Tape, op: str, *args: Any) -> Any:
            if op == "multiply":
                a, b = args[::-1] if getattr(args[1], "is_cotangent", False) else args
                if program._is_scaled(a):
                    return f(tape, op, a.args[0], other(f, tape, a.args[1], b))
            return f(tape, op, *args)

        _around(patch, Tape, "make", make)

    return plant


FAULTS["of two factors the second is dropped"] = _scaled_by(lambda f, tape, a, b: a)
FAULTS["of two factors the first is dropped"] = _scaled_by(lambda f, tape, a, b: b)
FAULTS["two factors are added"] = _scaled_by(lambda f, tape, a, b: f(tape, "add", a, b))


@fault("equal operations on other operands are one")
def _(patch: pytest.MonkeyPatch) -> None:
    seen: dict[Any, Any] = {}

    def make(f: Any, tape: Tape, op: str, *args: Any) -> Any:
        return seen.setdefault((id(tape), op), (f(tape, op, *args), tape))[0]

    _around(patch, Tape, "make", make)


@fault("a slot is not kept")
def _(patch: pytest.MonkeyPatch) -> None:
    def fewer(f: Any, *given: Any) -> Any:
        return set(sorted(f(*given), key=lambda r: r.order)[1:])

    _around(patch, tracing._Reverse, "_saved", fewer)


@fault("slots are read in another order")
def _(patch: pytest.MonkeyPatch) -> None:
    def listings(f: Any, reverse: Any) -> Any:
        forward, backward = f(reverse)
        n = len(reverse.slots)
        outputs = {
            (kind, n - 1 - i if kind == "saved" else i): r
            for (kind, i), r in forward.outputs.items()
        }
        return Listing(outputs), backward

    _around(patch, tracing._Reverse, "listings", listings)


@fault("detach is ignored")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tracing, "_as_constant", lambda x: x)


@fault("a part that is handed on is the part before")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tracing, "_own", lambda x, k: x)


@fault("a step is looked at for one size")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tracing, "LARGE", tracing.SMALL)


@fault("factors are swapped")
def _(patch: pytest.MonkeyPatch) -> None:
    def swapped(f: Any, listing: Listing) -> Any:
        factors, moving = f(listing)
        n = len(factors.outputs)
        return Listing({(kind, n - 1 - i): r for (kind, i), r in factors.outputs.items()}), moving

    _around(patch, program, "split", swapped)


@fault("a bias that stands alone is dropped")
def _(patch: pytest.MonkeyPatch) -> None:
    _around(patch, numpy_loops, "biases", lambda f, *given: (f(*given)[0], None))


@fault("the bias of the state's sums is not added to the input's")
def _(patch: pytest.MonkeyPatch) -> None:
    def apart(f: Any, m: Any, p: Any, weights: Any, H: int) -> Any:
        alone = f(m, p, weights._replace(bias_ih=None), H)[1]
        return f(m, p, weights._replace(bias_hh=None), H)[0], alone

    _around(patch, numpy_loops, "biases", apart)


@fault("a bias is multiplied by 0")
def _(patch: pytest.MonkeyPatch) -> None:
    def zeros(f: Any, m: Any, x: Any) -> Any:
        wide = f(m, x)
        wide[:, -1] = 0
        return wide

    _wherever(patch, "with_ones", zeros)


@fault("sequences never end")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(runs.Lengths, "finished", lambda lengths, t: None)


@fault("sequences end a step late")
def _(patch: pytest.MonkeyPatch) -> None:
    _around(patch, runs.Lengths, "finished", lambda f, lengths, t: f(lengths, t - 1))


@fault("factors are those of the step after")
def _(patch: pytest.MonkeyPatch) -> None:
    def shifted(f: Any, run: Any, *steps: int) -> Any:
        return f(run._replace(saved=np.roll(run.saved, -1, axis=0)), *steps)

    _around(patch, numpy_loops, "_factors", shifted)


@fault("factors are of the state after for the state before")
def _(patch: pytest.MonkeyPatch) -> None:
    def late(f: Any, run: Any, *steps: int) -> Any:
        first, states = [part[0] for part in run.states], np.roll(run.states, -1, axis=1)
        return f(run._replace(initial=first, states=states), *steps)

    _around(patch, numpy_loops, "_factors", late)


@fault("the state's products take the input's sums")
def _(patch: pytest.MonkeyPatch) -> None:
    columns = products.ProductOperands.columns.fget  # type: ignore[attr-defined]
    patch.setattr(
        products.ProductOperands,
        "columns",
        property(lambda s: (columns(s)[0], columns(s)[0], columns(s)[2])),
    )


@fault("the state before the first step is overlooked")
def _(patch: pytest.MonkeyPatch) -> None:
    _around(
        patch,
        products,
        "_weight_products",
        lambda f, s, *given: f(s._replace(initial=0 * s.initial), *given),
    )


@fault("further weights are overlooked")
def _(patch: pytest.MonkeyPatch) -> None:
    def overlooked(f: Any, *given: Any) -> Any:
        by_x, by_h, others = f(*given)
        return by_x, by_h, None if others is None else 0 * others

    _around(patch, products, "_weight_products", overlooked)


@fault("of several windows the first is dropped")
def _(patch: pytest.MonkeyPatch) -> None:
    for module in (numpy_loops, runs, scans):
        patch.setattr(module, "windows", lambda m, shape: cases._cut(shape[0], 2))
    _around(patch, scans, "join_windows", lambda f, m, windows, parts: f(m, windows[1:], parts))
