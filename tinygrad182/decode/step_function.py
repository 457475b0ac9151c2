"""The person's step function: what it is given, and what its answers must be."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from .. import backend
from .._trees import flatten, rebuild
from ..backend import Array
from ..dlpack import exported, imported
from ..errors import ArgumentError, DecodingError, DeviceError, IndexOutOfRangeError, brief
from ..host import on_host
from ..modes import PendingCheck, default_device, deferred_checks, modes_kept
from ..recording import is_tensor, wrap

Step = Callable[[Any, Any], tuple[Any, Any]]
"""``step(tokens, state) -> (log_probabilities, state)``: (N,) and a tree to (N, M) and a tree."""

State = Any
"""Any nesting of tuples, lists and dicts of arrays or Tensors with N on one axis."""

Host = np.ndarray[Any, Any]
"""An array that the host can look at."""

Steps = TypeVar("Steps", bound=tuple[Any, ...])
"""A named tuple of what a search knows of a step."""


class Stepper:
    """A step function whose answers are looked at before they are used.

    Parameters
    ----------
    step : Step
    axis : int
        The axis of the state's arrays that counts prefixes.
    eos : int, optional
        The end token, which must be one of the vocabulary.
    """

    def __init__(self, step: Any, axis: int, eos: int | None = None) -> None:
        if not callable(step):
            raise ArgumentError(
                f"decode: step is a {type(step).__name__}, no function of (tokens, state) that returns "
                "(log_probabilities, state)"
            )
        self.step = step
        self.axis = whole(axis, "state_axis", 0)
        self.eos = eos
        self.tokens_in_vocabulary: int | None = None
        self.calls = 0
        self.unchecked: list[tuple[int, PendingCheck]] = []

    def __call__(self, tokens: Array, state: State) -> tuple[Array, State]:
        """Log-probabilities (N, M) of the next tokens, and the state after these."""
        self.calls += 1
        xp = backend.namespace(tokens)
        own = xp.copy(tokens)  # the step may write into it
        try:
            answer = self._ask(own, state) if xp.guarded else self.step(own, state)
        except DeviceError as error:
            raise self._elsewhere(tokens, error) from error
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            found = type(answer).__name__
            found += f" of {len(answer)}" if isinstance(answer, (tuple, list)) else ""
            raise DecodingError(f"step: returned {found}; return (log_probabilities, state)")
        values, state = answer
        values = array_of(values)
        self._check(tokens, values)
        check_state(state, tokens, self.axis, "step returned a state whose")
        return values, state

    @modes_kept
    def _ask(self, tokens: Array, state: State) -> Any:
        """Call the step on a device: the host does not wait for the bounds of indices used inside."""
        checks: list[PendingCheck] = []
        with deferred_checks(checks):
            answer = self.step(tokens, state)
        self.unchecked += [(self.calls, check) for check in checks]
        return answer

    def fetch(self, arrays: Sequence[Array]) -> list[Host]:
        """Arrays on the host, in one transfer with the bounds of the indices that the step has used.

        Raises
        ------
        IndexOutOfRangeError
            One of these indices was out of range; the call of the step is named.
        """
        if not self.unchecked and all(type(x) is np.ndarray for x in arrays):
            return list(arrays)
        unchecked, self.unchecked = self.unchecked, []
        ends = [x for _, check in unchecked for x in check.values]
        found = backend.fetch([*arrays, *ends])
        values = iter(found[len(arrays) :])
        for call, check in unchecked:
            try:
                check.judge(list(islice(values, len(check.values))))
            except IndexOutOfRangeError as error:
                raise IndexOutOfRangeError(f"{error}, in call {call} of the step") from None
        return found[: len(arrays)]

    @staticmethod
    def _elsewhere(tokens: Array, error: DeviceError) -> DeviceError:
        place = backend.namespace(tokens).device(tokens)
        return DeviceError(
            f"step: {error}; here the tokens are on {place}: start tokens that are numbers go where the "
            "state is or, without a state, to the default device; choose it with tg.use_device, or give "
            "start=tg.tensor([0], dtype='int64', device=...) on the model's device"
        )

    def _check(self, tokens: Array, values: Array) -> None:
        if not hasattr(values, "shape"):
            raise DecodingError(
                f"step: log-probabilities of type {type(values).__name__}; return an array or a Tensor"
            )
        try:
            xp = backend.namespace(tokens, values)
        except DeviceError as error:
            raise self._elsewhere(tokens, error) from error
        if not xp.is_floating(values):
            raise DecodingError(
                f"step: log-probabilities of dtype {values.dtype} are not real numbers"
            )
        shape = tuple(values.shape)
        M = self.tokens_in_vocabulary or (shape[1] if len(shape) == 2 else 0)
        if shape != (tokens.shape[0], M) or not M:
            wanted = f"({tokens.shape[0]}, {self.tokens_in_vocabulary or 'M'})"
            raise DecodingError(
                f"step: log-probabilities of shape {shape} for {tokens.shape[0]} tokens; the shape must "
                f"be {wanted}: a row for each token, a column for each word of the vocabulary"
            )
        if self.eos is not None and self.eos >= M:
            raise ArgumentError(f"decode: eos {self.eos} is not a token of a vocabulary of {M}")
        self.tokens_in_vocabulary = M

    def read(self, steps: Sequence[Steps]) -> list[Steps]:
        """Steps of a search with their arrays on the host, by one :meth:`fetch`."""
        found = iter(self.fetch([x for step in steps for x in step if backend.is_array(x)]))
        return [
            type(step)(*(next(found) if backend.is_array(x) else x for x in step)) for step in steps
        ]

    def gather(self, state: State, rows: Array) -> State:
        """The state of some prefixes, in a new tree with memory of its own."""
        xp = backend.namespace(rows)
        return rebuild(state, [_rows(xp, leaf, rows, self.axis) for leaf in flatten(state)])

    def one(self, state: State, row: int) -> State:
        """The state of one prefix, in memory of its own; on any device, whichever is current."""
        return rebuild(state, [_row(leaf, row, self.axis) for leaf in flatten(state)])

    def joined(self, states: Sequence[State]) -> State:
        """States of single prefixes, as one."""
        columns = zip(*(flatten(state) for state in states), strict=True)
        return rebuild(states[0], [_concat(leaves, self.axis) for leaves in columns])


def whole(value: Any, name: str, least: int) -> int:
    """An argument as a whole number from ``least`` on.

    Raises
    ------
    ArgumentError
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ArgumentError(f"decode: {name} {brief(value)} must be a whole number from {least}")
    return number


