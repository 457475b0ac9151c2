"""training: bounds on losses against least squares, and what is watched against a measurement."""

import json

import numpy as np
import pytest

from experiments.app.command_line import main
from experiments.app.errors import OptionError
from experiments.questions import training
from experiments.questions.training import figures
from experiments.questions.training.measure import Learned, Task, inputs_used, learn, least_loss
from experiments.regressors.data import batch_of, running_average
from experiments.regressors.fitting import Training
from experiments.regressors.flow import loss_of
from experiments.regressors.networks import regressor
from experiments.regressors.states import state_curves

SIZES = {"hidden_size": 4, "batch": 3, "length": 5, "steps": 6, "learning_rate": 0.01}


@pytest.mark.parametrize("target", ["last", "all"])
@pytest.mark.parametrize("inputs", [0, 1, 3, 6])
def test_the_least_loss_is_that_of_the_best_linear_predictor(target, inputs):
    x, labels = running_average(np.random.default_rng(0), 40_000, 6)
    losses = []
    for t in range(6):
        seen = x[max(0, t + 1 - inputs) : t + 1, :, 0].T
        weights = np.linalg.lstsq(seen, labels[t], rcond=None)[0] if seen.size else 0
        losses.append(np.mean((labels[t] - (seen @ weights if seen.size else 0)) ** 2))
    expected = losses[-1] if target == "last" else np.mean(losses)
    # The sample variance of 40,000 numbers is right to 5 standard errors of sqrt(2/40,000).
    assert least_loss(inputs, 6, target) == pytest.approx(expected, rel=0.036, abs=1e-12)


def test_more_inputs_lose_less_and_all_of_them_nothing():
    for target in ("last", "all"):
        losses = [least_loss(m, 10, target) for m in range(11)]
        assert (np.diff(losses) < 0).all()
        assert losses[10] == 0.0
    assert least_loss(0, 10, "all") == pytest.approx(np.mean(1 / np.arange(1, 11)))
    assert least_loss(9, 10, "all") == pytest.approx(1e-3)


@pytest.mark.parametrize(("loss", "used"), [(0.11, 0), (0.1, 0), (0.0999, 1), (0.0099, 10)])
def test_how_many_numbers_a_loss_proves(loss, used):
    assert inputs_used(loss, 10, "last") == used


def learned_with(loss, target="last", reach=(-2.0, 0.0)):
    gradient = np.array([[[r, 0.0]] for r in reach])
    task = Task("rnn", 1, target, 0)
    return Learned(task, Training((1.0, loss)), np.array([0, 2]), gradient, loss, np.zeros((2, 1)))


def test_the_claims_are_decided_by_the_worst_network():
    opts = training.TrainingOptions(length=10)
    good, forgetful = learned_with(0.009), learned_with(0.011)
    assert [claim.holds for claim in training.claims(opts, [good])] == [True] * 3
    assert [claim.holds for claim in training.claims(opts, [good, forgetful])] == [
        True,
        True,
        False,
    ]
    constant, memoryless = learned_with(0.1001), learned_with(0.095)
    assert [c.holds for c in training.claims(opts, [good, constant])] == [False] * 3
    assert [c.holds for c in training.claims(opts, [good, memoryless])] == [True, False, False]
    nowhere = learned_with(np.nan)
    assert [c.holds for c in training.claims(opts, [nowhere])] == [False] * 3


@pytest.mark.parametrize(
    ("loss", "target", "length"),
    [
        (0.0099, "last", 10),
        (0.011, "last", 10),
        (0.1, "all", 10),
        (0.9, "all", 10),
        (0.2, "all", 2),
    ],
)
def test_what_to_change_is_said_where_a_claim_fails_and_only_there(loss, target, length):
    opts = training.TrainingOptions(length=length, steps=7, learning_rate=0.25, target=(target,))
    learned = learned_with(loss, target)
    said = training.words.behind(opts, [learned, learned_with(1e-9)])
    if all(claim.holds for claim in training.claims(opts, [learned])):
        assert said == []
        return
    assert "Not learned yet by 1 of 2 networks (RNN, 1 layer, loss at" in said[0]
    assert "--steps (now 7)" in said[0]
    assert "--learning-rate (now 0.25)" in said[0]
    assert said[0] in training.words.sentences(opts, [learned])[0].replace("1 of 1", "1 of 2")


