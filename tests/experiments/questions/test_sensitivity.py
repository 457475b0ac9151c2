"""sensitivity: the unit and the cells against plain NumPy and complex steps, and the fitted powers."""

import dataclasses
import json

import numpy as np
import pytest

import tinygrad182 as tg
from experiments.app.command_line import main
from experiments.app.errors import OptionError
from experiments.questions import sensitivity
from experiments.questions.sensitivity import measure as units
from experiments.questions.sensitivity.lstm_cells import see_cells
from experiments.questions.sensitivity.measure import (
    FORMS,
    coefficients,
    fitted_power,
    see_unit,
    steps_for,
)
from experiments.regressors.networks import gate_of
from tests.experiments.by_hand import draw, run

every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)

WEIGHTS = (
    lambda theta: (theta, 1.0),
    lambda theta: (theta, np.sqrt(1 - theta**2)),
    lambda theta: (np.exp(-np.exp(theta)), np.sqrt(1 - np.exp(-np.exp(theta)) ** 2)),
)
"""λ and s of a θ that may be complex, in the order of the forms."""


def last_state(form, theta, inputs):
    """The linear unit in plain NumPy."""
    decay, scale = WEIGHTS[FORMS.index(form)](theta)
    h = 0.0
    for x in inputs:
        h = decay * h + scale * x
    return h


def white(length, batch=4, seed=0):
    return np.random.default_rng(seed).standard_normal((length, batch))


@every_form
@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_the_closed_form_and_the_measurement_are_complex_steps_of_the_unit(form, decay):
    inputs = white(12)
    theta = form.start(decay)
    exact = last_state(form, theta + 1e-30j, inputs).imag / 1e-30
    np.testing.assert_allclose(coefficients(form, decay, 12) @ inputs[::-1], exact, rtol=1e-12)
    found = see_unit(form, decay, inputs)
    assert found.error < 1e-14
    assert found.sensitivity == pytest.approx(np.sqrt(np.mean(exact**2)), rel=1e-12)
    state = last_state(form, theta, inputs)
    assert found.state == pytest.approx(np.sqrt(np.mean(state**2)), rel=1e-12)
    np.testing.assert_allclose(found.gradient, decay ** np.arange(11.0, -1.0, -1.0), rtol=1e-13)


def test_the_use_at_step_t_contributes_the_gradient_times_the_state_before():
    inputs = white(9)
    found = see_unit(FORMS[0], 0.8, inputs)
    states = [np.zeros(4)]
    for x in inputs:
        states.append(0.8 * states[-1] + x)
    uses = np.array([0.8 ** (8 - t) * states[t] for t in range(9)])[::-1]
    np.testing.assert_array_equal(found.lags, np.arange(9))
    np.testing.assert_allclose(found.uses, np.sqrt(np.mean(uses**2, axis=1)), rtol=1e-12)
    summed = np.cumsum(uses, axis=0)
    np.testing.assert_allclose(found.summed, np.sqrt(np.mean(summed**2, axis=1)), rtol=1e-12)
    assert found.uses[-1] == 0.0  # of h_0, which is zero
    assert found.summed[-1] == pytest.approx(found.sensitivity)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_after_a_long_time_the_deviations_are_those_of_the_formulas(decay):
    formulas = (
        np.sqrt((1 + decay**2) / (1 - decay**2) ** 3),
        1 / (1 - decay**2),
        -decay * np.log(decay) / (1 - decay**2),
    )
    for form, expected in zip(FORMS, formulas, strict=True):
        found = np.linalg.norm(coefficients(form, decay, 5000))
        assert found == pytest.approx(expected, rel=1e-11)
        asymptote = form.factor * (1 / (1 - decay)) ** form.power
        assert found == pytest.approx(asymptote, rel=2 * (1 - decay))


def known(form, decay, factor=1.0):
    """A unit whose sensitivity is ``factor`` times what theory says."""
    expected = float(np.linalg.norm(coefficients(form, decay, 20_000)))
    empty = np.zeros(1)
    return units.Unit(
        form, decay, 1, 1.0, factor * expected, expected, 0.0, np.ones(1), empty, empty, empty
    )


@every_form
def test_the_power_is_within_its_bound_and_another_form_s_is_not(form):
    decays = [0.9, 0.97, 0.99, 0.997]
    power = fitted_power([known(form, decay) for decay in decays], 256)
    assert abs(power.fitted - form.power) < power.bound < 0.2
    # All that sampling may do, at its worst: the ends off to different sides.
    off = np.exp(4 / np.sqrt(512))
    worst = [known(form, d, off if d > 0.98 else 1 / off) for d in decays]
    power = fitted_power(worst, 256)
    assert abs(power.fitted - form.power) < power.bound
    for other in set(FORMS) - {form}:
        wrong = [
            dataclasses.replace(known(form, d), sensitivity=known(other, d).sensitivity)
            for d in decays
        ]
        power = fitted_power(wrong, 256)
        assert abs(power.fitted - form.power) > power.bound


