"""Measure the ways that an LSTM's gradient takes, and compare them with the gates' own arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.drawing.numbers import Floats, log10, norms, relative, signed_share, to_numpy
from experiments.questions.cell_path.lstm_by_hand import cell_parts, cell_path, run_gates
from experiments.regressors.data import batch_of
from experiments.regressors.flow import LayerFlow, Target, loss_of, mse_gradient
from experiments.regressors.measurement import Moment
from experiments.regressors.networks import LAYER
from models import RecurrentRegressor

if TYPE_CHECKING:
    from experiments.questions.cell_path import CellPathOptions

PARTS = {"direct": "cell path", "via h": "hidden path", "local": "local loss"}
"""Names of the parts of ∂L/∂c_t in figures."""


@dataclass(frozen=True)
class Paths:
    """An LSTM's gradient by its cell state, split by the way it came.

    Parameters
    ----------
    forget_bias : float
        What the network started with.
    seed : int
    moment : {"before", "after"}
        Of training.
    target : {"last", "all"}
        Which steps enter the loss.
    loss : float
    gradient, forget : array (T,)
        log10 ‖∂L/∂c_t‖, and the mean of the forget gates.
    shares : dict of str to array (T,)
        Signed share of each part in one step; they sum to 1.
    hops, hop_shares : array (J+2, T)
        log10 of the norm of what went through 0, 1, … J hidden states, and through more; and their
        signed shares.
    by_hand : array (T,)
        log10 of the norm of the cell path alone, from the gates.
    sum_error, part_error, hop_error : float
        Largest error of any step: of the sum of the shares, relative to the sum of their sizes; of
        a part, relative to the whole; of the cell path alone, relative to itself.
    """

    forget_bias: float
    seed: int
    moment: Moment
    target: Target
    loss: float
    gradient: Floats
    forget: Floats
    shares: dict[str, Floats]
    hops: Floats
    hop_shares: Floats
    by_hand: Floats
    sum_error: float
    part_error: float
    hop_error: float

    @property
    def slope(self) -> float:
        """Decades that ∂L/∂c_t gains at each step back."""
        return LayerFlow(np.nan, self.gradient, self.gradient).measured_slope

    @property
    def one_step(self) -> float:
        """Share of the cell path in one step: the median of all steps but the last."""
        return float(np.median(self.shares["direct"][:-1]))

    @property
    def passed_log10(self) -> float:
        """log10 of the part of ‖∂L/∂c_{T−1}‖ that the cell path alone passes to c_0: ‖(∏ f_s) ∘ δ‖ / ‖δ‖.

        This holds with a loss at the last step only; otherwise later losses add to it.
        """
        return float(self.hops[0, 0] - self.gradient[-1])

    @property
    def passed(self) -> float:
        """The part of the last gradient that the cell path alone passes to c_0."""
        return float(10.0**self.passed_log10)

    @property
    def alone(self) -> Floats:
        """Share of the cell path alone, from the loss back to each step."""
        return self.hop_shares[0]


def see_paths(
    model: RecurrentRegressor,
    batch: tuple[NDArray[Any], NDArray[Any]],
    target: Target,
    max_hops: int,
    *,
    forget_bias: float,
    seed: int,
    moment: Moment,
) -> Paths:
    """Measure a one-layer LSTM on a batch, and compare with the gates by hand."""
    inputs, labels = batch
    loss, predictions = loss_of(model, batch, target)
    split = tg.inspect.path_split(loss, LAYER)["c"]
    hops = tg.inspect.grad_by_hops(loss, max_hops, state="c", through="h", path=LAYER)
    parameters = {name: to_numpy(value) for name, value in model.state_dict().items()}
    gates = run_gates(parameters, inputs)
    local = mse_gradient(to_numpy(predictions), labels, target) @ parameters["head.weight"]
    by_hand = cell_parts(gates, parameters["rnn.weight_hh_l0"], local)
    path = cell_path(gates, local)
    whole = by_hand["direct"] + by_hand["via h"] + by_hand["local"]
    classes = np.concatenate([to_numpy(hops.grad), to_numpy(hops.rest)[None]])
    total = sum(split.shares.values())
    sizes = sum(np.abs(share) for share in split.shares.values())
    return Paths(
        forget_bias=forget_bias,
        seed=seed,
        moment=moment,
        target=target,
        loss=float(loss.item()),
        gradient=log10(norms(split.grad)),
        forget=gates.f.mean(axis=(1, 2)),
        shares=dict(split.shares),
        hops=np.stack([log10(norms(part)) for part in classes]),
        hop_shares=np.stack([signed_share(part, to_numpy(split.grad)) for part in classes]),
        by_hand=log10(norms(path)),
        sum_error=float(np.max(np.abs(total - 1.0) / sizes)),
        part_error=max(
            float(relative(to_numpy(part) - by_hand[name], whole).max())
            for name, part in split.parts.items()
        ),
        hop_error=float(relative(classes[0] - path, path).max()),
    )


def see(
    opts: CellPathOptions, model: RecurrentRegressor, bias: float, seed: int, moment: Moment
) -> list[Paths]:
    """Measure one network with both losses."""
    batch = batch_of(seed, opts.batch, opts.length)
    return [
        see_paths(model, batch, target, opts.hops, forget_bias=bias, seed=seed, moment=moment)
        for target in ("last", "all")
    ]


def pick(found: Sequence[Paths], bias: float, moment: str = "before") -> list[Paths]:
    """The networks of a forget bias with the loss at the last step, one for each seed."""
    return [p for p in found if (p.forget_bias, p.moment, p.target) == (bias, moment, "last")]
