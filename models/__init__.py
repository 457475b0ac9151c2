"""Models built with the public API of tinygrad182 only."""

from models.recurrent import RecurrentRegressor

__all__ = ["RecurrentRegressor"]
