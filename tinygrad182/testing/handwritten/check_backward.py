"""``check_backward``: a derivative written by hand in NumPy, against numerical ones of its own forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ...errors import ArgumentError, GradientCheckError, NotDifferentiableError, ShapeError, brief
from ..gradients.comparing import ratio
from ..numerical_derivatives import complex_step, five_points
from ..results import CheckedInput, GradientCheck
from ..samples import Array
from .calling import Arrays, HandWritten
from .known_mistakes import KnownCell
from .parameter_layout import Layout
from .wrong_gradients import relations

RTOL = 1e-8
FLOOR = 1e-13
"""Rounding of numbers of size 1, which stays where a gradient is a small sum of such numbers."""


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
    """Check the derivative of a step that was written by hand in plain NumPy; raise where it is wrong.

    The right gradients come from ``forward`` alone: by the complex step where it takes complex numbers,
    else by five points with an error bound, as in :func:`check_gradients`. So every rule is right that
    belongs to its own forward, in whatever order its gates are. ``backward`` is called with one cotangent
    at a time, of the shape of the state: it needs to know nothing of other axes.

    Parameters
    ----------
    forward : callable
        ``forward(x, h, c, ...)`` returns ``(h, c, cache)``; for a cell without c, ``forward(x, h, ...)``
        returns ``(h, cache)``. The parameters follow by their names, in the order of ``parameters``, or in
        one dict; a function that takes none uses the arrays in ``parameters`` from outside.
    backward : callable
        ``backward(dh, dc, cache)``, or ``backward(dh, cache)``, returns the gradients by x, h, c and each
        parameter: a tuple in this order, or a dict with keys such as ``"dx"``, ``"dh_prev"``, ``"dW_hh"``.
    x : array ``(B, I)`` or ``(T, B, I)``
        The input of one step, or of several. Of a sequence, each step is checked at the state that the
        steps before it lead to. Columns will do too: x ``(I, B)`` with h ``(H, B)``.
    h, c : array ``(B, H)``
        The state before the first step; c only where the cell has one. A state of zeros hides errors.
    parameters : dict of str to array, optional
        What else forward is differentiated by.
    gates : str or tuple of str
        The order of the gates in the parameters, such as ``"ifgo"``, for messages. Parameters may have
        their blocks of H in rows or in columns; where the shapes leave it open, rows are meant. With the
        gates of an LSTM or GRU, and parameters called ``W_ih`` or ``Wx`` and ``W_hh`` or ``Wh``, known
        mistakes are recognized.
    rtol : float
        Relative tolerance, beside what the numerical derivative may be off.
    max_entries : int
        At most so many entries of each array are tried, drawn at random.
    seed : int
        Of what is drawn: the cotangents, and which entries are tried.

    Returns
    -------
    GradientCheck
        How it was checked, and the largest difference.

    Raises
    ------
    GradientCheckError
        A gradient is wrong, missing, or has another shape; it is an AssertionError too. The message names
        the gradient, the step, the gate and the unit, both values, and what the wrong one looks like.
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
        ratio         0.333333333
    it is the mean over the batch; take the sum
    right: dx, dh, dW_ih, dW_hh
    """
    if isinstance(c, Mapping) or not isinstance(parameters or {}, Mapping):
        raise ArgumentError(
            "check_backward: parameters has to be a dict of arrays by their names, passed as parameters="
        )
    state = ("h",) if c is None else ("h", "c")
    given = {"x": _array("x", x), "h": _array("h", h)}
    given |= {} if c is None else {"c": _array("c", c)}
    own = {name: _array(name, value) for name, value in (parameters or {}).items()}
    clash = own.keys() & given.keys()
    if clash:
        raise ArgumentError(
            f"check_backward: parameters has {brief(min(clash))}, a name that is taken"
        )
    cell = HandWritten(forward, backward, state, parameters or {})
    rng = np.random.default_rng(seed)
    inputs = given["x"] if given["x"].ndim > given["h"].ndim else given["x"][None]
    _check_given(inputs, {part: given[part] for part in state}, max_entries)
    shapes = {name: a.shape for name, a in own.items()}
    layout = Layout.of(tuple(gates), inputs[0], given["h"], shapes)
    before = {part: given[part] for part in state}
    checks, methods = [], set()
    for t, x_t in enumerate(inputs):
        step = _Step(cell, {"x": x_t, **before, **own}, t, layout, max_entries, rng)
        checks.append(step.checked(rtol))
        methods.add(step.method)
        before = dict(zip(state, step.after, strict=True))
    return _together(checks, max(methods))  # "five points", if at any step


@dataclass(frozen=True)
class _Right:
    """The right gradient by one array.

    Attributes
    ----------
    parts : dict of str to ndarray
        What the cotangent of each part of the state contributes. NaN where an entry was not tried.
    bound : ndarray
        How far the sum of these may be off.
    """

    parts: Arrays
    bound: Array

    @property
    def whole(self) -> Array:
        """The gradient."""
        return np.asarray(sum(self.parts.values()))


class _Step:
    """One step, and the derivatives of its forward at this point."""

    def __init__(
        self,
        cell: HandWritten,
        given: Arrays,
        t: int,
        layout: Layout,
        max_entries: int,
        rng: np.random.Generator,
    ) -> None:
        self.cell, self.given, self.t, self.layout, self.rng = cell, given, t, layout, rng
        self.most = max_entries
        self.after, _ = cell.run({name: a.copy() for name, a in given.items()})
        self._check_after()
        self.cotangents: Arrays = {
            p: np.asarray(rng.standard_normal(given[p].shape)) for p in cell.state
        }
        self.point = np.concatenate([a.ravel() for a in given.values()])
        self.exact = self._takes_complex()

    @property
    def method(self) -> str:
        """Where the right gradients come from."""
        return "complex step" if self.exact else "five points"

    def _check_after(self) -> None:
        for name, part in zip(self.cell.state, self.after, strict=True):
            shape = self.given[name].shape
            if part.shape != shape:
                raise ShapeError(
                    f"check_backward: forward returns {name} of shape {part.shape}; before the step its "
                    f"shape is {shape}"
                )
            if part.dtype != float or not np.isfinite(part).all():
                found = "numbers that are not finite" if part.dtype == float else str(part.dtype)
                raise ArgumentError(
                    f"check_backward: forward returns {name} as {found} at step {self.t}; it is called "
                    "with float64 and has to keep that"
                )

    # --- right gradients ------------------------------------------------------------------------

    def _vector(self, point: Array) -> Array:
        """The next state as one vector, of all that is given as one."""
        given, start = {}, 0
        for name, array in self.given.items():
            given[name] = point[start : start + array.size].reshape(array.shape).copy()
            start += array.size
        state, _ = self.cell.run(given)
        return np.concatenate([np.asarray(part).ravel() for part in state])

    def _takes_complex(self) -> bool:
        """Whether the complex step agrees with five points, along a random direction."""
        v = self.rng.standard_normal(self.point.size)
        points = five_points(self._vector, self.point, v)
        if points.kinked.any():
            raise NotDifferentiableError(
                f"check_backward: forward has a kink or a jump at step {self.t}, so there is no derivative "
                "to compare with; check at other inputs"
            )
        exact = complex_step(self._vector, self.point, v)
        if exact is None:
            return False
        slack = 1e-6 * np.abs(points.derivative) + 10 * points.bound
        return bool((np.abs(exact - points.derivative) <= slack).all())

    def _column(self, j: int) -> tuple[Array, Array]:
        """The derivative of the next state by one number, and how far it may be off."""
        v = np.zeros(self.point.size)
        v[j] = 1.0
        if self.exact and (found := complex_step(self._vector, self.point, v)) is not None:
            return found, np.zeros(found.shape)
        points = five_points(self._vector, self.point, v)
        return points.derivative, 10 * points.bound

    def right(self) -> Iterator[tuple[str, _Right]]:
        """Yield the right gradient by each input, part of the state and parameter."""
        start = 0
        for name, array in self.given.items():
            tried = np.sort(self.rng.permutation(array.size)[: self.most])
            parts = {part: np.full(array.size, np.nan) for part in self.cell.state}
            bound = np.full(array.size, np.nan)
            for k in tried:
                column, off = self._column(start + int(k))
                cut = 0
                bound[k] = 0.0
                for part, cotangent in self.cotangents.items():
                    here = slice(cut, cut + cotangent.size)
                    parts[part][k] = cotangent.ravel() @ column[here]
                    bound[k] += np.abs(cotangent.ravel()) @ off[here]
                    cut += cotangent.size
            shaped = {part: a.reshape(array.shape) for part, a in parts.items()}
            yield name, _Right(shaped, bound.reshape(array.shape))
            start += array.size

    # --- the check ------------------------------------------------------------------------------

    def checked(self, rtol: float) -> list[CheckedInput]:
        """Compare every gradient; raise for the first that is wrong, those by parameters first."""
        given = {name: a.copy() for name, a in self.given.items()}
        found = self.cell.gradients(self.cotangents, given)
        arrays = {name: _gradient(name, value, self.t) for name, value in found.items()}
        right = dict(self.right())
        wrong = [n for n in arrays if not self._fits(arrays[n], right[n], rtol)]
        if wrong:
            self._raise(wrong, arrays, right, rtol)
        return [self._report(name, arrays[name], right[name]) for name in arrays]

    def _fits(self, found: Array, right: _Right, rtol: float) -> bool:
        if found.shape != right.whole.shape:
            return False
        return bool((np.nan_to_num(self._excess(found, right, rtol), nan=np.inf) <= 1).all())

    def _excess(self, found: Array, right: _Right, rtol: float) -> Array:
        """How many times the difference is what is allowed; 0 for what was not tried."""
        whole = right.whole
        tried = ~np.isnan(right.bound)
        sizes = [np.abs(a).max(initial=1.0) for a in self.given.values()]
        largest = np.abs(whole[tried]).max(initial=0.0)
        allowed = rtol * largest + right.bound + FLOOR * max(sizes) ** 2
        return np.where(tried, np.abs(found - whole) / allowed, 0.0)

    def _report(self, name: str, found: Array, right: _Right) -> CheckedInput:
        whole = right.whole
        tried = ~np.isnan(whole)
        largest = np.abs(whole[tried]).max(initial=0.0)
        error = np.abs(found[tried] - whole[tried]).max(initial=0.0) / (largest or 1.0)
        return CheckedInput(name, found.shape, str(found.dtype), int(tried.sum()), float(error))

    def _raise(
        self, wrong: list[str], arrays: Arrays, right: Mapping[str, _Right], rtol: float
    ) -> NoReturn:
        """Tell of the first wrong gradient, in terms of gates, units and sequences."""
        name = next((n for n in wrong if n in self.layout.shapes), wrong[0])
        found, whole = arrays[name], right[name].whole
        if found.shape != whole.shape:
            lines = [
                f"check_backward: d{name} has shape {found.shape} at step {self.t}; it has to be "
                f"{whole.shape}, that of {name}"
            ]
        else:
            excess = np.nan_to_num(self._excess(found, right[name], rtol), nan=np.inf)
            index = np.unravel_index(int(np.argmax(excess)), found.shape)
            mine, theirs = float(found[index]), float(whole[index])
            lines = [
                f"check_backward: d{name} is wrong at {self.layout.entry(name, index, self.t)}",
                f"    {'yours':<12}  {mine:.12g}",
                f"    {self.method:<12}  {theirs:.12g}",
                f"    {'ratio':<12}  {ratio(mine, theirs)}",
            ]
        lines += self._explained(name, found, right[name], rtol)
        lines += self._known(arrays)
        others = [f"d{n}" for n in wrong if n != name]
        fine = [f"d{n}" for n in arrays if n not in wrong]
        lines += [f"wrong too: {', '.join(others)}"] * bool(others)
        lines += [f"right: {', '.join(fine)}"] * bool(fine)
        raise GradientCheckError("\n".join(lines))

    def _explained(self, name: str, found: Array, right: _Right, rtol: float) -> list[str]:
        """What a wrong gradient has to do with the right one."""
        whole = right.whole
        if np.isnan(whole).any():  # not every entry was tried
            return []
        allowed = rtol * np.abs(whole).max(initial=0.0) + 10 * right.bound.max(initial=0.0) + FLOOR

        def close(a: Array, b: Array) -> bool:
            return bool((np.abs(a - b) <= allowed).all())

        blocks = self.layout.gates if self.layout.has_blocks(name) else ()
        axis = self.layout.axis(name) if name in self.layout.shapes else 0
        h = self.given["h"]
        batch = h.shape[1 if self.layout.columns else 0] if h.ndim > 1 else 1
        return relations(found, whole, right.parts, batch, (blocks, axis), close)

    def _known(self, arrays: Arrays) -> list[str]:
        """The known mistakes that give these gradients."""

        def close(a: Array, b: Array) -> bool:
            return bool((np.abs(a - b) <= RTOL * np.abs(b).max(initial=0.0) + FLOOR).all())

        cell = KnownCell(self.given, self.cell.state, self.layout)
        after = dict(zip(self.cell.state, self.after, strict=True))
        return [f"mistake: {m}" for m in cell.mistakes(after, self.cotangents, arrays, close)]


def _gradient(name: str, value: Any, step: int) -> Array:
    """A gradient that was returned, as an array of numbers."""
    try:
        array = np.asarray(value)
    except ValueError:  # a list of rows of several lengths
        array = np.asarray(None)
    if array.dtype.kind not in "fiu":
        raise GradientCheckError(
            f"check_backward: d{name} is {brief(value)} at step {step}; return an array of numbers of the "
            f"shape of {name}"
        )
    return array.astype(float)


def _check_given(inputs: Array, state: Arrays, max_entries: int) -> None:
    """Refuse inputs and states that do not belong together."""
    if max_entries < 1:
        raise ArgumentError(f"check_backward: max_entries is {max_entries}; try at least 1")
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
    """What was found at all steps."""
    inputs = []
    for every in zip(*steps, strict=True):
        tried, error = sum(i.tried for i in every), max(i.error for i in every)
        inputs.append(every[0]._replace(tried=tried, error=error))
    entries, error = sum(i.tried for i in inputs), max(i.error for i in inputs)
    return GradientCheck(method, entries, error, 1, tuple(inputs))
