"""Traces: the numbers of a graph, every operation at every step, without the graph; saved and loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from ..._files import checked_path
from ...engine.autodiff import seeds_of
from ...engine.backpropagation import ancestors
from ...engine.recording import Leaf, Node
from ...errors import ArgumentError, CheckpointError
from ...recurrence.scans import is_scan
from ...serialization import read_arrays, write_arrays
from ...tensors.tensor import Tensor
from ..loops.hosting import copied_to_host
from ..loops.step_rows import VIEWS, RecordedSteps, Rows, StepGroup
from ..microscope.blocks import Blocks, Key, blocks_of, has_gradient
from ..microscope.titles import title_of
from ..passes.gradients import Seed, gradients_inside
from ..passes.scaling import HostArray, whole_of
from ..views.step_flow import called, calls_of, kind_of, step_groups

_KEY = "tinygrad182.trace"
"""The key of the header's metadata, which holds JSON."""

VERSION = 1


@dataclass(frozen=True, slots=True)
class TracedOperation:
    """One operation of a step.

    Attributes
    ----------
    label, op, kind, name, module
        As in :class:`StepOperation`; each label stands once in a step.
    operands : tuple of str
        The labels of its operands in the same step, without parameters.
    weights : tuple of str
        The names of the parameters that it reads in the same step.
    shape : tuple of int
        At one step, or in one call.
    """

    label: str
    op: str
    kind: str
    name: str
    module: str
    operands: tuple[str, ...]
    weights: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def is_given(self) -> bool:
        """Whether the step begins with it: an input, or a state of the step before."""
        return self.kind in ("before", "input")


@dataclass(frozen=True, slots=True)
class Alike:
    """Steps of a box that have the same operations.

    Attributes
    ----------
    times : ndarray (n,) of int
    operations : tuple of TracedOperation
        In the order they are computed, what the step begins with first.
    values : dict of str to Rows
        By label, (n, B, W); empty if values were not saved.
    grads : dict of str to Rows
        Gradients of the operations that have one.
    """

    times: HostArray
    operations: tuple[TracedOperation, ...]
    values: dict[str, Rows] = field(repr=False)
    grads: dict[str, Rows] = field(repr=False)

    def of(self, what: Literal["values", "gradients"]) -> dict[str, Rows]:
        """Values, or gradients."""
        return self.values if what == "values" else self.grads

    def among(self, times: Sequence[int]) -> Alike:
        """These steps alone, in this order."""
        if np.array_equal(times, self.times):
            return self
        order = np.argsort(self.times)
        places = order[np.searchsorted(self.times[order], times)]
        values, grads = (
            {label: Rows(r.values[places], r.powers[places]) for label, r in rows.items()}
            for rows in (self.values, self.grads)
        )
        return Alike(self.times[places], self.operations, values, grads)


@dataclass(frozen=True, slots=True)
class TracedBox:
    """A recurrence, or the operations of a module.

    Attributes
    ----------
    path, title, kind, states
        See :class:`.microscope.network.Block`.
    gates : tuple of str
        The gates of a recurrent layer, one for each block of rows of its weights.
    backward : bool
        Whether its loop runs from the end of time to its start.
    steps : list of Alike
        A module's are its calls.
    """

    path: str
    title: str
    kind: str
    states: tuple[str, ...]
    gates: tuple[str, ...]
    backward: bool
    steps: list[Alike] = field(repr=False)

    @property
    def name(self) -> str:
        """The path, or a description if there is none."""
        if self.path.startswith("#"):  # several loops outside of any module
            return f"the loop {self.path}"
        if self.path or self.is_recurrent:
            return self.path or "the loop"
        return f"[{self.title}]" if "," in self.title else self.title

    @property
    def is_recurrent(self) -> bool:
        """Whether its steps are time steps, and not calls."""
        return self.kind == "recurrence"

    @property
    def times(self) -> HostArray:
        """All steps, ascending."""
        return np.sort(np.concatenate([s.times for s in self.steps] or [np.zeros(0, np.int64)]))

    def units(self) -> int:
        """The number of hidden units: the columns of the first state; 0 for a module."""
        rows = [rows for s in self.steps for name in self.states[:1] for rows in _of(s, name)]
        return rows[0].values.shape[-1] if rows else 0


def _of(steps: Alike, label: str) -> list[Rows]:
    """The saved rows of an operation."""
    return [kept[label] for kept in (steps.grads, steps.values) if label in kept]


