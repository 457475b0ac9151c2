"""``python -m tinygrad182 diff A B``: where the gradients and values of two saved traces differ first."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from .._files import checked_path, in_json, write_file
from ..inspect import TraceDiff, diff
from . import announce_page, say


@dataclass(frozen=True, kw_only=True)
class Options:
    """The traces to compare, and the files to write."""

    a: tyro.conf.Positional[Path]
    """A trace: a file from tg.inspect.trace(loss).save(path)."""
    b: tyro.conf.Positional[Path]
    """Another trace."""
    tolerance: float | None = None
    """The largest difference of equal rows of numbers, relative to the largest number; by default 100
    roundings of the coarser dtype."""
    out: Path | None = None
    """Write the page to this HTML file; with --open it is diff.html by default."""
    open: bool = False
    """Show the page in a browser."""
    json: Path | None = None
    """Write the sentences and the numbers to this JSON file."""


def run(options: Options) -> None:
    """Print the sentences and a table, and write the page and JSON if asked to."""
    found = diff(options.a, options.b, options.tolerance)
    say(f"a: {options.a}", f"b: {options.b}", "", *repr(found).split("\n"))
    if options.json is not None:
        target = checked_path("diff", options.json)
        write_file("diff", target, json.dumps(in_json(facts(found)), indent=2).encode())
    if options.out is not None or options.open:
        page = options.out or Path("diff.html")
        found.save_html(page)
        announce_page(page, options.open)


def facts(found: TraceDiff) -> dict[str, Any]:
    """The results of a comparison, as dicts and lists."""
    first = {name: getattr(found, name) for name in ("values", "gradients", "backward")}
    return {
        "same": found.same,
        "tolerance": found.tolerance,
        "sentences": found.sentences,
        **{name: difference and asdict(difference) for name, difference in first.items()},
        "parameters": {name: each._asdict() for name, each in found.parameters.items()},
        "differences": {
            kind: {
                path: {label: row.tolist() for label, row in rows.items()}
                for path, rows in boxes.items()
            }
            for kind, boxes in found.series.items()
        },
        "time": {box.name: box.time.tolist() for box in found.boxes},
    }
