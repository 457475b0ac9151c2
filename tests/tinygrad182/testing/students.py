"""Cells as students write them, right in several styles, and wrong ones."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

import tinygrad182 as tg
from tests.support import device

# --- right ----------------------------------------------------------------------------------------


def lstm(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    i, f, g, o = tg.split(x @ W_ih.T + h @ W_hh.T + b, 4, axis=-1)
    c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
    return tg.sigmoid(o) * tg.tanh(c), c


def lstm_marked(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    """Gate by gate, with names."""
    n, found = h.shape[-1], {}
    for k, gate in enumerate("ifgo"):
        rows = slice(k * n, (k + 1) * n)
        a = x @ W_ih[rows].T + b_ih[rows] + h @ W_hh[rows].T + b_hh[rows]
        found[gate] = tg.inspect.mark(tg.tanh(a) if gate == "g" else tg.sigmoid(a), gate)
    c = found["f"] * c + found["i"] * found["g"]
    return found["o"] * tg.tanh(c), c


def lstm_packed(x: Any, state: Any, weight_ih: Any, weight_hh: Any, bias: Any) -> Any:
    """One product of [x, h], and the sigmoid from exp."""
    h, c = state
    n = h.shape[-1]
    a = tg.concat([x, h], axis=-1) @ tg.concat([weight_ih, weight_hh], axis=-1).T + bias
    s = 1 / (1 + tg.exp(-a))
    c = s[..., n : 2 * n] * c + s[..., :n] * (
        2 * (1 / (1 + tg.exp(-2 * a[..., 2 * n : 3 * n]))) - 1
    )
    return tg.tanh(c) * s[..., 3 * n :], c


def lstm_in_numpy(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    """Plain NumPy, with a cache for a backward pass."""
    n = h.shape[-1]
    a = x @ np.transpose(W_ih) + h @ np.transpose(W_hh) + b
    i, f, o = (1 / (1 + np.exp(-a[:, k * n : (k + 1) * n])) for k in (0, 1, 3))
    g = np.tanh(a[:, 2 * n : 3 * n])
    c_next = f * c + i * g
    return o * np.tanh(c_next), c_next, (x, h, c, i, f, g, o)


class LSTMModule(tg.nn.Module):
    """A module with two Linear layers."""

    def __init__(self, inputs: int, units: int) -> None:
        self.x2h = tg.nn.Linear(inputs, 4 * units, rng=0, device=device())
        self.h2h = tg.nn.Linear(units, 4 * units, rng=1, device=device())

    names: ClassVar[dict[str, str]] = {
        "x2h.weight": "weight_ih",
        "x2h.bias": "bias_ih",
        "h2h.weight": "weight_hh",
        "h2h.bias": "bias_hh",
    }

    def forward(self, x: Any, state: Any) -> Any:
        h, c = state
        i, f, g, o = tg.split(self.x2h(x) + self.h2h(h), 4, axis=-1)
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
        h = tg.sigmoid(o) * tg.tanh(c)
        return h, (h, c)


class OwnLSTM(tg.nn.RecurrentLayer):
    """A class of your own, with the blocks' names."""

    gates, state = ("i", "f", "g", "o"), ("h", "c")

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        i, f, g, o = xp.split(x + h, 4, axis=-1)
        c = xp.sigmoid(f) * state[1] + xp.sigmoid(i) * xp.tanh(g)
        return xp.sigmoid(o) * xp.tanh(c), c


