"""``python -m tinygrad182 playground``: a page with sliders that set a network and show its gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from ..inspect import playground
from . import announce_page


@dataclass(frozen=True, kw_only=True)
class Options:
    """The networks to measure, and the file to write."""

    out: Path = Path("playground.html")
    """Write the page to this HTML file."""
    open: bool = False
    """Show the page in a browser."""
    hidden_size: int = 16
    """Hidden units of every cell."""
    seed: int = 0
    """The seed of weights, biases, input and the direction in which the loss reads a state."""


def run(options: Options) -> None:
    """Measure every stop of the sliders, and write the page."""
    playground(options.hidden_size, options.seed).save_html(options.out, _with_progress)
    announce_page(options.out, options.open)


def _with_progress(networks: Sequence[Any]) -> Iterable[Any]:
    """Iterate over networks, and show the progress on standard error."""
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError as error:
        raise MissingDependencyError(
            "playground shows its progress with rich: pip install 'tinygrad182[viz]'"
        ) from error
    return track(networks, "Measuring every stop", console=Console(stderr=True))
