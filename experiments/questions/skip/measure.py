"""Measure gradients through depth, with skips and without, and add up every path by hand."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.app.errors import OptionError
from experiments.drawing.numbers import Floats, relative, signed_share, to_numpy
from experiments.regressors.data import batch_of
from experiments.regressors.flow import loss_of
from experiments.regressors.networks import LAYER, regressor
from models import ResidualNet

if TYPE_CHECKING:
    from experiments.questions.skip import SkipOptions

Kind = Literal["ResNet", "plain network", "LSTM"]
Nonlinearity = Literal["tanh", "relu", "identity"]
NET = "residualnet"
"""Path of a residual network's states."""


@dataclass(frozen=True)
class Depth:
    """The gradient through the layers, or time steps, of one untrained network.

    Parameters
    ----------
    kind : {"ResNet", "plain network", "LSTM"}
    scale : float
        What the initial weights were multiplied by.
    seed : int
    gradient : array (depth,)
        log10 ‖∂L/∂h_l‖, for an LSTM log10 ‖∂L/∂c_t‖.
    shares : dict of str to array (depth,)
        Signed shares: ``"free"`` came without a matrix product (skip, cell path), ``"matrix"``
        through one (branch, hidden path), ``"local"`` from the loss itself.
    sum_error : float
        Largest error of the sum of the shares, relative to the sum of their sizes.
    skip_error : float
        Largest relative difference of what a skip passes and the gradient above it; 0 without.
    """

    kind: Kind
    scale: float
    seed: int
    gradient: Floats
    shares: dict[str, Floats]
    sum_error: float
    skip_error: float = 0.0

    @property
    def growth(self) -> float:
        """Decades from the last layer or step back to the first."""
        return float(self.gradient[0] - self.gradient[-1])


def residual_net(
    opts: SkipOptions, depth: int, seed: int, scale: float = 1.0, skip: bool = True
) -> ResidualNet:
    """Make a network that reads as many numbers as it is deep; one seed draws the same values."""
    options: Any = {"nonlinearity": opts.nonlinearity, "skip": skip, "dtype": "float64"}
    model = ResidualNet(depth, opts.hidden_size, depth=depth, rng=seed, **options)
    for block in model.blocks:
        weight = block.linear.weight
        weight.assign(weight.detach() * scale)
    return model


