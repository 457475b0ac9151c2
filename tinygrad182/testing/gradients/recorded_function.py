"""A recorded function: backward passes and JVPs through its graph, as vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...arrays import backend
from ...engine.autodiff import grad
from ...engine.backpropagation import ancestors, backpropagate
from ...engine.modes import enable_grad, modes_kept, no_grad
from ...engine.recording import Node, needs_grad, node_of, wrap
from ...recurrence.unrolling import unrolled
from ...tensors.creation import tensor
from ...tensors.tensor import Tensor
from ...transforms.derivatives import push_forward
from ..samples import Array, laid_out
from .property_error import PropertyError


@contextmanager
def standing_in(parameters: Sequence[Tensor], tensors: Sequence[Tensor]) -> Iterator[None]:
    """Give the parameters the data and nodes of the last tensors while the context lasts."""
    before = [(p, p._data, p._node) for p in parameters]
    try:
        for p, t in zip(parameters, tensors[len(tensors) - len(parameters) :], strict=True):
            p._data, p._node = t._data, t._node
        yield
    finally:
        for p, data, node in before:
            p._data, p._node = data, node


def joined(tensors: Sequence[Tensor]) -> Array:
    """Join the elements of all tensors in one NumPy vector."""
    return np.concatenate([t.numpy().ravel() for t in tensors])


class Recording:
    """A function, recorded on new leaves."""

    def __init__(
        self, leaves: list[Tensor], outputs: list[Tensor], parameters: list[Tensor]
    ) -> None:
        self.leaves = leaves
        self.outputs = outputs
        self.targets = [node_of(x) for x in leaves]
        self._parameters = parameters

    def again(self) -> Any:
        """Context in which a pass that runs a part again (``remat``) finds the recorded parameters."""
        return standing_in(self._parameters, self.leaves)

    def nodes(self) -> list[Node]:
        """Everything recorded, oldest first."""
        return ancestors(node_of(y) for y in self.outputs if y.requires_grad)

    def value(self) -> Array:
        """All outputs in one vector, from their nodes if they have some."""
        return joined([y if y._node is None else wrap(y._node.value) for y in self.outputs])

    def step_by_step(self) -> Recording:
        """Return this recording with each recurrence unrolled into its operations, which all round."""
        roots = [unrolled(node_of(y)) if y.requires_grad else None for y in self.outputs]
        pairs = zip(self.outputs, roots, strict=True)
        outputs = [y if root is None else wrap(root.value, root) for y, root in pairs]
        return Recording(self.leaves, outputs, self._parameters)

    # --- backward -------------------------------------------------------------------------------

    @modes_kept
    def pulled(self, g: Array, edge: Any = None, layout: str = "contiguous") -> Array:
        """Gradient of ⟨g, outputs⟩ by all inputs; ``g`` may have extra leading axes."""
        seeds = self._seeds(self.outputs, g, layout)
        with no_grad(), self.again():
            found = backpropagate(seeds, set(self.targets), edge=edge, retain_graph=True)
        return self.vector([found.get(node) for node in self.targets], g.shape[:-1])

    def _seeds(
        self, outputs: Sequence[Tensor], g: Array, layout: str = "contiguous"
    ) -> list[tuple[Node, Any]]:
        cotangents = zip(outputs, self.cut(g, layout), strict=True)
        return [(node_of(y), c._data) for y, c in cotangents if needs_grad(y)]

    @modes_kept
    def check_untouched(self, g: Array) -> None:
        """Check that a backward pass changes no recorded value and no cotangent."""
        passed: list[tuple[Node, Any, bytes]] = []
        nodes = self.nodes()
        before = [_bits(node.value) for node in nodes]
        with no_grad(), self.again():
            backpropagate(
                self._seeds(self.outputs, g),
                set(self.targets),
                visit=lambda node, c: passed.append((node, c, _bits(c))),
                retain_graph=True,
            )
        for node, bits in zip(nodes, before, strict=True):
            if _bits(node.value) != bits:
                what = "an input" if node.primitive is None else f"the result of {node.op}"
                raise PropertyError("backward pass", {"fault": f"it writes into {what}"})
        for node, cotangent, bits in passed:
            if _bits(cotangent) != bits:
                fault = f"it writes into the cotangent of {node.op}"
                raise PropertyError("backward pass", {"fault": fault})

    def cut(self, g: Array, layout: str = "contiguous") -> list[Tensor]:
        """Cut a vector, or an array of vectors, into cotangents of the outputs."""
        parts, start = [], 0
        for y in self.outputs:
            part = g[..., start : start + y.size].reshape((*g.shape[:-1], *y.shape))
            xp = backend.namespace(y._data)
            with xp.on(y._data):
                array = xp.astype(xp.from_numpy(part.copy(), xp.device(y._data)), y.dtype)
            parts.append(wrap(as_laid_out(array, layout)))
            start += y.size
        return parts

    def vector(self, gradients: Sequence[Any], lead: tuple[int, ...] = ()) -> Array:
        """Gradients of the inputs in one vector; zeros stand for a missing gradient."""
        parts = [
            np.zeros((*lead, x.size)) if g is None else wrap(g).numpy().reshape((*lead, x.size))
            for x, g in zip(self.leaves, gradients, strict=True)
        ]
        return np.concatenate(parts, axis=-1)

    # --- forward --------------------------------------------------------------------------------

    @modes_kept
    def pushed(self, tangents: Sequence[Tensor | None]) -> Array:
        """Tangents of the outputs, from one for each input; None is an input that does not move."""
        with no_grad(), self.again():
            found = self._push([None if t is None else t._data for t in tangents])
        pairs = zip(found, self.outputs, strict=True)
        return joined([wrap(np.zeros(y.shape) if t is None else t) for t, y in pairs])

    def _push(self, tangents: Sequence[Any]) -> list[Any]:
        known = {n: t for n, t in zip(self.targets, tangents, strict=True) if t is not None}
        push_forward([node_of(y) for y in self.outputs if y.requires_grad], known)
        return [known.get(node_of(y)) for y in self.outputs]

    # --- second order ---------------------------------------------------------------------------

    @modes_kept
    def gradient_of_tangent(self, g: Array, tangents: Sequence[Tensor]) -> Array:
        """Gradient of ⟨g, JVP⟩ by all inputs, through the recorded forward mode."""
        with enable_grad(), self.again():
            seeds = self._seeds(self._push(tangents), g)
        with no_grad(), self.again():
            found = backpropagate(seeds, set(self.targets), retain_graph=True)
        return self.vector([found.get(node) for node in self.targets])

    @modes_kept
    def differentiated(self, g: Array) -> RecordedGradient:
        """Gradient of ⟨g, outputs⟩, recorded so that it can be differentiated."""
        cotangents = [tensor(c, requires_grad=True) for c in self.cut(g)]
        pairs = [(y, c) for y, c in zip(self.outputs, cotangents, strict=True) if y.requires_grad]
        found: list[Tensor | None] = [None] * len(self.leaves)
        if pairs:
            ys, cs = [y for y, _ in pairs], [c for _, c in pairs]
            with enable_grad(), self.again():
                found = grad(ys, self.leaves, cs, create_graph=True)
        return RecordedGradient(self, cotangents, found)


class RecordedGradient:
    """The gradient by all inputs, recorded."""

    def __init__(
        self, recording: Recording, cotangents: list[Tensor], found: list[Tensor | None]
    ) -> None:
        self._recording = recording
        self._cotangents = cotangents
        self._found = found
        self.value = recording.vector([None if d is None else d._data for d in found])

    def nodes(self) -> list[Node]:
        """Everything recorded, oldest first."""
        return ancestors(node_of(d) for d in self._found if needs_grad(d))

    @modes_kept
    def along(self, directions: Sequence[Tensor], edge: Any = None) -> Array:
        """Gradient of ⟨gradient, directions⟩ by the inputs and then by the cotangents."""
        pairs = zip(self._found, directions, strict=True)
        seeds = [(node_of(d), u._data) for d, u in pairs if needs_grad(d)]
        by = list(map(node_of, self._cotangents))
        targets = [*self._recording.targets, *by]
        with no_grad(), self._recording.again():
            found = backpropagate(seeds, set(targets), edge=edge, retain_graph=True)
        by_inputs = self._recording.vector([found.get(n) for n in self._recording.targets])
        by_cotangents = [
            wrap(found[n]).numpy().ravel() if n in found else np.zeros(c.size)
            for n, c in zip(by, self._cotangents, strict=True)
        ]
        return np.concatenate([by_inputs, *by_cotangents])


def as_laid_out(array: Any, layout: str) -> Any:
    """Return a NumPy array in another memory layout; an array of another library stays as it is."""
    return laid_out(array, layout) if isinstance(array, np.ndarray) else array


def _bits(array: Any) -> bytes:
    return wrap(array).numpy().tobytes()
