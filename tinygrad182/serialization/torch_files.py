"""Reading of files of ``torch.save`` without PyTorch and without ``pickle``: no code in them ever runs.

Such a file is a zip archive: ``data.pkl`` maps names to tensors, and ``data/0``, ``data/1`` … hold the
numbers. ``data.pkl`` is a program for pickle's stack machine. :class:`_Machine` carries out only the
instructions that build dicts, lists and tensors. A Python name in the file stays a string: it is never
imported or called. PyTorch calls this ``weights_only``.
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
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError, brief

HostArray = np.ndarray[Any, Any]

SAVE_WEIGHTS = "save the weights alone in PyTorch: torch.save(model.state_dict(), path)"
SAVE_AGAIN = "save it again in PyTorch: torch.save(torch.load(path, weights_only=True), path)"
"""Remedies in messages."""

MOST_REPEATED = 8
"""Tensors may share numbers. Together they may have at most this many times the bytes of the file."""

ALWAYS_ALLOWED = 2**24
"""Bytes that tensors may always have, so that small files are not refused."""

MOST_AXES = 64
"""NumPy's limit on axes."""

_BFLOAT16 = "bfloat16"
_DTYPES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": _BFLOAT16, "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip
"""PyTorch's names of storages, and the dtypes of their elements."""

_STORAGES = {f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()}
_STORAGES["torch.storage.UntypedStorage"] = "uint8"
_LATER = ("uint16", "uint32", "uint64")
_NAMED_DTYPES = {f"torch.{dtype}": dtype for dtype in (*_DTYPES.values(), *_LATER)}
_DAMAGE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, RuntimeError),
    *(TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
    DeprecationWarning,  # for an escape in a string, if warnings are errors
)
"""Errors that Python's zip and pickle tools raise on damaged bytes."""


class TorchStateDict(NamedTuple):
    """The state dict in a file, and the numbers and strings saved beside it."""

    arrays: dict[str, HostArray]
    facts: dict[str, Any]


def is_torch_file(source: Path) -> bool:
    """Whether a file is a zip archive or a pickle; a safetensors file begins with 8 bytes and a brace."""
    with source.open("rb") as file:
        head = file.read(9)
    return head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[8:9] != b"{")


def read_torch_file(source: Path) -> Any:
    """Read the argument of ``torch.save``: dicts, lists and tuples of arrays, numbers and strings.

    Arrays are views of the file's numbers; ``bfloat16`` becomes ``float32``, without rounding. A file that
    is damaged, in an old format or holds anything else raises a CheckpointError.
    """
    with source.open("rb") as file:
        if file.read(1) == b"\x80":
            raise CheckpointError(
                f"load: {source} is a pickle, which can run code when it is read (torch.save wrote "
                f"them before version 1.6); {SAVE_AGAIN}"
            )
        try:
            with zipfile.ZipFile(file) as archive:
                return _Machine(archive, source.stat().st_size).result()
        except _RefusedError as error:
            raise CheckpointError(f"load: {source} {error}") from error
        except _DAMAGE as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"load: {source} is damaged, or not a file of torch.save ({reason}); {SAVE_WEIGHTS}"
            ) from error


def state_dict_in(source: Path, found: Any) -> TorchStateDict:
    """Find the one state dict in the contents of a file, where it may be a value in a dict."""
    outer = found if isinstance(found, dict) else {}
    inner = {name: value for name, value in outer.items() if _arrays(value)}
    if len(inner) > 1:
        name = next(iter(inner))
        raise CheckpointError(
            f"load: {source} holds {len(inner)} state dicts, {brief(list(inner))[1:-1]}; save only one of "
            f"them: torch.save(torch.load(path, weights_only=True)[{brief(name)}], path)"
        )
    arrays = _arrays(*inner.values()) if inner else _arrays(outer)
    if not arrays:
        raise CheckpointError(f"load: {source} holds no state dict; {SAVE_WEIGHTS}")
    facts = {name: value for name, value in outer.items() if isinstance(value, _FACTS)}
    return TorchStateDict(arrays, {str(name): value for name, value in facts.items()})


_FACTS = (bool, int, float, str)


def _arrays(value: Any) -> dict[str, HostArray]:
    """The arrays directly in a dict, by name."""
    items = value.items() if isinstance(value, dict) else ()
    return {str(name): array for name, array in items if isinstance(array, np.ndarray)}


class _RefusedError(Exception):
    """The file holds something that is refused; the message goes on after the file's name."""


