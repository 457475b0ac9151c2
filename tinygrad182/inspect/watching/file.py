"""The file of a watched run: a line of JSON for each watched training step, appended as it is made.

A line is written in one call and ends in a newline, so a process that is killed leaves at most one
incomplete line, the last. The first line says what is watched.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..._files import checked_path, in_json, write_file
from ...errors import FileError, brief
from ..charts.magnitudes import coded, decoded
from ..passes.scaling import HostArray

_WINDOWS = sys.platform == "win32"
if not _WINDOWS:
    import fcntl

FORMAT = "tinygrad182 watch"
VERSION = 1
DECIMALS = 6
"""Decimals of the logarithms in a file: norms are right to 3e-6."""


class Norms(NamedTuple):
    """Decadic logarithms of a state's norms at one training step.

    Attributes
    ----------
    time : ndarray (T,)
        The time steps.
    grad, value : ndarray (T,)
        log10 ‖∂L/∂h_t‖ and log10 ‖h_t‖.
    """

    time: HostArray
    grad: HostArray
    value: HostArray


class Moment(NamedTuple):
    """One training step that was watched.

    Attributes
    ----------
    step : int
        The number of backward passes of the model before it.
    loss : float
    states : dict
        Path → state → :class:`Norms`.
    """

    step: int
    loss: float
    states: dict[str, dict[str, Norms]]


@dataclass
class Record:
    """The contents of a file.

    Attributes
    ----------
    model : str
        The repr of the watched model.
    every : int or None
        Backward passes from one that is watched to the next; None: only losses that are handed over.
    moments : list of Moment
    end : str
        How the run ended; empty if no end was written.
    cut : bool
        Whether the file's last line is incomplete.
    """

    model: str
    every: int | None
    moments: list[Moment] = field(default_factory=list)
    end: str = ""
    cut: bool = False

    def goes_on_from(self, step: int) -> None:
        """Drop this training step and later ones: training went back to it."""
        self.moments = [moment for moment in self.moments if moment.step < step]
        self.end = ""


# --- lines ----------------------------------------------------------------------------------------


def _line(content: Mapping[str, Any]) -> bytes:
    written = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return written.encode(errors="replace") + b"\n"


def header_line(record: Record) -> bytes:
    """The first line: what is watched."""
    return _line({FORMAT: VERSION, "every": record.every, "model": record.model})


def moment_line(moment: Moment) -> bytes:
    """The line of a training step that was watched."""
    states = {
        path: {name: _written(norms) for name, norms in by_name.items()}
        for path, by_name in moment.states.items()
    }
    return _line({"step": moment.step, "loss": in_json(moment.loss), "states": states})


def going_on_line(record: Record, step: int) -> bytes:
    """The line of a run that goes on from a training step, perhaps an earlier one."""
    return _line({"goes on from": step, "every": record.every})


def end_line(how: str) -> bytes:
    """The last line of a run that was not killed."""
    return _line({"end": how})


def _written(norms: Norms) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not np.array_equal(norms.time, np.arange(len(norms.time))):
        found["time"] = norms.time.tolist()
    found["log10 grad"] = coded(norms.grad.tolist(), DECIMALS)
    return found | {"log10 value": coded(norms.value.tolist(), DECIMALS)}


def _read_norms(written: Mapping[str, Any]) -> Norms:
    grad, value = (np.array(decoded(written[f"log10 {name}"])) for name in ("grad", "value"))
    time = np.array(written.get("time", range(len(grad))), dtype=np.int64)
    if not grad.shape == value.shape == time.shape:
        raise ValueError("its lists have different lengths")
    if not time.size or (np.diff(time) <= 0).any():
        raise ValueError("its time steps do not increase, or there are none")
    return Norms(time, grad, value)


# --- reading --------------------------------------------------------------------------------------


def read_record(what: str, path: str | Path) -> Record:
    """Read a file, also while it grows and after its process was killed.

    Raises
    ------
    FileError
        There is no such file, it cannot be read, or it is not that of a watched run.
    """
    target = checked_path(what, path)
    try:
        data = target.read_bytes()
    except FileNotFoundError as error:
        raise FileError(
            f"{what}: there is no file {target}; tg.inspect.watch(model, path=...) writes one"
        ) from error
    except OSError as error:
        raise FileError(f"{what}: cannot read {target}: {error}") from error
    return parsed(what, target, data)


_DAMAGED = ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError
"""Errors of a line that is not JSON, or not the expected JSON."""


def parsed(what: str, target: Path, data: bytes) -> Record:
    """Read the whole lines of a file."""
    *whole, rest = data.split(b"\n")
    record = _begun(what, target, whole)
    record.cut = bool(rest)
    for number, line in enumerate(whole[1:], start=2):
        try:
            _take(record, json.loads(line))
        except _DAMAGED as error:
            raise FileError(
                f"{what}: line {number} of {target} is damaged ({type(error).__name__}: {error}); "
                "remove that line to read the others"
            ) from error
    return record


def _begun(what: str, target: Path, whole: list[bytes]) -> Record:
    try:
        header = json.loads(whole[0]) if whole else {}
        version, every, model = header[FORMAT], _every(header["every"]), header["model"]
    except _DAMAGED as error:
        raise FileError(
            f"{what}: {target} does not begin with the line of a watched run; pass a file that "
            "tg.inspect.watch(model, path=...) has written"
        ) from error
    if version != VERSION:
        raise FileError(
            f"{what}: {target} has version {version} of its format, and this is tinygrad182 for "
            f"version {VERSION}; read it with the tinygrad182 that wrote it"
        )
    return Record(str(model), every)


def _take(record: Record, line: Mapping[str, Any]) -> None:
    """Add the contents of a line to the record."""
    if "end" in line:
        record.end = str(line["end"])
    elif "goes on from" in line:
        record.goes_on_from(_count(line["goes on from"]))
        record.every = _every(line["every"])
    else:
        states = {
            path: {name: _read_norms(written) for name, written in by_name.items()}
            for path, by_name in line["states"].items()
        }
        record.moments.append(Moment(_count(line["step"]), float(line["loss"]), states))


def _every(given: Any) -> int | None:
    return None if given is None else _count(given)


def _count(number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number < 2**63:
        raise ValueError(f"{brief(number)} is not a whole number from 0")
    return number


# --- writing --------------------------------------------------------------------------------------


def save_record(what: str, record: Record, path: str | Path) -> None:
    """Write a whole file at once."""
    target = checked_path(what, path)
    if target.exists() and is_written(target):
        raise FileError(f"{what}: {target} is being written by a watch; choose another name")
    end = [end_line(record.end)] if record.end else []
    lines = [header_line(record), *map(moment_line, record.moments), *end]
    write_file(what, target, b"".join(lines))


def refuse_record(what: str, target: Path) -> None:
    """Refuse to write something else over the file of a watched run.

    Raises
    ------
    FileError
        The file is that of a watched run.
    """
    begin = json.dumps({FORMAT: VERSION}, separators=(",", ":")).encode()[:-1]
    try:
        with target.open("rb") as file:
            found = file.read(len(begin)) == begin
    except OSError:
        return  # there is no file to lose
    if found:
        raise FileError(f"{what}: {target} is the file of a watched run; choose another name")


class Appended:
    """A file that grows by whole lines, and that one process writes at a time.

    Parameters
    ----------
    target : Path
    file : binary file
        Without a buffer; what is written goes to its end.
    """

    def __init__(self, target: Path, file: BinaryIO) -> None:
        self.target = target
        self._file = file
        self._process = os.getpid()

    @classmethod
    def begun(cls, what: str, path: str | Path, record: Record) -> Appended:
        """Make a new file with its first line.

        Raises
        ------
        FileError
            There is one already, or it cannot be made.
        """
        target = checked_path(what, path)
        try:
            _make_folder(target.parent)
            with ExitStack() as on_failure:
                appended = cls(target, on_failure.enter_context(target.open("xb", buffering=0)))
                appended._lock(what)
                appended.append(header_line(record))
                on_failure.pop_all()  # leaves the file open
        except FileExistsError as error:
            raise FileError(
                f"{what}: {target} is there already; to go on with it, pass step=, how many training "
                "steps were made before; to begin anew, remove it or choose another name"
            ) from error
        except OSError as error:
            raise _cannot_write(what, target, error) from error
        return appended

    @classmethod
    def continued(cls, what: str, path: str | Path, record: Record, step: int) -> Appended:
        """Go on with a file at a training step, after its last whole line; ``record`` gets its contents.

        Raises
        ------
        FileError
            It is not there, is that of another model, or another process writes it.
        """
        target = checked_path(what, path)
        try:
            with ExitStack() as on_failure:
                file = on_failure.enter_context(target.open("r+b", buffering=0))
                appended = cls(target, file)
                appended._lock(what)
                data = file.read()
                record.moments = _same_run(what, target, data, record, step)
                file.truncate(data.rfind(b"\n") + 1)
                file.seek(0, os.SEEK_END)
                appended.append(going_on_line(record, step))
                on_failure.pop_all()
        except FileNotFoundError as error:
            raise FileError(
                f"{what}: there is no file {target} to go on with at step={step}; "
                "leave step= out to begin one"
            ) from error
        except OSError as error:
            raise _cannot_write(what, target, error) from error
        return appended

    def _lock(self, what: str) -> None:
        """Keep other processes from writing the file; the system releases it when the process dies."""
        if _WINDOWS:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileError(
                f"{what}: {self.target} is being written by another watch; stop that one, or choose "
                "another name"
            ) from error

    def append(self, line: bytes) -> None:
        """Write a whole line in one call. A forked process writes nothing.

        Raises
        ------
        OSError
            It was not written as a whole, as on a full disk.
        """
        if os.getpid() != self._process:
            return
        written = self._file.write(line)
        if written != len(line):
            raise OSError(f"{written} of {len(line)} bytes were written; the disk may be full")

    def close(self) -> None:
        """Let other processes write the file."""
        self._file.close()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (
        FileExistsError
    ) as error:  # mkdir's error; that of the file itself means that the run exists
        raise NotADirectoryError(f"{folder} is not a folder") from error


def _same_run(what: str, target: Path, data: bytes, record: Record, step: int) -> list[Moment]:
    """The training steps of a file before ``step``, if it belongs to the same model."""
    found = parsed(what, target, data)
    if found.model != record.model:
        raise FileError(
            f"{what}: {target} is the run of another model; choose another name. There it is\n"
            f"{found.model}\nand here\n{record.model}"
        )
    found.goes_on_from(step)
    return found.moments


def _cannot_write(what: str, target: Path, error: OSError) -> FileError:
    return (
        error
        if isinstance(error, FileError)
        else FileError(f"{what}: cannot write {target}: {error}")
    )


def is_written(path: Path) -> bool:
    """Whether a process holds a file open to write more; False if that cannot be known."""
    if _WINDOWS:
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
