"""Layers, losses and initial values."""

from __future__ import annotations

from . import init
from .convert import from_torch
from .embedding import Embedding
from .linear import Linear
from .losses import cross_entropy, mse_loss
from .lstm import LSTM, LSTMCell, LSTMStates
from .module import Module, Parameter, Sequential
from .residual import ResBlock
from .rnn import RNN, RNNCell, States

__all__ = [
    "LSTM",
    "RNN",
    "Embedding",
    "LSTMCell",
    "LSTMStates",
    "Linear",
    "Module",
    "Parameter",
    "RNNCell",
    "ResBlock",
    "Sequential",
    "States",
    "cross_entropy",
    "from_torch",
    "init",
    "mse_loss",
]
