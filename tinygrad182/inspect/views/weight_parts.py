"""Parts of a weight's gradient, of some time steps each, and the check that they add up to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ...arrays.namespaces import Array
from ...engine.recording import Node
from ...errors import GraphError
from ...kernels.powers import NOTHING
from ..passes.scaling import NOT_FINITE, Band, HostArray, as_bands, host_rows, row_norms


class Part(NamedTuple):
    """The contributions of some steps, together or by sequence.

    Attributes
    ----------
    times : range
    values : array (steps, [B,] *W.shape)
    powers : ndarray (steps, [B]) of int
        Powers of two by which the values are multiplied.
    sizes : tuple of ndarray (steps, B), or None
        Norms by sequence and their powers, if they were computed without the values.
    """

    times: range
    values: Array
    powers: HostArray
    sizes: tuple[HostArray, HostArray] | None = None

    def norms(self, log: bool) -> HostArray:
        """The norm of every contribution in float64, right also where its dtype cannot hold it.

        With ``log``, its natural logarithm.
        """
        norms, powers = self.sizes or (None, self.powers)
        if norms is None:
            norms = row_norms(host_rows(self.values, powers.size)).reshape(powers.shape)
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            return np.log(norms) + powers * math.log(2) if log else np.ldexp(norms, powers)


class CheckedParts:
    """The parts of one weight's gradient, some steps at a time; raises at the end if their sum is wrong.

    Parameters
    ----------
    weight : Node
    steps : int
        T.
    parts : iterator of Part
    gradient : list of Band
        The whole gradient, from the same backward pass.
    outside : Part or None
        The contribution of uses outside any step.
    samples : tuple of int
        (B,) if the parts are by sequence; else ().
    """

    def __init__(
        self,
        weight: Node,
        steps: int,
        parts: Iterator[Part],
        gradient: list[Band],
        outside: Part | None = None,
        samples: tuple[int, ...] = (),
    ) -> None:
        self.weight = weight
        self.steps = steps
        self._parts = parts
        self._gradient = gradient
        self._outside = outside
        self.samples = samples

    def __iter__(self) -> Iterator[Part]:
        total = _Sum()
        for part in self._parts:
            total.add(part.values, part.powers)
            yield part
        if self._outside is not None:
            total.add(self._outside.values, self._outside.powers)
        for band in self._gradient:
            for array, power in [band] if isinstance(band[1], int) else as_bands(*band):
                total.add(-array[None], np.array([0 if power == NOT_FINITE else power]))
        if total.is_off(self.weight.value.dtype):
            raise GraphError(
                f"weight_grad_by_time: the parts of {self.weight.label()} of shape "
                f"{tuple(self.weight.value.shape)} do not add up to its gradient: they are off by "
                f"{total.off():.2g} of it. It is used in an operation on several steps that could not be "
                "separated; apply it to every step, or to tg.stack(states), before steps are mixed"
            )


class _Sum:
    """A sum of arrays at powers of two, in float64, and the sum of their norms."""

    def __init__(self) -> None:
        self.value: Any = 0.0
        self.size = 0.0
        self.power = NOTHING

    def add(self, values: Array, powers: HostArray) -> None:
        """Add all rows of an array, each at its power."""
        rows, powers = host_rows(values, powers.size), powers.reshape(-1)
        with np.errstate(all="ignore"):
            sizes = row_norms(rows)
            counts = sizes != 0
            if not counts.any():
                return
            exponents = powers + np.frexp(sizes)[1]
            top = max(self.power, int(exponents[counts].max()))
            factor = math.ldexp(1.0, max(self.power - top, -2000)) if self.power > NOTHING else 0.0
            shifts = np.where(counts, np.clip(powers - top, -4000, 4000), 0)
            if shifts.max() > 1000:  # for the smallest numbers no factor is large enough
                rows, scales = np.ldexp(rows, shifts[:, None]), np.ones(len(rows))
            else:
                scales = np.ldexp(1.0, shifts)
            self.value = self.value * factor + scales @ rows
            self.size = self.size * factor + float(np.ldexp(sizes, shifts).sum())
        self.power = top

    def off(self) -> float:
        """The norm of the sum, relative to that of all terms."""
        return float(row_norms(np.atleast_1d(self.value))) / self.size

    def is_off(self, dtype: Any) -> bool:
        """Whether the sum is larger than rounding explains: than √ε of the dtype, relative to its terms.

        Rounding in a product of n terms leaves about √n ε of their sizes. √ε also allows for terms that
        cancel inside a part to less than a thousandth. With infinite or NaN terms nothing can be said.
        """
        if not (self.size and np.isfinite(self.size)):
            return False
        eps = float(np.finfo(str(dtype).rpartition(".")[2]).eps)
        return not self.off() <= math.sqrt(eps)
