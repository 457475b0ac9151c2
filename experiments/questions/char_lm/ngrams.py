"""n-gram models of characters: what counting predicts, for comparison."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ngram_losses(
    training: NDArray[np.int64], held_out: NDArray[np.int64], size: int, longest: int
) -> list[float]:
    """Mean −log p of held-out tokens under n-gram models, n = 1 … ``longest``, in nats.

    Each model is mixed with the next shorter one as Witten and Bell do: after a context that n tokens
    followed, d of them different, the shorter one's probability has weight d/(n + d). The shortest one is
    mixed with 1/size.

    Parameters
    ----------
    training, held_out : array (n,), (m,)
        Tokens; the second text follows the first.
    size : int
        Tokens in the vocabulary.
    longest : int

    Examples
    --------
    "a" once in two tokens, d = 2 and weight ½; then the same with the token before, which is new:

    >>> losses = ngram_losses(np.array([0, 1]), np.array([0]), 2, 2)
    >>> np.exp(-np.array(losses))
    array([0.5, 0.5])
    """
    tokens, n = np.concatenate([training, held_out]), len(training)
    context = np.zeros(len(tokens), np.int64)  # the number of the context each token has
    probability = np.full(len(held_out), 1 / size)
    losses = []
    for _ in range(longest):
        pairs, pair = np.unique(context * size + tokens, return_inverse=True)
        seen = np.bincount(pair[:n], minlength=len(pairs))
        contexts = int(context.max()) + 1
        followed = np.bincount(context[:n], minlength=contexts)[context[n:]]
        kinds = np.bincount(pairs[seen > 0] // size, minlength=contexts)[context[n:]]
        total = np.maximum(followed + kinds, 1)
        mixed = (seen[pair[n:]] + kinds * probability) / total
        probability = np.where(followed > 0, mixed, probability)
        losses.append(0.0 - float(np.log(probability).mean()))  # and never −0
        # A context one longer: the one before and the token that followed it.
        context = np.concatenate([[len(pairs)], pair[:-1]])
    return losses
