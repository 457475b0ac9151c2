"""``tg.nn``: layers, losses and initial values.

Read :mod:`.module` first (what a module is), then :mod:`.linear` (the simplest layer), then :mod:`.rnn` and
:mod:`.recurrent` (the base of all recurrent layers).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._suggestions import calls as _calls
from .._suggestions import torch_names as _torch_names
from ..primitives import PRIMITIVES
from . import functional, init
from .containers import ModuleDict, ModuleList, Sequential
from .dropout import Dropout
from .embedding import Embedding
from .gru import GRU, GRUCell
from .layer_norm import LayerNorm
from .linear import Linear
from .losses import cross_entropy, mse_loss
from .lstm import LSTM, LSTMCell, LSTMStates
from .models_from_state_dicts import RecurrentNetwork, from_state_dict
from .module import Module, Parameter
from .recurrent import RecurrentCell, RecurrentLayer
from .residual import ResBlock
from .rnn import RNN, RNNCell, States
from .torch_modules import from_torch

PRIMITIVES |= {layer.scan.name: layer.scan for layer in (RNN, LSTM, GRU)}

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Dropout",
    "Embedding",
    "GRUCell",
    "LSTMCell",
    "LSTMStates",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "RNNCell",
    "RecurrentCell",
    "RecurrentLayer",
    "RecurrentNetwork",
    "ResBlock",
    "Sequential",
    "States",
    "cross_entropy",
    "from_state_dict",
    "from_torch",
    "functional",
    "init",
    "mse_loss",
]

if not TYPE_CHECKING:
    __getattr__ = _calls.names_of(__name__, "tg.nn", _torch_names.NN)
