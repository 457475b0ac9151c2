"""The numbers that the playground draws: norms over time, shares by path, the last step's Jacobian."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import GraphError
from ...nn.init import spectral_radius
from ...tensors.tensor import Tensor
from ..passes.scaling import HostArray
from ..views.gain_split import gain_split
from ..views.gradient_flow import gradient_flow
from ..views.path_split import BRANCH, path_split
from ..views.step_flow import step_flow
from ..views.step_jacobians import StepJacobians, step_jacobians


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The gradient of one loss on its way back through one recurrence.

    Attributes
    ----------
    time : ndarray ``(T,)``
    values, gradients : dict of str to ndarray ``(T,)``
        log10 of the norms by the state's name, from :func:`gradient_flow`.
    state : str
        The state that is split by path: ``c`` of an LSTM.
    shares : dict of str to ndarray ``(T,)``
        The shares of its gradient: :func:`path_split`'s.
    radius : float
        |λ|max of the last step's Jacobian; NaN where there is none.
    kept : float
        The mean over time and units of the factor on the direct path: of the gate, if one is given, or else
        of the diagonal of the state's own block of the Jacobian (an LSTM's forget gates). NaN for a
        recurrence with one state, if no gate is given.
    saturation, weight : float
        log10 of the factors by which a step back multiplies the gradient, averaged over time:
        :func:`gain_split`'s. NaN if the state is not a nonlinearity of a sum, or not the only state.
    """

    time: HostArray
    values: dict[str, HostArray]
    gradients: dict[str, HostArray]
    state: str
    shares: dict[str, HostArray]
    radius: float
    kept: float
    saturation: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Facts about the steps of a network that do not depend on the loss.

    Attributes
    ----------
    jacobians : StepJacobians
    gate : ndarray ``(T,)`` or None
        The mean over units of a gate that was asked for.
    """

    jacobians: StepJacobians[HostArray]
    gate: HostArray | None


@np.errstate(all="ignore")
def network_of(loss: Tensor, path: str | None = None, gate: str | None = None) -> Network:
    """Measure the steps of the recurrence at ``path``.

    Parameters
    ----------
    loss : Tensor
    path : str, optional
    gate : str, optional
        The name of the gate that passes a state straight on, such as a GRU's ``z``.
    """
    opened = None
    if gate is not None:
        flow = step_flow(loss, path)
        opened = flow.vectors(gate, flow.time.tolist()).value.mean(axis=-1)
    return Network(jacobians=step_jacobians(loss, path), gate=opened)


@np.errstate(all="ignore")  # gradients that vanish or overflow are what is looked at
def measure(
    loss: Tensor,
    path: str | None = None,
    gate: str | None = None,
    network: Network | None = None,
    last: bool = False,
) -> Measured:
    """Measure the gradient of a loss.

    Parameters
    ----------
    loss : Tensor
    path : str, optional
        The recurrence; by default the first that leads to the loss.
    gate : str, optional
        As in :func:`network_of`.
    network : Network, optional
        The facts about a sequence that begins with this loss's sequence, if they are known.
    last : bool
        Whether the loss is known to read the last state alone; a single state then needs no split.
    """
    flow = gradient_flow(loss)
    path = next(iter(flow)) if path is None else path
    stack = flow[path]
    if last and len(stack) == 1:
        (state,) = stack
        shares = _all_from_the_last(stack[state].log10_grad_norm)
    else:
        splits = path_split(loss, path)
        state = max(splits, key=lambda name: len(splits[name].shares))
        shares = splits[state].shares
    network = network_of(loss, path, gate) if network is None else network
    radius, kept = _of_steps(network, state, stack[state].time)
    saturation, weight = _factors(loss, path) if len(stack) == 1 else (np.nan, np.nan)
    shown = [name for name in stack if name != BRANCH]
    return Measured(
        time=stack[state].time,
        values={name: np.log10(stack[name].value_norm) for name in shown},
        gradients={name: stack[name].log10_grad_norm for name in shown},
        state=state,
        shares=shares,
        radius=radius,
        kept=kept,
        saturation=saturation,
        weight=weight,
    )


def _all_from_the_last(logs: HostArray) -> dict[str, HostArray]:
    """The shares of a loss that reads the last state alone; NaN if no gradient arrives."""
    local = np.where(np.isfinite(logs), 0.0, np.nan)
    local[-1:] += 1.0
    return {"direct": 1.0 - local, "local": local}


def _of_steps(network: Network, state: str, time: HostArray) -> tuple[float, float]:
    """|λ|max of the last step's Jacobian, and the mean of what goes straight from a state to itself."""
    there = np.isin(network.jacobians.time, time[1:])  # none leads from the first to one before
    matrices, names = network.jacobians.matrices[there], network.jacobians.names
    if not len(matrices):
        return np.nan, np.nan
    radius = spectral_radius(matrices[np.argmax(network.jacobians.time[there])])
    if network.gate is not None:
        return radius, float(network.gate[1 : len(time)].mean())
    if len(names) == 1:
        return radius, np.nan
    units = matrices.shape[1] // len(names)
    own = slice(names.index(state) * units, (names.index(state) + 1) * units)
    return radius, float(np.diagonal(matrices[:, own, own], axis1=1, axis2=2).mean())


def _factors(loss: Tensor, path: str) -> tuple[float, float]:
    """log10 of the factors of saturation and of weight, over the steps from the last to the first."""
    try:
        split = gain_split(loss, path)
    except GraphError:
        return np.nan, np.nan
    steps = np.isfinite(split.weight) & (split.time > split.time[0])
    saturation, weight = (
        np.log10(f[steps]).mean() if steps.any() else np.nan
        for f in (split.saturation, split.weight)
    )
    return float(saturation), float(weight)
