"""A function of Tensors as a function of one vector, for numerical derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._trees import flatten, rebuild
from ...arrays import backend
from ...engine.modes import enable_grad, modes_kept, no_grad
from ...engine.recording import Leaf, is_tensor, wrap
from ...errors import ArgumentError, DTypeError
from ...tensors.creation import as_tensor_on, tensor
from ...tensors.tensor import Tensor
from ..samples import Array
from .recorded_function import Recording, as_laid_out, joined, standing_in


@dataclass(frozen=True)
class Input:
    """One array that a function is differentiated by.

    ``label`` is ``"input 0"``, ``"input 1[0]"`` inside a tuple, or a parameter's path. ``part`` is the
    place of the array's elements in the vector of all inputs.
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
    """``f`` as a function of one float64 vector, which joins all inputs and parameters.

    ``args`` are arrays, Tensors, numbers and tuples of them. Floating ones are differentiated; others are
    passed on. Data of the host goes to the device of the parameters, or of ``use_device``. ``parameters``
    are Tensors that ``f`` uses from outside; they are differentiated too.
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
                "check_gradients: there is no floating input to differentiate by; pass one, such as 1.0"
            )
        self.point = joined([wrap(i.array) for i in self.inputs]).astype(float)
        self.outputs: list[tuple[int, ...]] = []

    def _prepared(self, x: Any, label: str) -> Any:
        """The argument with an :class:`Input` instead of every floating array."""
        if isinstance(x, tuple) and any(isinstance(i, tuple) or hasattr(i, "shape") for i in x):
            return tuple(self._prepared(item, f"{label}[{i}]") for i, item in enumerate(x))
        if not isinstance(x, (list, tuple, float, np.generic)) and not hasattr(x, "shape"):
            return x
        x = np.asarray(x) if isinstance(x, (list, tuple, float)) else x
        like = next(iter(self.parameters.values()), None)
        data = (tensor(x) if like is None else as_tensor_on(x, like))._data
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

    @modes_kept
    def __call__(self, x: Array) -> Array:
        """Return all outputs in one NumPy vector."""
        if x.dtype.kind != "c":  # recorded, because f itself may call grad
            return self.record(x).value()
        with no_grad():
            return joined(self._run(self.tensors(x)))

    @modes_kept
    def record(self, x: Array, dtypes: bool = False, layout: str = "contiguous") -> Recording:
        """Record the function at ``x``: in float64, or with ``dtypes`` in the dtypes of the arguments."""
        arrays = [self._array(i, x, i.array.dtype if dtypes else None) for i in self.inputs]
        arrays = [as_laid_out(array, layout) for array in arrays]
        leaves = [wrap(array, Leaf(array, requires_grad=True)) for array in arrays]
        with enable_grad():
            outputs = self._run(leaves)
        return Recording(leaves, outputs, list(self.parameters.values()))

    def tensors(self, x: Array) -> list[Tensor]:
        """Cut ``x`` into constants of the inputs' shapes."""
        return [wrap(self._array(i, x)) for i in self.inputs]

    def _array(self, given: Input, x: Array, dtype: Any = None) -> Any:
        xp = backend.namespace(given.array)
        part = x[given.part].reshape(tuple(given.array.shape)).copy()
        array = xp.from_numpy(part, xp.device(given.array))
        with xp.on(array):
            return array if dtype is None else xp.astype(array, dtype)

    def _run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        by_input = dict(zip(map(id, self.inputs), tensors, strict=True))
        with standing_in(list(self.parameters.values()), tensors):
            given = (by_input.get(id(x), x) for x in flatten(self.args))
            out = self.f(*rebuild(self.args, given))
        outputs = [y for y in flatten(out) if is_tensor(y) and _is_inexact(y)]
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
        """Name of one element of the vector of all outputs."""
        for k, shape in enumerate(self.outputs):
            size = int(np.prod(shape))
            if position < size:
                label = f"output {k}" if len(self.outputs) > 1 else "output"
                return f"{label}{_key(position, shape)}"
            position -= size
        raise IndexError(position)


def _is_inexact(y: Tensor) -> bool:
    xp = backend.namespace(y._data)
    return bool(xp.is_floating(y._data) or xp.is_complex(y._data))


def _key(position: int, shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, np.unravel_index(position, shape)))}]" if shape else ""
