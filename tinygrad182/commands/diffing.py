"""``python -m tinygrad182 diff A B``: where the gradients of two saved traces part, and their values."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from .._files import checked_path, write_file
from ..inspect import TraceDiff, diff
from . import in_json, say, written


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare, and where results go."""

    a: tyro.conf.Positional[Path]
    """A trace: what tg.inspect.trace(loss).save(path) wrote."""
    b: tyro.conf.Positional[Path]
    """Another one."""
    tolerance: float | None = None
    """By how much two rows of numbers may differ, relative to the largest; by default 100 roundings of
    the coarser dtype."""
    out: Path | None = None
    """Write the page here: one HTML file with the picture and the sentences."""
    open: bool = False
    """Show the page in a browser; without --out it is diff.html."""
    json: Path | None = None
    """Write the sentences and the numbers here, as JSON."""


def run(options: Options) -> None:
    """Print the sentences and a table; write the page and JSON if they are asked for."""
    found = diff(options.a, options.b, options.tolerance)
    say(f"a: {options.a}", f"b: {options.b}", "", *repr(found).split("\n"))
    if options.json is not None:
        target = checked_path("diff", options.json)
        write_file("diff", target, json.dumps(in_json(facts(found)), indent=2).encode())
    if options.out is not None or options.open:
        page = options.out or Path("diff.html")
        found.save_html(page)
        written(page, options.open)


def facts(found: TraceDiff) -> dict[str, Any]:
    """What a comparison found, as dicts and lists."""
    partings = {name: getattr(found, name) for name in ("values", "gradients", "backward")}
    told: dict[str, Any] = {"same": found.same, "tolerance": found.tolerance}
    told |= {"sentences": found.sentences}
    told |= {name: parting and asdict(parting) for name, parting in partings.items()}
    told["parameters"] = {name: each._asdict() for name, each in found.parameters.items()}
    told["differences"] = {
        what: {
            path: {label: row.tolist() for label, row in series.items()}
            for path, series in boxes.items()
        }
        for what, boxes in found.series.items()
    }
    told["time"] = {box.name: box.time.tolist() for box in found.boxes}
    return told
