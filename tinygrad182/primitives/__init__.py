"""The primitives: every operation beside its derivative, one family in each file.

:data:`PRIMITIVES` is the table of all of them.
"""

from __future__ import annotations

from . import elementwise, index, linalg, product, reduction, shape
from .primitive import PRIMITIVES, Primitive, define

__all__ = [
    "PRIMITIVES",
    "Primitive",
    "define",
    "elementwise",
    "index",
    "linalg",
    "product",
    "reduction",
    "shape",
]
