"""What a check that passes returns: how the derivatives were checked, and the largest error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ..display.reprs import fold, shown, table, text, times


class CheckedInput(NamedTuple):
    """One input or parameter, and how far its first derivatives are from the numerical ones.

    Attributes
    ----------
    name : str
        ``"input 0"``, or a parameter's path.
    shape : tuple of int
    dtype : str
    tried : int
        How many of its elements were moved one by one.
    error : float
        The largest difference among these, as in :attr:`GradientCheck.error`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    tried: int
    error: float


@dataclass(frozen=True)
class GradientCheck:
    """What :func:`check_gradients` found right.

    Attributes
    ----------
    method : str
        ``"complex step"`` or ``"five points"``.
    entries : int
        How many entries of the Jacobian were compared one by one.
    error : float
        The largest difference to the numerical first derivative, relative to each entry, among those
        that rounding leaves all digits.
    order : int
        Up to which order.
    inputs : tuple of CheckedInput
        What was found of each input and parameter.
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
