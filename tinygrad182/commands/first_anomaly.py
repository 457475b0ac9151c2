"""``python -m tinygrad182 first-anomaly TRACE``: where the numbers of a saved trace first went wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ..inspect import load_trace
from ..inspect.graph.traced_anomaly import anomaly_in
from . import say


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to look at."""

    trace: tyro.conf.Positional[Path]
    """What tg.inspect.trace(loss).save(path) wrote."""


def run(options: Options) -> None:
    """Print the first NaN, infinity or underflow, or that there is none."""
    trace = load_trace(options.trace)
    found = anomaly_in(trace)
    looked = "values and gradients" if trace.has_values else "gradients; values were not saved"
    fine = f"nothing went wrong: every number is finite, and none is lost ({looked})"
    say(str(found) if found else fine)
