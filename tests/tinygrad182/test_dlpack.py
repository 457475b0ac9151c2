"""Arrays of a library that only has DLPack are accepted wherever an array is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_same_bits, const, device, host, host_only, leaf
from tinygrad182.arrays import dlpack

X = np.random.default_rng(0).standard_normal((5, 3, 2))


class Foreign:
    """An array of a library that has no functions of ours, nor NumPy's protocols."""

    def __init__(self, array: Any, requires_grad: bool = False, device: int = 1) -> None:
        self._array = np.asarray(array)
        self.dtype = f"foreign.{self._array.dtype}"
        self.shape = self._array.shape
        self.ndim = self._array.ndim
        self.requires_grad = requires_grad
        self._device = device

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self._device, 0)


class Bare:
    """An array that hands its elements over, and says nothing else of itself."""

    def __init__(self, array: Any) -> None:
        self._array = np.asarray(array)

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


Make = Callable[[Any], Any]
CALLS: dict[str, Callable[[Make], Any]] = {
    "tensor": lambda f: tg.tensor(f(X)),
    "tensor of a list": lambda f: tg.tensor([f(X), f(X)]),
    "as_tensor": lambda f: tg.as_tensor(f(X)) * 1.0,
    "sum": lambda f: tg.sum(f(X)),
    "sum of a list": lambda f: tg.sum([f(X), X]),
    "index": lambda f: leaf(X)[f(np.array([3, 1]))],
    "mask": lambda f: leaf(X)[f(np.array([True, False, True, False, True]))],
    "linear": lambda f: tg.nn.Linear(2, 3, rng=0, dtype="float64")(f(X)),
    "norm": lambda f: tg.nn.LayerNorm(2, dtype="float64")(f(X)),
    "cell": lambda f: tg.nn.LSTMCell(2, 3, rng=0, dtype="float64")(f(X[0]))[0],
    "list of a layer": lambda f: tg.tensor([[f(X[0]), f(X[1])], [f(X[2]), f(X[3])]]),
    "to": lambda f: tg.ones(2).to(f(X)),
    "spectral_radius": lambda f: tg.nn.init.spectral_radius(f(np.eye(2))),
    "embedding": lambda f: tg.nn.Embedding(4, 2, rng=0)(f(np.array([1, 3], "uint8"))),
    "layer": lambda f: tg.nn.LSTM(2, 3, rng=0, dtype="float64")(f(X))[0],
    "lengths": lambda f: tg.nn.RNN(2, 3, rng=0, dtype="float64")(
        const(X), lengths=f(np.array([5, 2, 1], "uint8")), truncate=2
    )[0],
    "state": lambda f: tg.nn.RNN(2, 3, rng=0, dtype="float64")(const(X), f(np.ones((1, 3, 3))))[0],
    "mse_loss": lambda f: tg.nn.mse_loss(leaf(X), f(X * 2)),
    "cross_entropy": lambda f: tg.nn.cross_entropy(leaf(X[0]), f(np.array([0, 1, 1]))),
    "assign": lambda f: leaf(X).assign(f(X * 2)),
    "load_state_dict": lambda f: _loaded(f),
    "cotangent": lambda f: tg.grad((x := leaf(X)) * x, x, f(X))[0],
    "vjp": lambda f: tg.vjp(tg.tanh, f(X))[1](f(X))[0],
    "jvp": lambda f: tg.jvp(tg.tanh, f(X), f(X))[1],
    "start": lambda f: [b.best.tokens for b in tg.decode.greedy(_step, None, f(np.array([1, 0])), 3)],
}  # fmt: skip
OPERANDS: dict[str, Callable[[Make], Any]] = {
    "multiply": lambda f: leaf(X) * f(X),
    "multiply, left": lambda f: tg.multiply(f(X), leaf(X)),
    "exp": lambda f: tg.exp(f(X)),
    "number": lambda f: leaf(X) * f(np.array(2.0)),
    "matmul": lambda f: tg.matmul(f(X), leaf(X[0].T)),
    "greater": lambda f: tg.greater(leaf(X), f(X * 2)),
    "where": lambda f: tg.where(f(X > 0), leaf(X), 0.0),
    "concat": lambda f: tg.concat([leaf(X), f(X)]),
    "step": lambda f: tg.as_tensor(tg.decode.beam_search(
        lambda tokens, state: (f(np.array(host(_step(tokens, None)[0]))), state), None, 0, 2, 3
    ).best.log_probability),
}  # fmt: skip


def _loaded(make: Make) -> Any:
    layer = tg.nn.Linear(2, 3, rng=0, dtype="float64")
    layer.load_state_dict({"weight": make(X[:3, 0]), "bias": make(X[0, :, 0])})
    return layer(const(X))


def _step(tokens: Any, state: Any) -> Any:
    return tg.log_softmax(const(X[:4, 0] * 3)[tokens], axis=-1), state


@pytest.mark.parametrize("name", CALLS)
def test_what_speaks_dlpack_is_an_array(name: str) -> None:
    call = CALLS[name]
    assert_same_bits(call(Foreign), call(np.asarray))
    assert_same_bits(call(Bare), call(np.asarray))


