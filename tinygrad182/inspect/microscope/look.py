"""``look``: a page on which a reader follows a gradient through a model."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ...display import charts as _charts
from ...display.reprs import shown, text
from ...engine.autodiff import seeds_of
from ...engine.backpropagation import ancestors
from ...engine.modes import enable_grad, modes_kept
from ...errors import ArgumentError, MissingDependencyError, UnknownPathError, brief
from ...nn.module import Module
from ...tensors import functions
from ...tensors.tensor import Tensor
from ..charts.curves import Anomaly, curves_chart
from ..charts.drawn_steps import DrawnSteps, steps_to_draw
from ..charts.pictures import Viewed
from ..charts.view_charts import charts_of
from ..loops.hosting import copied_to_host
from ..loops.recurrences import chosen
from ..views.gradient_flow import GradientFlow, StackFlow, gradient_flow
from ..views.step_flow import StepFlow, calls_of, flow_of_nodes, step_flow
from .linked_views import LinkedViews, linked_views
from .live import live
from .network import Network, network_of
from .network_chart import network_chart
from .opened_step import step_chart
from .page import Panels, Span, compose, page
from .story import story
from .unit_views import unit_bars, unit_heatmap, unit_rows
from .wording import Sentence

DRAWN = 1000
"""Largest number of drawn steps of a recurrence; they are those with most to see."""

WITH_VECTORS = 24
"""Largest number of steps whose hidden units a page holds."""

MOST_OPERATIONS = 60
"""Largest number of drawn operations of one module; they are the last ones."""

_VIEWS = {
    "shares": "where the gradient comes from",
    "gain": "what one step back does",
    "matrix": "what the loss at step k sends to the state at step t",
    "singular": "how far one step can stretch",
    "weights": "the weights' gradient, step by step",
}
"""View → what it shows."""


class Microscope(Viewed):
    """A page about the graph of a loss. Its parts are computed on first use; see :func:`look`.

    Attributes
    ----------
    network : Network
        The model rolled up: boxes and arrows.
    flow : mapping of int to StackFlow
        By the position of a box in ``network.blocks``: the gradients by its states.
    steps : mapping of int to StepFlow
        The operations of each box, at each of its steps.
    kept : mapping of int to DrawnSteps
        Which steps of each box are drawn.
    sentences : list of Sentence
        What becomes of the gradient, in words.
    """

    def __init__(
        self,
        loss: Tensor,
        gradient: Any = None,
        steps: Sequence[int] | None = None,
        sample: int = 0,
    ) -> None:
        self._loss = _single(loss, gradient)
        self._steps = steps
        self._sample = sample
        seed = seeds_of([self._loss], [None], False, "look")[0]
        self._seeds = copied_to_host([seed]).seeds
        self._nodes = ancestors([node for node, _ in self._seeds], constants=True)

    @cached_property
    @np.errstate(all="ignore")  # models whose numbers are not finite have pages too
    def network(self) -> Network:
        return network_of(self._nodes, self._seeds)

    @cached_property
    @np.errstate(all="ignore")
    def flow(self) -> Mapping[int, StackFlow[Any]]:
        recurrent = [i for i, b in enumerate(self.network.blocks) if b.kind == "recurrence"]
        found: GradientFlow[Any] | Mapping[str, Any]
        found = gradient_flow(self._loss) if recurrent else {}
        return {i: found[self.network.blocks[i].path] for i in recurrent}

    @cached_property
    @np.errstate(all="ignore")
    def steps(self) -> Mapping[int, StepFlow]:
        found = {}
        for i, block in enumerate(self.network.blocks):
            if block.kind == "recurrence":
                found[i] = step_flow(self._loss, block.path)
            elif calls := calls_of(block.members, MOST_OPERATIONS):
                found[i] = flow_of_nodes(self._seeds[0], self._nodes, calls, block.path)
        return found

    @cached_property
    def kept(self) -> Mapping[int, DrawnSteps]:
        return {i: self._to_draw(i, range(len(f.time)), DRAWN) for i, f in self.steps.items()}

    @cached_property
    @np.errstate(all="ignore")
    def sentences(self) -> list[Sentence]:
        return story(self._loss)

    @cached_property
    @np.errstate(all="ignore")
    def linked(self) -> Mapping[int, LinkedViews]:
        """The views beside the curves of each recurrence."""
        blocks = self.network.blocks
        return {i: linked_views(self._loss, blocks[i].path, self._times[i]) for i in self.flow}

    @cached_property
    def _with_vectors(self) -> Mapping[int, DrawnSteps]:
        """The drawn steps whose hidden units the page holds."""
        found = {}
        for i, kept in self.kept.items():
            some = self._to_draw(i, kept.places, WITH_VECTORS)
            if asked := self._asked(i):
                some = DrawnSteps(asked, f"the {len(asked)} steps asked for")
            found[i] = some
        return found

    def _named(self, i: int) -> list[int]:
        """The position of the step that the sentences about a recurrence name first, if any."""
        if i not in self.flow:
            return []
        path, times = self.network.blocks[i].path, self.steps[i].time.tolist()
        named = [
            s.numbers["step"] for s in self.sentences if s.path == path and "step" in s.numbers
        ]
        return [times.index(t) for t in named[:1] if t in times]

    def _asked(self, i: int) -> list[int]:
        """The positions of the steps that were asked for, of a recurrence."""
        if self._steps is None or i not in self.flow:
            return []
        times = self.steps[i].time.tolist()
        return [times.index(t) for t in chosen(self._steps, times, "look")]

    def _to_draw(self, i: int, places: Sequence[int], most: int) -> DrawnSteps:
        """Choose the steps of a box with most to see, and those that were asked for."""
        places = list(places)
        logs = [np.zeros(len(places))]
        if i in self.flow:
            logs = [state.log10_grad_norm[places] for state in self.flow[i].values()]
        named = [places.index(k) for k in self._named(i) if k in places]
        some = steps_to_draw(logs, most, named)
        found = {places[k] for k in some.places}.union(self._asked(i))
        return DrawnSteps(sorted(found), some.description)

    @cached_property
    def _times(self) -> Mapping[int, list[int]]:
        """The times of the drawn steps of every box."""
        return {i: f.time[self.kept[i].places].tolist() for i, f in self.steps.items()}

    # --- the charts -------------------------------------------------------------------------------

    @cached_property
    def _anomaly(self) -> Anomaly | None:
        """The first step at which a state, or on the way back its gradient, is NaN or infinite."""
        found = (
            ("first anomaly: {}", "value_norm", 0),
            ("first anomaly on the way back: ∂L/∂{}", "log_grad_norm", -1),
        )
        for words, field, end in found:
            for i, stack in self.flow.items():
                for name, state in stack.items():
                    norms = getattr(state, field)
                    wrong = np.flatnonzero(np.isnan(norms) | (norms == np.inf))
                    if wrong.size:
                        t = int(state.time[wrong[end]])
                        return Anomaly(i, t, f"{words.format(name)} at t = {t} is not finite")
        return None

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        shown = {
            i: [int(self.steps[i].time[k]) for k in kept.places]
            for i, kept in self._with_vectors.items()
        }
        return unit_rows(self.steps, self._times, shown, self._sample)

    def _panels(self, linked: bool) -> Panels:
        titles = {i: self.network.blocks[i].title for i in self.steps}
        return Panels(
            network=network_chart(self.network, linked, opens=self.steps),
            curves=curves_chart(self.flow, self._times, linked, self._anomaly)
            if self.flow
            else None,
            opened=step_chart(self.steps, self._times, linked, titles) if self.steps else None,
            bars=unit_bars(self._rows, 270 if self.flow else 780) if self._rows else None,
            heatmap=unit_heatmap(self._rows)
            if max(map(len, self._times.values()), default=1) > 1
            else None,
            linked=list(charts_of(self.linked, width=310).values()),
        )

    def _spans(self) -> list[Span]:
        found = []
        for i in range(len(self.network.blocks)):
            if i not in self.steps:
                found.append(Span(loop=self._beside(i)))
                continue
            times = self._times[i]
            operations = self.steps[i].operations
            states = [
                k
                for k, each in enumerate(operations)
                if each.kind == "state" and each.name in self.flow.get(i, {})
            ]
            node = states[0] if states else len(operations) - 1
            loop = None if i in self.flow else self._beside(i)
            found.append(Span(len(times), times[0], times[-1], self._open_step(i), node, loop))
        return found

    def _beside(self, i: int) -> int | None:
        """The recurrence whose curves are shown while another box is chosen: the nearest one."""
        return min(self.flow, key=lambda k: abs(k - i), default=None)

    def _open_step(self, i: int) -> int:
        """Position, among the drawn steps, of the step that the sentences name, or of the middle one.

        The page must hold its hidden units, so the nearest such step is taken.
        """
        if i not in self.flow:
            return 0
        places = self.kept[i].places
        (wanted, *_) = [*self._named(i), places[len(places) // 2]]
        return places.index(min(self._with_vectors[i].places, key=lambda k: abs(k - wanted)))

    def _first_block(self) -> int:
        """The box that is open at first: the first recurrence of the sentences, or the last module."""
        if not self.flow:
            modules = [i for i in self.steps if self.network.blocks[i].kind == "module"]
            return max(modules or self.steps, default=0)
        named = [s.path for s in self.sentences if s.path]
        paths = {self.network.blocks[i].path: i for i in self.flow}
        return next((paths[path] for path in named if path in paths), next(iter(self.flow)))

    def charts(self) -> dict[str, Any]:
        """Each view as an Altair chart of its own, without a theme.

        Returns
        -------
        dict of str to alt.Chart
            ``"network"``, and of what the model has: ``"curves"``, ``"step"``, ``"units"``,
            ``"heatmap"``, and the views beside the curves by their title.
        """
        panels = self._panels(linked=False)
        found = {
            "network": panels.network,
            "curves": panels.curves,
            "step": panels.opened,
            "units": panels.bars,
            "heatmap": panels.heatmap,
        }
        found |= charts_of(self.linked)
        return {name: chart for name, chart in found.items() if chart is not None}

    def chart(
        self,
        view: str | None = None,
        path: str | None = None,
        time: int | None = None,
        operation: int | str | None = None,
    ) -> Any:
        """Return one view, or all of them as on the page, as an Altair chart.

        Parameters
        ----------
        view : str, optional
            One of :meth:`charts`; all by default.
        path : str, optional
            The box that is looked at; by default the recurrence that loses most.
        time : int, optional
            The step that is opened; by default the one that the sentences name.
        operation : int or str, optional
            The operation whose units are shown, by its label; by default the state.

        Raises
        ------
        UnknownPathError, ArgumentError
            No such view, path, time or operation.
        """
        spec = self._spec(view, path=path, time=time, operation=operation)
        return _charts.altair().Chart.from_dict(spec, validate=False)

    def _spec(self, view: str | None = None, **chosen: Any) -> dict[str, Any]:
        """The specification of :meth:`chart`, which has the arguments ``chosen``."""
        spans = self._spans()
        block = self._choose(spans, **chosen)
        span = spans[block]
        with _charts.unchecked():
            if view is None:
                return compose(self._panels(linked=True), spans, block)
            charts = self.charts()
            if view not in charts:
                raise UnknownPathError(
                    f"look: no view {view!r}; there are {brief(list(charts))[1:-1]}"
                )
            spec = _charts.spec(charts[view])
        loop = block if span.loop is None else span.loop
        values: dict[str, Any] = {"block": block, "step": span.step, "node": span.node}
        values |= {"loop": loop, "loop_step": spans[loop].step}
        values |= {"window": [spans[loop].first, spans[loop].last]}
        spec["params"] = [
            *({"name": n, "value": v} for n, v in values.items()),
            *spec.get("params", ()),
        ]
        return spec

    def _block(self, path: str) -> int:
        paths = {block.path: i for i, block in enumerate(self.network.blocks) if i in self.steps}
        if path not in paths:
            raise UnknownPathError(f"look: no box {path!r}; there are {brief(list(paths))[1:-1]}")
        return paths[path]

    def _choose(
        self,
        spans: list[Span],
        path: str | None = None,
        time: int | None = None,
        operation: int | str | None = None,
    ) -> int:
        """Return the chosen block; its span gets the chosen step and operation."""
        block = self._first_block() if path is None else self._block(path)
        if time is not None:
            (wanted,) = chosen(time, self._times[block], "look")
            spans[block] = spans[block]._replace(step=self._times[block].index(wanted))
        if operation is not None:
            spans[block] = spans[block]._replace(node=self.steps[block].index(operation))
        return block

    # --- pages and pictures -----------------------------------------------------------------------

    @cached_property
    def title(self) -> str:
        """The title of the page: the boxes between the input and the loss."""
        titles = [b.title for b in self.network.blocks if b.kind in ("recurrence", "module")]
        return " → ".join(titles) if len(titles) <= 4 else f"{titles[0]} → … → {titles[-1]}"

    def _texts(self, folded: bool = False) -> list[str]:
        """The texts of the sentences: those in sight, or those behind a fold."""
        return [s.text for s in self.sentences if s.folded == folded]

    def page(self) -> str:
        """The whole page, one HTML file that needs no network."""
        shown, more = (self._texts(folded) for folded in (False, True))
        return page(self.title, shown, self._spec(), more, self._notes(), self._absent())

    def _notes(self) -> list[str]:
        found = []
        for i, kept in self.kept.items():
            if i in self.flow:
                name = self.network.blocks[i].path or "the loop"
                found.append(f"{name}: the curves and the opened step show {kept.description}.")
                description = self._with_vectors[i].description
                found.append(f"{name}: the page holds the hidden units of {description}.")
        some = [self.steps[i] for i in self.flow] or list(self.steps.values())
        batch = max((f.operations[-1].shape[0] for f in some if f.operations), default=1)
        if batch > 1:
            found.append(
                f"Norms are over all {batch} sequences of the batch. The bars and the heatmap show "
                f"sequence {self._sample} alone, so their norm is smaller."
            )
        return found

    def _absent(self) -> dict[str, str]:
        found = {}
        for i, views in self.linked.items():
            name = self.network.blocks[i].path or "the loop"
            for view, what in _VIEWS.items():
                if isinstance(reason := getattr(views, view), str):
                    found[f"{name} has no view of {what}"] = reason
        return found

    def live(self, path: str | None = None, dark: bool = False) -> Any:
        """Return a recurrence for a notebook, in which a click opens any step in full.

        The page holds the hidden units of some steps; here they are computed when a step is clicked.

        Parameters
        ----------
        path : str, optional
            The box; by default the recurrence with most to see.
        dark : bool
            Whether the notebook is dark.

        Returns
        -------
        alt.JupyterChart

        Raises
        ------
        MissingDependencyError
            Altair, vl-convert or anywidget is not installed.
        UnknownPathError
            No such box.
        """
        block = self._first_block() if path is None else self._block(path)
        return live(self.steps[block], sample=self._sample, dark=dark)

    def _repr_html_(self) -> str:
        lines = [f"<div>{text(line)}</div>" for line in self._texts()]
        try:
            charts = [_charts.inline(self.title, self._spec("network"))]
            if self.flow:
                charts.append(_charts.inline("norms over time", self._spec("curves")))
        except MissingDependencyError:
            charts = []
        return shown(*lines, *charts)

    def __repr__(self) -> str:
        wrapped = [textwrap.fill(sentence, 100) for sentence in self._texts()]
        return "\n".join([f"<Microscope of {self.title}>", *wrapped])


@modes_kept
def _single(loss: Tensor, gradient: Any) -> Tensor:
    """The loss as a single element, so that the backward pass begins with 1."""
    ((_, g),) = seeds_of([loss], [gradient], False, "look")
    if gradient is None:
        return loss
    with enable_grad():
        return functions.sum(loss * g)


def look(
    what: Tensor | Module | Callable[..., Any],
    *inputs: Any,
    loss: Callable[[Any], Tensor] | None = None,
    gradient: Any = None,
    steps: Sequence[int] | None = None,
    sample: int = 0,
) -> Microscope:
    """Look at a loss, or at a model: a page on which a reader follows its gradient through time.

    The result shows itself in a notebook, writes its page (``.save_html``) and pictures (``.save_png``,
    ``.save_svg``), and opens a browser (``.open()``). The graph is neither freed nor changed.

    Parameters
    ----------
    what : Tensor, Module or callable
        A loss; or a model, which is called with ``inputs``.
    *inputs
        The arguments of the model.
    loss : callable, optional
        Makes a loss of the model's output. The default is the sum of the output; for a sequence, which has
        three dimensions, the sum at the last step.
    gradient : Tensor or array, optional
        For a loss of several elements: the cotangent to start from.
    steps : sequence of int, optional
        The time steps whose hidden units the page holds. The default is both ends, the largest changes, the
        first step that is not finite, and some between.
    sample : int
        The sequence of the batch whose hidden units are shown; norms are over all sequences.

    Returns
    -------
    Microscope

    Raises
    ------
    GraphError
        The loss does not require grad.
    ArgumentError
        Inputs beside a loss, or no such step or sequence.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 16, rng=0)
    >>> view = tg.inspect.look(rnn, tg.ones((50, 1, 1)))
    >>> [block.title for block in view.network.blocks]
    ['input', 'RNN 1 → 16', 'loss']
    >>> view.save_html("look.html")  # doctest: +SKIP
    """
    if isinstance(what, Tensor):
        if inputs or loss is not None:
            raise ArgumentError(
                "look: a loss takes no inputs and no loss=; pass the model to call it"
            )
        return Microscope(what, gradient, steps, sample)
    if not callable(what):
        raise ArgumentError(
            f"look: {brief(what)} is neither a Tensor nor a model that can be called"
        )
    output = what(*inputs)
    found = loss(output) if loss is not None else default_loss("look", output)
    return Microscope(found, gradient, steps, sample)


def default_loss(view: str, output: Any, axis: int = 0, last: bool = True) -> Tensor:
    """The sum of a model's output; for a sequence with time on ``axis``, of its last step or of all."""
    first = output[0] if isinstance(output, tuple) else output
    if not isinstance(first, Tensor):
        raise ArgumentError(
            f"{view}: the model returns a {type(first).__name__}; pass loss=, which makes a loss of it"
        )
    step = (slice(None),) * axis + (-1,)
    return functions.sum(first[step] if last and first.ndim == 3 else first)
