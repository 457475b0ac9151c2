"""Predictions from the spectrum against brute force, and the claims on planted faults."""

import math

import numpy as np
import pytest

import tinygrad182 as tg
from experiments.app.errors import OptionError
from experiments.questions.linear_rnn import EXPERIMENT, LinearRnnOptions
from experiments.questions.linear_rnn import measure as measured
from experiments.questions.linear_rnn.measure import linear_flow
from experiments.questions.linear_rnn.spectrum import (
    eigenvalues,
    exponent_bound,
    power_norms,
    slope_bound,
    special,
)
from experiments.regressors import flow
from experiments.regressors.networks import Network
from experiments.regressors.untrained import probe
from tests.experiments import by_hand

SMALL = {"length": 60, "hidden_size": 8, "batch": 2}


def gaussian(seed, size=8):
    weight = np.random.default_rng(seed).normal(size=(size, size))
    return weight / np.abs(np.linalg.eigvals(weight)).max()


def test_power_norms_are_those_of_the_powers():
    weight = 0.9 * gaussian(0)
    expected = [np.linalg.norm(np.linalg.matrix_power(weight, k), 2) for k in range(20)]
    np.testing.assert_allclose(power_norms(weight, 19), np.log10(expected), rtol=1e-11, atol=1e-12)


def test_power_norms_reach_beyond_floating_point():
    turn = np.linalg.qr(gaussian(1))[0]
    for radius in (1e-5, 1e5):
        expected = np.arange(301) * math.log10(radius)
        np.testing.assert_allclose(power_norms(radius * turn, 300), expected, rtol=1e-12)
    nilpotent = np.eye(3, k=1)
    np.testing.assert_array_equal(power_norms(nilpotent, 4), [0, 0, 0, -np.inf, -np.inf])


def test_no_slope_is_further_off_than_its_bound_and_the_bound_means_something():
    lags = np.arange(40, 60)
    finite = []
    for seed in range(60):
        weight, start = gaussian(seed), np.random.default_rng((seed, 1)).normal(size=8)
        row, logs = start.copy(), []
        for lag in range(60):
            if lag >= 40:
                logs.append(np.log10(np.linalg.norm(row)))
            row = row @ weight
        error = abs(np.polyfit(lags, logs, 1)[0])
        bound = slope_bound(weight, start, lags)
        assert error <= bound + 1e-12
        if math.isfinite(bound):
            finite.append(bound)
    assert len(finite) > 30
    assert np.median(finite) < 0.02


def test_there_is_no_slope_bound_where_no_eigenvalue_rules():
    lags = np.arange(40, 60)
    assert slope_bound(np.eye(4), np.ones(4), lags) == math.inf
    assert slope_bound(np.diag([1.0, 0.9999]), np.array([1.0, 100.0]), lags) == math.inf
    assert slope_bound(np.diag([1.0, 0.5]), np.ones(2), lags) < 1e-10


def test_the_largest_exponent_stays_within_its_bound():
    for seed in range(30):
        weight = gaussian(seed)
        bound, column = exponent_bound(weight), np.eye(8)[:, 0]
        logs = []
        for _ in range(50):
            column = weight.T @ column
            logs.append(np.log(np.linalg.norm(column)))
        assert np.abs(logs).max() <= bound + 1e-9
    assert exponent_bound(special("chain", 8, 0.7)) == math.inf


@pytest.mark.parametrize("kind", ["chain", "defective", "stretched rotation"])
@pytest.mark.parametrize("size", [8, 11])
def test_special_matrices_have_the_eigenvalues_they_are_made_for(kind, size):
    magnitudes = np.abs(eigenvalues(special(kind, size, 0.7)))
    np.testing.assert_allclose(magnitudes, 0.7, rtol=1e-12)


@pytest.mark.parametrize("kind", ["orthogonal", "gaussian", "chain", "stretched rotation"])
def test_the_gradient_by_lag_is_the_row_times_the_powers(kind):
    opts = LinearRnnOptions(**SMALL)
    found = linear_flow(opts, kind, 0.8, seed=3)
    model = by_hand_model(opts, kind)
    row, logs = model["head.weight"][0], []
    for _ in range(60):
        logs.append(np.log10(np.linalg.norm(row)))
        row = row @ model["rnn.weight_hh_l0"]
    np.testing.assert_allclose(found.by_lag, np.array(logs) - logs[0], rtol=1e-11, atol=1e-12)
    assert found.exponents.shape == (60, 8)