def last_cell(lstm, inputs, bias, w_h):
    """The last cell state by the LSTM's definition; complex-safe."""
    w_x = lstm.weight_ih_l0.numpy()
    h = c = np.zeros((inputs.shape[1], w_h.shape[1]))
    for x in inputs:
        i, f, g, o = np.split(x[:, None] @ w_x.T + h @ w_h.T + bias, 4, axis=-1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
    return c


def test_a_cell_s_dependence_on_its_forget_bias_is_a_complex_step_of_the_lstm():
    inputs = white(7, batch=5)
    lstm = tg.nn.LSTM(1, 3, forget_bias=2.0, rng=4, dtype="float64")
    found = see_cells(2.0, 4, 3, inputs)
    w_h = lstm.weight_hh_l0.numpy()
    for measured, weight in ((found.whole, w_h), (found.alone, 0 * w_h)):
        values = last_cell(lstm, inputs, lstm.bias_ih_l0.numpy(), weight)
        for unit in range(3):
            bias = lstm.bias_ih_l0.numpy().astype(complex)
            bias[3 + unit] += 1e-30j
            slope = last_cell(lstm, inputs, bias, weight)[:, unit].imag / 1e-30
            expected = np.sqrt(np.mean(slope**2) / np.mean(values[:, unit] ** 2))
            assert measured[unit] == pytest.approx(expected, rel=1e-10)
    assert found.memory == pytest.approx(1 + np.exp(2.0))
    assert gate_of(-1e6) == 0.0


def test_constant_gates_depend_on_their_bias_as_the_reason_says():
    f = gate_of(3.0)
    k = np.arange(2000.0)
    weights, slopes = f**k, k * f ** (k - 1) * f * (1 - f)
    white_ratio = np.linalg.norm(slopes) / np.linalg.norm(weights)
    assert white_ratio == pytest.approx(f * np.sqrt(1 + f**2) / (1 + f), rel=1e-12)
    assert slopes.sum() / weights.sum() == pytest.approx(f, rel=1e-12)


FAULTS = {
    "parts off by 1e-9": lambda parts: parts * (1 + 1e-9),
    "the last use is left out": lambda parts: np.concatenate([parts[:-1], 0 * parts[-1:]]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_parts_fail_the_claim(fault, monkeypatch):
    true = units._parts
    monkeypatch.setattr(units, "_parts", lambda loss, weight: FAULTS[fault](true(loss, weight)))
    found = [see_unit(form, decay, white(30)) for decay in (0.5, 0.8) for form in FORMS]
    cells = [see_cells(0.0, 0, 2, white(5))]
    opts = sensitivity.SensitivityOptions(decay=(0.5, 0.8), batch=4)
    claims = sensitivity.claims(opts, found, cells)
    assert [claim.holds for claim in (claims[0], claims[-1])] == [True, False]


def test_steps_for_a_memory():
    assert steps_for(10.0, 10.0) == 100
    assert steps_for(1 / (1 - 0.9), 10.0) == 100  # whose memory is 10.000000000000002
    assert steps_for(1.0, 0.5) == 3


def test_a_run_writes_its_files(tmp_path, draw_only):
    draw_only("uses")
    sizes = ["--decay", "0.5", "0.9", "--forget-bias", "0", "2", "--batch", "200"]
    more = ["--hidden-size", "2", "--repeats", "1"]
    assert main(["sensitivity", "--out", str(tmp_path / "out"), *sizes, *more]) == 0
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert all(claim["holds"] for claim in record["claims"])
    assert len(record["claims"]) == 6
    assert len(record["tables"]["units"]) == 2 * len(FORMS)
    assert (tmp_path / "out" / "uses.png").is_file()
    rows = (tmp_path / "out" / "uses.csv").read_text().splitlines()
    assert len(rows) == 1 + len(FORMS) * (20 + 100)


def test_the_first_figure_is_the_one_to_predict():
    options = {
        "decay": (0.5, 0.8),
        "forget_bias": (0.0,),
        "batch": 2,
        "hidden_size": 1,
        "repeats": 1,
    }
    result = run(sensitivity.EXPERIMENT, **options)
    assert list(draw(result)) == ["growth", "uses", "relative"]
    assert result.headline.startswith("λ is used at every step")
    for form, said in zip(FORMS, result.reading[1:], strict=False):
        assert said.startswith(f"Parameter {form.name}: {form.why}. So $dh")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decay": (0.5, 1.0)}, "--decay must be from 0.001 to below 1, not 1"),
        ({"decay": (0.5, 1e-320)}, "--decay must be from 0.001 to below 1, not 1e-320"),
        ({"decay": (0.5, np.nan)}, "--decay must be from 0.001 to below 1"),
        ({"decay": ()}, "--decay needs at least one value"),
        ({"decay": (0.5, 0.5)}, "--decay needs at least two values with different memories"),
        ({"decay": (0.001, 0.002)}, "--decay needs at least two values with different memories"),
        ({"decay": (0.5, 0.999999)}, "more than 30,000 time steps"),
        ({"forget_bias": (50.0,)}, "more than 30,000 time steps"),
        ({"forget_bias": ()}, "--forget-bias needs at least one value"),
        ({"span": 0.0}, "--span must be a finite number above 0"),
        ({"hidden_size": 0}, "--hidden-size must be 1 or more"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        sensitivity.SensitivityOptions(**options)
