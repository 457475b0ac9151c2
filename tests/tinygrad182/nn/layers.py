"""The table of recurrent layers: each with a NumPy loop that computes the same.

A layer that joins it is tried on every size, loss and regime by ``test_recurrent.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import tinygrad182 as tg
from tests.oracles import recurrent
from tests.support import Array


class Extreme(NamedTuple):
    """Steps, and the factor on the recurrent weights, at which gradients are beyond the ordinary."""

    steps: int
    gain: float
    options: dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """A kind of recurrent layer.

    Attributes
    ----------
    make : callable
        ``make(I, H, layers, **options)``: the module.
    run : callable
        ``run(module, x, states)``: its output and its final states, given the initial ones or None.
    loop : callable
        ``loop(at, options)``: the same from the arrays ``at``: the weights by their names, ``"x"`` and
        the initial states; real or complex.
    states : tuple of str
        Names of the initial states, each ``(layers, B, H)``.
    options : dict
        What each option of ``make`` is drawn from.
    smooth : dict
        Options that make it smooth enough for a second derivative by differences.
    vanishing, exploding : Extreme
        Where ∂L/∂x_0 of a loss at the last step is below 1e-50, and above 1e+20.
    """

    name: str
    make: Callable[..., tg.nn.Module]
    run: Callable[[Any, Any, Any], tuple[tg.Tensor, list[tg.Tensor]]]
    loop: Callable[[dict[str, Array], dict[str, Any]], tuple[Array, list[Array]]]
    states: tuple[str, ...]
    options: dict[str, list[Any]]
    smooth: dict[str, list[Any]]
    vanishing: Extreme
    exploding: Extreme

    def __str__(self) -> str:
        return self.name


def _make_rnn(I: int, H: int, layers: int = 1, **options: Any) -> tg.nn.Module:  # noqa: E741
    return tg.nn.RNN(I, H, layers, rng=3, dtype="float64", **options)


def _run_rnn(
    module: Any, x: tg.Tensor, states: list[tg.Tensor] | None
) -> tuple[tg.Tensor, list[tg.Tensor]]:
    output, h_n = module(x, *(states or []))
    return output, [h_n]


def _loop_rnn(at: dict[str, Array], options: dict[str, Any]) -> tuple[Array, list[Array]]:
    run = recurrent.loop(recurrent.vanilla(options["nonlinearity"]), at)
    return run.output, run.last


LAYERS = [
    Layer(
        name="RNN",
        make=_make_rnn,
        run=_run_rnn,
        loop=_loop_rnn,
        states=("h_0",),
        options={"nonlinearity": list(recurrent.SIGMA), "bias": [True, False]},
        smooth={"nonlinearity": ["tanh", "identity"]},
        vanishing=Extreme(200, 2.0, {"nonlinearity": "tanh"}),
        exploding=Extreme(60, 12.0, {"nonlinearity": "tanh"}),
    ),
]
