"""``diff``: two runs side by side, and the first place where their gradients differ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...display import charts
from ...display.reprs import shown, text
from ...errors import ArgumentError, MissingDependencyError, brief
from ...tensors.tensor import Tensor
from ..charts.pictures import Drawn, Paged
from ..graph.graph import Graph
from ..graph.traces import Trace, load_trace, trace_of
from ..microscope.page import page
from ..passes.scaling import HostArray
from ..table import TextTable, text_table
from . import sentences as words
from .chart import diff_chart
from .comparing import BOTH, BoxDifference, ParameterDifference, What, boxes_of, parameters_of
from .partings import GROWTH, ROUNDINGS, Parting, Partings


@dataclass(frozen=True, repr=False)
class TraceDiff(Drawn, Paged):
    """Two runs side by side; see :func:`diff`.

    Attributes
    ----------
    values, gradients : Parting or None
        The first place at which they part: values in the order of computation, gradients on the way back.
        None where they agree, and where a trace was saved without values.
    backward : Parting or None
        The first place, on the way back, at which gradients part that no differing value or parameter
        explains: the backward passes themselves differ.
    parameters : dict of str to ParameterDifference
        The parameters that both runs have in one shape.
    boxes : list of BoxDifference
        Recurrences and modules that both have.
    tolerance : float
    sentences : list of str
        The result in words.
    """

    values: Parting | None
    gradients: Parting | None
    backward: Parting | None
    parameters: dict[str, ParameterDifference]
    boxes: list[BoxDifference]
    tolerance: float
    sentences: list[str]

    @property
    def same(self) -> bool:
        """Whether values and gradients agree but for rounding."""
        return self.values is None and self.gradients is None

    @cached_property
    def series(self) -> Mapping[What, dict[str, dict[str, HostArray]]]:
        """Relative differences over time: ``series["gradients"]["lstm.l1"]["f"]`` is (T,)."""
        return {what: {box.name: box.of(what) for box in self.boxes} for what in BOTH}

    def table(self) -> TextTable:
        """One line per recurrence and module: from where on it differs, and how much at most."""
        rows = []
        for box in self.boxes:
            cells: list[Any] = [box.name]
            for what in BOTH:
                known = [np.where(np.isnan(row), 0.0, row) for row in box.computed(what).values()]
                peaks = np.max(known, axis=0) if known else np.zeros(0)
                parted = box.time[peaks > self.tolerance] if known else box.time[:0]
                cells += [_span(box, parted), float(peaks.max()) if len(peaks) else None]
            rows.append(tuple(cells))
        header = ("", "values part", "largest", "gradients part", "largest")
        return text_table(header, rows, None)

    def __repr__(self) -> str:
        return "\n".join([*self.sentences, "", str(self.table())])

    # --- drawn ------------------------------------------------------------------------------------

    def chart(self) -> Any:
        """Return the picture as an Altair chart: differences of every operation over time."""
        return diff_chart(self.boxes, self.values, self.gradients, self.tolerance)

    @cached_property
    def _spec(self) -> dict[str, Any]:
        with charts.unchecked():
            return charts.spec(self.chart())

    def page(self) -> str:
        """The picture and the sentences as one HTML file that needs no network."""
        reading = [
            "A column is a time step; a row is an operation of the step, in the order they are computed.",
            "A difference is that of two rows of numbers, of one sequence at one step: the largest "
            "difference of an element, divided by the largest number of the row.",
            f"Two rows agree up to {self.tolerance:.1e}. A place is named where a difference arises: it is "
            f"larger than that, and {GROWTH} times as large as those in what was used to compute it.",
            "Values are followed from the first step on, gradients from the loss back.",
        ]
        return page("Two runs side by side", self.sentences, self._spec, [], [], reading=reading)

    def _repr_html_(self) -> str:
        lines = [f"<div>{text(line)}</div>" for line in self.sentences]
        try:
            chart = charts.inline("differences over time", self._spec)
        except MissingDependencyError:
            chart = self.table()._repr_html_()
        return shown(*lines, chart)


def _span(box: BoxDifference, steps: HostArray) -> str:
    if not len(steps):
        return ""
    if not box.is_recurrent:
        return "yes"
    return f"t = {steps[0]}" if len(steps) == 1 else f"t = {steps[0]} … {steps[-1]}"


Run = Tensor | Graph | Trace | str | os.PathLike[str]
"""A run: a loss, a graph, a trace, or the path of a trace."""


@np.errstate(all="ignore")  # runs whose numbers are not finite are compared too
def diff(a: Run, b: Run, tolerance: float | None = None) -> TraceDiff:
    """Compare two runs: the first step, gate and path at which their gradients part, and their values.

    Every operation of every step is compared: those of recurrences, by time step, and those of other
    modules; and all parameters. The runs may differ in seed, dtype, device, fusion or length. Everything
    that both have is compared, and the result names the rest.

    Parameters
    ----------
    a, b : Tensor, Graph, Trace, str or path
        A loss of a single element; a graph of :func:`trace`; a trace of :func:`load_trace`, or its file.
    tolerance : float, optional
        By how much two rows (one sequence at one step) may differ, relative to the largest number in them.
        By default that is 100 times the rounding unit of the coarser dtype: 1.2e-5 for ``float32``.

    Returns
    -------
    TraceDiff

    Raises
    ------
    ArgumentError
        The runs have nothing in common, or something else than runs is given.
    GraphError
        A loss does not require grad, or was freed.
    CheckpointError
        A trace cannot be read.

    Notes
    -----
    The result names a place where a difference *arises*: it exceeds the tolerance, and it is more than 30
    times as large as the differences in the operands. (The operands of a gradient are the gradients of the
    operations that use the value.) Rounding that grows step by step is reported as such: the runs agree as
    long as half of their type's digits agree. The rounding of a sum is measured by its operands, because a
    sum may be much smaller than they are.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> lstm, x = tg.nn.LSTM(1, 8, num_layers=2, rng=0), tg.ones((60, 1, 1))
    >>> whole = lstm(x)[0][-1].sum()
    >>> found = tg.inspect.diff(whole, lstm(x, truncate=20)[0][-1].sum())
    >>> found.values is None  # they agree
    True
    >>> found.gradients.path, found.gradients.label, found.gradients.time
    ('lstm.l1', 'h', 39)
    """
    given = None if tolerance is None else _checked(tolerance)
    first, second = (_trace(run) for run in (a, b))
    compared = boxes_of(first, second)
    boxes = compared.shared
    unlike = words.unlike(boxes, [compared.only_in_a, compared.only_in_b])
    if not any(box.of(what) for box in boxes for what in BOTH):
        raise ArgumentError(f"diff: these runs have nothing to compare. {' '.join(unlike)}")
    coarser = max((first.dtype, second.dtype), key=lambda dtype: float(np.finfo(dtype).eps))
    rounding = float(np.finfo(coarser).eps)
    chosen = ROUNDINGS * rounding if given is None else given
    parameters = parameters_of(first, second)
    limit = max(chosen, rounding**0.5)
    largest = float(np.finfo(coarser).max) if first.dtype != second.dtype else None
    partings = Partings(boxes, parameters, chosen, limit, largest, not unlike)
    values, gradients = (partings.first(what) for what in BOTH)
    backward = gradients
    if gradients is not None and gradients.cause != "arises":
        backward = partings.in_backward_alone()
    sentences = []
    if first.dtype != second.dtype:
        sentences.append(f"a is {first.dtype}, b {second.dtype}.")
    sentences += unlike
    for what, parting in zip(BOTH, (values, gradients), strict=True):
        if what == "values" and not (first.has_values and second.has_values):
            sentences.append("Values were not saved: gradients alone are compared.")
        elif parting is None:
            sentences.append(words.agreeing(what, boxes, chosen, coarser.name))
        else:
            sentences += words.parted(parting, what, boxes, parameters, chosen)
            step = None if parting.is_recurrent else partings.first_step(what)
            sentences += [words.first_step(step, what)] if step else []
    if backward is not None and backward is not gradients:
        sentences.append("Besides, the backward passes differ.")
        sentences += words.parted(backward, "gradients", boxes, parameters, chosen)
    return TraceDiff(values, gradients, backward, parameters, boxes, chosen, sentences)


def _trace(run: Run) -> Trace:
    if isinstance(run, Trace):
        return run
    if isinstance(run, Graph):
        return run.numbers()
    if isinstance(run, Tensor):
        return trace_of(run)
    if isinstance(run, (str, os.PathLike)):
        return load_trace(run)
    raise ArgumentError(
        f"diff: {brief(run)} is neither a loss, a graph of tg.inspect.trace(loss), nor a saved trace"
    )


def _checked(tolerance: Any) -> float:
    if not isinstance(tolerance, (int, float)) or not 0 <= tolerance < np.inf:
        raise ArgumentError(f"diff: tolerance {brief(tolerance)} must be a number from 0")
    return float(tolerance)
