"""A function of Tensors as one of vectors: what numerical derivatives are taken of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..backpropagation import backpropagate
from ..creation import as_tensor, tensor
from ..errors import ArgumentError, DTypeError
from ..modes import enable_grad, no_grad
from ..recording import is_tensor, node_of, wrap
from .faults import PropertyError

Vector = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Input:
    """One array that a function is differentiated by.

    Attributes
    ----------
    label : str
        ``"input 0"``, ``"input 1[0]"`` inside a tuple, or a parameter's path.
    array : array
        The value given.
    part : slice
        Its elements in the vector of all inputs.
    """

    label: str
    array: Any
    part: slice

    def describe(self) -> str:
        """The name with shape and dtype."""
        return f"{self.label} of shape {tuple(self.array.shape)}, {self.array.dtype}"

    def entry(self, position: int) -> str:
        """The name of one element of the vector of all inputs."""
        return f"{self.label}{_key(position - self.part.start, tuple(self.array.shape))}"


class VectorFunction:
    """``f`` at some arguments, as a function of one float64 vector: all that it is differentiated by.

    Parameters
    ----------
    f : callable
        Takes Tensors; returns a Tensor, or a nested tuple with Tensors in it.
    args : sequence
        Arrays, Tensors, numbers and tuples of them. Floating ones are differentiated; the others, and
        what is no array, are passed on.
    parameters : mapping of str to Tensor
        Tensors that ``f`` uses from outside and is differentiated by too.
    """

    def __init__(
        self, f: Callable[..., Any], args: Sequence[Any], parameters: Mapping[str, Tensor]
    ) -> None:
        self.f = f
        self.parameters = parameters
        self.inputs: list[Input] = []
        self.args = tuple(self._prepared(x, f"input {i}") for i, x in enumerate(args))
        for name, parameter in parameters.items():
            self._add(name, parameter._data)
        if not self.inputs:
            raise ArgumentError(
                "check_gradients: no floating input: there is nothing to differentiate by"
            )
        self.point = np.concatenate([_host(i.array).astype(float).ravel() for i in self.inputs])
        self.outputs: list[tuple[int, ...]] = []

    def _prepared(self, x: Any, label: str) -> Any:
        """The argument with an :class:`Input` in place of every floating array."""
        if isinstance(x, tuple) and any(isinstance(i, tuple) or hasattr(i, "shape") for i in x):
            return tuple(self._prepared(item, f"{label}[{i}]") for i, item in enumerate(x))
        if not isinstance(x, (list, tuple, float, np.generic)) and not hasattr(x, "shape"):
            return x
        data = as_tensor(np.asarray(x) if isinstance(x, (list, tuple, float)) else x)._data
        xp = backend.namespace(data)
        if xp.is_complex(data):
            raise DTypeError(
                f"check_gradients: {label} is complex; only real inputs have a gradient"
            )
        return self._add(label, data) if xp.is_floating(data) else wrap(data)

    def _add(self, label: str, data: Any) -> Input:
        start = self.inputs[-1].part.stop if self.inputs else 0
        self.inputs.append(Input(label, data, slice(start, start + int(np.prod(data.shape)))))
        return self.inputs[-1]

    # --- calls ----------------------------------------------------------------------------------

    def __call__(self, x: Vector) -> Vector:
        """All outputs in one vector, on the host; nothing is recorded."""
        with no_grad():
            outputs = self._run(self.tensors(x))
        return np.concatenate([y.numpy().ravel() for y in outputs])

    def record(self, x: Vector, dtypes: bool = False) -> Recording:
        """Record the function at ``x``: in float64, or with ``dtypes`` in the dtypes that were given."""
        with enable_grad():
            leaves = [
                tensor(self._array(i, x, i.array.dtype if dtypes else None), requires_grad=True)
                for i in self.inputs
            ]
            return Recording(leaves, self._run(leaves))

    def of_inputs(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The function of one Tensor for each input."""
        return tuple(self._run(tensors))

    def tensors(self, x: Vector) -> list[Tensor]:
        """``x`` cut into constants like the inputs."""
        return [wrap(self._array(i, x)) for i in self.inputs]

    def _array(self, given: Input, x: Vector, dtype: Any = None) -> Any:
        xp = backend.namespace(given.array)
        part = x[given.part].reshape(tuple(given.array.shape))
        array = xp.from_numpy(part, xp.device(given.array))
        return array if dtype is None else xp.astype(array, dtype)

    def _run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        by_input = dict(zip(map(id, self.inputs), tensors, strict=True))
        own = len(tensors) - len(self.parameters)
        with standing_in(self.parameters.values(), tensors[own:]):
            out = self.f(*(_filled(x, by_input) for x in self.args))
        outputs = [y for y in _tensors_in(out) if _is_inexact(y)]
        if not outputs:
            raise ArgumentError(
                "check_gradients: the function must return a floating Tensor or a tuple with one, "
                f"not {type(out).__name__}"
            )
        self.outputs = [y.shape for y in outputs]
        return outputs

    # --- names ----------------------------------------------------------------------------------

    def input_at(self, position: int) -> Input:
        """The input that an element of the vector belongs to."""
        return next(i for i in self.inputs if i.part.start <= position < i.part.stop)

    def output_entry(self, position: int) -> str:
        """The name of one element of the vector of all outputs."""
        for k, shape in enumerate(self.outputs):
            size = int(np.prod(shape))
            if position < size:
                label = f"output {k}" if len(self.outputs) > 1 else "output"
                return f"{label}{_key(position, shape)}"
            position -= size
        raise IndexError(position)


