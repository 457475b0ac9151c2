"""penalty: the term against its definition, training with and without it, and which networks learned."""

import json
import re

import numpy as np
import pytest

import tinygrad182 as tg
from experiments.app.command_line import main
from experiments.app.errors import OptionError
from experiments.questions import penalty
from experiments.questions.penalty.measure import FirstNumber, Learned, Way, learn, penalty_of
from experiments.regressors.fitting import Training
from experiments.regressors.flow import loss_of
from experiments.regressors.networks import Network

SOURCE = FirstNumber(batch=3, length=6, noise=0.1)
SIZES = {"batch": 3, "length": 6, "hidden_size": 4, "steps": 5}
OPTS = penalty.PenaltyOptions(**SIZES)


def test_the_label_is_the_first_number_which_has_variance_1_and_nothing_else_tells():
    x, labels = FirstNumber(20_000, 4, 0.1).draw(np.random.default_rng(0))
    np.testing.assert_array_equal(labels, np.broadcast_to(x[:1], x.shape))
    assert x[0].mean() == pytest.approx(0.0, abs=0.05)
    assert x[0].var() == pytest.approx(1.0, abs=0.05)
    assert np.abs(x[0]).max() <= np.sqrt(3)
    np.testing.assert_allclose(x[1:].std(axis=(1, 2)), 0.1, rtol=0.05)
    assert np.abs(np.corrcoef(x[:, :, 0]) - np.eye(4)).max() < 0.05


def test_the_penalty_is_the_mean_square_of_the_steps_of_the_logarithm():
    model = Network("tanh", 0.5, "last", 4).build(1, 0)
    loss, _ = loss_of(model, SOURCE.draw(np.random.default_rng(0)), "last")
    logs = tg.inspect.gradient_flow(loss)["rnn.l0"].h.log_grad_norm
    assert penalty_of(loss, 0.25).item() == pytest.approx(0.25 * np.mean(np.diff(logs) ** 2))
    W = model.rnn.weight_hh_l0
    penalty_of(loss, 1.0).backward()
    assert W.grad is not None

    def moved(step):
        W.assign(W.numpy() + step * np.eye(4))
        value = penalty_of(loss_of(model, SOURCE.draw(np.random.default_rng(0)), "last")[0], 1.0)
        W.assign(W.numpy() - step * np.eye(4))
        return value.item()

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    assert np.trace(W.grad.numpy()) == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize("way", [Way(), Way(0.1), Way(larger=3.0)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_same_seed_gives_the_same_bits(way, optimizer):
    opts = penalty.PenaltyOptions(**SIZES, optimizer=optimizer)
    advanced = []
    one, other = (learn(opts, way, 1, lambda: advanced.append(1)) for _ in range(2))
    assert len(advanced) == 2 * len(one.training.losses) == 10
    assert one.training == other.training
    assert one.loss == other.loss
    np.testing.assert_array_equal(one.after, other.after)
    assert (one.after != one.before).all()


def test_all_ways_begin_alike_and_go_different_ways():
    ways = (Way(), Way(0.1), Way(larger=3.0))
    found = [learn(OPTS, way, 0) for way in ways]
    assert len({learned.training.losses[0] for learned in found}) == 1
    assert len({learned.training.losses[-1] for learned in found}) == 3
    for learned in found[1:]:
        np.testing.assert_array_equal(learned.before, found[0].before)


def test_a_gradient_that_vanishes_does_so_less_with_the_penalty():
    opts = penalty.PenaltyOptions(batch=4, length=12, hidden_size=6, steps=40)
    ways = [learn(opts, Way(w), 0) for w in (0.0, 0.1)]
    kept = [penalty.decades(learned.after) for learned in ways]
    assert kept[0] < -2.5
    assert kept[1] > kept[0] + 1.0


def learned_with(way, loss, seed=0, after=0.0):
    before, end = np.array([-15.0, 0.0]), np.array([after, 0.0])
    return Learned(seed, way, Training((1.0, loss)), before, end, loss)


def of_all(opts, plain, helped, larger, after=0.0):
    """Networks of two seeds with given losses, in the three ways."""
    found = []
    for way, losses in zip(opts.ways, (plain, helped, larger), strict=True):
        found += [
            learned_with(way, loss, seed, after * bool(way.weight))
            for seed, loss in enumerate(losses)
        ]
    return found


@pytest.mark.parametrize(
    ("plain", "helped", "larger", "after", "holds"),
    [
        ((1.0, 0.95), (0.1, 0.5), (3.0, 0.2), 1.9, (True, True, True, True, True)),
        ((1.0, 0.89), (0.1, 0.5), (3.0, 0.6), 0.0, (True, True, False, True, True)),
        ((1.0, 1.0), (0.1, 0.51), (3.0, 0.6), -2.1, (True, False, True, True, False)),
        ((1.0, 1.0), (0.1, 0.1), (0.4, 0.5), 2.1, (True, True, True, False, False)),
        ((0.1, 0.1), (0.1, np.nan), (1.0, 1.0), 0.0, (True, False, False, False, True)),
    ],
)
def test_the_claims_are_decided_by_the_worst_network(plain, helped, larger, after, holds):
    opts = penalty.PenaltyOptions(repeats=2, larger=(3.0,))
    found = of_all(opts, plain, helped, larger, after)
    assert tuple(claim.holds for claim in penalty.claims(opts, found)) == holds


def test_headline_and_sentences_say_who_learned():
    opts = penalty.PenaltyOptions(repeats=2, larger=(3.0,))
    found = of_all(opts, (1.0, 1.1), (0.1, 0.2), (3.0, 0.2), 1.0)
    said = penalty.words.headline(opts, found)
    assert "the loss is 0.1 to 0.2 with the penalty and 1 to 1.1 without it (seeds 0 and 1" in said
    assert "1.0e-15 of the gradient comes back to the first step, after training" in said
    assert "with the penalty 10 of it" in said
    reading = " ".join(penalty.words.sentences(opts, found))
    assert "Without the penalty: 0 of 2 networks learn" in reading
    assert "With the penalty: 2 of 2 networks learn" in reading
    assert "Without, steps × 3: 1 of 2 networks learn" in reading


def test_a_small_run_records_every_network(tmp_path):
    sizes = ["--length", "4", "--hidden-size", "3", "--batch", "2", "--steps", "3"]
    out = tmp_path / "out"
    assert main(["penalty", "--out", str(out), *sizes, "--larger", "3", "--repeats", "2"]) == 0
    record = json.loads((out / "results.json").read_text())
    assert len(record["tables"]["networks"]) == 2 * 3
    assert {"flow.png", "loss.png", "losses.csv"} < set(record["files"])
    assert len((out / "losses.csv").read_text().splitlines()) == 1 + 2 * 3 * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 1}, "--length must be 2 or more"),
        ({"hidden_size": 0}, "--hidden-size must be 1 or more"),
        ({"steps": 0}, "--steps must be 1 or more"),
        ({"weight": 0.0}, "--weight must be a finite number above 0"),
        ({"larger": ()}, "--larger needs at least one value"),
        ({"spectral_radius": -1.0}, "--spectral-radius must be a finite number above 0"),
        ({"noise": 0.0}, "--noise must be a finite number above 0"),
        ({"learning_rate": 0.0}, "--learning-rate must be a finite number above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(OptionError, match=re.escape(words)):
        penalty.PenaltyOptions(**options)
