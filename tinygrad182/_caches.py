"""A cache on disk, for data that takes long to make: machine code, the programs that draw charts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path

from ._files import replace_file

_DIGEST = hashlib.sha256().digest_size


def folders() -> list[Path]:
    """The folders of the cache, in the order they are tried: beside this module, then the user's own."""
    if sys.platform == "win32":
        user = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        user = "~/Library/Caches"
    else:
        user = os.environ.get("XDG_CACHE_HOME", "")
        if not Path(user).is_absolute():  # never load code from the working directory
            user = "~/.cache"
    found = [Path(__file__).with_name("__pycache__")]
    with contextlib.suppress(RuntimeError):  # the user has no home folder
        found.append(Path(user).expanduser() / "tinygrad182")
    return found


def read_cached(name: str) -> bytes | None:
    """Return what an earlier process wrote; None if there is no such file, or if it is damaged."""
    for folder in folders():
        with contextlib.suppress(OSError):
            data = (folder / name).read_bytes()
            if hashlib.sha256(data[_DIGEST:]).digest() == data[:_DIGEST]:
                return data[_DIGEST:]
    return None


def write_cached(name: str, data: bytes) -> None:
    """Write a file into the first folder that can be written to; it is not an error if there is none."""
    for folder in folders():
        with contextlib.suppress(OSError):
            replace_file(folder / name, hashlib.sha256(data).digest() + data)
            return
