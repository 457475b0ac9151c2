"""The lines that each test reaches, and its duration."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import coverage

from .mutants import FILES


class Reach:
    """Measured once and kept in a file; only new tests are measured again, or all if the source changed.

    ``failed(i)`` runs the test of that number.
    """

    def __init__(self, names: list[str], failed: Callable[[int], bool], kept: Path) -> None:
        source = "".join(f.read_text() for f in FILES)
        found = json.loads(kept.read_text()) if kept.exists() else {}
        if found.get("source") != source:
            found = {"source": source, "tests": {}}
        new = [i for i, name in enumerate(names) if name not in found["tests"]]
        if new:
            if pid := os.fork():  # a fork: no cache of the framework is to be warm here
                os.waitpid(pid, 0)
                found = json.loads(kept.read_text())
            else:
                found["tests"] |= {names[i]: value for i, value in _measured(new, failed).items()}
                kept.write_text(json.dumps(found))
                os._exit(0)
        self.seconds: list[float] = []
        self.tests: dict[tuple[str, int], list[int]] = defaultdict(list)
        for i, name in enumerate(names):
            seconds, lines = found["tests"][name]
            self.seconds.append(seconds)
            for file, line in lines:
                self.tests[file, line].append(i)
            if seconds == math.inf:
                sys.stderr.write(f"left out, for it fails without a mutant: {name}\n")


def _measured(
    tests: list[int], failed: Callable[[int], bool]
) -> dict[int, tuple[float, list[tuple[str, int]]]]:
    seconds = {}
    measuring = coverage.Coverage(data_file=None, include=[str(f) for f in FILES])
    measuring.start()
    for i in tests:
        measuring.switch_context(str(i))
        start = time.perf_counter()
        seconds[i] = math.inf if failed(i) else time.perf_counter() - start
    measuring.stop()
    lines: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for file in FILES:
        for line, reached in measuring.get_data().contexts_by_lineno(str(file.resolve())).items():
            for i in reached:
                lines[i].append((str(file), line))
    return {i: (t, lines[str(i)]) for i, t in seconds.items()}
