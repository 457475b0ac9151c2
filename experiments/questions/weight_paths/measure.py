"""The contribution of each step's use of W_h to its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad182 as tg
from experiments.app.errors import OptionError
from experiments.drawing.numbers import Floats, making_up, norms, relative, signed_share, to_numpy
from experiments.regressors.networks import cell_and_nonlinearity
from experiments.regressors.untrained import Probe


@dataclass(frozen=True)
class Contributions:
    """The contribution of each step's use of W_h to its gradient, in one network.

    Parameters
    ----------
    nonlinearity : str
    seed : int
    norm : array (T,)
        ‖G_t‖.
    share : array (T,)
        ⟨G_t, G⟩/‖G‖², where G is the whole gradient; they sum to 1.
    sum_error : float
        ‖Σ_t G_t − G‖ in units of Σ_t ‖G_t‖, the size of what is added.
    copy_error : array (T,)
        ‖G_t − G'_t‖ / ‖G'_t‖, where G'_t is the gradient of the copy of W_h used at step t.
    cancelling : float
        Σ_t ‖G_t‖ / ‖G‖: how much larger the norms' sum is than the sum's norm.
    """

    nonlinearity: str
    seed: int
    norm: Floats
    share: Floats
    sum_error: float
    copy_error: Floats
    cancelling: float

    @property
    def reach(self) -> int:
        """The number of last steps that hold 90% of the gradient, by their signed shares."""
        return making_up(self.share[::-1])


def contributions(probed: Probe, seed: int) -> Contributions:
    """Measure the contribution of each step, and compare it with what must be the same."""
    parts = to_numpy(tg.inspect.weight_grad_by_time(probed.loss, probed.weight))
    copies = gradients_of_copies(probed)
    probed.loss.backward()
    assert probed.weight.grad is not None
    whole = to_numpy(probed.weight.grad)
    if not np.any(whole):
        raise OptionError(
            "The whole gradient of W_h is exactly zero, so it has no shares; choose another --seed "
            "or a larger --spectral-radius"
        )
    norm = norms(parts)
    (size,) = norms(whole[None])
    (left,) = norms((parts.sum(axis=0) - whole)[None])
    return Contributions(
        nonlinearity=probed.network.nonlinearity,
        seed=seed,
        norm=norm,
        share=signed_share(parts, whole),
        sum_error=float(left / norm.sum()),
        copy_error=relative(parts - copies, copies),
        cancelling=float(norm.sum() / size),
    )


def gradients_of_copies(probed: Probe) -> Floats:
    """∂L/∂W_h of a network with a W_h of its own at every step, all with the same values.

    Nothing is shared there, so each gradient is an ordinary one, in which no paths are summed. The
    loop is written out here: it uses neither the layer nor the view that it checks.
    """
    model, network = probed.model, probed.network
    layer: Any = model.rnn
    known: dict[str, Any] = {"identity": lambda z: z, "tanh": tg.tanh, "relu": tg.relu}
    sigma = known.get(network.nonlinearity) or cell_and_nonlinearity(network.nonlinearity)[1]
    values = to_numpy(probed.weight)
    inputs, labels = tg.tensor(probed.inputs), tg.tensor(probed.labels)
    copies = [tg.tensor(values, requires_grad=True) for _ in probed.inputs]
    h = tg.zeros((probed.inputs.shape[1], len(values)), dtype="float64")
    errors = []
    for step, copy in enumerate(copies):
        driven = inputs[step] @ layer.weight_ih_l0.T + layer.bias_ih_l0
        h = sigma(driven + h @ copy.T)
        errors.append(model.head(h) - labels[step])
    counted = errors if network.target == "all" else errors[-1:]
    loss = tg.stack(counted).square().mean()
    return np.stack([to_numpy(g) for g in tg.grad(loss, copies)])


def running_sum(each: Contributions) -> Floats:
    """Σ_{s ≥ t} share_s for each t."""
    summed: Floats = np.cumsum(each.share[::-1])[::-1]
    return summed
