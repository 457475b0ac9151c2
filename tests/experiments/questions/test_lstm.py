"""lstm: states and gradients of an LSTM against the gates by hand, and the words for them."""

import itertools
import json

import numpy as np
import pytest

import tinygrad182 as tg
from experiments.app.command_line import main
from experiments.app.errors import OptionError
from experiments.drawing.numbers import to_numpy
from experiments.questions import lstm
from experiments.questions.cell_path.lstm_by_hand import cell_parts, run_gates
from experiments.questions.lstm import figures
from experiments.questions.lstm.measure import Seen, keeps_more
from experiments.regressors.data import batch_of
from experiments.regressors.flow import LayerFlow, loss_of, mse_gradient
from experiments.regressors.networks import regressor
from experiments.regressors.states import StateCurve, state_curves

SMALL = {"length": 12, "hidden_size": 4, "batch": 3, "repeats": 2, "scale": (1.0, 8.0)}


@pytest.fixture(scope="module")
def found():
    """All that a small run measures."""
    opts = lstm.LSTMOptions(**SMALL)
    return [
        lstm.see(opts, cell, bias, scale, seed)
        for cell, bias in (("rnn", 0.0), ("lstm", 0.0), ("lstm", 1.0))
        for scale in (1.0, 8.0)
        for seed in opts.seeds
    ]


