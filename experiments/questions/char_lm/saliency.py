"""The characters that a prediction depends on: the gradient of its loss by the vector of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import tinygrad182 as tg
from experiments.drawing.numbers import Floats, in_decades, to_numpy
from experiments.questions.char_lm.learner import sequences
from experiments.questions.char_lm.text import Corpus, beginnings
from models import CharLM

PASSAGE = 192
"""Most characters of the held-out text whose predictions are looked at one by one."""

LAGS = 100
"""Characters before the predicted one in the windows whose median is taken."""

WINDOWS = 256
"""Most windows of the held-out text in the median."""

BACK = 80
"""How many characters back the claim looks: about a line of text."""

BEFORE = 40
"""Least number of characters before the one that is framed at first."""


@dataclass(frozen=True)
class Saliency:
    """The influence of each character of a text on the predictions after it, in one model.

    The loss of character k is L_k = −log p, where p is the probability that the model, which has read the
    text up to and including character k, gives to the one that follows. x_t is the embedding vector of
    character t, which is the model's input at step t.

    Attributes
    ----------
    cell : str
        The model's recurrent layer: ``"rnn"``, ``"lstm"`` or ``"gru"``.
    log10 : array (T, T)
        log10 ‖∂L_k/∂x_t‖ by k and t; −∞ for the characters after k, which the model has not read.
    probabilities : array (T, M)
        What the model expects after each character.
    by_lag : array (LAGS,)
        log10 of ‖∂L_k/∂x_{k−lag}‖ / ‖∂L_k/∂x_k‖, the median over the last characters k of many windows
        of the held-out text. A mean would be that of one or two windows: norms far back differ by decades.
    """

    cell: str
    log10: Floats
    probabilities: Floats
    by_lag: Floats

    @property
    def name(self) -> str:
        """The cell's name in a text."""
        return self.cell.upper()

    def relative(self) -> Floats:
        """log10 of each norm over the largest of the same prediction, (T, T); NaN where all are 0."""
        with np.errstate(invalid="ignore"):
            relative: Floats = self.log10 - self.log10.max(axis=1, keepdims=True)
        return relative

    def distances(self) -> Floats:
        """The characters that each prediction looks back, (T,): the mean of k − t weighted by norms."""
        weights = 10.0 ** self.relative()
        at = np.arange(len(weights))
        back: Floats = at - (weights @ at) / weights.sum(axis=1)
        return back


def saliency_of(model: CharLM, source: Corpus) -> Saliency:
    """Look at a model's predictions in the held-out text."""
    text = passage(source)
    log10, probabilities = of_text(model, text)
    return Saliency(model.cell, log10, probabilities, by_lag(model, source.held_out))


def passage(source: Corpus) -> str:
    """A paragraph of the held-out text and what follows it: one character more than it has predictions."""
    text = source.held_out
    start = min(text.find(beginnings(text, 3)[-1]), len(text) - PASSAGE - 1)
    return text[max(start, 0) :][: PASSAGE + 1]


def of_text(model: CharLM, text: str) -> tuple[Floats, Floats]:
    """log10 ‖∂L_k/∂x_t‖ ``(T, T)`` and the probabilities ``(T, M)`` of a text of T + 1 characters."""
    tokens = model.encode(text)
    logits, _ = model(tokens[:-1, None])
    log_probabilities = tg.log_softmax(logits[:, 0])
    losses = -log_probabilities[np.arange(len(text) - 1), tokens[1:]]
    return _log10_norms(model, losses), np.exp(to_numpy(log_probabilities).astype(np.float64))


def by_lag(model: CharLM, text: str) -> Floats:
    """log10 of ‖∂L_k/∂x_{k−lag}‖ / ‖∂L_k/∂x_k‖, the median over windows; ``(LAGS,)``.

    k is the last character of each window. The windows are spread evenly over the text. Those whose loss
    has no gradient at all are left out; NaN where there are no others.
    """
    pieces = sequences(model.encode(text), WINDOWS, LAGS)[: LAGS + 1]
    norms = []
    for each in range(pieces.shape[1]):  # over a batch a norm is that of all windows together
        piece = pieces[:, each : each + 1]
        logits, _ = model(piece[:-1])
        (norm,) = _log10_norms(model, tg.nn.cross_entropy(logits[-1:], piece[-1:]))
        if np.isfinite(norm[-1]):
            norms.append(norm[::-1] - norm[-1])
    found: Floats = np.median(norms, axis=0) if norms else np.full(LAGS, np.nan)
    return found


def _log10_norms(model: CharLM, losses: tg.Tensor) -> Floats:
    return in_decades(tg.inspect.input_grad_matrix(losses, f"{model.cell}.l0", log=True))


def telling(found: Saliency) -> int:
    """The character at which a model looks farthest back."""
    distances = np.nan_to_num(found.distances(), nan=-1.0)
    first = min(BEFORE, len(distances) - 1)
    return first + int(distances[first:].argmax())
