"""``fixed_points`` against known points: in closed form, by bisection, and at the end of a run."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles.derivatives import complex_jacobians
from tests.support import Array, array, assert_close, const, device, host
from tinygrad182.errors import ArgumentError, DTypeError, ShapeError
from tinygrad182.inspect.views.least_squares import minimized

fixed_points = tg.inspect.fixed_points


def cell_of(matrix: Any, bias: Any = (0.0, 0.0), nonlinearity: Any = "tanh") -> tg.nn.RNNCell:
    """Two units: h' = σ(W h + b)."""
    cell = tg.nn.RNNCell(1, 2, nonlinearity=nonlinearity, rng=0, dtype="float64")
    cell.weight_hh.assign(np.array(matrix, float))
    cell.bias_ih.assign(np.array(bias, float))
    return cell


def bisected(gain: float) -> float:
    """The positive h with h = tanh(gain · h)."""
    low, high = 0.5, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if math.tanh(gain * middle) > middle else (low, middle)
    return low


def states_of(points: tg.inspect.FixedPoints) -> Array:
    found = np.array([point.state["h"] for point in points])
    return found[np.lexsort(np.round(found, 6).T)]


# --- known points -----------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [1, 2, 9])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear(units: int, dtype: str) -> None:
    """There is one point, (I − W)⁻¹ (W_x x + b), and its eigenvalues are those of W."""
    x = np.random.default_rng(0).normal(size=3)
    rnn = tg.nn.RNN(3, units, nonlinearity="identity", rng=1, dtype=dtype)
    W, W_x, b = (
        host(p).astype(np.float64) for p in (rnn.weight_hh_l0, rnn.weight_ih_l0, rnn.bias_ih_l0)
    )
    (point,) = fixed_points(rnn, x)
    assert point.is_fixed
    assert point.starts == 64
    assert point.speed < 1e-28
    assert_close(point.state["h"], np.linalg.solve(np.eye(units) - W, W_x @ x + b), 1e-12)
    assert_close(point.jacobian, W, 1e-12)
    values = np.linalg.eigvals(W)
    assert_close(np.abs(point.eigenvalues), np.sort(np.abs(values))[::-1], 1e-12)
    assert_close(np.sort_complex(point.eigenvalues), np.sort_complex(values.astype(complex)), 1e-12)


@pytest.mark.parametrize("gains", [(2.0, 0.5), (2.0, 2.0), (3.0, 1.5)])
def test_two_units_that_do_not_know_of_each_other(gains: tuple[float, float]) -> None:
    """A gain above 1 has the points 0 and ±h, one below 1 has 0 alone; a unit's λ is gain · (1 − h²)."""
    points = fixed_points(cell_of(np.diag(gains)))
    each = [(0.0, bisected(g), -bisected(g)) if g > 1 else (0.0,) for g in gains]
    wanted = np.array(list(product(*each)))
    wanted = wanted[np.lexsort(np.round(wanted, 6).T)]
    assert_close(states_of(points), wanted, 1e-12)
    for point in points:
        values = np.array(gains) * (1 - point.state["h"] ** 2)
        assert_close(point.eigenvalues, np.sort(values)[::-1].astype(complex), 1e-12)
        assert point.unstable_modes == (values > 1).sum()
        assert point.stable == (values < 1).all()
        assert_close(point.time_constants, -1 / np.log(np.sort(values)[::-1]), 1e-9)
    assert sum(point.starts for point in points) == points.starts == 64


def test_two_coupled_units() -> None:
    """W = [[a, b], [b, a]] has points on h_1 = h_2 and h_1 = −h_2, at the roots of the gains a ± b."""
    points = fixed_points(cell_of([[1.6, 0.5], [0.5, 1.6]]), count=200)
    found = states_of(points)
    for direction, gain in (((1, 1), 2.1), ((1, -1), 1.1)):
        for sign in (1, -1):
            h = sign * bisected(gain) * np.array(direction)
            assert np.abs(found - h).max(axis=1).min() < 1e-12
            at = points[int(points.nearest(h).point)]
            slope = 1 - bisected(gain) ** 2
            assert_close(at.eigenvalues, np.array([2.1, 1.1], complex) * slope, 1e-12)


