"""``inspect``: a person's own checkpoint and series, as the page, a table and JSON."""

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
from .._files import write_files
from ..errors import ArgumentError, ShapeError, brief
from ..inspect import Microscope, look
from ..inspect.views.flow import GradientFlow
from ..nn.models_from_state_dicts import Cell
from ..serialization import load
from ..tensors import functions
from ..tensors.creation import tensor
from ..tensors.tensor import Tensor
from . import in_json, say, visible, written
from .series import Series, read_series

PAGE, TABLE, RESULTS = "page.html", "table.csv", "results.json"
"""What is written into the folder."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is looked at, on which data, and where the files go."""

    checkpoint: Positional[Path]
    """A safetensors file, or a state dict that PyTorch saved."""
    data: Path
    """A CSV file, a row for each time step; or an array of numpy.save: (T, I) or (T, B, I)."""
    cell: Cell | None = None
    """The kind of cell. By default the number of gates decides."""
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    """The function of an RNN, which the file does not say."""
    head: str | None = None
    """Prefix of the linear layer behind the recurrent ones, such as fc2, or none. By default the first."""
    front: str | None = None
    """Prefix of the linear layer before them, or none. By default the one that must be there, if any."""
    columns: tuple[str, ...] = ()
    """Columns of the CSV file that the model reads. By default all with numbers."""
    batch_first: bool = False
    """An array is (B, T, I)."""
    target: Literal["last", "all"] = "last"
    """The loss: the sum of the outputs at the last step, or at all steps."""
    steps: tuple[int, ...] = ()
    """Time steps whose hidden units the page keeps. By default those with most to see."""
    out: Path = Path("inspected")
    """The folder for page.html, table.csv and results.json."""
    open: bool = False
    """Show the page in a browser."""


def run(options: Options) -> None:
    """Read the files, look at the gradients, print the norms and write the folder."""
    state = load(options.checkpoint).model
    model = nn.from_state_dict(
        state, options.cell, options.nonlinearity, options.head, options.front
    )
    series = read_series(options.data, options.columns, options.batch_first)
    x = _input(model, series, options)
    loss = functions.sum(model(x) if options.target == "all" else model(x)[-1])
    view = look(loss, steps=options.steps or None)
    notes = [*_recognized(model), *_unused(model), *model.notes, *series.notes, _told(series)]
    if model.embedding is not None and x.dtype.kind == "f":
        notes.append("The embedding is not used, for the data are not tokens.")
    found = _Found(options, view, notes, loss.item())
    contents = {PAGE: view.page(), TABLE: found.table(), RESULTS: found.record(model, series)}
    write_files("inspect", options.out, {name: text.encode() for name, text in contents.items()})
    say(*notes, "", *(s.text for s in found.shown()), "", *found.overview().split("\n"))
    say("", f"table: {options.out / TABLE}", f"JSON: {options.out / RESULTS}")
    written(options.out / PAGE, options.open)


def _input(model: nn.RecurrentNetwork, series: Series, options: Options) -> Tensor:
    """The series as the model reads it: tokens for its embedding, or numbers of its dtype.

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
        remedy = "choose with --columns" if width > reads else "add what is missing"
        idle = [
            name.removesuffix(".weight")
            for name, shape in model.unused.items()
            if shape[1:] == (width,)
        ]
        if idle:
            remedy = f"{idle[0]} reads {width}, and is not run; write --front {idle[0]} if it stands before"
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


# --- what is told -------------------------------------------------------------------------------


def _recognized(model: nn.RecurrentNetwork) -> list[str]:
    """What the model is, in sentences."""
    parts = [f"{name} is {told}" for name, told in _modules(model).items()]
    notes = [f"In the checkpoint, {', '.join(parts)}."]
    if any(layer.bidirectional for layer in model.layers):
        notes.append("Steps of a reverse direction are counted in the order in which it runs.")
    return notes


def _modules(model: nn.RecurrentNetwork) -> dict[str, str]:
    """What each module is, by its name in the checkpoint."""
    return {
        name: f"{type(module).__name__}({module.extra_repr()})"
        for name, module in model.named_children()
    }


def _unused(model: nn.RecurrentNetwork) -> list[str]:
    """What nothing was made of."""
    names = [f"{name} {shape}" for name, shape in model.unused.items()]
    return [f"Keys that are not used: {', '.join(names)}."] if names else []


def _told(series: Series) -> str:
    """What the data are, in a sentence."""
    steps, batch, width = series.values.shape
    names = brief(list(series.columns))[1:-1]
    sequences = f" of {batch} sequences" if batch > 1 else ""
    numbers = "1 number" if width == 1 else f"{width} numbers"
    return f"The data are {steps} steps{sequences}, of {numbers} each: {names}."


@dataclass(frozen=True)
class _Found:
    """The gradients of a checkpoint, as files and as text."""

    options: Options
    view: Microscope
    notes: list[str]
    loss: float

    def states(self) -> Iterator[tuple[str, str, Any]]:
        """Each recurrence's path, and each of its states."""
        for stack in self.view.flow.values():
            for name, state in stack.items():
                yield stack.path, name, state

    def shown(self) -> list[Any]:
        """The sentences that are not behind a fold."""
        return [sentence for sentence in self.view.sentences if not sentence.folded]

    def overview(self) -> str:
        """The norms as a table for a terminal."""
        return repr(GradientFlow({stack.path: stack for stack in self.view.flow.values()}))

    def table(self) -> str:
        """The norms of every state at every step, as CSV."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "state", "t", "value_norm", "grad_norm", "log10_grad_norm"])
        for path, name, state in self.states():
            columns = (state.time, state.value_norm, state.grad_norm, state.log10_grad_norm)
            rows = zip(*(column.tolist() for column in columns), strict=True)
            writer.writerows([visible(path), name, *row] for row in rows)
        return file.getvalue()

    def record(self, model: nn.RecurrentNetwork, series: Series) -> str:
        """All that was found, as JSON; numbers that it lacks are the strings "inf", "-inf" and "nan"."""
        norms: dict[str, Any] = {}
        for path, name, state in self.states():
            norms.setdefault(path, {})[name] = {
                "t": state.time.tolist(),
                "value_norm": state.value_norm.tolist(),
                "log10_grad_norm": state.log10_grad_norm.tolist(),
            }
        steps, batch, _ = series.values.shape
        record = {
            "checkpoint": str(self.options.checkpoint),
            "modules": _modules(model),
            "unused": model.unused,
            "notes": self.notes,
            "data": {
                "file": str(self.options.data),
                "steps": steps,
                "sequences": batch,
                "columns": series.columns,
            },
            "target": self.options.target,
            "loss": self.loss,
            "sentences": [sentence.text for sentence in self.view.sentences],
            "norms": norms,
        }
        return json.dumps(in_json(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
