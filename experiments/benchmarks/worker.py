"""Measurements in a process of their own, with the tinygrad182 of any checkout.

``python -m experiments.benchmarks.worker FOLDER`` reads one request a line, ``{"do": NAME, ...}``, and
answers each with a line of JSON. The benchmarks are those of the folder that it is started in.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
"""This checkout."""


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


class Measurements:
    """What a worker can be asked for."""

    def __init__(self) -> None:
        self._runs: dict[str, Any] = {}

    def turn(self, cell: Any, shape: list[int], form: Any, at_least: float, clock: str) -> float:
        """Seconds of a step, from a turn of some length, after one step that is not counted."""
        now = getattr(time, clock)
        name = f"{cell} {shape} {form}"
        if name not in self._runs:
            layers = importlib.import_module("experiments.benchmarks.layers")
            self._runs = {name: layers.ours(cell, tuple(shape), form)}
            self._runs[name]()
        run = self._runs[name]
        run()
        count, start = 0, now()
        while (taken := now() - start) < at_least or not count:
            run()
            count += 1
        return taken / count

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
        """What a step of training makes a card do, as the stand-in for CuPy counts it."""
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
