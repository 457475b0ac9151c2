"""The fast step of an LSTM language model: arrays in, arrays out, weights arranged for decoding."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import backend
from ..arrays.namespaces import Array
from ..engine.modes import no_grad
from ..errors import ArgumentError
from ..nn.embedding import Embedding
from ..nn.linear import Linear
from ..nn.lstm import LSTM
from ..nn.recurrent import RecurrentLayer
from ..tensors.creation import tensor, zeros_like
from ..tensors.functions import concat, reshape, swapaxes
from ..tensors.tensor import Tensor
from .step_function import array_of

BLOCK = 64
"""Columns in a block of weights."""

SMALL_PRODUCT = 1_000_000
"""Up to so many multiplications OpenBLAS reads the weights where they are, without packing them first."""


class LSTMStep:
    """The step of an LSTM language model, for decoding at speed.

    It computes ``log_softmax(head(lstm(embedding(tokens))))``, to rounding, and records nothing. It copies
    the weights when it is made: training the layers afterwards does not change it. It does not check
    tokens, and it never writes to what it has returned.

    Parameters
    ----------
    embedding : Embedding
        M tokens to vectors.
    lstm : LSTM
        One direction, any number of layers. Dropout between layers is left out, as in evaluation.
    head : Linear
        The last hidden state to M logits.

    Raises
    ------
    ArgumentError
        A recurrent layer of another kind, or one that also runs backward in time.

    Notes
    -----
    Three things make it fast:

    - The product of a token's vector with W_x is looked up in a table of all M products.
    - σ(z) = ½ tanh(z/2) + ½, so one tanh serves all gates. The weights contain the factor in z/2.
    - For few sequences, blocks of columns of the weights are multiplied one by one: OpenBLAS reads them
      where they are. For many sequences it multiplies by the whole matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> embedding, lstm, head = tg.nn.Embedding(5, 3), tg.nn.LSTM(3, 4), tg.nn.Linear(4, 5)
    >>> step = tg.decode.LSTMStep(embedding, lstm, head)
    >>> log_probabilities, (h, c) = step(np.array([0, 4]))
    >>> log_probabilities.shape, h.shape
    ((2, 5), (1, 2, 4))
    >>> len(tg.decode.greedy(step, None, start=0, max_length=6, state_axis=1).tokens)
    6
    """

    def __init__(self, embedding: Embedding, lstm: RecurrentLayer, head: Linear) -> None:
        if not isinstance(lstm, LSTM) or lstm.bidirectional:
            kind = "bidirectional LSTM" if isinstance(lstm, LSTM) else type(lstm).__name__
            raise ArgumentError(
                f"LSTMStep: the recurrent layer is a {kind}; this fast step exists for a tg.nn.LSTM of "
                "one direction only. Decode with the model's own step instead"
            )
        layers = [_weights(lstm, k) for k in range(lstm.num_layers)]
        with no_grad():
            self.table, recurrent = _first_layer(embedding.weight, *layers[0])
            self.recurrent = _Product(recurrent)
            self.above = [
                (_Product(_by_column(concat([weight_ih, weight_hh], axis=1))), _by_row(bias))
                for weight_ih, weight_hh, bias in layers[1:]
            ]
            self.head = _Product(_copied(head.weight.T))
            self.bias = _copied(zeros_like(head.weight[:, 0]) if head.bias is None else head.bias)
        self.hidden_size = lstm.hidden_size
        self.xp = backend.namespace(self.bias)
        self.device = self.xp.device(self.bias)
        self.in_place = self.xp.name in ("numpy", "cupy")

    def __repr__(self) -> str:
        layers, M = 1 + len(self.above), len(self.bias)
        return f"LSTMStep({M} tokens, {layers} layers of {self.hidden_size} units, {self.device})"

    def __call__(self, tokens: Any, state: Any = None) -> tuple[Array, tuple[Array, Array]]:
        """Return the log-probabilities of the next token, and the state after ``tokens``.

        Parameters
        ----------
        tokens : array, Tensor or sequence of int ``(N,)``
            The last token of each sequence. Tokens and state may be on any device.
        state : (h, c), each an array or Tensor ``(layers, N, H)``, optional
            Zeros by default.

        Returns
        -------
        log_probabilities : array ``(N, M)``
        state : (h, c), each an array ``(layers, N, H)``
            On the device of the weights, as the log-probabilities.
        """
        with backend.on(self.bias):
            h, c = self.states(tokens, state)
            logits = self.head(h[-1, ...])
            logits += self.bias
            return _log_softmax(self.xp, logits), (h, c)

    def states(self, tokens: Any, state: Any = None) -> tuple[Array, Array]:
        """Return the state (h, c) after ``tokens``, without the log-probabilities."""
        with backend.on(self.bias):
            tokens = self._here(tokens)
            shape = 1 + len(self.above), tokens.shape[0], self.hidden_size
            dtype = self.bias.dtype
            if state is None:
                state = (self.xp.zeros(shape, dtype=dtype),) * 2
            h, c = map(self._here, state)
            new_h, new_c = (self.xp.empty(shape, dtype=dtype) for _ in range(2))
            z = self.recurrent(h[0, ...])
            z += self.xp.take(self.table, tokens, axis=1)
            self._update(z, c[0, ...], new_h[0, ...], new_c[0, ...])
            for k, (weights, bias) in enumerate(self.above, start=1):
                z = weights(self.xp.concat([new_h[k - 1, ...], h[k, ...]], axis=1))
                z += bias
                self._update(z, c[k, ...], new_h[k, ...], new_c[k, ...])
            return new_h, new_c

    def _here(self, x: Any) -> Array:
        """Tokens or a state as an array on the device of the weights."""
        x = array_of(x)
        return backend.move(x if backend.is_array(x) else np.asarray(x), self.device)

    def _update(self, z: Array, c: Array, new_h: Array, new_c: Array) -> None:
        """Write a layer's next state, given the sums ``z`` (4, N, H) of its gates i, f, o, g."""
        z = self._into(z, self.xp.tanh, z)
        sigmoids = z[:3, ...]
        sigmoids *= 0.5
        sigmoids += 0.5
        i, f, o, g = (z[j, ...] for j in range(4))
        g *= i
        self._into(new_c, self.xp.multiply, f, c)
        new_c += g
        self._into(new_h, self.xp.tanh, new_c)
        new_h *= o

    def _into(self, out: Array, function: Any, *x: Array) -> Array:
        """Write the function's values into ``out``, directly where the library can."""
        if self.in_place:
            return function(*x, out=out)
        out[...] = function(*x)
        return out


