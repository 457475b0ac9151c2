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
    fresh = MAKERS[name][0](S, sgd())
    fresh.load_state_dict(yours.state_dict())
    for _ in range(10):
        assert fresh.get_last_lr() == pytest.approx(yours.get_last_lr(), rel=1e-12, abs=1e-15)
        fresh.step()
        yours.step()


def rates(optimizer: Any) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def torch_parameters(torch: Any) -> list[Any]:
    return [torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)]


@pytest.mark.parametrize("second", MAKERS)
@pytest.mark.parametrize("first", MAKERS)
def test_two_schedules_of_one_optimizer_go_as_pytorchs(first: str, second: str) -> None:
    torch = needs_torch()
    optimizer, other = sgd(), sgd(torch.optim, torch_parameters(torch))
    pairs = [
        [MAKERS[name][0](s, o) for name in (first, second)]
        for s, o in ((S, optimizer), (torch.optim.lr_scheduler, other))
    ]
    for n in range(STEPS):
        assert rates(optimizer) == pytest.approx(rates(other), rel=1e-11, abs=1e-15), n
        other.step()
        for mine, yours in zip(*pairs, strict=True):
            yours.step()
            if min(rates(other)) < 0:  # PyTorch's goes on, up the gradient
                with pytest.raises(
                    tg.ArgumentError, match=r"LR: the rate -.* finite number from 0"
                ):
                    mine.step()
                return
            mine.step()
        if n == 7:  # set by hand
            for o in (optimizer, other):
                o.param_groups[1]["lr"] = 0.7


@pytest.mark.parametrize("last_epoch", [-1, 3, 5])
@pytest.mark.parametrize(
    "make",
    [
        lambda s, o, n: s.StepLR(o, 4, 0.5, last_epoch=n),
        lambda s, o, n: s.ExponentialLR(o, 0.9, last_epoch=n),
        lambda s, o, n: s.LinearLR(o, 0.2, 0.8, 6, last_epoch=n),
        lambda s, o, n: s.CosineAnnealingLR(o, 10, 0.01, last_epoch=n),
        lambda s, o, n: s.LambdaLR(o, lambda k: 1 / (1 + k), last_epoch=n),
    ],
)
def test_a_schedule_made_for_a_restored_optimizer_goes_as_pytorchs(
    make: Any, last_epoch: int
) -> None:
    torch = needs_torch()
    mine, yours = sgd(), sgd(torch.optim, torch_parameters(torch))
    for optimizer in (mine, yours):
        for group in optimizer.param_groups:
            group["initial_lr"], group["lr"] = group["lr"], group["lr"] / 4
    pair = make(S, mine, last_epoch), make(torch.optim.lr_scheduler, yours, last_epoch)
    for _ in range(12):
        assert rates(mine) == pytest.approx(rates(yours), rel=1e-12, abs=1e-15)
        yours.step()
        for schedule in pair:
            schedule.step()


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


def test_a_schedule_made_again_counts_on() -> None:
    """The first rates are part of the optimizer's state; PyTorch keeps them there too."""
    optimizer = sgd()
    schedule = S.StepLR(optimizer, 2, 0.5)
    for _ in range(5):
        schedule.step()
    again = sgd()
    again.load_state_dict(optimizer.state_dict())
    twin = S.StepLR(again, 2, 0.5, last_epoch=5)
    schedule.step()
    assert twin.get_last_lr() == schedule.get_last_lr() == [0.125, 0.0125]


PRODUCTS = [name for name in MAKERS if name[:4] in ("Step", "Expo", "Line")]


@pytest.mark.parametrize("second", PRODUCTS)
@pytest.mark.parametrize("first", PRODUCTS)
def test_two_schedules_are_the_product_of_their_factors(first: str, second: str) -> None:
    optimizer = sgd()
    both = [MAKERS[name][0](S, optimizer) for name in (first, second)]
    for n in range(STEPS):
        factor = MAKERS[first][1](1.0, n) * MAKERS[second][1](1.0, n)
        assert rates(optimizer) == pytest.approx([factor, 0.1 * factor], rel=1e-13)
        for schedule in both:
            schedule.step()


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_rate_set_by_hand_is_gone_on_from(name: str) -> None:
    optimizer = sgd()
    schedule = MAKERS[name][0](S, optimizer)
    for _ in range(2):
        schedule.step()
    optimizer.lr = 8.0
    formula = MAKERS[name][1]
    for n in range(2, STEPS):
        expected = 8.0 * formula(1.0, n) / formula(1.0, 2)
        assert rates(optimizer) == pytest.approx([expected, expected], rel=1e-13)
        schedule.step()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_schedules_go_on_from_their_states_in_any_order(order: tuple[int, int]) -> None:
    def made() -> tuple[Any, list[Any]]:
        optimizer = sgd()
        return optimizer, [S.LinearLR(optimizer, 0.5, 1.0, 9), S.ExponentialLR(optimizer, 0.9)]

    optimizer, both = made()
    for _ in range(4):
        for schedule in both:
            schedule.step()
    optimizer.param_groups[0]["lr"] = 0.3
    again, twins = made()
    again.load_state_dict(optimizer.state_dict())
    for i in order:
        twins[i].load_state_dict(both[i].state_dict())
    for _ in range(8):
        assert rates(again) == rates(optimizer)
        for schedule in (*both, *twins):
            schedule.step()