@dataclass(frozen=True)
class _Name:
    """A Python name in the file."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A row of numbers; tensors are views of parts of it."""

    data: bytes
    dtype: str
    order: str

    @property
    def itemsize(self) -> int:
        """Bytes of an element of the NumPy array."""
        return np.dtype("float32" if self.dtype == _BFLOAT16 else self.dtype).itemsize

    def tensor(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> HostArray:
        """Return a view; NumPy checks that it lies within the numbers."""
        kind = np.dtype("uint16" if self.dtype == _BFLOAT16 else self.dtype)
        here, size = np.dtype(self.order + kind.str[1:]), kind.itemsize
        steps = [step * size for step in strides]
        array: HostArray = np.ndarray(shape, here, self.data, offset * size, steps)
        if self.dtype == _BFLOAT16:  # the upper half of a float32
            return np.asarray(array.astype("uint32") << 16).view("float32")
        return array.astype(kind, copy=False)


@dataclass
class _Machine:
    """Pickle's stack machine, with the archive that it reads."""

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
        program = self.archive.read(f"{self.root}data.pkl")
        for instruction, argument, _ in pickletools.genops(program):
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
                    f"has the pickle instruction {instruction.name}, which no state dict needs; "
                    f"{SAVE_WEIGHTS}"
                )
        (result,) = self.stack
        return result

    # --- the instructions -------------------------------------------------------------------------

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def pop_to_mark(self) -> list[Any]:
        """Take everything off the stack that was put there since the last mark."""
        start = self.marks.pop()
        found, self.stack[start:] = self.stack[start:], []
        return found

    def tuple_of(self, count: int | None) -> None:
        if count is None:
            found = self.pop_to_mark()
        else:
            found, self.stack[-count:] = self.stack[-count:], []
            if len(found) < count:
                raise IndexError("a tuple of more values than there are")
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
            raise TypeError("keys are set in something that is not a dict")
        for name, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(name, (str, int)):  # the hash of a nested tuple may never end
                raise TypeError("a key of a dict is neither a string nor a whole number")
            if isinstance(name, int) and name.bit_length() > 60:  # many may have one hash
                raise ValueError("a key of a dict is a huge number")
            target[name] = value

    def pop_two(self) -> list[Any]:
        found, self.stack[-2:] = self.stack[-2:], []
        return found

    def name(self, text: str) -> None:
        """Put a Python name on the stack, if it is one that tensors need."""
        name = text.replace(" ", ".", 1)
        if not any(name in known for known in (_CALLS, _STORAGES, _NAMED_DTYPES)):
            raise _RefusedError(
                f"holds {brief(name)[1:-1]}, which is refused: only tensors of real numbers in dicts and "
                f"lists are read, nothing that could run; {SAVE_WEIGHTS}"
            )
        self.stack.append(_Name(name))

    def name_of_two(self, _: Any) -> None:
        module, name = self.pop_two()
        self.name(f"{module} {name}")

    def load_storage(self, _: Any) -> None:
        """Read the numbers in an entry of the archive."""
        what, kind, key, *_where = self.stack.pop()
        if what != "storage" or type(key) is not str:
            raise ValueError("an entry of the archive is not a storage")
        if key not in self.storages:
            self.storages[key] = self.archive.read(f"{self.root}data/{key}")
        self.stack.append(_Storage(self.storages[key], _STORAGES[kind.name], self.order))

    def call(self, _: Any) -> None:
        function, arguments = self.pop_two()
        self.stack.append(_CALLS[function.name](self, *arguments))

    def build(self, _: Any) -> None:
        """Ignore the attributes of an object; a state dict has only the versions of its modules."""
        target, _state = self.pop_two()
        if type(target) is not dict:
            raise TypeError("attributes are set on something that is not a dict")
        self.stack.append(target)

    # --- functions that the file may call ---------------------------------------------------------

    def ordered_dict(self, *items: Any) -> dict[Any, Any]:
        if items and items[0]:
            raise ValueError("an OrderedDict that is not empty when it is made")
        return {}

    def tensor(
        self, storage: _Storage, offset: int, shape: Any, strides: Any, *_options: Any
    ) -> HostArray:
        """Make a tensor as ``torch._utils._rebuild_tensor_v2`` does."""
        if len(shape) > MOST_AXES or not all(type(n) is int for n in (offset, *shape, *strides)):
            raise TypeError("the shape of a tensor is not a few whole numbers")
        self.total += math.prod(shape) * storage.itemsize
        if self.total > max(MOST_REPEATED * self.size, ALWAYS_ALLOWED):
            raise _RefusedError(
                f"has tensors that repeat its numbers more than {MOST_REPEATED} times; {SAVE_AGAIN}"
            )
        return storage.tensor(offset, tuple(shape), tuple(strides))

    def tensor_of_dtype(self, storage: _Storage, *arguments: Any) -> HostArray:
        """Make a tensor as ``torch._utils._rebuild_tensor_v3`` does, from a storage of bytes."""
        dtype = _NAMED_DTYPES[arguments[5].name]
        return self.tensor(_Storage(storage.data, dtype, storage.order), *arguments[:3])


_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))
_VALUES = frozenset((
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
))  # fmt: skip
"""Instructions that put their argument on the stack."""

_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}

_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple_of,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop_two()),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_of_two,
    "BINPERSID": _Machine.load_storage,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}

_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _Machine.ordered_dict,
    "torch._utils._rebuild_tensor_v2": _Machine.tensor,
    "torch._utils._rebuild_tensor_v3": _Machine.tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda _, tensor, *_options: tensor,
    "torch.Size": lambda _, sizes: tuple(sizes),
}
"""Everything that a file may call, and our method for it."""
