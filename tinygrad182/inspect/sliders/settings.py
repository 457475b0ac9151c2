"""The stops of the playground's sliders, and the network of each combination of stops."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ...nn import GRU, LSTM, RNN, RecurrentLayer
from ...nn.init import generator, spectral_radius
from ...nn.nonlinearity import Nonlinearity, apply_nonlinearity
from ...tensors.creation import tensor
from ...tensors.functions import sum as total
from ...tensors.tensor import Tensor
from ..passes.scaling import HostArray

STOPS: dict[str, tuple[Any, ...]] = {
    "cell": ("RNN", "LSTM", "GRU", "ResNet"),
    "nonlinearity": ("tanh", "relu", "identity"),
    "radius": (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 3.0),
    "bias": (0.0, 1.0, 3.0),
    "forget_bias": (0.0, 1.0, 2.0, 5.0),
    "length": (10, 30, 100, 200),
    "loss": ("last", "all"),
}
"""Control → its stops."""

APPLIES = {"nonlinearity": ("RNN", "ResNet"), "forget_bias": ("LSTM",)}
"""Control → the cells that have it, for controls that some cells lack."""

OF_NETWORK = ("cell", "nonlinearity", "radius", "bias", "forget_bias")
"""The controls that the states depend on; a shorter sequence has the first of the states."""

INPUTS, LONGEST = 4, max(STOPS["length"])


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaygroundSetting:
    """One stop of every control.

    Attributes
    ----------
    cell : {"RNN", "LSTM", "GRU", "ResNet"}
    nonlinearity : {"tanh", "relu", "identity"}
        The nonlinearity of RNN and ResNet; the gated cells have their own.
    radius : float
        The spectral radius of the recurrent weights: of each H × H block, one for every gate.
    bias : float
        The factor of the biases, which are drawn from the standard normal distribution.
    forget_bias : float
        A number that is added to the biases of the LSTM's forget gates.
    length : int
        Steps of the sequence; the ResNet's blocks.
    loss : {"last", "all"}
        Whether it reads the last state or every state.
    """

    cell: str = "RNN"
    nonlinearity: str = "tanh"
    radius: float = 0.9
    bias: float = 0.0
    forget_bias: float = 0.0
    length: int = 100
    loss: str = "last"

    def __post_init__(self) -> None:
        for name, stops in STOPS.items():
            if getattr(self, name) not in stops:
                stand = ", ".join(map(str, stops))
                raise ArgumentError(
                    f"playground: {name} = {getattr(self, name)!r} is not a stop; there are {stand}"
                )

    def applies(self, control: str) -> bool:
        """Whether the cell has the property that a control sets."""
        return self.cell in APPLIES.get(control, (self.cell,))

    @property
    def unit(self) -> str:
        """The unit of time: a block of the ResNet, or else a step."""
        return "block" if self.cell == "ResNet" else "step"

    @property
    def network(self) -> str:
        """The name of its network in the page's data."""
        return self._named(OF_NETWORK)

    @property
    def key(self) -> str:
        """Its name in the page's data, such as ``"RNN/tanh/0.9/1//100/last"``."""
        return self._named(tuple(STOPS))

    def _named(self, controls: tuple[str, ...]) -> str:
        return "/".join(written(getattr(self, n)) if self.applies(n) else "" for n in controls)


def written(stop: str | float) -> str:
    """Write a stop, as on the page.

    >>> [written(stop) for stop in ("tanh", 0.25, 1.0, 200)]
    ['tanh', '0.25', '1', '200']
    """
    return stop if isinstance(stop, str) else f"{stop:g}"


def settings(stops: Mapping[str, Sequence[Any]]) -> Iterator[PlaygroundSetting]:
    """Every combination of stops, each once: a control that a cell does not have stays at its first stop.

    Settings of one network follow each other.
    """
    for chosen in itertools.product(*stops.values()):
        setting = PlaygroundSetting(**dict(zip(stops, chosen, strict=True)))
        idle = (name for name in stops if not setting.applies(name))
        if all(getattr(setting, name) == stops[name][0] for name in idle):
            yield setting


class Residual(RecurrentLayer):
    """Residual blocks with one weight matrix: h_t = h_{t−1} + σ(W h_{t−1} + b), t counts blocks.

    W multiplies a copy of the state, ``branch``, so that the gradient through it is separate from the
    gradient over the skip.
    """

    gates = 1
    state = ("branch", "h")

    @staticmethod
    def step(
        xp: Any, x: Any, h: Any, state: Any, nonlinearity: Nonlinearity = "tanh"
    ) -> tuple[Any, ...]:
        """One block."""
        after = state[1] + apply_nonlinearity(nonlinearity, x + h)
        return 1.0 * after, after


