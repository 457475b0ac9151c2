"""``fixed_points``: states that a recurrent cell leaves unchanged, or nearly, and the Jacobians there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np

from ..._numbers import check_number, check_whole
from ...arrays import backend
from ...engine.host import on_host
from ...engine.modes import MODES
from ...engine.recording import is_tensor, wrap
from ...errors import ArgumentError, DTypeError, GraphError, ShapeError, brief
from ...nn.init import Rng, generator
from ...nn.recurrent import RecurrentCell, RecurrentLayer
from ...tensors import functions
from ...tensors.functions import broadcast_to, concat, matmul
from ...tensors.tensor import Tensor
from ...transforms.derivatives import jacobian, vjp
from ..passes.scaling import HostArray
from ..table import text_table
from .least_squares import EndPoints, minimized

ELEMENTS = 1 << 20
"""About so many elements of Jacobians are worked on at once, which limits memory."""

MARGINAL = 1e-9
"""An eigenvalue nearer to the unit circle than this counts as on it: neither stable nor unstable."""

_OP = "fixed_points"


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """A state s that a step leaves unchanged, or that moves more slowly than all states around it.

    Attributes
    ----------
    state : dict of str to ndarray ``(H,)``
        Its parts by name; float64.
    speed : float
        q(s) = ½‖F(s) − s‖², where F is the step.
    is_fixed : bool
        Whether the state does not move, to the tolerance. If not, it is a slow point: a minimum of q
        with q > 0, where one eigenvalue λ is 1.
    jacobian : ndarray ``(S, S)``
        ∂F/∂s, float64; rows and columns in the order of ``state``.
    starts : int
        The number of searches that ended here.
    distance : float
        The distance to the nearest of all starts. A point far from the states of a run has little effect
        on it.
    """

    state: dict[str, HostArray]
    speed: float
    is_fixed: bool
    jacobian: HostArray = field(repr=False)
    starts: int
    distance: float

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} ({len(part)},)" for name, part in self.state.items())
        kind = "fixed" if self.is_fixed else "slow"
        nature = "stable" if self.stable else f"{self.unstable_modes} unstable modes"
        return (
            f"<{kind} point of {sizes}: {nature}, |λ|max {self.spectral_radius:.6f}, "
            f"speed {self.speed:.1e}; {self.starts} starts led here, the nearest from {self.distance:.3g}>"
        )

    @cached_property
    def eigenvalues(self) -> HostArray:
        """The eigenvalues λ of the Jacobian, complex ``(S,)``, largest magnitude first.

        A deviation from the point along an eigenvector is multiplied by λ at every step, and so is the
        gradient on its way back. NaN where the Jacobian is not finite.
        """
        if not np.isfinite(self.jacobian).all():
            return np.full(len(self.jacobian), complex(math.nan, math.nan))
        values = np.linalg.eigvals(self.jacobian).astype(complex)
        return values[np.argsort(-np.abs(values), kind="stable")]

    @property
    def spectral_radius(self) -> float:
        """|λ|max."""
        return float(np.abs(self.eigenvalues[0]))

    @property
    def stable(self) -> bool:
        """Whether every |λ| is below 1: small deviations die out."""
        return self.spectral_radius < 1 - MARGINAL

    @property
    def unstable_modes(self) -> int:
        """The number of eigenvalues with |λ| > 1."""
        return int((np.abs(self.eigenvalues) > 1 + MARGINAL).sum())

    @property
    def time_constants(self) -> HostArray:
        """−1 / ln|λ| ``(S,)``: the steps in which a deviation shrinks by a factor e, or grows (−)."""
        with np.errstate(divide="ignore"):
            return -1 / np.log(np.abs(self.eigenvalues))


class Nearest(NamedTuple):
    """The nearest point of each state.

    Attributes
    ----------
    point : ndarray of int
        The number of the point, from 0.
    distance : ndarray
        The distance to it.
    """

    point: HostArray
    distance: HostArray

    def __repr__(self) -> str:
        points, counts = np.unique(self.point, return_counts=True)
        rows = [
            (point, count, float(self.distance[self.point == point].min()))
            for point, count in zip(points.tolist(), counts.tolist(), strict=True)
        ]
        said = f"points nearest to states of shape {self.point.shape}"
        return f"{said}\n{text_table(('point', 'states', 'least distance'), rows, 20)}"


class FixedPoints(Sequence[FixedPoint]):
    """Fixed points, those that more starts led to first, then slow points by speed; prints as a table.

    Attributes
    ----------
    names : tuple of str
        The parts of the state.
    starts : int
        The number of states from which points were searched.
    unsettled : dict of str to ndarray ``(L, H)``
        The states, by parts, at which searches ended without a point.
    """

    def __init__(
        self,
        points: list[FixedPoint],
        names: tuple[str, ...],
        starts: int,
        unsettled: dict[str, HostArray],
    ) -> None:
        self._points = points
        self.names = names
        self.starts = starts
        self.unsettled = unsettled

    @overload
    def __getitem__(self, index: int) -> FixedPoint: ...
    @overload
    def __getitem__(self, index: slice) -> list[FixedPoint]: ...
    def __getitem__(self, index: Any) -> Any:
        return self._points[index]

    def __len__(self) -> int:
        return len(self._points)

    def nearest(self, states: Any) -> Nearest:
        """Find the nearest point of each state, and the distance.

        Parameters
        ----------
        states : Tensor or array ``(…, H)``, or a tuple with one for each part of the state
            ``(T, B, H)`` of a run, for example.

        Returns
        -------
        Nearest
            Indices into the points and Euclidean distances, ``(…)`` each, in the order of the states.

        Raises
        ------
        ArgumentError
            No points were found, or the states have other parts or are not finite.
        ShapeError
            States of another size.
        """
        if not self._points:
            raise ArgumentError(
                "nearest: no points were found; search from other starts, or with more max_steps"
            )
        points = [np.concatenate([*point.state.values()]) for point in self._points]
        rows, lead = _rows(states, self.names, len(points[0]) // len(self.names), "the states")
        distances = np.stack([np.linalg.norm(rows - point, axis=1) for point in points])
        index = distances.argmin(axis=0)
        return Nearest(index.reshape(lead), distances.min(axis=0).reshape(lead))

    def __repr__(self) -> str:
        header = ("", "kind", "speed", "|λ|max", "unstable", "starts", "distance")
        rows = [
            (
                i,
                "fixed" if point.is_fixed else "slow",
                point.speed,
                f"{point.spectral_radius:.6f}",
                point.unstable_modes,
                point.starts,
                point.distance,
            )
            for i, point in enumerate(self._points)
        ]
        lost = len(self.unsettled[self.names[0]])
        count = "1 point" if len(rows) == 1 else f"{len(rows)} points"
        said = f"{count} from {self.starts} starts; {lost} starts led to none"
        return "\n".join([text_table(header, rows, 20), said] if rows else [said])


def fixed_points(
    cell: RecurrentCell | RecurrentLayer,
    x: Any = None,
    starts: Any = None,
    *,
    level: int | str | None = None,
    count: int = 64,
    noise: float = 0.0,
    tolerance: float = 1e-12,
    merge: float = 1e-4,
    max_steps: int = 200,
    rng: Rng = 0,
) -> FixedPoints:
    r"""Fixed and slow points of a recurrent cell under a constant input, and the Jacobians there.

    The states that a trained network does not move shape what it does: attractors hold what it remembers,
    saddles decide, slow points pass on [1]_. Near such a point a step is about linear. The eigenvalues λ of
    its Jacobian say how a deviation grows, and a gradient on its way back: in the long run each step
    multiplies it by \|λ\|max.

    Points are found by minimizing q(s) = ½‖F(s) − s‖² from many states at once, with the method of
    Levenberg and Marquardt, and Newton's method where q stays above 0. Everything is computed in float64
    on the host, for a cell of any dtype and device; the cell is not changed.

    Parameters
    ----------
    cell : RecurrentCell or RecurrentLayer
        Such as ``nn.LSTMCell``, ``nn.LSTM``, or your own class.
    x : Tensor or array ``(I,)``, optional
        The constant input; zeros by default. For an upper level of a layer it is the output of the level
        below.
    starts : Tensor or array ``(…, H)``, or a tuple with one for each part of the state, optional
        The states from which to search. States of a run, ``(T, B, H)``, are best, because a search finds
        points nearby. By default each part is uniform in ±1.
    level : int or str, optional
        The level of a layer, ``1`` or ``"l1"``, or with its direction, ``"l0_reverse"``; needed if there
        are several.
    count : int
        The number of starts; if ``starts`` has more, so many are drawn from it.
    noise : float
        Standard deviation of normal noise that is added to the starts.
    tolerance : float
        A point is fixed if ‖F(s) − s‖ ≤ ``tolerance`` · max(1, ‖s‖).
    merge : float
        Points with a distance of at most ``merge`` · max(1, ‖s‖) count as one, the slowest of them.
    max_steps : int
        The largest number of steps of a search.
    rng : int or numpy.random.Generator, optional
        The source of random numbers.

    Returns
    -------
    FixedPoints
        A sequence of :class:`FixedPoint`.

    Raises
    ------
    ArgumentError
        ``cell`` is not a recurrent cell or layer, the level is unknown, ``starts`` has other parts, numbers
        are out of range, or weights, inputs or starts are not finite.
    ShapeError
        ``x`` or ``starts`` has another shape.
    DTypeError
        Numbers are complex or cannot be read.
    GraphError
        Inside :func:`intervene`, whose gates would not be set here.

    Notes
    -----
    A state of two parts, (h, c) of an LSTM, has S = 2 H elements and as many eigenvalues. A search takes
    about 10 to 30 steps, each with O(S³) operations for every start.

    References
    ----------
    .. [1] Sussillo and Barak, "Opening the black box: low-dimensional dynamics in high-dimensional
       recurrent neural networks", Neural Computation 25 (2013).
    .. [2] Golub and Sussillo, "FixedPointFinder", Journal of Open Source Software 3 (2018).

    Examples
    --------
    Two units that each remember a sign have nine points. The four with two signs are stable:

    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> cell = tg.nn.RNNCell(1, 2, bias=False, rng=0)
    >>> _ = cell.weight_hh.assign(2 * np.eye(2))
    >>> points = tg.inspect.fixed_points(cell)
    >>> len(points), sum(point.stable for point in points)
    (9, 4)
    >>> states = np.array([[[0.9, -0.8]], [[0.1, 0.0]]])       # (T, B, H)
    >>> point, distance = points.nearest(states)
    >>> points[point[0, 0]].stable, points[point[1, 0]].unstable_modes
    (True, 2)
    """
    if MODES.get().interventions:
        raise GraphError(
            "fixed_points: tg.inspect.intervene has no effect on the searched cell; leave the context, or "
            "give the cell's step an option that sets the gate"
        )
    step = _Step(cell, level, x)
    count = check_whole(_OP, "count", count, 1)
    most = check_whole(_OP, "max_steps", max_steps, 1)
    noise = check_number(_OP, "noise", noise)
    tolerance = check_number(_OP, "tolerance", tolerance)
    merge = check_number(_OP, "merge", merge)
    begin = _starts(step, starts, count, noise, generator(rng))
    chunks = np.array_split(begin, min(len(begin), -(-len(begin) * step.size**2 // ELEMENTS)))
    as_new = Context()  # default modes: no search for anomalies, and new tensors on the host
    found = [as_new.run(minimized, step, some, tolerance, most) for some in chunks]
    ends = EndPoints(*map(np.concatenate, zip(*found, strict=True)))
    return _collected(step, begin, ends, merge)


# --- the step -------------------------------------------------------------------------------------


class _Step:
    """The step F of a cell under a constant input, in float64 on the host; the search solves F(s) = s."""

    def __init__(self, cell: Any, level: Any, x: Any) -> None:
        if not isinstance(cell, (RecurrentCell, RecurrentLayer)):
            raise ArgumentError(
                f"{_OP}: {brief(cell)} is not a recurrent cell or layer; pass one such as tg.nn.LSTMCell, "
                "model.lstm, or your own subclass of tg.nn.RecurrentCell"
            )
        self.scan, self.units = cell.scan, cell.hidden_size
        self.names, self.size = cell.scan.parts, len(cell.scan.parts) * cell.hidden_size
        owner, suffix = type(cell).__name__, _suffix(cell, level)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", *cell.scan.weights)
        given = dict(zip(names, cell._weights(suffix), strict=True))
        weights = _in_float64(given, owner, suffix)
        from_x = weights.pop("weight_ih")
        self._x = from_x @ wrap(_input(x, from_x.shape[1])) + weights.pop("bias_ih")
        self._weight, self._bias = weights.pop("weight_hh").T, weights.pop("bias_hh")
        self._others = weights | _in_float64(cell._params(), owner)

    def __call__(self, states: Tensor) -> Tensor:
        """F of N states (N, S)."""
        n = self.units
        parts = tuple([states[:, k * n : (k + 1) * n] for k in range(len(self.names))])
        h = matmul(parts[0], self._weight) + self._bias
        x = broadcast_to(self._x, h.shape)
        new = self.scan.step(functions, x, h, parts, **self._others)
        return concat(list(new), axis=1)

    def residuals(self, states: HostArray) -> HostArray:
        """F(s) − s, see :class:`.least_squares.Problem`."""
        moved: HostArray = self(wrap(states)).numpy() - states
        return moved

    def jacobians(self, states: HostArray) -> HostArray:
        """∂F/∂s − 1. Rows do not depend on each other, so their sum has the derivatives of each."""
        return _by_state(jacobian(lambda s: self(s).sum(axis=0), states)) - np.eye(self.size)

    def curvatures(self, states: HostArray, weights: HostArray) -> HostArray:
        """The second derivatives of Σ_i w_i F_i."""

        def gradient(s: Tensor) -> Tensor:
            _, pull = vjp(self, s)
            return pull(weights)[0].sum(axis=0)

        return _by_state(jacobian(gradient, states))


def _by_state(derivatives: Tensor) -> HostArray:
    """Derivatives of the sum over states (S, N, S) as those of each (N, S, S)."""
    return np.ascontiguousarray(derivatives.numpy().swapaxes(0, 1))


def _suffix(cell: Any, level: Any) -> str:
    """The ending of the names of a level's parameters; empty for a cell."""
    start = "weight_hh_"
    levels = [name.removeprefix(start) for name in vars(cell) if name.startswith(start)]
    wanted = f"l{level}" if isinstance(level, (int, np.integer)) else level
    if (wanted is None and len(levels) < 2) or wanted in levels:
        return f"_{wanted or levels[0]}" if levels else ""
    name, there = type(cell).__name__, ", ".join(map(repr, levels))
    if not levels:
        raise ArgumentError(f"{_OP}: {name} is a cell, without levels; leave level={level!r} out")
    said = "has several levels" if wanted is None else f"has no level {brief(level)}"
    raise ArgumentError(f"{_OP}: {name} {said}; pass level= one of {there}")


