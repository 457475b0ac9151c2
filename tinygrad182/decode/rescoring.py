"""Rescoring: a sequence's log-probability, recorded, so that its gradient can be looked at through time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import backend
from .._tensor import Tensor
from .._trees import flatten
from ..backpropagation import ancestors
from ..creation import as_tensor
from ..errors import ArgumentError, DecodingError
from ..functions import astype, stack
from ..marks import Mark, mark
from ..modes import MODES, Scope
from ..recording import Node, is_tensor, node_of, now
from .stepping import State, Step, Stepper, check_state, start_tokens, whole


def rescore(
    step: Step, state: State, start: int, tokens: Sequence[int], state_axis: int = 0
) -> Tensor:
    """The log-probability of each token of a sequence, given those before it, and recorded.

    The step is run once for each token, as a search runs it, with gradients on. The states are marked, so
    that ``tg.inspect`` shows how the log-probability of a hypothesis depends on them: its gradient through
    time. Index t is the state that chose ``tokens[t]``, after the start token and the t tokens before.

    States that the step has marked itself, as the layers of ``tg.nn`` do, appear under their own names:
    ``flow["lstm.l0"].c``. Otherwise the arrays of the state are marked: a single one is called ``h``, two
    ``h`` and ``c``; those of a dict or named tuple by their keys, more by their places. What a step only
    rearranges to hand it on is looked through.

    Parameters
    ----------
    step, state, state_axis
        Those of :func:`~tinygrad182.decode.beam_search`, N = 1. The step must compute with Tensors for
        there to be a gradient; the values are right for arrays too.
    start : int
        The first token.
    tokens : sequence of int (T,)
        Such as ``hypothesis.tokens``.

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
        raise ArgumentError(f"step: {type(step).__name__} is no function of (tokens, state)")
    stepper = Stepper(recorded, state_axis)
    last, single = start_tokens(start, state)
    if not single:
        raise ArgumentError(f"rescore: start {start!r} must be one token: one sequence is rescored")
    check_state(state, 1, stepper.axis, "the initial state:")
    chosen = [whole(token, "token", 0) for token in tokens]
    if not chosen:
        raise ArgumentError("rescore: no tokens; the log-probability of an empty sequence is 0")
    xp = backend.namespace(last)
    given = [leaf for leaf in flatten(state) if is_tensor(leaf)]
    for name, leaf in zip(_names(state, len(given)), given, strict=True):
        mark(leaf, name, time=-1)
    calls: dict[str, int] = {}
    found = []
    with backend.on(last):
        for t, token in enumerate(chosen):
            began = now()
            _, state = stepper(last, state)
            values = as_tensor(answers.pop()[0])
            _mark_step(values, state, t, began, calls)
            found.append(_of_token(values, token, t))
            last = xp.from_numpy(np.array([token]), xp.device(last))
        return stack(found)


def _of_token(values: Tensor, token: int, t: int) -> Tensor:
    if token >= values.shape[1]:
        raise ArgumentError(
            f"rescore: token {token} at t = {t} is not in a vocabulary of {values.shape[1]}"
        )
    value = astype(values[0, token], "float64")
    number = value.item()
    if not number <= 0:
        raise DecodingError(
            f"step: the log-probability of token {token} at t = {t} is {number:.6g}; "
            "return log-probabilities, such as those of tg.log_softmax(logits)"
        )
    return value


# --- whose state is whose -----------------------------------------------------------------------

_REARRANGED = {"index", "reshape", "permute_dims", "stack", "concat"}
"""What a step does to a state only to hand it on."""


def _mark_step(values: Tensor, state: State, t: int, began: int, calls: dict[str, int]) -> None:
    """Name the states of one step, recorded since ``began``, and give them its time."""
    leaves = [leaf for leaf in flatten(state) if is_tensor(leaf)]
    roots = [node_of(x) for x in (values, *leaves)]
    made = ancestors([node for node in roots if node.order >= began], constants=True, oldest=began)
    if not _move_marks(made, t, calls):
        for name, leaf in zip(_names(state, len(leaves)), leaves, strict=True):
            source = _source(node_of(leaf), began)
            source.marks = (*source.marks, Mark(name, MODES.get().scope.at(t)))


def _move_marks(nodes: list[Node], t: int, calls: dict[str, int]) -> bool:
    """Let the marks that layers set in a call of one step be those of step ``t`` of one long call."""
    moved = False
    for node in nodes:
        kept = []
        for old in node.marks:
            time = old.scope.time
            if time is not None and time >= 0:
                kept.append(Mark(old.name, _moved(old.scope, t, calls)))
                moved = True
            elif time != -1 or t == 0:
                kept.append(old)
        node.marks = tuple(kept)
    return moved


def _moved(scope: Scope, t: int, calls: dict[str, int]) -> Scope:
    call = calls.setdefault(scope.module, scope.call)
    return Scope(scope.module, t, call, scope.names, scope.source)


def _source(node: Node, began: int) -> Node:
    """The state itself, behind what was only rearranged for the next step."""
    while node.op in _REARRANGED and node.inputs:
        inputs = [x for x in node.inputs if isinstance(x, Node) and x.requires_grad]
        if len(inputs) != 1 or inputs[0].order < began:
            break
        (node,) = inputs
    return node


def _names(state: State, count: int) -> list[str]:
    """What the arrays of a state are called: by their keys, or h and c, or by their places."""
    if isinstance(state, dict) and len(state) == count:
        return [str(key) for key in state]
    fields = getattr(state, "_fields", ())
    if len(fields) == count > 0:
        return list(fields)
    return ["h", "c"][:count] if count <= 2 else [str(i) for i in range(count)]
