"""Files as ``torch.save`` writes them, and malicious ones, made without PyTorch."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support import Array


class Named:
    """A Python name, which pickle writes as it is here, and the arguments of its call."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name, self.arguments = name, arguments


class Writer(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Python's pickler, written in Python, with the names of modules that are not here."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Named):
            module, _, name = obj.name.rpartition(".")
            self.write(f"c{module}\n{name}\n".encode())
            if obj.arguments:
                super().save(obj.arguments)
                self.write(pickle.REDUCE)
        elif isinstance(obj, Persistent):
            super().save(obj.what)
            self.write(pickle.BINPERSID)
        else:
            super().save(obj, save_persistent_id=False)


class Persistent:
    """An object that pickle stores outside of its stream."""

    def __init__(self, *what: Any) -> None:
        self.what = what


STORAGES = {
    "float32": "Float",
    "float64": "Double",
    "float16": "Half",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}


def storage(key: str, dtype: str, count: int) -> Persistent:
    return Persistent("storage", Named(f"torch.{STORAGES[dtype]}Storage"), key, "cpu", count)


def tensor(
    key: str, array: Array, offset: int = 0, shape: Any = None, strides: Any = None
) -> Named:
    """A tensor whose numbers are ``data/{key}``; shape and strides (in elements) are the array's."""
    size = array.itemsize
    return Named(
        "torch._utils._rebuild_tensor_v2",
        storage(key, array.dtype.name, array.size),
        offset,
        array.shape if shape is None else shape,
        tuple(s // size for s in array.strides) if strides is None else strides,
        False,
        OrderedDict(),
    )


def pickled(value: Any, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    Writer(file, protocol).dump(value)
    return file.getvalue()


def write_archive(
    path: Path,
    program: bytes,
    data: Mapping[str, bytes],
    order: str = "little",
    compression: int = zipfile.ZIP_STORED,
    root: str = "archive",
) -> None:
    """Write the entries of a file of ``torch.save``."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{root}/data.pkl", program)
        file.writestr(f"{root}/byteorder", order)
        for key, content in data.items():
            file.writestr(f"{root}/data/{key}", content)
        file.writestr(f"{root}/version", "3\n")


def write(path: Path, arrays: Mapping[str, Array], around: str = "", **beside: Any) -> None:
    """Write a state dict, or one in a dict (under ``around``) with other things beside it."""
    tensors = {name: tensor(str(i), array) for i, (name, array) in enumerate(arrays.items())}
    value: Any = {around: tensors, **beside} if around else tensors
    data = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
    write_archive(path, pickled(value), data)
