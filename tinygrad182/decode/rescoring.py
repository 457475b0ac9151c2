"""Rescoring: a sequence's log-probability, recorded, so that its gradient can be looked at through time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from .._trees import flatten, rebuild
from ..backpropagation import ancestors
from ..creation import as_tensor
from ..dlpack import exported
from ..errors import ArgumentError, DecodingError, brief
from ..functions import astype, stack
from ..marks import Mark, mark
from ..modes import MODES, Scope, at_time, modes_kept, scope
from ..recording import Node, is_tensor, node_of, now, wrap
from ..recurrence import is_scan, steps_of_scan
from .step_function import (
    Host,
    State,
    Step,
    Stepper,
    array_of,
    check_state,
    is_array,
    start_tokens,
    whole,
)


@modes_kept
def rescore(
    step: Step, state: State, start: int, tokens: Sequence[int], state_axis: int = 0
) -> Tensor:
    """The log-probability of each token of a sequence, given those before it, and recorded.

    The step is run once for each token, as a search runs it, with gradients on. The states are marked, so
    that ``tg.inspect`` shows how the log-probability of a hypothesis depends on them: its gradient through
    time. Index t is the state that chose ``tokens[t]``, after the start token and the t tokens before.

    States that the step has marked itself, as the layers of ``tg.nn`` do, appear under their own names:
    ``flow["lstm.l0"].c``. Every other array that a step returns anew is marked: ``h``, or its key in a
    dict or named tuple; ``h`` and ``c`` in a pair whose first was computed from its second, as in an LSTM.
    Parts of a larger state are told apart by their place: ``flow["1"].h``. What a step only reshapes or
    stacks for its next call is looked through; layers stacked by hand are ``flow["l0"].h``, ``["l1"].h``.

    Parameters
    ----------
    step, state, state_axis
        Those of :func:`~tinygrad182.decode.beam_search`, N = 1. The step must compute with Tensors for
        there to be a gradient; the values are right for arrays too.
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
        No tokens, one that is not in the vocabulary, or more than one start token.
    DecodingError
        A log-probability that is NaN or more than 0, or what the step must not return.

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
    answers: list[Any] = []

    def recorded(tokens: Any, state: State) -> Any:
        answers.append(step(tokens, state))
        return answers[-1]

    if not callable(step):
        raise ArgumentError(f"step: {type(step).__name__} is not a function of (tokens, state)")
    stepper = Stepper(recorded, state_axis)
    last, single = start_tokens(start, state)
    if not single:
        raise ArgumentError(
            f"rescore: start {brief(start)} must be one token: one sequence is rescored"
        )
    check_state(state, last, stepper.axis, "the initial state:")
    words = getattr(tokens, "tokens", tokens)
    if not isinstance(words, Iterable) or isinstance(words, str):
        raise ArgumentError(
            f"rescore: {brief(tokens)} is neither a sequence of tokens nor a hypothesis"
        )
    chosen = [whole(token, "token", 0) for token in words]
    # the step may write into its own
    state = rebuild(state, [_own(leaf) for leaf in flatten(state)])
    if not chosen:
        raise ArgumentError("rescore: no tokens; the log-probability of an empty sequence is 0")
    xp = backend.namespace(last)
    calls: dict[str, int] = {}
    found = []
    with backend.on(last):
        given = xp.from_numpy(np.array(chosen), xp.device(last))
        for t, token in enumerate(chosen):
            began, before = now(), state
            with at_time(t):
                _, state = stepper(last, state)
            values = as_tensor(answers.pop()[0])
            if MODES.get().grad:
                _mark_step(values, before, state, t, began, calls)
            found.append(_of_token(values, token, t))
            last = given[t : t + 1]
        each = stack(found)
        _check_tokens(stepper.fetch([each._data])[0], chosen)
    return each


def _own(leaf: Any) -> Any:
    """A copy of an array; a Tensor as it is, for gradients flow through it."""
    if is_tensor(leaf) or not is_array(leaf):
        return leaf
    return exported(backend.copy(array_of(leaf)), leaf)