def _in_float64(given: dict[str, Any], owner: str, suffix: str = "") -> dict[str, Any]:
    """Values, with Tensors turned into constants in float64 on the host."""
    tensors = {name: value for name, value in given.items() if is_tensor(value)}
    arrays = backend.fetch([value._data for value in tensors.values()])
    found = {
        name: wrap(_real(array, f"{owner}.{name}{suffix}"))
        for name, array in zip(tensors, arrays, strict=True)
    }
    return given | found


def _real(values: Any, what: str) -> HostArray:
    """Finite numbers as a new float64 array."""
    try:
        numbers = np.asarray(on_host(values))
        if numbers.dtype.kind not in "biuf":
            raise TypeError(f"its dtype is {numbers.dtype}")
        numbers = np.array(numbers, np.float64)
    except (TypeError, ValueError) as error:
        raise DTypeError(f"{_OP}: cannot read {what} as real numbers: {error}") from error
    if not np.isfinite(numbers).all():
        raise ArgumentError(f"{_OP}: {what} is not finite: there is NaN or infinity in it")
    return numbers


def _input(x: Any, size: int) -> HostArray:
    """The constant input (I,)."""
    values = np.zeros(size) if x is None else _real(x, "x")
    if values.shape != (size,):
        raise ShapeError(
            f"{_OP}: x has shape {values.shape}; the input is constant, so pass one step of one "
            f"sequence, ({size},)"
        )
    return values


