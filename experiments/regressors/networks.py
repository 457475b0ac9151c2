"""Recurrent regressors as they are before training: vanilla RNNs and LSTMs."""

from __future__ import annotations

import importlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.app.errors import OptionError
from experiments.regressors.flow import TARGET_TEXT, Target
from models import RecurrentRegressor

Cell: TypeAlias = str
"""rnn, lstm, or your own subclass of ``tg.nn.RecurrentLayer``, written ``my_module:MGU``."""

InitialWeights = Literal["orthogonal", "gaussian"]


class _Texts(dict[str, str]):
    """Texts by name; your own ``my_module:MGU`` is called MGU."""

    def __missing__(self, name: str) -> str:
        return name.partition(":")[2]


NONLINEARITIES = {"identity": "identity (linear)", "tanh": "tanh", "relu": "ReLU"}
CELL_TEXT = _Texts(rnn="RNN", lstm="LSTM")
NONLINEARITY_TEXT = _Texts(NONLINEARITIES, lstm="LSTM")

LAYER = "rnn.l0"
"""Path of the one recurrent layer."""


def check_kinds(*, cells: tuple[Cell, ...] = (), nonlinearities: tuple[str, ...] = ()) -> None:
    """Raise OptionError unless all can be made; your own are imported from the working folder."""
    for flag, names, known, what in (
        ("--cell", cells, CELL_TEXT, "subclass of tg.nn.RecurrentLayer"),
        ("--nonlinearity", nonlinearities, NONLINEARITIES, "function of a Tensor"),
    ):
        for name in names:
            if name in known:
                continue
            if not all(name.partition(":")):
                raise OptionError(
                    f"{flag} {name} is not one of {', '.join(known)}; write your own {what} as "
                    "my_module:NAME"
                )
            cell, own = cell_and_nonlinearity(name)
            usable = callable(own) and not isinstance(own, type) if cell == "rnn" else True
            if isinstance(cell, type) != (flag == "--cell") or not usable:
                raise OptionError(f"{flag} {name} is not a {what}")


def cell_and_nonlinearity(kind: str) -> tuple[Any, Any]:
    """Arguments ``cell`` and ``nonlinearity`` of a regressor of this kind.

    Raises OptionError for your own cell or function that cannot be imported from the working folder.
    """
    if kind in CELL_TEXT:
        return kind, "tanh"
    if kind in NONLINEARITIES:
        return "rnn", kind
    module, _, name = kind.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        own = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:  # any: the module's own code runs
        missing = isinstance(error, ModuleNotFoundError) and error.name == module
        reason = f"there is no {module}.py in {Path.cwd()}" if missing else f"{module}: {error!r}"
        raise OptionError(f"{kind} cannot be imported: {reason}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if own is None:
        raise OptionError(f"{kind} cannot be imported: {module} has no {name}")
    is_cell = isinstance(own, type) and issubclass(own, tg.nn.RecurrentLayer)
    return (own, "tanh") if is_cell else ("rnn", own)


@dataclass(frozen=True)
class Network:
    """Description of a network before it is trained.

    Parameters
    ----------
    nonlinearity : str
        σ of a vanilla RNN, or the name of another cell, whose own are fixed.
    radius : float
        Spectral radius that every W_h starts with; with gates, that of each gate.
    target : {"last", "all"}
        Which steps enter the loss.
    hidden_size, layers : int
        Hidden units H, and recurrent layers above each other.
    initial_weights, dtype : str
        Kind of W_h before it is scaled, and of the numbers.
    """

    nonlinearity: str
    radius: float
    target: Target
    hidden_size: int = 32
    layers: int = 1
    initial_weights: InitialWeights = "orthogonal"
    dtype: str = "float64"

    @property
    def name(self) -> str:
        """Name that tells it apart from the others."""
        return (
            f"{NONLINEARITY_TEXT[self.nonlinearity]}, spectral radius {self.radius:g}, "
            f"{TARGET_TEXT[self.target]}"
        )

    def build(self, features: int, seed: int) -> RecurrentRegressor:
        """Make the model; one seed gives all networks the same values but for the scale of W_h."""
        rng = np.random.default_rng(seed)
        cell, nonlinearity = cell_and_nonlinearity(self.nonlinearity)
        model = RecurrentRegressor(
            features,
            self.hidden_size,
            features,
            cell=cell,
            nonlinearity=nonlinearity,
            num_layers=self.layers,
            rng=rng,
            dtype=self.dtype,
        )
        for layer in range(self.layers):
            weight = getattr(model.rnn, f"weight_hh_l{layer}")
            gates = len(weight) // self.hidden_size
            weight.assign(
                np.concatenate([self._recurrent_weight(weight, rng) for _ in range(gates)])
            )
        return model

    def _recurrent_weight(self, like: tg.Tensor, rng: np.random.Generator) -> NDArray[Any]:
        """Draw one square W_h of the radius asked for."""
        block = tg.zeros((self.hidden_size, self.hidden_size), dtype=like.dtype, device=like.device)
        if self.initial_weights == "orthogonal":
            tg.nn.init.orthogonal_(block, rng=rng)
        else:
            tg.nn.init.normal_(block, rng=rng)
        return tg.nn.init.scale_to_spectral_radius_(block, self.radius).numpy()


def regressor(
    cell: Cell,
    hidden_size: int,
    seed: int,
    *,
    layers: int = 1,
    forget_bias: float = 0.0,
    scale: float = 1.0,
) -> RecurrentRegressor:
    """Make a regressor of single numbers in float64, its initial values those of the layers.

    They are uniform in ±1/√H. One seed draws the same values whatever the forget bias and the
    scale.

    Parameters
    ----------
    cell : str
    hidden_size, seed, layers : int
    forget_bias : float
        Added to the biases of an LSTM's forget gates.
    scale : float
        What W_h and W_x of every recurrent layer are multiplied by.
    """
    model = RecurrentRegressor(
        1,
        hidden_size,
        cell=cell_and_nonlinearity(cell)[0],
        forget_bias=forget_bias,
        num_layers=layers,
        rng=seed,
        dtype="float64",
    )
    for name, parameter in model.rnn.named_parameters():
        if name.startswith("weight"):
            parameter.assign(parameter.detach() * scale)
    return model


def gate_of(forget_bias: float) -> float:
    """Return σ(b), the forget gate at a bias with nothing added to it."""
    return 0.5 * (1.0 + math.tanh(0.5 * forget_bias))  # which does not overflow