UPSTREAM, DOWNSTREAM = -1, 2**62
"""The time of modules outside loops: before all steps, or after them."""


def runs_at(boxes: Sequence[TracedBox], i: int, time: int) -> int:
    """Return a number that orders the steps of all boxes by the time at which they run."""
    box = boxes[i]
    if box.is_recurrent:
        return int(box.times[-1]) - time if box.backward else time
    loops = [k for k, each in enumerate(boxes) if each.is_recurrent]
    return UPSTREAM if i < min(loops, default=0) else DOWNSTREAM


@dataclass(frozen=True, slots=True)
class TracedParameter:
    """A parameter: its value, and its gradient as ``.grad`` would have it."""

    value: HostArray | None
    grad: HostArray


@dataclass(frozen=True)
class Trace:
    """All numbers of a graph, without the graph: the contents of a file of :meth:`Graph.save`.

    Attributes
    ----------
    boxes : list of TracedBox
        Recurrences and modules in the order of their first operation.
    parameters : dict of str to TracedParameter
    dtype : dtype
        The coarsest floating-point type among the operations and parameters.
    has_values : bool
        Whether values were kept, and not gradients alone.
    """

    boxes: list[TracedBox]
    parameters: dict[str, TracedParameter]
    dtype: np.dtype[Any]
    has_values: bool

    def save(self, path: str | os.PathLike[str], values: bool = True) -> None:
        """Write the trace into one safetensors file; see :meth:`Graph.save`."""
        if values and not self.has_values:
            raise ArgumentError("save: this trace was kept without values; pass values=False")
        target = checked_path("save", path, CheckpointError)
        arrays: dict[str, HostArray] = {}
        boxes = []
        for i, box in enumerate(self.boxes):
            facts = {n: getattr(box, n) for n in ("path", "title", "kind", "states", "gates")}
            steps = []
            for j, alike in enumerate(box.steps):
                arrays[f"{i}/{j}/time"] = alike.times
                steps.append([asdict(operation) for operation in alike.operations])
                arrays |= _named(f"{i}/{j}", alike, values)
            boxes.append({**facts, "backward": box.backward, "steps": steps})
        for k, parameter in enumerate(self.parameters.values()):
            arrays[f"parameter/{k}/grad"] = parameter.grad
            if values and parameter.value is not None:
                arrays[f"parameter/{k}/value"] = parameter.value
        header = {
            "version": VERSION,
            "dtype": self.dtype.name,
            "values": values,
            "boxes": boxes,
            "parameters": list(self.parameters),
        }
        write_arrays("save", target, arrays, {_KEY: json.dumps(header)})

    def __repr__(self) -> str:
        counts = [(box.name, len(box.times)) for box in self.boxes]
        parts = [f"{name}: {n} step{'s' * (n != 1)}" for name, n in counts]
        kept = "values and gradients" if self.has_values else "gradients"
        return f"<Trace of {kept} in {self.dtype}; {'; '.join(parts)}>"


def _named(front: str, alike: Alike, values: bool) -> dict[str, HostArray]:
    """The arrays of some steps under the names that they have in a file."""
    found: dict[str, HostArray] = {}
    for k, operation in enumerate(alike.operations):
        if operation.label in alike.grads:
            rows = alike.grads[operation.label]
            found |= {f"{front}/{k}/grad": rows.values, f"{front}/{k}/power": rows.powers}
        if values:
            found[f"{front}/{k}/value"] = alike.values[operation.label].values
    return found


def load_trace(path: str | os.PathLike[str]) -> Trace:
    """Read what :meth:`Graph.save` wrote.

    Raises
    ------
    CheckpointNotFoundError
        No such file.
    CheckpointError
        A file that is damaged, or holds something else.

    Examples
    --------
    >>> import tempfile
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 8, rng=0)
    >>> path = f"{tempfile.mkdtemp()}/rnn.trace"
    >>> tg.inspect.trace(rnn(tg.ones((20, 1, 1)))[0][-1].sum()).save(path)
    >>> tg.inspect.load_trace(path)
    <Trace of values and gradients in float32; rnn.l0: 20 steps; loss: 1 step>
    """
    source = checked_path("load_trace", path, CheckpointError)
    arrays, header = read_arrays("load_trace", source)
    if _KEY not in header:
        raise CheckpointError(
            f"load_trace: {source} is not a trace; write one with tg.inspect.trace(loss).save(path)"
        )
    try:
        facts = json.loads(header[_KEY])
        if facts["version"] > VERSION:
            raise CheckpointError(
                f"load_trace: {source} has version {facts['version']} of this format; install a newer "
                "tinygrad182"
            )
        return _put_together(facts, arrays)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"load_trace: {source} is damaged ({error!r}); save the trace again"
        ) from error


