"""Layers, losses and initial values."""

from __future__ import annotations

from . import init
from .linear import Linear
from .losses import cross_entropy, mse_loss
from .module import Module, Parameter, Sequential
from .recurrent import RNN, RNNCell, States

__all__ = [
    "RNN",
    "Linear",
    "Module",
    "Parameter",
    "RNNCell",
    "Sequential",
    "States",
    "cross_entropy",
    "init",
    "mse_loss",
]
