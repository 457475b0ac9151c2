"""Checkpoints: a model, its optimizer and a few facts in one safetensors file, replaced as a whole.

The parameters lie in the file under PyTorch's names and layouts, as ``Module.state_dict`` gives them, so
that PyTorch reads what is saved here and the other way round. Files of ``torch.save`` are read too, and
nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from ._files import checked_path, write_file
from ._torch_files import is_torch_file, read_torch_file, state_dict_in
from .engine.modes import default_device
from .engine.recording import is_tensor
from .errors import ArgumentError, CheckpointError, CheckpointNotFoundError, DTypeError
from .nn import Module
from .optim import Optimizer
from .tensors.creation import tensor
from .tensors.tensor import Tensor

_KEY = "tinygrad182"
"""Of the header's metadata, which holds JSON. One key alone: the library writes several in any order,
and the same state is to give the same bytes."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds, see :func:`load`.

    Attributes
    ----------
    model : dict
        Name → Tensor, for ``model.load_state_dict``.
    optimizer : dict or None
        For ``optimizer.load_state_dict``; None if the file was saved without an optimizer.
    meta : dict
        The facts that were saved beside them.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Any] | None
    meta: dict[str, Any]

    def __repr__(self) -> str:
        total = sum(value.size for value in self.model.values())
        parts = [f"model: {len(self.model)} arrays, {total:,} elements"]
        if self.optimizer is not None:
            parts.append(f"optimizer: state of {len(self.optimizer.get('state', ()))} parameters")
        if self.meta:
            parts.append("meta: " + ", ".join(map(str, self.meta)))
        return f"<Checkpoint: {'; '.join(parts)}>"


def save(
    path: str | os.PathLike[str], model: Module, optimizer: Optimizer | None = None, **meta: Any
) -> None:
    """Save a model, and what is needed to go on training it, in one safetensors file.

    The file appears as a whole or not at all: a process that is killed while it saves leaves the file
    that was there before, and what it had written so far is removed by the next save there.

    Parameters
    ----------
    path : str or path
        Such as ``"runs/model.safetensors"``. Folders that are missing are made.
    model : Module
        Its ``state_dict()`` is saved: PyTorch's names and layouts.
    optimizer : Optimizer, optional
        Its ``state_dict()`` goes into the same file, under names that no parameter has.
    **meta
        Facts to keep, such as ``epoch=3``: any JSON values (tuples come back as lists).

    Raises
    ------
    ArgumentError
        Something that is not a Module, an Optimizer or a JSON value, such as NaN.
    DTypeError
        An array of a dtype that safetensors does not have.
    CheckpointError
        The file cannot be written. The one that was there before is as it was.

    Examples
    --------
    >>> import tempfile
    >>> import tinygrad182 as tg
    >>> model = tg.nn.Linear(3, 1, rng=0)
    >>> optimizer = tg.optim.Adam(model.parameters())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tg.save(f"{folder}/model.safetensors", model, optimizer, epoch=3)
    ...     checkpoint = tg.load(f"{folder}/model.safetensors")
    >>> checkpoint.meta
    {'epoch': 3}
    >>> model.load_state_dict(checkpoint.model)
    >>> optimizer.load_state_dict(checkpoint.optimizer)

    PyTorch's modules load such a file with ``safetensors.torch.load_file(path)``; where an optimizer
    is in it, leave out the names that start with ``"optimizer/"``, or pass ``strict=False``.
    """
    if isinstance(path, (Module, Mapping)):  # PyTorch's order
        raise ArgumentError("save: the path comes first: tg.save(path, model, optimizer)")
    target = checked_path("save", path, CheckpointError)
    if not isinstance(model, Module):
        raise ArgumentError(
            f"save: {type(model).__name__} is not a Module; save(path, model) takes the model itself"
        )
    if not (optimizer is None or isinstance(optimizer, Optimizer)):
        raise ArgumentError(f"save: {type(optimizer).__name__} is not an Optimizer, such as Adam")
    arrays: dict[str, Any] = dict(model.state_dict())
    own = "null" if optimizer is None else _take_apart(optimizer.state_dict(), arrays)
    facts = f'{{"version": 1, "meta": {_to_json(meta)}, "optimizer": {own}}}'
    write_arrays("save", target, {n: value.numpy() for n, value in arrays.items()}, {_KEY: facts})