def _put_together(facts: dict[str, Any], arrays: dict[str, HostArray]) -> Trace:
    boxes = []
    for i, box in enumerate(facts["boxes"]):
        steps = [_alike(f"{i}/{j}", some, arrays) for j, some in enumerate(box["steps"])]
        path, title, kind = (str(box[name]) for name in ("path", "title", "kind"))
        states, gates = (tuple(map(str, box[name])) for name in ("states", "gates"))
        boxes.append(TracedBox(path, title, kind, states, gates, bool(box["backward"]), steps))
    parameters = {
        name: TracedParameter(arrays.get(f"parameter/{k}/value"), arrays[f"parameter/{k}/grad"])
        for k, name in enumerate(facts["parameters"])
    }
    dtype = np.dtype(facts["dtype"])
    if dtype.kind != "f":
        raise ValueError(f"numbers of type {dtype}")
    return Trace(boxes, parameters, dtype, bool(facts["values"]))


def _alike(front: str, some: list[dict[str, Any]], arrays: dict[str, HostArray]) -> Alike:
    times = arrays[f"{front}/time"]
    operations = tuple(
        TracedOperation(
            **each
            | {name: tuple(each[name]) for name in ("operands", "weights")}
            | {"shape": tuple(map(int, each["shape"]))}
        )
        for each in some
    )
    known = {operation.label for operation in operations}
    if len(known) < len(operations) or any(
        known.isdisjoint([x]) for o in operations for x in o.operands
    ):
        raise ValueError(f"{front} has operations without labels of their own")
    values, grads = {}, {}
    for k, operation in enumerate(operations):
        name = f"{front}/{k}"
        if f"{name}/value" in arrays:
            values[operation.label] = _without_powers(arrays[f"{name}/value"])
        if f"{name}/grad" in arrays:
            rows = Rows(arrays[f"{name}/grad"], arrays[f"{name}/power"])
            if rows.powers.shape != rows.values.shape[:2]:
                raise ValueError(f"{name} has {rows.powers.shape} powers of {rows.values.shape}")
            grads[operation.label] = rows
    if any(len(rows.values) != len(times) for rows in (*values.values(), *grads.values())):
        raise ValueError(f"{front} does not have {len(times)} steps throughout")
    return Alike(times, operations, values, grads)


def _without_powers(values: HostArray) -> Rows:
    """Rows without powers."""
    return Rows(values, np.zeros(values.shape[:2], np.int32))


# --- from a graph ---------------------------------------------------------------------------------


@np.errstate(all="ignore")  # a model that went wrong is looked at too
def trace_of(loss: Tensor) -> Trace:
    """Return all numbers behind a loss of a single element.

    Time and memory are linear in T: an operation's value and its gradient take as much memory as the
    arrays of an unrolled graph would.

    Raises
    ------
    GraphError
        The loss does not require grad, or was freed.
    """
    seeds = copied_to_host(seeds_of([loss], [None], False, "diff")).seeds
    nodes = ancestors([node for node, _ in seeds], constants=True)
    blocks = blocks_of(nodes)
    boxes = [
        _box(blocks, key, _together(_groups(loss, seeds[0], nodes, blocks, key)))
        for key in blocks.members
    ]
    types = [node.value.dtype for node in nodes if node.value.dtype.kind == "f"]
    coarsest = max(types, key=lambda dtype: float(np.finfo(dtype).eps))
    return Trace([box for box in boxes if box.steps], _parameters(seeds, nodes), coarsest, True)


def _groups(
    loss: Tensor, seed: Seed, nodes: list[Node], blocks: Blocks, key: Key
) -> Iterable[StepGroup]:
    if key in blocks.stacks:
        return step_groups(loss, str(key[1]))
    calls = calls_of(blocks.members[key])
    if not calls:
        return []
    source = RecordedSteps(seed, nodes, calls, frozenset())
    return source.groups(source.times(), edges=False)


