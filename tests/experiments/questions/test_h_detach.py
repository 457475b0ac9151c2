"""h-detach: the mean gradient against every choice of the blocked steps, and against NumPy alone."""

import itertools
import json

import numpy as np
import pytest

import tinygrad182 as tg
from experiments.app.command_line import main
from experiments.app.errors import OptionError
from experiments.drawing.numbers import to_numpy
from experiments.questions import h_detach
from experiments.questions.cell_path.lstm_by_hand import run_gates
from experiments.questions.h_detach import measure
from experiments.questions.h_detach.blocked_lstm import passing, predict
from experiments.regressors.data import batch_of
from experiments.regressors.flow import loss_of
from experiments.regressors.networks import regressor
from tests.experiments.by_hand import draw, run


def setting(length=5, bias=1.0, scale=3.0, batch=2):
    model = regressor("lstm", 3, 5, forget_bias=bias, scale=scale)
    return model, batch_of(5, batch=batch, length=length)


def gradients(model, loss):
    """∂L/∂c_t for every t, then the gradients of all parameters."""
    cells = to_numpy(tg.inspect.gradient_flow(loss)[""].c.grad)
    return [cells, *(g.numpy() for g in tg.grad(loss, list(model.parameters())))]


def test_the_value_passes_to_the_last_bit_and_the_gradient_in_part():
    h = tg.tensor([[0.1, -3e-17], [1e300, 2.0]], dtype="float64", requires_grad=True)
    kept = tg.tensor([[0.0], [0.25]])
    passed = passing(h, kept)
    np.testing.assert_array_equal(passed.numpy(), h.numpy())
    passed.sum().backward()
    np.testing.assert_array_equal(h.grad.numpy(), [[0.0, 0.0], [0.25, 0.25]])


def test_with_everything_kept_it_is_the_layer():
    model, batch = setting()
    fused, expected = loss_of(model, batch, "last")
    np.testing.assert_allclose(
        predict(model, batch[0], [1.0] * 5).numpy(), expected.numpy(), rtol=1e-13
    )
    parameters = list(model.parameters())
    for ours, theirs in zip(
        tg.grad(measure.loss_with(model, batch, 1.0), parameters),
        tg.grad(fused, parameters),
        strict=True,
    ):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("block", [0.25, 0.7])
def test_the_mean_is_that_over_every_choice_of_the_blocked_steps(block):
    model, batch = setting()
    found = gradients(model, measure.loss_with(model, batch, 1.0 - block))
    mean = [np.zeros_like(g) for g in found]
    for factors in itertools.product((0.0, 1.0), repeat=4):
        predictions = predict(model, batch[0], [1.0, *factors])
        loss = tg.nn.mse_loss(predictions[-1], tg.tensor(batch[1][-1]))
        chance = np.prod([1 - block if k else block for k in factors])
        for total, part in zip(mean, gradients(model, loss), strict=True):
            total += chance * part
    for ours, theirs in zip(found, mean, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-15)


def test_blocked_everywhere_it_is_the_derivative_with_all_hidden_states_held_fixed():
    """A complex step of c_t in plain NumPy, in which the gates stay as they were."""
    model, batch = setting()
    parameters = {name: to_numpy(value) for name, value in model.state_dict().items()}
    gates = run_gates(parameters, batch[0])
    cells = gradients(model, measure.loss_with(model, batch, 0.0))[0]
    for step in range(5):
        for index in np.ndindex(2, 3):
            c = gates.c[step].astype(complex)
            c[index] += 1e-30j
            for t in range(step + 1, 5):
                c = gates.f[t] * c + gates.i[t] * gates.g[t]
            h = gates.o[-1] * np.tanh(c)
            error = h @ parameters["head.weight"].T + parameters["head.bias"] - batch[1][-1]
            by_step = np.mean(error**2).imag / 1e-30
            assert cells[(step, *index)] == pytest.approx(by_step, rel=1e-10)


def seen(**more):
    model, batch = setting(length=6)
    options = {"forget_bias": 0.0, "scale": 1.0, "seed": 0, **more}
    return measure.see(model, batch, [0.0, 0.5, 1.0], 2, **options)


def test_the_measurement_is_the_polynomial_and_holds_what_the_loop_gives():
    network = seen()
    assert max(blocked.error for blocked in network.blocked) < 1e-13
    assert network.detached.hidden == 0.0
    assert network.true.hidden > 0.1
    assert (network.true.cosine, network.true.length) == (pytest.approx(1.0), 1.0)
    np.testing.assert_allclose(network.detached.gradient, network.hops[0], atol=1e-13)
    model, batch = setting(length=6)
    half, whole = (
        np.concatenate(
            [g.ravel() for g in gradients(model, measure.loss_with(model, batch, k))[1:]]
        )
        for k in (0.5, 1.0)
    )
    blocked = network.blocked[1]
    assert blocked.length == pytest.approx(np.linalg.norm(half) / np.linalg.norm(whole))
    assert blocked.cosine * blocked.length == pytest.approx(half @ whole / (whole @ whole))