@pytest.mark.parametrize("past", [1e-1, 1e-4, 1e-8])
def test_past_a_fold_there_is_a_slow_point(past: float) -> None:
    """h' = tanh(2 h + b): where the slope is 1, q has a minimum, and at b it is above 0."""
    slope_1 = math.sqrt(0.5)
    b = math.atanh(slope_1) - 2 * slope_1 - past
    points = fixed_points(cell_of(np.diag([2, 0.5]), (b, 0)))
    fixed, slow = points
    assert (fixed.is_fixed, slow.is_fixed) == (True, False)
    h = (math.atanh(slope_1) - b) / 2
    assert_close(slow.state["h"], np.array([h, 0]), 1e-9)
    assert_close(np.array(slow.speed), np.array((slope_1 - h) ** 2 / 2), 1e-6)
    assert_close(slow.eigenvalues, np.array([1, 0.5], complex), 1e-9)
    assert not slow.stable
    assert fixed.stable
    assert sum(point.starts for point in points) == 64
    before = cell_of(np.diag([2, 0.5]), (b + 2 * past, 0))
    assert all(point.is_fixed for point in fixed_points(before, merge=1e-6))
    assert len(fixed_points(before, merge=1e-6)) == 3


def test_at_the_bifurcation_itself() -> None:
    """h = tanh(h) has one root, three times over, to which every search comes slowly."""
    (point,) = fixed_points(cell_of(np.diag([1, 0.5])), merge=1e-3)
    assert point.is_fixed
    assert point.starts == 64
    assert np.abs(point.state["h"]).max() < 2e-4


def test_a_rotation_is_neither_stable_nor_unstable() -> None:
    cosine, sine = 0.6, 0.8
    (point,) = fixed_points(cell_of([[cosine, -sine], [sine, cosine]], nonlinearity="identity"))
    assert_close(np.sort_complex(point.eigenvalues), np.array([0.6 - 0.8j, 0.6 + 0.8j]), 1e-14)
    assert not point.stable
    assert point.unstable_modes == 0
    assert np.abs(point.state["h"]).max() < 1e-14


def test_where_everything_stays_every_start_is_a_point() -> None:
    cell = cell_of(np.eye(2), nonlinearity="identity")
    starts = np.random.default_rng(0).normal(size=(2, 5, 2))
    points = fixed_points(cell, starts=starts)
    assert_close(states_of(points), states_of(points)[:10], 0.0)
    assert len(points) == 10
    assert all(point.distance == 0 for point in points)
    drifting = fixed_points(cell_of(np.eye(2), (0.3, 0.4), "identity"))
    assert not any(point.is_fixed for point in drifting)
    assert_close(np.array([p.speed for p in drifting]), np.full(64, 0.125), 1e-12)


class Away(tg.nn.RecurrentCell):
    """h' = h + exp(−h): each step is smaller than the one before, but they never end."""

    gates, state = 1, ("h",)

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        return (state[0] + xp.exp(-state[0]) + 0 * (x + h),)


def test_a_search_that_runs_away_is_reported() -> None:
    points = fixed_points(Away(1, 1, rng=0), max_steps=10)
    assert len(points) == 0
    assert points.unsettled["h"].shape == (64, 1)
    assert "64 starts led to none" in repr(points)
    with pytest.raises(ArgumentError, match="no points were found"):
        points.nearest(np.zeros(1))


