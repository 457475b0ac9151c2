"""The cost of an operation recorded without any layer, beside PyTorch eager: one thread.

``python -m benchmarks.operations [--before FOLDER] [--out DIR]``

There are three tables. The first is of a hand-written loop, ``tanh(x_t @ W + h @ V + b)`` with a loss at
every step, forward and backward; both libraries run the same lines. Ours keeps the gradients of all nodes
(``trace``), of the marked states (``gradient_flow``) or of the leaves (``backward``); PyTorch's
``retain_grad`` is called on every result, on every state or on nothing. The second is of a chain of
products of 0-d tensors, by one weight or by a number, while Python collects garbage as usual. The third
says what an operation of our loop costs beside time: calls of functions, objects and memory. Processes take
turns, one for each library and checkout, and ratios are taken round by round.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import tyro

import tinygrad182 as tg
from benchmarks.options import ComparisonOptions, TimingOptions, sizes
from benchmarks.timing import Contestant, in_turns, milliseconds, ratio, report
from benchmarks.worker import ROOT, Worker, thread_limits

Stages = tuple[Callable[[], Any], Callable[[Any], object]]
"""Forward, which returns what backward is given."""

SHAPES = ("100,1,1,16", "100,10,1,16", "100,64,32,128")
CHAINS = (1_000, 10_000)

A_STEP = 10
"""Operations at each step of :func:`loop` as they are written; a library may make two of a mean."""

OURS = ("trace", "gradient_flow", "backward")
THEIRS = ("every result", "every state", "leaves")
"""The tensors that keep their gradient in PyTorch."""


@dataclass(frozen=True, kw_only=True)
class Options(ComparisonOptions, TimingOptions):
    """Measure what recorded operations cost, beside PyTorch and another checkout."""

    clock: Literal["wall", "cpu"] = "cpu"
    """cpu: the time that a process works, for a machine that others use too; or wall."""

    shapes: tuple[str, ...] = SHAPES
    """T,B,I,H of the loops."""

    chains: tuple[int, ...] = CHAINS
    """Operations of the chains."""


# --- the loop -------------------------------------------------------------------------------------


def loop(keep: Callable[[Any, int], object], x: Any, y: Any, h: Any, weights: list[Any]) -> Any:
    """A tanh RNN written by hand, for Tensors of either library."""
    W, V, b, U = weights
    loss = 0.0
    for t in range(len(x)):
        h = (x[t] @ W + h @ V + b).tanh()
        keep(h, t)
        loss = loss + ((h @ U - y[t]) ** 2).mean()
    return loss


def loop_keeping_all(keep: Callable[[Any], Any], x: Any, y: Any, h: Any, weights: list[Any]) -> Any:
    """:func:`loop` with a word about every result."""
    W, V, b, U = weights
    loss = 0.0
    for t in range(len(x)):
        h = keep(keep(keep(keep(x[t] @ W) + keep(h @ V)) + b).tanh())
        loss = keep(loss + keep(keep(keep(keep(h @ U) - y[t]) ** 2).mean()))
    return loss


def data(shape: str) -> tuple[Any, Any, Any, list[Any]]:
    """Input, target, initial state and weights, as arrays."""
    steps, batch, inputs, hidden = sizes(shape)
    draw = np.random.default_rng(0)

    def normal(*size: int) -> Any:
        return draw.normal(size=size).astype(np.float32)

    weights = [normal(inputs, hidden), normal(hidden, hidden), normal(hidden), normal(hidden, 1)]
    scaled = [w / np.float32(hidden**0.5) for w in weights]
    h = np.zeros((batch, hidden), np.float32)
    return normal(steps, batch, inputs), normal(steps, batch, 1), h, scaled


def our_loop(shape: str, kept: str) -> Stages:
    """Our forward and backward."""
    *arrays, weights = data(shape)
    leaves = [tg.tensor(w, requires_grad=True) for w in weights]
    x, y, h = map(tg.tensor, arrays)
    mark, backward = tg.inspect.mark, getattr(tg.inspect, kept, tg.Tensor.backward)

    def marked(h: Any, t: int) -> None:
        mark(h, "h", time=t)

    keep = marked if kept == "gradient_flow" else nothing

    def forward() -> Any:
        for leaf in leaves:
            leaf.grad = None
        return loop(keep, x, y, h, leaves)

    return forward, backward


def torch_loop(shape: str, kept: str) -> Stages:
    """PyTorch's."""
    import torch  # a peer: not installed for users

    *arrays, weights = data(shape)
    leaves = [torch.from_numpy(w).requires_grad_() for w in weights]
    x, y, h = map(torch.from_numpy, arrays)

    def forward() -> Any:
        for leaf in leaves:
            leaf.grad = None
        results: list[Any] = []

        def keep(result: Any, t: int = 0) -> Any:
            result.retain_grad()
            results.append(result)
            return result

        if kept == "every result":
            return loop_keeping_all(keep, x, y, h, leaves), results
        return loop(keep if kept == "every state" else nothing, x, y, h, leaves), results

    return forward, lambda found: found[0].backward()


def nothing(h: Any, t: int) -> None:
    """Keep nothing."""


# --- the chain ------------------------------------------------------------------------------------


def our_chain(factor: str, count: int) -> Stages:
    """Our chain of products, forward and backward."""
    return _chain(tg.tensor(1.0, requires_grad=True), factor, count)


