"""Select the best continuations of a step: top-k of prefix plus token log-probabilities."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..namespaces import NUMPY, Array, namespace

_DIRECT = 512
"""Up to so many candidates of an example are sorted directly."""

_SORTED = 64
"""On the CPU, more numbers than this are partitioned before the largest are sorted."""

_FOLD = 8
"""How many maxima one round of folding reduces to one."""


class Candidates(NamedTuple):
    """The best continuations of each example, best first; ties are broken by parent, then by token.

    Attributes
    ----------
    log_probability : array (A, C), float64
        −inf if fewer than C continuations have a probability above 0.
    parent, token : arrays (A, C) of int
    top : array (A, K)
        The largest log-probability among each prefix's tokens; NaN if one of them is NaN.
    """

    log_probability: Array
    parent: Array
    token: Array
    top: Array


def best_candidates(
    prefixes: Array, tokens: Array, count: int, without: int | None = None
) -> Candidates:
    """Choose the best continuations of each example.

    Few candidates are sorted directly. For many, one pass over the log-probabilities finds the maxima of
    pieces of the vocabulary, which rule out most candidates.

    Parameters
    ----------
    prefixes : array (A, K), float64
        Log-probability of each of the K prefixes of A examples.
    tokens : array (A·K, M)
        Log-probability of each token after each of them.
    count : int
        The number C to choose; fewer if there are fewer continuations.
    without : int, optional
        A token that is not a candidate, such as the end token.
    """
    xp = namespace(tokens)
    A, K = prefixes.shape
    M = tokens.shape[1]
    tokens = xp.reshape(tokens, (A, K, M))
    count = min(count, K * (M - (without is not None)))
    if K * M > _DIRECT:
        search = _above_a_bound if xp is NUMPY else _in_the_best_blocks
        return search(xp, prefixes, tokens, count, without)
    sums = prefixes[:, :, None] + tokens
    if without is not None:
        sums = xp.where(xp.arange(M) == without, -math.inf, sums)
    best, at = _largest(xp, xp.reshape(sums, (A, K * M)), xp.arange(A)[:, None], count)
    return Candidates(best, at // M, at % M, xp.max(tokens, axis=2))


def _largest(xp: Any, x: Array, rows: Array, count: int) -> tuple[Array, Array]:
    """The largest numbers of each row, and their columns; of equal numbers the first ones."""
    if xp is NUMPY and x.size > _SORTED:
        ordered = x.copy()
        ordered.partition(-count, axis=1)
        large = ~(x < ordered[:, -count, None])  # ``count`` of each row or more, NaN among them
        at = large.reshape(-1).nonzero()[0]
        if at.size == count * x.shape[0]:  # otherwise there are ties, which sorting breaks
            at = at.reshape(-1, count)
            values = x.take(at)
            order = (-values).argsort(axis=1, kind="stable") + count * rows
            return values.take(order), at.take(order) - x.shape[1] * rows
    at = xp.argsort(-x, axis=1)[:, :count]
    return xp.index(x, (rows, at)), at


# --- many candidates, on the CPU ------------------------------------------------------------------


def _above_a_bound(
    xp: Any, prefixes: Array, tokens: Array, count: int, without: int | None
) -> Candidates:
    """Sort only the candidates that are not below the C-th largest maximum.

    Their number depends on their values; on a GPU the host would have to wait for it.
    """
    A, K, M = tokens.shape
    enough = count if without is None else count + K  # an end token may be its piece's maximum
    maxima = tokens
    while maxima.shape[2] >= _FOLD and K * maxima.shape[2] > 4 * _FOLD * enough:
        maxima = _folded(maxima)
    sums = (prefixes[:, :, None] + maxima).reshape(A, -1)
    bound = np.partition(sums, -enough, axis=1)[:, -enough, None]
    limits = np.finfo(tokens.dtype)
    with np.errstate(all="ignore"):  # infinities, and bounds too large for float16
        least = bound - prefixes - 8 * limits.eps * (abs(bound) + abs(prefixes))  # for rounding
        least = np.fmax(least.astype(tokens.dtype), limits.min)
    at = np.flatnonzero(~(tokens < least[:, :, None]))
    row = at // M
    token = at - row * M
    values = prefixes.take(row) + tokens.take(at)
    if without is not None:
        values[token == without] = -math.inf
    example = row // K
    found = np.bincount(example, minlength=A)
    if found.min() < count:  # fill up with candidates at −inf
        example = np.concatenate([example, np.repeat(np.arange(A), count)])
        row, token = (np.concatenate([x, np.zeros(A * count, int)]) for x in (row, token))
        values = np.concatenate([values, np.full(A * count, -math.inf)])
        found = found + count
    order = np.lexsort((-values, example))  # stable: ties stay in the order of parent and token
    first = found.cumsum() - found
    best = order[first[:, None] + np.arange(count)]
    return Candidates(values[best], row[best] % K, token[best], maxima.max(axis=2))


def _folded(x: Array) -> Array:
    """The maxima of every ``_FOLD`` elements at equal distances, followed by the rest: (A, K, ·)."""
    A, K, M = x.shape
    folded = M // _FOLD
    maxima = x[:, :, : folded * _FOLD].reshape(A, K, _FOLD, folded).max(axis=2)
    if folded * _FOLD == M:
        return maxima
    return np.concatenate([maxima, x[:, :, folded * _FOLD :]], axis=2)


# --- many candidates, on a GPU --------------------------------------------------------------------


def _in_the_best_blocks(
    xp: Any, prefixes: Array, tokens: Array, count: int, without: int | None
) -> Candidates:
    """Sort only the ``count`` blocks with the largest maxima: all of the best are in these."""
    A, K, M = tokens.shape
    size = int(1.5 * M**0.5)
    maxima = _block_maxima(xp, tokens, size)
    top = xp.max(maxima, axis=2)
    if without is not None:
        maxima = _with_maximum_of_others(xp, maxima, tokens, without, size)
    blocks = maxima.shape[2]
    sums = xp.reshape(prefixes[:, :, None] + maxima, (A, K * blocks))
    rows = xp.arange(A)[:, None]
    _, at = _largest(xp, sums, rows, min(count, K * blocks))
    at = xp.sort(at, axis=1)  # so that ties are broken by parent and token
    parent = at // blocks
    token = ((at - parent * blocks) * size)[:, :, None] + xp.arange(size)
    parent = xp.reshape(parent[:, :, None] + 0 * token, (A, -1))
    token = xp.reshape(token, (A, -1))
    no_candidate = token >= M if without is None else (token >= M) | (token == without)
    token = xp.minimum(token, M - 1)  # the last block may be shorter
    values = xp.index(tokens, (rows, parent, token))
    sums = xp.where(no_candidate, -math.inf, xp.index(prefixes, (rows, parent)) + values)
    best, at = _largest(xp, sums, rows, count)
    return Candidates(best, xp.index(parent, (rows, at)), xp.index(token, (rows, at)), top)


def _block_maxima(xp: Any, tokens: Array, size: int) -> Array:
    """Maxima of blocks of ``size`` tokens; the last block may be shorter: (A, K, blocks)."""
    A, K, M = tokens.shape
    full = M // size
    maxima = xp.max(xp.reshape(tokens[:, :, : full * size], (A, K, full, size)), axis=3)
    if full * size == M:
        return maxima
    return xp.concat([maxima, xp.max(tokens[:, :, full * size :], axis=2, keepdims=True)], axis=2)


def _with_maximum_of_others(
    xp: Any, maxima: Array, tokens: Array, without: int, size: int
) -> Array:
    """The maxima, where the block of token ``without`` has the maximum of its other tokens."""
    block = without // size
    inside = tokens[:, :, block * size : min((block + 1) * size, tokens.shape[2])]
    mask = xp.arange(inside.shape[2]) == without - block * size
    others = xp.max(xp.where(mask, -math.inf, inside), axis=2, keepdims=True)
    others = xp.astype(others, tokens.dtype)
    return xp.concat([maxima[:, :, :block], others, maxima[:, :, block + 1 :]], axis=2)
