"""RecurrentRegressor against its definition, computed with NumPy loops."""

import numpy as np
import pytest

import tinygrad182 as tg
from models import RecurrentRegressor
from tests.support import const

SIGMA = {"identity": lambda z: z, "tanh": np.tanh, "relu": lambda z: np.maximum(z, 0.0)}


def by_definition(model, x, h_0, nonlinearity):
    """ŷ and h_n from the formulas, one sample and one step at a time."""
    p = {name: np.asarray(value.numpy()) for name, value in model.state_dict().items()}
    below, last = x, []
    for layer in range(model.num_layers):
        states = np.empty((*x.shape[:2], h_0.shape[2]))
        for b in range(x.shape[1]):
            h = h_0[layer, b]
            for t in range(x.shape[0]):
                z = p[f"rnn.weight_ih_l{layer}"] @ below[t, b] + p[f"rnn.bias_ih_l{layer}"]
                h = SIGMA[nonlinearity](z + p[f"rnn.weight_hh_l{layer}"] @ h)
                states[t, b] = h
        below = states
        last.append(states[-1])
    return below @ p["head.weight"].T + p["head.bias"], np.stack(last)


@pytest.mark.parametrize("nonlinearity", list(SIGMA))
@pytest.mark.parametrize("layers", [1, 3])
def test_predictions_and_states_follow_the_definition(nonlinearity, layers):
    rng = np.random.default_rng(1)
    model = RecurrentRegressor(
        2, 5, 3, nonlinearity=nonlinearity, num_layers=layers, rng=0, dtype="float64"
    )
    x, h_0 = rng.normal(size=(6, 4, 2)), rng.normal(size=(layers, 4, 5))
    predictions, h_n = model(const(x), const(h_0))
    expected, expected_h_n = by_definition(model, x, h_0, nonlinearity)
    np.testing.assert_allclose(predictions.numpy(), expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(h_n.numpy(), expected_h_n, rtol=1e-13, atol=1e-13)


def test_states_start_at_zero():
    model = RecurrentRegressor(1, 4, rng=0, dtype="float64")
    x = const(np.random.default_rng(2).normal(size=(5, 3, 1)))
    given = model(x, tg.zeros((1, 3, 4), dtype="float64"))[0]
    np.testing.assert_array_equal(model(x)[0].numpy(), given.numpy())


def test_parameters_are_named_after_the_parts():
    names = [name for name, _ in RecurrentRegressor(1, 4, num_layers=2).named_parameters()]
    assert names == [
        "rnn.weight_ih_l0",
        "rnn.weight_hh_l0",
        "rnn.bias_ih_l0",
        "rnn.weight_ih_l1",
        "rnn.weight_hh_l1",
        "rnn.bias_ih_l1",
        "head.weight",
        "head.bias",
    ]


def test_one_seed_gives_one_model():
    first, same, other = (RecurrentRegressor(1, 4, rng=seed) for seed in (7, 7, 8))
    for name, value in first.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), same.state_dict()[name].numpy())
    assert (first.rnn.weight_hh_l0.numpy() != other.rnn.weight_hh_l0.numpy()).any()
    # The head's values are not those of the recurrent layer drawn again.
    drawn = first.rnn.weight_ih_l0.numpy().ravel()
    assert not np.allclose(first.head.weight.numpy().ravel(), drawn)


def test_an_unknown_cell_is_an_error_that_names_the_known_ones():
    with pytest.raises(tg.TinygradError, match="'gru' is not one of: rnn"):
        RecurrentRegressor(1, 4, cell="gru")
