"""Rescoring: the log-probability of a given sequence, recorded, so that it has a gradient through time.

A layer in the user's step is called for one step at a time, so it records every step as its time 0. Only
after the step it is clear which calls were for one step. :func:`_move_to` then moves these to their time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from .._numbers import check_whole
from .._trees import flatten, rebuild
from ..arrays import backend
from ..arrays.dlpack import exported
from ..engine.backpropagation import ancestors
from ..engine.marks import Mark, mark
from ..engine.modes import MODES, Scope, at_time, modes_kept, scope
from ..engine.recording import Node, is_tensor, node_of, now, wrap
from ..errors import ArgumentError, brief
from ..recurrence.scans import is_scan, steps_of_scan
from ..tensors.creation import as_tensor
from ..tensors.functions import astype, stack
from ..tensors.tensor import Tensor
from .step_function import (
    State,
    Step,
    Stepper,
    array_of,
    check_state,
    check_values,
    is_array,
    start_tokens,
)


@modes_kept
def rescore(
    step: Step, state: State, start: int, tokens: Sequence[int], state_axis: int = 0
) -> Tensor:
    """Record the log-probability of each token of a sequence, given the tokens before it.

    The step is run once for each token, with gradients on. The states are marked, so that ``tg.inspect``
    shows the gradient of a hypothesis's log-probability through time. Time t is the state that
    ``tokens[t]`` is predicted from, after the start token and the t tokens before.

    States that the step marks, as the layers of ``tg.nn`` do, have their own names: ``flow["lstm.l0"].c``.
    Other arrays of the state get names. A single array is ``h``. A pair whose first was computed from its
    second, as in an LSTM, is ``h`` and ``c``. Parts of a dict or named tuple have their keys, and parts of
    a larger state their place: ``flow["1"].h``. If the step reshapes or stacks its new states, the parts
    are marked before that; layers that it stacks are ``flow["l0"].h`` and ``flow["l1"].h``.

    Parameters
    ----------
    step, state, state_axis
        See :func:`~tinygrad182.decode.beam_search`; N = 1. If the step computes with arrays, the values
        are right, and there is no gradient.
    start : int
        The first token.
    tokens : sequence of int (T,), or Hypothesis

    Returns
    -------
    Tensor (T,), float64
        Its sum is the log-probability of the sequence.

    Raises
    ------
    ArgumentError
        There are no tokens, a token is not in the vocabulary, or there is more than one start token.
    DecodingError
        A log-probability is NaN or above 0, or the step returns something else.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> cell, head = tg.nn.LSTMCell(5, 8, rng=0), tg.nn.Linear(8, 5, rng=1)
    >>> letters = tg.eye(5)
    >>> def step(tokens, state):
    ...     h, c = cell(letters[tokens], state)
    ...     return tg.log_softmax(head(h), axis=-1), (h, c)
    >>> state = tg.zeros((1, 8)), tg.zeros((1, 8))
    >>> best = tg.decode.beam_search(step, state, start=0, beam_width=3, max_length=6).best
    >>> log_probabilities = tg.decode.rescore(step, state, 0, best.tokens)
    >>> bool(abs(log_probabilities.sum().item() - best.log_probability) < 1e-6)
    True
    >>> flow = tg.inspect.gradient_flow(log_probabilities.sum())[""]
    >>> list(flow), flow.c.grad_norm.shape
    (['h', 'c'], (6,))
    >>> tg.inspect.state_grad_matrix(list(log_probabilities)).shape    # by each token's
    (6, 6)
    """
    stepper = Stepper(step, state_axis)
    last, single = start_tokens(start, state)
    if not single:
        raise ArgumentError(f"rescore: start {brief(start)} must be one token, for one sequence")
    check_state(state, last, stepper.axis, "the initial state:")
    tokens = _read_tokens(tokens)
    state = rebuild(state, [_copied(leaf) for leaf in flatten(state)])  # the step may write to it
    xp = backend.namespace(last)
    calls: dict[str, int] = {}
    found = []
    with backend.on(last):
        given = xp.from_numpy(np.array(tokens), xp.device(last))
        for t, token in enumerate(tokens):
            began, before = now(), state
            with at_time(t):
                values, state = stepper.run(last, state)
            values = as_tensor(values)
            if MODES.get().grad:
                _mark_step(values, before, state, t, began, calls)
            if token >= (M := values.shape[1]):
                raise ArgumentError(
                    f"rescore: token {token} at t = {t} is not in a vocabulary of {M}"
                )
            found.append(astype(values[0, token], "float64"))
            last = given[t : t + 1]
        each = stack(found)
        [values] = stepper.fetch([each._data])
    for t in np.flatnonzero(~(values <= 0)).tolist():
        check_values(values[t : t + 1], f"of token {tokens[t]} at t = {t}")
    return each


def _read_tokens(tokens: Any) -> list[int]:
    """The tokens of a sequence or a hypothesis."""
    given = getattr(tokens, "tokens", tokens)
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise ArgumentError(
            f"rescore: {brief(tokens)} is neither a sequence of tokens nor a hypothesis"
        )
    if not (found := [check_whole("rescore", "token", token, 0) for token in given]):
        raise ArgumentError("rescore: no tokens; the log-probability of an empty sequence is 0")
    return found


def _copied(leaf: Any) -> Any:
    """A copy of an array. A Tensor stays the same, so that gradients flow through it."""
    if is_tensor(leaf) or not is_array(leaf):
        return leaf
    return exported(backend.copy(array_of(leaf)), leaf)


# --- marks and times ------------------------------------------------------------------------------


def _mark_step(
    values: Tensor, before: State, state: State, t: int, began: int, calls: dict[str, int]
) -> None:
    """Mark the states of step ``t``, whose nodes were recorded since ``began``."""
    old, new = flatten(before), flatten(state)
    roots = [node_of(x) for x in (values, *new) if is_tensor(x)]
    made = ancestors([node for node in roots if node.order >= began], constants=True, oldest=began)
    _move_to(made, t, calls)
    for i, (path, name) in enumerate(_names(state, began)):
        leaf = new[i]
        if not _is_state(leaf) or any(leaf is x for x in old):
            continue  # the step passes it on unchanged
        sources = _sources(node_of(leaf), began)
        several = len(sources) > 1
        for k, node in enumerate(sources):
            if not is_scan(node) and all(m.scope.time is None for m in node.marks):
                _mark(node, _joined(path, f"l{k}") if several else path, name, t)
                if t == 0 and not several and len(old) == len(new) and _is_state(old[i]):
                    _mark(node_of(old[i]), path, name, -1)


def _is_state(leaf: Any) -> bool:
    return is_tensor(leaf) and backend.namespace(leaf._data).is_floating(leaf._data)


@modes_kept
def _mark(node: Node, path: str, name: str, time: int) -> None:
    with scope(path) if path else nullcontext():
        mark(wrap(node.value, node), name, time)


def _sources(node: Node, began: int) -> list[Node]:
    """The states in an array that a step returned: those it reshaped or stacked, or the array itself."""
    found, pending = [], [node]
    while pending:
        x = pending.pop()
        inputs = [y for y in x.inputs or () if isinstance(y, Node)]
        if x.order >= began and _rearranges(x, inputs):
            pending.extend(reversed(inputs))
        elif x.order >= began:
            found.append(x)
    return [x for x in dict.fromkeys(found) if x.requires_grad] or found


def _rearranges(node: Node, inputs: list[Node]) -> bool:
    """Whether an operation reshapes or stacks all elements of its inputs, or selects states of a layer."""
    primitive = node.primitive
    if primitive is None or not (primitive.view or primitive.name in ("stack", "concat")):
        return False
    return any(map(is_scan, inputs)) or sum(x.value.size for x in inputs) == node.value.size


def _move_to(made: list[Node], t: int, calls: dict[str, int]) -> None:
    """Move the module calls that were for one step to time ``t`` of the module's call in the first step.

    ``calls`` has the number of that call by module; new modules are added. The initial state of such a call
    is the state of the step before, so after the first step its mark is removed. A call over a whole
    sequence is left unchanged.
    """
    times: dict[tuple[int, str], set[int]] = {}  # by call and module
    for node in made:
        for place in (m.scope for m in node.marks):
            if place.time is not None and place.time >= 0:
                times.setdefault((place.call, place.module), set()).add(place.time)
        if is_scan(node):
            times.setdefault((node.scope.call, node.scope.module), set()).update(
                steps_of_scan(node)
            )
    over_sequences = {call for (call, _), steps in times.items() if len(steps) > 1}
    moved: dict[int, int] = {}  # the call in the first step, by call in this step
    for call, module in times:
        if call not in moved and call not in over_sequences:
            moved[call] = calls.setdefault(module, call)

    def move(place: Scope) -> Scope:
        if place.call not in moved:
            return place
        time, call = -1 if place.time == -1 else t, moved[place.call]
        return Scope(place.module, time, call, place.names, place.source, place.step)

    for node in made:
        if is_scan(node) and node.scope.call in moved:
            node.params = {**node.params, "start": t}
        node.scope = move(node.scope)
        node.marks = tuple(
            Mark(m.name, move(m.scope), m.order)
            for m in node.marks
            if not (t and m.scope.time == -1 and m.scope.call in moved)
        )


# --- names ----------------------------------------------------------------------------------------


def _names(state: State, began: int) -> list[tuple[str, str]]:
    """The path and the name of each leaf of a state."""
    if not _is_nested(state):
        return [("", "h")]
    if isinstance(state, dict) or hasattr(state, "_fields"):
        parts = state if isinstance(state, dict) else state._asdict()
        found = []
        for key, part in parts.items():
            leaf = not _is_nested(part)
            found += [("", str(key))] if leaf else _below(str(key), part, began)
        return found
    if len(state) == 1:
        return _names(state[0], began)
    if (
        len(state) == 2
        and not any(map(_is_nested, state))
        and _computed_from(state[0], state[1], began)
    ):
        return [("", "h"), ("", "c")]
    return [pair for i, part in enumerate(state) for pair in _below(str(i), part, began)]


def _below(key: str, part: State, began: int) -> list[tuple[str, str]]:
    return [(_joined(key, path), name) for path, name in _names(part, began)]


def _joined(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part)


def _is_nested(part: Any) -> bool:
    return isinstance(part, (tuple, list, dict))


def _computed_from(h: Any, c: Any, began: int) -> bool:
    """Whether h was computed from all of c in this step, as in an LSTM."""
    if not (_is_state(h) and _is_state(c)) or node_of(c).order < began:
        return False
    behind = set(ancestors([node_of(h)], oldest=began))
    return behind.issuperset(_sources(node_of(c), began))
