"""Files of ``torch.save``, read without PyTorch and without ``pickle``: what is in them never runs.

Such a file is a zip archive: ``data.pkl`` says which names have which tensors, and ``data/0``, ``data/1`` …
are the numbers. ``data.pkl`` is a program for pickle's machine. Here only those of its instructions are
carried out that build dicts, lists and tensors. A name of Python's is a text to us: what it stands for is
never imported or called. PyTorch calls this ``weights_only``.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CheckpointError, brief

HostArray = np.ndarray[Any, Any]

SAVE_WEIGHTS = "save the weights alone in PyTorch: torch.save(model.state_dict(), path)"
SAVE_AGAIN = "save it again in PyTorch: torch.save(torch.load(path, weights_only=True), path)"
"""What a message tells people to do."""

MOST_REPEATED = 8
"""Tensors may share their numbers. All of them together may have so many times the bytes of the file."""

ALWAYS_ALLOWED = 2**24
"""Bytes that they may have in any case, for small files."""

MOST_AXES = 64
"""NumPy's limit."""

_BFLOAT16 = "bfloat16"
_DTYPES = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": _BFLOAT16,
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
"""What PyTorch calls its storages, and the dtype of their elements."""

_STORAGES = {f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()}
_STORAGES["torch.storage.UntypedStorage"] = "uint8"
_LATER = ("uint16", "uint32", "uint64")
_NAMED_DTYPES = {f"torch.{dtype}": dtype for dtype in (*_DTYPES.values(), *_LATER)}
_DAMAGE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, RuntimeError),
    *(TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
    DeprecationWarning,  # of an escape in a text, where warnings are errors
)
"""What Python's zip and pickle tools raise on bytes that are not what they should be."""


