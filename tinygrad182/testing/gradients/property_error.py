"""What a check raises when a property does not hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LEADING_AXES = "gradient for cotangents with an extra leading axis"
"""What is checked of many cotangents at once; a rule may say that it takes none."""


@dataclass
class PropertyError(Exception):
    """A property that does not hold.

    Attributes
    ----------
    what : str
        The property: ``"first derivative"``.
    facts : dict
        What is known about it, in the order it is told: input, entry, both values.
    column : int
        Which of the directions that were compared shows it.
    """

    what: str
    facts: dict[str, Any] = field(default_factory=dict)
    column: int = -1