def parameters_of(model):
    return {name: to_numpy(value) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_states_and_gradients_of_an_lstm_are_those_of_its_gates(scale):
    model = regressor("lstm", 4, 3, forget_bias=1.0, scale=scale)
    batch = batch_of(3, batch=3, length=12)
    loss, predictions = loss_of(model, batch, "last")
    curves = state_curves(loss)
    parameters = parameters_of(model)
    gates = run_gates(parameters, batch[0])
    local = mse_gradient(to_numpy(predictions), batch[1], "last") @ parameters["head.weight"]
    gradient = sum(cell_parts(gates, parameters["rnn.weight_hh_l0"], local).values())
    norms = np.linalg.norm(gradient.reshape(12, -1), axis=1)
    np.testing.assert_allclose(10 ** curves["c"].flow.gradient, norms, rtol=1e-11)
    for name, values in (("h", gates.h), ("c", gates.c)):
        np.testing.assert_allclose(
            curves[name].largest, np.abs(values).max(axis=(1, 2)), rtol=1e-12
        )


def test_a_scale_multiplies_the_weights_and_a_bias_the_forget_gates_alone():
    plain, other = (
        parameters_of(regressor("lstm", 4, 0, **more))
        for more in ({}, {"scale": 3.0, "forget_bias": 2.0})
    )
    for name, value in plain.items():
        expected = value * (3.0 if name.startswith("rnn.weight") else 1.0)
        if name == "rnn.bias_ih_l0":
            expected = value + np.repeat([0.0, 2.0, 0.0, 0.0], 4)
        np.testing.assert_allclose(other[name], expected, rtol=1e-14)


def test_slopes_and_rises_of_known_curves():
    gradient = -0.25 * np.arange(30)[::-1]
    curve = StateCurve(LayerFlow(np.nan, gradient, gradient), gradient)
    assert curve.slope == pytest.approx(-0.25)
    assert curve.rise == 0.0
    gradient[7] = 5.0
    assert curve.rise == 5.0


def test_the_claims_hold_or_not_as_the_numbers_say(found):
    claims = lstm.claims(found)
    assert [claim.relation for claim in claims].count("at least") == 2
    largest = max(
        (s.states["h"].largest / np.tanh(s.states["c"].largest)).max()
        for s in found
        if (s.cell, s.scale) == ("lstm", 1.0)
    )
    assert claims[0].measured == largest < 1
    growth = {
        (s.cell, s.seed): [c.flow.gradient[0] - c.flow.gradient[-1] for c in s.states.values()]
        for s in found
        if s.scale == 1.0 and (s.cell == "rnn" or s.forget_bias == 1.0)
    }
    assert claims[3].measured == max(max(growth["lstm", seed]) for seed in (0, 1))
    ahead = min(min(growth["lstm", seed]) - growth["rnn", seed][0] for seed in (0, 1))
    assert claims[4].measured == pytest.approx(ahead)
    for claim, threshold in ((claims[3], -2.0), (claims[4], 2.0)):
        assert claim.threshold == threshold  # a factor of 100


def test_an_explosion_and_a_state_out_of_bounds_fail_their_claims(found):
    states = found[-1].states
    for seen in found:
        if (seen.cell, seen.forget_bias, seen.scale) == ("lstm", 1.0, 1.0):
            states = seen.states
    before = states["c"].flow.gradient[3], states["h"].largest[2]
    states["c"].flow.gradient[3] += 40.0
    states["h"].largest[2] = 1.5
    try:
        claims = lstm.claims(found)
    finally:
        states["c"].flow.gradient[3], states["h"].largest[2] = before
    assert not claims[5].holds
    assert not claims[0].holds


def seen_with(cell, growth, seed, scale=1.0):
    """A network whose gradients grow by so many decades from T to 1."""
    states = {}
    for name in ("h", "c") if cell == "lstm" else ("h",):
        gradient = np.linspace(growth, 0.0, 11)
        states[name] = StateCurve(LayerFlow(np.nan, gradient, gradient), np.ones(11))
    return Seen(cell, 1.0 if cell == "lstm" else 0.0, scale, seed, states)


def pairs(scale, *growths):
    """An RNN and an LSTM for each seed."""
    return [
        seen_with(cell, growth, seed, scale)
        for seed, both in enumerate(growths)
        for cell, growth in zip(("rnn", "lstm"), both, strict=True)
    ]


@pytest.mark.parametrize(
    ("growths", "counts", "words"),
    [
        ([(-6, -2), (-5, -1)], (2, 2), "for 2 of 2 seeds"),
        ([(-6, -2), (-5, -4)], (2, 1), "for 1 of 2 seeds"),
        ([(-6, -5), (-5, -6)], (2, 0), "for 0 of 2 seeds"),
        ([(-6, -1), (3, 9)], (1, 1), "for 1 of the 1 seed whose RNN vanishes"),
        ([(-1, 4), (3, 9)], (0, 0), "for no seed (no RNN vanishes)"),
    ],
)
def test_headline_and_sentences_count_the_seeds(growths, counts, words):
    found = [*pairs(1.0, (-6, -1), (-6, -1)), *pairs(3.0, *growths)]
    assert keeps_more(found, 3.0) == counts
    said = lstm.words.headline(found)
    assert "the LSTM's gradient loses 0.1 decades a step: each step keeps 79%" in said
    assert "the RNN's loses 0.6 decades a step: each step keeps 25%, means of 2 seeds" in said
    assert (
        "Over 10 steps back the LSTM keeps at least 100 times as much as the RNN for 2 of 2" in said
    )
    assert (f"with weights 3 times as large {words}." in said) == (counts[1] < 2)
    assert f"{words} with weights × " in lstm.words.sentences(found)[0]
    assert ("an RNN from exploding" in " ".join(lstm.words.sentences(found))) == any(
        g[0] > 2 for g in growths
    )


def test_the_sentences_of_a_run_are_about_its_scales(found):
    said = lstm.words.sentences(found)
    assert [text[:18] for text in said[:2]] == ["With forget bias 0", "With forget bias 1"]
    for bias, text in enumerate(said[:2]):
        first = min(lstm.ahead(found, 1.0, float(bias)))
        assert f"With weights × 1 it is ahead by {first:+.1f} to" in text


def test_curves_are_those_of_the_first_seed(found):
    shown = list(itertools.product((0.0, 1.0), SMALL["scale"]))
    lines = figures.lines_of(found, shown, lambda state: state.flow.gradient)
    assert (
        sum(len(line.values) for line in lines) == 2 * 2 * 3 * 12
    )  # biases, scales, states, steps
    line = next(e for e in lines if e.what == "LSTM, c" and e.row == "forget bias 1")
    seen = lstm.pick(found, "lstm", 1.0)[0]
    assert seen.seed == 0
    assert line.values[0] == seen.states["c"].flow.gradient[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": ()}, "--scale needs at least one value"),
        ({"scale": (0.0,)}, "--scale must be a finite number above 0"),
        ({"forget_bias": ()}, "--forget-bias needs at least one value"),
        ({"forget_bias": (np.inf,)}, "--forget-bias must be a finite number"),
        ({"length": 2}, "--length must be 3 or more"),
        ({"repeats": 0}, "--repeats must be 1 or more"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        lstm.LSTMOptions(**options)


def test_gradients_of_1e_60_are_measured():
    opts = lstm.LSTMOptions(length=200, hidden_size=4, batch=2)
    seen = lstm.see(opts, "rnn", 0.0, 0.5, seed=0)
    assert seen.states["h"].flow.gradient[0] < -60
    assert np.isfinite(seen.states["h"].flow.gradient).all()


def test_a_small_run_records_every_scale(tmp_path):
    sizes = ["--length", "5", "--hidden-size", "3", "--batch", "2", "--repeats", "1"]
    assert main(["lstm", "--out", str(tmp_path / "out"), *sizes, "--scale", "3"]) == 0
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(record["claims"]) == 6
    assert all(f"× {scale:g}" in record["tables"]["slopes"][0] for scale in lstm.SWEEP)


def test_the_gradient_is_the_engine_s_own():
    model = regressor("rnn", 3, 0)
    loss, _ = loss_of(model, batch_of(0, 2, 5), "last")
    grad = to_numpy(tg.inspect.gradient_flow(loss)["rnn.l0"].h.grad)
    expected = np.log10(np.linalg.norm(grad.reshape(5, -1), axis=1))
    np.testing.assert_allclose(state_curves(loss)["h"].flow.gradient, expected, rtol=1e-12)


@pytest.mark.parametrize(("first", "turn"), [((-6, -1), "but"), ((-6, -5), "and")])
def test_a_headline_says_but_only_where_something_changes(first, turn):
    found = [*pairs(1.0, first, first), *pairs(3.0, (-6, -5), (-6, -5))]
    assert f", {turn} with weights 3 times as large for 0 of 2 seeds." in lstm.words.headline(found)
