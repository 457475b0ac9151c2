from __future__ import annotations
from typing import Any


def gate_names(nodes: Any) -> dict[Any, str]:
    return {}