def is_torch_file(source: Path) -> bool:
    """Whether a file is a zip archive or a pickle, and not a safetensors file: 8 bytes and a brace.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with source.open("rb") as file:
        head = file.read(9)
    return head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[8:9] != b"{")


def read_torch_file(source: Path) -> Any:
    """Read what was given to ``torch.save``: dicts, lists and tuples of arrays, numbers and texts.

    Returns
    -------
    object
        Tensors are NumPy arrays, views of the file's numbers; ``bfloat16`` has become ``float32``, which
        holds all of its numbers.

    Raises
    ------
    CheckpointError
        A file that is damaged, in an old format, or holds anything else, such as a whole module.
    OSError
        The file cannot be read.
    """
    with source.open("rb") as file:
        if file.read(1) == b"\x80":
            raise CheckpointError(
                f"load: {source} is a pickle, which can run code when it is read (torch.save wrote "
                f"them before version 1.6); {SAVE_AGAIN}"
            )
        try:
            with zipfile.ZipFile(file) as archive:
                return _Reading(archive, source.stat().st_size).result()
        except _RefusedError as error:
            raise CheckpointError(f"load: {source} {error}") from error
        except _DAMAGE as error:
            told = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"load: {source} is damaged, or no file of torch.save ({told}); {SAVE_WEIGHTS}"
            ) from error


def state_dict_in(source: Path, found: Any) -> tuple[dict[str, HostArray], dict[str, Any]]:
    """The state dict among what was read, which may stand in a dict of a training run; and plain facts.

    Raises
    ------
    CheckpointError
        There is none, or more than one.
    """
    outer = found if isinstance(found, dict) else {}
    inner = {name: value for name, value in outer.items() if _arrays(value)}
    if len(inner) > 1:
        name = next(iter(inner))
        raise CheckpointError(
            f"load: {source} holds {len(inner)} state dicts, {brief(list(inner))[1:-1]}; save the one "
            f"that is meant: torch.save(torch.load(path, weights_only=True)[{brief(name)}], path)"
        )
    arrays = _arrays(*inner.values()) if inner else _arrays(outer)
    if not arrays:
        raise CheckpointError(f"load: {source} holds no state dict; {SAVE_WEIGHTS}")
    facts = {name: value for name, value in outer.items() if isinstance(value, _FACTS)}
    return arrays, {str(name): value for name, value in facts.items()}


_FACTS = (bool, int, float, str)


def _arrays(value: Any) -> dict[str, HostArray]:
    """The arrays directly in a dict, by their names."""
    items = value.items() if isinstance(value, dict) else ()
    return {str(name): array for name, array in items if isinstance(array, np.ndarray)}


class _RefusedError(Exception):
    """What a file holds that is not read, for a message that begins with its name."""


@dataclass(frozen=True)
class _Name:
    """A name of Python's that stands in the file."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A row of numbers in memory, of which tensors show a part."""

    data: bytes
    dtype: str
    order: str

    @property
    def itemsize(self) -> int:
        """Bytes of an element, as an array of NumPy's will have them."""
        return np.dtype("float32" if self.dtype == _BFLOAT16 else self.dtype).itemsize

    def tensor(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> HostArray:
        """Return a view; NumPy checks that all of it lies within the numbers."""
        kind = np.dtype("uint16" if self.dtype == _BFLOAT16 else self.dtype)
        here, size = np.dtype(self.order + kind.str[1:]), kind.itemsize
        steps = [step * size for step in strides]
        array: HostArray = np.ndarray(shape, here, self.data, offset * size, steps)
        if self.dtype == _BFLOAT16:  # the upper half of a float32
            return np.asarray(array.astype("uint32") << 16).view("float32")
        return array.astype(kind, copy=False)


@dataclass
class _Reading:
    """One file while it is read: the archive, and pickle's machine."""

    archive: zipfile.ZipFile
    size: int
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, bytes] = field(default_factory=dict)
    total: int = 0

    def __post_init__(self) -> None:
        entries = self.archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > self.size:
            raise _RefusedError(f"is compressed, or damaged; {SAVE_AGAIN}")
        names = [entry.filename for entry in entries]
        programs = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        self.root = programs[0].removesuffix("data.pkl") if len(programs) == 1 else ""
        if f"{self.root}constants.pkl" in names:
            raise _RefusedError(f"is a TorchScript module, which is code; {SAVE_WEIGHTS}")
        if len(programs) != 1:
            raise _RefusedError(f"is a zip archive that torch.save did not write; {SAVE_WEIGHTS}")
        order = f"{self.root}byteorder"
        big = order in names and self.archive.read(order) == b"big"
        self.order = ">" if big else "<"

    def result(self) -> Any:
        """Run ``data.pkl``."""
        for instruction, argument, _ in pickletools.genops(
            self.archive.read(f"{self.root}data.pkl")
        ):
            if instruction.name in _IGNORED:
                continue
            if instruction.name in _VALUES:
                self.stack.append(argument)
            elif instruction.name in _NEW:
                self.stack.append(_NEW[instruction.name]())
            elif instruction.name in _INSTRUCTIONS:
                _INSTRUCTIONS[instruction.name](self, argument)
            else:
                raise _RefusedError(
                    f"has pickle's instruction {instruction.name}, which no state dict needs; "
                    f"{SAVE_WEIGHTS}"
                )
        (result,) = self.stack
        return result

    # --- the instructions -------------------------------------------------------------------------

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def marked(self) -> list[Any]:
        """Take what was put on the stack since the last mark."""
        start = self.marks.pop()
        found, self.stack[start:] = self.stack[start:], []
        return found

    def tuple_of(self, count: int | None) -> None:
        if count is None:
            found = self.marked()
        else:
            found, self.stack[-count:] = self.stack[-count:], []
            if len(found) < count:
                raise IndexError("a tuple of values that are not there")
        self.stack.append(tuple(found))

    def put(self, place: Any) -> None:
        self.memo[len(self.memo) if place is None else int(place)] = self.stack[-1]

    def get(self, place: Any) -> None:
        self.stack.append(self.memo[int(place)])

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("values are added to something that is not a list")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise TypeError("names are set in something that is not a dict")
        for name, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(name, (str, int)):  # the hash of a nested tuple may never end
                raise TypeError("a name in a dict is neither a text nor a whole number")
            if isinstance(name, int) and name.bit_length() > 60:  # many may have one hash
                raise ValueError("a name in a dict is a huge number")
            target[name] = value

    def two(self) -> list[Any]:
        found, self.stack[-2:] = self.stack[-2:], []
        return found

    def name(self, text: str) -> None:
        """Put a name of Python's on the stack, if it is among those that tensors need."""
        name = text.replace(" ", ".", 1)
        if not any(name in known for known in (_CALLS, _STORAGES, _NAMED_DTYPES)):
            raise _RefusedError(
                f"holds {brief(name)[1:-1]}, which is refused: only tensors of real numbers in dicts and "
                f"lists are read, and nothing that could run; {SAVE_WEIGHTS}"
            )
        self.stack.append(_Name(name))

    def name_of_two(self, _: Any) -> None:
        module, name = self.two()
        self.name(f"{module} {name}")

    def load_storage(self, _: Any) -> None:
        """Read the numbers that an entry of the archive holds."""
        what, kind, key, *_where = self.stack.pop()
        if what != "storage" or type(key) is not str:
            raise ValueError("something else than a storage is stored outside")
        if key not in self.storages:
            self.storages[key] = self.archive.read(f"{self.root}data/{key}")
        self.stack.append(_Storage(self.storages[key], _STORAGES[kind.name], self.order))

    def call(self, _: Any) -> None:
        function, arguments = self.two()
        self.stack.append(_CALLS[function.name](self, *arguments))

    def build(self, _: Any) -> None:
        """Leave out what is set on an object: of a state dict it is the versions of its modules."""
        target, _state = self.two()
        if type(target) is not dict:
            raise TypeError("attributes are set on something that is not a dict")
        self.stack.append(target)

    # --- what is called ---------------------------------------------------------------------------

    def ordered_dict(self, *items: Any) -> dict[Any, Any]:
        if items and items[0]:
            raise ValueError("an OrderedDict that is made of something")
        return {}

    def tensor(
        self, storage: _Storage, offset: int, shape: Any, strides: Any, *_options: Any
    ) -> HostArray:
        """Make a tensor as ``torch._utils._rebuild_tensor_v2`` does."""
        if len(shape) > MOST_AXES or not all(type(n) is int for n in (offset, *shape, *strides)):
            raise TypeError("a tensor whose shape is not a few whole numbers")
        self.total += math.prod(shape) * storage.itemsize
        if self.total > max(MOST_REPEATED * self.size, ALWAYS_ALLOWED):
            raise _RefusedError(
                f"has tensors that repeat its numbers more than {MOST_REPEATED} times; {SAVE_AGAIN}"
            )
        return storage.tensor(offset, tuple(shape), tuple(strides))

    def tensor_of_dtype(self, storage: _Storage, *arguments: Any) -> HostArray:
        """Make a tensor as ``torch._utils._rebuild_tensor_v3`` does: the storage has bytes."""
        dtype = _NAMED_DTYPES[arguments[5].name]
        return self.tensor(_Storage(storage.data, dtype, storage.order), *arguments[:3])

    def parameter(self, tensor: HostArray, *_options: Any) -> HostArray:
        return tensor

    def size_of(self, sizes: Any) -> tuple[int, ...]:
        return tuple(sizes)


