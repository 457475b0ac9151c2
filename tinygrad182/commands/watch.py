"""``python -m tinygrad182 watch RUN.jsonl``: gradient flow during a watched training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ..inspect import load_watch
from . import announce_page, say


@dataclass(frozen=True, kw_only=True)
class Options:
    """The run to show, which may have been killed or still be running, and the file to write."""

    run: Positional[Path]
    """A run: the file that tg.inspect.watch(model, path=...) writes."""
    out: Path | None = None
    """Write the page to this HTML file; by default beside the run, with the ending .html."""
    open: bool = False
    """Show the page in a browser."""


def run(options: Options) -> None:
    """Print a summary of the run, and write its page."""
    watched = load_watch(options.run)
    say(*str(watched).split("\n"))
    out = options.run.with_suffix(".html") if options.out is None else options.out
    watched.save_html(out)
    announce_page(out, options.open)
