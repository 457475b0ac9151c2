"""``python -m tinygrad182 first-anomaly TRACE``: the first NaN, infinity or underflow in a saved trace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ..inspect import load_trace
from ..inspect.graph.traced_anomaly import anomaly_in
from . import say


@dataclass(frozen=True, kw_only=True)
class Options:
    """The trace to search."""

    trace: tyro.conf.Positional[Path]
    """A trace: a file from tg.inspect.trace(loss).save(path)."""


def run(options: Options) -> None:
    """Print the first NaN, infinity or underflow, or that there is none."""
    trace = load_trace(options.trace)
    found = anomaly_in(trace)
    searched = "values and gradients" if trace.has_values else "gradients; values were not saved"
    fine = f"nothing went wrong: every number is finite, and none is lost ({searched})"
    say(str(found) if found else fine)
