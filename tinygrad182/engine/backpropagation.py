"""The backward pass: it carries cotangents through the recorded graph.

One loop, :func:`backpropagate`, goes from outputs to inputs. With arrays it computes gradients; with
Tensors the rules are recorded, so that gradients can be differentiated again. :func:`pull` is the step at
one node, which the inspector also calls by itself.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy import ndarray

from ..arrays import backend
from ..arrays.namespaces import HALF
from ..errors import DTypeError, FreedGraphError, ShapeError, TinygradError
from ..primitives import PRIMITIVES
from ..primitives.index import Slice
from .anomaly import check_cotangent
from .memory import in_a_pass
from .modes import MODES, Modes, grad_mode, modes_kept, record_at, recording_as
from .recording import Leaf, Node, apply, is_tensor, node_of, tensor_functions, wrap

# --- the graph below some outputs ---------------------------------------------------------------


def ancestors(
    outputs: Iterable[Node], constants: bool = False, ends: Container[Node] = (), oldest: int = 0
) -> list[Node]:
    """Every node that requires grad and that ``outputs`` depend on, with the outputs, oldest first.

    With ``constants``, leaves that do not require grad are included too. The search does not go beyond
    ``ends``, nor to nodes with a sequence number below ``oldest``.

    Raises
    ------
    FreedGraphError
        An earlier backward pass freed a part of the graph.
    """
    found = list({node for node in outputs if node.requires_grad})
    seen: set[Any] = set(found)
    roots, stack = len(found), found.copy()
    while stack:
        node = stack.pop()
        if node.inputs is None:
            raise _freed(node, node in found[:roots])
        for parent in node.inputs:
            if parent in seen or not isinstance(parent, Node) or parent.order < oldest:
                continue
            if parent.requires_grad or constants:
                seen.add(parent)
                found.append(parent)
                if parent not in ends:
                    stack.append(parent)
    found.reverse()  # nearly sorted, so that sorting is quick
    found.sort(key=operator.attrgetter("order"))
    return found


def _freed(node: Node, is_root: bool) -> FreedGraphError:
    """The error for a pass that reaches a node which an earlier pass has freed."""
    if is_root:
        remedy = "call the earlier one with retain_graph=True, or record the forward again"
    else:
        remedy = (
            "if it made a state that is carried on to a new sequence, pass state.detach(); if two losses "
            "share it, add them up, or call the earlier pass with retain_graph=True"
        )
    return FreedGraphError(
        f"the graph through {node.op}{node.place()} was freed by an earlier backward pass; {remedy}"
    )


def descendants(starts: Collection[Node], nodes: list[Node]) -> list[Node]:
    """Return ``starts`` and those of ``nodes`` that are computed from them, oldest first."""
    found, leading = set(starts), []
    for node in nodes:
        if node in found:
            leading.append(node)
        elif not found.isdisjoint(node.inputs or ()):
            found.add(node)
            leading.append(node)
    if len(leading) < len(found):  # some starts are constants
        leading = sorted(found, key=operator.attrgetter("order"))
    return leading


# --- cotangents ---------------------------------------------------------------------------------


class Cotangents:
    """The cotangents of nodes that are still to be processed: sums over the edges that lead to a node.

    The first contribution is stored as it is and may share memory. The second makes a new buffer, and
    later ones are added into it. Contributions to parts of a node are collected and added into one buffer.
    The buffer of a half-precision node has float32, because float16 cannot count beyond 2048.
    """

    def __init__(self) -> None:
        self._sums: dict[Node, Any] = {}
        self._owned: set[Node] = set()
        self._slices: dict[Node, list[Slice]] = {}

    def add(self, node: Node, cotangent: Any) -> None:
        """Add the contribution of one edge."""
        if type(cotangent) is Slice:
            self._slices.setdefault(node, []).append(cotangent)
            return
        sums = self._sums
        if node not in sums:
            sums[node] = cotangent
        else:
            sums[node] = _plus(sums[node], cotangent, node in self._owned)
            self._owned.add(node)

    def pop(self, node: Node) -> Any:
        """The complete cotangent of ``node``, or None if nothing arrived."""
        if node in self._slices:
            self.add(node, gather(node, self._slices.pop(node)))
        g = self._sums.pop(node, None)
        if g is not None and node in self._owned and g.dtype is not node.value.dtype:
            g = _narrowed(g, node.value.dtype)
        return g

    def parts(self, node: Node) -> list[Slice]:
        """Remove and return the contributions to parts of a node."""
        return self._slices.pop(node, [])

    def owns(self, node: Node) -> bool:
        """Whether the node's cotangent has memory of its own."""
        return node in self._owned