def load(path: str | os.PathLike[str], device: str | None = None) -> Checkpoint:
    """Read a safetensors file, saved by :func:`save` or by anything else, or a file of ``torch.save``.

    Which of the two it is shows in the file itself, whatever its name. PyTorch is not needed, and nothing
    in the file can run: what is more than tensors, numbers and texts is refused.

    Parameters
    ----------
    path : str or path
    device : str, optional
        Where its arrays are put; by default the device of :func:`use_device`. ``load_state_dict``
        moves them to the parameters' device in any case.

    Returns
    -------
    Checkpoint
        With ``.model``, ``.optimizer`` and ``.meta``. In a safetensors file that was not saved by
        :func:`save`, all arrays are the model's, and ``.meta`` is the metadata of its header. Of what
        ``torch.save`` wrote, ``.model`` is the state dict, which may stand in a dict beside other things
        (``{"state_dict": …, "epoch": 3}``), and ``.meta`` the numbers and texts beside it; the state of
        PyTorch's optimizers is not read. ``bfloat16`` becomes ``float32`` there.

    Raises
    ------
    CheckpointNotFoundError
        No such file; also a ``FileNotFoundError``.
    CheckpointError
        A file that cannot be read: a folder, damaged, in another format, or a pickle of more than a state
        dict, such as a whole module. The message says how to save it instead.
    DTypeError
        In a safetensors file, a dtype that NumPy does not have, such as ``bfloat16``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> checkpoint = tg.load("model.safetensors")  # doctest: +SKIP
    >>> model.load_state_dict(checkpoint.model)  # doctest: +SKIP
    >>> optimizer.load_state_dict(checkpoint.optimizer)  # doctest: +SKIP
    """
    source = checked_path("load", path, CheckpointError)
    device = default_device(device)
    with _readable("load", source):
        if is_torch_file(source):
            state, facts = state_dict_in(source, read_torch_file(source))
            model = {name: tensor(array, device=device) for name, array in state.items()}
            return Checkpoint(model, None, facts)
    found, header = read_arrays("load", source)
    arrays = {name: tensor(value, device=device) for name, value in found.items()}
    if _KEY not in header:
        return Checkpoint(arrays, None, dict(header))
    own, meta = _facts(header[_KEY], source)
    try:
        return Checkpoint(arrays, own and _put_together(own, arrays), meta)
    except (LookupError, TypeError, ValueError) as error:  # arrays that its facts do not name
        raise CheckpointError(_DAMAGED.format(source, repr(error))) from error


# --- any safetensors file -----------------------------------------------------------------------


def write_arrays(
    what: str, target: Path, arrays: Mapping[str, Any], header: dict[str, str]
) -> None:
    """Write a safetensors file as a whole or not at all.

    Parameters
    ----------
    what : str
        The function that writes, for errors.
    target : Path
    arrays : mapping of str to ndarray
    header : dict of str to str
        The metadata beside them.

    Raises
    ------
    ArgumentError, DTypeError
        Names, metadata or dtypes that no safetensors file can hold.
    CheckpointError
        The file cannot be written.
    """
    on_host = {name: _on_host(what, name, value) for name, value in arrays.items()}
    try:
        data = to_bytes(on_host, header)
    except (SafetensorError, UnicodeEncodeError) as error:
        raise ArgumentError(f"{what}: this cannot be saved: {error}") from error
    write_file(what, target, data, CheckpointError)


