"""An LSTM by hand: its gates from its parameters, and its gradients from its gates.

Written down from the definition with NumPy alone, without the autodiff engine: what the
measurements of an LSTM are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.drawing.numbers import Floats


@dataclass(frozen=True)
class Gates:
    """Everything one layer computes at each time step, all ``(T, B, H)``."""

    i: Floats
    f: Floats
    g: Floats
    o: Floats
    c: Floats
    h: Floats

    @property
    def outward(self) -> Floats:
        """∂h_t/∂c_t = o_t ∘ (1 − tanh² c_t), the diagonal."""
        return self.o * (1.0 - np.tanh(self.c) ** 2)


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + e^−z), in the form that does not overflow."""
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * z))
    return result


def run_gates(parameters: Mapping[str, NDArray[Any]], inputs: NDArray[Any]) -> Gates:
    """Run the first layer of a regressor over ``(T, B, I)``, states starting at zero."""
    w_x, w_h = parameters["rnn.weight_ih_l0"], parameters["rnn.weight_hh_l0"]
    bias = parameters["rnn.bias_ih_l0"] + parameters["rnn.bias_hh_l0"]
    h = c = np.zeros((inputs.shape[1], w_h.shape[1]))
    steps = []
    for x in inputs:
        i, f, g, o = np.split(x @ w_x.T + h @ w_h.T + bias, 4, axis=-1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        steps.append((i, f, g, o, c, h))
    return Gates(*(np.stack(kind) for kind in zip(*steps, strict=True)))


def cell_parts(gates: Gates, w_h: NDArray[Any], local: Floats) -> dict[str, Floats]:
    """Backpropagate by hand, and split each ∂L/∂c_t by the way it came.

    Parameters
    ----------
    gates : Gates
    w_h : array (4H, H)
        The recurrent matrix.
    local : array (T, B, H)
        ∂L_t/∂h_t: what each step's own loss sends to its hidden state.

    Returns
    -------
    dict of str to array (T, B, H)
        ``"direct"``: f_{t+1} ∘ δ_{c_{t+1}}; ``"via h"``: through h_t and the next step's gates;
        ``"local"``: through h_t from the loss of step t.
    """
    outward, squashed = gates.outward, np.tanh(gates.c)
    before = np.concatenate([np.zeros_like(gates.c[:1]), gates.c[:-1]])
    parts = {name: np.zeros_like(local) for name in ("direct", "via h", "local")}
    through_cell = through_hidden = np.zeros_like(local[0])
    for t in reversed(range(len(local))):
        parts["direct"][t] = through_cell
        parts["via h"][t] = outward[t] * through_hidden
        parts["local"][t] = outward[t] * local[t]
        dc = through_cell + outward[t] * (through_hidden + local[t])
        i, f, g, o = gates.i[t], gates.f[t], gates.g[t], gates.o[t]
        dz = (
            dc * g * i * (1.0 - i),
            dc * before[t] * f * (1.0 - f),
            dc * i * (1.0 - g**2),
            (through_hidden + local[t]) * squashed[t] * o * (1.0 - o),
        )
        through_cell, through_hidden = f * dc, np.concatenate(dz, axis=-1) @ w_h
    return parts


def cell_path(gates: Gates, local: Floats) -> Floats:
    """∂L/∂c_t over the cell path alone: (∏ f_s) ∘ what each later loss sends to its own c.

    With a loss at the last step only this is (∏_{s>t} f_s) ∘ δ_{c_{T−1}}.
    """
    path = np.zeros_like(local)
    arrived = np.zeros_like(local[0])
    for t in reversed(range(len(local))):
        path[t] = arrived + gates.outward[t] * local[t]
        arrived = gates.f[t] * path[t]
    return path