def test_a_start_at_which_the_step_is_not_finite_leads_to_none() -> None:
    cell = Away(1, 1, rng=0, dtype="float64")
    with tg.detect_anomaly():
        points = fixed_points(cell, starts=[[-1000.0], [-900.0]])
    assert len(points) == 0
    assert_close(points.unsettled["h"], np.array([[-1000.0], [-900.0]]), 0.0)


def test_a_gate_that_is_set_would_not_be_set_here() -> None:
    rnn = tg.nn.RNN(1, 2, rng=0)
    with tg.inspect.intervene("rnn.l0", scale=0.5):
        rnn(tg.ones((1, 1, 1)))
        with pytest.raises(tg.GraphError, match="leave the context"):
            fixed_points(rnn)


# --- cells --------------------------------------------------------------------------------------------


class Centred(tg.nn.RecurrentLayer):
    """Units that depend on each other also within a step."""

    gates, state = 1, ("h",)

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        z = x + h
        return (xp.tanh(z - z.mean(axis=-1, keepdims=True) + 0.3),)


LAYERS = [tg.nn.RNN, tg.nn.LSTM, tg.nn.GRU, Centred]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("both", [False, True])
def test_layers(kind: Any, both: bool) -> None:
    """At every point a step of the layer stays there, and has the Jacobian that its complex step has."""
    layer = kind(2, 4, num_layers=2, bidirectional=both, rng=0, dtype="float64")
    for p in layer.parameters():
        p.assign(1.7 * host(p))
    levels = (("l0_reverse", 2), ("l1", 8)) if both else ((0, 2), ("l1", 4))
    for level, size in levels:
        x = np.linspace(-1, 1, size)
        points = fixed_points(layer, x, level=level)
        place = "l0" if level == 0 else level
        alone = kind(size, 4, rng=0, dtype="float64")
        for name in [name for name, _ in alone.named_parameters()]:
            getattr(alone, name).assign(host(getattr(layer, name.replace("l0", place))))
        assert any(point.is_fixed for point in points)
        for point in points:
            parts = [part[None, None] for part in point.state.values()]

            def step(*state: Any, alone: Any = alone, x: Array = x) -> Any:
                given = state[0] if len(state) == 1 else state
                _, after = alone(const(x)[None, None], given)
                after = after if isinstance(after, tuple) else (after,)
                return tg.concat([part[0, 0] for part in after])

            s = np.concatenate([*point.state.values()])
            moved = host(step(*map(const, parts))) - s
            assert_close(np.array((moved**2).sum() / 2), np.array(point.speed), 1e-6, floor=1e-22)
            assert point.is_fixed == (np.linalg.norm(moved) < 1e-12 * max(1, np.linalg.norm(s)))
            if device() == "cpu":
                by_part = complex_jacobians(step, parts)
                J = np.concatenate([d.reshape(len(s), -1) for d in by_part.values()], axis=1)
                assert_close(point.jacobian, J, 1e-12)


