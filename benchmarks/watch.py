"""The cost of ``tg.inspect.watch``: training steps with a watch at every N-th over those without.

``python -m benchmarks.watch [--out DIR]``

A training step is a forward pass over whole sequences, the mean squared error at every step, its backward
pass, clipping, and Adam, in float32. N steps without a watch and N with one take turns, so that noise meets
both alike; the ratio is the median over rounds. The watch appends to a file on disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

import tinygrad182 as tg
from benchmarks.options import TimingOptions, sizes
from benchmarks.timing import interleave, milliseconds, ratio, report
from models import RecurrentRegressor

INPUTS = 8


@dataclass(frozen=True, kw_only=True)
class Options(TimingOptions):
    """Measure what a watch adds to training."""

    shapes: tuple[str, ...] = ("100,16,64", "200,32,128")
    """T,B,H each."""

    cells: tuple[Literal["rnn", "lstm"], ...] = ("rnn", "lstm")
    """Recurrent layers."""

    every: int = 10
    """Training steps from one that is watched to the next."""


def trainer(
    cell: str, steps: int, batch: int, hidden: int
) -> tuple[tg.nn.Module, Callable[[], Any]]:
    """A model, and what makes one training step of it."""
    model = RecurrentRegressor(INPUTS, hidden, 1, cell=cell, rng=np.random.default_rng(0))
    parameters = list(model.parameters())
    optimizer = tg.optim.Adam(parameters, lr=1e-3)
    draw = np.random.default_rng(0)
    x = tg.tensor(draw.normal(size=(steps, batch, INPUTS)).astype(np.float32))
    y = tg.zeros((steps, batch, 1))

    def train() -> None:
        loss = tg.nn.mse_loss(model(x)[0], y)
        optimizer.zero_grad()
        loss.backward()
        tg.optim.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return model, train


@contextmanager
def watched_and_alone(network: tuple[str, int, int, int], every: int) -> Iterator[dict[str, Any]]:
    """``every`` training steps of two networks, of which one is watched."""
    with tempfile.TemporaryDirectory() as folder:
        model, watched = trainer(*network)
        _, alone = trainer(*network)
        with tg.inspect.watch(model, every, Path(folder, "run.jsonl")):
            runs = {"watched": watched, "alone": alone}
            yield {
                name: lambda train=train: [train() for _ in range(every)]
                for name, train in runs.items()
            }


def row(cell: str, shape: str, options: Options) -> dict[str, Any]:
    """Milliseconds of a training step, and the ratio."""
    steps, batch, hidden = sizes(shape)
    with watched_and_alone((cell, steps, batch, hidden), options.every) as runs:
        times = interleave(runs, options.repeats, clock=options.clock)
    return {
        "cell": cell,
        "T, B, H": f"{steps}, {batch}, {hidden}",
        "N": options.every,
        **{f"{name}, ms": milliseconds(t) / options.every for name, t in times.items()},
        "ratio": ratio(times, "watched", "alone"),
    }


def main(options: Options) -> None:
    """Run the measurements."""
    rows = [row(cell, shape, options) for cell in options.cells for shape in options.shapes]
    report("watch", rows, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.watch"))
