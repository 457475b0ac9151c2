"""``python -m tinygrad182 watch RUN.jsonl``: gradient flow during a training run that was watched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ..inspect import load_watch
from . import say, written


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to show of a run, also of one that was killed or still goes on."""

    run: Positional[Path]
    """The file that tg.inspect.watch(model, path=...) writes."""

    out: Path | None = None
    """Where the page goes; by default beside the file, with the ending .html."""

    open: bool = False
    """Show the page in a browser."""


def run(options: Options) -> None:
    """Print how far the run came, and write its page."""
    watched = load_watch(options.run)
    say(*str(watched).split("\n"))
    out = options.run.with_suffix(".html") if options.out is None else options.out
    watched.save_html(out)
    written(out, options.open)