# --- states ---------------------------------------------------------------------------------------


def _starts(
    step: _Step, given: Any, count: int, noise: float, rng: np.random.Generator
) -> HostArray:
    """The states (N, S) to search from."""
    if given is None:
        return rng.uniform(-1, 1, (count, step.size)) + noise * rng.normal(size=(count, step.size))
    rows, _ = _rows(given, step.names, step.units, "starts")
    if not len(rows):
        raise ArgumentError(f"{_OP}: starts hold no state; pass at least one")
    if len(rows) > count:
        rows = rows[np.sort(rng.choice(len(rows), count, replace=False))]
    return rows + noise * rng.normal(size=rows.shape)


def _rows(
    given: Any, names: tuple[str, ...], units: int, what: str
) -> tuple[HostArray, tuple[int, ...]]:
    """States as rows (N, S), and the lengths of their axes before the last."""
    together = given if isinstance(given, tuple) else (given,)
    if len(names) > 1 and isinstance(given, list):
        together = tuple(given)
    if len(together) != len(names):
        found = (
            f"are {len(together)} of them" if isinstance(given, (tuple, list)) else "are one array"
        )
        raise ArgumentError(f"{_OP}: {what} {found}; pass ({', '.join(names)}), each (…, {units})")
    parts = [_real(part, f"{name} of {what}") for part, name in zip(together, names, strict=True)]
    shape = parts[0].shape
    for part, name in zip(parts, names, strict=True):
        if part.shape != shape or shape[-1:] != (units,):
            raise ShapeError(
                f"{_OP}: {name} of {what} has shape {part.shape}; it must be (…, {units}), "
                "with the same axes before for all parts"
            )
    return np.concatenate([part.reshape(-1, units) for part in parts], axis=1), shape[:-1]


