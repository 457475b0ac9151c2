"""A recurrent regressor, forwards and backwards, in plain NumPy without the framework."""

import numpy as np
from rich.progress import Progress

from tinygrad182.display import charts

SIGMA = {"identity": lambda z: z, "tanh": np.tanh, "relu": lambda z: np.where(z.real > 0, z, 0)}
SLOPE = {
    "identity": np.ones_like,
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "relu": lambda z: (z > 0).astype(float),
}


def run(experiment, **options):
    """Run an experiment on options given by name."""
    with Progress(disable=True) as progress, charts.unchecked():
        return experiment.run(experiment.options(**options), progress)


def draw(result):
    """Build every chart of a result, as writing its files does."""
    return {figure.name: figure.spec for figure in result.figures}


def parameters(probed):
    return {name: value.numpy() for name, value in probed.model.state_dict().items()}


def forward(probed, recurrent=None):
    """Pre-activations, states and predictions; ``recurrent`` gives each step a W_h of its own."""
    p = parameters(probed)
    sigma = SIGMA[probed.network.nonlinearity]
    weights = [p["rnn.weight_hh_l0"]] * len(probed.inputs) if recurrent is None else recurrent
    bias = p["rnn.bias_ih_l0"] + p["rnn.bias_hh_l0"]
    h = np.zeros((probed.inputs.shape[1], len(bias)))
    z, states = [], []
    for x, w in zip(probed.inputs, weights, strict=True):
        z.append(h @ w.T + x @ p["rnn.weight_ih_l0"].T + bias)
        h = sigma(z[-1])
        states.append(h)
    predictions = np.array(states) @ p["head.weight"].T + p["head.bias"]
    return np.array(z), np.array(states), predictions


def loss(probed, recurrent=None):
    """Mean squared error over the steps of the target; complex where a weight is."""
    difference = forward(probed, recurrent)[2] - probed.labels
    return np.mean((difference if probed.network.target == "all" else difference[-1:]) ** 2)


def gradients(probed, k):
    """∂L_k/∂h_t for every t, where L_k is the mean squared error of step k over the batch."""
    p = parameters(probed)
    z, _, predictions = forward(probed)
    slopes = SLOPE[probed.network.nonlinearity](z)
    error = predictions[k] - probed.labels[k]
    found = np.zeros_like(z)
    found[k] = 2 * error / error.size @ p["head.weight"]
    for t in range(k, 0, -1):
        found[t - 1] = (found[t] * slopes[t]) @ p["rnn.weight_hh_l0"]
    return found