_LAYERS: dict[str, type[RecurrentLayer]] = {
    "RNN": RNN,
    "LSTM": LSTM,
    "GRU": GRU,
    "ResNet": Residual,
}


class Draws:
    """Random numbers that are drawn once from a seed, and shared by all stops of the sliders.

    Attributes
    ----------
    inputs : ndarray ``(200, 1, 4)``
        The sequence. A ResNet reads no inputs.
    start : ndarray ``(1, 1, H)``
        The ResNet's input, of norm 1; the recurrent cells start from 0.
    reads : ndarray ``(H,)``
        The direction v, of norm 1, in which the loss reads a state: v · h_t.
    biases : ndarray ``(4, H)``
        The biases of the gates, of which a cell uses as many as it has.
    """

    def __init__(self, hidden_size: int, seed: int) -> None:
        rng = generator(seed)
        self.hidden_size, self.seed = hidden_size, seed
        self.inputs = rng.standard_normal((LONGEST, 1, INPUTS))
        self.start = _unit(rng.standard_normal((1, 1, hidden_size)))
        self.reads = _unit(rng.standard_normal(hidden_size))
        self.biases = rng.standard_normal((4, hidden_size))

    def layer(self, setting: PlaygroundSetting) -> Any:
        """The network of a setting."""
        layer: Any = _LAYERS[setting.cell](
            INPUTS, self.hidden_size, rng=self.seed, dtype="float64", device="cpu"
        )
        if setting.applies("nonlinearity"):
            layer.nonlinearity = setting.nonlinearity
        gates = len(layer.scan.gates)
        blocks = layer.weight_hh_l0.numpy().reshape(gates, self.hidden_size, self.hidden_size)
        scaled = [block * (setting.radius / spectral_radius(block)) for block in blocks]
        layer.weight_hh_l0.assign(np.concatenate(scaled))
        biases = setting.bias * self.biases[:gates]
        if setting.cell == "LSTM":
            biases[layer.scan.gates.index("f")] += setting.forget_bias
        for name, parameter in layer.named_parameters():
            if name.startswith("bias"):
                parameter.assign(biases.ravel() if name == "bias_ih_l0" else np.zeros(biases.size))
        return layer

    def loss(self, layer: RecurrentLayer, setting: PlaygroundSetting) -> Tensor:
        """L = v · h_T of the last state, or the sum over every state."""
        length = setting.length
        if setting.cell == "ResNet":
            nothing = np.zeros_like(self.inputs[:length])
            start = tensor(self.start, device="cpu")
            output, _ = layer(tensor(nothing, device="cpu"), (start, start))
        else:
            output, _ = layer(tensor(self.inputs[:length], device="cpu"))
        read = output if setting.loss == "all" else output[-1]
        return total(read * self.reads)

    def closed_form(self, layer: Any, setting: PlaygroundSetting) -> HostArray | None:
        """‖∂L/∂h_t‖ of the linear network at every step, from powers of its matrix; None for others.

        ∂L/∂h_t is (Mᵀ)^(T−1−t) v for a loss at the last of T steps, and Σ_k (Mᵀ)^k v, k up to
        T − 1 − t, for one at every step. M is W_h of the RNN and I + W_h of the ResNet.
        """
        if setting.nonlinearity != "identity" or not setting.applies("nonlinearity"):
            return None
        matrix = layer.weight_hh_l0.numpy() + (setting.cell == "ResNet") * np.eye(self.hidden_size)
        terms = [self.reads]
        for _ in range(setting.length - 1):
            terms.append(matrix.T @ terms[-1])
        gradients = np.cumsum(terms, axis=0) if setting.loss == "all" else np.array(terms)
        return np.linalg.norm(gradients[::-1], axis=1)


def closed_form_of(setting: PlaygroundSetting) -> str:
    """Write :meth:`Draws.closed_form` as a formula, in which k is the distance to the loss."""
    matrix = "I + Wₕᵀ" if setting.cell == "ResNet" else "Wₕᵀ"
    if setting.loss == "last":
        return f"‖({matrix})ᵏ v‖, k {setting.unit}s back"
    return f"‖Σⱼ ({matrix})ʲ v‖ over j ≤ k, k {setting.unit}s back"


def _unit(vector: HostArray) -> HostArray:
    return vector / np.linalg.norm(vector)
