"""An unrolled tanh RNN with every gradient kept, beside PyTorch eager: one thread each.

``python -m benchmarks.unrolled [--out DIR] [--device cuda]``

Forward, a loss at every step, backward. Ours keeps the gradient of every node of the graph
(``tg.inspect.trace``), or of the states alone (``gradient_flow``, which also carries exponents); plain
``backward`` is there for comparison. PyTorch runs a loop over its ``RNNCell`` with ``retain_grad`` on
every state.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import tyro

import tinygrad182 as tg
from benchmarks.options import OutputOptions
from benchmarks.peers import threads
from benchmarks.timing import interleave, milliseconds, ratio, report

SHAPES = ((100, 1, 1, 16), (100, 10, 1, 16), (100, 64, 32, 128))
LENGTHS = (100, 1_000, 10_000)
PEER = "torch retain_grad"


@dataclass(frozen=True, kw_only=True)
class Options(OutputOptions):
    """Measure an unrolled RNN with every gradient kept, beside PyTorch."""

    device: str = "cpu"
    """cpu or cuda."""

    repeats: int = 40
    """Rounds that count."""


def ours(shape: tuple[int, ...], x: Any, y: Any) -> dict[str, Callable[[], object]]:
    """Forward and backward of our layer, keeping gradients in three ways."""
    _, _, inputs, hidden = shape
    rnn = tg.nn.RNN(inputs, hidden, return_states=True, fused=False, rng=0)
    head = tg.nn.Linear(hidden, 1, rng=1)
    sequence, target = tg.tensor(x, device=rnn.weight_hh_l0.device), tg.tensor(y)  # type: ignore[attr-defined]
    target = target.to(sequence.device)

    def loss() -> tg.Tensor:
        output, *_ = rnn(sequence)
        return tg.nn.mse_loss(head(output), target)

    return {
        "backward (leaves)": lambda: loss().backward(),
        "trace (every node)": lambda: tg.inspect.trace(loss()),
        "gradient_flow (states)": lambda: tg.inspect.gradient_flow(loss()),
    }


def torch_loop(shape: tuple[int, ...], x: Any, y: Any, device: str) -> Callable[[], object]:
    """PyTorch's cell in a loop, its states keeping their gradients."""
    import torch  # a peer: not installed for users

    steps, batch, inputs, hidden = shape
    cell = torch.nn.RNNCell(inputs, hidden, device=device)
    head = torch.nn.Linear(hidden, 1, device=device)
    sequence, target = (torch.from_numpy(a).to(device) for a in (x, y))

    def run() -> None:
        h = torch.zeros(batch, hidden, device=device)
        states = []
        for t in range(steps):
            h = cell(sequence[t], h)
            h.retain_grad()
            states.append(h)
        torch.nn.functional.mse_loss(head(torch.stack(states)), target).backward()

    return run


def against_torch(options: Options) -> list[dict[str, Any]]:
    """One row per shape and way of keeping gradients."""
    rows = []
    draw = np.random.default_rng(0)
    peer = find_spec("torch") is not None
    for shape in SHAPES:
        steps, batch, inputs, _ = shape
        x = draw.normal(size=(steps, batch, inputs)).astype(np.float32)
        y = draw.normal(size=(steps, batch, 1)).astype(np.float32)
        contestants = ours(shape, x, y)
        names = list(contestants)
        if peer:
            contestants[PEER] = torch_loop(shape, x, y, options.device)
        times = interleave(contestants, options.repeats, synchronizer(options.device))
        for name in names:
            rows.append(
                {
                    "T, B, I, H": str(shape),
                    "ours": name,
                    "ms": milliseconds(times[name]),
                    "torch ms": milliseconds(times[PEER]) if peer else None,
                    "ratio": ratio(times, name, PEER) if peer else None,
                }
            )
    return rows


def along_time(options: Options) -> list[dict[str, Any]]:
    """Time per step of forward and backward, for growing lengths."""
    rnn = tg.nn.RNN(1, 16, fused=False, rng=0)
    wait = synchronizer(options.device)
    rows = []
    for steps in LENGTHS:
        forward, backward = [], []
        for _ in range(max(3, min(options.repeats, 20_000 // steps))):
            gc.collect()  # what earlier rounds left is not this one's to sweep
            wait()
            start = time.perf_counter()
            output, _ = rnn(tg.ones((steps, 1, 1)))
            loss = (output * output).sum()
            wait()
            middle = time.perf_counter()
            loss.backward()
            wait()
            forward.append(middle - start)
            backward.append(time.perf_counter() - middle)
        rows.append(
            {
                "T": steps,
                "forward µs/step": min(forward) / steps * 1e6,
                "backward µs/step": min(backward) / steps * 1e6,
            }
        )
    return rows


def synchronizer(device: str) -> Callable[[], object]:
    """Return what waits for the device."""
    if device == "cpu":
        return lambda: None
    import cupy

    return lambda: cupy.cuda.Device().synchronize()


def main(options: Options) -> None:
    """Run both measurements."""
    tg.use_device(options.device)
    with threads(1):
        report("unrolled-against-torch", against_torch(options), options.out)
        report("unrolled-along-time", along_time(options), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.unrolled"))