def array_of(x: Any) -> Any:
    """The array of a Tensor, or of a library that speaks DLPack; anything else as it is."""
    return x._data if is_tensor(x) else imported(x)


def _in_library_of(leaf: Any, array: Array) -> Any:
    """Rows of a leaf as what the leaf is: a Tensor, an array, or one of the library it came from."""
    return wrap(array) if is_tensor(leaf) else exported(array, leaf)


def check_values(values: np.ndarray[Any, Any], where: str) -> None:
    """Make sure that log-probabilities, or the largest of them, are no NaN and at most 0.

    Raises
    ------
    DecodingError
        Naming ``where``.
    """
    if (values <= 0).all():
        return
    value = float(values[~(values <= 0)][0])
    if np.isnan(value):
        raise DecodingError(f"step: a log-probability is NaN {where}")
    raise DecodingError(
        f"step: a log-probability is {value:.6g}, more than 0, {where}; "
        "return log-probabilities, such as those of tg.log_softmax(logits), not logits"
    )


def is_array(leaf: Any) -> bool:
    """Whether a leaf of a state has rows: an array or a Tensor, no number."""
    if type(leaf) is np.ndarray or is_tensor(leaf):
        return True
    return leaf is not None and backend.is_array(imported(leaf))


_PASSED_ON = (bool, int, float, complex, str, bytes, np.generic)
"""What is not an array and may stand in a state: it is the same for all prefixes."""


def check_state(state: State, tokens: Array, axis: int, what: str) -> None:
    """Make sure that each array of a state has a row for each of the tokens, and lives where they do.

    Raises
    ------
    DecodingError, DeviceError
    """
    rows = tokens.shape[0]
    for i, leaf in enumerate(flatten(state)):
        if not is_array(leaf):
            if leaf is None or isinstance(leaf, _PASSED_ON):
                continue
            raise DecodingError(
                f"decode: {what} leaf {i} is a {type(leaf).__name__}, whose rows cannot be chosen; use "
                "tuples, lists and dicts of arrays or Tensors, and numbers"
            )
        array = array_of(leaf)
        if array.ndim <= axis or array.shape[axis] != rows:
            raise DecodingError(
                f"decode: {what} array {i} has shape {tuple(array.shape)}; axis {axis} must have "
                f"{rows} rows, one for each prefix (state_axis= names another axis)"
            )
        if type(leaf) is np.ndarray and type(tokens) is np.ndarray:
            continue
        try:
            backend.namespace(tokens, array)
        except DeviceError as error:
            raise DeviceError(
                f"decode: {what} array {i} is not where the tokens are: {error}"
            ) from error


