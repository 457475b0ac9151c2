"""A row of the table: an operation, PyTorch's name for it, and the operands to try it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad182 as tg
from tests.support import Array, is_floating
from tinygrad182.testing import strategies
from tinygrad182.testing.strategies import (  # noqa: F401 - the tables take them from here
    Domain,
    between,
    mask,
    nonzero,
    positive,
    real,
)

Shape = tuple[int, ...]

# --- domains: where an operation is smooth ------------------------------------------------------


above_minus_one = between(-0.7, 2.0)
inside_one = between(-0.8, 0.8)
apart = strategies.apart(0.37)


def near_one(rng: np.random.Generator, shape: Shape) -> Array:
    """About 1 or −1, where high powers keep their size."""
    return np.sign(nonzero(rng, shape)) * rng.uniform(0.95, 1.05, shape)


# --- rows ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One operation on inputs of one set of shapes.

    Attributes
    ----------
    name : str
        The public function, or the primitive that has none.
    case : str
        What this row is about.
    f : callable
        Tensors → Tensor.
    torch : callable
        ``torch(t, *tensors)``: the same with the module ``t`` = torch.
    shapes, domains : tuple
        Of each input.
    through_float32 : bool
        Whether values are float32 (or complex64) on the way: less precision.
    """

    name: str
    case: str
    f: Callable[..., tg.Tensor]
    torch: Callable[..., Any]
    shapes: tuple[Shape, ...]
    domains: tuple[Domain, ...]
    through_float32: bool = False

    def draw(self, seed: int = 0) -> list[Array]:
        """Inputs: the same for the same seed."""
        rng = np.random.default_rng(seed)
        return [domain(rng, shape) for domain, shape in zip(self.domains, self.shapes, strict=True)]

    def __str__(self) -> str:
        return f"{self.name}-{self.case}" if self.case else self.name


def row(
    name: str,
    case: str,
    f: Callable[..., tg.Tensor],
    torch: Callable[..., Any],
    *shapes: Shape,
    domain: Domain | tuple[Domain, ...] = real,
    through_float32: bool = False,
) -> Row:
    """A single domain is used for all inputs."""
    domains = domain if isinstance(domain, tuple) else (domain,) * len(shapes)
    return Row(name, case, f, torch, shapes, domains, through_float32)


def floating(arrays: list[Array]) -> list[int]:
    """Positions of the inputs that have a derivative."""
    return [i for i, a in enumerate(arrays) if is_floating(a)]