_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))
_VALUES = frozenset(
    (
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
    )
)
"""Instructions whose argument is a value."""

_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}

_INSTRUCTIONS: dict[str, Callable[[_Reading, Any], None]] = {
    "MARK": _Reading.mark,
    "TUPLE": _Reading.tuple_of,
    "TUPLE1": lambda reading, _: reading.tuple_of(1),
    "TUPLE2": lambda reading, _: reading.tuple_of(2),
    "TUPLE3": lambda reading, _: reading.tuple_of(3),
    "BINPUT": _Reading.put,
    "LONG_BINPUT": _Reading.put,
    "MEMOIZE": _Reading.put,
    "BINGET": _Reading.get,
    "LONG_BINGET": _Reading.get,
    "APPEND": lambda reading, _: reading.append([reading.stack.pop()]),
    "APPENDS": lambda reading, _: reading.append(reading.marked()),
    "SETITEM": lambda reading, _: reading.set_items(reading.two()),
    "SETITEMS": lambda reading, _: reading.set_items(reading.marked()),
    "GLOBAL": _Reading.name,
    "STACK_GLOBAL": _Reading.name_of_two,
    "BINPERSID": _Reading.load_storage,
    "REDUCE": _Reading.call,
    "BUILD": _Reading.build,
}

_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _Reading.ordered_dict,
    "torch._utils._rebuild_tensor_v2": _Reading.tensor,
    "torch._utils._rebuild_tensor_v3": _Reading.tensor_of_dtype,
    "torch._utils._rebuild_parameter": _Reading.parameter,
    "torch.Size": _Reading.size_of,
}
"""All that may be called, and what is done instead."""
