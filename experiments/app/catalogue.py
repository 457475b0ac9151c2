"""The list of experiments; docs/architecture.md says how to add one (a package and a line below)."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rich.progress import Progress

from experiments.app.errors import UnknownExperimentError
from experiments.app.options import Options
from experiments.app.result import Result

CATALOGUE = {
    "gradient-flow": "See the gradient vanish and explode through time, before and after training",
    "weight-paths": "Why the gradient of a shared weight is a sum over paths",
    "linear-rnn": "When gradients explode or vanish without a nonlinearity",
    "nonlinearity": "What tanh and ReLU do to states and gradients",
    "target": "What a loss at every step changes, and what it does not",
    "lstm": "What an LSTM does to the pattern",
    "cell-path": "Why: three shares of the gradient by a cell state, and the forget bias",
    "h-detach": "What is lost and won when the gradient through an LSTM's h is blocked",
    "sensitivity": "Why a long memory is sensitive to its weights where no gradient explodes",
    "skip": "What a ResNet's skips and an LSTM's cell have in common",
    "beam-tree": "What beam search stores, what it misses, and what it knows about that",
    "beam-cost": "What storing the state saves, and what a search costs",
    "training": "How networks learn the running average, and how their gradient flow changes",
    "penalty": "Train through a vanishing gradient, with a penalty on its flow",
    "char-lm": "Learn a text a character at a time, and search for the likeliest thing to say",
}
"""Name and summary. The package has the name with underscores and defines ``EXPERIMENT``. Listing
the experiments imports none of them, so it takes no time and needs no plotting library."""


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Parameters
    ----------
    question : str
        What it measures an answer to.
    options : type
        A frozen dataclass derived from :class:`~experiments.app.options.Options`.
    run : callable
        ``run(options, progress)`` measures and returns a Result; ``progress`` takes its tasks.
    letter : str
        Short name of the question, such as ``"Q1a"``. ``all`` runs the questions that have one.
    predict : str
        What a reader is asked to predict before the answer is opened.
    pictures : tuple of str
        Names of the figures that answer it; by default the first two.
    """

    question: str
    options: type[Options]
    # Any: each experiment's run takes its own options, those of the field above.
    run: Callable[[Any, Progress], Result]
    letter: str = ""
    predict: str = ""
    pictures: tuple[str, ...] = ()


def load(name: str) -> Experiment:
    """Import the experiment called ``name``.

    Raises
    ------
    UnknownExperimentError
        With the names that come near.
    """
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), CATALOGUE, n=1)
        hint = f"Did you mean {near[0]}?" if near else "'python -m experiments' lists them."
        raise UnknownExperimentError(f"There is no experiment {name!r}. {hint}")
    experiment = import_module(f"experiments.questions.{name.replace('-', '_')}").EXPERIMENT
    assert isinstance(experiment, Experiment)
    return experiment


def lettered() -> list[str]:
    """Names of the experiments that ``all`` runs by default: those with a letter."""
    return [name for name in CATALOGUE if load(name).letter]