def torch_chain(factor: str, count: int) -> Stages:
    """PyTorch's."""
    import torch

    return _chain(torch.tensor(1.0, requires_grad=True), factor, count)


def _chain(w: Any, factor: str, count: int) -> Stages:
    by = {"weight": w, "number": 1.0}[factor]

    def forward() -> Any:
        w.grad = None
        y = w
        for _ in range(count):
            y = y * by
        return y

    return forward, lambda y: y.backward()


# --- where the time goes --------------------------------------------------------------------------


def costs(shape: str) -> dict[str, int]:
    """Calls, objects and bytes of our loop in this process; trace keeps the gradients."""
    forward, backward = our_loop(shape, "trace")
    backward(forward())
    found = {}
    counted = {"forward": _calls(forward), "backward": _calls(lambda: backward(forward()))}
    for event, kind in {"call": "Python", "c_call": "C"}.items():
        once, both = (counted[stage][event] for stage in counted)
        found[f"{kind} calls forward"] = once
        found[f"{kind} calls backward"] = both - once
    gc.collect()
    gc.disable()
    before = len(gc.get_objects())
    loss = forward()
    found["objects"] = len(gc.get_objects()) - before
    del loss
    tracemalloc.start()
    loss = forward()
    found["bytes"], _ = tracemalloc.get_traced_memory()
    del loss
    tracemalloc.stop()
    gc.enable()
    return found


def _calls(run: Callable[[], object]) -> Counter[str]:
    events: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, _: events.update((event,)))
    run()
    sys.setprofile(None)
    return events


# --- tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Seconds of the contestants in each round: the two stages, and both together."""

    stages: dict[str, list[list[float]]]
    operations: int

    def row(self, name: str, peers: dict[str, str]) -> dict[str, Any]:
        """Microseconds an operation, and the ratio to each peer that took part."""
        stages = zip(*self.stages[name], strict=True)
        totals = {each: [sum(r) for r in rounds] for each, rounds in self.stages.items()}
        found: dict[str, Any] = {"contestant": name}
        for stage, taken in zip(("forward", "backward"), stages, strict=True):
            found[f"{stage}, µs/op"] = statistics.median(taken) / self.operations * 1e6
        found["ms"] = milliseconds(totals[name])
        for heading, peer in peers.items():
            there = peer in totals and peer != name
            found[heading] = ratio(totals, name, peer) if there else None
        return found


def loops(workers: dict[str, Worker], options: Options) -> list[dict[str, Any]]:
    """One row per shape and contestant."""
    rows = []
    for shape in options.shapes:
        contestants: dict[str, Contestant] = {
            f"{who}, {kept}": (worker, _maker(who, "loop"), (shape, kept))
            for who, worker in workers.items()
            for kept in (THEIRS if who == "torch" else OURS)
        }
        times = in_turns(contestants, options.repeats, options.clock)
        found = Measured(times, sizes(shape)[0] * A_STEP)
        for name in contestants:
            who, _, kept = name.partition(", ")
            peers = {f"/torch, {each}": f"torch, {each}" for each in THEIRS}
            peers |= {"/trace": f"{who}, trace", "/before": f"before, {kept}"}
            rows.append({"T, B, I, H": shape} | found.row(name, peers))
    return rows


def _maker(who: str, what: str) -> str:
    return f"operations.{'torch' if who == 'torch' else 'our'}_{what}"


def chains(workers: dict[str, Worker], options: Options) -> list[dict[str, Any]]:
    """One row per length, factor and contestant; the ratios are those of each stage."""
    rows = []
    for count in options.chains:
        for factor in ("weight", "number"):
            contestants: dict[str, Contestant] = {
                who: (worker, _maker(who, "chain"), (factor, count))
                for who, worker in workers.items()
            }
            times = in_turns(contestants, options.repeats, options.clock)
            for who in contestants:
                row: dict[str, Any] = {"operations": count, "times a": factor}
                row |= Measured(times, count).row(who, {})
                for i, stage in enumerate(("forward", "backward")):
                    alone = {each: [r[i] for r in rounds] for each, rounds in times.items()}
                    for peer in ("torch", "before"):
                        there = peer in alone and peer != who
                        row[f"{stage}/{peer}"] = ratio(alone, who, peer) if there else None
                rows.append(row)
    return rows


def accounts(workers: dict[str, Worker], options: Options) -> list[dict[str, Any]]:
    """Calls, objects and memory of an operation of our loop, one row per shape and checkout."""
    rows = []
    for shape in options.shapes:
        operations = sizes(shape)[0] * A_STEP
        for who, worker in workers.items():
            if who != "torch":
                found = worker.ask("call", function="operations.costs", given=[shape])
                rows.append(
                    {"T, B, I, H": shape, "checkout": who}
                    | {f"{name}/op": count / operations for name, count in found.items()}
                )
    return rows


def main(options: Options) -> None:
    """Run the measurements."""
    folders = {"before": options.before, "now": ROOT}
    if find_spec("torch") is not None:
        folders["torch"] = ROOT
    with ExitStack() as stack:
        workers = {
            who: stack.enter_context(Worker(folder, thread_limits(1)))
            for who, folder in folders.items()
            if folder is not None
        }
        report("operations-costs", accounts(workers, options), options.out)
        report("operations-chains", chains(workers, options), options.out)
        report("operations-loops", loops(workers, options), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.operations"))
