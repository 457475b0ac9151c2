"""``check_backward``: compare a derivative written by hand in NumPy with numerical derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from ..._numbers import check_whole
from ...errors import ArgumentError, GradientCheckError, ShapeError, brief
from ..gradients.compare_derivatives import ratio
from ..results import CheckedInput, GradientCheck
from ..samples import Array
from .known_mistakes import KnownCell
from .parameter_layout import Layout
from .right_gradients import RightGradient, StepDerivatives
from .student_step import Arrays, HandWritten
from .wrong_gradients import Blocks, relations

RTOL = 1e-8
FLOOR = 1e-13
"""The rounding error of numbers of size 1; it also affects small sums of such numbers."""


def check_backward(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    x: Any,
    h: Any,
    c: Any = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    gates: str | tuple[str, ...] = "",
    rtol: float = RTOL,
    max_entries: int = 500,
    seed: int = 0,
) -> GradientCheck:
    """Check the derivative of a step that is written by hand in NumPy; raise an error if it is wrong.

    The right gradients come from ``forward`` alone: by the complex step if it takes complex numbers, else
    by five points with an error bound, as in :func:`check_gradients`. So ``backward`` is right if it
    belongs to its own ``forward``, whatever the order of the gates. It gets cotangents of the state's
    shape.

    Parameters
    ----------
    forward : callable
        ``forward(x, h, c, ...)`` returns ``(h, c, cache)``; for a cell without c, ``forward(x, h, ...)``
        returns ``(h, cache)``. The parameters follow by name, in the order of ``parameters``, or in one
        dict. A function that takes none must use the arrays in ``parameters`` from outside.
    backward : callable
        ``backward(dh, dc, cache)``, or ``backward(dh, cache)``, returns the gradients by x, h, c and each
        parameter: a tuple in this order, or a dict with keys such as ``"dx"``, ``"dh_prev"``, ``"dW_hh"``.
    x : array ``(B, I)`` or ``(T, B, I)``
        The input of one step or of several. In a sequence, each step begins with the state after the step
        before it. Sequences may also be columns: x ``(I, B)`` with h ``(H, B)``.
    h, c : array ``(B, H)``
        The state before the first step; c only if the cell has one. A state of zeros hides errors.
    parameters : dict of str to array, optional
        The other arrays that ``forward`` is differentiated by.
    gates : str or tuple of str
        The order of the gates in the parameters, such as ``"ifgo"``, for messages. The blocks of H may be
        rows or columns of the parameters; if the shapes allow both, they are rows. Known mistakes are
        recognized for the gates of an LSTM or GRU and parameters with names like ``W_ih`` or ``Wx``.
    rtol : float
        Relative tolerance in addition to the error bound of the numerical derivative.
    max_entries : int
        The most entries of each array that are tried; they are drawn at random.
    seed : int
        The seed of the cotangents and of the entries that are tried.

    Returns
    -------
    GradientCheck
        The method and the largest error.

    Raises
    ------
    GradientCheckError
        A gradient is wrong or missing, or has another shape. The error is an AssertionError too. Its
        message names the gradient, step, gate and unit, both values, and a recognized mistake.
    NotDifferentiableError
        ``forward`` has a kink at a step.
    ArgumentError, ShapeError
        ``forward`` cannot be called, or does not return the next state.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> def forward(x, h, W_ih, W_hh, b):
    ...     h_next = np.tanh(x @ W_ih.T + h @ W_hh.T + b)
    ...     return h_next, (x, h, W_ih, W_hh, h_next)
    >>> def backward(dh, cache):
    ...     x, h, W_ih, W_hh, h_next = cache
    ...     da = dh * (1 - h_next**2)
    ...     return da @ W_ih, da @ W_hh, da.T @ x, da.T @ h, da.mean(axis=0)
    >>> rng = np.random.default_rng(0)
    >>> x, h = rng.normal(size=(4, 3, 2)), rng.normal(size=(3, 5))
    >>> parameters = {"W_ih": rng.normal(size=(5, 2)), "W_hh": rng.normal(size=(5, 5)), "b": np.ones(5)}
    >>> tg.testing.check_backward(forward, backward, x, h, parameters=parameters)
    Traceback (most recent call last):
        ...
    tinygrad182.errors.GradientCheckError: check_backward: db is wrong at step 0, unit ...
        yours         ...
        complex step  ...
        ratio         0.333333333333
    it is the mean over the batch; take the sum
    right: dx, dh, dW_ih, dW_hh
    """
    if isinstance(c, Mapping) or not isinstance(parameters or {}, Mapping):
        raise ArgumentError(
            "check_backward: parameters must be a dict of arrays by their names, passed as parameters="
        )
    state = ("h",) if c is None else ("h", "c")
    given = {"x": _array("x", x), "h": _array("h", h)}
    given |= {} if c is None else {"c": _array("c", c)}
    weights = {name: _array(name, value) for name, value in (parameters or {}).items()}
    if clash := weights.keys() & given.keys():
        taken = brief(min(clash))
        raise ArgumentError(
            f"check_backward: parameters has {taken}, a name that is taken; rename it"
        )
    check_whole("check_backward", "max_entries", max_entries, 1)
    cell = HandWritten(forward, backward, state, parameters or {})
    rng = np.random.default_rng(seed)
    inputs = given["x"] if given["x"].ndim > given["h"].ndim else given["x"][None]
    before = {part: given[part] for part in state}
    _check_shapes(inputs, before)
    shapes = {name: a.shape for name, a in weights.items()}
    layout = Layout.of(tuple(gates), inputs[0], given["h"], shapes)
    checks, methods = [], set()
    for t, x_t in enumerate(inputs):
        derivatives = StepDerivatives(cell, {"x": x_t, **before, **weights}, t, rng)
        checks.append(_Step(derivatives, layout, rtol, max_entries).check())
        methods.add(derivatives.method)
        before = derivatives.after
    return _together(checks, max(methods))  # "five points" if any step needs them


class _Step:
    """The check of one step: its gradients against the derivatives of its forward."""

    def __init__(
        self, derivatives: StepDerivatives, layout: Layout, rtol: float, max_entries: int
    ) -> None:
        self.derivatives, self.layout, self.rtol = derivatives, layout, rtol
        self.cell, self.given, self.t = derivatives.cell, derivatives.given, derivatives.t
        self.max_entries = max_entries

    def check(self) -> list[CheckedInput]:
        """Compare every gradient; raise an error for a wrong one, preferably by a parameter."""
        given = {name: a.copy() for name, a in self.given.items()}
        returned = self.cell.gradients(self.derivatives.cotangents, given)
        arrays = {name: _gradient(name, value, self.t) for name, value in returned.items()}
        right = dict(self.derivatives.gradients(self.max_entries))
        wrong = [n for n in arrays if not self._is_right(arrays[n], right[n])]
        if wrong:
            self._raise(wrong, arrays, right)
        return [self._report(name, arrays[name], right[name]) for name in arrays]

    def _is_right(self, found: Array, right: RightGradient) -> bool:
        same_shape = found.shape == right.whole.shape
        return same_shape and bool((self._excess(found, right) <= 1).all())

    def _excess(self, found: Array, right: RightGradient) -> Array:
        """The difference as a multiple of the largest that is allowed; 0 for entries not tried."""
        whole = right.whole
        tried = ~np.isnan(right.bound)
        sizes = [np.abs(a).max(initial=1.0) for a in self.given.values()]
        largest = np.abs(whole[tried]).max(initial=0.0)
        allowed = self.rtol * largest + right.bound + FLOOR * max(sizes) ** 2
        return np.nan_to_num(np.where(tried, np.abs(found - whole) / allowed, 0.0), nan=np.inf)

    def _report(self, name: str, found: Array, right: RightGradient) -> CheckedInput:
        whole = right.whole
        tried = ~np.isnan(whole)
        largest = np.abs(whole[tried]).max(initial=0.0)
        error = np.abs(found[tried] - whole[tried]).max(initial=0.0) / (largest or 1.0)
        return CheckedInput(name, found.shape, str(found.dtype), int(tried.sum()), float(error))

    def _raise(
        self, wrong: list[str], arrays: Arrays, right: Mapping[str, RightGradient]
    ) -> NoReturn:
        """Raise the error about the first wrong gradient, with names of gates, units and sequences."""
        name = next((n for n in wrong if n in self.layout.shapes), wrong[0])
        found, whole = arrays[name], right[name].whole
        if found.shape != whole.shape:
            lines = [
                f"check_backward: d{name} has shape {found.shape} at step {self.t}; it must be "
                f"{whole.shape}, the shape of {name}"
            ]
        else:
            index = np.unravel_index(int(np.argmax(self._excess(found, right[name]))), found.shape)
            mine, theirs = float(found[index]), float(whole[index])
            lines = [
                f"check_backward: d{name} is wrong at {self.layout.entry(name, index, self.t)}",
                f"    {'yours':<12}  {mine:.12g}",
                f"    {self.derivatives.method:<12}  {theirs:.12g}",
                f"    {'ratio':<12}  {ratio(mine, theirs)}",
            ]
        lines += self._explained(name, found, right[name])
        lines += self._known(arrays)
        others = [f"d{n}" for n in wrong if n != name]
        fine = [f"d{n}" for n in arrays if n not in wrong]
        lines += [f"wrong too: {', '.join(others)}"] * bool(others)
        lines += [f"right: {', '.join(fine)}"] * bool(fine)
        raise GradientCheckError("\n".join(lines))

    def _explained(self, name: str, found: Array, right: RightGradient) -> list[str]:
        """Sentences about the relation of a wrong gradient to the right one."""
        whole = right.whole
        if np.isnan(whole).any():  # not every entry was tried
            return []
        allowed = (
            self.rtol * np.abs(whole).max(initial=0.0) + 10 * right.bound.max(initial=0.0) + FLOOR
        )

        def close(a: Array, b: Array) -> bool:
            return bool((np.abs(a - b) <= allowed).all())

        gates = self.layout.gates if self.layout.has_blocks(name) else ()
        blocks = Blocks(gates, self.layout.axis(name) if name in self.layout.shapes else 0)
        h = self.given["h"]
        batch = h.shape[1 if self.layout.columns else 0] if h.ndim > 1 else 1
        return relations(found, whole, right.parts, batch, blocks, close)

    def _known(self, arrays: Arrays) -> list[str]:
        """Lines about the known mistakes that give these gradients."""

        def close(a: Array, b: Array) -> bool:
            return bool((np.abs(a - b) <= RTOL * np.abs(b).max(initial=0.0) + FLOOR).all())

        cell = KnownCell(self.given, self.cell.state, self.layout)
        after, cotangents = self.derivatives.after, self.derivatives.cotangents
        found = cell.mistakes(after, cotangents, arrays, close)
        return [f"mistake: {mistake}" for mistake in found]


def _gradient(name: str, value: Any, step: int) -> Array:
    """Return a gradient from backward as an array of numbers."""
    try:
        array = np.asarray(value)
    except ValueError:  # a list of rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "fiu":
        raise GradientCheckError(
            f"check_backward: d{name} is {brief(value)} at step {step}; return an array of numbers of the "
            f"shape of {name}"
        )
    return array.astype(float)


def _check_shapes(inputs: Array, state: Arrays) -> None:
    """Check that inputs and state belong together."""
    h, x = state["h"], inputs[:1]
    if inputs.size == 0 or h.size == 0:
        raise ShapeError("check_backward: x or h is empty; pass at least one step of one sequence")
    alike = all(a.shape == h.shape for a in state.values())
    one_batch = h.ndim < 2 or any(x.shape[1:][k : k + 1] == h.shape[k : k + 1] for k in (0, 1))
    if inputs.ndim != h.ndim + 1 or not (alike and one_batch):
        found = {"x": x[0], **state}
        shapes = ", ".join(f"{name} {array.shape}" for name, array in found.items())
        raise ShapeError(
            f"check_backward: a step has {shapes}, which do not belong together; pass x of shape (B, I) or "
            "(T, B, I), and h and c of shape (B, H)"
        )


def _array(name: str, value: Any) -> Array:
    try:
        if np.iscomplexobj(value):
            raise TypeError("complex")
        return np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"check_backward: {name} is {brief(value)}; pass an array of real numbers"
        ) from error


def _together(steps: list[list[CheckedInput]], method: str) -> GradientCheck:
    """Combine the results of all steps."""
    inputs = []
    for every in zip(*steps, strict=True):
        tried, error = sum(i.tried for i in every), max(i.error for i in every)
        inputs.append(every[0]._replace(tried=tried, error=error))
    entries, error = sum(i.tried for i in inputs), max(i.error for i in inputs)
    return GradientCheck(method, entries, error, 1, tuple(inputs))
