"""``story``: what becomes of a gradient, in a few sentences whose numbers are computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...arrays import backend
from ...engine.autodiff import seeds_of
from ...engine.backpropagation import ancestors
from ...engine.memory import in_pass
from ...errors import GraphError, ShapeError
from ...tensors.tensor import Tensor
from ..charts.drawn_steps import spread
from ..loops.recurrences import Recurrence, Stack, stacks_of
from ..passes.scaling import HostArray, log10
from ..views.gain_split import gain_split
from ..views.gradient_flow import StackFlow, StateFlow, gradient_flow
from ..views.path_split import path_split
from ..views.step_flow import flow_among
from .causes import AFRESH, Blamed, Cause, by_gain, by_path
from .feed_forward import of_layers
from .inside_steps import hidden_path, large_input
from .passed_back import Path, far, runs_in_depth
from .trend import APART, Piece, jumps, pieces, stretch, without
from .wording import LEVEL, Kind, Sentence, Words, amount, factor, pace, passes

LOOKED_AT = 48
"""Steps, evenly spread, at which causes are measured, besides the named ones."""


NAMED_PART, FIRST_PART = 0.2, 0.5
"""Parts of all change: jumps that make the first one are named, jumps that make the second come first."""


@np.errstate(all="ignore")  # models whose numbers are not finite get sentences too
def story(loss: Tensor, gradient: Any = None) -> list[Sentence]:
    """Say what becomes of a loss's gradient on its way back: where it is lost, and why.

    Each recurrence has at most three sentences, and more behind a fold. The recurrence that loses most
    comes first. For a loss that reads several steps, the gradient of the last one alone is followed.

    Parameters
    ----------
    loss : Tensor
        A single element, unless ``gradient`` is given.
    gradient : Tensor or array, optional
        The cotangent to start from.

    Raises
    ------
    GraphError
        ``loss`` does not require grad.
    FreedGraphError
        An earlier backward pass freed the graph.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 4, nonlinearity="identity", rng=0, dtype="float64")
    >>> _ = rnn.weight_hh_l0.assign(0.5 * np.eye(4))
    >>> output, _ = rnn(tg.ones((11, 1, 1), dtype="float64"))
    >>> for sentence in story(output[-1].sum()):
    ...     print(sentence.text)
    Going back from t = 10 to t = 0, the gradient ∂L/∂h halves with every step: 1e-3 of it is left.
    It is lost bit by bit: every step passes back 50% of what it gets.
    Nothing saturates, so the weight matrix alone shrinks the gradient: each step multiplies it by 0.50.
    """
    if gradient is not None:
        loss = in_pass(_weighted, loss, gradient, grad=True)
    ((root, seed),) = seeds_of([loss], [None], False, "story")
    try:
        stacks = stacks_of(ancestors([root], constants=True), "story")
        return _of_recurrences(loss, stacks)
    except (GraphError, ShapeError):  # no recurrence, or one whose states change their shape
        return of_layers(root, seed)


def _of_recurrences(loss: Tensor, stacks: dict[str, Stack]) -> list[Sentence]:
    followed, reads, last = far(loss)
    flows = gradient_flow(followed)
    recurrences = [
        _Recurrence(followed, path, flow, stacks[path], reads[path], last[path], len(flows) > 1)
        for path, flow in flows.items()
    ]
    recurrences.sort(key=lambda r: -abs(r.way.net))
    return [sentence for r in recurrences for sentence in r.sentences()]


def _weighted(loss: Tensor, gradient: Any) -> Tensor:
    return (loss * gradient).sum()


# --- the way back ---------------------------------------------------------------------------------


class _Way(NamedTuple):
    """The gradient by one state, from the last step that gets a gradient back to the first.

    Attributes
    ----------
    times : list of int
        The steps, in the order they ran.
    log : ndarray
        Decadic logarithms of the norms from ``times[first]`` to ``times[last]``.
    first, last : int
        Positions in ``times``. Steps before ``first`` get exactly 0, ∞ or NaN.
    """

    times: list[int]
    log: HostArray
    first: int
    last: int
    broken: str

    @property
    def net(self) -> float:
        """Decades between the last step and the first; −∞ where nothing, or no number, arrives."""
        return float(self.log[0] - self.log[-1]) if self.first == 0 else -math.inf

    def time(self, position: int) -> int:
        """Return the step at a position in ``log``."""
        return self.times[self.first + position]


def _way(flow: StateFlow, recurrence: Recurrence) -> _Way:
    """The way through a recurrence. Steps that the loss's graph lacks have no gradient."""
    order = slice(None, None, -1 if recurrence.runs_backward() else 1)
    times = np.array(recurrence.times())
    log = np.full(len(times), -np.inf)
    log[np.isin(times, flow.time)] = flow.log10_grad_norm
    log, times = log[order], times[order]
    there = np.flatnonzero(log != -np.inf)
    last = int(there[-1]) if len(there) else 0
    stops = np.flatnonzero(~np.isfinite(log[: last + 1]))
    first = int(stops[-1]) + 1 if len(stops) else 0
    kind = log[first - 1] if first else 0.0
    broken = "" if math.isfinite(kind) else "NaN" if math.isnan(kind) else "0" if kind < 0 else "∞"
    return _Way(times.tolist(), log[first : last + 1], first, last, broken)