def _plus(total: Any, cotangent: Any, in_place: bool) -> Any:
    if type(total) is not ndarray:
        with backend.on(total):
            return _sum_of(total, cotangent, in_place)
    total = _sum_of(total, cotangent, in_place)
    return total if type(total) is ndarray else np.asarray(total)


def _sum_of(total: Any, cotangent: Any, in_place: bool) -> Any:
    if in_place:
        total += cotangent
        return total
    if total.dtype is HALF:
        total = backend.namespace(total).astype(total, "float32")
    return total + cotangent


def _narrowed(g: Any, dtype: Any) -> Any:
    """A sum that was computed in a wider type, in the dtype of its node."""
    with backend.on(g):
        return backend.namespace(g).astype(g, dtype)


def dense(node: Node, cotangent: Any) -> Any:
    """The cotangent of the whole node, from what a rule returned."""
    return gather(node, [cotangent]) if type(cotangent) is Slice else cotangent


def gather(node: Node, slices: list[Slice]) -> Any:
    """The cotangent of the whole node, from the cotangents of its parts."""
    lead = slices[0].lead
    prefix = (slice(None),) * len(lead)
    operands = [part for s in slices for part in (s.value, *s.arrays)]
    params = {
        "shape": (*lead, *node.value.shape),
        "dtype": node.value.dtype,
        "keys": tuple(prefix + s.key for s in slices),
    }
    scatter_add = PRIMITIVES["scatter_add"]
    if is_tensor(operands[0]):
        return apply(scatter_add, *operands, **params)
    xp = backend.namespace(operands[0])
    with xp.on(operands[0]):
        return scatter_add.forward(xp, *operands, **params)


@lru_cache(maxsize=1024)
def _repeated(of: tuple[int, ...], shape: tuple[int, ...], lead: int) -> tuple[int, ...] | None:
    """The axes along which an array of ``shape`` was broadcast to ``of``, after ``lead`` leading axes.

    None if it cannot be broadcast to that shape.
    """
    extra = len(of) - lead - len(shape)
    pairs = list(zip((1,) * extra + shape, of[lead:], strict=False))
    if extra < 0 or any(n not in (1, m) for n, m in pairs):
        return None
    return tuple([lead + i for i, (n, m) in enumerate(pairs) if n != m])


def match_input(
    xp: Any, node: Node, parent: Node, cotangent: Any, leading: tuple[int, ...] = ()
) -> Any:
    """Return the cotangent of an input in its shape and dtype: sum over broadcast axes, and cast.

    A NumPy scalar becomes an array. ``leading`` are the sizes of extra leading axes.
    """
    value = parent.value
    if type(cotangent) is Slice:
        return cotangent
    if not hasattr(cotangent, "shape"):
        raise DTypeError(
            f"the derivative rule of {node.op} returned a {type(cotangent).__name__}; "
            f"return an array of shape {tuple(value.shape)}"
        )
    shape, lead = cotangent.shape, len(leading)
    if shape != (whole := leading + value.shape if leading else value.shape):
        axes = None
        if node.primitive.broadcasts and shape[:lead] == leading:  # type: ignore[union-attr]
            axes = _repeated(tuple(shape), tuple(value.shape), lead)
        if axes is None:
            raise ShapeError(
                f"the derivative rule of {node.op} returned shape {tuple(shape)} "
                f"for an input of shape {tuple(value.shape)}{_SEVERAL if leading else ''}"
            )
        if axes:
            cotangent = xp.sum(cotangent, axis=axes)
        if cotangent.shape != whole:
            cotangent = xp.reshape(cotangent, whole)
    if isinstance(cotangent, np.generic):
        cotangent = np.asarray(cotangent)
    if cotangent.dtype is not value.dtype and cotangent.dtype != value.dtype:
        cotangent = xp.astype(cotangent, value.dtype)
    return cotangent


def pull(node: Node, g: Any, wanted: Container[Any]) -> list[tuple[Node, Any]]:
    """The cotangents of the inputs of ``node`` that are ``wanted``, one for each edge.

    Parameters
    ----------
    node : Node
    g : array or Tensor
        The cotangent of the node; extra leading axes carry several at once.
    wanted : container of Node
        The inputs whose cotangents to compute; the rules of the others do not run.

    Returns
    -------
    list of (Node, cotangent)
        In the order of the inputs. An input that is used twice is there twice.
    """
    xp = backend.NAMESPACES[type(g)]
    inputs = node.inputs or ()
    try:
        if xp is not backend.NUMPY and is_tensor(g):  # recorded: the rule sees Tensors
            y: Any = wrap(node.value, node)
            xs = [wrap(x.value, x) if isinstance(x, Node) else x for x in inputs]
            return _pull(xp, node, g, y, xs, wanted)
        xs = [x.value if isinstance(x, Node) else x for x in inputs]
        if not xp.guarded:
            return _pull(xp, node, g, node.value, xs, wanted)
        with xp.on(g):
            return _pull(xp, node, g, node.value, xs, wanted)
    except (ValueError, IndexError, TypeError) as error:
        if not isinstance(error, TinygradError):
            primitive: Any = node.primitive
            primitive.check_rules(len(inputs))
            if primitive.leading_axes and g.ndim != node.value.ndim:
                error.add_note(f"This is the derivative rule of {node.op}{_SEVERAL}")
        raise


