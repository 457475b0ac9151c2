"""The (k, t) matrix and the shares against a backward pass by hand; the claims, on planted faults."""

import itertools

import numpy as np
import pytest

import tinygrad182 as tg
from experiments.app.errors import OptionError
from experiments.drawing.tables import power_text
from experiments.questions.target import EXPERIMENT, TargetOptions
from experiments.questions.target import measure as targets
from experiments.questions.target.triangle import MOST, triangle
from experiments.questions.target.words import becomes
from experiments.regressors.networks import Network
from experiments.regressors.untrained import UntrainedOptions, probe
from tests.experiments import by_hand

SMALL = {"length": 12, "hidden_size": 4, "batch": 3}


def size(values):
    return np.linalg.norm(values, axis=(-2, -1))


@pytest.mark.parametrize("nonlinearity", ["identity", "tanh", "relu"])
@pytest.mark.parametrize("kind", ["orthogonal", "gaussian"])
def test_everything_measured_is_what_it_is_by_hand(nonlinearity, kind):
    network = Network(nonlinearity, 0.9, "all", 4, initial_weights=kind)
    opts = UntrainedOptions(**SMALL)
    calls = []
    found = targets.see(opts, network, 2, lambda: calls.append(1))
    probed = probe(network, opts, seed=2)
    parts = np.array([by_hand.gradients(probed, k) for k in range(12)])  # k, t, B, H
    total = parts.sum(axis=0) / 12
    close = {"rtol": 1e-10, "atol": 1e-11}
    assert len(calls) == 12
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(found.matrix, np.log10(size(parts) / 12), **close)
    np.testing.assert_allclose(found.last, np.log10(size(parts[-1])), **close)
    np.testing.assert_allclose(found.every, np.log10(size(total)), **close)
    own = np.array([parts[t, t] / 12 for t in range(12)])
    local = np.sum(own * total, axis=(1, 2)) / size(total) ** 2
    np.testing.assert_allclose(found.local, local, **close)
    np.testing.assert_allclose(found.through, 1 - local, **close)
    shares = np.sum(parts[:, 0] / 12 * total[0], axis=(1, 2)) / size(total[0]) ** 2
    np.testing.assert_allclose(found.by_loss, shares, **close)
    assert found.sum_error < 1e-14
    outside = np.flatnonzero(np.abs(np.cumsum(shares) - 1) > 0.1)
    assert found.reach == (outside[-1] + 2 if len(outside) else 1)


@pytest.fixture(scope="module")
def result():
    return by_hand.run(EXPERIMENT, **{**SMALL, "length": 30})


def test_all_claims_hold_and_everything_is_drawn(result):
    assert [claim.holds for claim in result.claims] == [True] * 5
    assert list(by_hand.draw(result)) == ["matrix", "totals", "shares", "first_step"]
    rows = {table.name: table.rows for table in result.tables}
    assert len(rows["networks"]) == 3 * 2
    assert len(rows["steps"]) == 3 * 2 * 30
    assert len(rows["matrix"]) == 3 * 2 * 30 * 31 // 2


def test_the_total_stays_and_the_single_loss_vanishes(result):
    for row in result.tables[0].rows:
        if row["spectral_radius"] == 0.7:
            assert row["last_log10"] == pytest.approx(row["corner_log10"], abs=1e-12)
            assert row["last_log10"] <= row["bound_log10"] + 1e-12 < -4
            assert row["every_log10"] > -2


@pytest.mark.parametrize(
    ("fault", "claims"),
    [("a row", [0]), ("the last row", [2]), ("a loss", [1]), ("the last loss alone", [2, 3])],
)
def test_a_wrong_measurement_makes_its_claims_fail(monkeypatch, fault, claims):
    matrix, flow = tg.inspect.state_grad_matrix, targets.log_norms
    grads = tg.inspect.gradient_flow

    def spoilt_matrix(*arguments, **options):
        found = matrix(*arguments, **options).copy()
        if fault == "a row":
            found[7, 3] += 8.0
        if fault == "the last row":
            found[-1] *= 1 + 1e-9
        return found

    class Off:
        """∂L/∂h_t of one loss, off by a millionth."""

        def __init__(self, right):
            self.right = right

        def __getitem__(self, path):
            return self

        @property
        def h(self):
            return self

        @property
        def grad(self):
            return self.right[targets.LAYER].h.grad * (1 + 1e-6)

    calls = []

    def spoilt_flow(loss):
        calls.append(loss)
        found = grads(loss)
        return Off(found) if fault == "a loss" and len(calls) == 5 else found

    def spoilt_norms(loss):
        found = flow(loss).copy()
        if fault == "the last loss alone":
            found[0] = found[1]
            found[:] = np.maximum(found, -3.0)
        return found

    monkeypatch.setattr(tg.inspect, "state_grad_matrix", spoilt_matrix)
    monkeypatch.setattr(tg.inspect, "gradient_flow", spoilt_flow)
    monkeypatch.setattr(targets, "log_norms", spoilt_norms)
    found = by_hand.run(EXPERIMENT, **{**SMALL, "length": 30}, repeats=1, spectral_radius=(0.7,))
    assert [i for i, claim in enumerate(found.claims) if not claim.holds] == claims


