"""skip: shares by the graph's edges against Jacobians by hand, and classes of paths against all paths."""

import itertools
import json

import numpy as np
import pytest
from rich.progress import Progress

import tinygrad182 as tg
from experiments.app.command_line import main
from experiments.app.errors import OptionError
from experiments.drawing.numbers import to_numpy
from experiments.questions import skip
from experiments.questions.skip import measure as skips

SIGMA = {
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: 1.0 * (z > 0)),
    "identity": (lambda z: z, np.ones_like),
}


def by_hand(model, batch, depth, nonlinearity, with_skip):
    """∂L/∂h_l, and the branch's part of it, from the definition; ``(depth, B, H)`` each."""
    p = {name: to_numpy(value) for name, value in model.state_dict().items()}
    inputs, labels = batch
    sigma, slope = SIGMA[nonlinearity]
    h, slopes = inputs @ p["stem.weight"].T + p["stem.bias"], []
    for block in range(depth):
        z = h @ p[f"blocks.{block}.linear.weight"].T + p[f"blocks.{block}.linear.bias"]
        slopes.append(slope(z))
        h = sigma(z) + (h if with_skip else 0)
    error = h @ p["head.weight"].T + p["head.bias"] - labels
    delta = 2 * error / labels.size @ p["head.weight"]
    gradient, branch = [delta], [np.zeros_like(delta)]
    for block in reversed(range(1, depth)):
        part = (delta * slopes[block]) @ p[f"blocks.{block}.linear.weight"]
        delta = part + (delta if with_skip else 0)
        gradient.insert(0, delta)
        branch.insert(0, part)
    return np.stack(gradient), np.stack(branch)


@pytest.mark.parametrize("with_skip", [True, False])
@pytest.mark.parametrize("nonlinearity", list(SIGMA))
def test_gradients_and_branch_shares_are_those_of_the_definition(nonlinearity, with_skip):
    opts = skip.SkipOptions(length=5, hidden_size=4, batch=3, nonlinearity=nonlinearity)
    model = skips.residual_net(opts, 5, 2, 1.5, with_skip)
    gradient, branch = by_hand(model, skips.depth_batch(2, 3, 5), 5, nonlinearity, with_skip)
    found = skips.see_net(opts, 1.5, 2, with_skip)
    norms = np.linalg.norm(gradient.reshape(5, -1), axis=1)
    np.testing.assert_allclose(10**found.gradient, norms, rtol=1e-12)
    shares = np.sum(branch * gradient, axis=(1, 2)) / norms**2
    np.testing.assert_allclose(found.shares["matrix"], shares, rtol=1e-11, atol=1e-14)
    np.testing.assert_array_equal(found.shares["local"][:-1], 0.0)
    assert found.shares["local"][-1] == pytest.approx(1.0)
    assert found.sum_error < 1e-14
    assert found.skip_error == 0.0


def test_both_networks_start_with_the_same_values_and_read_the_lstm_s_numbers():
    opts = skip.SkipOptions(hidden_size=3)
    kinds = (skips.residual_net(opts, 4, 7, 2.0, with_skip) for with_skip in (True, False))
    one, other = ({k: v.numpy() for k, v in model.state_dict().items()} for model in kinds)
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
    inputs, labels = skips.depth_batch(7, 5, 4)
    np.testing.assert_allclose(labels[:, 0], inputs.mean(axis=1))


@pytest.mark.parametrize("nonlinearity", list(SIGMA))
def test_classes_of_paths_are_sums_over_subsets(nonlinearity):
    opts = skip.SkipOptions(blocks=3, hidden_size=4, batch=2, seed=1, nonlinearity=nonlinearity)
    found = skips.see_branches(opts)
    assert found.error < 1e-13
    model = skips.residual_net(opts, 4, 1)
    gradient, _ = by_hand(model, skips.depth_batch(1, 2, 4), 4, nonlinearity, True)
    np.testing.assert_allclose(found.measured.sum(axis=0), gradient[0], rtol=1e-12)
    np.testing.assert_allclose(found.by_hand.sum(axis=0), gradient[0], rtol=1e-12)
    np.testing.assert_allclose(found.by_hand[0], gradient[-1], rtol=1e-12)


