"""Import hypothesis, which is optional, or raise an error that says how to install it."""

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
