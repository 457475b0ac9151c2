"""``gradient_flow``: the derivative of a loss by every state of every recurrence, over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import cached_property, partial
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np

from ...arrays import backend
from ...arrays.backend import device_of, is_away
from ...arrays.namespaces import Array
from ...display.reprs import fold, scientific, shown, text
from ...engine.autodiff import add_grads, seeds_of
from ...engine.backpropagation import ancestors, descendants
from ...engine.memory import in_pass
from ...engine.recording import Node
from ...errors import UnknownPathError
from ...recurrence.scans import by_definition, steps_of_scan
from ...recurrence.unrolling import opening
from ...tensors.tensor import Tensor
from ..charts.pictures import Drawn, curves
from ..loops.hosting import copied_to_host
from ..loops.recurrences import Recurrence, Stack, stacks_of
from ..passes.gradients import Gradients, ScanGradients, Seed, TrustedCotangents, gradients_inside
from ..passes.scaling import (
    Band,
    HostArray,
    at_sample_powers,
    in_own_type,
    sample_norms,
    step_norms,
    total_norms,
    whole_of,
)
from ..table import StateTable, as_array, text_table
from .recorded_flow import RecordedStateFlow, recorded_flows

Flow = TypeVar("Flow")
States = TypeVar("States", bound="StateFlow | RecordedStateFlow")


def _value_norms(states: StepByStep | InScans) -> tuple[HostArray]:
    return (step_norms(states.value),)


class StateFlow(StateTable, Drawn):
    """One state of a recurrence over T steps: its values and the loss's derivatives by them.

    The norms are computed when they are first read; the arrays are read-only.

    Attributes
    ----------
    time : ndarray ``(T,)``
        The steps, in order; index 0 is the state after the first input.
    grad : array ``(T, B, H)``
        ∂L/∂h_t, time first, in the model's dtype: 0 where that underflows, ±∞ where it overflows.
    grad_norm : ndarray ``(T,)``
        ‖∂L/∂h_t‖, Frobenius over (B, H), float64.
    log_grad_norm : ndarray ``(T,)``
        Its natural logarithm, float64: right also where the norm itself under- or overflows; −∞ for a
        gradient that is exactly 0.
    log10_grad_norm : ndarray ``(T,)``
        Its decadic logarithm, ``log_grad_norm / ln 10``: −12 for a norm of 1e-12. A difference of 1 is
        one decade, a factor of 10.
    value_norm : ndarray ``(T,)``
        ‖h_t‖, Frobenius over (B, H), float64.
    sample_grad_norm : ndarray ``(T, B)``
        ‖∂L/∂h_t‖ of each sequence in the batch, float64.
    initial_grad : array ``(B, H)`` or None
        The derivative by the initial state (a layer's argument ``h_0``), the one before the first input.
    value : array ``(T, B, H)``
    """

    def __init__(
        self,
        time: HostArray,
        states: StepByStep | InScans,
        initial: list[Band] | None,
        ledger: Ledger,
    ) -> None:
        self.time = time
        self._states = states
        self._initial = initial
        self._norms_at = ledger.note(states.norms)
        self._value_norm_at = ledger.note(partial(_value_norms, states))
        self._ledger = ledger

    @cached_property
    def value(self) -> Array:
        return _read_only(self._states.value)

    @cached_property
    def grad(self) -> Array:
        with np.errstate(over="ignore", under="ignore"):
            return _read_only(self._at_home(self._states.grad()))

    def _at_home(self, gradient: Array) -> Array:
        """A gradient, moved to the device of the states."""
        return backend.move(gradient, device_of(self._states.value))

    def chart(self) -> Any:
        """Return the norms over time, in decades, as an Altair chart."""
        return curves({"": {"s": self}})

    @property
    def _norms(self) -> tuple[HostArray, HostArray]:
        norms, powers = self._ledger.read(self._norms_at)
        return norms, powers

    @cached_property
    def _totals(self) -> tuple[HostArray, HostArray]:
        return total_norms(*self._norms)

    @property
    def grad_norm(self) -> HostArray:
        return self._totals[0]

    @property
    def log_grad_norm(self) -> HostArray:
        return self._totals[1]

    @cached_property
    def log10_grad_norm(self) -> HostArray:
        return self.log_grad_norm / math.log(10)

    @property
    def value_norm(self) -> HostArray:
        return self._ledger.read(self._value_norm_at)[0]

    @cached_property
    def sample_grad_norm(self) -> HostArray:
        with np.errstate(over="ignore", under="ignore"):
            return np.hypot.reduce(np.ldexp(*self._norms), axis=0)

    @cached_property
    def initial_grad(self) -> Array | None:
        return None if self._initial is None else self._at_home(whole_of(self._initial))


class ByName(Mapping[str, Flow]):
    """A mapping by name; the error for an unknown name lists the names there are."""

    _unknown = ""

    def __init__(self, found: dict[str, Flow]) -> None:
        self._found = found

    def __getitem__(self, name: str) -> Flow:
        try:
            return self._found[name]
        except KeyError:
            there = ", ".join(map(repr, self._found))
            raise UnknownPathError(self._unknown.format(repr(name), there, self)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class StatesByName(ByName[Flow]):
    """The states of one module call by name; ``.h`` is short for ``["h"]``."""

    _unknown = "no state {0} in {2.path!r}; it has {1}"

    def __init__(self, path: str, states: dict[str, Flow]) -> None:
        super().__init__(states)
        self.path = path

    def __getattr__(self, name: str) -> Flow:
        states = self.__dict__.get("_found", {})
        if name not in states:
            raise AttributeError(f"no state {name!r}; there is {', '.join(map(repr, states))}")
        found: Flow = states[name]
        return found

    def __repr__(self) -> str:
        return "\n".join(f"{self.path} {name}\n{state!r}" for name, state in self.items())


class StackFlow(StatesByName[States], Drawn, Generic[States]):
    """The states of one module call by name, and their curves."""

    def __repr__(self) -> str:
        return _shown({f"{self.path} {name}": state for name, state in self.items()})

    def chart(self) -> Any:
        """Return the norms over time, in decades, as an Altair chart."""
        return curves({self.path: self})

    def _fold(self, opened: bool) -> str:
        states = [state._fold(name, opened) for name, state in self.items()]
        return fold(f"<b>{text(self.path)}</b>", *states, opened=opened)

    def _repr_html_(self) -> str:
        return shown(self._fold(opened=True))


class GradientFlow(ByName[StackFlow[States]], Drawn):
    """Module path → the states marked in it. A module called again has ``#2`` behind its path."""

    _unknown = "no states were marked in {0}; there are {1}"

    def __repr__(self) -> str:
        return _shown(
            {
                f"{path} {name}": state
                for path, stack in self.items()
                for name, state in stack.items()
            }
        )

    def chart(self) -> Any:
        """Return the norms over time of each stack, one below the other, as an Altair chart."""
        return curves(self)

    def _repr_html_(self) -> str:
        return shown(*(stack._fold(opened=len(self) <= MOST_UNFOLDED) for stack in self.values()))


def _shown(states: Mapping[str, States]) -> str:
    """One or two states as tables over time; more as one table with a row for each."""
    if len(states) <= 2:
        most = 20 // max(len(states), 1)
        return "\n".join(f"{title}\n{state._table(most)}" for title, state in states.items())
    header = ("state", "steps", "‖grad‖ first", "last", "smallest", "at t", "‖value‖ first", "last")
    return text_table(header, [(title, *_figures(s)) for title, s in states.items()], 20)


def _figures(state: StateFlow | RecordedStateFlow) -> tuple[Any, ...]:
    logs, values = as_array(state.log10_grad_norm), as_array(state.value_norm)
    smallest = int(np.argmin(logs))
    grads = [scientific(logs[i], 3) for i in (0, -1, smallest)]
    return (len(logs), *grads, int(state.time[smallest]), float(values[0]), float(values[-1]))


MOST_UNFOLDED = 4
"""The states of more recurrences than this are folded in a notebook."""


@overload
def gradient_flow(
    loss: Tensor,
    gradient: Any = None,
    backward: bool = False,
    *,
    create_graph: Literal[False] = False,
) -> GradientFlow[StateFlow]: ...
@overload
def gradient_flow(
    loss: Tensor, gradient: Any = None, backward: bool = False, *, create_graph: Literal[True]
) -> GradientFlow[RecordedStateFlow]: ...
def gradient_flow(
    loss: Tensor, gradient: Any = None, backward: bool = False, *, create_graph: bool = False
) -> GradientFlow[Any]:
    """The derivative of a loss by every state of every recurrence it depends on.

    The framework's recurrent layers mark their states; :func:`mark` marks those of your own loop. Nothing
    is freed, and no ``.grad`` is changed unless ``backward=True``. Cotangents carry powers of two, so norms
    are right far below what the model's dtype can hold, as long as no single operation changes a gradient
    by a factor of more than 2^60 (in float32).

    Each direction of a bidirectional layer has a path of its own. Steps of ``"rnn.l0_reverse"`` are counted
    in the order in which it runs, here and in every other view: index 0 is the state after x_{T−1}.

    A fused layer has all its steps here, with 0 where the loss does not depend on one. Steps of a loop that
    the loss does not depend on are not part of the graph, and are missing.

    On CUDA the pass does not wait for the device before its end. If a gradient outside fused layers then
    turns out to have come near the limits of its dtype (in a loop that vanishes), the graph is fetched and
    the pass runs again on the host. The first norm that is read brings the norms of all states.

    Parameters
    ----------
    loss : Tensor
        A single element, unless ``gradient`` is given.
    gradient : Tensor or array, optional
        The cotangent to start from.
    backward : bool
        Also add the gradient to ``.grad`` of every leaf, in the same pass, as
        ``loss.backward(gradient, retain_graph=True)`` does: a training step that watches its states
        needs no second one.
    create_graph : bool
        Record the pass itself. Each state is then a :class:`RecordedStateFlow`, which holds Tensors, and
        a norm of ∂L/∂h_t can be a term of a loss. With ``backward``, the gradients added to ``.grad`` are
        recorded too, as by ``loss.backward(gradient, create_graph=True)``.

    Returns
    -------
    GradientFlow
        Path (``"rnn.l0"``) → stack, each with ``.h`` (and ``.c``), a :class:`StateFlow` or, with
        ``create_graph``, a :class:`RecordedStateFlow`.

    Raises
    ------
    GraphError
        ``loss`` does not require grad, or no state was marked.
    FreedGraphError
        An earlier backward pass freed the graph.

    Notes
    -----
    With ``create_graph`` layers run step by step once more, and derivatives are computed and recorded in
    the model's own dtype, without powers of two, so that they can underflow to 0. A gradient that vanishes
    in float32 has the logarithm −∞, and the difference of two such logarithms is NaN: use a model in
    float64, or leave such steps out of the penalty, ``logs[logs > -85]``.

    The pass takes two to three times as long as that of a layer with ``fused=False``, and 25 (RNN) to 70
    times (LSTM) as long as that of a fused one (T = 100, B = 16, H = 8); the ``backward()`` of a penalty
    takes more than half as long again.

    The flow of a loss with such a penalty contains a fused layer twice: as it was run, and step by step
    (``"rnn.l0#2"``).

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 8, rng=0)
    >>> output, _ = rnn(tg.ones((20, 1, 1)))
    >>> flow = tg.inspect.gradient_flow(output[-1].sum())
    >>> norms = flow["rnn.l0"].h.grad_norm
    >>> norms.shape, bool(norms[0] < norms[-1])  # vanishes towards the past
    ((20,), True)

    While training:

    >>> flow = tg.inspect.gradient_flow((output**2).mean(), backward=True)
    >>> rnn.weight_hh_l0.grad.shape
    (8, 8)

    A penalty on gradients that shrink or grow from step to step:

    >>> loss = (output[-1] ** 2).mean()
    >>> logs = tg.inspect.gradient_flow(loss, create_graph=True)["rnn.l0"].h.log_grad_norm
    >>> penalty = ((logs[1:] - logs[:-1]) ** 2).mean()
    >>> (loss + 0.1 * penalty).backward()
    """
    if create_graph:
        return _by_path(recorded_flows(loss, gradient, backward))
    root, seed = seeds_of([loss], [gradient], False, "gradient_flow")[0]
    nodes = ancestors([root], constants=True)
    if any(map(by_definition, nodes)):
        root = opening([root], every=False)(root)
        nodes = ancestors([root], constants=True)
    stacks = stacks_of(nodes, "gradient_flow")
    leaves = {node for node in nodes if backward and node.keeps_grad and node.requires_grad}
    found = _gradients((root, seed), nodes, stacks, leaves)
    together = Ledger()
    flows = {
        path: {name: flow_of(r, found, "gradient_flow", together) for name, r in by_name.items()}
        for path, by_name in stacks.items()
    }
    if leaves:
        in_pass(add_grads, _grads(found, leaves), grad=False)
    return _by_path(flows)


def _by_path(flows: dict[str, dict[str, States]]) -> GradientFlow[States]:
    return GradientFlow({path: StackFlow(path, states) for path, states in flows.items()})


def _gradients(
    seed: Seed, nodes: list[Node], stacks: dict[str, Stack], leaves: Set[Node]
) -> Gradients:
    """The gradients by all states, and by the leaves.

    On a device the pass runs without looking at numbers. If these left the range of their dtype, it runs
    again on the host.
    """
    recurrences = [r for stack in stacks.values() for r in stack.values()]
    targets = {node for r in recurrences for node in r.nodes()}
    if not is_away([node.value for node in nodes]):
        return gradients_inside([seed], targets, leaves, nodes=nodes)
    states = {node for r in recurrences for node in r.states()}
    sums = TrustedCotangents(set(descendants(states, nodes)))
    found = gradients_inside([seed], targets, leaves, sums=sums)
    if sums.stayed_in_range():
        return found
    here = copied_to_host([seed])
    twins = [{here.twins[node] for node in nodes} for nodes in (targets, leaves)]
    found = gradients_inside(here.seeds, twins[0], twins[1])
    return found._replace(twins=here.twins)


def _grads(found: Gradients, leaves: Set[Node]) -> Iterator[tuple[Node, Array, bool]]:
    """The gradients of leaves, as :func:`add_grads` takes them."""
    for node in leaves:
        if (twin := found.twin(node)) in found.bands:
            g = whole_of(found.bands[twin])
            yield node, g if twin is node else backend.move(g, device_of(node.value)), False


# --- the states of one recurrence ---------------------------------------------------------------


class Ledger:
    """Arrays that are computed on the states' device when they are first read.

    The first read from a device fetches all others too, so the host waits once.
    """

    def __init__(self) -> None:
        self._figures: list[Callable[[], Sequence[Array]]] = []
        self._found: dict[int, Sequence[HostArray]] = {}

    def note(self, figures: Callable[[], Sequence[Array]]) -> int:
        """Note how to compute some arrays; return the number under which they can be read."""
        self._figures.append(figures)
        return len(self._figures) - 1

    def read(self, number: int) -> Sequence[HostArray]:
        """Return the arrays noted under a number, on the host."""
        if number not in self._found:
            figures = {number: self._figures[number]()}
            if is_away(figures[number]):
                rest = set(range(len(self._figures))) - self._found.keys() - {number}
                figures |= {i: self._figures[i]() for i in rest}
                hosts = iter(backend.fetch([x for arrays in figures.values() for x in arrays]))
                figures = {i: [next(hosts) for _ in arrays] for i, arrays in figures.items()}
            self._found |= figures
        return self._found[number]


class StepByStep:
    """States that were recorded step by step, and the gradients by them.

    ``norms`` returns the norm of each sample at every step and its power of two, both (bands, T, B). Bands
    share no element, so the squares of their norms add up.
    """

    def __init__(self, values: list[Array], bands: list[list[Band]]) -> None:
        self._values = values
        self._bands = bands

    @cached_property
    def value(self) -> Array:
        return _stack(self._values)

    def grad(self) -> Array:
        return _stack([whole_of(bands) for bands in self._bands])

    def norms(self) -> tuple[Array, Array]:
        return norms_by_step(self._values[0], self._bands)


def norms_by_step(
    state: Array, bands: list[list[Band]], lead: tuple[int, ...] = ()
) -> tuple[Array, Array]:
    """The norm of each sample at every step, and its power of two, both (bands, T, *lead, B).

    Parameters
    ----------
    state : array
        Any state, for its shape and device.
    bands : list of list of Band
        The bands of every step; a step without bands has the gradient 0.
    lead : tuple of int
        The leading axes of the bands' arrays.
    """
    legs = [leg for i in range(max(map(len, bands))) for leg in _legs(bands, i, state.ndim)]
    samples = state.shape[0] if state.ndim > 1 else 1
    shape = (max(map(len, bands), default=0) or 1, len(bands), *lead, samples)
    like = legs[0][2] if legs else np.zeros(0)
    with backend.on(like):
        m = backend.namespace(like).module
        norms, powers = m.zeros(shape), m.zeros(shape, "int64")
        for i, steps, some, their in legs:
            norms[i, steps], powers[i, steps] = some, their
    return norms, powers


def _legs(
    bands: list[list[Band]], i: int, ndim: int
) -> Iterator[tuple[int, list[int], Array, Array]]:
    """Yield the norms of the i-th band of those steps that have one, and their powers."""
    having = [t for t, some in enumerate(bands) if len(some) > i]
    single = [t for t in having if isinstance(bands[t][i][1], int)]
    if single:
        norms = sample_norms(_stack([bands[t][i][0] for t in single]), ndim)
        powers = np.array([bands[t][i][1] for t in single])
        powers = powers.reshape(-1, *(1,) * (norms.ndim - 1))
        yield i, single, norms, backend.move(powers, device_of(norms))
    by_row = [t for t in having if not isinstance(bands[t][i][1], int)]
    if by_row:
        whole = _stack([bands[t][i][0] for t in by_row])
        rows = [np.broadcast_to(bands[t][i][1], whole.shape[1:]) for t in by_row]
        values, tops = at_sample_powers(whole, np.stack(rows), ndim)
        yield i, by_row, sample_norms(values, ndim), tops


class InScans:
    """The states of fused layers, in the order of time; see :class:`StepByStep`.

    Parameters
    ----------
    values : list of array (T, B, H)
    inside : list of (ScanGradients, int)
        The gradients inside each layer, and the part of its state.
    """

    def __init__(self, values: list[Array], inside: list[tuple[ScanGradients, int]]) -> None:
        self._values = values
        self._inside = inside

    @cached_property
    def _grads(self) -> list[tuple[Array, Array]]:
        """Rows (T, B, H) beside their powers of two (T, B)."""
        return [rows for inside, part in self._inside for rows in inside.grads(part)]

    @cached_property
    def value(self) -> Array:
        return _joined(self._values)

    def grad(self) -> Array:
        return _joined([in_own_type(*each) for each in self._grads])

    def norms(self) -> tuple[Array, Array]:
        norms = _joined([sample_norms(states) for states, _ in self._grads])
        return norms[None], _joined([powers for _, powers in self._grads])[None]


def flow_of(r: Recurrence, found: Gradients, view: str, ledger: Ledger) -> StateFlow:
    """One state over time."""
    if r.fused:
        first, last = (steps_of_scan(r.fused[i].node) for i in (0, -1))
        time = np.arange(first.start, last.stop)
        inside = [(found.within(node), part) for node, part in r.fused]
        states: StepByStep | InScans = InScans([state.value for state in r.fused], inside)
    else:
        r.check_shapes(view)
        time = np.array(r.times())
        nodes = [r.steps[t] for t in r.times()]
        states = StepByStep([_value(node) for node in nodes], [found.of(node) for node in nodes])
    return StateFlow(time, states, found.of(r.initial) if r.initial else None, ledger)


def _read_only(array: Array) -> Array:
    return backend.namespace(array).read_only(array)


def _value(node: Node) -> Array:
    """A node's value; that of a leaf is copied, since it may be changed in place later."""
    return node.value if node.memory is None else backend.copy(node.value)


def _stack(arrays: list[Array]) -> Array:
    with backend.on(arrays[0]):
        return backend.namespace(arrays[0]).stack(arrays)


def _joined(pieces: list[Array]) -> Array:
    with backend.on(pieces[0]):
        xp = backend.namespace(pieces[0])
        return pieces[0] if len(pieces) == 1 else xp.concat(pieces, axis=0)
