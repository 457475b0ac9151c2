"""A watched training run: norms of gradients by training step and time, as arrays, table and page."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..._files import checked_path
from ..._numbers import check_whole
from ...display import charts
from ...display.reprs import preformatted, shown
from ...errors import MissingDependencyError
from ..charts.magnitudes import number
from ..charts.pictures import Drawn, Paged
from ..microscope.page import page
from ..microscope.wording import and_
from ..passes.scaling import HostArray
from ..table import TextTable, text_table
from ..views.gradient_flow import ByName, StatesByName
from .chart import READING, REVERSE, Grid, drawn, loss_text
from .file import Moment, Norms, Record, is_written, read_record, refuse_record, save_record


class _Arrays(NamedTuple):
    """See :class:`WatchedState`."""

    time: HostArray
    there: HostArray
    grad: HostArray
    value: HostArray

    @classmethod
    def of(cls, moments: list[Norms | None]) -> _Arrays:
        """Align norms at several training steps by their time steps."""
        time = np.unique(np.concatenate([norms.time for norms in moments if norms is not None]))
        shape = len(moments), len(time)
        there = np.zeros(shape, dtype=bool)
        grad, value = np.full((2, *shape), np.nan)
        for s, norms in enumerate(moments):
            if norms is not None:
                at = np.searchsorted(time, norms.time)
                there[s, at], grad[s, at], value[s, at] = True, norms.grad, norms.value
        return cls(time, there, grad, value)


class WatchedState:
    """The norms of one state over time, at every training step that was watched.

    Attributes
    ----------
    time : ndarray (T,)
        All time steps that the state had at any training step.
    there : ndarray (S, T), bool
        Whether the state has that time step at that training step; sequences may differ in length.
    log10_grad_norm : ndarray (S, T)
        log10 ‖∂L/∂h_t‖: −∞ for a gradient that is exactly 0; NaN also where the state is not there.
    log10_value_norm : ndarray (S, T)
        log10 ‖h_t‖.
    """

    def __init__(self, moments: list[Moment], path: str, name: str) -> None:
        self._moments = moments
        self._path, self._name = path, name
        self._read = 0, _Arrays(*[np.zeros(0)] * 4)

    @property
    def _arrays(self) -> _Arrays:
        """Arrays of all training steps until now; rebuilt when another one was watched."""
        if self._read[0] != len(self._moments):
            moments = list(self._moments)
            found = [moment.states.get(self._path, {}).get(self._name) for moment in moments]
            self._read = len(moments), _Arrays.of(found)
        return self._read[1]

    @property
    def time(self) -> HostArray:
        return self._arrays.time

    @property
    def there(self) -> HostArray:
        return self._arrays.there

    @property
    def log10_grad_norm(self) -> HostArray:
        return self._arrays.grad

    @property
    def log10_value_norm(self) -> HostArray:
        return self._arrays.value

    @property
    def reach(self) -> HostArray:
        """log10 of ‖∂L/∂h‖ at the first time step over that at the last, (S,)."""
        ends = np.full((2, len(self.there)), np.nan)
        for s in np.flatnonzero(self.there.any(axis=1)):
            ends[:, s] = self.log10_grad_norm[s, self.there[s]][[0, -1]]
        with np.errstate(invalid="ignore"):
            return ends[0] - ends[1]

    def worst(self) -> int:
        """The first training step with a gradient that is NaN or ∞, by its position.

        If there is none, the one at which the gradient vanishes or explodes most: its reach is farthest
        from 0.
        """
        return int(np.argmax(self._badness))

    @property
    def _badness(self) -> HostArray:
        """Decades by which the gradient vanishes or explodes at each training step; ∞ if it is not finite.

        −1 if the last time step has no gradient to compare with.
        """
        known = self.reach < np.inf
        sizes = np.nan_to_num(
            np.abs(self.reach)
        )  # ∞, of a gradient that vanished to 0, as a number
        return np.where(self._odd, np.inf, np.where(known, sizes, -1.0))

    @property
    def _odd(self) -> HostArray:
        """Whether a gradient is NaN or ∞ at each training step."""
        log = self.log10_grad_norm
        return np.any(self.there & (np.isnan(log) | np.isposinf(log)), axis=1)

    def rows(self, title: str = "") -> list[tuple[Any, ...]]:
        """The first, the worst and the last training step, as :data:`_HEADER` has them."""
        some = ("first", 0), ("worst", self.worst()), ("last", len(self.there) - 1)
        return [(f"{title} {when}".strip(), *self._row(s)) for when, s in some]

    def _row(self, s: int) -> tuple[Any, ...]:
        step, loss, _ = self._moments[s]
        time, logs = self.time[self.there[s]], self.log10_grad_norm[s, self.there[s]]
        if not len(logs):
            return step, loss, "·", "·", "·", None
        smallest = int(np.argmin(logs))
        norms = [number(logs[i]) for i in (0, -1, smallest)]
        return step, loss, *norms, int(time[smallest])

    def __repr__(self) -> str:
        return text_table(_HEADER, self.rows(), None)

    def _repr_html_(self) -> str:
        return text_table(_HEADER, self.rows(), None)._repr_html_()


MOST_IN_FRONT = 4
"""Largest number of states with a sentence above the picture; of more, the worst have one."""


class _Course(NamedTuple):
    """A sentence about the gradient by one state, and how far that vanishes or explodes at worst."""

    badness: float
    text: str


_HEADER = ("state", "training step", "loss", "‖grad‖ first t", "last t", "smallest", "at t")


class Watched(ByName[StatesByName[WatchedState]], Drawn, Paged):
    """A training run that was watched: path → state → :class:`WatchedState`.

    Attributes
    ----------
    steps : ndarray (S,)
        The training steps that were watched, counted from 0: how many backward passes were made before.
    loss : ndarray (S,)
        The loss of each.
    every : int or None
        Training steps from one that is watched to the next; None: only losses that were handed over.
    model : str
        The repr of the watched model.
    ended : str
        How the run ended, as a sentence.
    """

    _unknown = "no states were watched in {0}; there are {1}"

    __eq__, __hash__ = (
        object.__eq__,
        object.__hash__,
    )  # two runs are one only if they are one object

    def __init__(self, record: Record, path: Path | None = None) -> None:
        super().__init__({})
        self._record = record
        self._path = path
        for moment in record.moments:
            self._note(moment)

    @property
    def _moments(self) -> list[Moment]:
        return self._record.moments

    def _note(self, moment: Moment) -> None:
        """Add the states of a training step that no step before had."""
        for path, by_name in moment.states.items():
            known = dict(self._found.get(path, {}))
            if not by_name.keys() <= known.keys():
                new = {name: WatchedState(self._moments, path, name) for name in by_name}
                self._found[path] = StatesByName(path, new | known)

    def _still(self) -> Watched:
        """The watched steps until now; they do not grow while they are shown."""
        return self

    @property
    def steps(self) -> HostArray:
        return np.array([moment.step for moment in self._moments], dtype=np.int64)

    @property
    def loss(self) -> HostArray:
        return np.array([moment.loss for moment in self._moments])

    @property
    def every(self) -> int | None:
        return self._record.every

    @property
    def model(self) -> str:
        return self._record.model

    @property
    def ended(self) -> str:
        if self._record.end:
            return f"The run ended: {self._record.end}."
        last = f"after training step {self._moments[-1].step}" if self._moments else "at once"
        if self._path is None or is_written(self._path):
            return "The run goes on."
        cut = ", in the middle of a line, which is left out" if self._record.cut else ""
        return (
            f"The run broke off {last}: its process was killed, or could not write any more{cut}."
        )

    # --- in words ---------------------------------------------------------------------------------

    def _sentences(self) -> list[str]:
        """Sentences: what was watched, how the run ended, and what became of the gradient."""
        if not self._moments:
            return ["Nothing was watched yet: no backward pass was made.", self.ended]
        return [*self._said(), *(course.text for course in self._courses())]

    def _said(self) -> list[str]:
        """Sentences: how the run ended, what was watched, and when its loss was first not finite."""
        steps, loss = self.steps, self.loss
        evenly = self.every and self.every > 1 and (np.diff(steps) == self.every).all()
        often = f", one in {self.every}" if evenly else ""
        watched = (
            f"{len(steps)} training steps were watched, from {steps[0]} to {steps[-1]}{often}."
        )
        said = [
            f"{self.ended} The last loss is {loss_text(loss[-1])}, at training step {steps[-1]}.",
            watched if len(steps) > 1 else f"One training step was watched, {steps[0]}.",
        ]
        odd = np.flatnonzero(~np.isfinite(loss))
        if odd.size:
            s = int(odd[0])
            first = f"The loss is {loss_text(loss[s])} at training step {steps[s]}, the first "
            last = f"; at training step {steps[s - 1]} it is {loss_text(loss[s - 1])}"
            before = last if s else ""
            said.append(f"{first}at which it is not finite{before}.")
        return said

    def _courses(self) -> list[_Course]:
        """The course of the gradient by each state."""
        steps = self.steps
        return [
            _Course(
                float(state._badness.max()), _course(f"{path} {name}".strip(), name, state, steps)
            )
            for path, stack in self.items()
            for name, state in stack.items()
        ]

    def table(self) -> TextTable:
        """Return the first, the worst and the last training step of each state as a table."""
        rows = [
            row
            for path, stack in self._still().items()
            for name, state in stack.items()
            for row in state.rows(f"{path} {name}".strip())
        ]
        return text_table(_HEADER, rows, 24)

    def __repr__(self) -> str:
        now = self._still()
        if not now._moments:
            return "\n".join(now._sentences())
        return "\n".join([*now._said(), str(now.table())])

    # --- pages and pictures -----------------------------------------------------------------------

    def _grids(self) -> list[Grid]:
        return [
            Grid(f"{path} {name}".strip(), name, state.time, state.there, state.log10_grad_norm)
            for path, stack in self.items()
            for name, state in stack.items()
        ]

    def chart(self, step: int | None = None) -> Any:
        """Return the picture as an Altair chart.

        Parameters
        ----------
        step : int, optional
            The training step whose norms over time are drawn beside the first ones: the watched one
            that is nearest. By default it is the last.

        Raises
        ------
        ArgumentError
            ``step`` is not a whole number.
        MissingDependencyError
            Altair is not installed.
        """
        step = None if step is None else check_whole("chart", "step", step)
        now = self._still()
        spec, _ = drawn(now._grids(), now.steps, now.loss, step)
        return charts.altair().Chart.from_dict(spec, validate=False)

    def page(self) -> str:
        """The page: one HTML file that needs no network."""
        now = self._still()
        spec, left_out = drawn(now._grids(), now.steps, now.loss, None, slider=True)
        said, more = now._in_front()
        reverse = any(path.endswith("_reverse") for path in now)
        reading = (*READING, REVERSE) if reverse else READING
        return page("Gradient flow during training", said, spec, more, left_out, None, reading)

    def _in_front(self) -> tuple[list[str], list[str]]:
        """The sentences of a page, and those behind a fold where there are many states."""
        if len(courses := self._courses() if self._moments else []) <= MOST_IN_FRONT:
            return self._sentences(), []
        worst = sorted(range(len(courses)), key=lambda k: -courses[k].badness)[: MOST_IN_FRONT - 1]
        count = len(courses)
        intro = f"Of {count} states, these vanish or explode most; the others are at the end of the page."
        texts = [course.text for course in courses]
        front = [*self._said(), intro, *(texts[k] for k in worst)]
        return front, [text for k, text in enumerate(texts) if k not in worst]

    def save_html(self, path: str | Path) -> None:
        """Write the page: one file that opens in any browser and needs no network.

        Raises
        ------
        FileError
            The file cannot be written, or is that of a watched run.
        MissingDependencyError
            Altair or vl-convert is not installed.
        """
        refuse_record("save_html", checked_path("save_html", path))
        super().save_html(path)

    def save(self, path: str | Path) -> None:
        """Write what was watched into a file that :func:`load_watch` reads.

        Raises
        ------
        FileError
            The file cannot be written, or a watch is writing it.
        """
        save_record("save", self._still()._record, path)

    def _repr_html_(self) -> str:
        try:
            chart = charts.inline("gradient flow during training", charts.spec(self.chart()))
        except MissingDependencyError:
            chart = ""
        return shown(preformatted(self), chart)


def _course(title: str, name: str, state: WatchedState, steps: HostArray) -> str:
    """The sentence about the gradient that reaches the first time step."""
    worst, last = state.worst(), len(steps) - 1
    ratio = f"{title}: ‖∂L/∂{name}‖ at the first time step, divided by that at the last, is"
    if state._badness.max() < 0:
        return f"{title}: ‖∂L/∂{name}‖ at the last time step is 0, at every training step."
    kind = "where a gradient is first not finite" if state._odd.any() else "the worst"
    kinds = {0: "", last: ""} | ({worst: f" ({kind})"} if last else {})
    parts = [
        f"{number(state.reach[s])} at training step {steps[s]}{kind}"
        for s, kind in sorted(kinds.items())
    ]
    return f"{ratio} {and_(parts)}."


def load_watch(path: str | Path) -> Watched:
    """Read the file of a watched run, also one that was killed, and one that is still going on.

    Parameters
    ----------
    path : str or Path
        The ``path`` of :func:`watch`. An incomplete last line, which a process leaves that is
        killed while it writes, is left out; ``.ended`` says so.

    Returns
    -------
    Watched

    Raises
    ------
    FileError
        There is no such file, it cannot be read, or it is not that of a watched run.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> run = tg.inspect.load_watch("run.jsonl")  # doctest: +SKIP
    >>> run["rnn.l0"].h.log10_grad_norm.shape  # doctest: +SKIP
    (30, 100)
    """
    return Watched(read_record("load_watch", path), Path(path))