@pytest.mark.parametrize(
    ("radius", "words"),
    [(0.7, ("does not vanish", "but", "vanishes")), (1.2, ("does not vanish", "and", "does not vanish"))],
)  # fmt: skip
def test_the_headline_contrasts_only_what_differs(radius, words):
    found = by_hand.run(EXPERIMENT, spectral_radius=(radius,))
    total, link, single = words
    assert f"the total gradient {total} on its way" in found.headline
    assert f"), {link} the gradient of the last loss alone {single} (" in found.headline


def test_words_for_several_seeds():
    assert becomes([-2.0, 3.0]) == "does not vanish"
    assert becomes([-2.1, -np.inf]) == "vanishes"
    assert becomes([-2.1, 0.0, 1.0]) == "vanishes in 1 of 3 networks"


def test_sentences_give_the_range_over_the_seeds(result):
    rows = [row for row in result.tables[0].rows if row["spectral_radius"] == 1.0]
    sentence = next(words for words in result.reading if words.startswith("Spectral radius 1, "))
    assert "seeds 0 and 1" in sentence
    low, high = (power_text(f(row["last_log10"] for row in rows)) for f in (min, max))
    assert low != high
    assert f"by {low} to {high} with the last alone" in sentence


def test_what_is_larger_than_one_has_a_scale_and_labels_of_its_own():
    def scales(high):
        values = np.where(
            np.tri(3) > 0, np.array([[0.0] * 3, [-40.0, 0, 0], [high, -1, 0]]), -np.inf
        )
        chart = triangle([("one", values)], legend="x", title="t", subtitle="s").to_dict()
        found = {}
        for layer in chart["spec"]["layer"]:
            for name in ("fill", "color"):
                if name in layer["encoding"]:
                    channel = layer["encoding"][name]
                    ends = channel["scale"]["domain"]
                    found[name] = ends[0], ends[-1], channel["legend"]["values"]
        return found

    assert scales(-2.0) == {"fill": (-40.0, 0.0, [-40, -30, -20, -10, 0])}
    assert scales(3.0)["color"] == (0.0, 3.0, [0, 1, 2, 3])
    assert scales(3.0)["fill"] == scales(-2.0)["fill"]
    assert scales(0.2)["color"] == (0.0, 1.0, [0, 1])


def test_vanished_gradients_keep_their_size():
    network = Network("identity", 0.01, "all", 4)
    found = targets.see(UntrainedOptions(length=60, hidden_size=4, batch=2), network, 0, int)
    lags = found.lags
    np.testing.assert_allclose(
        found.decay[lags >= 0], -2.0 * lags[lags >= 0], rtol=1e-11, atol=1e-11
    )
    np.testing.assert_allclose(
        found.last - found.last[-1], -2.0 * np.arange(59, -1, -1), atol=1e-10
    )


def test_dead_gradients_are_drawn_black_and_break_nothing():
    found = by_hand.run(
        EXPERIMENT, nonlinearity="relu", spectral_radius=(0.3,), length=30, hidden_size=1, batch=1, seed=4
    )  # fmt: skip
    by_hand.draw(found)
    assert all(claim.holds for claim in found.claims[:3])


@pytest.mark.parametrize("length", [3, MOST, MOST + 1, 5 * MOST - 7])
def test_a_long_heatmap_is_thinned_from_the_last_step(length):
    steps = np.arange(float(length))
    values = np.where(np.tri(length) > 0, steps - steps[:, None], -np.inf)
    chart = triangle([("one", values)], legend="x", title="t", subtitle="s").to_dict()
    rows = chart["data"]["values"]
    side = {row["step"] for row in rows}
    assert length - 1 in side
    assert len(side) <= MOST
    assert len(rows) == len(side) * (len(side) + 1) // 2
    assert all(row["value"] == row["step"] - row["loss"] for row in rows)
    squares = sorted((row["left"], row["right"]) for row in rows if row["loss"] == length - 1)
    assert squares[-1][1] == length - 0.5
    assert all(a[1] == b[0] for a, b in itertools.pairwise(squares))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spectral_radius": ()}, "--spectral-radius needs at least one"),
        ({"spectral_radius": (float("inf"),)}, "--spectral-radius must be a finite number above 0"),
        ({"hidden_size": 0}, "--hidden-size must be 1 or more"),
        ({"seed": -1}, "--seed must be 0 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        TargetOptions(**options)
