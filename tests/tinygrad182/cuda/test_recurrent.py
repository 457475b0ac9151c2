"""Recurrent layers on CUDA: launches and waits, kernels of their own, and the numbers of the CPU."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close
from tinygrad182.kernels import runs

cupy = pytest.importorskip("cupy")
if not tg.cuda_is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

STAND_IN = getattr(cupy, "__fake__", False)
counts = pytest.mark.skipif(not STAND_IN, reason="only the stand-in counts launches and waits")

KINDS = ("lstm", "gru", "tanh", "relu", "identity")
DEVICES = [f"cuda:{i}" for i in range(min(2, cupy.cuda.runtime.getDeviceCount()))]


def make(kind: str, device: str, dtype: str = "float64", gain: float = 1.0, **options: Any) -> Any:
    """A layer of 3 inputs and 8 units; ``gain`` multiplies its recurrent weights."""
    with tg.use_device("cpu"):
        if kind == "lstm":
            layer: Any = tg.nn.LSTM(3, 8, rng=0, dtype=dtype, **options)
        elif kind == "gru":
            layer = tg.nn.GRU(3, 8, rng=0, dtype=dtype, **options)
        else:
            layer = tg.nn.RNN(3, 8, nonlinearity=kind, rng=0, dtype=dtype, **options)
        for name, parameter in layer.named_parameters():
            if "weight_hh" in name:
                parameter.data[...] *= gain
    return layer.to(device)


def data(steps: int, dtype: str = "float64", batch: int = 4) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=(steps, batch, 3)).astype(dtype)


def tensor(array: Any, device: str, requires_grad: bool = False) -> tg.Tensor:
    moved = tg.tensor(array, device="cpu").to(device).detach()
    moved.requires_grad = requires_grad
    return moved


# --- launches and waits ---------------------------------------------------------------------------


def launches(kind: str, steps: int, look: bool = False, **options: Any) -> int:
    """Run a training step; with ``look``, keep the gradients of all states."""
    layer = make(kind, "cuda:0", **options)
    x = tensor(data(steps, options.get("dtype", "float64")), "cuda:0")
    with cupy.counted("tinygrad182") as found:
        output, _ = layer(x)
        loss = (output**2).sum()
        if look:
            tg.inspect.gradient_flow(loss, backward=True)
        else:
            loss.backward()
    return int(found["launch"])


@counts
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("look", [False, True])
def test_launches_per_step(kind: str, dtype: str, bias: bool, look: bool) -> None:
    """Forward and backward: a product and a kernel each, also with the gradients of all states."""
    options = {"dtype": dtype, "bias": bias, "look": look}
    assert launches(kind, 100, **options) - launches(kind, 50, **options) == 4 * 50


@counts
@pytest.mark.parametrize("kind", KINDS)
def test_launches_of_a_layer(kind: str) -> None:
    """Besides its steps, :func:`gradient_flow` launches at most 240 kernels for each layer."""
    several = [launches(kind, 4, True, dtype="float32", num_layers=n) for n in (1, 2, 3)]
    assert several[0] <= 240
    assert np.diff(several).max() <= 240


@counts
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"num_layers": 2, "dropout": 0.5},
        {"num_layers": 2, "bidirectional": True, "truncate": 5},
    ],
    ids=str,
)
def test_a_training_step_never_waits(
    kind: str, dtype: str, lengths: bool, options: dict[str, Any]
) -> None:
    options = dict(options)
    truncate = options.pop("truncate", None)
    layer = make(kind, "cuda:0", dtype, **options)
    x = tensor(data(12, dtype), "cuda:0")
    optimizer = tg.optim.SGD(layer.parameters(), lr=0.1)
    with cupy.no_waits():
        output, _ = layer(x, None, [12, 0, 5, 12] if lengths else None, truncate)
        (output**2).sum().backward()
        optimizer.step()


@counts
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_lengths_go_to_a_card_once(fused: bool, bidirectional: bool) -> None:
    """They go once, however many steps, windows and layers use them."""
    sent = []
    for steps, truncate, layers in ((8, 8, 1), (16, 8, 1), (16, 2, 1), (8, 8, 3)):
        options = {"num_layers": layers, "bidirectional": bidirectional, "fused": fused}
        layer, x = make("lstm", "cuda:0", **options), tensor(data(steps), "cuda:0")
        counts = []
        for lengths in (None, [steps, 0, 5, steps]):
            with cupy.counted() as found:
                layer(x, None, lengths, truncate)
            counts.append(found["h2d"])
        sent.append(counts[1] - counts[0])
    assert len(set(sent)) == 1
    assert sent[0] <= 6


# --- values ---------------------------------------------------------------------------------------


def gradients(
    kind: str, device: str, lengths: Any = None, truncate: Any = None, **options: Any
) -> list[Any]:
    """The output, the last state and the gradients of a loss of both."""
    frozen = options.pop("frozen", "")
    layer = make(kind, device, **options)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad = not frozen or frozen not in name
    x = tensor(data(20), device, requires_grad=True)
    directions = 2 if options.get("bidirectional") else 1
    shape = (options.get("num_layers", 1) * directions, 4, 8)
    parts = [tensor(np.full(shape, 0.1 + k), device, True) for k in range(1 + (kind == "lstm"))]
    state = tuple(parts) if kind == "lstm" else parts[0]
    output, last = layer(x, state, lengths, truncate)
    ends = last if kind == "lstm" else (last,)
    loss = (output**2).sum() + sum((s**3).sum() for s in ends)
    loss.backward()
    leaves = [x, *parts, *layer.parameters()]
    return [output, *ends, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"lengths": [20, 3, 7, 20]},
        {"truncate": 6},
        {"num_layers": 2, "lengths": [20, 3, 7, 1], "truncate": 6},
        {"num_layers": 2, "lengths": [20, 0, 7, 1], "bidirectional": True, "dropout": 0.5},
        {"frozen": "weight_ih"},
        {"frozen": "weight_hh"},
        {"frozen": "weight"},
    ],
    ids=str,
)
def test_the_numbers_of_the_cpu(kind: str, device: str, options: dict[str, Any]) -> None:
    found, expected = (gradients(kind, d, **options) for d in (device, "cpu"))
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.device == device
            assert_close(a.numpy(), b.numpy(), 1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gain", [1.0, 0.02])
@pytest.mark.parametrize("lengths", [None, [20, 3, 7, 20]])
def test_the_views_of_the_cpu(kind: str, device: str, gain: float, lengths: Any) -> None:
    """Compare the gradients of all states; in one case they are far below the model's type."""
    found = []
    for where in (device, "cpu"):
        dtype = "float32" if where == device and gain < 1 else "float64"
        layer = make(kind, where, dtype, gain, num_layers=2)
        output, _ = layer(tensor(data(20, dtype), where), None, lengths)
        flow = tg.inspect.gradient_flow((output[-1] ** 2).sum(), backward=True)
        stacks = [flow[f"{kind if kind in ('lstm', 'gru') else 'rnn'}.l{k}"].h for k in range(2)]
        found.append([*(s.log_grad_norm for s in stacks), *(p.grad for p in layer.parameters())])
    for a, b in zip(*found, strict=True):
        if isinstance(a, tg.Tensor):
            a, b = a.numpy(), b.numpy()
        assert_close(a, b, 1e-12 if gain == 1 else 2e-5)