FAULTS = {
    "factors off by 1e-9": lambda factors: [k + 1e-9 for k in factors],
    "one step is never blocked": lambda factors: [*factors[:3], 1.0, *factors[4:]],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_factor_fails_the_claims(fault, monkeypatch):
    monkeypatch.setattr(
        measure, "predict", lambda m, x, factors: predict(m, x, FAULTS[fault](factors))
    )
    opts = h_detach.HDetachOptions(length=6, forget_bias=(0.0,), scale=(1.0,))
    claims = h_detach.claims(opts, [seen()])
    assert [claim.holds for claim in claims[3:]] == [False, False]


def test_the_noise_of_many_draws_is_that_of_every_choice():
    model, batch = setting(length=4, batch=1)
    mean = gradients(model, measure.loss_with(model, batch, 0.6))[0][0]
    square = 0.0
    for factors in itertools.product((0.0, 1.0), repeat=3):
        predictions = predict(model, batch[0], [1.0, *factors])
        loss = tg.nn.mse_loss(predictions[-1], tg.tensor(batch[1][-1]))
        chance = np.prod([0.6 if k else 0.4 for k in factors])
        square += chance * np.sum((gradients(model, loss)[0][0] - mean) ** 2)
    rng = np.random.default_rng(0)
    found = measure.noise(model, batch, 0.4, 4000, rng, mean)
    assert found == pytest.approx(np.sqrt(square) / np.linalg.norm(mean), rel=0.03)


def test_what_a_gradient_gains_and_what_is_kept_of_it():
    assert measure.growth(np.array([-1.0, 2.0, 0.5])) == 1.5
    network = seen()
    ratio = network.detached.gradient[0] - network.true.gradient[0]
    assert network.left == pytest.approx(ratio)
    assert measure.arrived(network.true) == network.true.gradient[0] - network.true.gradient[-1]


def test_a_run_measures_every_network_and_draws_every_figure():
    sizes = {"length": 5, "hidden_size": 3, "batch": 2, "repeats": 2, "draws": 2}
    result = run(h_detach.EXPERIMENT, **sizes, forget_bias=(0.0, 5.0), scale=(1.0,), block=(0.5,))
    assert list(draw(result)) == ["forget_bias_0", "forget_bias_5", "hops", "direction"]
    assert [result.claims[i].holds for i in (0, 3, 4)] == [True] * 3
    networks, blocked, steps, hops = result.tables
    assert [row["forget_bias"] for row in networks.rows] == [0.0, 0.0, 5.0, 5.0]
    assert [row["block"] for row in blocked.rows] == [0.0, 0.5, 1.0] * 4
    assert networks.rows[0]["detached_first_log10"] == blocked.rows[2]["first_log10"]
    assert len(steps.rows) == 4 * 3 * 5
    assert len(hops.rows) == 4 * 5
    assert [blocked.rows[i]["noise"] > 0 for i in range(3)] == [False, True, False]
    assert "seeds 0 and 1" in result.reading[1]


def test_a_gradient_that_underflows_to_0_is_measured():
    sizes = {
        "length": 40,
        "hidden_size": 2,
        "batch": 1,
        "repeats": 1,
        "block": (),
        "scale": (0.1,),
    }
    result = run(h_detach.EXPERIMENT, **sizes, forget_bias=(-20.0,))
    assert result.tables[0].rows[0]["detached_first_log10"] == -np.inf
    assert [result.claims[i].holds for i in (0, 3, 4)] == [True] * 3
    assert "With h open none explodes here either." in result.headline
    assert "seed 0, 0 of $‖∂L/∂c_0‖$ is left" in result.headline


def test_where_no_gradient_arrives_at_all_nothing_is_lost_and_nothing_is_noise():
    sizes = {"length": 5, "hidden_size": 2, "batch": 1, "repeats": 1, "block": (0.5,)}
    result = run(h_detach.EXPERIMENT, **sizes, forget_bias=(-800.0,), scale=(1e-300,))
    row = result.tables[0].rows[0]
    assert (row["first_log10"], row["detached_first_log10"]) == (-np.inf, -np.inf)
    assert row["noise"] == 0.0
    assert result.headline.endswith("Nor is anything of $‖∂L/∂c_0‖$ lost.")
    assert "nan" not in " ".join(result.reading)


def test_the_noise_of_a_gradient_whose_squares_underflow_is_measured():
    model, batch = setting(length=4, batch=1)
    rng = [np.random.default_rng(0) for _ in range(2)]
    mean = gradients(model, measure.loss_with(model, batch, 0.6))[0][0]
    expected = measure.noise(model, batch, 0.4, 8, rng[0], mean)
    tiny = 1e-200  # of the head, and so of every gradient; the error is that of a prediction of 0
    model.head.weight.assign(tiny * model.head.weight.numpy())
    model.head.bias.assign(np.zeros(1))
    mean = gradients(model, measure.loss_with(model, batch, 0.6))[0][0]
    assert 0 < np.abs(mean).max() < 1e-190
    assert measure.noise(model, batch, 0.4, 8, rng[1], mean) == pytest.approx(expected)


def test_a_run_of_the_ends_alone_writes_its_files(tmp_path, draw_only):
    draw_only("forget_bias_1")
    sizes = ["--length", "4", "--hidden-size", "2", "--batch", "2", "--repeats", "1"]
    ends = ["--block", "0", "1", "--forget-bias", "1", "--scale", "2"]
    assert main(["h-detach", "--out", str(tmp_path / "out"), *sizes, *ends]) == 0
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(record["claims"]) == 5
    assert "draw" not in record["reading"][1]
    assert (tmp_path / "out" / "forget_bias_1.png").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block": (1.5,)}, "--block must be a probability"),
        ({"block": (np.nan,)}, "--block must be a probability"),
        ({"forget_bias": ()}, "--forget-bias needs at least one value"),
        ({"scale": (0.0,)}, "--scale must be a finite number above 0"),
        ({"length": 401}, "--length must be 400 or less"),
        ({"draws": 0}, "--draws must be 1 or more"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        h_detach.HDetachOptions(**options)
