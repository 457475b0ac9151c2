"""The class of a primitive, which is one operation with its derivative, and the table of all primitives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..arrays.namespaces import Array
from ..errors import DTypeError, ShapeError

Rule = Callable[..., Any]
Tangents = tuple[Array | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Primitive:
    """One operation: its forward and, beside it, its derivative.

    A rule gets the namespace ``xp`` of its operands first. Given arrays, ``xp`` is the array library;
    given Tensors, it is the framework's own functions, so that the rule is recorded and can be
    differentiated again. A rule is one expression, because the engine sums over broadcast axes, casts
    and accumulates.

    Attributes
    ----------
    name : str
        The operation's name in ``tg``, in graphs and in error messages.
    forward : callable
        ``forward(xp, *inputs, **params) -> y``. It must be safe for complex steps: it takes no conjugate,
        and masks come from the real part.
    vjp : tuple of callable or None, or callable
        A tuple holds one rule per input, ``rule(xp, g, y, *inputs, **params) -> cotangent``, or None
        for an input that has no derivative (a mask, an index). A single callable returns the tuple
        of all cotangents, for a primitive of any number of inputs. ``g`` has the shape of ``y``; with
        ``leading_axes=True`` it may have further axes in front: ``lead = g.shape[: g.ndim - y.ndim]``.
    jvp : {"elementwise", "linear", "multilinear", "definition"} or callable
        How tangents are pushed forward. ``"elementwise"``: by the VJP, because the Jacobian is
        diagonal. ``"linear"``: by the forward, applied to the tangents of all inputs.
        ``"multilinear"``: by the forward, applied to one tangent at a time. ``"definition"``: through
        the definition. A callable is ``rule(xp, tangents, y, *inputs, **params) -> tangent``; a
        tangent of zeros may be None.
    broadcasts : bool
        Whether inputs are broadcast against each other, so that cotangents must be summed back.
    view : bool
        Whether the result may share memory with the first input.
    requirement : str
        What the operands must satisfy, as text: the error shows it when the forward fails.
    definition : callable, optional
        ``definition(xp, *inputs, **params) -> y``: the composition of other primitives that computes
        the same result. It is differentiated instead of the rules where these cannot run: on Tensors,
        and on libraries without loops of their own.
    forward_with_residuals : callable, optional
        ``forward_with_residuals(xp, *inputs, **params) -> (y, residuals)``: the forward that runs when
        it is recorded. Its rule gets two further arguments: ``residuals``, and ``needs_grad``, which
        says for each input whether its cotangent is wanted.
    leading_axes : bool
        Whether the rules take several cotangents at once, on extra axes in front. By default they are
        called once for each cotangent, which is right for every rule. A training step has one cotangent
        and is as fast either way. ``jacobian``, ``hessian`` and the inspector's views that send back many
        cotangents together (``state_grad_matrix``, ``step_jacobians``) are slower then. Pass True if the
        rules index from the last axis, such as ``g[..., 0, :]``, or do not index.

    Examples
    --------
    A rule that reads the two rows of its output's cotangent, as ``g[0]`` and ``g[1]``:

    >>> import tinygrad182 as tg
    >>> parts = tg.Primitive(
    ...     "parts",
    ...     forward=lambda xp, x: xp.stack([x, 3 * x]),
    ...     vjp=(lambda xp, g, y, x: g[0] + 3 * g[1],),
    ...     jvp="linear",
    ... )
    >>> tg.jacobian(lambda x: tg.apply(parts, x), tg.tensor([1.0, 2.0])).shape
    (2, 2, 2)
    """

    name: str
    forward: Rule
    vjp: tuple[Rule | None, ...] | Rule
    jvp: Literal["elementwise", "linear", "multilinear", "definition"] | Rule
    broadcasts: bool = False
    view: bool = False
    requirement: str = ""
    definition: Rule | None = None
    forward_with_residuals: Rule | None = None
    leading_axes: bool = False

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"

    def rule(self, i: int, count: int) -> Rule | None:
        """Return the rule of input ``i`` of ``count``: its own, or its part of the rule for all inputs."""
        rules = self.vjp
        if not callable(rules):
            self.check_rules(count)
            return rules[i]

        def part(*given: Any, **params: Any) -> Any:
            found = rules(*given, **params)
            self.check_cotangents(found, count)
            return found[i]

        return part

    def check_rules(self, count: int) -> None:
        """Raise unless there is a rule for each of ``count`` inputs, or one for all."""
        if not callable(self.vjp):
            remedy = "pass a tuple with a rule for each, None for one that has no derivative"
            _check_row(f"the vjp of {self.name} is", self.vjp, count, remedy)

    def check_cotangents(self, found: Any, count: int) -> None:
        """Raise unless the rule for all inputs returned a cotangent for each."""
        remedy = (
            "return a tuple with a cotangent for each, None for one that has no derivative, or pass a "
            "tuple of rules, one for each: vjp=(rule,) for one input"
        )
        _check_row(f"the derivative rule of {self.name} returned", found, count, remedy)

    def __deepcopy__(self, memo: dict[int, Any]) -> Primitive:
        """Return itself, because a copied layer uses these operations too."""
        return self


def _check_row(what: str, found: Any, count: int, remedy: str) -> None:
    """Raise unless ``found`` is a tuple with an item for each of ``count`` inputs."""
    inputs = f"{count} input{'s' * (count != 1)}"
    if not isinstance(found, (tuple, list)):
        raise DTypeError(f"{what} a {type(found).__name__}, for {inputs}; {remedy}")
    if len(found) != count:
        raise ShapeError(f"{what} a {type(found).__name__} of {len(found)}, for {inputs}; {remedy}")


PRIMITIVES: dict[str, Primitive] = {}
"""Every registered primitive by name."""


def define(
    forward: Rule,
    *vjps: Rule | None,
    jvp: Literal["elementwise", "linear", "multilinear"] | Rule,
    all_inputs: Rule | None = None,
    broadcasts: bool = False,
    view: bool = False,
    requirement: str = "",
    leading_axes: bool = True,
) -> Primitive:
    """Register a primitive under its forward's name (a trailing underscore is dropped).

    Parameters
    ----------
    forward, *vjps, jvp, broadcasts, view, requirement, leading_axes
        The attributes of :class:`Primitive`. Here ``leading_axes`` is True by default.
    all_inputs : callable, optional
        One rule for all inputs, instead of ``vjps``.
    """
    name = forward.__name__.rstrip("_")
    if name in PRIMITIVES:
        raise ValueError(f"primitive {name!r} is already defined")
    rules, flags = all_inputs or vjps, (broadcasts, view, requirement)
    primitive = Primitive(name, forward, rules, jvp, *flags, leading_axes=leading_axes)
    PRIMITIVES[name] = primitive
    return primitive


_BROADCAST = "shapes must broadcast: aligned from the right, each two sizes equal or one of them 1"


def elementwise(*vjps: Rule | None) -> Callable[[Rule], Rule]:
    """Register the decorated operation, which acts on each element by itself; its inputs are broadcast.

    ``vjps`` are its rules, one for each input, or None for an input without a derivative.
    """

    def register(forward: Rule) -> Rule:
        define(forward, *vjps, jvp="elementwise", broadcasts=True, requirement=_BROADCAST)
        return forward

    return register
