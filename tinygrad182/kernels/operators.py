"""Python's operators as operations by name.

Two kinds of values record what is done with them instead of computing it: the symbols with which
:mod:`..recurrence.tracing` derives a program, and the registers of :mod:`.llvm.vectors`, which write code.
Both inherit :class:`Operators`, so that ``x * y`` calls ``x.apply("multiply", x, y)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Operator = Callable[..., Any]

RELATIONS = {
    "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=", "equal": "==",
    "not_equal": "!=",
}  # fmt: skip
"""Comparisons, and their signs in C and in LLVM."""


def _binary(op: str) -> tuple[Operator, Operator]:
    """An operator, and its reflected form, for a left operand of another type."""

    def operator(self: Operators, x: Any) -> Any:
        return self.apply(op, self, x)

    def reflected(self: Operators, x: Any) -> Any:
        return self.apply(op, x, self)

    return operator, reflected


def _unary(op: str) -> Operator:
    def operator(self: Operators) -> Any:
        return self.apply(op, self)

    return operator


class Operators:
    """A value with Python's operators, each of which calls :meth:`apply`."""

    __slots__ = ()
    __hash__ = object.__hash__

    def apply(self, op: str, *operands: Any) -> Any:
        """Apply the operation of a name, such as ``"multiply"``."""
        raise NotImplementedError

    __add__, __radd__ = _binary("add")
    __sub__, __rsub__ = _binary("subtract")
    __mul__, __rmul__ = _binary("multiply")
    __truediv__, __rtruediv__ = _binary("divide")
    __pow__, __rpow__ = _binary("power")
    __mod__, __rmod__ = _binary("remainder")
    __and__, __rand__ = _binary("logical_and")
    __or__, __ror__ = _binary("logical_or")
    __lt__, __gt__ = _binary("less")[0], _binary("greater")[0]
    __le__, __ge__ = _binary("less_equal")[0], _binary("greater_equal")[0]
    __eq__, __ne__ = _binary("equal")[0], _binary("not_equal")[0]
    __neg__, __abs__, __invert__ = _unary("negative"), _unary("abs"), _unary("logical_not")