def test_a_restored_rate_is_kept_by_a_new_schedule() -> None:
    optimizer = sgd()
    S.StepLR(optimizer, 1, 0.5).step()
    again = sgd()
    again.load_state_dict(optimizer.state_dict())
    schedule = S.StepLR(again, 1, 0.5)
    assert rates(again) == [0.5, 0.05]
    assert schedule.base_lrs == [1.0, 0.1]


@pytest.mark.parametrize("name", ["LinearLR", "ExponentialLR", "CosineAnnealingLR"])
def test_a_schedule_that_goes_on_keeps_the_rate(name: str) -> None:
    optimizer = sgd()
    schedule = MAKERS[name][0](S, optimizer)
    for _ in range(3):
        schedule.step()
    before = rates(optimizer)
    more = {"LinearLR": (0.2, 0.8, 6), "ExponentialLR": (0.9,), "CosineAnnealingLR": (10, 0.01)}
    twin = getattr(S, name)(optimizer, *more[name], last_epoch=2)
    assert rates(optimizer) == before
    assert twin.last_epoch == 3


def test_a_long_cosine_ends_at_its_least_rate_and_comes_back() -> None:
    optimizer = sgd()
    schedule = S.CosineAnnealingLR(optimizer, 1000, 1e-4)
    for _ in range(2000):
        schedule.step()
        if schedule.last_epoch == 1000:
            assert rates(optimizer) == pytest.approx([1e-4, 1e-4], rel=1e-12)
    assert rates(optimizer) == pytest.approx([1.0, 0.1], rel=1e-9)


def test_a_sequence_counts_its_parts_up_to_last_epoch() -> None:
    optimizer, again = sgd(), sgd()
    schedule = sequence(S, optimizer)
    for _ in range(16):
        schedule.step()
    parts = [
        S.LinearLR(again, 0.1, 1.0, 4),
        S.CosineAnnealingLR(again, 10, 0.01),
        S.StepLR(again, 3, 0.5),
    ]
    twin = S.SequentialLR(again, parts, [4, 14], last_epoch=15)
    assert twin.last_epoch == schedule.last_epoch == 16
    assert rates(again) == rates(optimizer)


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
    "step_size=True": (lambda: S.StepLR(sgd(), True), "StepLR: step_size True must be a whole"),
    "gamma": (lambda: S.StepLR(sgd(), 1, -0.5), "StepLR: gamma -0.5"),
    "gamma as text": (lambda: S.ExponentialLR(sgd(), "0.5"), "ExponentialLR: gamma '0.5'"),  # type: ignore[arg-type]
    "T_max": (lambda: S.CosineAnnealingLR(sgd(), 2.5), "CosineAnnealingLR: T_max 2.5"),  # type: ignore[arg-type]
    "total_iters": (lambda: S.LinearLR(sgd(), total_iters=0), "LinearLR: total_iters 0"),
    "last_epoch": (lambda: S.StepLR(sgd(), 1, last_epoch=-2), "StepLR: last_epoch -2"),
    "last_epoch of a new optimizer": (
        lambda: S.StepLR(sgd(), 1, last_epoch=3),
        r"StepLR: last_epoch=3 .*optimizer\.load_state_dict",
    ),
    "start_factor": (lambda: S.LinearLR(sgd(), 0.0), "LinearLR: start_factor must be more than 0"),
    "a rate that is not a number": (
        lambda: S.LambdaLR(sgd(), lambda n: math.nan),
        "LambdaLR: the rate nan must be a finite number",
    ),
    "lr_lambda": (lambda: S.LambdaLR(sgd(), 0.5), "LambdaLR: lr_lambda 0.5 must be a function"),  # type: ignore[arg-type]
    "several functions": (
        lambda: S.LambdaLR(sgd(), [abs, abs, abs]),
        "LambdaLR: 3 functions for 2 groups",
    ),
    "another optimizer": (
        lambda: S.SequentialLR(sgd(), [S.StepLR(sgd(), 1)], []),
        "SequentialLR: .*; pass schedules of this optimizer",
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
        (None, "load_state_dict of StepLR: this is not its state"),
        ({**schedule.state_dict(), "base_lrs": [1.0]}, "of 1 groups, the optimizer 2"),
    ):
        with pytest.raises(tg.StateDictError, match=message):
            schedule.load_state_dict(state)  # type: ignore[arg-type]
    whole = sequence(S, sgd())
    state = whole.state_dict()
    before = vars(whole).copy()
    for wrong, message in (
        (schedule.state_dict(), "SequentialLR: this is not its state: '_schedulers'"),
        ({**state, "_schedulers": state["_schedulers"][:2]}, "2 schedules, this one 3"),
        ({**state, "_schedulers": [{}, {}, {}]}, "SequentialLR: this is not its state"),
        ({**state, "_last_lr": ["a", 1]}, "SequentialLR: .*lr 'a' must be"),
    ):
        with pytest.raises(tg.StateDictError, match=message):
            whole.load_state_dict(wrong)
    assert vars(whole) == before