def _by_part(rows: HostArray, names: tuple[str, ...]) -> dict[str, HostArray]:
    """Rows split along their last axis into the parts of the state."""
    return dict(zip(names, np.split(rows, len(names), axis=-1), strict=True))


def _collected(step: _Step, begin: HostArray, ends: EndPoints, merge: float) -> FixedPoints:
    """The points at the ends of all searches, each once."""
    speeds = (ends.residuals**2).sum(axis=1) / 2
    found = np.flatnonzero(ends.is_minimum)
    groups: list[list[int]] = []
    for i in found[np.argsort(speeds[found], kind="stable")]:
        s = ends.states[i]
        near = merge * max(1.0, float(np.linalg.norm(s)))
        same = [g for g in groups if np.linalg.norm(ends.states[g[0]] - s) <= near]
        if same:
            same[0].append(i)
        else:
            groups.append([i])
    points = [
        FixedPoint(
            state=_by_part(ends.states[i], step.names),
            speed=float(speeds[i]),
            is_fixed=bool(ends.is_root[i]),
            jacobian=ends.jacobians[i] + np.eye(step.size),
            starts=1 + len(others),
            distance=float(np.linalg.norm(begin - ends.states[i], axis=1).min()),
        )
        for i, *others in groups
    ]
    points.sort(key=lambda p: (0.0, -p.starts) if p.is_fixed else (p.speed, 0))
    unsettled = _by_part(ends.states[~ends.is_minimum], step.names)
    return FixedPoints(points, step.names, len(begin), unsettled)