_SEVERAL = (
    "; here several cotangents come at once, on axes in front of the output's own: write the rule for "
    "those too (g[..., 0, :] in the place of g[0]), or make the primitive without leading_axes=True"
)


def _pull(
    xp: Any, node: Node, g: Any, y: Any, xs: list[Any], wanted: Container[Any]
) -> list[tuple[Node, Any]]:
    primitive: Any = node.primitive
    if primitive.definition is not None and not _has_rules(node, xp):
        return _pull_definition(node, g, xs, wanted)
    lead = g.ndim - y.ndim
    if lead and not primitive.leading_axes:
        return _pull_one_by_one(xp, node, g, y, xs, wanted)
    params, inputs = node.params, node.inputs or ()
    if primitive.forward_with_residuals is not None and node.residuals is not None:
        mask = tuple([x in wanted for x in inputs])
        params = {**params, "residuals": node.residuals, "needs_grad": mask}
    rules, given = primitive.vjp, (xp, g, y, *xs)
    together = None
    if callable(rules):
        together = rules(*given, **params)
        if type(together) is not tuple or len(together) != len(inputs):
            primitive.check_cotangents(together, len(inputs))
    edges: list[Any] = []
    kind = type(g)
    for i, parent in enumerate(inputs):
        if type(parent) is not Node and isinstance(parent, Node):
            parent.check_unchanged(node)  # even if not wanted: other rules use its value
        if parent not in wanted:
            continue
        if together is not None:
            cotangent = together[i]
        else:
            rule = rules[i]
            if rule is None:
                continue
            cotangent = rule(*given, **params) if params else rule(*given)
        if cotangent is None:
            continue
        value = parent.value  # type: ignore[union-attr]
        if (
            lead
            or type(cotangent) is not kind
            or cotangent.shape != value.shape
            or cotangent.dtype is not value.dtype
        ):
            cotangent = match_input(xp, node, parent, cotangent, g.shape[:lead])  # type: ignore[arg-type]
        edges.append((parent, cotangent))
    return edges


def _has_rules(node: Node, xp: Any) -> bool:
    """Whether the rules can run on arrays of a library; otherwise the definition is differentiated."""
    primitive: Any = node.primitive
    return getattr(xp, "has_loops", False) and (
        primitive.forward_with_residuals is None or node.residuals is not None
    )


def _pull_one_by_one(
    xp: Any, node: Node, g: Any, y: Any, xs: list[Any], wanted: Container[Any]
) -> list[tuple[Node, Any]]:
    """Pull through a node whose rules take no leading axes: they run once for each cotangent."""
    lead = g.shape[: g.ndim - y.ndim]
    parents = [x for x in node.inputs or () if isinstance(x, Node) and x in wanted]
    rows = xp.reshape(g, (math.prod(lead), *y.shape))
    pulled = [_pull(xp, node, rows[i, ...], y, xs, wanted) for i in range(rows.shape[0])]
    if not pulled:
        return [(x, xp.zeros((*lead, *x.value.shape), dtype=x.value.dtype)) for x in parents]
    edges = []
    for edge in zip(*pulled, strict=True):  # one edge, for each of the cotangents
        parent = edge[0][0]
        whole = [dense(parent, c) for _, c in edge]
        edges.append((parent, xp.reshape(xp.stack(whole), (*lead, *parent.value.shape))))
    return edges


@modes_kept
def _pull_definition(
    node: Node, g: Any, xs: list[Any], wanted: Container[Any]
) -> list[tuple[Node, Any]]:
    """Pull through the primitive's definition, which is recorded for this."""
    out, stand_ins = record_definition(node, xs)
    again = is_tensor(g)
    with grad_mode(again):
        ends = {x for x in stand_ins if isinstance(x, Node)}
        found = backpropagate([(out, g)], ends, retain_graph=again, stop=True)
    edges = []
    for parent, stand_in in zip(node.inputs or (), stand_ins, strict=True):
        if isinstance(parent, Node):
            parent.check_unchanged(node)
        if parent in wanted and stand_in in found:
            edges.append((parent, found[stand_in]))
    return edges  # type: ignore[return-value]


