"""``playground``: the page on which sliders set a network, and its gradients move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from ..inspect import playground
from . import written


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the page holds, and where it goes."""

    out: Path = Path("playground.html")
    """The page."""
    open: bool = False
    """Show it in a browser."""
    hidden_size: int = 16
    """Hidden units of every cell."""
    seed: int = 0
    """The seed of weights, biases, input and the direction in which the loss reads a state."""


def run(options: Options) -> None:
    """Measure every stop of the sliders, and write the page."""
    play = playground(options.hidden_size, options.seed)
    play.save_html(options.out, _tracked)
    written(options.out, options.open)


def _tracked(networks: Sequence[Any]) -> Iterable[Any]:
    """Show on standard error how far the work is."""
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError as error:
        raise MissingDependencyError(
            "playground shows its progress with rich: pip install 'tinygrad182[viz]'"
        ) from error
    return track(networks, "Measuring every stop", console=Console(stderr=True))
