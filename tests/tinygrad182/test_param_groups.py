"""Groups of parameters, AdamW, and optimizers and losses in half precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, assert_same_bits, const, host, leaf, needs_torch

optim = tg.optim
STEPS = 12
START = np.ones((3, 2))


def gradients(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(STEPS, 3, 2))


def steps(optimizer: Any, parameters: list[Any], make: Callable[[Any], Any]) -> None:
    for g in gradients():
        for i, p in enumerate(parameters):
            p.grad = make(g * (i + 1))
        optimizer.step()


# --- AdamW --------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.5])
def test_adamw_is_its_formula(decay: float) -> None:
    """Algorithm 2 of Loshchilov and Hutter, with sums over the whole past in place of a recursion."""
    p = leaf(START)
    steps(optim.AdamW([p], 0.1, weight_decay=decay), [p], const)
    value, gs = START, gradients()
    for t in range(1, STEPS + 1):
        weights = [[(1 - b) * b ** (t - 1 - i) for i in range(t)] for b in (0.9, 0.999)]
        m, v = (
            np.tensordot(w, gs[:t] ** k, 1) / (1 - b**t)
            for w, k, b in zip(weights, (1, 2), (0.9, 0.999), strict=True)
        )
        value = value - 0.1 * decay * value - 0.1 * m / (np.sqrt(v) + 1e-8)
    assert_close(p, value, 1e-12)


def test_decay_alone_is_geometric() -> None:
    """With gradients of 0 only the decay is left; Adam's decay moves by the rate instead."""
    p = leaf(START)
    optimizer = optim.AdamW([p], 0.5, weight_decay=0.5)
    for _ in range(5):
        p.grad = const(np.zeros((3, 2)))
        optimizer.step()
    assert_close(p, np.full((3, 2), 0.75**5), 1e-14)


MAKERS: dict[str, Callable[[Any, Any], Any]] = {
    "AdamW": lambda o, ps: o.AdamW(ps, lr=0.05),
    "AdamW, decay": lambda o, ps: o.AdamW(
        ps, lr=0.05, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.3
    ),
    "SGD in groups": lambda o, ps: o.SGD(
        [{"params": ps[:1], "lr": 0.2}, {"params": ps[1:], "momentum": 0.5, "weight_decay": 0.1}],
        lr=0.05,
    ),
    "Adam in groups": lambda o, ps: o.Adam(
        [{"params": ps[:1]}, {"params": ps[1], "betas": (0.1, 0.2), "lr": 0.5}], lr=0.05
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_it_goes_as_in_pytorch(name: str) -> None:
    torch = needs_torch()
    ours = [leaf(START), leaf(2 * START)]
    theirs = [torch.tensor(k * START, requires_grad=True) for k in (1, 2)]
    mine, other = MAKERS[name](optim, ours), MAKERS[name](torch.optim, theirs)
    for optimizer in (mine, other):
        assert len(optimizer.param_groups) == (2 if "groups" in name else 1)
    steps(mine, ours, const)
    steps(other, theirs, torch.tensor)
    for p, q in zip(ours, theirs, strict=True):
        assert_close(p, q.detach().numpy(), 1e-12)
    again = MAKERS[name](optim, [leaf(host(p)) for p in ours])
    again.load_state_dict(other.state_dict())
    steps(again, again.parameters, const)
    steps(mine, ours, const)
    for p, q in zip(ours, again.parameters, strict=True):
        assert_close(q, p.numpy(), 1e-12)


# --- groups -------------------------------------------------------------------------------------


def test_each_group_has_its_settings() -> None:
    p, q, r = (leaf(np.ones(2)) for _ in range(3))
    optimizer = optim.SGD([{"params": [p]}, {"params": iter([q]), "lr": 0.5}], lr=0.25)
    optimizer.add_param_group({"params": r, "lr": 0.0, "weight_decay": 1.0})
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.5, 0.0]
    assert optimizer.parameters == [p, q, r]
    for x in (p, q, r):
        x.grad = const(np.ones(2))
    optimizer.step()
    assert [host(x)[0] for x in (p, q, r)] == [0.75, 0.5, 1.0]
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert [host(x)[0] for x in (p, q, r)] == [0.75, 0.0, 1.0]


def test_a_setting_of_all_groups_is_an_attribute() -> None:
    optimizer = optim.Adam([{"params": leaf(np.ones(2))}, {"params": leaf(np.ones(2))}], lr=0.1)
    assert (optimizer.lr, optimizer.betas, optimizer.eps) == (0.1, (0.9, 0.999), 1e-8)
    optimizer.lr = 0.2
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.2]
    optimizer.param_groups[1]["lr"] = 0.3
    with pytest.raises(
        tg.ArgumentError, match=r"Adam: the groups differ in lr; .*param_groups\[0\]"
    ):
        optimizer.lr  # noqa: B018 - the attribute in question
    with pytest.raises(tg.ArgumentError, match=r"Adam: lr -1.*finite number"):
        optimizer.lr = -1


def test_a_state_dict_has_the_groups() -> None:
    def make() -> Any:
        ps = [leaf(np.ones(2)), leaf(np.ones(3)), leaf(np.ones(1))]
        return optim.SGD([{"params": ps[:2]}, {"params": ps[2:], "lr": 0.5}], 0.1, momentum=0.9)

    first, second = make(), make()
    for p in first.parameters:
        p.grad = const(np.ones(p.shape))
    first.step()
    first.param_groups[1]["lr"] = 0.7
    state = first.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2]]
    second.load_state_dict(state)
    assert [group["lr"] for group in second.param_groups] == [0.1, 0.7]
    assert_same_bits(second.state[2]["momentum_buffer"], np.ones(1))
    with pytest.raises(tg.StateDictError, match=r"groups of \[2, 1\] parameters, the optimizer 3"):
        optim.SGD([leaf(np.ones(2)) for _ in range(3)], 0.1).load_state_dict(state)


