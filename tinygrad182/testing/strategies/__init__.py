"""Hypothesis strategies for operations on arrays: shapes, layouts, values and index expressions.

What is drawn at random seldom tests much: 7 of 100 pairs of plain random shapes broadcast on both sides,
none is empty, no array is anything but contiguous. Here what matters has a name and is drawn first: a
pattern of broadcasting, a layout, a kind of index. Values come from one seed. When a test fails, hypothesis
prints the names, and for each array the call of :func:`sample` that makes it again.

>>> import numpy as np
>>> import tinygrad182 as tg
>>> from hypothesis import given
>>> from tinygrad182.testing import strategies
>>> @given(xs=strategies.broadcastable_arrays(strategies.real, strategies.nonzero))
... def test_divide(xs):
...     np.testing.assert_array_equal(tg.divide(*map(tg.tensor, xs)).numpy(), np.divide(*xs))
>>> test_divide()
"""

from __future__ import annotations

from ..samples import (
    LAYOUTS,
    Domain,
    apart,
    away_from,
    between,
    laid_out,
    leaf,
    log_uniform,
    mask,
    nonzero,
    positive,
    real,
    sample,
)
from .index_keys import KINDS, index_expressions
from .shapes_and_arrays import (
    PATTERNS,
    SEEDS,
    BroadcastableShapes,
    arrays,
    broadcastable_arrays,
    broadcastable_shapes,
    dtypes,
    layouts,
    shapes,
    tensors,
)

__all__ = [
    "KINDS", "LAYOUTS", "PATTERNS", "SEEDS", "BroadcastableShapes", "Domain", "apart", "arrays",
    "away_from", "between", "broadcastable_arrays", "broadcastable_shapes", "dtypes",
    "index_expressions", "laid_out", "layouts", "leaf", "log_uniform", "mask", "nonzero", "positive",
    "real", "sample", "shapes", "tensors",
]  # fmt: skip
