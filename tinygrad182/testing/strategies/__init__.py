"""Hypothesis strategies for operations on arrays: shapes, layouts, values and index expressions.

Purely random examples test little: of 100 pairs of random shapes 7 broadcast on both sides, none is empty,
and every array is contiguous. These strategies first draw the property that matters, by its name: a pattern
of broadcasting, a memory layout, a kind of index. The values come from one seed. When a test fails,
hypothesis prints the names, and for each array the call of :func:`sample` that makes it again.

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