def test_the_jacobian_is_that_of_a_run() -> None:
    lstm = tg.nn.LSTM(1, 5, rng=3, dtype="float64")
    points = fixed_points(lstm, [0.5])
    point = points[0]
    state = tuple(const(part[None, None]) for part in point.state.values())
    output, _ = lstm(const(np.full((3, 1, 1), 0.5)), state)
    found = tg.inspect.step_jacobians(output[-1].sum())
    assert found.names == ("h", "c") == points.names == tuple(point.state)
    assert_close(found.matrices[1], point.jacobian, 1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_cell_is_left_as_it_is(dtype: str) -> None:
    """The search runs in float64 whatever the cell's dtype and mode, and writes nothing to the cell."""
    lstm = tg.nn.LSTM(1, 4, rng=0, dtype=dtype)
    before = {name: host(p).copy() for name, p in lstm.named_parameters()}
    wide = tg.nn.LSTM(1, 4, rng=0, dtype="float64")
    wide.load_state_dict({name: p.astype("float64") for name, p in lstm.state_dict().items()})
    with tg.no_grad(), tg.detect_anomaly():
        points = fixed_points(lstm.eval(), [1.0])
    for point, other in zip(points, fixed_points(wide, [1.0]), strict=True):
        np.testing.assert_array_equal(point.jacobian, other.jacobian)
        assert point.speed < 1e-24
    for name, p in lstm.named_parameters():
        np.testing.assert_array_equal(host(p), before[name])
        assert p.grad is None
    assert tg.ones(1, requires_grad=True).exp().requires_grad


# --- beside a run ---------------------------------------------------------------------------------------


def test_gains_of_a_run_come_to_the_largest_eigenvalue() -> None:
    """At a stable point, every step multiplies the gradient by |λ|max."""
    rnn = tg.nn.RNN(1, 2, rng=0, dtype="float64", return_states=True)
    rnn.weight_hh_l0.assign(np.array([[1.2, 0.3], [0.2, 0.6]]))
    output, _, states = rnn(const(np.full((200, 3, 1), 0.4)), const(0.1 * np.ones((1, 3, 2))))
    h = tg.inspect.gradient_flow(output[-1].sum())["rnn.l0"].h
    points = fixed_points(rnn, [0.4], starts=states)
    nearest, distance = points.nearest(states.h[0])
    assert nearest.shape == distance.shape == (200, 3)
    assert (distance[100:] < 1e-12).all()
    point = points[nearest[-1, 0]]
    assert point.stable
    gains = -np.diff(h.log_grad_norm)[100:150]
    assert_close(gains, np.full(50, math.log(point.spectral_radius)), 1e-9)


def test_starts_are_those_of_a_run_and_drawn_as_requested() -> None:
    lstm = tg.nn.LSTM(1, 3, rng=0, return_states=True)
    _, _, states = lstm(const(np.ones((30, 4, 1), "float32")))
    some = fixed_points(lstm, starts=states, count=10)
    assert some.starts == 10
    assert fixed_points(lstm, starts=(states.h, states.c), count=500).starts == 120
    again = fixed_points(lstm, starts=[states.h, states.c], count=10)
    assert [p.distance for p in again] == [p.distance for p in some]
    noisy = fixed_points(lstm, starts=states, count=10, noise=1.0, rng=1)
    assert [p.distance for p in noisy] != [p.distance for p in some]
    (point,) = noisy
    assert_close(point.jacobian, some[0].jacobian, 1e-12)


def test_prints_as_a_table() -> None:
    text = repr(fixed_points(cell_of(np.diag([2, 0.5]))))
    header, *rows, last = text.splitlines()
    assert header.split() == ["kind", "speed", "|λ|max", "unstable", "starts", "distance"]
    assert len(rows) == 3
    assert last == "3 points from 64 starts; 0 starts led to none"


# --- what is refused --------------------------------------------------------------------------------------


def test_refused() -> None:
    rnn = tg.nn.RNN(2, 3, rng=0)
    two = tg.nn.LSTM(2, 3, num_layers=2, rng=0)
    nan = tg.nn.RNNCell(2, 3, rng=0)
    nan.weight_hh.assign(np.full((3, 3), np.nan))
    wrong: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
        (ArgumentError, "is not a recurrent cell", tg.nn.Linear(2, 3, rng=0), {}),
        (ArgumentError, "several levels; pass level= one of 'l0', 'l1'", two, {}),
        (ArgumentError, "no level 2; pass level= one of 'l0', 'l1'", two, {"level": 2}),
        (ArgumentError, "no level 'l0_reverse'; pass", two, {"level": "l0_reverse"}),
        (ArgumentError, "without levels", tg.nn.RNNCell(2, 3, rng=0), {"level": 0}),
        (ArgumentError, "RNNCell.weight_hh is not finite", nan, {}),
        (ShapeError, r"x has shape \(3,\).*\(2,\)", rnn, {"x": np.ones(3)}),
        (ShapeError, r"x has shape \(5, 1, 2\)", rnn, {"x": tg.ones((5, 1, 2))}),
        (ArgumentError, "x is not finite", rnn, {"x": [1.0, math.inf]}),
        (DTypeError, "complex", rnn, {"x": np.ones(2, complex)}),
        (DTypeError, "cannot read x", rnn, {"x": "ab"}),
        (ShapeError, r"h of starts has shape \(4, 2\).*\(…, 3\)", rnn, {"starts": np.ones((4, 2))}),
        (ArgumentError, "h of starts is not finite", rnn, {"starts": array(np.full(3, np.nan))}),
        (ArgumentError, "starts hold no state", rnn, {"starts": np.ones((0, 3))}),
        (ArgumentError, r"pass \(h, c\)", two, {"starts": np.ones((4, 3)), "level": 0}),
        (ShapeError, "c of starts", two, {"starts": (np.ones((4, 3)), np.ones(3)), "level": 0}),
        (ArgumentError, "count 0", rnn, {"count": 0}),
        (ArgumentError, "max_steps 1.5", rnn, {"max_steps": 1.5}),
        (ArgumentError, "tolerance -1", rnn, {"tolerance": -1}),
        (ArgumentError, "noise nan", rnn, {"noise": math.nan}),
        (ArgumentError, "merge inf", rnn, {"merge": math.inf}),
        (ArgumentError, "rng", rnn, {"rng": "x"}),
    ]
    for kind, message, cell, options in wrong:
        with pytest.raises(kind, match=message):
            fixed_points(cell, **options)
    with pytest.raises(ShapeError, match="the states"):
        fixed_points(rnn).nearest(np.ones((4, 2)))


