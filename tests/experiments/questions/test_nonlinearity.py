"""States and gains against a backward pass by hand; the claims, on planted faults."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.app.errors import OptionError
from experiments.questions.nonlinearity import EXPERIMENT, NonlinearityOptions
from experiments.questions.nonlinearity import measure as gains
from experiments.regressors.networks import Network
from experiments.regressors.untrained import UntrainedOptions, probe
from tests.experiments import by_hand

SMALL = {"length": 12, "hidden_size": 4, "batch": 3}


@pytest.mark.parametrize("nonlinearity", ["identity", "tanh", "relu"])
def test_states_and_gains_are_those_by_hand(nonlinearity):
    seen = gains.see(UntrainedOptions(**SMALL), nonlinearity, 1.3, 0, 1, "gaussian")
    network = Network(nonlinearity, 1.3, "last", 4, initial_weights="gaussian")
    probed = probe(network, UntrainedOptions(**SMALL), seed=1)
    z, states, _ = by_hand.forward(probed)
    delta = by_hand.gradients(probed, 11)
    np.testing.assert_allclose(seen.largest, np.abs(states).max(axis=(1, 2)), rtol=1e-12)

    def size(values):
        return np.linalg.norm(values, axis=(1, 2))

    bent = delta * by_hand.SLOPE[nonlinearity](z)
    np.testing.assert_allclose(seen.flow.gradient, np.log10(size(delta)), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(seen.saturation, size(bent) / size(delta), rtol=1e-11)
    weight = size(delta)[:-1] / size(bent)[1:]
    np.testing.assert_allclose(seen.weight[1:], weight, rtol=1e-11)
    assert seen.growth_by_gains == pytest.approx(seen.flow.growth, abs=1e-12)


def test_halving_scales_what_is_linear_and_relu_exactly():
    opts = UntrainedOptions(**SMALL)
    for nonlinearity in ("identity", "relu"):
        usual, small = (gains.see(opts, nonlinearity, 2.0, h, 0) for h in (0, 40))
        np.testing.assert_array_equal(small.largest, usual.largest * 2.0**-40)
        np.testing.assert_array_equal(small.saturation, usual.saturation)
    usual, small = (gains.see(opts, "tanh", 2.0, h, 0) for h in (0, 40))
    assert small.saturation.min() > 1 - 1e-12 > usual.saturation.min()


def test_unavoidable_growth_is_a_lower_bound():
    opts = UntrainedOptions(**SMALL)
    for halvings in (4, 8, 12, 20):
        seen = gains.see(opts, "tanh", 2.0, halvings, 0)
        with np.errstate(divide="ignore"):
            assert gains.unavoidable(seen) <= seen.flow.growth + 1e-12
    assert gains.unavoidable(seen) == pytest.approx(11 * np.log10(2), abs=1e-5)


@pytest.fixture(scope="module")
def result():
    return by_hand.run(EXPERIMENT, **SMALL)


def test_the_claims_are_about_every_setting_and_everything_is_drawn(result):
    held = {claim.statement.split(":")[0]: claim.holds for claim in result.claims}
    assert len(held) == 8  # none on how often ReLU explodes: over 12 steps that is not foreseen
    assert all(held.values())
    assert set(by_hand.draw(result)) == {"gradients", "states", "gains", "input_size"}
    rows = {table.name: table.rows for table in result.tables}
    assert len(rows["networks"]) == 3 * 3 * 2 * 2
    assert len(rows["steps"]) == 3 * 3 * 2 * 2 * 12
    assert len(rows["draws"]) == 3 * 20


def test_tanh_explodes_with_small_inputs_alone(result):
    rows = {
        (r["nonlinearity"], r["spectral_radius"], r["inputs_log2"], r["seed"]): r
        for r in result.tables[0].rows
    }
    for seed in (0, 1):
        assert rows["tanh", 2.0, -40, seed]["verdict"] == "explodes"
        tanh, linear = rows["tanh", 2.0, 0, seed], rows["identity", 2.0, 0, seed]
        assert tanh["growth_log10"] < linear["growth_log10"] - 1
        assert tanh["largest_state_log10"] <= 0
        assert linear["largest_state_log10"] > 2


def test_nothing_is_claimed_near_zero_where_the_states_are_not():
    found = by_hand.run(EXPERIMENT, halvings=4, repeats=1, **SMALL)
    assert not [claim for claim in found.claims if "stay near 0" in claim.statement]
    assert any("do not stay near 0" in sentence for sentence in found.reading)


def test_a_gradient_that_dies_is_said_and_does_not_spoil_the_rest():
    found = by_hand.run(
        EXPERIMENT, nonlinearity=("relu",), spectral_radius=(0.3,), length=60, hidden_size=1, seed=4
    )
    assert any("exactly zero" in sentence for sentence in found.reading)
    by_hand.draw(found)


@pytest.fixture
def quick(monkeypatch):
    """No sweep over input sizes."""
    monkeypatch.setattr("experiments.questions.nonlinearity.SCALES", 1)


def captioned(**options):
    found = by_hand.run(EXPERIMENT, **SMALL | {"repeats": 1, "draws": 1} | options)
    return found.figures[0].caption


def test_the_caption_says_where_small_inputs_keep_the_states_near_zero(quick):
    assert "states stay near 0, where it is almost linear, at radius 0.5, 1, 2." in captioned()
    long = captioned(length=200, nonlinearity=("tanh",), spectral_radius=(0.5, 2.0))
    assert "almost linear, at radius 0.5; they do not stay there everywhere" in long
    assert "largest |h| is 0.99 at radius 2." in long


@pytest.mark.parametrize("seed", [0, 1, 20])
def test_how_often_relu_explodes_does_not_hang_on_the_seed(seed, quick):
    found = by_hand.run(EXPERIMENT, spectral_radius=(2.0,), repeats=1, seed=seed)
    claims = {claim.statement.split(":")[0]: claim for claim in found.claims}
    draws = {kind: [r for r in found.tables[3].rows if r["nonlinearity"] == kind]
             for kind in ("identity", "tanh", "relu")}  # fmt: skip
    assert [r["seed"] for r in draws["relu"]] == list(range(seed, seed + 20))
    often = claims["ReLU explodes often, like the linear network"]
    assert often.holds
    assert often.measured == sum(r["growth_log10"] > 2 for r in draws["relu"])
    assert often.threshold == sum(r["growth_log10"] > 2 for r in draws["identity"]) / 2 == 10
    blown = claims["ReLU's hidden states can blow up"]
    assert blown.holds
    median = np.median([10 ** r["largest_state_log10"] for r in draws["relu"]])
    assert blown.measured == pytest.approx(median, rel=1e-12)
    less = claims[
        "tanh explodes less and vanishes more than the linear network with the same $W_h$"
    ]
    (tanh,), (linear,) = (
        [r["growth_log10"] for r in found.tables[0].rows
         if (r["nonlinearity"], r["inputs_log2"]) == (kind, 0)]
        for kind in ("tanh", "identity")
    )  # fmt: skip
    assert less.measured == pytest.approx(tanh - linear, abs=1e-12)
    assert less.holds
    count = sum(r["growth_log10"] > 2 for r in draws["tanh"])
    assert any(f"identity (linear) in 20, tanh in {count}, " in words for words in found.reading)


def test_relu_is_judged_only_where_half_of_its_slopes_leave_an_explosion(quick):
    opts = {"repeats": 1, "draws": 2, "hidden_size": 4, "batch": 2, "nonlinearity": ("relu",)}
    for radius, judged in ((1.65, False), (1.67, True)):  # 29 log10(λ/√2) = 2 at λ = 1.6575
        found = by_hand.run(EXPERIMENT, spectral_radius=(radius,), **opts)
        assert any("explodes often" in claim.statement for claim in found.claims) is judged


def test_with_other_matrices_than_orthogonal_less_is_not_claimed(quick):
    found = by_hand.run(EXPERIMENT, initial_weights="gaussian", repeats=1, draws=1, **SMALL)
    assert not [claim for claim in found.claims if "explodes less" in claim.statement]


def with_gradient(seen, factor):
    """The flow with log10 of its gradient multiplied."""
    return replace(seen.flow, gradient=seen.flow.gradient * factor)


def run_with(monkeypatch, **wrong):
    right = gains.see

    def spoilt(*arguments):
        seen = right(*arguments)
        return replace(seen, **{name: change(seen) for name, change in wrong.items()})

    monkeypatch.setattr("experiments.questions.nonlinearity.see", spoilt)
    monkeypatch.setattr("experiments.questions.nonlinearity.SCALES", 1)
    sizes = {"length": 30, "hidden_size": 8, "batch": 4, "repeats": 1}
    found = by_hand.run(EXPERIMENT, spectral_radius=(2.0,), **sizes)
    return [i for i, claim in enumerate(found.claims) if not claim.holds]


@pytest.mark.parametrize(
    ("wrong", "claims"),
    [
        ({"largest": lambda seen: seen.largest * (1 if seen.halvings else 1.5)}, [0]),
        ({"saturation": lambda seen: seen.saturation + 0.5}, [1, 2, 3]),
        ({"weight": lambda seen: seen.weight * (1 + 1e-9)}, [2, 3]),
        ({"flow": lambda seen: with_gradient(seen, -1)}, [3, 5, 8, 9]),
        ({"flow": lambda seen: with_gradient(seen, seen.network.nonlinearity != "relu")}, [3, 6]),
        ({"largest": lambda seen: seen.largest * (seen.network.nonlinearity != "relu")}, [7]),
        ({"flow": lambda seen: with_gradient(seen, 1 - 1e-9 * (seen.halvings > 0))}, [3, 4]),
    ],
)
def test_a_wrong_measurement_makes_its_claims_fail(monkeypatch, wrong, claims):
    assert run_with(monkeypatch, **wrong) == claims


def test_no_fault_no_failure(monkeypatch):
    assert run_with(monkeypatch) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"halvings": 3}, "--halvings must be from 4 to 300, not 3"),
        ({"halvings": 301}, "not 301"),
        ({"draws": 0}, "--draws must be 1 or more"),
        ({"nonlinearity": ()}, "--nonlinearity needs at least one"),
        ({"spectral_radius": (0.0,)}, "--spectral-radius must be a finite number above 0"),
        ({"batch": 0}, "--batch must be 1 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        NonlinearityOptions(**options)
