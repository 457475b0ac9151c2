"""Models built with the public API of tinygrad182 only."""

from models.char_lm import CharLM
from models.recurrent import RecurrentRegressor
from models.residual import ResidualNet

__all__ = ["CharLM", "RecurrentRegressor", "ResidualNet"]