def _box(blocks: Blocks, key: Key, steps: list[Alike]) -> TracedBox:
    stack = blocks.stacks.get(key, {})
    gates = next(filter(None, map(_gates, blocks.members[key])), ()) if stack else ()
    backward = any(r.runs_backward() for r in stack.values())
    return TracedBox(
        str(key[1]), title_of(blocks, key), str(key[0]), tuple(stack), gates, backward, steps
    )


def _gates(node: Node) -> tuple[str, ...]:
    if is_scan(node):
        return tuple(node.primitive.gates)  # type: ignore[union-attr]
    step = None if node.primitive is None else node.scope.step
    return tuple(step.recurrence.gates) if step is not None else ()


def _parameters(seeds: Sequence[Seed], nodes: list[Node]) -> dict[str, TracedParameter]:
    leaves = [n for n in nodes if isinstance(n, Leaf) and n.name and has_gradient(n)]
    found = gradients_inside(seeds, set[Node](), frozenset(leaves), nodes=nodes)
    parameters: dict[str, TracedParameter] = {}
    for leaf in leaves:
        name, count = leaf.name, 1
        while name in parameters:  # of another model without a common root
            count += 1
            name = f"{leaf.name}#{count}"
        grad = np.asarray(whole_of(found.of(leaf)))
        parameters[name] = TracedParameter(np.array(leaf.value), grad)
    return parameters


def _together(groups: Iterable[StepGroup]) -> list[Alike]:
    """Steps with the same operations side by side, each array in the type it was computed in."""
    found: dict[Any, list[Alike]] = {}
    for group in groups:
        names, labels = called(group)
        operations = tuple(
            TracedOperation(
                labels[node],
                node.op,
                kind_of(node, group, names),
                names.get(node, ""),
                "" if node in group.given else node.scope.module,
                tuple(dict.fromkeys(labels[x] for x in _operands(node, group))),
                tuple(_weights(node, group)),
                _shape(node, group),
            )
            for node in group.nodes
        )
        values = {labels[n]: _typed(rows, n) for n, rows in group.values.items()}
        grads = {labels[n]: _typed(rows, n) for n, rows in group.grads.items()}
        form = operations, tuple(rows.values.shape[1:] for rows in values.values())
        some = Alike(np.array(group.times, np.int64), operations, values, grads)
        found.setdefault(form, []).append(some)
    return [_joined(some) for some in found.values()]


def _shape(node: Node, group: StepGroup) -> tuple[int, ...]:
    """At one step: steps that lie side by side are one array."""
    rows, columns = group.values[node].values.shape[1:]
    return node.value.shape if node.value.size == rows * columns else (rows, columns)


def _operands(node: Node, group: StepGroup) -> Iterator[Node]:
    """The operands of an operation among the operations that are shown."""
    if node in group.given:
        return
    inside, left = set(group.every), [*reversed(node.inputs or ())]
    while left:
        x = left.pop()
        if isinstance(x, Node) and x in group.values:
            yield x
        elif isinstance(x, Node) and x in inside:
            left += reversed(x.inputs or ())


def _weights(node: Node, group: StepGroup) -> dict[str, None]:
    """The names of the parameters that an operation reads; for an input, those that its layer reads."""
    found: dict[str, None] = {}
    module = node.scope.module if node in group.given else ""
    left = [node]
    while left:
        for x in left.pop().inputs or ():
            if not isinstance(x, Node) or x in group.values:
                continue
            if isinstance(x, Leaf):
                found |= {x.name: None} if x.name and has_gradient(x) else {}
            elif x.op in VIEWS or (module and x.scope.module == module and not x.marks):
                left.append(x)
    return found


def _typed(rows: Rows, node: Node) -> Rows:
    dtype = node.value.dtype
    if dtype.kind == "f":
        dtype = np.result_type(dtype, np.float32)  # a half's gradient may leave its range
    return Rows(rows.values.astype(dtype), rows.powers.astype(np.int32))


def _joined(some: list[Alike]) -> Alike:
    def joined(what: Literal["values", "gradients"]) -> dict[str, Rows]:
        columns = {label: [s.of(what)[label] for s in some] for label in some[0].of(what)}
        return {
            label: Rows(*map(np.concatenate, zip(*rows, strict=True)))
            for label, rows in columns.items()
        }

    times = np.concatenate([s.times for s in some])
    return Alike(times, some[0].operations, joined("values"), joined("gradients"))
