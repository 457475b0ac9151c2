"""Files that later processes load, for it takes long to make what is in them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path

from ._files import replace_file

_DIGEST = hashlib.sha256().digest_size


def folders() -> list[Path]:
    """Where files are looked for and kept: beside this module, or in the user's cache."""
    if sys.platform == "win32":
        user = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        user = "~/Library/Caches"
    else:
        user = os.environ.get("XDG_CACHE_HOME", "")
        if not Path(user).is_absolute():  # code of wherever we are is not run
            user = "~/.cache"
    found = [Path(__file__).with_name("__pycache__")]
    with contextlib.suppress(RuntimeError):  # nobody's home
        found.append(Path(user).expanduser() / "tinygrad182")
    return found


def kept(name: str) -> bytes | None:
    """Return what an earlier process kept; None if there is no such file, or it is damaged."""
    for folder in folders():
        with contextlib.suppress(OSError):
            data = (folder / name).read_bytes()
            if hashlib.sha256(data[_DIGEST:]).digest() == data[:_DIGEST]:
                return data[_DIGEST:]
    return None


def keep(name: str, data: bytes) -> None:
    """Write a file where one can be written; nowhere is not an error."""
    for folder in folders():
        with contextlib.suppress(OSError):
            replace_file(folder / name, hashlib.sha256(data).digest() + data)
            return
