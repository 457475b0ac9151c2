"""Two cards: everything runs where its arrays are, whichever card is the current one.

The fake CuPy simulates two with ``FAKECUPY_DEVICES=2``, and refuses arrays on another card.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg

pytest.importorskip("cupy")
if not tg.cuda_is_available():
    pytest.skip("there is no card", allow_module_level=True)
try:
    tg.backend.check_device("cuda:1")
except tg.DeviceError:
    pytest.skip("there is one card", allow_module_level=True)

A = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -3.0]])
CARDS = ["cuda:0", "cuda:1"]

cards = pytest.mark.parametrize("card", CARDS)


def leaf(values: Any, card: str) -> tg.Tensor:
    return tg.tensor(np.asarray(values), device=card, requires_grad=True)


def _state(card: str) -> Any:
    optimizer = tg.optim.Adam([leaf(A, card)])
    optimizer.parameters[0].grad = tg.tensor(A, device=card)
    optimizer.step()
    return optimizer.state_dict()["state"][0]["exp_avg"]


def _padded(card: str) -> tg.Tensor:
    embedding = tg.nn.Embedding(3, 2, padding_idx=0, rng=0, device=card)
    y = embedding([[0, 2], [1, 2]])
    y.sum().backward()
    assert embedding.weight.grad is not None
    return embedding.weight.grad


def _lengths(card: str) -> tg.Tensor:
    lstm = tg.nn.LSTM(3, 2, num_layers=2, rng=0, dtype="float64", device=card)
    return lstm(np.stack([A, A]), lengths=[2, 1])[0]


def _state_dict(card: str) -> tg.Tensor:
    lstm = tg.nn.LSTM(3, 2, rng=0, device=card)
    state = lstm.state_dict()
    state["bias_hh_l0"] = tg.ones(8, device=card)
    lstm.load_state_dict(state)
    return lstm.bias_ih_l0


def _optimizer_state(card: str) -> tg.Tensor:
    optimizers = [tg.optim.SGD([leaf(A, c)], lr=0.1, momentum=0.5) for c in (card, CARDS[0])]
    for optimizer in optimizers:
        optimizer.parameters[0].grad = tg.tensor(A, device=optimizer.parameters[0].device)
        optimizer.step()
    optimizers[0].load_state_dict(optimizers[1].state_dict())
    optimizers[0].step()
    return optimizers[0].parameters[0]


def _clipped(card: str) -> tg.Tensor:
    x = leaf(A, card)
    (x * x).sum().backward()
    tg.optim.clip_grad_norm_([x], 0.5)
    assert x.grad is not None
    return x.grad


def _checked(card: str) -> tg.Tensor:
    x = leaf(A, card)
    y = (x * x).sum()
    assert x.data is x.data
    y.backward()
    assert x.grad is not None
    return x.grad


def _written(card: str) -> tg.Tensor:
    x = leaf(A, card)
    x.assign(A.tolist()).assign(2.0).data = -A
    return x


def _watched(card: str) -> tg.Tensor:
    x = leaf(A, card)
    with tg.detect_anomaly():
        tg.tanh(x).sum().backward()
    assert x.grad is not None
    return x.grad


def _wide(x: tg.Tensor) -> Any:
    return tg.grad((x * x).sum(), x, create_graph=True)[0]


USES: dict[str, Callable[[str], Any]] = {
    "tensor": lambda c: tg.tensor(A, "float32", device=c),
    "zeros": lambda c: tg.zeros((2, 3), device=c),
    "arange": lambda c: tg.arange(3, device=c),
    "eye": lambda c: tg.eye(3, device=c),
    "zeros_like": lambda c: tg.zeros_like(leaf(A, c)),
    "eye_like": lambda c: tg.eye_like(3, leaf(A, c)),
    "pad": lambda c: tg.pad(leaf(A, c), 1),
    "assign": _written,
    "cotangent": lambda c: tg.vjp(tg.tanh, leaf(A, c))[1](A.tolist())[0],
    "recorded gradient": lambda c: _wide(leaf(A, c)),
    "tangent": lambda c: tg.jvp(tg.tanh, [leaf(A, c)], [A.astype("float32")])[1],  # type: ignore[arg-type]
    "jacobian": lambda c: tg.jacobian(tg.exp, leaf(A, c)),
    "hessian": lambda c: tg.hessian(lambda x: (x**3).sum(), leaf(A, c)),
    "remat": lambda c: tg.remat(lambda x: tg.tanh(x) * x)(leaf(A, c)),
    "clone": lambda c: leaf(A, c).clone(),
    "index": lambda c: leaf(A, c)[[0, 1], [2, -1]],
    "index of its own": lambda c: leaf(A, c)[tg.tensor([1], dtype="int64", device=c)],
    "mask": lambda c: leaf(A, c)[leaf(A, c) > 0],
    "mask of the host": lambda c: leaf(A, c)[A > 0],
    "where": lambda c: tg.where(True, leaf(A, c), 0.0),
    "scatter_add": lambda c: tg.scatter_add((3,), "float64", [((slice(0, 3),), leaf(A, c)[0])]),
    "astype": lambda c: leaf(A, c).astype("float32"),
    "comparison": lambda c: np.float64(1) < leaf(A, c),
    "integer power": lambda c: tg.arange(3, device=c) ** tg.arange(3, device=c),
    "mse": lambda c: tg.nn.mse_loss(leaf(A, c), A),
    "cross_entropy": lambda c: tg.nn.cross_entropy(leaf(A, c), [0, 2]),
    "embedding": _padded,
    "lengths": _lengths,
    "state dict": _state_dict,
    "optimizer": _state,
    "optimizer's state dict": _optimizer_state,
    "clip_grad_norm_": _clipped,
    "data": _checked,
    "anomaly": _watched,
    "initial values": lambda c: tg.nn.init.orthogonal_(leaf(A, c), rng=0),
    "radius": lambda c: tg.nn.init.scale_to_spectral_radius_(leaf(A[:, :2], c), 2.0),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize("current", CARDS)
@cards
def test_everything_runs_on_the_card_of_its_arrays(
    use: Callable[[str], Any], card: str, current: str
) -> None:
    """Whatever the default device and the current card are, the result is on its own card, and right."""
    import cupy

    with tg.use_device("cpu"), cupy.cuda.Device(CARDS.index(current)):
        found = use(card)
    assert found.device == card
    np.testing.assert_allclose(
        found.numpy(), use("cpu" if card != CARDS[0] else card).numpy(), rtol=1e-6
    )


@cards
def test_gradients_are_checked_there(card: str) -> None:
    check = tg.testing.check_gradients(lambda x: tg.tanh(x) * x, tg.tensor(A, device=card))
    assert check.error < 1e-10


def test_two_cards_never_mix() -> None:
    x, y = (leaf(A, card) for card in CARDS)
    for call in (
        lambda: x + y,
        lambda: x.assign(y),
        lambda: (x * 1).backward(y),
        lambda: x[tg.tensor([0], dtype="int64", device="cuda:1")],
        lambda: tg.where(x > 0, x, y),
    ):
        with pytest.raises(tg.DeviceError, match=r"cuda:0.*cuda:1"):
            call()


def test_from_card_to_card() -> None:
    model = tg.nn.LSTM(3, 2, rng=0, dtype="float64", device="cuda:0")
    twin = tg.nn.LSTM(3, 2, rng=1, dtype="float64", device="cuda:1")
    optimizer = tg.optim.Adam(model.parameters())
    for card in ("cuda:0", "cuda:1", "cpu", "cuda:1"):
        model.to(card)
        model(A[:, None])[0].sum().backward()
        optimizer.step()
        twin.load_state_dict(model.state_dict())
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert (p.device, q.device) == (card, "cuda:1")
            np.testing.assert_array_equal(p.numpy(), q.numpy())
    x = leaf(A, "cuda:0")
    (x.to("cuda:1") ** 2).sum().backward()
    assert x.grad is not None
    assert x.grad.device == "cuda:0"
    np.testing.assert_array_equal(x.grad.numpy(), 2 * A)
    assert tg.optim.clip_grad_norm_([x, *twin.parameters()], 9e9) == pytest.approx(
        np.linalg.norm(2 * A)
    )
