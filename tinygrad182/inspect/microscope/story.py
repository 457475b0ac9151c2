"""``story``: what there is to see in a graph, in a few sentences whose numbers are computed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from ..._tensor import Tensor
from ...autodiff import seeds_of
from ...backpropagation import ancestors
from ...errors import GraphError
from ..flow import StackFlow, StateFlow, gradient_flow
from ..paths import GainSplit, gain_split, path_split
from ..recurrences import Stack, stacks_of
from .curve import LEVEL, HostArray, Piece, jumps, pieces, stretch, without
from ...memory import in_pass
from .passing import Carried, Path, far, runs_in_depth

Kind = Literal["regime", "place", "cause", "note"]

LOOKED_AT = 48
"""Steps, evenly spread, at which causes are measured; the steps that are named come on top."""

GATES = {"f": "forget gate", "z": "update gate"}


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a story.

    Attributes
    ----------
    text : str
        Plain English, ends with a full stop.
    path : str
        The recurrence it is about; ``""`` for a graph without one.
    kind : {"regime", "place", "cause", "note"}
        What becomes of the gradient; where; through which path and by which factor; how to read the rest.
    folded : bool
        Whether it belongs behind a fold.
    numbers : dict
        What the text says, unrounded. Norms are decadic logarithms.
    """

    text: str
    path: str
    kind: Kind
    folded: bool = False
    numbers: dict[str, Any] = field(default_factory=dict)


def story(loss: Tensor, gradient: Any = None) -> list[Sentence]:
    """Say what becomes of a loss's gradient on its way back: where it is lost, and by what.

    At most three sentences for each recurrence, the one that loses most first, and then some that belong
    behind a fold. A loss that reads several steps is followed from the last of them alone.

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
    The gradient ∂L/∂h halves with every step back: 1e-3 of what it is at t = 10 reaches t = 0.
    No step stands out.
    All of the loss is the weight matrix, which leaves 50% a step; the nonlinearity takes nothing.
    """
    if gradient is not None:
        loss = in_pass(_weighted, loss, gradient, grad=True)
    ((root, _),) = seeds_of([loss], [None], False, "story")
    try:
        stacks = stacks_of(ancestors([root], constants=True), "story")
    except GraphError:
        return []
    followed, reads = far(loss)
    flows = gradient_flow(followed)
    told = [
        _Recurrence(followed, path, flow, stacks[path], reads[path], len(flows) > 1)
        for path, flow in flows.items()
    ]
    told.sort(key=lambda r: -abs(r.way.net))
    return [sentence for r in told for sentence in r.sentences()]


def _weighted(loss: Tensor, gradient: Any) -> Tensor:
    return (loss * gradient).sum()


# --- the way back ---------------------------------------------------------------------------------