def depth_batch(seed: int, batch: int, depth: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The LSTM's sequences as inputs ``(B, depth)``, and their means ``(B, 1)``."""
    inputs, labels = batch_of(seed, batch, depth)
    return np.ascontiguousarray(inputs[:, :, 0].T), labels[-1]


def net_loss(model: ResidualNet, batch: tuple[NDArray[Any], NDArray[Any]]) -> tg.Tensor:
    """Mean squared error of a residual network."""
    inputs, labels = batch
    return tg.nn.mse_loss(model(tg.tensor(inputs)), tg.tensor(labels))


def see_net(opts: SkipOptions, scale: float, seed: int, skip: bool) -> Depth:
    """Measure a residual network, or the plain one with the same values."""
    depth = opts.length
    model = residual_net(opts, depth, seed, scale, skip)
    loss = net_loss(model, depth_batch(seed, opts.batch, depth))
    gradient = tg.inspect.gradient_flow(loss)[NET].h.log10_grad_norm
    parts = edge_parts(loss, depth)
    whole = np.stack([to_numpy(state.grad) for state in states_of(tg.inspect.trace(loss), depth)])
    shares = {name: signed_share(part, whole) for name, part in parts.items()}
    return Depth(
        "ResNet" if skip else "plain network",
        scale,
        seed,
        gradient,
        shares,
        sum_error(shares),
        float(relative(parts["free"][:-1] - whole[1:], whole[1:]).max()) if skip else 0.0,
    )


def states_of(graph: tg.inspect.Graph, depth: int) -> list[tg.inspect.GraphNode]:
    """The states after each block."""
    return [graph.select(name="h", time=layer)[0] for layer in range(depth)]


def edge_parts(loss: tg.Tensor, depth: int) -> dict[str, Floats]:
    """Split each ∂L/∂h_l by the edge of the graph it came over, ``(depth, B, H)`` each.

    A state is used by the sum of the next block (its skip), by the product with the next block's
    weights (its branch), or by the head.
    """
    states = states_of(tg.inspect.trace(loss), depth)
    parts = {name: np.zeros((depth, *states[0].shape)) for name in ("free", "matrix", "local")}
    for layer, state in enumerate(states):
        for edge in state.edges:
            if layer == depth - 1:
                part = "local"
            else:
                part = "free" if edge.consumer == states[layer + 1] else "matrix"
            parts[part][layer] += to_numpy(edge.cotangent)
    return parts


def see_lstm(opts: SkipOptions, scale: float, seed: int) -> Depth:
    """Measure an LSTM on the same numbers, one at each step."""
    loss = lstm_loss(opts, scale, seed)
    gradient = tg.inspect.gradient_flow(loss)[LAYER].c.log10_grad_norm
    split = tg.inspect.path_split(loss, LAYER)["c"].shares
    shares = dict(zip(("free", "matrix", "local"), split.values(), strict=True))
    return Depth("LSTM", scale, seed, gradient, shares, sum_error(shares))


def lstm_loss(opts: SkipOptions, scale: float, seed: int) -> tg.Tensor:
    """Loss of an LSTM at its last step."""
    model = regressor("lstm", opts.hidden_size, seed, forget_bias=opts.forget_bias, scale=scale)
    return loss_of(model, batch_of(seed, opts.batch, opts.length), "last")[0]


def sum_error(shares: Mapping[str, Floats]) -> float:
    """Largest difference of the shares' sum from 1, relative to the sum of their sizes.

    Where a gradient is exactly 0 there are no shares.
    """
    stack = np.stack(list(shares.values()))
    stack = stack[:, ~np.isnan(stack).any(axis=0)]
    return float(np.max(np.abs(stack.sum(axis=0) - 1.0) / np.abs(stack).sum(axis=0), initial=0.0))


@dataclass(frozen=True)
class Branches:
    """A shallow residual network's gradient by h_0, split by the number of branches on the way.

    Parameters
    ----------
    measured, by_hand : array (blocks + 1, B, H)
        Class j went through exactly j of the blocks; by hand, every path is followed on its own.
    """

    measured: Floats
    by_hand: Floats

    @property
    def error(self) -> float:
        """Largest relative error of a class."""
        return float(relative(self.measured - self.by_hand, self.by_hand).max())


def see_branches(opts: SkipOptions) -> Branches:
    """Split the gradient by the state below some blocks, and follow all 2^blocks paths."""
    depth = opts.blocks + 1  # the first block makes the state
    model = residual_net(opts, depth, opts.seed)
    data = depth_batch(opts.seed, opts.batch, depth)
    split = tg.inspect.grad_by_hops(net_loss(model, data), opts.blocks, state="h", through="branch")
    parameters = {name: to_numpy(value) for name, value in model.state_dict().items()}
    by_hand = every_path(parameters, *data, depth, opts.nonlinearity)
    return Branches(to_numpy(split.grad)[:, 0], by_hand)


def every_path(
    parameters: Mapping[str, NDArray[Any]],
    inputs: NDArray[Any],
    labels: NDArray[Any],
    depth: int,
    nonlinearity: Nonlinearity,
) -> Floats:
    """∂L/∂h_0 as a sum over paths: through each subset of the blocks above, added up by its size.

    Computed with NumPy from the definition, without the autodiff engine.
    """
    p = parameters
    h = inputs @ p["stem.weight"].T + p["stem.bias"]
    jacobians = []  # σ′ of each block, and its weights
    for block in range(depth):
        weight = p[f"blocks.{block}.linear.weight"]
        z = h @ weight.T + p[f"blocks.{block}.linear.bias"]
        value = {"tanh": np.tanh(z), "relu": np.maximum(z, 0.0), "identity": z}[nonlinearity]
        slope = {"tanh": 1.0 - value**2, "relu": 1.0 * (z > 0), "identity": np.ones_like(z)}
        jacobians.append((slope[nonlinearity], weight))
        h = h + value
    predictions = h @ p["head.weight"].T + p["head.bias"]
    start = 2.0 * (predictions - labels) / labels.size @ p["head.weight"]
    sums = np.zeros((depth, *start.shape))
    for through in itertools.product((False, True), repeat=depth - 1):
        delta = start
        for taken, (slope, weight) in zip(through, reversed(jacobians[1:]), strict=True):
            if taken:
                delta = (delta * slope) @ weight
        sums[sum(through)] += delta
    return sums


@dataclass(frozen=True)
class Products:
    """Signed shares of the gradient at the first layer or step, by matrix products on the way.

    Parameters
    ----------
    shares : array (J+1,)
        Of what went through 0, 1, … J products.
    rest : float or None
        Of what went through more; None where none can.
    """

    shares: Floats
    rest: float | None

    @property
    def sizes(self) -> float:
        """Sum of the shares' sizes: 1 unless some of them are negative."""
        return float(np.abs(self.shares).sum() + abs(self.rest or 0.0))


def product_shares(opts: SkipOptions, max_hops: int) -> dict[Kind, Products]:
    """Split the gradient at the first layer or step by matrix products, up to ``max_hops``."""
    depth, seed = opts.length, opts.seed
    loss = net_loss(residual_net(opts, depth, seed), depth_batch(seed, opts.batch, depth))
    net_split = tg.inspect.grad_by_hops(loss, max_hops, state="h", through="branch")
    loss = lstm_loss(opts, 1.0, seed)
    split = tg.inspect.grad_by_hops(loss, max_hops, state="c", through="h", path=LAYER)
    found: dict[Kind, Products] = {}
    pairs: tuple[tuple[Kind, Any], ...] = (("ResNet", net_split), ("LSTM", split))
    for kind, hops in pairs:
        classes = np.concatenate([to_numpy(hops.grad), to_numpy(hops.rest)[None]])[:, :1]
        *shares, rest = (float(signed_share(part, classes.sum(axis=0))[0]) for part in classes)
        found[kind] = Products(np.array(shares), rest if max_hops < depth - 1 else None)
    return found


def see(opts: SkipOptions, scale: float, seed: int) -> list[Depth]:
    """Measure the three networks of a seed."""
    found = [see_net(opts, scale, seed, skip) for skip in (True, False)]
    found.append(see_lstm(opts, scale, seed))
    if not all(
        np.isfinite(depth.gradient).all() for depth in found if depth.kind != "plain network"
    ):
        raise OptionError(
            f"A gradient with weights × {scale:g} is 0 or not finite; choose a smaller --length "
            "or --scale"
        )
    return found


def growths(found: Sequence[Depth], kind: Kind, scale: float = 1.0) -> list[float]:
    """Decades from the last layer to the first, one for each seed."""
    return [depth.growth for depth in found if (depth.kind, depth.scale) == (kind, scale)]
