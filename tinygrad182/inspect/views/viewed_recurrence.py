"""The first line of a view: the recurrence that it looks at, found, opened and brought to the host.

A view is a function such as :func:`.gain_split`. It has three parts: :meth:`ViewedRecurrence.of` finds the
recurrence, the view computes figures of its states, and a small class holds these and prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...arrays.backend import device_of
from ...arrays.namespaces import Array
from ...engine.autodiff import seeds_of
from ...engine.recording import Node
from ...errors import UnknownPathError
from ...recurrence.unrolling import unrolled
from ...tensors.tensor import Tensor
from ..loops.hosting import copied_to_host
from ..loops.recurrences import Recurrence, Stack, Wanted, chosen, one_stack
from ..loops.steps import is_whole


class ViewedRecurrence(NamedTuple):
    """The recurrence that a view looks at, in a graph on the host.

    Attributes
    ----------
    view : str
        The name of the view's function, with which its error messages begin.
    root : Node
        The loss.
    seed : array
        The cotangent of the root.
    stack : Stack
        The recurrence's states by name.
    device : str
        The device of the states, to which arrays of results go.
    """

    view: str
    root: Node
    seed: Array
    stack: Stack
    device: str

    @classmethod
    def of(
        cls,
        loss: Tensor,
        path: str | None,
        view: str,
        *,
        gradient: Any = None,
        opens: Callable[[Node], bool] = lambda root: False,
    ) -> ViewedRecurrence:
        """Find the recurrence at ``path``, or the only one, among those that a loss depends on.

        A layer that was run as one operation on the host stays one operation. All layers are opened, so
        that every step is recorded, where this one was run step by step or on a device, or where
        ``opens(root)`` says so.

        Raises
        ------
        GraphError, UnknownPathError
            As for :func:`.seeds_of` and :func:`.one_stack`.
        """
        seed = seeds_of([loss], [gradient], False, view)[0]
        here = copied_to_host([seed])
        ((root, g),) = here.seeds
        device = "cpu"
        if here.twins:
            first = next(iter(one_stack(seed[0], path, view).values()))
            device = device_of(next(first.nodes()).value)
        stack = one_stack(root, path, view)
        whole = root if is_whole(stack) and not opens(root) else unrolled(root)
        return cls(view, whole, g, stack if whole is root else one_stack(whole, path, view), device)

    @property
    def is_fused(self) -> bool:
        """Whether the recurrence is a fused layer, whose steps are one operation."""
        return is_whole(self.stack)

    def state(self, name: str) -> Recurrence:
        """The state of that name; raise UnknownPathError if there is none."""
        if name not in self.stack:
            there = ", ".join(map(repr, self.stack))
            raise UnknownPathError(f"{self.view}: no state {name!r}; there is {there}")
        return self.stack[name]

    def times(self, wanted: Wanted, there: Sequence[int]) -> list[int]:
        """The wanted ones of some time steps, ascending; raise ArgumentError for one that is not there."""
        return chosen(wanted, there, self.view)
