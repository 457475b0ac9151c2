"""State dicts of optimizers: copies both ways, PyTorch's layout, and states that are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, assert_close, assert_same_bits, const, leaf, needs_torch, write

optim = tg.optim
STEPS = 20

MAKERS: dict[str, Callable[[Any], Callable[..., Any]]] = {  # from our module, and from PyTorch's
    "SGD": lambda o: lambda ps: o.SGD(ps, lr=0.05, momentum=0.9, weight_decay=0.01),
    "plain SGD": lambda o: lambda ps: o.SGD(ps, lr=0.05),
    "Adam": lambda o: lambda ps: o.Adam(ps, lr=0.02, weight_decay=0.01),
}


def _plain(value: Any) -> Any:
    return value.numpy() if isinstance(value, tg.Tensor) else float(value)


def after_two_steps(make: Callable[[list[tg.Tensor]], Any], shape: tuple[int, ...] = (3, 2)) -> Any:
    """An optimizer of two parameters, of which the second never got a gradient."""
    optimizer = make([leaf(np.ones(shape)), leaf(np.ones(2))])
    for g in (1.0, -0.3):
        optimizer.parameters[0].grad = const(np.full(shape, g))
        optimizer.step()
    return optimizer


def test_a_state_dict_is_laid_out_as_pytorchs() -> None:
    state = after_two_steps(
        lambda ps: optim.Adam(ps, 0.1, (0.5, 0.9), weight_decay=0.2)
    ).state_dict()
    assert list(state) == ["state", "param_groups"]
    assert state["param_groups"] == [
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-8, "weight_decay": 0.2, "params": [0, 1]}
    ]
    assert list(state["state"]) == [0]
    assert list(state["state"][0]) == ["step", "exp_avg", "exp_avg_sq"]
    assert state["state"][0]["step"] == 2
    assert optim.SGD([leaf(1.0)], 0.1, 0.9).state_dict() == {
        "state": {},
        "param_groups": [{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "params": [0]}],
    }


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("shape", [(), (0, 2), (3, 2)])
def test_a_state_dict_is_a_copy_both_ways(name: str, shape: tuple[int, ...]) -> None:
    make = MAKERS[name](optim)
    first, second = after_two_steps(make, shape), make([leaf(np.ones(shape)), leaf(np.ones(2))])
    before, given_state = first.state_dict(), first.state_dict()
    second.load_state_dict(given_state)
    for state in given_state["state"].values():
        for value in state.values():
            if isinstance(value, tg.Tensor):
                write(value, 9.0)  # neither optimizer sees this
    for optimizer in (first, second):
        found = optimizer.state_dict()
        assert found["param_groups"] == before["param_groups"]
        assert found["state"].keys() == before["state"].keys()
        for i, state in before["state"].items():
            assert found["state"][i].keys() == state.keys()
            for key, value in state.items():
                assert_same_bits(found["state"][i][key], value, key)


@pytest.mark.parametrize("name", MAKERS)
def test_pytorchs_optimizer_and_ours_take_over_from_each_other(name: str) -> None:
    torch = needs_torch()
    make, make_theirs = MAKERS[name](optim), MAKERS[name](torch.optim)
    gs = list(np.random.default_rng(0).normal(size=(STEPS, 3, 2)))
    ours = [leaf(np.ones((3, 2)))]
    theirs = [torch.ones((3, 2), dtype=torch.float64, requires_grad=True)]

    def steps(
        optimizer: Any, ps: list[Any], wrap: Callable[[Array], Any], chosen: list[Array]
    ) -> None:
        for g in chosen:
            ps[0].grad = wrap(g)
            optimizer.step()

    whole = make([leaf(np.ones((3, 2)))])
    steps(whole, whole.parameters, const, gs)
    first = make_theirs(theirs)
    steps(first, theirs, torch.tensor, gs[:7])
    ours[0].assign(theirs[0].detach().numpy())
    second = optim.SGD(ours, 9.0) if "SGD" in name else optim.Adam(ours, 9.0)
    second.load_state_dict(first.state_dict())
    steps(second, ours, const, gs[7:12])
    state = second.state_dict()
    for entry in state["state"].values():
        entry.update({k: torch.tensor(_plain(v)) for k, v in entry.items()})
    third = make_theirs(theirs)
    third.load_state_dict({**first.state_dict(), "state": state["state"]})
    with torch.no_grad():
        theirs[0][...] = torch.tensor(ours[0].numpy())
    steps(third, theirs, torch.tensor, gs[12:])
    assert_close(theirs[0].detach().numpy(), whole.parameters[0], 1e-12)


@pytest.mark.parametrize("make", [lambda ps: optim.SGD(ps, 0.1, 0.9), optim.Adam])
def test_what_is_remembered_has_the_parameters_dtype(make: Any) -> None:
    """A gradient set by hand in another dtype does not widen it, nor does a loaded state."""
    p = leaf(np.ones(2, "float32"))
    optimizer = make([p])
    p.grad = const(np.full(2, 0.1))
    optimizer.step()
    wide = make([leaf(np.ones(2))])
    wide.load_state_dict(optimizer.state_dict())
    for found, dtype in ((optimizer, "float32"), (wide, "float64")):
        state = found.state_dict()["state"][0]
        assert {v.dtype for v in state.values() if isinstance(v, tg.Tensor)} == {np.dtype(dtype)}


def _changed(**group: Any) -> Callable[[], Any]:
    """A state dict of Adam with another group of parameters."""

    def change() -> Any:
        state = after_two_steps(optim.Adam).state_dict()
        state["param_groups"][0].update(group)
        return state

    return change


def _entry(**entry: Any) -> Callable[[], Any]:
    """A state dict of Adam with another state for the first parameter."""

    def change() -> Any:
        state = after_two_steps(optim.Adam).state_dict()
        state["state"][0].update(entry)
        return state

    return change


BAD_STATES: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, "not an optimizer's state.*saved without an optimizer is None"),
    "a number": (lambda: 3, "not an optimizer's state"),
    "a model's": (lambda: tg.nn.Linear(1, 1).state_dict(), "not an optimizer's state"),
    "two groups": (lambda: {"state": {}, "param_groups": [{}, {}]}, "at least one group"),
    "no group": (lambda: {"state": {}, "param_groups": []}, "not an optimizer's state"),
    "a list for a state": (lambda: {"state": [], "param_groups": [{"params": []}]}, "not an optim"),
    "fewer parameters": (
        lambda: optim.Adam([leaf(1.0)]).state_dict(),
        "the state has 1 parameters, the optimizer 2",
    ),
    "SGD's": (
        lambda: after_two_steps(lambda ps: optim.SGD(ps, 0.1, 0.9)).state_dict(),
        "missing betas; missing eps; unexpected momentum = 0.9; unexpected momentum_buffer of "
        "parameter 0; missing step of parameter 0; missing exp_avg of parameter 0; missing",
    ),
    "other shapes": (
        lambda: after_two_steps(optim.Adam, (2, 3)).state_dict(),
        r"exp_avg of parameter 0: shape \(2, 3\), the parameter has \(3, 2\); exp_avg_sq of",
    ),
    "a bad setting": (_changed(lr=-1.0), r"Adam: lr -1\.0 must be"),
    "bad betas": (_changed(betas=[0.9, 1.0]), "betas .* must be two numbers"),
    "an option of PyTorch's": (
        _changed(amsgrad=True),
        "^load.*of Adam: unexpected amsgrad = True$",
    ),
    "a fraction of a step": (_entry(step=1.5), "step of parameter 0: 1.5 is not a number of steps"),
    "a negative step": (_entry(step=-1), "step of parameter 0: -1 is not a number"),
    "endless steps": (_entry(step=float("inf")), "step of parameter 0: "),
    "a step that is text": (_entry(step="x"), "step of parameter 0: "),
    "text": (_entry(exp_avg=np.full((3, 2), "x")), "exp_avg of parameter 0: "),
    "complex": (_entry(exp_avg=np.ones((3, 2), complex)), "exp_avg of parameter 0: .*complex"),
    "something that is missing": (_entry(exp_avg=None), "missing exp_avg of parameter 0$"),
    "a parameter too many": (
        lambda: _changed()() | {"state": {7: {}}},
        "state of an unknown parameter 7$",
    ),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_a_state_dict_that_is_refused_changes_nothing(name: str) -> None:
    make, message = BAD_STATES[name]
    optimizer = after_two_steps(lambda ps: optim.Adam(ps, 0.3))
    before = repr(optimizer.state_dict())
    with pytest.raises(tg.StateDictError, match=message):
        optimizer.load_state_dict(make())
    assert repr(optimizer.state_dict()) == before