def test_headline_and_sentences_name_the_network_that_changed():
    opts = training.TrainingOptions(length=10, target=("last",))
    said = training.words.headline(opts, [learned_with(0.009)])
    assert "the loss is 0.009, where the best constant prediction has 0.1 (loss at" in said
    several = training.words.headline(opts, [learned_with(0.009), learned_with(0.12)])
    assert "the loss is 0.009 to 0.12, where the best" in several
    assert "before training (RNN, 1 layer, loss at the last step)" in said
    assert "$‖∂L/∂h_0‖ / ‖∂L/∂h_{T−1}‖$ went from 0.01 to 1. " in said
    stopped = Learned(**{**vars(learned_with(0.5)), "training": Training((1.0,), "it overflowed")})
    assert "Training ended early for RNN, 1 layer" in " ".join(
        training.words.sentences(opts, [stopped])
    )


def test_what_no_loss_proves_is_not_said():
    opts = training.TrainingOptions(length=10, target=("last",))
    losses = {(0.2, 0.2): "no loss proves", (0.2, 0.05): "1 of 2 networks prove that they use at"}
    for (first, second), words in losses.items():
        said = " ".join(training.words.sentences(opts, [learned_with(first), learned_with(second)]))
        assert words in said
        assert "at least 0" not in said


@pytest.mark.parametrize(("cell", "layers"), [("rnn", 1), ("lstm", 2)])
def test_the_flow_is_watched_at_the_moments_said(cell, layers):
    task = Task(cell, layers, "last", 1)
    advanced = []
    found = learn(task, **SIZES, moments=4, advance=lambda: advanced.append(1))
    assert found.moments.tolist() == [0, 2, 4, 6]
    assert found.gradient.shape == (4, layers, 5)
    assert len(advanced) == len(found.training.losses) == 6
    model = regressor(cell, 4, 1, layers=layers)
    loss, _ = loss_of(model, batch_of(1, 3, 5), "last")
    for layer in range(layers):
        untrained = state_curves(loss, layer)["h"].flow.gradient
        np.testing.assert_allclose(found.gradient[0, layer], untrained, rtol=1e-12)
    assert (found.gradient[1] != found.gradient[0]).all()


def test_watching_changes_nothing_about_the_training():
    task = Task("lstm", 1, "all", 0)
    watched, alone = (learn(task, **SIZES, moments=m, advance=lambda: None) for m in (7, 0))
    assert watched.training.losses == alone.training.losses
    assert watched.loss == alone.loss
    assert len(alone.moments) == 0
    np.testing.assert_array_equal(watched.predictions, alone.predictions)


def test_a_trained_network_remembers():
    sizes = {**SIZES, "hidden_size": 12, "batch": 24, "steps": 120}
    found = learn(Task("rnn", 1, "last", 0), **sizes, moments=2, advance=lambda: None)
    assert found.loss < least_loss(4, 5, "last")
    assert inputs_used(found.loss, 5, "last") == 5
    assert found.reach(-1) > found.reach(0)


def test_a_small_run_records_every_network(tmp_path):
    sizes = ["--length", "4", "--hidden-size", "3", "--batch", "2", "--steps", "3"]
    assert main(["training", "--out", str(tmp_path / "out"), *sizes, "--repeats", "2"]) == 0
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(record["tables"]["networks"]) == 2 * 2 * 2 * 2
    flow = (tmp_path / "out" / "flow.csv").read_text().splitlines()
    assert len(flow) == 1 + 2 * 2 * (1 + 2) * 4 * 4  # targets, cells, layers, moments, steps
    assert {f"{name}.png" for name in ("loss", "predictions", "flow", "reach")} < set(
        record["files"]
    )


def test_the_first_figures_are_reach_and_loss_and_colours_have_a_bar():
    found = learn(Task("rnn", 1, "last", 0), **SIZES, moments=3, advance=lambda: None)
    drawn = figures.figures([found], batch=3, length=5, steps=6, size="")
    assert [figure.name for figure in drawn] == ["reach", "loss", "predictions", "flow"]
    encoding = drawn[0].chart.to_dict()["spec"]["layer"][0]["encoding"]
    assert encoding["color"]["legend"]["type"] == "gradient"
    assert "stroke" not in encoding  # with one the bar turns into dots


def test_heatmaps_of_long_sequences_have_fewer_moments():
    assert training.TrainingOptions().watched == 30
    opts = training.TrainingOptions(length=200)
    assert opts.watched * 200 * 12 <= training.MOST_CELLS
    assert training.TrainingOptions(length=5000).watched == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cell": ()}, "--cell needs at least one value"),
        ({"layers": (0,)}, "--layers must be 1 or more"),
        ({"length": 1}, "--length must be 2 or more"),
        ({"hidden_size": 0}, "--hidden-size must be 1 or more"),
        ({"steps": 0}, "--steps must be 1 or more"),
        ({"learning_rate": -1.0}, "--learning-rate must be a finite number above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        training.TrainingOptions(**options)
