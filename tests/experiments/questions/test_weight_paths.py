"""Paths and contributions against complex steps, and the claims on planted faults."""

import json

import numpy as np
import pytest

import tinygrad182 as tg
from experiments.app.errors import OptionError
from experiments.drawing.tables import power_text
from experiments.questions.weight_paths import EXPERIMENT, WeightPathsOptions
from experiments.questions.weight_paths.measure import Contributions, contributions
from experiments.questions.weight_paths.scalar import scalar_case, scalar_chart
from experiments.regressors.networks import Network
from experiments.regressors.untrained import UntrainedOptions, probe
from tests.experiments import by_hand

SMALL = {"length": 6, "hidden_size": 3, "batch": 2}
STEP = 1e-30


def small(nonlinearity="tanh", target="last", seed=0):
    network = Network(nonlinearity, 0.9, target, hidden_size=3)
    return probe(network, UntrainedOptions(**SMALL), seed)


@pytest.mark.parametrize(
    ("w", "inputs"), [(0.8, (1, 2, 3)), (-1.5, (0.5, -2.0, 3.0, 1.0, 0.1)), (0.0, (1, 2))]
)
def test_the_scalar_paths_are_the_derivatives_by_complex_step(w, inputs):
    case = scalar_case(w, inputs)
    for path in case.paths:
        h = 0.0
        for step, u in enumerate(inputs):
            h = (w + 1j * STEP * (step == path.step)) * (u + h)
        expected = h.imag / STEP
        for value in (path.by_hand, path.edge, path.by_time):
            assert value == pytest.approx(expected, rel=1e-13, abs=1e-13)
    assert case.gradient == pytest.approx(case.polynomial, rel=1e-13)


def test_the_picture_has_a_copy_of_the_graph_for_each_path():
    chart = json.dumps(
        scalar_chart(scalar_case(0.8, (1.0, 2.0, 3.0, 4.0))).to_dict(), ensure_ascii=False
    )
    for step in (0, 1, 2, 3):
        assert f'"the use at step {step}: ' in chart
    assert "∂L/∂w = 0.512 + 1.792 + 4.192 + 8.192 = 14.69" in chart


@pytest.mark.parametrize("nonlinearity", ["identity", "tanh", "relu"])
@pytest.mark.parametrize("target", ["last", "all"])
def test_contributions_are_the_derivatives_by_complex_step(nonlinearity, target):
    probed = small(nonlinearity, target)
    weight = probed.weight.numpy()
    parts = np.zeros((6, 3, 3))
    for index in np.ndindex(parts.shape):
        copies = np.repeat(weight[None].astype(complex), 6, axis=0)
        copies[index] += 1j * STEP
        parts[index] = by_hand.loss(probed, copies).imag / STEP
    whole = parts.sum(axis=0)
    found = contributions(probed, seed=0)
    np.testing.assert_allclose(found.norm, np.linalg.norm(parts, axis=(1, 2)), rtol=1e-12)
    expected = np.tensordot(parts, whole, 2) / np.sum(whole**2)
    np.testing.assert_allclose(found.share, expected, rtol=1e-11, atol=1e-13)
    assert found.share.sum() == pytest.approx(1.0, rel=1e-12)
    assert found.norm[0] == 0.0  # W_h multiplies h_0 = 0
    assert found.cancelling == pytest.approx(found.norm.sum() / np.linalg.norm(whole), rel=1e-12)


def test_reach_counts_the_last_steps_after_which_nothing_changes_much():
    def reach(share):
        nothing = np.zeros(len(share))
        return Contributions("tanh", 0, nothing, np.array(share), 0.0, nothing, 1.0).reach

    assert reach([0.0, 0.0, 0.05, 0.95]) == 1
    assert reach([0.0, 0.3, 0.3, 0.4]) == 3
    assert reach([0.3, -0.3, 0.05, 0.95]) == 4  # an early step gives what another takes back
    assert reach([0.25, 0.25, 0.25, 0.25]) == 4