def test_one_path_missing_or_counted_in_the_next_class_fails_the_claim():
    found = skips.see_branches(skip.SkipOptions(blocks=3, hidden_size=4, batch=2, seed=1))
    shifted = skips.Branches(np.roll(found.measured, 1, axis=0), found.by_hand)
    scaled = skips.Branches(found.measured * (1 + 1e-9), found.by_hand)
    opts = skip.SkipOptions(length=4, hidden_size=3, batch=2, repeats=1, blocks=3)
    seen = skip.see(opts, 1.0, 0)
    assert skip.claims(opts, seen, found)[2].holds
    assert not skip.claims(opts, seen, shifted)[2].holds
    assert not skip.claims(opts, seen, scaled)[2].holds


def test_a_skip_that_scales_the_gradient_fails_the_claim(monkeypatch):
    parts = skips.edge_parts
    monkeypatch.setattr(
        skips, "edge_parts", lambda *a: {k: v * (1 + 1e-12) for k, v in parts(*a).items()}
    )
    opts = skip.SkipOptions(length=4, hidden_size=3, batch=2, repeats=1)
    found = skips.see_net(opts, 1.0, 0, True)
    claims = skip.claims(opts, [found, *skip.see(opts, 1.0, 0)], branches=FEW)
    assert not claims[0].holds


def test_claims_are_about_the_worst_seed_and_the_scale_where_skips_do_least():
    opts = skip.SkipOptions(length=30, hidden_size=8, batch=4, repeats=2)
    found = [d for seed in (0, 1) for scale in (1.0, 8.0) for d in skip.see(opts, scale, seed)]
    growth = {(d.kind, d.scale, d.seed): d.gradient[0] - d.gradient[-1] for d in found}
    measured = [claim.measured for claim in skip.claims(opts, found, FEW)[3:]]
    assert measured == [
        max(growth["plain network", 1.0, seed] for seed in (0, 1)),
        min(growth["ResNet", 1.0, seed] for seed in (0, 1)),
        max(growth["ResNet", scale, seed] for scale in (1.0, 8.0) for seed in (0, 1)),
    ]
    assert all(claim.holds for claim in skip.claims(opts, found, FEW))


SMALL = skip.SkipOptions(length=6, hidden_size=4, batch=3)
FEW = skips.Branches(np.ones((1, 1, 1)), np.ones((1, 1, 1)))


def test_the_lstm_s_shares_are_those_of_its_cell():
    found = skips.see_lstm(SMALL, 1.0, 0)
    assert list(found.shares) == ["free", "matrix", "local"]
    assert found.sum_error < 1e-14
    assert found.shares["local"][-1] == pytest.approx(1.0)
    assert (found.shares["free"][:-1] > 0.5).all()  # gates above one half, at random weights


def test_shares_by_products_sum_to_one_and_begin_with_the_cell_path():
    found = skips.product_shares(SMALL, 5)
    for kind in ("ResNet", "LSTM"):
        assert len(found[kind].shares) == 6
        assert found[kind].rest is None
        assert found[kind].shares.sum() == pytest.approx(1.0, rel=1e-12)
    cut = skips.product_shares(SMALL, 2)
    for kind in ("ResNet", "LSTM"):
        np.testing.assert_allclose(cut[kind].shares, found[kind].shares[:3], rtol=1e-12)
        assert cut[kind].rest == pytest.approx(found[kind].shares[3:].sum(), rel=1e-9)