class _Product:
    """``x @ weights``, weights ``(H, M)`` or ``(4, H, M)``, by blocks of columns where that is faster."""

    def __init__(self, weights: Array) -> None:
        self.weights = weights
        self.xp = backend.namespace(weights)
        *gates, n, size = weights.shape
        count = size // BLOCK if self.xp is backend.NUMPY and size > BLOCK else 0
        self.split = count * BLOCK
        self.blocks = None
        if count:
            blocks = weights[..., : self.split].reshape(*gates, n, count, BLOCK)
            self.blocks = blocks.swapaxes(-3, -2).copy()
        self.rest = weights[..., self.split :]

    def __call__(self, x: Array) -> Array:
        blocks = self.blocks
        if blocks is None or x.shape[0] * x.shape[1] * BLOCK > SMALL_PRODUCT:
            return x @ self.weights
        *gates, count, _, width = blocks.shape
        out = self.xp.empty((*gates, x.shape[0], self.weights.shape[-1]), dtype=x.dtype)
        by_block = out[..., : self.split].reshape(*gates, x.shape[0], count, width)
        self.xp.matmul(x, blocks, out=by_block.swapaxes(-3, -2))
        if self.rest.shape[-1]:
            self.xp.matmul(x, self.rest, out=out[..., self.split :])
        return out


def _log_softmax(xp: Any, logits: Array) -> Array:
    """Log-softmax in the memory of ``logits``; the largest logit becomes 0 first, so none is above 0."""
    logits -= xp.max(logits, axis=1, keepdims=True)
    logits -= xp.log(xp.sum(xp.exp(logits), axis=1, keepdims=True))
    return logits


def _weights(lstm: RecurrentLayer, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """W_x, W_h and the bias of layer k; zeros for a layer without a bias."""
    weight_ih, weight_hh = (getattr(lstm, f"weight_{name}_l{k}") for name in ("ih", "hh"))
    bias = getattr(lstm, f"bias_ih_l{k}", None)
    return weight_ih, weight_hh, zeros_like(weight_hh[:, 0]) if bias is None else bias


def _first_layer(
    embedding: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Array, Array]:
    """The contribution of each token to the sums of the gates (4, M, H), and W_hᵀ (4, H, H)."""
    return _by_column((embedding @ weight_ih.T + bias).T), _by_column(weight_hh)


def _by_column(weight: Tensor) -> Array:
    """Weights ``(4H, n)`` as ``(4, n, H)``, by gate."""
    return _copied(swapaxes(_by_gate(weight), 1, 2))


def _by_row(bias: Tensor) -> Array:
    """A bias ``(4H,)`` as ``(4, 1, H)``, by gate."""
    return _copied(_by_gate(bias)[:, None])


def _by_gate(rows: Tensor) -> Tensor:
    """Rows ``(4H, ...)`` of gates i, f, g, o as ``(4, H, ...)`` of i, f, o, g, where i, f, o are halved."""
    gates = reshape(rows, (4, rows.shape[0] // 4, *rows.shape[1:]))
    return concat([0.5 * gates[:2], 0.5 * gates[3:], gates[2:3]])


def _copied(x: Tensor) -> Array:
    """The values of a Tensor in contiguous memory of their own."""
    return tensor(x)._data
