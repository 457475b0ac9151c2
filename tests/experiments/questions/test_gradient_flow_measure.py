"""Conclusions from a measurement: slopes, verdicts, training that ends, and the words for it."""

import numpy as np
import pytest

import tinygrad182 as tg
from experiments.questions.gradient_flow import GradientFlowOptions, figures
from experiments.questions.gradient_flow.measure import Study, study
from experiments.questions.gradient_flow.words import headline, sentences
from experiments.regressors.data import RandomSequences
from experiments.regressors.fitting import Training, fit
from experiments.regressors.flow import LayerFlow, loss_of
from experiments.regressors.measurement import Measurement
from experiments.regressors.networks import Network

INF, NAN = np.inf, np.nan


def measured(gradient, target="last", moment="before", nonlinearity="tanh", **more):
    """Measurement of a gradient that is given."""
    gradient = np.asarray(gradient, float)
    flow = LayerFlow(0.5, gradient, np.ones(len(gradient)), **more)
    return Measurement(Network(nonlinearity, 0.5, target), moment, 1, flow, loss=1.0)


def line(first, last, length=30):
    return np.linspace(first, last, length)


def test_slopes_are_counted_backwards_and_fitted_to_the_longest_lags():
    bent = np.concatenate([line(-5.0, -4.1, 10), np.full(20, 3.0)])
    assert measured(bent).flow.measured_slope == pytest.approx(-0.1)
    assert measured([3.0, 2.0, 1.0]).flow.measured_slope == pytest.approx(1.0)
    assert np.isnan(measured([-INF, -INF, 1.0]).flow.measured_slope)
    assert measured([-INF, 2.0, 1.0]).flow.measured_slope == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("gradient", "target", "verdict"),
    [
        (line(-2.1, 0.0), "last", "vanishes"),
        (line(-1.9, 0.0), "last", "is stable"),
        (line(1.9, 0.0), "last", "is stable"),
        (line(2.1, 0.0), "last", "explodes"),
        (line(-2.1, 0.0), "all", "vanishes"),
        (line(2.1, 0.0), "all", "explodes"),
        # T equal gradients added up grow, and then no more.
        (np.log10(np.arange(300, 0, -1)), "all", "is stable"),
        (np.log10(np.arange(300, 0, -1)), "last", "explodes"),
        ([-INF, -3.0, 0.0], "last", "dies"),
        ([NAN, 3.0, 0.0], "last", "overflows"),
        ([INF, 3.0, 0.0], "all", "overflows"),
    ],
)
def test_verdicts(gradient, target, verdict):
    assert measured(gradient, target).verdict == verdict


def test_the_headline_names_the_extremes_before_training():
    found = [measured(line(-9, 0)), measured(line(5, 0), nonlinearity="relu")]
    found.append(measured(line(-50, 0), moment="after"))
    said = headline(found)
    assert "from step 29 back to step 0" in said
    assert "shrinks to 1.0e-09 of its size (tanh, spectral radius 0.5)" in said
    assert "grows 1.0e+05-fold (ReLU, spectral radius 0.5)" in said


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        (
            (-9, -7),
            "shrinks to between 1.0e-09 (tanh, spectral radius 0.5) and 1.0e-07 "
            "(ReLU, spectral radius 0.5) of its size.",
        ),
        (
            (5, 7),
            "grows between 1.0e+05-fold (tanh, spectral radius 0.5) and 1.0e+07-fold "
            "(ReLU, spectral radius 0.5).",
        ),
        ((0, 0.001), "is stable in every network."),
    ],
)
def test_the_headline_says_once_what_all_networks_share(ends, words):
    first, second = ends
    found = [measured(line(first, 0)), measured(line(second, 0), nonlinearity="relu")]
    assert headline(found).endswith(f"the gradient {words}")


@pytest.mark.parametrize(
    ("gradient", "words"),
    [([0.0, 0.0], "is stable"), ([-INF, 0.0], "dies"), ([NAN, 0.0], "overflows")],
)
def test_the_headline_of_one_network(gradient, words):
    assert f"the gradient {words} (tanh, spectral radius 0.5)" in headline([measured(gradient)])


def test_sentences_say_what_training_changed_and_what_went_wrong():
    before = measured([-INF, -INF, 0.0], closed_form_error=np.array([NAN, NAN, 0.0]))
    after = measured([0.0, NAN, 0.0], moment="after")
    training = Training((1.0, 2.0), "the loss overflowed at training step 2")
    said = "\n".join(sentences([Study(before.network, (before, after), training)]))
    assert "Training changed 1 of 1 verdicts" in said
    assert "Dies → overflows in tanh, spectral radius 0.5" in said
    assert "exactly zero: tanh, spectral radius 0.5, loss at the last step, before training" in said
    assert "(2 of the steps 0 to 1)" in said
    assert "not a finite number: " in said
    assert "(step 1)" in said
    assert "Training ended early" in said
    assert "At 2 steps" in said


def test_the_target_is_compared_on_the_same_network():
    last, every = measured(line(-9, 0)), measured(line(1, 0), target="all")
    studies = [Study(m.network, (m,), Training(())) for m in (last, every)]
    (said,) = sentences(studies)
    assert "with a loss at every step the gradient grows 10-fold" in said
    assert "last one alone it shrinks to 1.0e-09" in said
    stable = [Study(m.network, (m,), Training(())) for m in (measured(line(0, 0)), every)]
    assert sentences(stable) == ()