class Recording:
    """A function recorded once, and backward passes through it.

    Attributes
    ----------
    leaves, outputs : list of Tensor
    """

    def __init__(self, leaves: list[Tensor], outputs: list[Tensor]) -> None:
        self.leaves = leaves
        self.outputs = outputs

    def value(self) -> Vector:
        """All outputs in one vector; what the nodes hold, where there are nodes."""
        return np.concatenate(
            [_host(y._data if y._node is None else y._node.value).ravel() for y in self.outputs]
        )

    def pulled(self, g: Vector) -> Vector:
        """The gradient of ⟨g, outputs⟩ by all inputs; ``g`` may have extra leading axes."""
        cotangents = self.cut(g)
        pairs = zip(self.outputs, cotangents, strict=True)
        seeds = [(node_of(y), c._data) for y, c in pairs if y.requires_grad]
        targets = [node_of(x) for x in self.leaves]
        before = self._bits(cotangents)
        with no_grad():
            found = backpropagate(seeds, set(targets), retain_graph=True)
        for name, bits in self._bits(cotangents).items():
            if bits != before[name]:
                raise PropertyError("backward pass", {"fault": f"it writes into {name}"})
        return self.joined([found.get(node) for node in targets], g.shape[:-1])

    def _bits(self, cotangents: list[Tensor]) -> dict[str, list[bytes]]:
        """What a backward pass must leave as it was."""
        given = {"an input": self.leaves, "the result": self.outputs, "the cotangent": cotangents}
        return {name: [t.numpy().tobytes() for t in tensors] for name, tensors in given.items()}

    def cut(self, g: Vector) -> list[Tensor]:
        """A vector, or an array of them, as cotangents of the outputs."""
        parts, start = [], 0
        for y in self.outputs:
            part = g[..., start : start + y.size].reshape((*g.shape[:-1], *y.shape))
            xp = backend.namespace(y._data)
            parts.append(wrap(xp.astype(xp.from_numpy(part, xp.device(y._data)), y.dtype)))
            start += y.size
        return parts

    def joined(self, gradients: Sequence[Any], lead: tuple[int, ...] = ()) -> Vector:
        """Gradients of the inputs as one vector; zeros where there is none."""
        parts = [
            np.zeros((*lead, x.size)) if g is None else _host(g).reshape((*lead, x.size))
            for x, g in zip(self.leaves, gradients, strict=True)
        ]
        return np.concatenate(parts, axis=-1)


@contextmanager
def standing_in(parameters: Any, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Let every use of the parameters mean the tensors, for a while."""
    before = [(p, p._data, p._node) for p in parameters]
    try:
        for (p, _, _), t in zip(before, tensors, strict=True):
            p._data, p._node = t._data, t._node
        yield
    finally:
        for p, data, node in before:
            p._data, p._node = data, node


def _filled(x: Any, by_input: Mapping[int, Tensor]) -> Any:
    if isinstance(x, Input):
        return by_input[id(x)]
    return tuple(_filled(i, by_input) for i in x) if type(x) is tuple else x


def _tensors_in(out: Any) -> Iterator[Tensor]:
    if is_tensor(out):
        yield out
    elif isinstance(out, (tuple, list)):
        for item in out:
            yield from _tensors_in(item)


def _is_inexact(y: Tensor) -> bool:
    xp = backend.namespace(y._data)
    return bool(xp.is_floating(y._data) or xp.is_complex(y._data))


def _host(array: Any) -> Vector:
    array = array._data if is_tensor(array) else array
    return cast(Vector, backend.namespace(array).to_numpy(array))


def _key(position: int, shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, np.unravel_index(position, shape)))}]" if shape else ""