def start_tokens(start: Any, state: State) -> tuple[Array, bool]:
    """The first tokens as an int64 array (B,) where the state lives, and whether there was only one.

    Numbers, lists and NumPy arrays go where the state is; without a state, to the default device. A Tensor
    or an array of another library has a device of its own, which is that of a search without a state.

    Raises
    ------
    ArgumentError
        Tokens that are not whole numbers from 0, or a shape of more than one axis.
    DeviceError
        A Tensor or array on another device than the state.
    """
    given = array_of(start)
    host = _host_tokens(given)
    if host is None:
        raise ArgumentError(
            f"decode: start {brief(start)} must be a token's number from 0, or an array of one for "
            "each of B examples; of a prompt, pass the last token, with the state after the others"
        )
    like = next((array_of(leaf) for leaf in flatten(state) if is_array(leaf)), None)
    if is_tensor(start) or (backend.is_array(given) and type(given) is not np.ndarray):
        like = given if like is None else like
        try:
            backend.namespace(like, given)
        except DeviceError as error:
            raise DeviceError(
                f"decode: the state and the start tokens differ in device: {error}; "
                "start tokens that are numbers go where the state is"
            ) from error
    if like is None:
        device = backend.check_device(default_device())
        return backend.namespace_on(device).from_numpy(host, device), np.ndim(given) == 0
    xp = backend.namespace(like)
    return xp.from_numpy(host, xp.device(like)), np.ndim(given) == 0


PROMPT = (
    "several start tokens are several examples. For a prompt, run the model over all its tokens but the "
    "last, and pass the last alone as start, with the state after the others"
)
"""What to do if a sequence was meant."""


def check_start(start: Any, tokens: Array, state: State, axis: int) -> None:
    """Make sure that several start tokens are meant as several examples, and that the state is theirs.

    A state with a row for each says so; without one an array (B,) does, and a list does not.

    Raises
    ------
    ArgumentError, DecodingError, DeviceError
    """
    count = tokens.shape[0]
    if isinstance(start, (list, tuple)) and count > 1 and not any(map(is_array, flatten(state))):
        raise ArgumentError(
            f"decode: start {brief(start)} may be a prompt or {count} examples: {PROMPT}. For {count} "
            "examples without a state, pass an array: start=np.array([...])"
        )
    try:
        check_state(state, tokens, axis, "the initial state:")
    except DecodingError as error:
        raise DecodingError(f"{error}; {PROMPT}" if count > 1 else str(error)) from None


def _host_tokens(given: Any) -> Host | None:
    """Read tokens as an int64 array (B,) on the host; return None for what is not a token."""
    try:
        host = on_host(given)
    except (TypeError, ValueError):  # masked, or rows of unequal lengths
        return None
    if host.ndim > 1 or host.dtype.kind not in "iu":
        return None
    tokens = np.atleast_1d(host).astype(np.int64)
    return tokens if tokens.size and tokens.min() >= 0 else None


def _rows(xp: Any, leaf: Any, rows: Array, axis: int) -> Any:
    if type(leaf) is np.ndarray:
        return leaf.take(rows, axis=axis)
    if not is_array(leaf):
        return leaf
    return _in_library_of(leaf, xp.take(array_of(leaf), rows, axis=axis))


def _row(leaf: Any, row: int, axis: int) -> Any:
    if not is_array(leaf):
        return leaf
    array = array_of(leaf)[(*[slice(None)] * axis, slice(row, row + 1), ...)]
    return _in_library_of(leaf, backend.copy(array))


def _concat(leaves: Sequence[Any], axis: int) -> Any:
    if not is_array(leaves[0]):
        if any(leaf != leaves[0] for leaf in leaves):
            raise DecodingError(
                f"decode: prefixes of one length have different values {brief(leaves[0])} and others in "
                "their states; put what differs into an array with a row for each prefix"
            )
        return leaves[0]
    arrays = [array_of(leaf) for leaf in leaves]
    return _in_library_of(leaves[0], backend.namespace(*arrays).concat(arrays, axis=axis))
