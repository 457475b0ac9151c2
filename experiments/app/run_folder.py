"""The run folder: all of a run's files appear in it at once, or none does.

Everything is written into a hidden folder near its destination, the stage, and moved into place when
it is complete, so neither an error nor an interrupt leaves half a file or half a run. A process that
is killed leaves its stage; a later run removes it, or moves what it had begun to move.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import glob
import json
import math
import os
import platform
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import vl_convert

import tinygrad182 as tg
from experiments.app.errors import OutputError
from experiments.app.report import render_report, render_sheet
from experiments.app.result import Result
from experiments.drawing.tables import Figure, Table, Value
from experiments.drawing.words import printable, typed
from tinygrad182.display.pages import legible

RESULTS = "results.json"

FORMULA = frozenset("=+-@\t\r")
"""Characters that a spreadsheet's formulas begin with."""

REPLACED = ".replaced"
"""Folder in a stage for the files that its own replace. Where it is, the stage was complete."""

ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
"""Signals that ask a process to end."""

# Whose versions can change a number or a picture.
PACKAGES = ("numpy", "cupy-cuda12x", "cupy-cuda13x", "altair", "vl-convert-python")


@dataclass(frozen=True)
class Question:
    """A question: its name and letter, what to predict, and the pictures that answer it."""

    name: str
    question: str
    letter: str = ""
    predict: str = ""
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run(Question):
    """A finished run of an experiment: when, how long it took and what was found."""

    started: datetime
    seconds: float
    result: Result

    @property
    def answer(self) -> list[Figure]:
        """The figures for the page of all questions; the others are in the run's own report."""
        asked_for = [figure for figure in self.result.figures if figure.name in self.pictures]
        return asked_for or list(self.result.figures[:2])

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
    own = f"{_mine()}{os.getpid()}-{secrets.token_hex(4)}_"
    with _writable(folder):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise OutputError(f"{existing} is a file; --out needs a folder")
        clear(existing)
    try:
        with _writable(folder):
            stage = Path(tempfile.mkdtemp(dir=existing, prefix=own))
        yield stage
    finally:  # by its name: an interrupt can come when it is made and not yet known here
        for stage in existing.glob(f"{glob.escape(own)}*"):
            if not (stage / REPLACED).exists():  # or its files could not be put back
                shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = f"Cannot write to {printable(folder)} ({error.strerror})"
        raise OutputError(f"{reason}; name another folder with --out") from error


def _mine() -> str:
    """Beginning of the names of stages made on this machine; the process's number follows."""
    return f".partial-{platform.node()}-"


def clear(folder: Path) -> None:
    """Remove stages of processes that were killed; finish the moves that they had begun.

    Looked at are ``folder`` and the folders above it, as far as the current one. A stage of another
    machine, or of a process that is running, is left alone.
    """
    if sys.platform == "win32":  # where nothing tells harmlessly whether a process is running
        return
    pattern, here = re.compile(rf"{re.escape(_mine())}(\d+)-\w+"), Path.cwd()
    above = [path for path in folder.absolute().parents if path.is_relative_to(here)]
    for place in (folder, *above):
        for stage in place.glob(".partial-*"):
            if (match := pattern.fullmatch(stage.name)) and not _runs(int(match[1])):
                with suppress(OSError):  # the user may not write there, for example
                    if (stage / REPLACED).is_dir():
                        for file in _files(stage):
                            _put(stage / file, place / file)
                    shutil.rmtree(stage)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 does nothing, but tells whether there is somebody to get it
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


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
        draw(figure, folder / f"{figure.name}.png")
    for attachment in run.result.attachments:
        attachment.write(folder / attachment.name)
    record = describe(run)
    record["files"] = {
        name: title for name, title in record["files"].items() if (folder / name).exists()
    }
    (folder / "report.html").write_text(render_report(run, record), encoding="utf-8")
    (folder / RESULTS).write_text(_json(record), encoding="utf-8")


def draw(figure: Figure, path: Path) -> None:
    """Draw a figure; where that fails the run goes on, since the report draws its charts itself."""
    try:
        path.write_bytes(vl_convert.vegalite_to_png(legible(figure.spec), scale=2))
    except ValueError as error:  # which the library raises, whatever is wrong
        warnings.warn(f"{path.name} cannot be drawn: {error}", RuntimeWarning, stacklevel=2)


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
    with uninterrupted():
        if folder.exists():
            _replace(stage, folder)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stage.rename(folder)
    return folder


def _replace(stage: Path, folder: Path) -> None:
    """Move a stage's files into a folder that is there: all of them, or the folder is as it was.

    The files that they replace lie in the stage until all are moved. If the process is killed in
    between, :func:`clear` goes on with the move.
    """
    if stage.parent.resolve() != folder.resolve():
        stage = stage.rename(folder / stage.name)  # where `clear` takes it for one of this folder
    files = _files(stage)
    for file in files:
        if (folder / file).is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder has the name of a file", str(file))
    new = {file.parent for file in files if not (folder / file.parent).exists()}
    (stage / REPLACED).mkdir()
    try:
        for file in files:
            if (folder / file).exists():
                _put(folder / file, stage / REPLACED / file)
            _put(stage / file, folder / file)
    except BaseException:
        for file in files:
            if (stage / REPLACED / file).exists():
                _put(stage / REPLACED / file, folder / file)
            elif not (stage / file).exists():
                (folder / file).unlink()
        for place in new:
            with suppress(FileNotFoundError):
                (folder / place).rmdir()
        shutil.rmtree(stage)
        raise
    shutil.rmtree(stage, ignore_errors=True)


def _files(stage: Path) -> list[Path]:
    """The run's files in a stage, relative to it; a folder's ``results.json`` comes last."""
    found = [path.relative_to(stage) for path in stage.rglob("*") if path.is_file()]
    found = [file for file in found if file.parts[0] != REPLACED]
    return sorted(found, key=lambda file: (-len(file.parts), file.name == RESULTS, file))


def _put(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    file.replace(target)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let no signal that would end the process come between: it would come a moment too late."""
    if threading.current_thread() is not threading.main_thread():
        yield  # which gets no signals
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was not set by Python


def current_umask() -> int:
    """Return the permissions that new files do not get. The system tells only when it sets them."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_csv(table: Table, path: Path) -> None:
    """Write a table; an empty cell is 'not measured', and inf and nan are spelt so.

    Words that a spreadsheet would take for a formula get an apostrophe in front, which it hides.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(list(table.rows[0]) if table.rows else [])
        writer.writerows([[_cell(value) for value in row.values()] for row in table.rows])


def _cell(value: Value) -> Value:
    return f"'{value}" if isinstance(value, str) and value[:1] in FORMULA else value


def describe(run: Run) -> dict[str, Any]:
    """Contents of ``results.json``. Numbers that JSON lacks are the strings 'inf', '-inf' and 'nan'."""
    result = run.result
    claims = [{**plain(dataclasses.asdict(each)), "holds": each.holds} for each in result.claims]
    return {
        "experiment": run.name,
        "question": typed(run.question),
        "started": run.started.isoformat(timespec="seconds"),
        "seconds": round(run.seconds, 3),
        "configuration": run.configuration,
        "environment": environment(),
        "headline": typed(result.headline),
        "reading": [typed(sentence) for sentence in result.reading],
        "claims": [
            {key: typed(value) if isinstance(value, str) else value for key, value in claim.items()}
            for claim in claims
        ],
        "tables": {table.name: plain(table.rows) for table in result.tables if table.columns},
        "files": {f"{table.name}.csv": typed(table.title) for table in result.tables}
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
        return printable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
