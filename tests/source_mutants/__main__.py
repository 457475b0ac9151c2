"""Change the source as mutmut does, one place at a time, and find the changes no test notices.

    pip install mutmut==3.8.1 coverage
    python -m tests.source_mutants results.jsonl           # goes on where it stopped; about 15 minutes
    python -m tests.source_mutants results.jsonl --again   # what survived, with 60 s of tests each

``make mutate`` plants faults in the rules of primitives; this reaches the engine that calls them too.
Tests are collected once. Each mutant is a fork in which only tests run that reach the changed line,
until one fails: a fraction of a second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from .mutants import FILES, Mutant, mutants
from .reach import Reach

# Done with their work when the tests begin: what they make is made anew for each mutant.
ON_IMPORT = (
    "primitive.define",
    "primitive.elementwise",
    "recording.set_tensor_type",
)
QUICK = "table messages own_primitives broadcasting wrong_calls in_place transforms third_library"


class Runner:
    """A pytest plugin: in place of running the collected tests once, runs them for every mutant."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.session = session
        self.names = [item.nodeid for item in session.items]
        results = Path(self.options.results)
        self.reach = Reach(self.names, self.failed, results.with_suffix(".reached.json"))
        rows = map(json.loads, results.read_text().splitlines() if results.exists() else ())
        last = {row["key"]: row["what"] for row in rows}
        todo = [m for path in FILES for m in mutants(path) if self.options.only in m.key]
        random.Random(0).shuffle(todo)
        todo = [m for m in todo if last.get(m.key) == ("survived" if self.options.again else None)]
        killers: dict[str, Counter[int]] = defaultdict(Counter)
        for mutant in todo:
            start = time.time()
            what, killer = self.tried(mutant, killers[mutant.function])
            row = {"key": mutant.key, "what": what, "seconds": round(time.time() - start, 2)}
            with results.open("a") as file:
                file.write(json.dumps(row | {"killer": killer}) + "\n")
        return True

    def failed(self, i: int) -> bool:
        before, item = self.session.testsfailed, self.session.items[i]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return self.session.testsfailed > before

    def chosen(self, mutant: Mutant, killers: Counter[int]) -> list[int]:
        """The tests that reach the change: what killed its neighbours first, then the quick ones."""
        tests: set[int] = set()
        for lines in (mutant.lines, mutant.around):
            tests = tests or {i for n in lines for i in self.reach.tests[mutant.file, n]}
        name = mutant.function.partition("_vjp")[0].partition("_jvp")[0]
        spent: dict[str, float] = defaultdict(float)
        after = {}
        seconds = self.reach.seconds
        for i in sorted(tests, key=lambda i: (f"[{name}-" not in self.names[i], seconds[i])):
            file = self.names[i].partition("::")[0]
            spent[file] += seconds[i]
            after[i] = spent[file]  # each file of tests gets the same share of the time
        first = [i for i, _ in killers.most_common(20) if i in tests]
        order = list(dict.fromkeys(first + sorted(after, key=after.__getitem__)))
        total = itertools.accumulate(seconds[i] for i in order)
        budget = 60.0 if self.options.again else 4.0
        return [i for i, t in zip(order, total, strict=True) if t < budget]

    def tried(self, mutant: Mutant, killers: Counter[int]) -> tuple[str, str]:
        """Return the fate of a mutant, and the test that failed."""
        if mutant.where in ON_IMPORT:
            return self.tried_on_import(mutant)
        tests = self.chosen(mutant, killers)
        if not tests:
            return "not reached", ""
        read, write = os.pipe()
        if pid := os.fork():
            os.close(write)
            killer = os.read(read, 99).decode()
            os.close(read)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if killer:
                killers[int(killer)] += 1
            what = {0: "survived", 1: "killed", -signal.SIGALRM: "timeout"}.get(
                code, f"died {code}"
            )
            return what, self.names[int(killer)] if killer else ""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20 + 5 * int(sum(self.reach.seconds[i] for i in tests)))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        mutant.install()
        for i in tests:
            if self.failed(i):
                os.write(write, str(i).encode())
                os._exit(1)
        os._exit(0)

    def tried_on_import(self, mutant: Mutant) -> tuple[str, str]:
        """Try a mutant of code that runs on import: in a copy of the repository, in a new process."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("tinygrad182", "tests", "models", "experiments"):
                shutil.copytree(name, Path(folder, name))
            shutil.copy("setup.cfg", folder)
            changed = Path(folder, mutant.file)
            changed.write_text(changed.read_text().replace(mutant.before, mutant.after))
            tests = [f"tests/tinygrad182/test_{name}.py" for name in QUICK.split()]
            command = [sys.executable, "-m", "pytest", "-qx", "--tb=no", *tests]
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            return "killed" if run.returncode else "survived", run.stdout.strip().rpartition("\n")[
                2
            ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results")
    parser.add_argument("--again", action="store_true", help="the survivors once more")
    parser.add_argument("--only", default="", help="mutants whose name or diff holds this")
    parser.add_argument("tests", nargs="*", help="files of tests, if not all")
    options = parser.parse_args()
    like_ci = settings(
        derandomize=True,
        max_examples=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],  # no failure is made smaller
    )
    settings.register_profile("mutants", like_ci)
    arguments = [
        "-q",
        "--tb=no",
        "--hypothesis-profile=mutants",
        "-Wignore::pytest.PytestAssertRewriteWarning",
        "--ignore=tests/tinygrad182/mutation",  # two minutes, of rules alone
        *(options.tests or ["tests"]),
    ]
    sys.exit(pytest.main(arguments, plugins=[Runner(options)]))
