"""Measurements in a process of their own, with the tinygrad182 of any checkout.

``python -m benchmarks.worker FOLDER`` reads one request a line, ``{"do": NAME, ...}``, and
answers each with a line of JSON. The benchmarks are those of the folder that it is started in.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]
"""This checkout."""


def thread_limits(threads: int) -> dict[str, str]:
    """Variables that give every library as many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


class Worker:
    """A process that measures, seen from outside.

    Parameters
    ----------
    folder : Path
        The checkout whose tinygrad182 is measured.
    environment : mapping of str to str
        Variables of the process beside those of this one.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] = {}) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(folder.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def ask(self, do: str, **request: Any) -> Any:
        """Have something measured."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"no answer to {do}: {request}")
        return json.loads(answer)


def in_a_process(function: str, *given: Any) -> Any:
    """Call a function of the benchmarks, such as ``"memory.peak_allocated"``, in a fresh process."""
    with Worker(ROOT) as worker:
        return worker.ask("call", function=function, given=given)


class Measurements:
    """The measurements that a worker can be asked for."""

    def __init__(self) -> None:
        self._stages: dict[str, tuple[Callable[..., Any], ...]] = {}

    def call(self, function: str, given: list[Any]) -> Any:
        """Call a function of the benchmarks, such as ``"layers.ours"``."""
        module, _, name = function.partition(".")
        return getattr(importlib.import_module(f"benchmarks.{module}"), name)(*given)

    def turn(self, function: str, given: list[Any], at_least: float, clock: str) -> list[float]:
        """Seconds of each stage of a run, from a turn of some length after one run that is not counted.

        The function makes the run, or its stages: each is given what the one before has returned.
        """
        now = getattr(time, clock)
        name = f"{function}{given}"
        if name not in self._stages:
            made = self.call(function, given)
            self._stages[name] = made if isinstance(made, tuple) else (made,)
            seconds_of(self._stages[name], now)
        stages = self._stages[name]
        seconds_of(stages, now)
        taken = [seconds_of(stages, now)]
        while sum(map(sum, taken)) < at_least:
            taken.append(seconds_of(stages, now))
        return [sum(each) / len(taken) for each in zip(*taken, strict=True)]

    def first(self, cell: str, dtype: str) -> dict[str, float]:
        """Seconds of the import, and of a cell's first step of training."""
        start = time.perf_counter()
        tg = importlib.import_module("tinygrad182")
        imported = time.perf_counter()
        layer = getattr(tg.nn, cell)(1, 16, rng=0, dtype=dtype)
        output, _ = layer(tg.ones((20, 10, 1), dtype=dtype))
        output.sum().backward()
        return {"import": imported - start, "step": time.perf_counter() - imported}

    def launches(self, cell: str, form: str, steps: int) -> dict[str, Any]:
        """Launches and waits of a training step, as the stand-in for CuPy counts them."""
        cupy: Any = importlib.import_module("cupy")
        tg = importlib.import_module("tinygrad182")
        tg.use_device("cuda")
        layer = getattr(tg.nn, cell)(3, 8, rng=0)
        x = tg.ones((steps, 4, 3))

        def run() -> None:
            for parameter in layer.parameters():
                parameter.grad = None
            output, _ = layer(x)
            if form == "recorded":
                tg.inspect.gradient_flow(output.sum(), backward=True)
            elif form == "plain":
                output.sum().backward()

        run()
        with cupy.counted("tinygrad182") as found:
            run()
        return {"launches": found["launch"], "waits": found["sync"], "kernels": found["kernels"]}


def seconds_of(stages: tuple[Callable[..., Any], ...], now: Callable[[], float]) -> list[float]:
    """Seconds of each stage, with what it frees."""
    result: tuple[Any, ...] = ()
    marks = [now()]
    for stage in stages:
        result = (stage(*result),)
        marks.append(now())
    return [end - start for start, end in pairwise(marks)]


def main(folder: str) -> None:
    """Answer requests until there are no more."""
    sys.path.insert(0, folder)
    measurements = Measurements()
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(measurements, request.pop("do"))(**request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
