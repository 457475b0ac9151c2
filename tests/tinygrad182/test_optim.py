"""Optimizers and clipping: against their formulas, against PyTorch, and against misuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import (
    Array,
    assert_close,
    assert_same_bits,
    const,
    host,
    leaf,
    needs_torch,
    write,
)

optim = tg.optim
STEPS = 20


def gradients(seed: int = 0) -> list[Array]:
    return list(np.random.default_rng(seed).normal(size=(STEPS, 3, 2)))


def run(make: Callable[[list[tg.Tensor]], Any], start: Array, gs: list[Array]) -> Array:
    """The parameter after one step per given gradient."""
    p = leaf(start)
    optimizer = make([p])
    for g in gs:
        p.grad = const(g)
        optimizer.step()
    return p.numpy()


def sgd(p: Array, gs: list[Array], lr: float, momentum: float, decay: float) -> Array:
    velocity = np.zeros_like(p)
    for g in gs:
        velocity = momentum * velocity + g + decay * p
        p = p - lr * velocity
    return p


def adam(
    p: Array, gs: list[Array], lr: float, betas: tuple[float, float], eps: float, decay: float
) -> Array:
    """Algorithm 1 of Kingma and Ba, written with sums over the whole past instead of a recursion."""
    past: list[Array] = []
    for g in gs:
        past.append(g + decay * p)
        t = len(past)
        means = []
        for beta, power in zip(betas, (1, 2), strict=True):
            weights = [(1 - beta) * beta ** (t - 1 - i) for i in range(t)]
            total = sum(w * q**power for w, q in zip(weights, past, strict=True))
            means.append(total / (1 - beta**t))
        p = p - lr * means[0] / (np.sqrt(means[1]) + eps)
    return p


rates = st.sampled_from([1e-3, 0.1, 0.7])


@given(rates, st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.01, 0.3]))
def test_sgd_is_its_formula(lr: float, momentum: float, decay: float) -> None:
    start = np.ones((3, 2))
    found = run(lambda ps: optim.SGD(ps, lr, momentum, decay), start, gradients())
    assert_close(found, sgd(start, gradients(), lr, momentum, decay), 1e-13)


@given(
    rates,
    st.sampled_from([(0.9, 0.999), (0.0, 0.0), (0.5, 0.9)]),
    st.sampled_from([1e-8, 1e-3]),
    st.sampled_from([0.0, 0.1]),
)
def test_adam_is_its_formula(
    lr: float, betas: tuple[float, float], eps: float, decay: float
) -> None:
    start = np.ones((3, 2))
    found = run(lambda ps: optim.Adam(ps, lr, betas, eps, decay), start, gradients())
    assert_close(found, adam(start, gradients(), lr, betas, eps, decay), 1e-12)


def test_defaults_of_adam() -> None:
    start = np.ones((3, 2))
    expected = adam(start, gradients(), 1e-3, (0.9, 0.999), 1e-8, 0.0)
    assert_close(run(optim.Adam, start, gradients()), expected, 1e-13)


MAKERS: dict[str, tuple[Callable[..., Any], Callable[[Any], Callable[..., Any]]]] = {
    "SGD": (
        lambda ps: optim.SGD(ps, 0.05, momentum=0.9, weight_decay=0.01),
        lambda o: lambda ps: o.SGD(ps, 0.05, momentum=0.9, weight_decay=0.01),
    ),
    "plain SGD": (lambda ps: optim.SGD(ps, 0.05), lambda o: lambda ps: o.SGD(ps, 0.05)),
    "Adam": (
        lambda ps: optim.Adam(ps, 0.02, weight_decay=0.01),
        lambda o: lambda ps: o.Adam(ps, 0.02, weight_decay=0.01),
    ),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("max_norm", [None, 0.3])
def test_training_a_recurrent_model_goes_as_in_pytorch(name: str, max_norm: float | None) -> None:
    torch = needs_torch()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 4, 2)), rng.normal(size=(10, 4, 1))
    rnn, head = (tg.nn.RNN(2, 6, 2, rng=1, dtype="float64"), tg.nn.Linear(6, 1, dtype="float64"))
    rnn_2, head_2 = torch.nn.RNN(2, 6, 2).double(), torch.nn.Linear(6, 1).double()
    with torch.no_grad():  # PyTorch trains its two biases as two parameters, which would differ
        for p_name, p in rnn_2.named_parameters():
            if "bias_hh" in p_name:
                p.zero_()
                p.requires_grad_(False)
    rnn.load_state_dict(rnn_2.state_dict())
    head.load_state_dict(head_2.state_dict())
    ours = [*rnn.parameters(), *head.parameters()]
    theirs = [p for p in (*rnn_2.parameters(), *head_2.parameters()) if p.requires_grad]
    make, make_theirs = MAKERS[name]
    optimizer, optimizer_2 = make(ours), make_theirs(torch.optim)(theirs)
    for _ in range(STEPS):
        optimizer.zero_grad()
        optimizer_2.zero_grad()
        loss = tg.nn.mse_loss(head(rnn(const(x))[0]), const(y))
        loss_2 = torch.nn.functional.mse_loss(head_2(rnn_2(torch.tensor(x))[0]), torch.tensor(y))
        assert_close(loss, loss_2.detach().numpy(), 1e-10, "loss")
        loss.backward()
        loss_2.backward()
        if max_norm is not None:
            norm = optim.clip_grad_norm_(ours, max_norm)
            norm_2 = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
            assert norm == pytest.approx(norm_2.item(), rel=1e-10)
        optimizer.step()
        optimizer_2.step()
        for p, q in zip(ours, theirs, strict=True):
            assert_close(p, q.detach().numpy(), 1e-10)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.5, 3.0, 100.0, np.inf]),
    st.sampled_from([1e-200, 1.0, 1e200]),
)
def test_clipping_is_pytorchs(sizes: list[int], max_norm: float, scale: float) -> None:
    torch = needs_torch()
    rng = np.random.default_rng(0)
    ours, theirs = [leaf(np.zeros(1))], [torch.zeros(1, requires_grad=True)]  # one without gradient
    for n in sizes:
        g = scale * rng.normal(size=(n, 2))
        p, q = leaf(np.zeros((n, 2))), torch.zeros((n, 2), dtype=torch.float64, requires_grad=True)
        p.grad, q.grad = const(g), torch.tensor(g)
        ours.append(p)
        theirs.append(q)
    norm = optim.clip_grad_norm_(ours, max_norm)
    whole = np.concatenate([q.grad.numpy().ravel() / scale for q in theirs[1:]])
    assert norm == pytest.approx(scale * float(np.linalg.norm(whole)), rel=1e-14)
    if scale == 1.0:  # beyond, PyTorch's squares under- or overflow
        torch.nn.utils.clip_grad_norm_(theirs, max_norm)
        for p, q in zip(ours[1:], theirs[1:], strict=True):
            assert_close(p.grad, q.grad.numpy(), 1e-14)
    else:
        joint = np.concatenate([p.grad.numpy().ravel() for p in ours[1:]])
        top = np.abs(joint).max()
        clipped = top * np.linalg.norm(joint / top) if top else 0.0
        assert clipped <= max_norm * (1 + 1e-12)
        assert clipped == pytest.approx(min(max_norm, norm), rel=1e-9)
    assert ours[0].grad is None


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, np.inf])
def test_a_gradient_that_is_not_finite_is_named_and_nothing_is_changed(
    bad: float, norm_type: float
) -> None:
    model = tg.nn.Sequential(tg.nn.Linear(2, 1, rng=0), tg.nn.Linear(1, 1, rng=1))
    model(const(np.ones((1, 2), np.float32))).sum().backward()
    weight = model[1].weight  # type: ignore[attr-defined]
    weight.grad = const(np.array([[bad]], np.float32))
    before = [host(p.grad) for p in model.parameters()]
    for parameters, label in ((model.parameters(), "1.weight"), ([weight], "1.weight")):
        with pytest.raises(tg.GraphError, match=rf"clip_grad_norm_: .*{label} \(1, 1\) holds"):
            optim.clip_grad_norm_(parameters, 1.0, norm_type)
    norm = optim.clip_grad_norm_(model.parameters(), 1.0, norm_type, error_if_nonfinite=False)
    np.testing.assert_equal(norm, abs(bad))
    for p, held in zip(model.parameters(), before, strict=True):
        assert_same_bits(p.grad, held)
    p = leaf(np.zeros(2))
    p.grad = const(np.array([1.0, bad]))
    with pytest.raises(tg.GraphError, match=r"parameter 1 \(2,\) holds"):
        optim.clip_grad_norm_([leaf(np.zeros(1)), p], 1.0)


@pytest.mark.parametrize("norm_type", [1.0, 1.5, 2.0, 3.0, np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("size", ["largest", "one", "smallest"])
def test_norms_of_every_kind_at_the_ends_of_the_range(
    norm_type: float, dtype: str, size: str
) -> None:
    info = np.finfo(dtype)
    rng = np.random.default_rng(0)
    top = {"largest": info.max, "one": 1.0, "smallest": info.tiny}[size]
    gs = [np.asarray(top * rng.uniform(-1, 1, n), dtype) for n in (3, 200)]
    ps = [leaf(np.zeros(len(g), dtype)) for g in gs]
    for p, g in zip(ps, gs, strict=True):
        p.grad = const(g)
    joint = np.concatenate(gs).astype(np.longdouble)
    exact = (
        np.linalg.norm(joint, norm_type)
        if norm_type == np.inf
        else (
            (np.abs(joint) ** norm_type).sum() ** (1 / np.longdouble(norm_type))
            if dtype != "float64"
            else np.longdouble(top)
            * (np.abs(joint / top) ** norm_type).sum() ** (1 / np.longdouble(norm_type))
        )
    )
    with np.errstate(over="ignore"):
        assert optim.clip_grad_norm_(ps, 1.0, norm_type) == pytest.approx(float(exact), rel=1e-13)
    clipped = np.concatenate([host(p.grad) for p in ps]).astype(np.longdouble)
    expected = joint / (exact + np.longdouble(1e-6)) if exact + 1e-6 > 1 else joint
    close = 4 * float(info.eps)
    np.testing.assert_allclose(
        clipped.astype(float), expected.astype(float), rtol=close, atol=close / 1000
    )


def test_norms_of_every_kind_are_pytorchs() -> None:
    torch = needs_torch()
    g = np.random.default_rng(0).normal(size=(4, 3))
    for norm_type in (1.0, 1.5, 2.0, np.inf):
        p, q = leaf(np.zeros((4, 3))), torch.zeros((4, 3), dtype=torch.float64, requires_grad=True)
        p.grad, q.grad = const(g), torch.tensor(g)
        norm = optim.clip_grad_norm_([p], 0.5, norm_type)
        assert norm == pytest.approx(
            torch.nn.utils.clip_grad_norm_([q], 0.5, norm_type).item(), rel=1e-14
        )
        assert_close(p.grad, q.grad.numpy(), 1e-14)
        optim.clip_grad_value_([p], 0.1)
        torch.nn.utils.clip_grad_value_([q], 0.1)
        assert_close(p.grad, q.grad.numpy(), 1e-14)


def test_clipping_values() -> None:
    p, q = leaf(np.zeros(4)), leaf(np.zeros(1))
    p.grad = const(np.array([-3.0, 0.5, np.inf, np.nan]))
    optim.clip_grad_value_(iter([p, q]), 1.0)
    np.testing.assert_array_equal(host(p.grad), [-1.0, 0.5, 1.0, np.nan])
    assert q.grad is None


def test_clipping_leaves_small_gradients_alone() -> None:
    p = leaf(np.zeros(2))
    p.grad = const(np.array([0.3, 0.4]))
    held = p.grad
    assert optim.clip_grad_norm_([p], 1.0) == pytest.approx(0.5, rel=1e-15)
    assert p.grad is held
    assert optim.clip_grad_norm_(iter([p]), 0.25) == pytest.approx(0.5, rel=1e-15)
    assert_close(p.grad, np.array([0.15, 0.2]), 1e-5)
    assert optim.clip_grad_norm_([leaf(np.zeros(2))], 1.0) == 0.0


def test_state_is_not_shared_with_gradients() -> None:
    """A gradient buffer that is written to after a step must not change the momentum."""
    results = []
    for spoil in (False, True):
        p = leaf(np.ones(2))
        optimizer = optim.SGD([p], 0.1, momentum=0.9)
        for g in ([1.0, 2.0], [3.0, 4.0]):
            p.grad = const(np.array(g))
            optimizer.step()
            if spoil:
                write(p.grad, 1e9)
        results.append(p.numpy())
    assert_same_bits(*results)


def test_parameters_without_a_gradient_are_passed_over() -> None:
    p, q = leaf(np.ones(2)), leaf(np.ones(2))
    optimizer = optim.Adam([p, q], 0.1, weight_decay=1.0)
    for _ in range(3):
        p.grad = const(np.ones(2))
        optimizer.step()
    assert_same_bits(q, np.ones(2))
    q.grad = const(np.ones(2))
    optimizer.step()
    assert_close(1 - q.numpy(), np.full(2, 0.1), 1e-7)  # its own first step, not its fourth
    optimizer.zero_grad()
    assert p.grad is None
    assert q.grad is None


@pytest.mark.parametrize("make", [lambda ps: optim.SGD(ps, 0.1, 0.9, 0.1), optim.Adam])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_updates_keep_dtype_memory_and_shape(make: Any, dtype: str) -> None:
    for shape in ((), (0,), (2, 3)):
        p = leaf(np.ones(shape, dtype))
        array = p.data
        p.grad = const(np.ones(shape, dtype))
        make([p]).step()
        assert p.data is array
        assert (p.shape, p.dtype) == (shape, np.dtype(dtype))
        assert (p.numpy() < 1).all()


def test_a_step_makes_older_graphs_refuse_backward() -> None:
    w = leaf(np.ones(2))
    loss = (w * w).sum()
    w.grad = const(np.ones(2))
    optim.SGD([w], 0.1).step()
    with pytest.raises(tg.InPlaceError, match="changed in place"):
        loss.backward()


def test_a_tensor_that_is_frozen_stays() -> None:
    w, frozen = leaf(np.ones(2)), const(np.ones(2))
    (w * frozen).sum().backward()
    optim.SGD([w, frozen], 0.1).step()
    assert_same_bits(frozen, np.ones(2))
    assert_close(w, np.full(2, 0.9), 1e-15)


W = tg.ones(2, requires_grad=True)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: optim.SGD([], 0.1), "SGD: no parameters.*read only once"),
    "a used-up iterator": (lambda: optim.Adam(x for x in ()), "Adam: no parameters"),
    "one tensor": (lambda: optim.SGD(W, 0.1), r"must be a list.*model.parameters\(\)"),
    "a module": (lambda: optim.SGD(tg.nn.Linear(1, 1), 0.1), r"model.parameters\(\)"),
    "named parameters": (
        lambda: optim.SGD(tg.nn.Linear(1, 1).named_parameters(), 0.1),
        "must be leaf tensors",
    ),
    "a result": (lambda: optim.SGD([W * 2], 0.1), "must be leaf tensors"),
    "twice": (lambda: optim.SGD([W, W], 0.1), "given twice"),
    "negative lr": (lambda: optim.SGD([W], -0.1), r"SGD: lr -0\.1"),
    "NaN lr": (lambda: optim.Adam([W], float("nan")), "Adam: lr nan"),
    "infinite lr": (lambda: optim.Adam([W], float("inf")), "Adam: lr inf"),
    "lr as text": (lambda: optim.SGD([W], "0.1"), "SGD: lr '0.1' must be a finite number from 0"),
    "momentum": (lambda: optim.SGD([W], 0.1, momentum=-1), "SGD: momentum -1"),
    "weight decay": (lambda: optim.SGD([W], 0.1, weight_decay=-1), "SGD: weight_decay -1"),
    "betas": (lambda: optim.Adam([W], betas=(1.0, 0.9)), r"Adam: betas \(1.0, 0.9\)"),
    "one beta": (lambda: optim.Adam([W], betas=(0.9,)), r"betas \(0.9,\) must be two"),
    "beta": (lambda: optim.Adam([W], betas=0.9), "betas 0.9 must be two"),
    "eps": (lambda: optim.Adam([W], eps=-1e-8), "Adam: eps -1e-08"),
    "Adam's decay": (lambda: optim.Adam([W], weight_decay=-1), "Adam: weight_decay -1"),
    "max_norm": (lambda: optim.clip_grad_norm_([W], -1.0), r"clip_grad_norm_: max_norm -1\.0"),
    "no parameters to clip": (
        lambda: optim.clip_grad_norm_(iter(()), 1.0),
        "clip_grad_norm_: no parameters.*read only once",
    ),
    "no parameters to limit": (
        lambda: optim.clip_grad_value_((), 1.0),
        "clip_grad_value_: no parameters.*read only once",
    ),
    "clip_value": (lambda: optim.clip_grad_value_([W], -1.0), r"clip_value -1\.0"),
    "norm_type": (lambda: optim.clip_grad_norm_([W], 1.0, 0.5), r"norm_type 0\.5 .*from 1"),
    "norm_type as a flag": (lambda: optim.clip_grad_norm_([W], 1.0, True), "norm_type True"),
    "NaN max_norm": (lambda: optim.clip_grad_norm_([W], float("nan")), "max_norm nan"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(tg.ArgumentError, match=message):
        call()
