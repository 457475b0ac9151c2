"""The run folder: all of a run's files appear in it at once, or none does.

Everything is written into a hidden folder near its destination and moved into place when it is
complete, so neither an error nor an interrupt leaves half a file or half a run.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import tinygrad182 as tg
from experiments.common.errors import OutputError
from experiments.common.report import render_report, render_sheet
from experiments.common.result import Result, Table

RESULTS = "results.json"

# Whose versions can change a number or a picture.
PACKAGES = ("numpy", "cupy-cuda12x", "cupy-cuda13x", "altair", "vl-convert-python")


@dataclass(frozen=True)
class Question:
    """What an experiment asks: its name, its letter in the course, and what to predict."""

    name: str
    question: str
    letter: str = ""
    predict: str = ""


@dataclass(frozen=True, kw_only=True)
class Run(Question):
    """A finished run of an experiment: when, how long it took and what was found."""

    started: datetime
    seconds: float
    result: Result

    @property
    def configuration(self) -> dict[str, Any]:
        """Every option's value, as JSON can hold it."""
        return {key: plain(value) for key, value in dataclasses.asdict(self.result.options).items()}


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Make the hidden folder that a run for ``folder`` is written into, and clean it up after.

    It is in the nearest folder that is there already, so that a run that fails leaves no other.
    To be made before any work is done: what cannot be written to shows only in writing to it.

    Raises
    ------
    OutputError
        If ``folder`` is a file, or cannot be made or written to.
    """
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        stage = Path(tempfile.mkdtemp(dir=existing, prefix=".partial-"))
    except NotADirectoryError:
        raise OutputError(f"{existing} is a file; --out needs a folder") from None
    except OSError as error:
        reason = f"Cannot write to {folder} ({error.strerror})"
        raise OutputError(f"{reason}; name another folder with --out") from error
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def publish(run: Run, stage: Path, folder: Path) -> Path:
    """Write the run's files into ``stage``, move them and return the folder they are in.

    A folder that is there already keeps its other files. Files of an earlier run in it are
    replaced, ``results.json`` last. If the default folder of another run has just been made under
    the same name, this run's gets a number.
    """
    with _named(folder):
        write_files(run, stage)
        return move(stage, folder, replace=run.result.options.out is not None)


def publish_sheet(
    questions: Sequence[Question], runs: Sequence[Run], stage: Path, folder: Path, replace: bool
) -> Path:
    """Write the page with every question, and each run into a folder of its own beside it."""
    with _named(folder):
        for run in runs:
            (stage / run.name).mkdir()
            write_files(run, stage / run.name)
        (stage / "report.html").write_text(render_sheet(questions, runs), encoding="utf-8")
        if runs:
            record = {run.name: describe(run) for run in runs}
            (stage / RESULTS).write_text(_json(record), encoding="utf-8")
        return move(stage, folder, replace=replace)


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"Writing to {folder} failed: {error}") from error


def write_files(run: Run, folder: Path) -> None:
    """Write all of a run's files into an empty folder."""
    for table in run.result.tables:
        write_csv(table, folder / f"{table.name}.csv")
    for figure in run.result.figures:
        # Altair's types leave out what its own charts offer: every chart can be saved.
        figure.chart.save(folder / f"{figure.name}.png", scale_factor=2)
    for attachment in run.result.attachments:
        attachment.write(folder / attachment.name)
    record = describe(run)
    (folder / "report.html").write_text(render_report(run, record), encoding="utf-8")
    (folder / RESULTS).write_text(_json(record), encoding="utf-8")


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def move(stage: Path, folder: Path, *, replace: bool) -> Path:
    """Move a complete stage to its place and return the place."""
    stage.chmod(0o777 & ~current_umask())  # mkdtemp makes folders that only their owner can open
    if not replace:
        free = folder
        for number in range(2, 1000):
            if not free.exists():
                break
            free = folder.with_name(f"{folder.name}-{number}")
        folder = free
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage.rename(folder)
        return folder
    for file in sorted(stage.iterdir(), key=lambda file: (file.name == RESULTS, file.name)):
        if file.is_dir():
            move(file, folder / file.name, replace=True)
        else:
            file.replace(folder / file.name)
    return folder


def current_umask() -> int:
    """Return the permissions that new files do not get. The system tells only when it sets them."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_csv(table: Table, path: Path) -> None:
    """Write a table; an empty cell is 'not measured', and inf and nan are spelt so."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table.rows[0]) if table.rows else [])
        writer.writeheader()
        writer.writerows(table.rows)


def describe(run: Run) -> dict[str, Any]:
    """What ``results.json`` holds; numbers JSON lacks are the strings 'inf', '-inf' and 'nan'."""
    result = run.result
    return {
        "experiment": run.name,
        "question": run.question,
        "started": run.started.isoformat(timespec="seconds"),
        "seconds": round(run.seconds, 3),
        "configuration": run.configuration,
        "environment": environment(),
        "headline": result.headline,
        "reading": list(result.reading),
        "claims": [
            {**plain(dataclasses.asdict(claim)), "holds": claim.holds} for claim in result.claims
        ],
        "tables": {table.name: plain(table.rows) for table in result.tables if table.columns},
        "files": {f"{table.name}.csv": table.title for table in result.tables}
        | {f"{figure.name}.png": figure.title for figure in result.figures}
        | {attachment.name: attachment.title for attachment in result.attachments},
    }


def environment() -> dict[str, str]:
    """Return versions of what the numbers and pictures come from."""
    versions = {
        "tinygrad182": tg.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def plain(value: Any) -> Any:
    """Return ``value`` in JSON's own types."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
