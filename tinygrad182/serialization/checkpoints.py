"""``tg.save`` and ``tg.load``: a model, its optimizer and a few facts in one safetensors file.

Parameters have PyTorch's names and layouts in the file, as in ``Module.state_dict``, so PyTorch and this
framework read each other's files. Arrays are written and read in :mod:`.safetensors_files`; files of
``torch.save`` are read in :mod:`.torch_files`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._files import checked_path
from ..engine.modes import default_device
from ..engine.recording import is_tensor
from ..errors import ArgumentError, CheckpointError
from ..nn import Module
from ..optim import Optimizer
from ..tensors.creation import tensor
from ..tensors.tensor import Tensor
from .safetensors_files import read_arrays, readable, write_arrays
from .torch_files import is_torch_file, read_torch_file, state_dict_in

_KEY = "tinygrad182"
"""The key of our JSON in the header's metadata. There is only one, because the library writes several keys
in any order, and equal states must give equal bytes."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The contents of a file, see :func:`load`.

    Attributes
    ----------
    model : dict
        Name → Tensor, for ``model.load_state_dict``.
    optimizer : dict or None
        For ``optimizer.load_state_dict``. It is None if the file was saved without an optimizer.
    meta : dict
        The facts that were saved with them.
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
    """Save a model, and the optimizer if training is to continue, in one safetensors file.

    The file is replaced as a whole or not at all: if the process is killed while it saves, the previous
    file stays, and the next save removes the unfinished one.

    Parameters
    ----------
    path : str or path
        Such as ``"runs/model.safetensors"``. Missing folders are created.
    model : Module
        Its ``state_dict()`` is saved, with PyTorch's names and layouts.
    optimizer : Optimizer, optional
        Its ``state_dict()`` goes into that file too, under names that no parameter has.
    **meta
        Facts such as ``epoch=3``: any JSON values (tuples come back as lists).

    Raises
    ------
    ArgumentError
        An argument is not a Module, an Optimizer or a JSON value (NaN is not one).
    DTypeError
        safetensors has no such dtype.
    CheckpointError
        The file cannot be written. The previous file is unchanged.

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

    PyTorch's modules load such a file with ``safetensors.torch.load_file(path)``. If it has an optimizer,
    leave out the names that start with ``"optimizer/"``, or pass ``strict=False``.
    """
    if isinstance(path, (Module, Mapping)):  # PyTorch's order
        raise ArgumentError("save: the path comes first: tg.save(path, model, optimizer)")
    target = checked_path("save", path, CheckpointError)
    if not isinstance(model, Module):
        raise ArgumentError(
            f"save: {type(model).__name__} is not a Module; pass the model itself: tg.save(path, model)"
        )
    if not (optimizer is None or isinstance(optimizer, Optimizer)):
        raise ArgumentError(
            f"save: {type(optimizer).__name__} is not an Optimizer; pass one such as tg.optim.Adam"
        )
    arrays: dict[str, Any] = dict(model.state_dict())
    own = "null" if optimizer is None else _split_optimizer(optimizer.state_dict(), arrays)
    facts = f'{{"version": 1, "meta": {_to_json(meta)}, "optimizer": {own}}}'
    write_arrays("save", target, {n: value.numpy() for n, value in arrays.items()}, {_KEY: facts})


def load(path: str | os.PathLike[str], device: str | None = None) -> Checkpoint:
    """Read a safetensors file, saved by :func:`save` or another program, or a file of ``torch.save``.

    The contents decide which of the two it is, not the name. PyTorch is not needed, and no code in the file
    can run: everything but tensors, numbers and strings is refused.

    Parameters
    ----------
    path : str or path
    device : str, optional
        The device of the arrays, by default that of :func:`use_device`. ``load_state_dict`` moves them to
        the parameters' device in any case.

    Returns
    -------
    Checkpoint
        With ``.model``, ``.optimizer`` and ``.meta``. From a safetensors file of another program, all
        arrays are the model's, and ``.meta`` is the metadata of its header. From a file of ``torch.save``,
        ``.model`` is the state dict, which may be one value in a dict (``{"state_dict": …, "epoch": 3}``);
        ``.meta`` has the numbers and strings beside it; the state of PyTorch's optimizers is not read, and
        ``bfloat16`` becomes ``float32``.

    Raises
    ------
    CheckpointNotFoundError
        There is no such file. The error is also a ``FileNotFoundError``.
    CheckpointError
        The file cannot be read: it is a folder, damaged, in another format, or a pickle of more than a
        state dict, such as a whole module. The message says how to save it instead.
    DTypeError
        NumPy does not have a dtype in a safetensors file, such as ``bfloat16``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> checkpoint = tg.load("model.safetensors")  # doctest: +SKIP
    >>> model.load_state_dict(checkpoint.model)  # doctest: +SKIP
    >>> optimizer.load_state_dict(checkpoint.optimizer)  # doctest: +SKIP
    """
    source = checked_path("load", path, CheckpointError)
    device = default_device(device)
    with readable("load", source):
        if is_torch_file(source):
            state, facts = state_dict_in(source, read_torch_file(source))
            model = {name: tensor(array, device=device) for name, array in state.items()}
            return Checkpoint(model, None, facts)
    found, header = read_arrays("load", source)
    arrays = {name: tensor(value, device=device) for name, value in found.items()}
    if _KEY not in header:
        return Checkpoint(arrays, None, dict(header))
    facts = _read_facts(header[_KEY], source)
    try:
        own = facts["optimizer"] and _join_optimizer(facts["optimizer"], arrays)
        return Checkpoint(arrays, own, facts["meta"])
    except (LookupError, TypeError, ValueError) as error:  # its header does not name all its arrays
        raise CheckpointError(_DAMAGED.format(source, repr(error))) from error


# --- the header -------------------------------------------------------------------------------


_DAMAGED = "load: the header of {} is damaged ({}); save the model again, or use a copy"


def _read_facts(text: str, source: Path) -> dict[str, Any]:
    """Return the JSON of a header after all checks: ``optimizer``, a state or None, and ``meta``."""
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
    return facts


def _problem(facts: dict[str, Any]) -> str:
    """Say what is wrong with the facts of a header; empty if nothing is."""
    if not isinstance(facts.get("meta"), dict):
        return "meta is not a dict"
    match facts.get("optimizer", ...):
        case None:
            return ""
        case {"prefix": str(), "state": dict(state)}:
            entries = all(i.isdecimal() and isinstance(entry, dict) for i, entry in state.items())
            return "" if entries else "the optimizer's state is not a dict for each parameter"
    return "the optimizer is not a state with a prefix"


def _split_optimizer(state_dict: Mapping[str, Any], arrays: dict[str, Any]) -> str:
    """Return an optimizer's state as JSON, and move its Tensors to ``arrays`` under unused names."""
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


def _join_optimizer(found: dict[str, Any], arrays: dict[str, Tensor]) -> dict[str, Any]:
    """Undo :func:`_split_optimizer`: move the optimizer's arrays from ``arrays`` into its state dict."""
    prefix: str = found.pop("prefix")
    found["state"] = {int(i): entry for i, entry in found["state"].items()}
    for name in [name for name in arrays if name.startswith(prefix)]:
        i, _, what = name.removeprefix(prefix).partition("/")
        found["state"][int(i)][what] = arrays.pop(name)
    return found


def _to_json(meta: Mapping[str, Any]) -> str:
    """Return facts as JSON; a fact that :func:`load` could not restore raises."""
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
            raise ArgumentError(
                f"save: {key} holds a dict with keys that are not strings; use strings"
            )
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
