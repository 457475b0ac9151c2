"""Writing files so that they are replaced as a whole or not at all, even if the process is killed."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .errors import ArgumentError, FileError

_LONGEST = 255
"""Bytes in a file's name, on every common file system."""

_WINDOWS = sys.platform == "win32"  # it cannot remove or rename an open file
if not _WINDOWS:
    import fcntl


def checked_path(what: str, path: Any, error_type: type[FileError] = FileError) -> Path:
    """The file of a path, with symbolic links resolved; raise if it is not a regular file."""
    try:
        found = Path(os.path.realpath(Path(path)))
        if found.is_dir():
            problem = "is a folder; pass the name of a file"
        else:
            problem = "is not a regular file" if found.exists() and not found.is_file() else ""
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{what}: {path!r} is not a path of a file: {error}") from error
    except OSError as error:
        raise error_type(f"{what}: {error}") from error
    if problem:
        raise error_type(f"{what}: {found} {problem}")
    return found


def write_file(
    what: str, target: Path, data: bytes, error_type: type[FileError] = FileError
) -> None:
    """:func:`replace_file`, with an error that names ``what`` could not be done, and where."""
    try:
        replace_file(target, data)
    except OSError as error:
        raise error_type(f"{what}: cannot write {target}: {error}") from error


def write_files(what: str, folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder; all are written before the first gets its name."""
    targets = {checked_path(what, folder / name): data for name, data in contents.items()}
    try:
        with contextlib.ExitStack() as temporaries:
            written = [
                (temporaries.enter_context(_written(t, data)), t) for t, data in targets.items()
            ]
            for temporary, target in written:
                temporary.replace(target)
        _sync_entries(folder)
    except OSError as error:
        raise FileError(f"{what}: cannot write into {folder}: {error}") from error


def replace_file(target: Path, data: bytes) -> None:
    """Replace a file by a complete new one, or leave everything as it was."""
    with _written(target, data) as temporary:
        temporary.replace(target)
    _sync_entries(target.parent)


@contextlib.contextmanager
def _written(target: Path, data: bytes) -> Iterator[Path]:
    """Write a temporary file that will replace ``target``; remove it if something fails."""
    _refuse_protected(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_strays(target)
    temporary, file = _new_temporary(target)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # without it, a power failure may leave an empty file
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(target, temporary)
            if _WINDOWS:
                file.close()
            yield temporary
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _refuse_protected(target: Path) -> None:
    """Raise for a write-protected file, although a rename could replace it."""
    with contextlib.suppress(FileNotFoundError):
        if not target.stat().st_mode & 0o222 or not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, "the file is write-protected; use another name")


def _prefix(target: Path) -> str:
    """The start of the names of temporary files: the file's name, shortened if it is long."""
    name = target.name
    while len(os.fsencode(name)) > _LONGEST - len(".." + "0" * 8 + ".tmp"):
        name = name[:-1]
    return f".{name}."


def _new_temporary(target: Path) -> tuple[Path, BinaryIO]:
    """A new locked file beside ``target``; the system releases the lock when the process dies."""
    while True:
        temporary = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}.tmp")
        file = temporary.open("xb")
        if _WINDOWS:
            return temporary, file
        with contextlib.suppress(OSError):  # on a file system without locks, strays are left
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, file
        file.close()  # another save removed it as a stray before it was locked


def _remove_strays(target: Path) -> None:
    """Remove the temporary files of this file that killed processes left: those without a lock."""
    pattern = re.compile(rf"{re.escape(_prefix(target))}[0-9a-f]{{8}}\.tmp")
    for stray in [file for file in target.parent.iterdir() if pattern.fullmatch(file.name)]:
        with contextlib.suppress(OSError), contextlib.ExitStack() as files:
            if not _WINDOWS:
                fcntl.flock(files.enter_context(stray.open("r+b")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            stray.unlink()


def _sync_entries(folder: Path) -> None:
    """Make the new names in a folder outlast a power failure, if the file system can."""
    if _WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def in_json(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinity: they become "nan", "inf" and "-inf"."""
    if isinstance(value, dict):
        return {name: in_json(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_json(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