@pytest.mark.parametrize("kind", ["orthogonal", "gaussian"])
def test_networks_differ_in_the_scale_of_w_h_alone(kind):
    small, large = (
        Network("tanh", radius, "last", 6, 2, initial_weights=kind).build(1, seed=3)
        for radius in (0.5, 2.0)
    )
    for name, value in small.state_dict().items():
        factor = 4.0 if "weight_hh" in name else 1.0
        np.testing.assert_allclose(large.state_dict()[name].numpy(), factor * value.numpy())
    assert tg.nn.init.spectral_radius(small.rnn.weight_hh_l1) == pytest.approx(0.5)


def test_training_lowers_the_loss_and_measures_the_same_batch():
    network = Network("tanh", 1.0, "all", hidden_size=8)
    source = RandomSequences(batch=8, length=6)
    advanced = []
    found = study(
        network, source, seed=0, steps=40, learning_rate=0.02, advance=lambda: advanced.append(1)
    )
    before, after = found.measurements
    assert after.loss < before.loss / 2
    assert len(advanced) == len(found.training.losses) == 40
    untrained = study(network, source, seed=0, steps=0, learning_rate=0.02, advance=lambda: None)
    assert [m.moment for m in untrained.measurements] == ["before"]
    assert untrained.measurements[0].loss == before.loss
    np.testing.assert_array_equal(untrained.measurements[0].flow.gradient, before.flow.gradient)


def test_each_update_uses_the_gradient_of_its_own_batch_alone():
    model = Network("tanh", 1.0, "all", hidden_size=4).build(1, seed=0)
    source = RandomSequences(batch=3, length=5)
    options = {"target": "all", "learning_rate": 1e-300, "advance": lambda: None}
    fit(model, source, np.random.default_rng(0), steps=3, **options)
    gradient = model.rnn.weight_hh_l0.grad.numpy().copy()
    rng = np.random.default_rng(0)
    for _ in range(3):
        batch = source.draw(rng)
    for parameter in model.parameters():
        parameter.grad = None
    loss_of(model, batch, "all")[0].backward()
    tg.optim.clip_grad_norm_(list(model.parameters()), 1.0)
    np.testing.assert_allclose(gradient, model.rnn.weight_hh_l0.grad.numpy(), rtol=1e-12)


def test_training_stops_before_a_number_that_is_not_finite_reaches_the_parameters():
    model = Network("identity", 1e40, "last", hidden_size=4).build(1, seed=0)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    with np.errstate(all="ignore"):
        training = fit(
            model,
            RandomSequences(batch=2, length=20),
            np.random.default_rng(0),
            target="last",
            steps=10,
            learning_rate=0.1,
            advance=lambda: None,
        )
    assert training.stopped == "the loss overflowed at training step 0"
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_the_last_target_is_the_last_step_alone():
    model = Network("tanh", 1.0, "last", hidden_size=4).build(1, seed=0)
    batch = RandomSequences(3, 5).draw(np.random.default_rng(0))
    last, predictions = loss_of(model, batch, "last")
    every, _ = loss_of(model, batch, "all")
    squares = (predictions.numpy() - batch[1]) ** 2
    assert last.item() == pytest.approx(squares[-1].mean())
    assert every.item() == pytest.approx(squares.mean())


def test_slopes_are_drawn_where_they_apply():
    """Slopes belong to a loss at the last step and a single W_h."""
    chart = figures.gradient_chart([measured(line(-9, 0), target="all")], "t", "s").to_dict()
    assert len(chart["spec"]["layer"]) == 1
    assert "λ" not in str(chart)
    both = [measured(line(-9, 0)), measured(line(-9, 0), target="all")]
    chart = figures.gradient_chart(both, "t", "s").to_dict()
    assert len(chart["spec"]["layer"]) == 2
    drawn = {row["row"] for row in chart["data"]["values"] if row["what"] == figures.SLOPE}
    assert drawn == {"loss at the last step"}


def test_the_states_of_an_lstm_are_distinguished():
    h, c = (
        measured(line(n, 0), nonlinearity="lstm", name=name) for n, name in ((-9, "h"), (9, "c"))
    )
    after = [measured(line(0, 0), moment="after", nonlinearity="lstm", name=n) for n in "hc"]
    studies = [Study(h.network, (h, c, *after), Training(()))]
    (said,) = [each for each in sentences(studies) if "changed" in each]
    assert "Training changed 2 of 2" in said
    assert "Vanishes → is stable in LSTM, h, spectral radius 0.5, loss at the last step" in said
    assert "Explodes → is stable in LSTM, c, spectral radius 0.5, loss at the last step" in said
    options = GradientFlowOptions(cell="lstm", steps=0)
    verdicts, *_ = figures.tables(options, [Study(h.network, (h, c), Training(()))])
    assert [row["state"] for row in verdicts.rows] == ["h", "c"]


def test_a_slope_has_the_colour_of_its_curve():
    found = [measured(line(-9, 0)), measured(line(-5, 0), nonlinearity="relu")]
    slope, curve = figures.gradient_chart(found, "t", "s").to_dict()["spec"]["layer"]
    assert slope["encoding"]["color"] == curve["encoding"]["color"]