def test_all_claims_hold_and_everything_is_drawn():
    result = by_hand.run(EXPERIMENT, **SMALL)
    assert [claim.holds for claim in result.claims] == [True] * 4
    assert set(by_hand.draw(result)) == {"scalar_paths", "contributions", "running_sum"}
    rows = {table.name: table.rows for table in result.tables}
    assert len(rows["networks"]) == 3 * 2
    assert len(rows["contributions"]) == 3 * 2 * 6
    assert [row["by_hand"] for row in rows["scalar"]] == pytest.approx([0.64, 2.24, 5.24, 8.12])
    assert "0.64 + 2.24 + 5.24 = 8.12" in result.headline


def test_sentences_give_the_range_over_the_seeds():
    result = by_hand.run(EXPERIMENT, nonlinearity=("relu",), length=30)
    rows = [row for row in result.tables[2].rows if row["step"] > 0]
    ratios = []
    for seed in (0, 1):
        logs = [row["norm_log10"] for row in rows if row["seed"] == seed]
        ratios.append(min(logs) - max(logs))
    low, high = (power_text(f(ratios)) for f in (min, max))
    reaches = sorted(row["steps_for_90_percent"] for row in result.tables[1].rows)
    assert reaches[0] < reaches[1]
    assert result.reading[0].startswith(
        f"ReLU, seeds 0 and 1: the last {reaches[0]} to {reaches[1]} of 30 steps"
    )
    assert f"is {low} to {high} times the largest" in result.reading[0]


@pytest.mark.parametrize("fault", ["one step", "swapped", "one scalar step"])
def test_a_wrong_contribution_makes_its_claims_fail(monkeypatch, fault):
    right = tg.inspect.weight_grad_by_time

    def wrong(loss, weight):
        parts = right(loss, weight).copy()
        scalar = parts.ndim == 1
        if fault == "one step" and not scalar:
            parts[3] *= 1 + 1e-6
        if fault == "swapped" and not scalar:
            parts[[2, 4]] = parts[[4, 2]]
        if fault == "one scalar step" and scalar:
            parts[1] *= 1 + 1e-6
        return parts

    monkeypatch.setattr(tg.inspect, "weight_grad_by_time", wrong)
    result = by_hand.run(EXPERIMENT, nonlinearity=("tanh",), repeats=1, **SMALL)
    expected = {
        "one step": [True, True, False, False],
        "swapped": [True, True, True, False],  # the sum cannot see it, the copies do
        "one scalar step": [False, True, True, True],
    }
    assert [claim.holds for claim in result.claims] == expected[fault]


def test_vanished_contributions_keep_their_size():
    sizes = SMALL | {"length": 200, "repeats": 1}
    result = by_hand.run(EXPERIMENT, nonlinearity=("tanh",), spectral_radius=0.5, **sizes)
    (row,) = next(table.rows for table in result.tables if table.name == "networks")
    assert row["norm_first_log10"] < -60
    assert all(claim.holds for claim in result.claims)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": (1.0,)}, "--inputs takes 2 to 5 numbers, not 1"),
        ({"inputs": (1.0,) * 6}, "not 6"),
        ({"w": float("nan")}, "not nan"),
        ({"inputs": (1.0, float("inf"))}, "not inf"),
        ({"nonlinearity": ()}, "--nonlinearity needs at least one"),
        ({"spectral_radius": 0.0}, "--spectral-radius must be a finite number above 0"),
        ({"length": 2}, "--length must be 3 or more"),
        ({"repeats": 0}, "--repeats must be 1 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        WeightPathsOptions(**options)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the overflow; the command line silences it
def test_an_overflow_is_refused_in_words():
    with pytest.raises(OptionError, match=r"The loss overflows .* choose a smaller"):
        by_hand.run(EXPERIMENT, nonlinearity=("identity",), spectral_radius=1e60, **SMALL)