# --- minimization -----------------------------------------------------------------------------------


class Parabolas:
    """r = (a + s_1² , s_2 − s_1): ½‖r‖² has a minimum at 0 with r ≠ 0, where a > 0."""

    def residuals(self, s: Array) -> Array:
        return np.stack([1 + s[:, 0] ** 2, s[:, 1] - s[:, 0]], axis=1)

    def jacobians(self, s: Array) -> Array:
        rows = [[2 * s[:, 0], 0 * s[:, 0]], [-1 + 0 * s[:, 0], 1 + 0 * s[:, 0]]]
        return np.moveaxis(np.array(rows), 2, 0)

    def curvatures(self, s: Array, weights: Array) -> Array:
        found = np.zeros((len(s), 2, 2))
        found[:, 0, 0] = 2 * weights[:, 0]
        return found


def test_minima_that_are_not_roots() -> None:
    starts = np.random.default_rng(0).normal(size=(50, 2)) * 10
    ends = minimized(Parabolas(), starts, 1e-12, 100)
    assert ends.is_minimum.all()
    assert not ends.is_root.any()
    assert np.abs(ends.states).max() < 1e-9


class Hill(Parabolas):
    """r = (1 − s_1², s_2): 0 is a saddle of ½‖r‖²."""

    def residuals(self, s: Array) -> Array:
        return np.stack([1 - s[:, 0] ** 2, s[:, 1]], axis=1)

    def jacobians(self, s: Array) -> Array:
        rows = [[-2 * s[:, 0], 0 * s[:, 0]], [0 * s[:, 0], 1 + 0 * s[:, 0]]]
        return np.moveaxis(np.array(rows), 2, 0)

    def curvatures(self, s: Array, weights: Array) -> Array:
        return -super().curvatures(s, weights)


def test_a_saddle_is_not_a_minimum() -> None:
    """Neither the saddle nor a line that leads to it ends at a minimum; elsewhere a search finds a root."""
    ends = minimized(Hill(), np.array([[0.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), 1e-12, 100)
    assert ends.is_minimum.tolist() == [False, False, True]
    assert ends.is_root.tolist() == [False, False, True]
    assert_close(ends.states[2], np.array([1.0, 0.0]), 1e-12)
