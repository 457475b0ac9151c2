"""One network under a loss at the last step and a loss at every step: measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.drawing.numbers import Floats, in_decades, making_up, norms, signed_share, to_numpy
from experiments.regressors.networks import LAYER, Network
from experiments.regressors.untrained import UntrainedOptions, probe


@dataclass(frozen=True)
class Targets:
    """One untrained network under both losses.

    Parameters
    ----------
    radius : float
    seed : int
    last, every : arrays (T,)
        log10 ‖∂L/∂h_t‖ with the loss at the last step, and at every step.
    matrix : array (T, T)
        log10 ‖∂L_k/∂h_t‖, where L = Σ_k L_k is the loss at every step; −inf above the diagonal.
    local, through : arrays (T,)
        Signed shares of ∂L/∂h_t from the loss at step t, and through later steps; they sum to 1.
    by_loss : array (T,)
        Signed share of loss L_k in ∂L/∂h_0.
    sum_error : float
        Largest ‖Σ_k ∂L_k/∂h_t − ∂L/∂h_t‖ of any step, in units of Σ_k ‖∂L_k/∂h_t‖.
    stretch : float
        log10 of the largest singular value of W_h.
    """

    radius: float
    seed: int
    last: Floats
    every: Floats
    matrix: Floats
    local: Floats
    through: Floats
    by_loss: Floats
    sum_error: float
    stretch: float

    @property
    def decay(self) -> Floats:
        """log10(‖∂L_k/∂h_t‖ / ‖∂L_k/∂h_k‖): how much of loss k's gradient reaches step t."""
        with np.errstate(invalid="ignore"):
            found: Floats = self.matrix - np.diag(self.matrix)[:, None]
        return found

    @property
    def lags(self) -> NDArray[np.int64]:
        """K − t of each entry of the matrix."""
        steps = np.arange(len(self.last))
        return np.asarray(steps[:, None] - steps)

    @property
    def reach(self) -> int:
        """The number of earliest losses that make up ∂L/∂h_0 to 10%, by their signed shares."""
        return making_up(self.by_loss)


def see(
    opts: UntrainedOptions, network: Network, seed: int, advance: Callable[[], object]
) -> Targets:
    """Measure one network; ``advance`` is called for every loss."""
    probed = probe(replace(network, target="all"), opts, seed)
    alone = probe(replace(network, target="last"), opts, seed)
    errors = (probed.predictions - tg.tensor(probed.labels)).square()
    losses = errors.mean(axis=(1, 2)) / opts.length  # the mean over all steps is their sum
    total = to_numpy(tg.inspect.gradient_flow(probed.loss)[LAYER].h.grad)
    added, size = np.zeros_like(total), np.zeros(len(total))
    by_loss = []
    for loss in losses:
        part = to_numpy(tg.inspect.gradient_flow(loss)[LAYER].h.grad)
        part = np.concatenate([part, np.zeros((len(total) - len(part), *total.shape[1:]))])
        added += part
        size += norms(part)
        by_loss.append(float(signed_share(part[:1], total[0])[0]))
        advance()
    split = tg.inspect.path_split(probed.loss)["h"]
    return Targets(
        radius=network.radius,
        seed=seed,
        last=log_norms(alone.loss),
        every=log_norms(probed.loss),
        matrix=in_decades(tg.inspect.state_grad_matrix(losses, log=True)),
        local=split.shares["local"],
        through=split.shares["direct"],
        by_loss=np.array(by_loss),
        sum_error=float(np.max(norms(added - total) / np.where(size > 0, size, 1.0))),
        stretch=probed.stretch,
    )


def log_norms(loss: tg.Tensor) -> Floats:
    """log10 ‖∂L/∂h_t‖."""
    return tg.inspect.gradient_flow(loss)[LAYER].h.log10_grad_norm


def excess(each: Targets) -> float:
    """The largest distance of an entry of the matrix above its bound, in decades."""
    below = (each.lags > 0) & np.isfinite(each.decay)
    over = each.decay - each.lags * each.stretch
    return float(np.max(over[below], initial=-math.inf))


def last_row_error(each: Targets) -> float:
    """Largest difference between the matrix's last row and the loss at the last step alone."""
    row = each.matrix[-1] + math.log10(len(each.last))
    both = np.isfinite(row) | np.isfinite(each.last)
    with np.errstate(invalid="ignore"):
        return float(np.max(np.abs(row - each.last)[both], initial=0.0))