def gru(x: Any, h: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    xr, xz, xn = tg.split(x @ W_ih.T + b_ih, 3, axis=-1)
    hr, hz, hn = tg.split(h @ W_hh.T + b_hh, 3, axis=-1)
    r, z = tg.sigmoid(xr + hr), tg.sigmoid(xz + hz)
    n = tg.tanh(xn + r * hn)
    return (1 - z) * n + z * h


def rnn(x: Any, h: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    return tg.tanh(x @ W_ih.T + h @ W_hh.T + b)


# --- wrong: the name of the mistake, and the step -------------------------------------------------


def _lstm(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any, order: str = "ifgo") -> Any:
    blocks = tg.split(x @ W_ih.T + h @ W_hh.T + b, 4, axis=-1)
    a = dict(zip(order, blocks, strict=True))
    return tg.sigmoid(a["i"]), tg.sigmoid(a["f"]), tg.tanh(a["g"]), tg.sigmoid(a["o"])


def order_of_gates(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    i, f, g, o = _lstm(x, h, c, W_ih, W_hh, b, "igfo")
    c = f * c + i * g
    return o * tg.tanh(c), c


def missing_transpose(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    n = h.shape[-1]
    a = tg.split(x @ W_ih.T + b, 4, axis=-1)
    i, f, g, o = (a[k] + h @ W_hh[k * n : (k + 1) * n] for k in range(4))
    c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
    return tg.sigmoid(o) * tg.tanh(c), c


def h_instead_of_c(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    i, f, g, o = _lstm(x, h, c, W_ih, W_hh, b)
    c = f * h + i * g
    return o * tg.tanh(c), c


def no_bias(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    i, f, g, o = _lstm(x, h, c, W_ih, W_hh, 0 * b)
    c = f * c + i * g
    return o * tg.tanh(c), c


def half_a_bias(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    i, f, g, o = _lstm(x, h, c, W_ih, W_hh, b_ih)
    c = f * c + i * g
    return o * tg.tanh(c), c


def tanh_on_the_wrong_side(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    i, f, g, o = _lstm(x, h, c, W_ih, W_hh, b)
    c = f * c + i * g
    return tg.tanh(o * c), c


def no_tanh(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    i, f, g, o = _lstm(x, h, c, W_ih, W_hh, b)
    c = f * c + i * g
    return o * c, c


def detached(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    i, f, g, o = _lstm(x, h, c, W_ih, W_hh, b)
    c = f * c.detach() + i * g
    return o * tg.tanh(c), c


def outside_of_the_graph(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    return lstm(*[a.detach() for a in (x, h, c, W_ih, W_hh, b)])


WRONG_LSTM = {
    "no gradient at all": outside_of_the_graph,
    "gates in another order": order_of_gates,
    "weight_hh without its transpose": missing_transpose,
    "h instead of c": h_instead_of_c,
    "bias left out": no_bias,
    "bias_hh left out": half_a_bias,
    "tanh on the wrong side: around o ∘ c": tanh_on_the_wrong_side,
    "tanh left out in tanh(c_t)": no_tanh,
    "no gradient through c": detached,
}


def gru_swapped(x: Any, h: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    xr, xz, xn = tg.split(x @ W_ih.T + b_ih, 3, axis=-1)
    hr, hz, hn = tg.split(h @ W_hh.T + b_hh, 3, axis=-1)
    r, z = tg.sigmoid(xr + hr), tg.sigmoid(xz + hz)
    return z * tg.tanh(xn + r * hn) + (1 - z) * h


def gru_reset_before(x: Any, h: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    k = h.shape[-1]
    xr, xz, xn = tg.split(x @ W_ih.T + b_ih, 3, axis=-1)
    hr, hz, _ = tg.split(h @ W_hh.T + b_hh, 3, axis=-1)
    r, z = tg.sigmoid(xr + hr), tg.sigmoid(xz + hz)
    n = tg.tanh(xn + (r * h) @ W_hh[2 * k :].T + b_hh[2 * k :])
    return (1 - z) * n + z * h


def gru_z_first(x: Any, h: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    xz, xr, xn = tg.split(x @ W_ih.T + b_ih, 3, axis=-1)
    hz, hr, hn = tg.split(h @ W_hh.T + b_hh, 3, axis=-1)
    r, z = tg.sigmoid(xr + hr), tg.sigmoid(xz + hz)
    return (1 - z) * tg.tanh(xn + r * hn) + z * h


def gru_tanh_of_the_h_part(x: Any, h: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    xr, xz, xn = tg.split(x @ W_ih.T + b_ih, 3, axis=-1)
    hr, hz, hn = tg.split(h @ W_hh.T + b_hh, 3, axis=-1)
    r, z = tg.sigmoid(xr + hr), tg.sigmoid(xz + hz)
    return (1 - z) * (xn + tg.tanh(r * hn)) + z * h


WRONG_GRU = {
    "tanh on the wrong side: around r ∘ h part": gru_tanh_of_the_h_part,
    "z and 1 − z swapped": gru_swapped,
    "reset gate before the product": gru_reset_before,
    "gates in another order": gru_z_first,
}


def rnn_untransposed(x: Any, h: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    return tg.tanh(x @ W_ih.T + h @ W_hh + b)


def rnn_without_bias(x: Any, h: Any, W_ih: Any, W_hh: Any) -> Any:
    return tg.tanh(x @ W_ih.T + h @ W_hh.T)


def rnn_tanh_of_h(x: Any, h: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    return x @ W_ih.T + b_ih + tg.tanh(h @ W_hh.T + b_hh)


def rnn_tanh_of_each(x: Any, h: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    """One bias alone: in the sum with x or in that with h."""
    return tg.tanh(x @ W_ih.T) + tg.tanh(h @ W_hh.T + b)


def rnn_tanh_before_the_product(x: Any, h: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    return x @ W_ih.T + tg.tanh(h) @ W_hh.T + b


WRONG_RNN = {
    "tanh on the wrong side: around each sum": rnn_tanh_of_each,
    "tanh on the wrong side: around the h before the step": rnn_tanh_before_the_product,
    "weight_hh without its transpose": rnn_untransposed,
    "bias left out": rnn_without_bias,
    "tanh on the wrong side: around h": rnn_tanh_of_h,
}
