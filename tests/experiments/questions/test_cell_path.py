"""cell-path: the gates by hand against differences of the loss, and the measurement against both."""

import json

import numpy as np
import pytest

from experiments.app.command_line import main
from experiments.app.errors import OptionError
from experiments.drawing.numbers import signed_share, to_numpy
from experiments.drawing.words import percent
from experiments.questions import cell_path
from experiments.questions.cell_path import measure as routes
from experiments.questions.cell_path.lstm_by_hand import cell_parts, run_gates, sigmoid
from experiments.questions.cell_path.lstm_by_hand import cell_path as path_by_hand
from experiments.regressors.data import batch_of
from experiments.regressors.flow import loss_of, mse_gradient
from experiments.regressors.networks import regressor


def setting(target, bias=1.0, length=6):
    model = regressor("lstm", 3, 5, forget_bias=bias)
    batch = batch_of(5, batch=2, length=length)
    _, predictions = loss_of(model, batch, target)
    parameters = {name: to_numpy(value) for name, value in model.state_dict().items()}
    gates = run_gates(parameters, batch[0])
    local = mse_gradient(to_numpy(predictions), batch[1], target) @ parameters["head.weight"]
    return model, batch, parameters, gates, local


def loss_with(parameters, batch, target, step, cell):
    """The loss if the cell state after ``step`` were ``cell``; complex-safe, from the definition."""
    inputs, labels = batch
    w_x, w_h = parameters["rnn.weight_ih_l0"], parameters["rnn.weight_hh_l0"]
    bias = parameters["rnn.bias_ih_l0"]
    h = c = np.zeros_like(cell)
    total = 0.0
    for t, x in enumerate(inputs):
        i, f, g, o = np.split(x @ w_x.T + h @ w_h.T + bias, 4, axis=-1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        c = cell if t == step else c
        h = np.tanh(c) / (1 + np.exp(-o))
        error = h @ parameters["head.weight"].T + parameters["head.bias"] - labels[t]
        if target == "all" or t == len(inputs) - 1:
            total = total + np.sum(error**2)
    return total / (labels.size if target == "all" else labels[0].size)


@pytest.mark.parametrize("target", ["last", "all"])
def test_gradients_by_hand_are_complex_steps_of_the_loss(target):
    _, batch, parameters, gates, local = setting(target)
    gradient = sum(cell_parts(gates, parameters["rnn.weight_hh_l0"], local).values())
    for step in range(6):
        for index in np.ndindex(2, 3):
            cell = gates.c[step].astype(complex)
            cell[index] += 1e-30j
            by_step = loss_with(parameters, batch, target, step, cell).imag / 1e-30
            assert gradient[(step, *index)] == pytest.approx(by_step, rel=1e-10)


def test_the_cell_path_is_the_product_of_the_forget_gates():
    *_, gates, local = setting("last")
    start = gates.o[-1] * (1 - np.tanh(gates.c[-1]) ** 2) * local[-1]
    found = path_by_hand(gates, local)
    for step in range(6):
        product = np.prod(gates.f[step + 1 :], axis=0)
        np.testing.assert_allclose(found[step], product * start, rtol=1e-13)


@pytest.mark.parametrize("target", ["last", "all"])
def test_the_measurement_agrees_with_the_gates(target):
    model, batch, *_ = setting(target)
    paths = routes.see_paths(model, batch, target, 2, forget_bias=1.0, seed=5, moment="before")
    assert max(paths.sum_error, paths.part_error, paths.hop_error) < 1e-13
    assert list(paths.shares) == ["direct", "via h", "local"]
    np.testing.assert_allclose(sum(paths.shares.values()), 1.0, rtol=1e-13)
    np.testing.assert_allclose(paths.hop_shares.sum(axis=0), 1.0, rtol=1e-12)
    assert paths.hops.shape == (4, 6)
    assert (paths.hops[1:, -1] == -np.inf).all()  # no hop from the last step


FAULTS = {
    "f of the wrong step": lambda g: {"f": np.roll(g.f, 1, axis=0)},
    "no output gate": lambda g: {"o": np.ones_like(g.o)},
    "gates off by 1e-9": lambda g: {"f": g.f * (1 + 1e-9)},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_gate_fails_the_claims(fault, monkeypatch):
    model, batch, *_ = setting("all")

    def wrong(parameters, inputs):
        gates = run_gates(parameters, inputs)
        return type(gates)(**{**vars(gates), **FAULTS[fault](gates)})

    monkeypatch.setattr(routes, "run_gates", wrong)
    paths = routes.see_paths(model, batch, "all", 2, forget_bias=1.0, seed=5, moment="before")
    opts = cell_path.CellPathOptions(forget_bias=(1.0,), length=6)
    claims = cell_path.claims(opts, [paths, *last_of(paths)])
    assert [claim.holds for claim in claims[:3]] == [True, False, False]


def last_of(paths):
    """These paths, labelled as measured with the loss at the last step, which two claims are about."""
    return [type(paths)(**{**vars(paths), "target": "last"})]


def test_signed_shares_of_known_parts():
    whole = np.array([[[3.0, 4.0]], [[0.0, 0.0]], [[3e-200, 4e-200]]])
    part = np.array([[[3.0, 0.0]], [[0.0, 0.0]], [[-3e-200, 0.0]]])
    found = signed_share(part, whole)
    np.testing.assert_allclose(found, [9 / 25, np.nan, -9 / 25])


def test_sigmoid_and_percent_at_their_ends():
    np.testing.assert_allclose(sigmoid(np.array([-800.0, 0.0, 800.0])), [0.0, 0.5, 1.0])
    assert percent(1.0) == "100%"
    assert percent(np.nan) == "unmeasured size"
    assert percent(-8e-12) == "almost 0"
    assert percent(-0.039) == "−3.9%"


def test_the_lag_at_which_the_share_falls_below_one_half():
    assert cell_path.words.first_lag_below(np.array([0.1, 0.4, 0.6, 1.0])) == 2
    assert cell_path.words.first_lag_below(np.array([0.7, 1.0])) is None


def test_lags_of_200_and_gradients_of_1e_60_are_measured():
    model = regressor("lstm", 3, 0, forget_bias=-0.5)
    batch = batch_of(0, batch=2, length=200)
    paths = routes.see_paths(model, batch, "last", 1, forget_bias=-0.5, seed=0, moment="before")
    assert paths.hops[0, 0] < -60
    assert np.isfinite([*paths.hops[0], *paths.gradient]).all()
    assert paths.hop_error < 1e-12


def test_a_run_measures_before_and_after_training(tmp_path):
    sizes = ["--length", "5", "--hidden-size", "3", "--batch", "2"]
    more = ["--steps", "2", "--hops", "1", "--forget-bias", "0", "5"]
    assert main(["cell-path", "--out", str(tmp_path / "out"), *sizes, *more]) == 0
    rows = (tmp_path / "out" / "steps.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * (2 + 1) * 2 * 5  # biases, seeds and one trained, targets, steps
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [claim["holds"] for claim in record["claims"][:3]] == [True] * 3
    assert len(record["claims"]) == 5
    rows = record["tables"]["paths"]
    assert [row["moment"] for row in rows] == ["before", "after", "before"] * 2
    assert [row["seed"] for row in rows] == [0, 0, 1] * 2
    assert rows[1]["loss"] != rows[0]["loss"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"forget_bias": ()}, "--forget-bias needs at least one value"),
        ({"forget_bias": (np.nan,)}, "--forget-bias must be a finite number"),
        ({"hops": -1}, "--hops must be 0 or more"),
        ({"steps": -1}, "--steps must be 0 or more"),
        ({"learning_rate": 0.0}, "--learning-rate must be a finite number above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        cell_path.CellPathOptions(**options)


def paths_with(share, passed, bias=5.0, seed=0):
    """A network whose cell path alone has this share at step 1, and lets this much pass."""
    ends = np.array([share, 0.4, 1.0])
    return routes.Paths(
        forget_bias=bias,
        seed=seed,
        moment="before",
        target="last",
        loss=1.0,
        gradient=np.zeros(3),
        forget=np.full(3, 0.9),
        shares={name: np.full(3, 1 / 3) for name in ("direct", "via h", "local")},
        hops=np.log10(np.array([[passed] * 3, [1.0] * 3])),
        hop_shares=np.stack([ends, 1 - ends]),
        by_hand=np.zeros(3),
        sum_error=0.0,
        part_error=0.0,
        hop_error=0.0,
    )


def test_the_highway_is_counted_not_assumed():
    carried, outweighed, closed = paths_with(0.62, 0.8), paths_with(0.1, 0.8), paths_with(0.0, 1e-9)
    said = cell_path.words.highway([carried, outweighed, closed])
    assert (
        "comes over the cell path alone in 1 of 3 untrained networks, with forget bias 5." in said
    )
    assert "In 1 of the 2 where the gates let more than half of the norm pass" in said
    said = cell_path.words.highway([carried, carried])
    assert "alone in 2 of 2 untrained networks, with forget bias 5." in said
    assert "at most half" not in said
    assert "in 0 of 1 untrained networks." in cell_path.words.highway([closed])


def test_sentences_give_every_seed_s_number_and_the_headline_its_seed():
    opts = cell_path.CellPathOptions(forget_bias=(0.0, 5.0), length=3, seed=4)
    low = [paths_with(-8e-12, 1e-9, bias=0.0, seed=seed) for seed in (4, 5)]
    high = [paths_with(0.62, 0.8, seed=4), paths_with(-0.04, 0.7, seed=5)]
    high[0].hop_shares[0, 1] = 0.9
    said = cell_path.words.sentences(opts, [*low, *high])
    assert "(seeds 4 and 5)" in said[1]
    assert "brings 62%, −4% of what arrives there" in said[1]
    assert "alone keeps 0.8, 0.7 of the norm" in said[1]
    assert "falls below one half nowhere, 1 step back." in said[1]
    headline = cell_path.words.headline(opts, [*low, *high])
    assert "With forget bias 0 the cell path brings" in headline
    assert "alone, all the way from the last step, it brings almost 0 of $∂L/∂c_0$" in headline
    assert "let 0.8 of the gradient's norm pass, and the cell path alone brings 62%" in headline
    assert headline.endswith("(seed 4, untrained, loss at the last of 3 steps).")


def test_the_first_figure_is_the_one_to_predict():
    found = [paths_with(0.62, 0.8)]
    names = [figure.name for figure in cell_path.figures.figures(found, "last", "")]
    assert names[:2] == ["cell_path_alone", "shares"]