def _of_token(values: Tensor, token: int, t: int) -> Tensor:
    if token >= values.shape[1]:
        raise ArgumentError(
            f"rescore: token {token} at t = {t} is not in a vocabulary of {values.shape[1]}"
        )
    return astype(values[0, token], "float64")


def _check_tokens(values: Host, tokens: Sequence[int]) -> None:
    """Make sure that what was found are log-probabilities; all are looked at once, after the last step."""
    for t, (number, token) in enumerate(zip(values.tolist(), tokens, strict=True)):
        if not number <= 0:
            raise DecodingError(
                f"step: the log-probability of token {token} at t = {t} is {number:.6g}; "
                "return log-probabilities, such as those of tg.log_softmax(logits)"
            )


# --- whose states these are ---------------------------------------------------------------------


def _mark_step(
    values: Tensor,
    before: State,
    state: State,
    t: int,
    began: int,
    calls: dict[str, int],
) -> None:
    """Mark the states of step ``t``, which was recorded since ``began``."""
    old, new = flatten(before), flatten(state)
    roots = [node_of(x) for x in (values, *new) if is_tensor(x)]
    made = ancestors([node for node in roots if node.order >= began], constants=True, oldest=began)
    _move_to(made, t, calls)
    for i, (path, name) in enumerate(_names(state, began)):
        leaf = new[i]
        if not _is_state(leaf) or any(leaf is x for x in old):
            continue  # what the step hands on as it is, is not a state
        sources = _sources(node_of(leaf), began)
        for k, node in enumerate(sources):
            if not is_scan(node) and all(m.scope.time is None for m in node.marks):
                several = len(sources) > 1
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
    """The new states in an array: itself, or those that were reshaped or stacked into it."""
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
    """Whether an operation keeps all elements of its inputs as they are, or takes states of a layer."""
    primitive = node.primitive
    if primitive is None or not (primitive.view or primitive.name in ("stack", "concat")):
        return False
    return any(map(is_scan, inputs)) or sum(x.value.size for x in inputs) == node.value.size


def _move_to(made: list[Node], t: int, calls: dict[str, int]) -> None:
    """Let what the layers called in a step have recorded belong to time ``t`` of one call.

    A layer called for one step records it as time 0 of a call of its own, after an initial state that is
    the last step's. A layer that was run over a whole sequence inside the step keeps its times.
    """
    places = [m.scope for node in made for m in node.marks if m.scope.time is not None]
    times: dict[int, set[int | None]] = {}
    for place in places:
        times.setdefault(place.call, set()).add(place.time)
    for node in filter(is_scan, made):
        places.append(node.scope)
        times.setdefault(node.scope.call, set()).update(steps_of_scan(node))
    first: dict[int, int] = {}  # a call → that of its module in the first step
    for place in places:
        if place.call not in first and len(times[place.call] - {-1}) == 1:
            first[place.call] = calls.setdefault(place.module, place.call)

    def moved(place: Scope) -> Scope:
        time = -1 if place.time == -1 else t
        call = first[place.call]
        return Scope(place.module, time, call, place.names, place.source, place.step)

    for node in made:
        if node.scope.call in first:
            node.scope = moved(node.scope)
            if is_scan(node):
                node.params = {**node.params, "start": t}
        if node.marks:
            node.marks = tuple(
                Mark(m.name, moved(m.scope), m.order) if m.scope.call in first else m
                for m in node.marks
                if m.scope.call not in first or m.scope.time != -1 or t == 0
            )


# --- what they are called -----------------------------------------------------------------------


def _names(state: State, began: int) -> list[tuple[str, str]]:
    """The place of each leaf of a state, as a path, and its name."""
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
    """Whether h was computed, in this step, from all of c, as in an LSTM."""
    if not (_is_state(h) and _is_state(c)) or node_of(c).order < began:
        return False
    behind = set(ancestors([node_of(h)], oldest=began))
    return behind.issuperset(_sources(node_of(c), began))