def test_classes_that_are_not_distinguished_and_shares_that_cancel_are_named():
    whole = skips.Products(np.array([0.2, 0.8]), None)
    said = skip.words.by_products("ResNet", whole, 3)
    assert said == (
        "ResNet, seed 3: 20% of what reaches $h_0$ went through no matrix product at all. The largest "
        "share, 80%, went through 1 branch."
    )
    cut = skips.Products(np.array([0.0, 13.0, -12.5]), 0.5)
    said = skip.words.by_products("LSTM", cut, 0)
    assert (
        "Up to 2 products are counted one by one: together they bring 50%, and more than 2 bring the "
        "other 50%" in said
    )
    assert "their sizes sum to 26, not 1" in said


def test_the_rest_is_drawn_and_written_down(monkeypatch):
    monkeypatch.setattr(skip, "MOST_PRODUCTS", 2)
    opts = skip.SkipOptions(length=5, hidden_size=3, batch=2, repeats=1, blocks=1, scale=(1.0,))
    with Progress(disable=True) as progress:
        result = skip.run(opts, progress)
    assert "From the last of 5 layers to the first, the gradient becomes" in result.headline
    assert [figure.name for figure in result.figures[:2]] == ["gradient_flow", "shares"]
    rows = result.tables[3].rows
    assert [row["products"] for row in rows if row["kind"] == "LSTM"] == ["0", "1", "2", "over 2"]
    for kind in ("ResNet", "LSTM"):
        assert sum(row["share"] for row in rows if row["kind"] == kind) == pytest.approx(1.0)
    assert "more than 2 products" in result.figures[2].caption
    assert "over 2" in json.dumps(result.figures[2].chart.to_dict())


def test_a_gradient_that_dies_without_skips_is_kept_out_of_the_sums():
    shares = {"free": np.array([0.4, np.nan]), "matrix": np.array([0.6, np.nan])}
    assert skips.sum_error(shares) == 0.0
    assert skips.sum_error({"free": np.array([0.4]), "matrix": np.array([0.7])}) > 0.05


def test_every_path_follows_each_subset_once(monkeypatch):
    seen = []
    product = itertools.product

    def watched(*args, **kwargs):
        seen.extend(product(*args, **kwargs))
        return iter(seen)

    monkeypatch.setattr(skips.itertools, "product", watched)
    skips.see_branches(skip.SkipOptions(blocks=4, hidden_size=3, batch=2))
    assert len(seen) == len(set(seen)) == 2**4


def test_gradients_of_1e_60_are_measured():
    found = skips.see_net(skip.SkipOptions(length=200, hidden_size=4, batch=2), 0.5, 0, False)
    assert found.gradient[0] < -60
    assert np.isfinite(found.gradient).all()
    assert found.sum_error < 1e-14


def test_a_small_run_records_all_it_measured(tmp_path):
    sizes = [
        "--length",
        "4",
        "--hidden-size",
        "3",
        "--batch",
        "2",
        "--repeats",
        "1",
        "--blocks",
        "2",
    ]
    assert main(["skip", "--out", str(tmp_path / "out"), *sizes, "--nonlinearity", "relu"]) == 0
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [claim["holds"] for claim in record["claims"][:3]] == [True] * 3
    kinds = [row["kind"] for row in record["tables"]["skips"]]
    assert kinds == ["ResNet", "plain network", "LSTM"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 2}, "--length must be 3 or more"),
        ({"hidden_size": 0}, "--hidden-size must be 1 or more"),
        ({"blocks": 13}, "--blocks must be 12 or less, not 13"),
        ({"blocks": 0}, "--blocks must be 1 or more"),
        ({"scale": (-1.0,)}, "--scale must be a finite number above 0"),
        ({"forget_bias": np.nan}, "--forget-bias must be a finite number"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        skip.SkipOptions(**options)


def test_the_states_are_where_the_edges_are_read():
    model = skips.residual_net(skip.SkipOptions(hidden_size=2), 3, 0)
    graph = tg.inspect.trace(skips.net_loss(model, skips.depth_batch(0, 2, 3)))
    states = skips.states_of(graph, 3)
    assert [state.time for state in states] == [0, 1, 2]
    assert len(states[0].edges) == 2