def by_hand_model(opts, kind):
    own = kind if kind in {"orthogonal", "gaussian"} else "orthogonal"
    network = Network("identity", 0.8, "last", opts.hidden_size, initial_weights=own)
    weight = None if own == kind else special(kind, opts.hidden_size, 0.8)
    return by_hand.parameters(probe(network, opts, 3, weight=weight))


@pytest.fixture(scope="module")
def result():
    return by_hand.run(EXPERIMENT, **SMALL)


def test_all_claims_hold_and_everything_is_drawn(result):
    assert [claim.holds for claim in result.claims] == [True] * len(result.claims)
    assert len(result.claims) == 7
    assert set(by_hand.draw(result)) == {"gradient_by_lag", "breaking", "exponents"}
    rows = {table.name: table.rows for table in result.tables}
    assert len(rows["networks"]) == 3 * 2 * 2 + 3
    assert len(rows["lags"]) == 15 * 60
    assert len(rows["exponents"]) == 15 * 8


def test_radii_decide_in_the_long_run_and_the_chain_grows_first(result):
    rows = {(r["weights"], r["radius"], r["seed"]): r for r in result.tables[0].rows}
    for seed in (0, 1):
        assert rows["orthogonal", 0.8, seed]["gradient_first_log10"] == pytest.approx(
            59 * math.log10(0.8), abs=1e-9
        )
        assert rows["orthogonal", 1.25, seed]["gradient_first_log10"] == pytest.approx(
            59 * math.log10(1.25), abs=1e-9
        )
    assert rows["chain", 0.7, 0]["peak_log10"] > 0.3
    assert rows["chain", 0.7, 0]["peak_lag"] > 3
    assert "at most" in result.headline


def plant(monkeypatch, fault):
    """Make one measurement wrong."""
    if fault == "closed form of the transposed matrix":
        right = flow.linear_flow

        def transposed(state, *rest):
            return right(state | {"rnn.weight_hh_l0": state["rnn.weight_hh_l0"].T}, *rest)

        monkeypatch.setattr(flow, "linear_flow", transposed)
    if fault == "one step's norm":
        norm = measured.measure_flow

        def raised(*arguments):
            ((layer,), loss) = norm(*arguments)
            layer.gradient[20] += 1e-9  # the slope is fitted to the steps before
            return [layer], loss

        monkeypatch.setattr(measured, "measure_flow", raised)
    if fault == "exponents":
        growth = tg.inspect.StepJacobians.log_growth.fget
        wrong = property(lambda self: growth(self) * (1 + 1e-6))
        monkeypatch.setattr(tg.inspect.StepJacobians, "log_growth", wrong)
    if fault == "slope":
        slope = flow.LayerFlow.measured_slope.fget
        wrong = property(lambda self: slope(self) + 1e-6)
        monkeypatch.setattr(flow.LayerFlow, "measured_slope", wrong)


@pytest.mark.parametrize(
    ("fault", "claim"),
    [
        ("closed form of the transposed matrix", 0),
        ("slope", 1),
        ("one step's norm", 3),
        ("exponents", 5),
    ],
)
def test_a_wrong_measurement_makes_its_claim_fail(monkeypatch, fault, claim):
    plant(monkeypatch, fault)
    result = by_hand.run(EXPERIMENT, repeats=1, spectral_radius=(0.8,), **SMALL)
    assert [i for i, each in enumerate(result.claims) if not each.holds] == [claim]


def test_far_lags_are_right_beyond_what_floats_hold():
    opts = LinearRnnOptions(length=200, hidden_size=8, batch=2)
    found = linear_flow(opts, "orthogonal", 0.01, seed=0)
    assert found.by_lag[-1] == pytest.approx(-2 * 199, rel=1e-12)
    assert found.powers[-1] == pytest.approx(-2 * 199, rel=1e-12)
    assert np.nanmax(found.flow.closed_form_error) < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spectral_radius": ()}, "--spectral-radius needs at least one"),
        ({"spectral_radius": (1.0, -1.0)}, "--spectral-radius must be a finite number above 0"),
        ({"initial_weights": ()}, "--initial-weights needs at least one"),
        ({"hidden_size": 7}, "--hidden-size must be 8 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        LinearRnnOptions(**options)
