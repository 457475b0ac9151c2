"""One step of an LSTM language model on plain arrays, for decoding at speed."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad182 as tg

WIDTH = 64
"""Columns in a block."""

SMALL = 1_000_000
"""Multiplications up to which OpenBLAS takes the weights as they lie, instead of packing them first."""


class FrozenStep:
    """``step(tokens, state=None) -> (log_probabilities, (h, c))``, as :mod:`tinygrad182.decode` takes it.

    What makes it fast:

    - The product of a token's vector with W_x is looked up, not computed.
    - σ(z) = ½ tanh(z/2) + ½ lets all gates share one tanh; the halves of z/2 are in the weights.
    - For few sequences the columns of weights are blocks that lie apart in memory: small products, which
      take the weights as they lie. The whole matrices stay for many sequences.

    The weights are copies, and nothing that was returned is written to again. Tokens are not checked.

    Parameters
    ----------
    embedding : Tensor ``(M, E)``
    layers : list of (W_x, W_h, b)
        Of each LSTM layer, ``(4H, E or H)``, ``(4H, H)``, ``(4H,)`` or None; gates in the order i, f, g, o.
    head, bias : Tensor ``(M, H)``, ``(M,)`` or None

    Examples
    --------
    >>> lstm, head = tg.nn.LSTM(3, 4, rng=0), tg.nn.Linear(4, 5, rng=1)
    >>> layers = [(lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0)]
    >>> step = FrozenStep(tg.ones((5, 3)), layers, head.weight, head.bias)
    >>> log_probabilities, state = step(tg.tensor([0, 4], dtype="int64").data)
    >>> log_probabilities.shape
    (2, 5)
    """

    def __init__(
        self,
        embedding: tg.Tensor,
        layers: list[tuple[tg.Tensor, tg.Tensor, tg.Tensor | None]],
        head: tg.Tensor,
        bias: tg.Tensor | None,
    ) -> None:
        with tg.no_grad():
            self.table, recurrent = _first_layer(embedding, *layers[0])
            above = [_layer_above(*layer) for layer in layers[1:]]
            self.bias = _array(tg.zeros_like(head[:, 0]) if bias is None else bias)
            self.recurrent, self.head = _Product(recurrent), _Product(_array(head.T))
            self.above = [(_Product(weights), biases) for weights, biases in above]
        self.hidden_size = head.shape[1]
        self.xp = tg.backend.namespace(self.bias)
        self.device = self.xp.device(self.bias)
        self.in_place = self.xp.name in ("numpy", "cupy")

    def __call__(self, tokens: Any, state: Any = None) -> tuple[Any, tuple[Any, Any]]:
        """Go on by one token.

        Parameters
        ----------
        tokens : array, Tensor or sequence of int ``(N,)``
            On any device, as the state; both go to that of the weights.
        state : (h, c), each an array or Tensor ``(layers, N, H)``, optional
            Zeros by default.

        Returns
        -------
        log_probabilities : array ``(N, M)``
        state : (h, c), each an array ``(layers, N, H)``
        """
        with tg.backend.on(self.bias):
            hidden, cells = self.states(tokens, state)
            logits = self.head(hidden[-1, ...])
            logits += self.bias
            return self._log_softmax(logits), (hidden, cells)

    def states(self, tokens: Any, state: Any = None) -> tuple[Any, Any]:
        """Go on by one token without asking what comes next: the states alone."""
        with tg.backend.on(self.bias):
            tokens = self._here(tokens)
            shape = (1 + len(self.above), tokens.shape[0], self.hidden_size)
            dtype = self.bias.dtype
            if state is None:
                state = (self.xp.zeros(shape, dtype=dtype),) * 2
            h, c = map(self._here, state)
            hidden, cells = (self.xp.empty(shape, dtype=dtype) for _ in range(2))
            z = self.recurrent(h[0, ...])
            z += self.xp.take(self.table, tokens, axis=1)
            self._gates(z, c[0, ...], hidden[0, ...], cells[0, ...])
            for k, (weights, biases) in enumerate(self.above, start=1):
                z = weights(self.xp.concat([hidden[k - 1, ...], h[k, ...]], axis=1))
                z += biases
                self._gates(z, c[k, ...], hidden[k, ...], cells[k, ...])
            return hidden, cells

    def _here(self, x: Any) -> Any:
        """Tokens or a state as an array on the device of the weights."""
        if isinstance(x, tg.Tensor):
            x = x.data
        elif not tg.backend.is_array(x):
            x = np.asarray(x)
        return tg.backend.move(x, self.device)

    def _gates(self, z: Any, c: Any, hidden: Any, cells: Any) -> None:
        """Write the next states, given the gates ``(4, N, H)`` before their nonlinearity."""
        z = self._into(z, self.xp.tanh, z)
        sigmoids = z[:3, ...]
        sigmoids *= 0.5
        sigmoids += 0.5
        i, f, o, g = (z[j, ...] for j in range(4))
        g *= i
        self._into(cells, self.xp.multiply, f, c)
        cells += g
        self._into(hidden, self.xp.tanh, cells)
        hidden *= o

    def _into(self, out: Any, function: Any, *x: Any) -> Any:
        """Write the function's values, in place where the library can."""
        if self.in_place:
            return function(*x, out=out)
        out[...] = function(*x)
        return out

    def _log_softmax(self, logits: Any) -> Any:
        """Computed where the logits are; never above 0, since a largest logit becomes exactly 0 first."""
        xp = self.xp
        logits -= xp.max(logits, axis=1, keepdims=True)
        logits -= xp.log(xp.sum(xp.exp(logits), axis=1, keepdims=True))
        return logits