@pytest.mark.parametrize("name", OPERANDS)
@host_only("an operand is never moved, as NumPy's arrays are not")
def test_an_operand_that_speaks_dlpack(name: str) -> None:
    call = OPERANDS[name]
    found, expected = call(Foreign), call(np.asarray)
    assert_same_bits(found, expected)
    assert_same_bits(call(Bare), expected)
    assert found.requires_grad == expected.requires_grad
    if found.requires_grad:
        found.sum().backward()


def test_it_is_copied_when_recorded() -> None:
    given = np.array([1.0, 2.0])
    w = tg.tensor([1.0, 1.0], dtype="float64", requires_grad=True, device="cpu")
    loss = (w * Foreign(given)).sum()
    copy = tg.tensor(Foreign(given), device="cpu")
    given[:] = 7
    loss.backward()
    assert w.grad is not None
    assert w.grad.tolist() == copy.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (
            Foreign(X, requires_grad=True), tg.GraphError,
            r"a tests\.Foreign requires grad, and its gradients would be lost; pass x\.detach\(\)",
        ),
        (Foreign(X, device=7), tg.DeviceError, r"on a device that cannot be read; move it: x\.cpu\(\)"),
        (Foreign(X.astype("U3")), tg.DTypeError, r"cannot be read: .*; convert it first"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_says_what_to_do(given: Any, error: Any, text: str) -> None:
    for call in (tg.tensor, tg.exp, tg.sum, leaf(X).__mul__, tg.nn.RNN(2, 3), leaf(X).assign):
        with pytest.raises(error, match=text):
            call(given)


@host_only("a step's arrays of the host are not where the tokens are")
def test_a_step_and_its_state_may_hand_their_elements_over() -> None:
    def step(tokens: Any, state: Any) -> Any:
        rows = dlpack.imported(state["h"])
        return Bare(_step(tokens, None)[0].numpy().copy()), {"h": Bare(rows + 1.0)}

    for search in (
        lambda f, s: tg.decode.beam_search(f, s, 0, beam_width=2, max_length=3),
        lambda f, s: tg.decode.exhaustive(f, s, 0, max_length=2),
        lambda f, s: tg.decode.greedy(f, s, 0, max_length=3),
        lambda f, s: tg.decode.sample(f, s, 0, max_length=3, rng=0),
    ):
        found = search(step, {"h": Bare(np.zeros((1, 2)))})
        expected = search(_step, {"h": np.zeros((1, 2))})
        assert found.best.tokens == expected.best.tokens


def test_the_state_of_a_search_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.from_dlpack", Foreign, raising=False)  # as libraries call it
    kinds = set()

    def step(tokens: Any, state: Any) -> Any:
        kinds.add(type(state["h"]))
        rows = dlpack.imported(state["h"])
        return _step(tokens, None)[0], {"h": Foreign(rows + 1.0)}

    with tg.use_device("cpu"):
        state = {"h": Foreign(np.zeros((1, 2)))}
        if device() == "cpu":
            tg.decode.beam_search(step, state, 0, beam_width=2, max_length=3)
            tg.decode.exhaustive(step, state, 0, max_length=2)
            tg.decode.rescore(step, state, 0, (1, 0))
            assert kinds == {Foreign}
            with pytest.raises(tg.DecodingError, match="axis 0 must have 1 rows"):
                tg.decode.greedy(step, {"h": Foreign(np.zeros((2, 2)))}, 0, max_length=3)


@pytest.mark.peers
def test_pytorch_s_tensors() -> None:
    torch = pytest.importorskip("torch")
    for call in CALLS.values():
        assert_same_bits(call(torch.as_tensor), call(np.asarray))
    if device() == "cpu":
        for call in OPERANDS.values():
            assert_same_bits(call(torch.as_tensor), call(np.asarray))
        w = leaf(X)
        assert isinstance(torch.as_tensor(X) * w, tg.Tensor)
    for given, error in [
        (torch.ones(3, requires_grad=True), tg.GraphError),
        (torch.ones(3, dtype=torch.bfloat16), tg.DTypeError),
        (torch.ones(3).to_sparse(), tg.DTypeError),
        (torch.ones(3, device="meta"), tg.DTypeError),
    ]:
        with pytest.raises(error, match=r"a torch\.Tensor"):
            tg.tensor(given)


@pytest.mark.peers
def test_a_step_written_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    cell, head = torch.nn.LSTMCell(5, 8), torch.nn.Linear(8, 5)
    letters = torch.eye(5)

    def step(tokens: Any, state: Any) -> Any:
        with torch.no_grad():
            h, c = cell(letters[torch.as_tensor(tokens)], state)
            return torch.log_softmax(head(h), -1), (h, c)

    state = torch.zeros(1, 8), torch.zeros(1, 8)
    with tg.use_device("cpu"):
        best = tg.decode.beam_search(step, state, 0, beam_width=25, max_length=3).best
        assert best == tg.decode.exhaustive(step, state, 0, max_length=3).best
        found = tg.decode.rescore(step, state, 0, best.tokens).sum().item()
    assert abs(found - best.log_probability) < 1e-6
