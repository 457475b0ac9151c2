"""``python -m tinygrad182 inspect CHECKPOINT --data FILE``: gradients of your model on your data."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tyro.conf import Positional

from .. import nn
from .._files import in_json, write_files
from ..errors import ArgumentError, ShapeError, brief
from ..inspect import Microscope, look
from ..inspect.views.gradient_flow import GradientFlow
from ..nn.models_from_state_dicts import Cell
from ..serialization import load
from ..tensors import functions
from ..tensors.creation import tensor
from ..tensors.tensor import Tensor
from . import announce_page, say, visible
from .series import Series, read_series

PAGE, TABLE, RESULTS = "page.html", "table.csv", "results.json"
"""The files that the command writes."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The model, the data, and the folder to write to."""

    checkpoint: Positional[Path]
    """A safetensors file, or a state dict saved by PyTorch."""
    data: Path
    """A CSV file with a row for each time step, or an array of numpy.save: (T, I) or (T, B, I)."""
    cell: Cell | None = None
    """The kind of cell; by default the number of gates decides."""
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    """The nonlinearity of an RNN, which the file does not contain."""
    head: str | None = None
    """Prefix of the linear layer after the recurrent ones, such as fc2, or none; by default the first."""
    front: str | None = None
    """Prefix of the linear layer before them, or none; by default the one that the shapes require."""
    columns: tuple[str, ...] = ()
    """Columns of the CSV file that the model reads; by default all that have numbers."""
    batch_first: bool = False
    """The array is (B, T, I)."""
    target: Literal["last", "all"] = "last"
    """The loss: the sum of the outputs at the last step, or at all steps."""
    steps: tuple[int, ...] = ()
    """Time steps whose hidden units are on the page; by default the most interesting ones."""
    out: Path = Path("inspected")
    """Write page.html, table.csv and results.json to this folder."""
    open: bool = False
    """Show the page in a browser."""


def run(options: Options) -> None:
    """Read the files, compute the gradients, print the norms and write the folder."""
    state = load(options.checkpoint).model
    model = nn.from_state_dict(
        state, options.cell, options.nonlinearity, options.head, options.front
    )
    series = read_series(options.data, options.columns, options.batch_first)
    x = _input(model, series, options)
    loss = functions.sum(model(x) if options.target == "all" else model(x)[-1])
    view = look(loss, steps=options.steps or None)
    notes = [*_model_notes(model), *model.notes, *series.notes, _data_note(series)]
    if model.embedding is not None and x.dtype.kind == "f":
        notes.append("The embedding is not used, for the data are not tokens.")
    record = _record(options, model, series, view, notes) | {"loss": loss.item()}
    results = json.dumps(in_json(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    contents = {PAGE: view.page(), TABLE: _table(view), RESULTS: results}
    write_files("inspect", options.out, {name: text.encode() for name, text in contents.items()})
    sentences = [sentence.text for sentence in view.sentences if not sentence.folded]
    overview = repr(GradientFlow({stack.path: stack for stack in view.flow.values()}))
    say(*notes, "", *sentences, "", *overview.split("\n"))
    say("", f"table: {options.out / TABLE}", f"JSON: {options.out / RESULTS}")
    announce_page(options.out / PAGE, options.open)


def _input(model: nn.RecurrentNetwork, series: Series, options: Options) -> Tensor:
    """The series as input of the model: tokens for its embedding, or numbers of its dtype.

    Raises
    ------
    ShapeError
        The data have another number of columns than the model reads.
    """
    first = model.layers[0] if model.front is None else model.front
    reads = first.in_features if isinstance(first, nn.Linear) else first.input_size
    width = len(series.columns)
    whole = series.values == np.floor(series.values)
    if model.embedding is not None and width == 1 != reads and whole.all():
        return tensor(series.values[:, :, 0].astype("int64"))
    if width != reads:
        names = ", ".join(map(repr, series.columns))
        remedy = "choose with --columns" if width > reads else "add the missing columns"
        idle = [
            name.removesuffix(".weight")
            for name, shape in model.unused.items()
            if shape[1:] == (width,)
        ]
        if idle:
            remedy = (
                f"{idle[0]} reads {width} and is not used; if it comes first, add --front {idle[0]}"
            )
        tokens = ", or one column of tokens" if model.embedding is not None else ""
        raise ShapeError(
            f"inspect: the model in {options.checkpoint} reads I = {reads} numbers a step"
            f"{tokens}; {options.data} has {width}: {names}; {remedy}"
        )
    dtype = next(first.parameters()).dtype
    with np.errstate(over="ignore"):
        values = series.values.astype(dtype)
    if not np.isfinite(values).all():
        raise ArgumentError(f"inspect: {options.data} has numbers too large for {dtype}")
    return tensor(values)


# --- notes ----------------------------------------------------------------------------------------


def _model_notes(model: nn.RecurrentNetwork) -> list[str]:
    """Sentences about the modules found in the checkpoint, and about its other keys."""
    parts = [f"{name} is {text}" for name, text in _modules(model).items()]
    notes = [f"In the checkpoint, {', '.join(parts)}."]
    if any(layer.bidirectional for layer in model.layers):
        notes.append("Steps of a reverse direction are counted in the order in which it runs.")
    if unused := [f"{name} {shape}" for name, shape in model.unused.items()]:
        notes.append(f"Keys that are not used: {', '.join(unused)}.")
    return notes


def _modules(model: nn.RecurrentNetwork) -> dict[str, str]:
    """The class and options of each module, by its name in the checkpoint."""
    return {
        name: f"{type(module).__name__}({module.extra_repr()})"
        for name, module in model.named_children()
    }


def _data_note(series: Series) -> str:
    """A sentence about the shape of the data."""
    steps, batch, width = series.values.shape
    names = brief(list(series.columns))[1:-1]
    sequences = f" of {batch} sequences" if batch > 1 else ""
    numbers = "1 number" if width == 1 else f"{width} numbers"
    return f"The data are {steps} steps{sequences}, of {numbers} each: {names}."


# --- files ----------------------------------------------------------------------------------------


def _record(
    options: Options, model: nn.RecurrentNetwork, series: Series, view: Microscope, notes: list[str]
) -> dict[str, Any]:
    """All results but the loss, for JSON."""
    norms: dict[str, Any] = {}
    for path, name, state in _states(view):
        norms.setdefault(path, {})[name] = {
            "t": state.time.tolist(),
            "value_norm": state.value_norm.tolist(),
            "log10_grad_norm": state.log10_grad_norm.tolist(),
        }
    steps, batch, _ = series.values.shape
    data = {"file": str(options.data), "steps": steps, "sequences": batch}
    return {
        "checkpoint": str(options.checkpoint),
        "modules": _modules(model),
        "unused": model.unused,
        "notes": notes,
        "data": data | {"columns": series.columns},
        "target": options.target,
        "sentences": [sentence.text for sentence in view.sentences],
        "norms": norms,
    }


def _table(view: Microscope) -> str:
    """The norms of every state at every step, as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["path", "state", "t", "value_norm", "grad_norm", "log10_grad_norm"])
    for path, name, state in _states(view):
        columns = (state.time, state.value_norm, state.grad_norm, state.log10_grad_norm)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        writer.writerows([visible(path), name, *row] for row in rows)
    return file.getvalue()


def _states(view: Microscope) -> Iterator[tuple[str, str, Any]]:
    """The path, name and flow of every state."""
    for stack in view.flow.values():
        for name, state in stack.items():
            yield stack.path, name, state