@modes_kept
def record_definition(node: Node, xs: Sequence[Any]) -> tuple[Node, list[Any]]:
    """Record a node's definition on stand-ins for its inputs ``xs``, arrays or Tensors.

    Returns
    -------
    out : Node
        The result.
    stand_ins : list of Node and number
        The inputs of the record, at which derivatives stop.
    """
    given = []
    for x, parent in zip(xs, node.inputs or (), strict=True):
        if not isinstance(parent, Node):
            given.append(x)
        elif is_tensor(x):
            given.append(x * 1 if parent.requires_grad else x)
        else:
            given.append(wrap(x, Leaf(x, parent.requires_grad)))
    modes = MODES.get()
    with recording_as(Modes(True, modes.device, node.scope, modes.anomaly)):
        out = node.primitive.definition(tensor_functions(), *given, **node.params)  # type: ignore[misc, union-attr]
    return node_of(out), [node_of(x) if is_tensor(x) else x for x in given]


def _check_edges(node: Node, g: Any, edges: list[tuple[Node, Any]]) -> None:
    """Raise at the first cotangent that is not finite, under ``detect_anomaly``."""
    for parent, cotangent in edges:
        part = cotangent.value if type(cotangent) is Slice else cotangent
        arrays = [x._data if is_tensor(x) else x for x in (g, part)]
        check_cotangent(node.op, node.place(), node.scope.source, parent.known_name(), *arrays)


@in_a_pass
@np.errstate(over="ignore", invalid="ignore")  # exploding gradients become infinite
def backpropagate(
    seeds: Sequence[tuple[Node, Any]],
    targets: Collection[Node] | None = None,
    *,
    visit: Callable[[Node, Any], None] | None = None,
    edge: Callable[[Node, Node, Any], Any] | None = None,
    retain_graph: bool = False,
    stop: bool = False,
    cotangents: Cotangents | None = None,
    pull: Callable[[Node, Any, Container[Any]], list[tuple[Node, Any]]] = pull,
    nodes: list[Node] | None = None,
) -> dict[Node, Any]:
    """Carry cotangents from the seeds down to the targets.

    Parameters
    ----------
    seeds : sequence of (Node, cotangent)
        Cotangents may be arrays, or Tensors: then the derivative rules are recorded. They may have
        extra leading axes, the same for all.
    targets : collection of Node, optional
        The nodes whose cotangents are returned; constants may be among them. Only nodes that lead to
        them are processed. By default all leaves, and all nodes that keep their gradient.
    visit : callable, optional
        Called with each processed node and its complete cotangent, latest node first.
    edge : callable, optional
        ``edge(consumer, parent, cotangent)`` returns the cotangent that is used instead, or None to
        drop it.
    retain_graph : bool
        Whether to keep the arrays for a second pass. Otherwise each node is freed once it is processed.
    stop : bool
        Whether the pass stops at targets, so that nothing flows through one target to another.
    cotangents : Cotangents, optional
        Where sums are collected.
    pull : callable
        Called instead of :func:`pull`.
    nodes : list of Node, optional
        The :func:`ancestors` of the seeds, if the caller has them.

    Returns
    -------
    dict
        Target → cotangent, which may share memory with others. Targets that are not reached are absent.
    """
    ends = targets if stop and targets is not None else ()
    if nodes is None:
        oldest = min((node.order for node in ends), default=0)  # nothing older leads to an end
        nodes = ancestors((node for node, _ in seeds), ends=ends, oldest=oldest)
    else:
        nodes = [node for node in nodes if node.requires_grad]
    if targets is not None:
        nodes = descendants(targets, nodes)
    sums = Cotangents() if cotangents is None else cotangents
    active = set(nodes)
    for node, seed in seeds:
        if node in active:
            sums.add(node, seed)
    watched, add, pop = MODES.get().anomaly, sums.add, sums.pop
    found: dict[Node, Any] = {}
    for node in reversed(nodes):
        if watched:
            record_at(node.scope)  # its derivative is recorded at the node's place and line
        g = pop(node)
        if g is None:
            continue
        if visit is not None:
            visit(node, g)
        if node in targets if targets is not None else node.keeps_grad:
            found[node] = g
        if (
            node.primitive is None
            or node in ends
            or (targets is not None and active.isdisjoint(node.inputs or ()))
        ):
            continue
        edges = pull(node, g, active)
        if watched:
            _check_edges(node, g, edges)
        for parent, cotangent in edges:
            if edge is not None:
                cotangent = edge(node, parent, cotangent)
            if cotangent is not None:
                add(parent, cotangent)
        if not retain_graph:
            node.free()
    return found
