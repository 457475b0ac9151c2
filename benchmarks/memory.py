"""Memory of backpropagation through time, and the cost of anomaly detection while it is off.

``python -m benchmarks.memory [--out DIR]``

Peak of what one training step (forward and backward) allocates, plain and under ``tg.remat`` in about √T
segments, over growing T: of a loop over an RNN's cell, and of an LSTM layer with a loss at every step. Each
in a process of its own. Then the step of the cell with the checks of
``detect_anomaly`` in the code, switched off, beside the step with them taken out.
"""

from __future__ import annotations
import __future__

import ast
import gc
import inspect
import math
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np
import tyro
from rich.progress import track

import tinygrad182 as tg
from benchmarks.options import OutputOptions
from benchmarks.peers import threads
from benchmarks.timing import interleave, milliseconds, ratio, report
from benchmarks.worker import in_a_process
from tinygrad182.engine import backpropagation, recording

BATCH, INPUTS, HIDDEN = 16, 4, 32
LAYER_BATCH = 4


@dataclass(frozen=True, kw_only=True)
class Options(OutputOptions):
    """Measure the memory of recomputation, and what anomaly detection costs while it is off."""

    lengths: tuple[int, ...] = (1_000, 2_000, 5_000, 10_000)
    """Steps in time, T, of the loop over the cell."""

    layer_lengths: tuple[int, ...] = (6_250, 25_000, 100_000)
    """Steps in time of the whole layer."""

    repeats: int = 300
    """Rounds of the timed comparison that count."""


def training_step(steps: int, remat: bool, batch: int = BATCH) -> Callable[[], None]:
    """Forward, a loss at the last step, backward; the input is made beforehand."""
    cell = tg.nn.RNNCell(INPUTS, HIDDEN, rng=0)
    draw = np.random.default_rng(0)
    x = tg.tensor(draw.normal(size=(steps, batch, INPUTS)).astype(np.float32))
    length = math.isqrt(steps) if remat else steps

    def segment(h: tg.Tensor, start: int) -> tg.Tensor:
        for t in range(start, min(start + length, steps)):
            h = cell(x[t], h)
        return h

    run = tg.remat(segment) if remat else segment

    def step() -> None:
        h = tg.zeros((batch, HIDDEN))
        for start in range(0, steps, length):
            h = run(h, start)
        (h * h).sum().backward()

    return step


def layer_step(steps: int, remat: bool) -> Callable[[], None]:
    """Like ``training_step``, for an LSTM layer that predicts its next input."""
    lstm = tg.nn.LSTM(INPUTS, HIDDEN, rng=0)
    head = tg.nn.Linear(HIDDEN, INPUTS, rng=1)
    draw = np.random.default_rng(0)
    x = tg.tensor(draw.normal(size=(steps + 1, LAYER_BATCH, INPUTS)).astype(np.float32))
    length = math.isqrt(steps) if remat else steps

    def segment(state: Any, start: int) -> tuple[tg.Tensor, Any]:
        stop = min(start + length, steps)
        output, state = lstm(x[start:stop], state)
        return tg.nn.mse_loss(head(output), x[start + 1 : stop + 1]) * (
            (stop - start) / steps
        ), state

    run = tg.remat(segment) if remat else segment

    def step() -> None:
        loss: Any = 0.0
        state = None
        for start in range(0, steps, length):
            part, state = run(state, start)
            loss = part + loss
        loss.backward()

    return step


STEPS: dict[str, tuple[Callable[..., Callable[[], None]], bool]] = {
    "cell": (training_step, False),
    "cell, remat": (training_step, True),
    "layer": (layer_step, False),
    "layer, remat": (layer_step, True),
}


def peak_allocated(kind: str, steps: int) -> tuple[int, float]:
    """Bytes at the peak above what was there before, and seconds, of one step in this process."""
    make, remat = STEPS[kind]
    step = make(steps, remat)
    gc.collect()
    make(1_000, remat)()  # Python keeps what it frees of small tuples; loops are compiled
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    _, top = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return top - before, seconds


def slope(lengths: Sequence[int], sizes: Sequence[int]) -> float:
    """Exponent p of the power law size ∝ Tᵖ, by least squares on logarithms."""
    return float(np.polyfit(np.log(lengths), np.log(sizes), 1)[0])


def along_time(options: Options) -> list[dict[str, Any]]:
    """One row per kind and length; the slope is fitted over all lengths of the kind."""
    lengths = {
        kind: options.layer_lengths if make is layer_step else options.lengths
        for kind, (make, _) in STEPS.items()
    }
    runs = [(kind, steps) for kind, many in lengths.items() for steps in many]
    progress = track(runs, description="Measuring memory", transient=True)
    found = {run: in_a_process("memory.peak_allocated", *run) for run in progress}
    return [
        {
            "step": kind,
            "T": steps,
            "peak MB": size / 1e6,
            "bytes/step": size / steps,
            "slope": slope(lengths[kind], [found[kind, n][0] for n in lengths[kind]]),
            "s (traced)": seconds,
        }
        for (kind, steps), (size, seconds) in found.items()
    ]


# --- anomaly detection, switched off --------------------------------------------------------------

CHECKED: dict[Any, int] = {
    recording.apply: 1,
    inspect.unwrap(backpropagation.backpropagate): 2,  # in the context of its warnings
}
"""The functions that ask whether anomalies are looked for, and at how many places they ask."""


class _WithoutChecks(ast.NodeTransformer):
    """Drops every ``if`` on the switch of ``detect_anomaly``."""

    def __init__(self) -> None:
        self.dropped = 0

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if ast.unparse(node.test) in ("modes.anomaly", "watched"):
            self.dropped += 1
            return None
        return self.generic_visit(node)


def without_checks(function: Any) -> CodeType:
    """The code of ``function`` with the branches of ``detect_anomaly`` taken out of its source."""
    transformer = _WithoutChecks()
    tree = transformer.visit(ast.parse(inspect.getsource(function)))
    if transformer.dropped != CHECKED[function]:
        raise RuntimeError(
            f"{function.__name__}: found {transformer.dropped} checks, not {CHECKED[function]}"
        )
    flags = __future__.annotations.compiler_flag
    made: dict[str, Any] = {}
    exec(compile(tree, function.__code__.co_filename, "exec", flags), function.__globals__, made)
    code: CodeType = inspect.unwrap(made[function.__name__]).__code__
    return code


def anomaly_off(options: Options) -> list[dict[str, Any]]:
    """A step of 100 times one sequence, H = 32: where an operation costs most beside its arithmetic."""
    step = training_step(100, remat=False, batch=1)
    as_written = [f.__code__ for f in CHECKED]
    contestants = {"checks": as_written, "checks again": as_written}
    contestants["no checks"] = [without_checks(f) for f in CHECKED]

    def running(codes: list[CodeType]) -> Callable[[], None]:
        def run() -> None:
            for function, code in zip(CHECKED, codes, strict=True):
                function.__code__ = code
            step()

        return run

    times = interleave({n: running(c) for n, c in contestants.items()}, options.repeats)
    running(as_written)()
    return [
        {
            "step": name,
            "ms": milliseconds(times[name]),
            "ratio": ratio(times, name, "no checks"),
        }
        for name in contestants
    ]


def main(options: Options) -> None:
    """Run both measurements."""
    with threads(1):
        report("memory-along-time", along_time(options), options.out)
        report("anomaly-detection-off", anomaly_off(options), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.memory"))
