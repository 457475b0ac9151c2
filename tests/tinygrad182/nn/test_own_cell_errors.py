"""A class of your own whose declaration is inconsistent: its errors, and when they are raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tinygrad182 as tg
from tests.support import const

Base = tg.nn.RecurrentLayer


def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
    return (xp.tanh(x + h),)


def declared(**attributes: Any) -> Callable[[], Any]:
    """A class with these attributes beside what a cell needs; None: without."""
    given = {"gates": 1, "state": ("h",), "step": staticmethod(step), **attributes}
    return lambda: type("Mine", (Base,), {n: v for n, v in given.items() if v is not None})


def made(*sizes: Any, **attributes: Any) -> Callable[[], Any]:
    """Make a layer of such a class, for the errors at that time."""
    return lambda: declared(**attributes)()(*(sizes or (2, 3)))


def with_step(f: Callable[..., Any], **attributes: Any) -> Callable[[], Any]:
    return made(step=staticmethod(f), **attributes)


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    # the class
    "gates as text": (declared(gates="rz"), r"^Mine: gates = 'rz'; it must be a tuple.*number"),
    "no gates at all": (declared(gates=()), r"gates = \(\); it must be a tuple"),
    "gates of 0": (declared(gates=0), "gates = 0"),
    "gates of True": (declared(gates=True), "gates = True"),
    "gates of numbers": (declared(gates=(1, 2)), r"gates = \(1, 2\); .*names"),
    "one name twice": (declared(gates=("r", "r")), "different names"),
    "a state that is not a tuple": (declared(state=("h")), r"state = 'h'; .*such as \('h',\)"),
    "a state of nothing": (declared(state=[]), r"state = \[\]"),
    "a part that is not a name": (declared(state=("h t",)), "'h t', which cannot name"),
    "a part that Python reads": (declared(state=("class",)), "'class', which cannot name"),
    "weights as text": (declared(weights="peep"), r"weights = 'peep'; .*\('peep',\)"),
    "weights without number": (declared(weights={"gain": 0}), "weights has 'gain': 0; .*times H"),
    "a weight that is a parameter": (
        declared(weights=("weight_ih",)),
        "^Mine: weights has 'weight_ih', a name that is taken; choose another",
    ),
    "a weight that is an attribute": (declared(weights=("bias",)), "'bias', a name that is taken"),
    "a weight that is a method": (declared(weights=("forward",)), "'forward', a name that is"),
    "a weight that is an operand": (declared(weights=("h",)), "'h', a name that is taken"),
    "a weight that the step does not take": (
        declared(weights=("peep",)),
        "^Mine: step takes no 'peep'; .*argument for each name in weights",
    ),
    "a step that is not a function": (declared(step=3), "^Mine: step is a int; define a static"),
    "a step with self": (
        declared(step=lambda self, x, h, state: (x + h,)),
        r"^Mine: step takes \(self, x, h, state\); it must be a static method",
    ),
    "a step of three": (declared(step=lambda xp, x, state: (x,)), r"step takes \(xp, x, state\)"),
    **{
        f"an option {name}": (
            declared(step=eval(f"lambda xp, x, h, state, {name}=1.0: ({name} * (x + h),)")),
            f"^Mine: step takes {name!r}, a reserved name; choose another",
        )
        for name in ("start", "shortest", "until", "powers", "g", "y", "self", "scan", "inputs")
    },
    "a layer in the place of its recurrence": (
        lambda: type("Mine", (tg.nn.RecurrentCell,), {"scan": tg.nn.LSTM}),
        r"^Mine: scan = .*LSTM.*; take .*: scan = tg\.nn\.LSTM\.scan",
    ),
    # a layer of it
    "the base itself": (lambda: Base(1, 2), "^RecurrentLayer: .*declares no gates; give it"),
    "the base of cells": (lambda: tg.nn.RecurrentCell(1, 2), "^RecurrentCell: .*declares no gates"),
    "no gates": (made(gates=None), "^Mine: .*declares no gates; .* state and a static method"),
    "no state": (made(state=None), "^Mine: .*declares no state; "),
    "no step": (made(step=None), "^Mine: .*declares no step; "),
    "no units": (made(2, 0), "^Mine: hidden_size 0 must be a whole number from 1"),
    "an option that is not set": (
        with_step(lambda xp, x, h, state, leak: (leak * (x + h),)),
        r"^Mine: step takes 'leak', .*; set self\.leak before super\(\)\.__init__, or give",
    ),
    "an option that is unhashable": (
        with_step(lambda xp, x, h, state, leak: (x + h,), leak=[1.0]),
        r"^Mine: leak = \[1\.0\], which may change; pass a number, a string or a tuple",
    ),
    "a forget bias without a forget gate": (
        lambda: type("Open", (tg.nn.LSTM,), {"gates": ("i", "j", "g", "o")})(1, 2, forget_bias=1.0),
        "^Open: forget_bias needs a gate 'f'",
    ),
    "a step that returns its state alone": (
        with_step(lambda xp, x, h, state: x + h),
        r"^Mine: step returns a Tensor; return \(h,\)",
    ),
    "a step that returns nothing": (
        with_step(lambda xp, x, h, state: None),
        r"^Mine: step returns a NoneType; return \(h,\)",
    ),
    "a step that returns two parts of one": (
        with_step(lambda xp, x, h, state: (x + h, x)),
        r"^Mine: step returns a tuple of 2; return \(h,\)",
    ),
    "a step that returns one part of two": (
        with_step(lambda xp, x, h, state: (x + h,), state=("h", "c")),
        r"step returns a tuple of 1; return \(h, c\)",
    ),
    "a step that returns all gates": (
        made(gates=2),
        r"^Mine: step returns h of shape \(2, 6\) for 2 sequences of 3 units; .* 2 blocks of H",
    ),
    "a step that adds what does not fit": (
        with_step(lambda xp, x, h, state: (x + h + state[0],), gates=2),
        r"^Mine: step fails on sums x and h of shape \(2, 6\): ShapeError: add: cannot take",
    ),
    "a step with a bug": (
        with_step(lambda xp, x, h, state: (xp.tahn(x + h),)),
        "^Mine: step fails on .*UnknownNameError: xp has no 'tahn'; did you mean",
    ),
    "a step that returns an array": (
        with_step(lambda xp, x, h, state: ((x + h).numpy(),)),
        r"^Mine: step returns h as a ndarray, not a Tensor; .*the functions of xp",
    ),
    "a step that returns numbers": (
        with_step(lambda xp, x, h, state: (0.0,)),
        r"^Mine: step returns h as a float, not a Tensor; compute it from x, h and state",
    ),
}


@pytest.mark.parametrize(
    ("values", "found"), [(None, "None"), (0.0, r"shape \(\)"), ([1.0, 2.0], r"shape \(2,\)")]
)
def test_initial_values_that_do_not_fit(values: Any, found: str) -> None:
    message = (
        rf"^Mine: initial_values returns {found} for weight_ih; return an array of shape \(3, 2\)"
    )
    with pytest.raises(tg.ShapeError, match=message):
        made(initial_values=lambda self, name, drawn: values)()


@pytest.mark.parametrize("name", CASES)
def test_what_is_refused(name: str) -> None:
    call, message = CASES[name]
    with pytest.raises(tg.ArgumentError, match=message):
        call()


def test_a_subclass_may_declare_the_rest() -> None:
    """An unfinished class raises nothing until a layer of it is made."""

    class Half(Base):
        state = ("h",)

    class Whole(Half):
        gates = 1
        step = staticmethod(step)

    assert Whole(2, 3, rng=0)(const([[[1.0, 2.0]]]).astype("float32"))[0].shape == (1, 1, 3)


def test_wrong_calls_name_the_class() -> None:
    kind = declared()()
    for call, message in (
        (lambda: kind(2), "^Mine: missing a required argument: 'hidden_size'; it takes"),
        (lambda: kind(2, 3, hiden=1), "^Mine: there is no argument 'hiden'"),
        (
            lambda: tg.nn.GRUCell(2, 3, dropout=0.1),
            r"^GRUCell: there is no argument 'dropout'; put",
        ),
        (
            lambda: tg.nn.GRUCell(2, 3, bidirectional=True),
            r"'bidirectional'; layers have it: tg\.nn",
        ),
        (
            lambda: kind(2, 3, proj_size=1),
            r"^Mine: .*'proj_size'; apply tg\.nn\.Linear",
        ),
        (lambda: tg.nn.GRUCell(2), "^GRUCell: missing a required argument: 'hidden_size'"),
        (lambda: kind(2, 3)(None, lenghts=[2]), "^Mine.*'lenghts'; did you mean 'lengths'"),
    ):
        with pytest.raises(tg.CallError, match=message):
            call()