# --- the sentences about one recurrence -----------------------------------------------------------


class _Recurrence:
    """The facts about one recurrence, and the sentences about it."""

    def __init__(
        self,
        loss: Tensor,
        path: str,
        flow: StackFlow[StateFlow],
        stack: Stack,
        reads: list[int],
        last: set[str],
        among_others: bool,
    ) -> None:
        self.loss, self.path, self.among_others = loss, path, among_others
        self.reads, self.last = reads, last
        self.inside = Path(loss, path)
        self.stack, recurrence = stack, stack[self.inside.state]
        self.states, self.flow = flow, flow[self.inside.state]
        self.way = way = _way(self.flow, recurrence)
        self.cuts = {node.params.get("start", 0) for node, _ in recurrence.fused[1:]}
        self.begins = recurrence.initial is None and not recurrence.fused and way.times[0] > 0
        self.begins &= way.times[0] <= way.times[-1]
        unit = "block" if runs_in_depth(recurrence) else "step"
        self.words = Words(self.inside.state, unit, self.inside.gate)
        self.change = float(way.log[0] - way.log[-1]) if len(way.log) else 0.0
        self.jumps = jumps(way.log)
        changes = float(np.abs(np.diff(way.log)).sum())
        self.part = sum(abs(self._step(i)) for i in self.jumps) / changes if changes else 0.0
        if self.part < NAMED_PART:
            self.jumps = []
        self.pieces = pieces(without(way.log, self.jumps)) if len(way.log) > 1 else []
        self.words = self.words._replace(varies=len(self.pieces) > 1)

    @property
    def by_steps(self) -> bool:
        """Whether single steps make most of the change."""
        return bool(self.jumps) and self.part >= FIRST_PART

    def sentences(self) -> list[Sentence]:
        """All sentences: what becomes of the gradient, where, why, and notes behind a fold."""
        if not len(self.way.log) or self.way.broken in ("NaN", "∞"):
            return [self._broken()]
        if self.way.last == 0:
            return [self._nothing()]
        return [self._regime(), *self._place(), *self._cause(), *self._notes()]

    def _sentence(self, kind: Kind, text: str, folded: bool = False, **numbers: Any) -> Sentence:
        text = (
            f"{text}."
            if text.startswith(f"{self.words.state} ")
            else f"{text[0].upper()}{text[1:]}."
        )
        if self.among_others:
            text = f"{self.path or 'your loop'}: {text}"
        return Sentence(text, self.path, kind, folded, numbers)

    def _step(self, position: int) -> float:
        """Decades by which the step at a position in the curve changes the gradient."""
        return float(self.way.log[position - 1] - self.way.log[position])

    # what becomes of the gradient

    def _broken(self) -> Sentence:
        way, words = self.way, self.words
        norms = dict(zip(self.flow.time.tolist(), self.flow.value_norm.tolist(), strict=True))
        bad = [t for t in way.times if not math.isfinite(norms.get(t, 0.0))]
        if bad:
            time, what = bad[0], "NaN" if math.isnan(norms[bad[0]]) else "infinite"
            text = (
                f"the state {words.state} itself is {what} from {words.at(time)} on, "
                "and with it its gradient"
            )
        elif way.broken == "0":
            time, what = way.times[-1], "0"
            text = (
                f"the gradient {words.grad} is exactly 0 everywhere: nothing of the loss reaches it"
            )
        elif not len(way.log):
            time, what = way.times[way.last], way.broken
            text = (
                f"the gradient {words.grad} is {what} where the loss sends it, at {words.at(time)}"
            )
        else:
            time, what = way.time(0), way.broken
            at = words.at(time)
            text = f"the gradient {words.grad} is {what} before {at}: that {words.unit} makes it so"
        return self._sentence("regime", text, time=time, what=what, step=time)

    def _nothing(self) -> Sentence:
        at, steps = self.words.at(self.way.times[0]), len(self.way.times)
        text = (
            f"there is one {self.words.unit}, {at}"
            if steps == 1
            else f"the loss reads the first {self.words.unit} alone, {at}"
        )
        return self._sentence("regime", f"{text}: no gradient goes back through time", decades=0.0)

    def _regime(self) -> Sentence:
        way, words = self.way, self.words
        start, end = way.times[way.last], way.time(0)
        numbers: dict[str, Any] = {"start": start, "end": end, "decades": self.change}
        numbers["pieces"] = [(way.time(p.start), way.time(p.end), p.decades) for p in self.pieces]
        if way.broken == "0":
            text = (
                f"the gradient {words.grad} is exactly 0 before {words.at(end)}: that {words.unit} "
                "passes nothing back"
            )
            return self._sentence("regime", text, zero=end, step=end, **numbers)
        ends = f"from {words.at(start)} to {words.at(end)}"
        if self.by_steps:
            numbers["step"] = way.time(self.jumps[0])
            text = f"{self._by_steps()}. Back {ends}, {self._left()}"
        elif len(self.pieces) > 1 or self.jumps:
            text = f"going back {ends}, the gradient {words.grad} {self._becomes()}. It {self._course()}"
        else:
            course = self._course()
            text = f"going back {ends}, the gradient {words.grad} {course}: {self._left()}"
        if len(self.reads) > 1:
            reads = f"the loss reads {len(self.reads)} {words.unit}s"
            text = f"{reads}; this follows the gradient of the last one alone. {text[0].upper()}{text[1:]}"
        return self._sentence("regime", text, **numbers)

    def _becomes(self) -> str:
        if abs(self.change) < LEVEL:
            return "ends as large as it was"
        if self.change > LEVEL:
            return f"becomes {amount(self.change)} as large"
        return f"shrinks to {amount(self.change)}"

    def _left(self) -> str:
        if self.change > LEVEL / 4:
            return f"it becomes {amount(self.change)} as large"
        return f"{amount(self.change)} of it is left"

    def _course(self) -> str:
        """The course of the gradient, stretch by stretch, without the jumps."""
        but = f", except at {self._each()}" if self.jumps and not self.by_steps else ""
        parts = []
        for p in self.pieces:
            text = pace(p.decades, p.start - p.end, self.words.unit)
            if len(self.pieces) == 1:
                return text + but
            until = "" if p.end == 0 else f" until {self.words.at(self.way.time(p.end))}"
            parts.append(text + until)
        return ", then ".join(parts) + but

    def _by_steps(self) -> str:
        """The jumps that make most of the change."""
        words, verb = self.words, "falls" if self._step(self.jumps[0]) < 0 else "rises"
        steps = [(words.at(self.way.time(i)), self._step(i)) for i in self.jumps]
        if len(steps) == 1:
            ((at, decades),) = steps
            return (
                f"the gradient {words.grad} {verb} most at one {words.unit}: {at} {passes(decades)}"
            )
        each = self._each()
        return f"the gradient {words.grad} {verb} most at {len(steps)} {words.unit}s: {each}"

    def _each(self) -> str:
        """The three largest jumps by name, and the number of others."""
        named = [
            f"{self.words.at(self.way.time(i))} (times {factor(self._step(i))})" for i in self.jumps
        ]
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        return ", ".join(named[:3]) + more

    # where

    def _stretch(self) -> Piece | None:
        """A short part of the way that makes most of the change, if there is one."""
        log, steps = self.way.log, len(self.way.log) - 1
        if self.jumps or steps < 6 or abs(self.change) < APART:
            return None
        start, end = stretch(log)
        shortest = Piece(start, end, float(log[end] - log[start]))
        steepest = max(self.pieces, key=lambda p: p.decades / self.change)
        for p in (steepest, shortest):
            if p.start - p.end <= 0.6 * steps and p.decades / self.change > 0.5:
                return p
        return None

    def _place(self) -> list[Sentence]:
        way = self.way
        change = "fall" if self.change < 0 else "rise"
        if way.broken == "0":
            return self._until_zero()
        if not self.jumps and (abs(self.change) < LEVEL or len(way.log) < 3):
            return []
        if self.by_steps:
            times = [way.time(i) for i in self.jumps]
            text = f"elsewhere it {self._course()}{self._added()}"
            return [self._sentence("place", text, times=times, part=self.part)]
        if self.jumps:
            times = [way.time(i) for i in self.jumps]
            return self._because(self._blamed(), "place", times=times, step=times[0])
        if between := self._stretch():
            return [self._at_stretch(between, change)]
        return [self._evenly()] if all(p.decades * self.change > 0 for p in self.pieces) else []

    def _at_stretch(self, between: Piece, change: str) -> Sentence:
        way, part = self.way, between.decades / self.change
        much = "the whole" if part > 0.995 else f"{part:.0%} of the"
        text = f"{much} {change}{'' if part > 0.995 else ' (in decades)'} happens at "
        if between.start - between.end == 1:
            text += f"{self.words.at(way.time(between.start))}, which {passes(between.decades)}"
        else:
            does = passes(between.decades, many=True)
            text += f"{self._range(between)}, which together {does}"
        worst = max(
            range(between.end + 1, between.start + 1), key=lambda i: self._step(i) / self.change
        )
        numbers: dict[str, Any] = {
            "start": way.time(between.start),
            "end": way.time(between.end),
            "part": part,
        }
        return self._sentence("place", text, step=way.time(worst), **numbers)

    def _range(self, between: Piece) -> str:
        """The steps of a stretch; each leads from its own time to the one before."""
        first, last = (self.words.at(self.way.time(i)) for i in (between.start, between.end + 1))
        return f"the {self.words.unit}s {first} to {last}"

    def _added(self) -> str:
        """The reason why the gradient grows although the path of the state alone shrinks it."""
        grows = self.change - sum(map(self._step, self.jumps)) > LEVEL
        if not grows or not self.inside.exists:
            return ""
        rest = [self.way.time(i) for i in range(1, len(self.way.log)) if i not in self.jumps]
        rest = rest[:: max(1, len(rest) // LOOKED_AT)]
        shrinks = log10(self.inside.at(rest).straight).mean() < 0
        adds = f"add{'' if self.words.around.endswith('s') else 's'}"
        alone = shrinks and self._afresh(rest) <= AFRESH
        return f", by what {self.words.around} {adds}" if alone else ""

    def _until_zero(self) -> list[Sentence]:
        way, words = self.way, self.words
        if len(way.log) < 3:
            return []
        start, end = way.times[way.last], way.time(0)
        text = f"from {words.at(start)} back to {words.at(end)} it {self._course()}"
        return [self._sentence("place", text, times=[end], start=start, end=end)]

    def _evenly(self) -> Sentence:
        """The sentence for an even change: the step that does most, and where little is left."""
        way, words, falls = self.way, self.words, self.change < 0
        steps = -np.diff(way.log)
        worst = 1 + int(steps.argmin() if falls else steps.argmax())
        time = way.time(worst)
        verb = "loses" if falls else "adds"
        most = f"the {words.unit} that {verb} most, {words.at(time)}, {passes(self._step(worst))}"
        if np.ptp(steps) < 1e-3:
            most = f"every {words.unit} {passes(self._step(worst))}"
        below = np.flatnonzero(way.log < way.log[-1] - 3).tolist()
        left = way.time(below[-1]) if below and below[-1] else None
        if left is not None:
            most = (
                f"from {words.at(left)} back less than 1/1000 is left. {most[0].upper()}{most[1:]}"
            )
        text = f"it {'is lost' if falls else 'grows'} bit by bit: {most}"
        return self._sentence("place", text, times=[time], step=time, part=0.0, below=left)

    # through which path, and by which factor

    def _cause(self) -> list[Sentence]:
        if self.way.broken == "0":
            return self._cause_of_zero()
        return self._because(self._blamed() if self.by_steps or not self.jumps else None, "cause")

    def _because(self, blamed: Blamed | None, kind: Kind, **numbers: Any) -> list[Sentence]:
        """The cause at the blamed steps; without blamed steps, the cause at all steps but the jumps."""
        way = self.way
        positions = _looked_at(
            len(way.log) - 1, self.jumps, None if self.jumps else self._stretch()
        )
        times = [way.time(i) for i in positions if blamed or i not in self.jumps]
        try:
            afresh = 0.0 if blamed else self._afresh(times)
            if self.inside.exists:
                carried = self.inside.at(times)
                net = self.change - sum(map(self._step, self.jumps))
                cause = self._opened(by_path(carried, blamed, net, afresh, self.words))
            else:
                split = gain_split(self.loss, self.path, self.words.state, times=times)
                cause = by_gain(split, blamed, self.change, afresh, self.words)
            if blamed and cause.numbers.get("why") in ("saturation", "f", "z"):
                cause = self._with_input(cause, blamed)
        except (GraphError, ShapeError):  # no path of the state alone, nor a nonlinearity of a sum
            return []
        where = {"time": list(blamed.times)} if blamed else {}
        return [self._sentence(kind, cause.text, **(cause.numbers | where | numbers))]

    def _blamed(self) -> Blamed | None:
        """The jumps or the stretch that cause most of the change, if there are any."""
        way, words = self.way, self.words
        if self.jumps:
            times = [way.time(i) for i in self.jumps]
            where = f"at {words.at(times[0])}" if len(times) == 1 else f"at these {words.unit}s"
            return Blamed(where, times, sum(map(self._step, self.jumps)) / len(times))
        if between := self._stretch():
            times = [way.time(i) for i in range(between.start, between.end, -1)]
            where = f"at {self._range(between) if len(times) > 1 else words.at(times[0])}"
            return Blamed(where, times, between.rate)
        return None

    def _opened(self, cause: Cause) -> Cause:
        """A cause with the parts of the hidden path's factor, if it names that factor."""
        if "around" not in cause.numbers or self.words.state != "c":
            return cause
        way = self.way
        steps = [(way.time(i), way.time(i - 1)) for i in spread(range(1, len(way.log)), LOOKED_AT)]
        flow = flow_among(self.loss, self.path, sorted({t for pair in steps for t in pair}))
        split = hidden_path(flow, self.words.state, steps)
        if split is None:
            return cause
        gates, weight, output = (float(np.nanmean(part)) for part in split)
        text = (
            f"{cause.text}: the gates by {factor(gates)}, the weight matrix by {factor(weight)}, "
            f"and the way from h back to c by {factor(output)}"
        )
        parts = {"gates": gates, "weight": weight, "output": output}
        return Cause(text, cause.numbers | parts)

    def _with_input(self, cause: Cause, blamed: Blamed) -> Cause:
        """A cause with the large input that makes it, if there is one."""
        usual = [self.way.time(i) for i in spread(range(1, len(self.way.log)), LOOKED_AT)]
        flow = flow_among(self.loss, self.path, sorted({*usual, *blamed.times}))
        large = large_input(flow, list(blamed.times))
        if large is None:
            return cause
        least = "at least " if len(blamed.times) > 1 else ""
        times = f"{large.times:.0f}" if large.times < 1000 else factor(math.log10(large.times))
        text = f"{cause.text}. There {large.label} is {least}{times} times as large as usual"
        return Cause(text, cause.numbers | {"input": large.label, "input_times": large.times})

    def _afresh(self, times: Sequence[int]) -> float:
        """The average share that comes from another recurrence at every step."""
        if not self.among_others:
            return 0.0
        order = self.way.times
        before = [order[order.index(t) - 1] for t in times]
        local = path_split(self.loss, self.path, times=before)[self.words.state].shares["local"]
        local = local[np.isfinite(local)]
        return float(local.mean()) if len(local) else 0.0

    def _cause_of_zero(self) -> list[Sentence]:
        way, words = self.way, self.words
        time, at = way.time(0), words.at(way.time(0))
        before = way.times[way.first - 1]
        if time in self.cuts or before not in self.flow.time:
            text = f"the sequence is cut into windows for the backward pass, and {at} begins one"
            if time not in self.cuts:
                text = (
                    f"nothing leads from {at} to {words.at(before)}: the state was detached there"
                )
            return [self._sentence("cause", text, time=time, why="cut")]
        if self.inside.exists:
            kept = float(self.inside.at([time]).straight[0])
            verb = "pass" if words.several else "passes"
            does = "does" if words.state == "c" and words.unit == "step" else "do"
            text = f"at {at} {words.keeper} {verb} nothing back, and neither {does} {words.around}"
            return [self._sentence("cause", text, time=time, why=words.gate)] if kept == 0 else []
        try:
            split = gain_split(self.loss, self.path, words.state, times=[time])
        except GraphError:
            return []
        if split.saturation[0] == 0:
            why = self._off(time)
            text = f"at {at} the slope of the nonlinearity is 0 wherever the gradient arrives{why}"
            return [self._sentence("cause", text, time=time, why="saturation")]
        if split.weight[0] == 0:
            text = (
                f"{words.matrix} passes nothing back from {at}: it is 0, or the state was detached"
            )
            return [self._sentence("cause", text, time=time, why="weight")]
        return []

    def _off(self, time: int) -> str:
        (i,) = np.flatnonzero(self.flow.time == time)
        value = self.flow.value[int(i)]
        value = backend.namespace(value).to_numpy(value)
        if not value.any():
            return ": all are switched off"
        return ": all are at ±1" if (np.abs(value) == 1).all() else ""

    def _notes(self) -> list[Sentence]:
        found, first, words = [], self.way.times[0], self.words
        if len(self.reads) > 1:
            text = (
                f"the loss reads {len(self.reads)} {words.unit}s, so the curve adds up what all of them "
                "send back. It can stay high where the gradient of the last one is lost"
            )
            found.append(self._sentence("note", text, True, reads=len(self.reads)))
        if note := self._read_directly():
            found.append(note)
        if self.begins:
            text = (
                f"the graph begins at {words.at(first)}: the state before it was detached or never marked, "
                "so the page shows no earlier steps"
            )
            found.append(self._sentence("note", text, begins=first))
        if self.path.partition("#")[0].endswith("_reverse"):
            text = "steps are counted in the order in which this direction runs: t = 0 reads the last input"
            found.append(self._sentence("note", text, True))
        return found

    def _read_directly(self) -> Sentence | None:
        """The note that the gradient by h, which the loss reads at the last step, is larger there."""
        way = self.way
        name, last = "h", way.times[way.last]
        if self.words.state != "c" or self.last != {name} or self.among_others or len(way.log) < 4:
            return None
        own = _way(self.states[name], self.stack[name])
        if (own.first, own.last) != (way.first, way.last):
            return None
        ratio = own.log - way.log
        usual = float(ratio[:-1].mean())
        if own.log[-1] - own.log[-3] < APART or ratio[-1] - usual < APART:
            return None
        text = (
            f"the loss reads {name} at {self.words.at(last)} directly, so ∂L/∂{name} is larger there. At "
            f"earlier steps ∂L/∂{name} comes back through the gates alone, and is on average "
            f"{amount(usual)} of {self.words.grad}"
        )
        return self._sentence("note", text, True, time=last, usual=usual, there=float(ratio[-1]))


def _looked_at(count: int, named: Iterable[int], between: Piece | None) -> list[int]:
    """Positions from 1 to ``count``: evenly spread ones, more of them in a stretch, and the named ones."""
    positions = {*spread(range(1, count + 1), LOOKED_AT), *named}
    if between:
        positions.update(spread(range(between.end + 1, between.start + 1), LOOKED_AT))
    return sorted(positions)
