"""``PropertyError``: a check raises it when a property does not hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LEADING_AXES = "gradient for cotangents with an extra leading axis"
"""The property of many cotangents at once. Not every rule promises it."""


@dataclass
class PropertyError(Exception):
    """A property does not hold.

    ``what`` is the property, such as ``"first derivative"``. ``facts`` are the lines of the message: input,
    entry, both values. ``column`` is the direction that shows it, among those that were compared.
    """

    what: str
    facts: dict[str, Any] = field(default_factory=dict)
    column: int = -1
