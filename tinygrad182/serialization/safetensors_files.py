"""Safetensors files: named arrays with metadata, written as a whole or not at all.

:mod:`.checkpoints` and the traces of ``tg.inspect`` are stored in such files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from .._files import write_file
from ..errors import ArgumentError, CheckpointError, CheckpointNotFoundError, DTypeError


class SafetensorsFile(NamedTuple):
    """The arrays in a file by name, and its metadata."""

    arrays: dict[str, np.ndarray[Any, Any]]
    header: dict[str, str]


def write_arrays(
    what: str, target: Path, arrays: Mapping[str, Any], header: dict[str, str]
) -> None:
    """Write a safetensors file with ``header`` as its metadata; errors begin with ``what``."""
    on_host = {name: _on_host(what, name, value) for name, value in arrays.items()}
    try:
        data = to_bytes(on_host, header)
    except (SafetensorError, UnicodeEncodeError) as error:
        raise ArgumentError(f"{what}: this cannot be saved: {error}") from error
    write_file(what, target, data, CheckpointError)


def read_arrays(what: str, source: Path) -> SafetensorsFile:
    """Return the arrays and the metadata of a safetensors file; errors are those of ``tg.load``."""
    try:
        with readable(what, source), safe_open(source, framework="numpy") as file:
            arrays = {name: _read(what, file, name) for name in file.keys()}  # noqa: SIM118
            return SafetensorsFile(arrays, file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{what}: {source} is damaged, or not a safetensors file: {error}"
        ) from error


@contextmanager
def readable(what: str, source: Path) -> Iterator[None]:
    """Turn the errors of a file that is missing or cannot be read into ours."""
    try:
        yield
    except CheckpointError:  # it is an OSError, too
        raise
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(f"{what}: there is no file {source}") from error
    except OSError as error:
        raise CheckpointError(f"{what}: cannot read {source}: {error}") from error


def _on_host(what: str, name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array in the layout of the file: contiguous and little-endian."""
    if name == "__metadata__":  # the key of the header: the file could not be read
        raise ArgumentError(f"{what}: a parameter cannot be called {name!r}; rename it")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise DTypeError(
            f"{what}: {name} is {array.dtype}, which safetensors does not have; use float64 or smaller"
        )
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _read(what: str, file: Any, name: str) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = file.get_tensor(name)
        known = array.dtype.kind in "biuf"  # other packages may add dtypes to NumPy
        problem: Any = f"it is {array.dtype}"
    except (TypeError, AttributeError, SafetensorError) as error:  # bfloat16; float8; float6
        known, problem = False, error
    if not known:
        raise DTypeError(
            f"{what}: {name} has a dtype that NumPy lacks ({problem}); convert it with PyTorch first"
        )
    return array