@counts
@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh"])
def test_what_nobody_needs_is_not_there_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without recording, sums and what is saved are there for some steps only; the numbers are the same."""
    layer, x = make(kind, "cuda"), tensor(data(400), "cuda")
    for lengths in (None, [400, 3, 100, 250]):
        expected = layer(x, lengths=lengths)[0].numpy()
        peaks = []
        for sums in (runs.DEVICE_WINDOW_SUMS, 4 * 32 * 20):
            monkeypatch.setattr(runs, "DEVICE_WINDOW_SUMS", sums)
            tracemalloc.start()
            with tg.no_grad():
                found = layer(x, lengths=lengths)[0].numpy()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            np.testing.assert_array_equal(found, expected)
        assert peaks[1] < 0.7 * peaks[0]
        monkeypatch.undo()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_many_cotangents_at_once(kind: str, device: str) -> None:
    """A Jacobian carries them on a leading axis."""
    found = []
    for where in (device, "cpu"):
        layer, x = make(kind, where), tensor(data(5), where)
        found.append(tg.jacobian(lambda x, layer=layer: layer(x)[0][-1], x))
    assert found[0].device == device
    assert_close(found[0].numpy(), found[1].numpy(), 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_norms_of_a_gradient_of_1e_600(dtype: str) -> None:
    """h_t = h_{t−1} / 8: the gradient is 8**-distance, to the last digit of its logarithm."""
    rnn = make("identity", "cuda:0", dtype, bias=False)
    rnn.weight_hh_l0.assign(tensor(np.eye(8, dtype=dtype) / 8, "cuda:0"))
    output, _ = rnn(tensor(data(700, dtype), "cuda:0"))
    flow = tg.inspect.gradient_flow(output[-1].sum())
    (stack,) = flow.values()
    distance = np.arange(700)[::-1]
    expected = np.log(np.sqrt(32)) - distance * np.log(8)
    assert expected[0] < np.log(10) * -600
    assert_close(stack.h.log_grad_norm, expected, 1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite(kind: str, look: bool, value: float) -> None:
    """NaN and ∞ reach the elements that they reach on the CPU; a ReLU that is 0 passes back 0."""
    found = []
    for where in ("cuda:0", "cpu"):
        layer, x = make(kind, where), tensor(data(6), where)
        g = np.ones((6, 4, 8))
        g[3, 1, 2] = value
        with np.errstate(all="ignore"):
            output, _ = layer(x)
            if look:
                tg.inspect.gradient_flow(output, tensor(g, where), backward=True)
            else:
                output.backward(tensor(g, where))
        found.append([p.grad.numpy() for p in layer.parameters()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        finite = np.isfinite(b)
        assert_close(a[finite], b[finite], 1e-12)
