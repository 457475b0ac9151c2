"""The result of a check that passes: the method, and the largest error by input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ..display.reprs import fold, shown, table, text, times


class CheckedInput(NamedTuple):
    """The errors of the first derivatives by one input or parameter.

    Attributes
    ----------
    name : str
        ``"input 0"``, or a parameter's path.
    shape : tuple of int
    dtype : str
    tried : int
        The number of its elements that were moved one by one.
    error : float
        The largest error among these, as in :attr:`GradientCheck.error`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    tried: int
    error: float


@dataclass(frozen=True)
class GradientCheck:
    """The result of a check that passed.

    Attributes
    ----------
    method : str
        ``"complex step"`` or ``"five points"``.
    entries : int
        The number of entries of the Jacobian that were compared one by one.
    error : float
        The largest relative difference to a numerical first derivative, among entries whose digits are
        not lost by rounding.
    order : int
        The highest order of derivatives that was checked.
    inputs : tuple of CheckedInput
        The errors by input and parameter.
    """

    method: str
    entries: int
    error: float
    order: int
    inputs: tuple[CheckedInput, ...] = field(default=(), compare=False, repr=False)

    def _repr_html_(self) -> str:
        line = (
            f"<b>right</b> up to order {self.order}, by {text(self.method)}: "
            f"the largest relative error of {self.entries:,} entries is {self.error:.1e}"
        )
        header = ("input", "shape", "dtype", "elements tried alone", "largest relative error")
        rows = [(i.name, times(i.shape), i.dtype, i.tried, i.error) for i in self.inputs]
        return shown(fold(line, table(header, rows) if rows else "", opened=True))
