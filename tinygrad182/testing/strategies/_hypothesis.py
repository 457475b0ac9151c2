"""Hypothesis, which is optional: what the strategies use of it, or an error that says what to install."""

from __future__ import annotations

from ...errors import MissingDependencyError

try:
    from hypothesis import note
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    if error.name != "hypothesis":
        raise
    raise MissingDependencyError(
        "tinygrad182.testing.strategies needs hypothesis: pip install hypothesis"
    ) from error

__all__ = ["note", "st"]