def test_groups_are_saved(tmp_path: Any) -> None:
    model = tg.nn.Sequential(tg.nn.Linear(2, 2, rng=0), tg.nn.Linear(2, 1, rng=1))

    def make() -> Any:
        a, b = model.children()
        return optim.AdamW([{"params": a.parameters()}, {"params": b.parameters(), "lr": 0.5}])

    optimizer = make()
    model(const(np.ones((1, 2), np.float32))).sum().backward()
    optimizer.step()
    tg.save(tmp_path / "x.safetensors", model, optimizer)
    again = make()
    again.load_state_dict(tg.load(tmp_path / "x.safetensors").optimizer)
    assert again.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    for i, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            if name != "step":
                assert_same_bits(again.state_dict()["state"][i][name], value)


W = tg.ones(2, requires_grad=True)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "an unknown setting": (lambda: optim.SGD([{"params": W, "rate": 1}], 0.1), "'rate'; use lr"),
    "no params": (lambda: optim.SGD([{"lr": 0.1}], 0.1), "SGD: a group is a dict with 'params'"),
    "a used-up iterator": (lambda: optim.SGD([{"params": iter(())}], 0.1), "read only once"),
    "a number": (lambda: optim.SGD([{"params": 3}], 0.1), "a group is a dict with 'params'"),
    "no dict": (lambda: optim.SGD([W], 0.1).add_param_group([W]), "a group is a dict"),
    "twice": (lambda: optim.SGD([W], 0.1).add_param_group({"params": W}), "given twice"),
    "a bad rate": (lambda: optim.SGD([{"params": W, "lr": -1}], 0.1), "SGD: lr -1"),
    "both forms": (lambda: optim.SGD([W, {"params": W}], 0.1), "must be leaf tensors"),
    "AdamW's betas": (lambda: optim.AdamW([W], betas=(1, 1)), "AdamW: betas"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(tg.ArgumentError, match=message):
        call()


def test_zeros_for_gradients() -> None:
    p, q = leaf(np.ones(2)), leaf(np.ones(2))
    p.grad = const(np.ones(2))
    optimizer = optim.SGD([p, q], 0.1)
    optimizer.zero_grad(set_to_none=False)
    assert_same_bits(p.grad, np.zeros(2))
    assert q.grad is None
    optimizer.zero_grad()
    assert p.grad is None


# --- half precision -----------------------------------------------------------------------------

HALF: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda ps: optim.SGD(ps, 0.1),
    "SGD with momentum": lambda ps: optim.SGD(ps, 0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda ps: optim.Adam(ps, 0.1),
    "AdamW": lambda ps: optim.AdamW(ps, 0.1),
}


@pytest.mark.parametrize("name", HALF)
def test_optimizers_in_half_precision(name: str) -> None:
    """Each step is a rounded step in float64, for gradients from 0 to near the largest number."""
    gs = np.array([0.0, 6e-8, 1e-4, 1.0, 6e4])
    p, q = leaf(np.ones(5, np.float16)), leaf(np.ones(5))
    optimizer, exact = HALF[name]([p]), HALF[name]([q])
    with np.errstate(over="ignore"):
        for _ in range(3):
            p.grad, q.grad = (
                const(gs.astype(np.float16)),
                const(gs.astype(np.float16).astype(float)),
            )
            optimizer.step()
            exact.step()
            expected = host(q).astype(np.float16)
            np.testing.assert_allclose(host(p), expected, rtol=2e-3, atol=2e-3)
            q.assign(host(p).astype(float))
    assert np.isfinite(host(p)[:4]).all()
    kinds = {v.dtype for v in optimizer.state[0].values() if hasattr(v, "dtype")}
    assert kinds <= {np.dtype("float32")}
    again = HALF[name]([leaf(host(p))])
    again.load_state_dict(optimizer.state_dict())
    for key, value in optimizer.state[0].items():
        assert_same_bits(host(again.state[0][key]), host(value))


def test_losses_in_half_precision() -> None:
    for n, size in ((1000, 12.0), (70_000, 12.0), (100, 250.0)):
        x = leaf(np.full(n, size, np.float16))
        loss = tg.nn.mse_loss(x, np.zeros(n, np.float16))
        loss.backward()
        assert loss.dtype == np.float16
        assert float(host(loss)) == pytest.approx(size**2, rel=1e-3)
        np.testing.assert_allclose(host(x.grad), 2 * size / n, rtol=1e-3, atol=6e-8)
    wide = tg.nn.mse_loss(const(np.full(9, 300, np.float16)), np.zeros(9, np.float32))
    assert (wide.dtype, float(host(wide))) == (np.float32, 90_000)
    logits = leaf(np.zeros((70_000, 4), np.float16))
    loss = tg.nn.cross_entropy(logits, np.zeros(70_000, int))
    loss.backward(const(np.float16(1000)))
    assert loss.dtype == np.float16
    assert float(host(loss)) == pytest.approx(np.log(4), rel=1e-3)
    np.testing.assert_allclose(host(logits.grad)[:, 1], 1000 / 4 / 70_000, rtol=1e-3)
    classes = leaf(np.zeros((1, 70_000), np.float16))
    loss = tg.nn.cross_entropy(classes, [0])
    loss.backward()
    assert float(host(loss)) == pytest.approx(np.log(70_000), rel=1e-3)
    np.testing.assert_allclose(host(classes.grad)[0, 1:], 1 / 70_000, rtol=1e-2)