def read_arrays(what: str, source: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file.

    Raises
    ------
    CheckpointNotFoundError, CheckpointError, DTypeError
        As for :func:`load`.
    """
    try:
        with _readable(what, source), safe_open(source, framework="numpy") as file:
            arrays = {name: _read(what, file, name) for name in file.keys()}  # noqa: SIM118
            return arrays, file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(
            f"{what}: {source} is damaged, or not a safetensors file: {error}"
        ) from error


@contextmanager
def _readable(what: str, source: Path) -> Iterator[None]:
    """Tell of a file that is not there, or that cannot be read, in our own errors."""
    try:
        yield
    except CheckpointError:  # an OSError too
        raise
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(f"{what}: there is no file {source}") from error
    except OSError as error:
        raise CheckpointError(f"{what}: cannot read {source}: {error}") from error


# --- what is in a checkpoint --------------------------------------------------------------------


_DAMAGED = "load: the header of {} is damaged ({}); save the model again, or use a copy"


def _facts(text: str, source: Path) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What the header says of the optimizer, and the facts of the person who saved; checked in full."""
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(_DAMAGED.format(source, error)) from error
    version = facts.get("version") if isinstance(facts, dict) else None
    if isinstance(version, int) and version > 1:
        raise CheckpointError(
            f"load: {source} has version {version} of this format; install a newer tinygrad182"
        )
    if problem := "no version of the format" if version != 1 else _problem(facts):
        raise CheckpointError(_DAMAGED.format(source, problem))
    return facts["optimizer"], facts["meta"]


def _problem(facts: dict[str, Any]) -> str:
    """What is wrong with the facts of a header; empty if nothing is."""
    if not isinstance(facts.get("meta"), dict):
        return "meta is not a dict"
    match facts.get("optimizer", ...):
        case None:
            return ""
        case {"prefix": str(), "state": dict(state)}:
            entries = all(i.isdecimal() and isinstance(entry, dict) for i, entry in state.items())
            return "" if entries else "the optimizer's state is not a dict for each parameter"
    return "the optimizer is not a state with a prefix"


def _take_apart(state_dict: Mapping[str, Any], arrays: dict[str, Any]) -> str:
    """An optimizer's state as JSON, its Tensors moved to ``arrays`` under names that are free."""
    prefix = "optimizer/"
    while any(name.startswith(prefix) for name in arrays):
        prefix = f"_{prefix}"
    rest: dict[int, dict[str, Any]] = {}
    for i, entry in state_dict["state"].items():
        rest[i] = {name: value for name, value in entry.items() if not is_tensor(value)}
        arrays |= {f"{prefix}{i}/{name}": v for name, v in entry.items() if is_tensor(v)}
    try:
        return json.dumps({**state_dict, "state": rest, "prefix": prefix})
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"save: the optimizer's state holds more than arrays and JSON values: {error}"
        ) from error


def _put_together(found: dict[str, Any], arrays: dict[str, Tensor]) -> dict[str, Any]:
    """The opposite: an optimizer's state dict, completed by the arrays that are its own."""
    prefix: str = found.pop("prefix")
    found["state"] = {int(i): entry for i, entry in found["state"].items()}
    for name in [name for name in arrays if name.startswith(prefix)]:
        i, _, what = name.removeprefix(prefix).partition("/")
        found["state"][int(i)][what] = arrays.pop(name)
    return found


def _on_host(what: str, name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array as the file holds it: without gaps, low bytes first."""
    if name == "__metadata__":  # the header's own key: the file could not be read
        raise ArgumentError(f"{what}: a parameter cannot be called {name!r}; rename it")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise DTypeError(
            f"{what}: {name} is {array.dtype}, which safetensors does not have; use float64 or less"
        )
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _read(what: str, file: Any, name: str) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = file.get_tensor(name)
        known = array.dtype.kind in "biuf"  # some packages add dtypes of their own to NumPy
        problem: Any = f"it is {array.dtype}"
    except (TypeError, AttributeError, SafetensorError) as error:  # bfloat16; float8; float6
        known, problem = False, error
    if not known:
        raise DTypeError(
            f"{what}: {name} has a dtype that NumPy lacks ({problem}); convert it with PyTorch first"
        )
    return array


def _to_json(meta: Mapping[str, Any]) -> str:
    """JSON of facts; those that would not come back as they are raise."""
    texts = []
    for key, value in meta.items():
        try:
            texts.append(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(
                f"save: {key} is not a JSON value ({error}); pass finite numbers, strings, lists and "
                "dicts (of a tensor: .item() or .tolist())"
            ) from error
        if any(not isinstance(name, str) for name in _keys(value)):
            raise ArgumentError(f"save: {key} holds a dict with keys that are no strings")
    return "{" + ", ".join(texts) + "}"


def _keys(value: Any) -> Iterator[Any]:
    """The keys of all dicts in nested lists and dicts."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield from part
            pending.extend(part.values())
        elif isinstance(part, (list, tuple)):
            pending.extend(part)
