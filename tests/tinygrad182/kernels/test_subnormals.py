"""Backward passes that vanish meet no subnormal numbers, as the processor's sticky flags show.

On some processors an operation on one takes a hundred times as long; time would show that on these alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tinygrad182.kernels import flags
from tests.tinygrad182.kernels.flags import DENORMAL, DTYPES, KINDS, UNDERFLOW

pytestmark = pytest.mark.skipif(not flags.READABLE, reason="flags are read of glibc on x86-64")


@pytest.fixture(scope="module")
def found() -> Any:
    """The output of :mod:`.flags`, run in a process with one thread."""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", flags.__name__],
        cwd=root,
        env={**os.environ, **dict.fromkeys(flags.THREADS, "1")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def raised(found: Any, form: str, dtype: str, kind: str, look: bool, regime: str) -> int:
    for *case, result in found["passes"]:
        if case == [form, dtype, kind, look, regime]:
            return int(result)
    pytest.skip(f"no {form} loops here")


def test_the_flags_rise(found: Any) -> None:
    assert found["product"] == [0, DENORMAL | UNDERFLOW]


@pytest.mark.parametrize("form", ["NumPy", "compiled"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("regime", ["healthy", "vanishing"])
def test_no_subnormal_number(
    found: Any, form: str, dtype: str, kind: str, look: bool, regime: str
) -> None:
    """Loss at the last step, 300 steps; with the gradients of all states and without."""
    assert raised(found, form, dtype, kind, look, regime) == 0


@pytest.mark.parametrize("form", ["NumPy", "compiled"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_remedy_is_needed(found: Any, form: str, dtype: str, kind: str) -> None:
    assert raised(found, form, dtype, kind, False, "not raised") & DENORMAL
    assert raised(found, form, dtype, kind, False, "rounded to 0") & UNDERFLOW