class _Way(NamedTuple):
    """The gradient by one state from the last step that gets some back to the first.

    Attributes
    ----------
    times : list of int
        The steps, in the order they ran.
    log : ndarray
        Decadic logarithms of the norms from ``times[first]`` to ``times[last]``.
    first, last : int
        Positions. What lies before ``first`` gets exactly 0, or what is not a number.
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


def _way(flow: StateFlow, backward: bool) -> _Way:
    order = slice(None, None, -1 if backward else 1)
    log = (flow.log_grad_norm / math.log(10.0))[order]
    there = np.flatnonzero(log != -np.inf)
    last = int(there[-1]) if len(there) else 0
    stops = np.flatnonzero(~np.isfinite(log[: last + 1]))
    first = int(stops[-1]) + 1 if len(stops) else 0
    kind = log[first - 1] if first else 0.0
    broken = "" if math.isfinite(kind) else "NaN" if math.isnan(kind) else "0" if kind < 0 else "∞"
    return _Way(flow.time[order].tolist(), log[first : last + 1], first, last, broken)


class _Words(NamedTuple):
    """How steps and gradients of a recurrence are called."""

    path: str
    state: str
    unit: str

    @property
    def grad(self) -> str:
        return f"∂L/∂{self.state}"

    def at(self, time: int) -> str:
        return f"t = {time}" if self.unit == "step" else f"block {time}"


def amount(decades: float) -> str:
    """Write a factor as a reader says it.

    >>> [amount(x) for x in (-0.15, -2.0, -15.5, -400.2, 0.0, 0.5, 7.7)]
    ['71%', '1%', '3e-16', '6e-401', '100%', '3.2 times', '5e7 times']
    """
    if decades < -2.0:
        return _scientific(decades)
    if decades < LEVEL / 4:
        return f"{100 * 10**decades:.0f}%"
    return f"{10**decades:.2g} times" if decades < 2 else f"{_scientific(decades)} times"


def _scientific(decades: float) -> str:
    power = math.floor(decades)
    mantissa = round(10 ** (decades - power))
    return f"1e{power + 1}" if mantissa == 10 else f"{mantissa}e{power}"


def pace(decades: float, unit: str) -> str:
    """Write a rate in decades by step back.

    >>> [pace(x, "step") for x in (-0.1584, -0.301, -0.82, 0.151, 0.7)]
    ['halves every 1.9 steps', 'halves with every step', 'shrinks to 15% with every step', 'doubles every 2 steps', 'grows 5-fold with every step']
    """
    steps = math.log10(2) / abs(decades)
    verb = "halves" if decades < 0 else "doubles"
    if steps >= 1.05:
        return f"{verb} every {steps:.2g} {unit}s" if steps < 100 else f"{verb} every {steps:.0f} {unit}s"
    if steps > 0.95:
        return f"{verb} with every {unit}"
    if decades < 0:
        return f"shrinks to {amount(decades)} with every {unit}"
    return f"grows {10**decades:.2g}-fold with every {unit}"


# --- the sentences about one recurrence -----------------------------------------------------------


class _Recurrence:
    """What is known of one recurrence, and the sentences about it."""

    def __init__(
        self,
        loss: Tensor,
        path: str,
        flow: StackFlow[StateFlow],
        stack: Stack,
        reads: list[int],
        among_others: bool,
    ) -> None:
        self.loss, self.path, self.reads, self.among_others = loss, path, reads, among_others
        self.inside = Path(loss, path)
        recurrence = stack[self.inside.state]
        self.flow = flow[self.inside.state]
        self.way = _way(self.flow, recurrence.runs_backward())
        unit = "block" if runs_in_depth(recurrence) else "step"
        self.words = _Words(path, self.inside.state, unit)
        self.jumps = jumps(self.way.log) if len(self.way.log) else []
        self.pieces = pieces(without(self.way.log, self.jumps)) if len(self.way.log) > 1 else []

    def sentences(self) -> list[Sentence]:
        """The main one first, then where and by what, then what belongs behind a fold."""
        if self.way.broken in ("NaN", "∞") or not len(self.way.log):
            return [self._broken()]
        if self.way.last == 0:
            return [self._nothing()]
        found = [self._regime(), *self._place(), *self._cause(), *self._notes()]
        return found

    def _told(self, kind: Kind, text: str, folded: bool = False, **numbers: Any) -> Sentence:
        text = text[0].upper() + text[1:] + "."
        if self.among_others:
            text = f"{self.path or 'your loop'}: {text}"
        return Sentence(text, self.path, kind, folded, numbers)

    # what becomes of the gradient

    def _broken(self) -> Sentence:
        way, at = self.way, self.words.at
        values = self.flow.value_norm[:: 1 if way.times[0] <= way.times[-1] else -1]
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            time = way.times[int(bad[0])]
            what = "NaN" if np.isnan(values[bad[0]]) else "infinite"
            text = f"the values of {self.words.state} are {what} from {at(time)} on, so no gradient means anything"
            return self._told("regime", text, time=time, what=what)
        time = way.times[way.first - 1]
        if not len(way.log):
            text = f"the gradient {self.words.grad} is {way.broken} wherever the loss reads it"
            return self._told("regime", text, time=time, what=way.broken)
        text = (
            f"the gradient {self.words.grad} is {way.broken} from {at(time)} back: it is still a number at "
            f"{at(way.time(0))}, and that step makes it {way.broken}"
        )
        return self._told("regime", text, time=way.time(0), what=way.broken)

    def _nothing(self) -> Sentence:
        at = self.words.at(self.way.times[0])
        if len(self.way.times) == 1:
            text = f"there is one step, {at}, so no gradient goes back through time"
        else:
            text = f"the loss reads {at} alone, the first step that runs, so no gradient goes back"
        return self._told("regime", text, net=0.0)

    def _regime(self) -> Sentence:
        way, words = self.way, self.words
        start, end, net = way.times[way.last], way.time(0), float(way.log[0] - way.log[-1])
        numbers: dict[str, Any] = {"start": start, "end": end, "decades": net}
        numbers["pieces"] = [
            (way.time(p.start), way.time(p.end), p.decades) for p in self.pieces
        ]
        if way.broken == "0":
            text = (
                f"the gradient {words.grad} is exactly 0 before {words.at(end)}: "
                f"that {words.unit} hands nothing back"
            )
            return self._told("regime", text, zero=end, **numbers)
        if self._by_jumps() >= 0.5:
            text = f"{self._jumps_told()}; {self._reach(net)}"
        else:
            text = f"{self._gradient()} {self._course()}; {self._reach(net)}"
        return self._told("regime", text, **numbers)

    def _gradient(self) -> str:
        """How the gradient is called, and from which step alone it is followed."""
        name = f"the gradient {self.words.grad}"
        if len(self.reads) < 2:
            return name
        last = self.words.at(max(self.reads))
        return f"the loss reads {len(self.reads)} {self.words.unit}s; what the last of them, {last}, sends back"

    def _reach(self, net: float) -> str:
        """How much arrives."""
        start = self.words.at(self.way.times[self.way.last])
        end = self.words.at(self.way.time(0))
        if net > LEVEL:
            return f"at {end} it is {amount(net)} as large as at {start}"
        return f"of what it is at {start}, {amount(net)} reaches {end}"

    def _course(self) -> str:
        """How it changes, stretch by stretch."""
        unit, parts = self.words.unit, []
        if len(self.way.log) == 2:
            (p,) = self.pieces
            return f"goes back one {unit}"
        for i, p in enumerate(self.pieces):
            keeps = abs(p.decades) < LEVEL
            verb = "keeps its size" if keeps else pace(p.rate, unit)
            if len(self.pieces) == 1:
                return f"{verb} on its way back"
            parts.append(f"{verb} back to {self.words.at(self.way.time(p.end))}")
        return ", then ".join(parts)

    def _by_jumps(self) -> float:
        """The part of the whole change, in decades, that single steps make."""
        net = float(self.way.log[0] - self.way.log[-1])
        return sum(self._step(i) for i in self.jumps) / net if net else 0.0

    def _step(self, position: int) -> float:
        """Decades by which one step changes the gradient."""
        return float(self.way.log[position - 1] - self.way.log[position])

    def _jumps_told(self) -> str:
        steps = [(self.words.at(self.way.time(i)), self._step(i)) for i in self.jumps]
        unit, verb = self.words.unit, "is lost" if steps[0][1] < 0 else "arises"
        most = f"most of the gradient {self.words.grad} {verb} at"
        if len(steps) == 1:
            ((at, change),) = steps
            return f"{most} one {unit}: {at} {_handed(change)}"
        each = ", ".join(f"{at} ({_times(change)})" for at, change in steps)
        return f"{most} {len(steps)} {unit}s: {each}"

    # where

    def _place(self) -> list[Sentence]:
        way, words = self.way, self.words
        net = float(way.log[0] - way.log[-1])
        if abs(net) < LEVEL or len(way.log) < 3:
            return []
        loss = "loss" if net < 0 else "growth"
        part = self._by_jumps()
        if self.jumps:
            times = [way.time(i) for i in self.jumps]
            if part < 0.5:
                what = " and ".join(f"{words.at(t)} ({_times(self._step(i))})" for t, i in zip(times, self.jumps, strict=True))
                text = f"single {words.unit}s stand out: {what}, {100 * part:.0f}% of the {loss} in decades"
            else:
                text = f"that is {100 * part:.0f}% of the {loss} in decades; elsewhere it {self._course()}"
            return [self._told("place", text, times=times, part=part)]
        start, end = (way.time(i) for i in stretch(way.log))
        steps = abs(way.times.index(start) - way.times.index(end))
        if steps <= (len(way.log) - 1) / 2:
            text = f"four fifths of the {loss} in decades are made between {words.at(start)} and {words.at(end)}"
            return [self._told("place", text, start=start, end=end)]
        worst = 1 + int(np.argmin(np.sign(-net) * -np.diff(way.log)))
        text = (
            f"no single {words.unit} is to blame: the one that changes it most, {words.at(way.time(worst))}, "
            f"{_handed(self._step(worst))}"
        )
        below = np.flatnonzero(way.log < way.log[-1] - 3)
        below_at = way.time(int(below[-1])) if len(below) else None
        if below_at is not None:
            text = f"from {words.at(below_at)} back less than 1/1000 is left; {text}"
        return [self._told("place", text, times=[way.time(worst)], part=0.0, below=below_at)]

    # through which path, and by which factor

    def _cause(self) -> list[Sentence]:
        way = self.way
        if way.broken == "0":
            return self._cause_of_zero()
        positions = _spread(len(way.log) - 1, self.jumps)
        times = [way.time(i) for i in positions]
        above = self._from_others(times)
        if self.inside.exists:
            found = self._by_path(self.inside.at(times), above)
        else:
            try:
                split = gain_split(self.loss, self.path, self.words.state, times=times)
            except GraphError:
                return []
            found = self._by_gain(split, above)
        return [found]

    def _from_others(self, times: list[int]) -> float:
        """The share that comes from another recurrence at each step, on average."""
        if not self.among_others:
            return 0.0
        before = [self.way.times[self.way.times.index(t) - 1] for t in times]
        split = path_split(self.loss, self.path, times=before)[self.words.state]
        local = split.shares["local"]
        return float(np.mean(local[np.isfinite(local)])) if np.isfinite(local).any() else 0.0

    def _cause_of_zero(self) -> list[Sentence]:
        time, words = self.way.time(0), self.words
        at = words.at(time)
        if time in self.inside.cuts:
            text = f"the sequence is cut into windows there: {at} begins one, and truncation lets nothing through"
            return [self._told("cause", text, time=time, why="cut")]
        if self.inside.exists:
            return []
        try:
            split = gain_split(self.loss, self.path, words.state, times=[time])
        except GraphError:
            return []
        saturation, weight = float(split.saturation[0]), float(split.weight[0])
        if saturation == 0:
            why = self._off(time)
            text = f"at {at} the slope of the nonlinearity is 0 for every unit that the gradient reaches{why}"
            return [self._told("cause", text, time=time, why="saturation")]
        if weight == 0:
            text = f"nothing passes between {at} and the {words.unit} before: the weights are 0, or it is detached"
            return [self._told("cause", text, time=time, why="weight")]
        return []

    def _off(self, time: int) -> str:
        value = np.asarray(self.flow.value[int(np.flatnonzero(self.flow.time == time)[0])])
        if not value.any():
            return ": all are switched off"
        return ": all are at ±1" if (np.abs(value) == 1).all() else ""

    def _by_gain(self, split: GainSplit, above: float) -> Sentence:
        saturation, weight = (np.log10(x) for x in (split.saturation, split.weight))
        numbers = {"saturation": float(saturation.mean()), "weight": float(weight.mean())}
        net = float(self.way.log[0] - self.way.log[-1])
        if self.jumps:
            return self._gain_at_jump(split)
        s, w = numbers["saturation"], numbers["weight"]
        matrix = f"the weight {'matrices' if self.words.unit == 'block' else 'matrix'}"
        unit = self.words.unit
        each = f"each {unit} back, saturation leaves {amount(s)} and {matrix} makes {amount(w)} of that"
        if above > 0.05:
            text = f"{each}; {100 * above:.0f}% of it comes afresh from what reads the states"
        elif abs(s) < 1e-3 and abs(net) >= LEVEL:
            loss = "loss" if net < 0 else "growth"
            text = f"all of the {loss} is {matrix}, which makes {amount(w)} of it each {unit}; nothing saturates"
        elif s < 0 and w < 0 and net < -LEVEL:
            share = w / (s + w)
            numbers["weight_share"], numbers["saturation_share"] = share, 1 - share
            first, second = (matrix, "saturation") if share >= 0.5 else ("saturation", matrix)
            text = f"{100 * max(share, 1 - share):.0f}% of the loss in decades is {first}, {100 * min(share, 1 - share):.0f}% {second}: {each}"
        else:
            text = each
        return self._told("cause", text, above=above, **numbers)

    def _gain_at_jump(self, split: GainSplit) -> Sentence:
        time = self.way.time(self.jumps[0])
        here = split.time == time
        factors = {"saturation": split.saturation, "the weight matrix": split.weight}
        change = {n: math.log10(x[here][0]) - float(np.median(np.log10(x[~here]))) if (~here).any() else math.log10(x[here][0]) for n, x in factors.items()}
        sign = math.copysign(1.0, self._step(self.jumps[0]))
        why = max(change, key=lambda name: sign * change[name])
        other = next(name for name in factors if name != why)
        elsewhere = math.log10(float(np.median(factors[why][~here]))) if (~here).any() else 0.0
        own, rest = (math.log10(float(factors[n][here][0])) for n in (why, other))
        text = (
            f"at {self.words.at(time)} it is {why} that hands back {amount(own)}, elsewhere {amount(elsewhere)}; "
            f"{other} makes {amount(rest)} there"
        )
        return self._told("cause", text, time=time, why=why, factor=own, elsewhere=elsewhere)

    def _by_path(self, carried: Carried, above: float) -> Sentence:
        straight, around, by = self._paths()
        with np.errstate(divide="ignore"):
            kept = np.log10(carried.kept)
        share = float(np.nanmean(carried.share))
        typical = float(np.median(kept))
        numbers = {"share": share, "kept": float(kept.mean()), "above": above}
        if self.jumps:
            return self._path_at_jump(carried)
        unit = self.words.unit
        leaves = f"{by} {amount(numbers['kept'])} a {unit}" if by else "unchanged"
        if share > 1.1 or share < -0.1:
            text = f"two paths partly cancel: {straight} ({leaves}) and {around}"
        elif share >= 0.5:
            text = f"{100 * share:.0f}% of {self.words.grad} arrives over {straight}, {leaves}"
        else:
            text = f"only {100 * share:.0f}% of {self.words.grad} arrives over {straight} ({leaves}); {around} carries the rest"
        if above > 0.05:
            text += f"; {100 * above:.0f}% comes afresh from what reads the states"
        return self._told("cause", text, gate=self.inside.gate, typical=typical, **numbers)

    def _paths(self) -> tuple[str, str, str]:
        """Names for the path of the state alone, for the others, and for what is multiplied on the first."""
        gate = self.inside.gate
        factor = f"where the {GATES.get(gate, f'gate {gate!r}')}s leave" if gate else ""
        if self.words.state == "c":
            return "the cell path", "the hidden path, through the weight matrix,", factor
        if self.words.unit == "block":
            return "the skips", "the branches", factor
        return f"the straight path from {self.words.state} to {self.words.state}", "the way through the weight matrix", factor

    def _path_at_jump(self, carried: Carried) -> Sentence:
        time = self.way.time(self.jumps[0])
        here = carried.time == time
        straight, around, _ = self._paths()
        with np.errstate(divide="ignore"):
            own = float(np.log10(carried.kept[here][0]))
            elsewhere = float(np.log10(np.median(carried.kept[~here]))) if (~here).any() else 0.0
        gate = GATES.get(self.inside.gate, self.inside.gate and f"gate {self.inside.gate!r}")
        name = f"the {gate}s" if gate else straight
        at, mean = self.words.at(time), float(carried.value[here][0])
        if own < elsewhere - math.log10(2):
            closed = f"are shut (mean {mean:.1g}) and" if gate and mean < 0.1 else ""
            text = f"at {at} {name} {closed} leave {amount(own)}, elsewhere {amount(elsewhere)}".replace("  ", " ")
            if self._step(self.jumps[0]) > own + 0.3:
                text += f"; what still arrives comes over {around.rstrip(',')}"
            why = self.inside.gate or "straight"
        else:
            text = f"at {at} {name} leave {amount(own)} as elsewhere; what changes there is {around.rstrip(',')}"
            why = "around"
        return self._told("cause", text, time=time, why=why, factor=own, elsewhere=elsewhere, mean=mean)

    def _notes(self) -> list[Sentence]:
        if len(self.reads) < 2:
            return []
        text = (
            f"the loss reads {len(self.reads)} {self.words.unit}s and each adds to the curve; these sentences "
            f"follow what the last one, {self.words.at(max(self.reads))}, sends back"
        )
        return [self._told("note", text, True, reads=len(self.reads))]


def _spread(count: int, named: Iterable[int]) -> list[int]:
    """Positions from 1 to ``count``, evenly, and some named ones."""
    evenly = np.linspace(1, count, min(count, LOOKED_AT)).round().astype(int).tolist()
    return sorted({*evenly, *named})


def _handed(decades: float) -> str:
    return f"hands back {_times(decades)} of what it gets"


def _times(decades: float) -> str:
    return amount(decades) if decades < LEVEL / 4 else amount(decades).removesuffix(" times") + " times"
