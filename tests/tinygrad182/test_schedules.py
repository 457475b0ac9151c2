"""Schedules of the learning rate: against their formulas, against PyTorch, and saved in the middle."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import leaf, needs_torch

S = tg.optim.lr_scheduler
STEPS = 25


def sgd(optim: Any = tg.optim, parameters: Any = None, **more: Any) -> Any:
    """An optimizer of two groups, with rates of 1 and 0.1."""
    p, q = parameters or (leaf(np.ones(1)), leaf(np.ones(1)))
    return optim.SGD([{"params": [p]}, {"params": [q], "lr": 0.1}], lr=1.0)


def sequence(s: Any, o: Any) -> Any:
    parts = [s.LinearLR(o, 0.1, 1.0, 4), s.CosineAnnealingLR(o, 10, 0.01), s.StepLR(o, 3, 0.5)]
    return s.SequentialLR(o, parts, [4, 14])


# Each schedule, and the factor (or with the base, the rate) after s steps.
MAKERS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[float, int], float]]] = {
    "StepLR": (lambda s, o: s.StepLR(o, 4, 0.5), lambda base, n: base * 0.5 ** (n // 4)),
    "ExponentialLR": (lambda s, o: s.ExponentialLR(o, 0.9), lambda base, n: base * 0.9**n),
    "LinearLR": (
        lambda s, o: s.LinearLR(o, 0.2, 0.8, 6),
        lambda base, n: base * (0.2 + 0.6 * min(n, 6) / 6),
    ),
    "LinearLR by default": (
        lambda s, o: s.LinearLR(o),
        lambda base, n: base * (1 / 3 + 2 / 3 * min(n, 5) / 5),
    ),
    "CosineAnnealingLR": (
        lambda s, o: s.CosineAnnealingLR(o, 10, 0.01),
        lambda base, n: 0.01 + (base - 0.01) * (1 + math.cos(math.pi * n / 10)) / 2,
    ),
    "LambdaLR": (lambda s, o: s.LambdaLR(o, lambda n: 1 / (1 + n)), lambda base, n: base / (1 + n)),
    "LambdaLR of each group": (
        lambda s, o: s.LambdaLR(o, [lambda n: 0.5**n, lambda n: 0.25**n]),
        lambda base, n: base * (0.5 if base == 1 else 0.25) ** n,
    ),
    "SequentialLR": (
        sequence,
        lambda base, n: (
            base * (0.1 + 0.9 * n / 4)
            if n < 4
            else 0.01 + (base - 0.01) * (1 + math.cos(math.pi * (n - 4) / 10)) / 2
            if n < 14
            else base * 0.5 ** ((n - 14) // 3)
        ),
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_schedule_is_its_formula(name: str) -> None:
    make, formula = MAKERS[name]
    optimizer = sgd()
    schedule = make(S, optimizer)
    for n in range(STEPS):
        expected = [formula(base, n) for base in (1.0, 0.1)]
        assert schedule.get_last_lr() == pytest.approx(expected, rel=1e-13, abs=1e-16)
        assert [group["lr"] for group in optimizer.param_groups] == schedule.get_last_lr()
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", MAKERS)
def test_a_schedule_goes_as_pytorchs(name: str) -> None:
    torch = needs_torch()
    theirs = torch.optim.lr_scheduler
    parameters = [torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)]
    optimizer, other = sgd(), sgd(torch.optim, parameters)
    mine, yours = MAKERS[name][0](S, optimizer), MAKERS[name][0](theirs, other)
    for _ in range(10):
        assert mine.get_last_lr() == pytest.approx(yours.get_last_lr(), rel=1e-12, abs=1e-15)
        other.step()
        mine.step()
        yours.step()
    if "Sequential" not in name:  # PyTorch's state nests those of the parts
        fresh = MAKERS[name][0](S, sgd())
        fresh.load_state_dict(yours.state_dict())
        assert fresh.get_last_lr() == pytest.approx(yours.get_last_lr(), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("schedule_first", [True, False])
def test_a_schedule_goes_on_from_its_state(name: str, schedule_first: bool) -> None:
    optimizer = sgd()
    schedule = MAKERS[name][0](S, optimizer)
    for _ in range(7):
        schedule.step()
    states = optimizer.state_dict(), schedule.state_dict()
    again = sgd()
    if schedule_first:
        twin = MAKERS[name][0](S, again)
        again.load_state_dict(states[0])
    else:
        again.load_state_dict(states[0])
        twin = MAKERS[name][0](S, again)
    twin.load_state_dict(states[1])
    for _ in range(STEPS):
        assert twin.get_last_lr() == schedule.get_last_lr()
        twin.step()
        schedule.step()


def test_a_group_that_comes_later_starts_from_its_rate() -> None:
    optimizer = sgd()
    schedule = S.ExponentialLR(optimizer, 0.5)
    optimizer.add_param_group({"params": leaf(np.ones(1)), "lr": 8.0})
    schedule.step()
    assert schedule.get_last_lr() == [0.5, 0.05, 4.0]


def test_a_warm_up_before_decay_trains() -> None:
    w = leaf(np.ones(2))
    optimizer = tg.optim.SGD([w], lr=0.5)
    schedule = S.LinearLR(optimizer, 0.5, total_iters=1)
    for rate in (0.25, 0.5):
        before = w.numpy().copy()
        w.grad = tg.ones_like(w)
        optimizer.step()
        schedule.step()
        np.testing.assert_allclose(before - w.numpy(), rate)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no optimizer": (lambda: S.StepLR(3, 1), "StepLR: a int is not an optimizer"),  # type: ignore[arg-type]
    "step_size": (lambda: S.StepLR(sgd(), 0), "StepLR: step_size 0 must be a whole number from 1"),
    "gamma": (lambda: S.StepLR(sgd(), 1, -0.5), "StepLR: gamma -0.5"),
    "gamma as text": (lambda: S.ExponentialLR(sgd(), "0.5"), "ExponentialLR: gamma '0.5'"),  # type: ignore[arg-type]
    "T_max": (lambda: S.CosineAnnealingLR(sgd(), 2.5), "CosineAnnealingLR: T_max 2.5"),  # type: ignore[arg-type]
    "total_iters": (lambda: S.LinearLR(sgd(), total_iters=0), "LinearLR: total_iters 0"),
    "last_epoch": (lambda: S.StepLR(sgd(), 1, last_epoch=-2), "StepLR: last_epoch -2"),
    "lr_lambda": (lambda: S.LambdaLR(sgd(), 0.5), "LambdaLR: lr_lambda 0.5 must be a function"),  # type: ignore[arg-type]
    "several functions": (
        lambda: S.LambdaLR(sgd(), [abs, abs, abs]),
        "LambdaLR: 3 functions for 2 groups",
    ),
    "another optimizer": (
        lambda: S.SequentialLR(sgd(), [S.StepLR(sgd(), 1)], []),
        "SequentialLR: pass schedules of this optimizer",
    ),
    "milestones": (
        lambda: S.SequentialLR(o := sgd(), [S.StepLR(o, 1), S.StepLR(o, 1)], []),
        "one milestone fewer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(tg.ArgumentError, match=message):
        call()


def test_states_that_are_refused() -> None:
    schedule = S.StepLR(sgd(), 2)
    for state, message in (
        ({}, "load_state_dict of StepLR: .*last_epoch"),
        (None, "load_state_dict of StepLR: this is not the state"),
        ({**schedule.state_dict(), "base_lrs": [1.0]}, "of 1 groups, the optimizer has 2"),
    ):
        with pytest.raises(tg.StateDictError, match=message):
            schedule.load_state_dict(state)  # type: ignore[arg-type]