class _Product:
    """``x @ weights``, weights ``(H, M)`` or several of them ``(4, H, M)``, in the faster way for x."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights
        self.xp = tg.backend.namespace(weights)
        *more, n, size = weights.shape
        count = size // WIDTH if self.xp is tg.backend.NUMPY and size > WIDTH else 0
        self.split = count * WIDTH
        self.blocks = None
        if count:
            blocks = weights[..., : self.split].reshape(*more, n, count, WIDTH)
            self.blocks = blocks.swapaxes(-3, -2).copy()
        self.rest = weights[..., self.split :]

    def __call__(self, x: Any) -> Any:
        blocks = self.blocks
        if blocks is None or x.shape[0] * x.shape[1] * WIDTH > SMALL:
            return x @ self.weights
        *more, count, _, width = blocks.shape
        out = self.xp.empty((*more, x.shape[0], self.weights.shape[-1]), dtype=x.dtype)
        by_block = out[..., : self.split].reshape(*more, x.shape[0], count, width)
        self.xp.matmul(x, blocks, out=by_block.swapaxes(-3, -2))
        if self.rest.shape[-1]:
            self.xp.matmul(x, self.rest, out=out[..., self.split :])
        return out


def _first_layer(
    embedding: tg.Tensor, weight_ih: tg.Tensor, weight_hh: tg.Tensor, bias: tg.Tensor | None
) -> tuple[Any, Any]:
    """What each token adds to the gates ``(4, M, H)``, and W_hᵀ ``(4, H, H)``."""
    projected = embedding @ weight_ih.T
    projected = projected if bias is None else projected + bias
    return _array(tg.swapaxes(_by_gate(projected.T), 1, 2)), _columns(weight_hh)


def _layer_above(
    weight_ih: tg.Tensor, weight_hh: tg.Tensor, bias: tg.Tensor | None
) -> tuple[Any, Any]:
    """Weights of the states from below and of its own ``(4, 2H, H)``, and biases ``(4, 1, H)``."""
    bias = tg.zeros_like(weight_hh[:, 0]) if bias is None else bias
    return _columns(tg.concat([weight_ih, weight_hh], axis=1)), _array(_by_gate(bias)[:, None])


def _columns(weight: tg.Tensor) -> Any:
    return _array(tg.swapaxes(_by_gate(weight), 1, 2))


def _by_gate(rows: tg.Tensor) -> tg.Tensor:
    """Rows ``(4H, ...)`` as ``(4, H, ...)``: gates in the order i, f, o, g, the first three halved."""
    gates = tg.reshape(rows, (4, rows.shape[0] // 4, *rows.shape[1:]))
    return tg.concat([0.5 * gates[:2], 0.5 * gates[3:], gates[2:3]])


def _array(x: tg.Tensor) -> Any:
    """The values of a tensor in memory of their own, row by row."""
    return tg.tensor(x).data
