"""The user's step function: check the arguments of a search, call the step, check what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .._numbers import check_whole
from .._trees import flatten, rebuild
from ..arrays import backend
from ..arrays.dlpack import exported, imported
from ..arrays.namespaces import Array
from ..engine.host import on_host
from ..engine.modes import PendingCheck, default_device, deferred_checks, modes_kept
from ..engine.recording import is_tensor, wrap
from ..errors import ArgumentError, DecodingError, DeviceError, IndexOutOfRangeError, brief, type_of
from .result import Scoring

Step = Callable[[Any, Any], tuple[Any, Any]]
"""``step(tokens, state) -> (log_probabilities, state)``: (N,) and a tree to (N, M) and a tree."""

State = Any
"""Any nesting of tuples, lists and dicts of arrays or Tensors with N on one axis."""

Host = np.ndarray[Any, Any]
"""A NumPy array."""

Record = TypeVar("Record", bound=tuple[Any, ...])
"""A named tuple with the arrays of one step of a search."""


class Stepper:
    """A step function whose answers are checked before they are used.

    Parameters
    ----------
    step : Step
    axis : int
        The axis of the state's arrays that has a row for each prefix.
    eos : int, optional
        The end token. It must be in the vocabulary.
    """

    def __init__(self, step: Any, axis: int, eos: int | None = None) -> None:
        if not callable(step):
            raise ArgumentError(
                f"decode: step is a {type(step).__name__}; pass a function of (tokens, state) that returns "
                "(log_probabilities, state)"
            )
        self.step = step
        self.axis = check_whole("decode", "state_axis", axis, 0)
        self.eos = eos
        self.vocabulary_size: int | None = None
        self.calls = 0
        self.unchecked: list[tuple[int, PendingCheck]] = []

    def __call__(self, tokens: Array, state: State) -> tuple[Array, State]:
        """Return log-probabilities (N, M) of the next tokens, and the state after ``tokens``."""
        values, state = self.run(tokens, state)
        return array_of(values), state

    def run(self, tokens: Array, state: State) -> tuple[Any, State]:
        """Run the step and check its answer, but return the log-probabilities as the step did."""
        self.calls += 1
        xp = backend.namespace(tokens)
        own = xp.copy(tokens)  # the step may write into it
        try:
            answer = self._ask(own, state) if xp.guarded else self.step(own, state)
        except DeviceError as error:
            raise self._wrong_device(tokens, error) from error
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            found = type_of(answer)
            raise DecodingError(f"step: returned {found}; return (log_probabilities, state)")
        values, state = answer
        self._check(tokens, array_of(values))
        check_state(state, tokens, self.axis, "step returned a state whose")
        return values, state

    @modes_kept
    def _ask(self, tokens: Array, state: State) -> Any:
        """Call the step on a GPU, without waiting for the checks of indices that it uses."""
        checks: list[PendingCheck] = []
        with deferred_checks(checks):
            answer = self.step(tokens, state)
        self.unchecked += [(self.calls, check) for check in checks]
        return answer

    def fetch(self, arrays: Sequence[Array]) -> list[Host]:
        """Copy arrays to the host, in one transfer with the pending checks of indices.

        Raises
        ------
        IndexOutOfRangeError
            The step has used an index out of range. The message names the call of the step.
        """
        if not self.unchecked and all(type(x) is np.ndarray for x in arrays):
            return list(arrays)
        unchecked, self.unchecked = self.unchecked, []
        bounds = [x for _, check in unchecked for x in check.values]
        found = backend.fetch([*arrays, *bounds])
        values = iter(found[len(arrays) :])
        for call, check in unchecked:
            try:
                check.judge(list(islice(values, len(check.values))))
            except IndexOutOfRangeError as error:
                raise IndexOutOfRangeError(f"{error}, in call {call} of the step") from None
        return found[: len(arrays)]

    @staticmethod
    def _wrong_device(tokens: Array, error: DeviceError) -> DeviceError:
        place = backend.namespace(tokens).device(tokens)
        return DeviceError(
            f"step: {error}; the tokens are on {place}: numbers as start tokens go to the device of the "
            "state or, without a state, to the default device. Choose it with tg.use_device, or pass "
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
            raise self._wrong_device(tokens, error) from error
        if not xp.is_floating(values):
            raise DecodingError(
                f"step: log-probabilities of dtype {values.dtype} are not real numbers"
            )
        shape = tuple(values.shape)
        M = self.vocabulary_size or (shape[1] if len(shape) == 2 else 0)
        if shape != (tokens.shape[0], M) or not M:
            wanted = f"({tokens.shape[0]}, {self.vocabulary_size or 'M'})"
            raise DecodingError(
                f"step: log-probabilities of shape {shape} for {tokens.shape[0]} tokens; the shape must "
                f"be {wanted}: a row for each token, a column for each token of the vocabulary"
            )
        if self.eos is not None and self.eos >= M:
            raise ArgumentError(f"decode: eos {self.eos} is not in a vocabulary of {M} tokens")
        self.vocabulary_size = M

    def read(self, records: Sequence[Record]) -> list[Record]:
        """Copy the arrays of several steps to the host, by one :meth:`fetch`."""
        arrays = iter(self.fetch([x for one in records for x in one if backend.is_array(x)]))
        return [
            type(one)(*(next(arrays) if backend.is_array(x) else x for x in one)) for one in records
        ]

    def gather(self, state: State, rows: Array) -> State:
        """The state of the prefixes in ``rows``, in memory of its own."""
        xp = backend.namespace(rows)
        return rebuild(state, [_rows(xp, leaf, rows, self.axis) for leaf in flatten(state)])

    def one(self, state: State, row: int) -> State:
        """The state of one prefix, in memory of its own, on the device that it is on."""
        return rebuild(state, [_row(leaf, row, self.axis) for leaf in flatten(state)])

    def joined(self, states: Sequence[State]) -> State:
        """One state with the states of single prefixes as its rows."""
        columns = zip(*(flatten(state) for state in states), strict=True)
        return rebuild(states[0], [_concat(leaves, self.axis) for leaves in columns])


def array_of(x: Any) -> Any:
    """The array of a Tensor, or of an object of another library with DLPack; other values unchanged."""
    return x._data if is_tensor(x) else imported(x)


def _in_library_of(leaf: Any, array: Array) -> Any:
    """An array as a Tensor if ``leaf`` is one, otherwise as an array of the library of ``leaf``."""
    return wrap(array) if is_tensor(leaf) else exported(array, leaf)


def check_values(values: Host, where: str) -> None:
    """Raise DecodingError, naming ``where``, unless all log-probabilities are numbers of at most 0."""
    if (values <= 0).all():
        return
    value = float(values[~(values <= 0)][0])
    if math.isnan(value):
        raise DecodingError(f"step: the log-probability {where} is NaN")
    raise DecodingError(
        f"step: the log-probability {value:.6g} {where} is more than 0; return log-probabilities, such "
        "as those of tg.log_softmax(logits), not logits"
    )


def is_array(leaf: Any) -> bool:
    """Whether a leaf of a state is an array or a Tensor, which has rows; numbers have none."""
    if type(leaf) is np.ndarray or is_tensor(leaf):
        return True
    return leaf is not None and backend.is_array(imported(leaf))


_PASSED_ON = (bool, int, float, complex, str, bytes, np.generic, type(None))
"""Leaves of a state that are passed on unchanged: they belong to all prefixes."""


def check_state(state: State, tokens: Array, axis: int, what: str) -> None:
    """Check that each array of a state has a row for each token, and is on the device of the tokens.

    Raises
    ------
    DecodingError, DeviceError
    """
    rows = tokens.shape[0]
    for i, leaf in enumerate(flatten(state)):
        if not is_array(leaf):
            if isinstance(leaf, _PASSED_ON):
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
                f"decode: {what} array {i} is not on the device of the tokens: {error}"
            ) from error


def start_tokens(start: Any, state: State) -> tuple[Array, bool]:
    """Return the first tokens as an int64 array (B,), and whether ``start`` was a single token.

    They are on the device of the state. If the state has no array, a Tensor or GPU array of tokens stays
    on its own device, and other tokens go to the default device.

    Raises
    ------
    ArgumentError
        A token is not a whole number from 0, or ``start`` has more than one axis.
    DeviceError
        ``start`` is a Tensor or array on another device than the state.
    """
    given = array_of(start)
    host = _host_tokens(given)
    if host is None:
        raise ArgumentError(
            f"decode: start {brief(start)} must be a token, a whole number from 0, or an array of one for "
            "each of B examples. For a prompt, pass its last token, with the state after the others"
        )
    like = next((array_of(leaf) for leaf in flatten(state) if is_array(leaf)), None)
    if is_tensor(start) or (backend.is_array(given) and type(given) is not np.ndarray):
        like = given if like is None else like
        try:
            backend.namespace(like, given)
        except DeviceError as error:
            raise DeviceError(
                f"decode: the state and the start tokens differ in device: {error}; "
                "numbers as start tokens go to the device of the state"
            ) from error
    if like is None:
        device = backend.check_device(default_device())
        xp = backend.namespace_on(device)
    else:
        xp = backend.namespace(like)
        device = xp.device(like)
    return xp.from_numpy(host, device), np.ndim(given) == 0


def _host_tokens(given: Any) -> Host | None:
    """Read tokens as an int64 array (B,) on the host; return None if they are not tokens."""
    try:
        host = on_host(given)
    except (TypeError, ValueError):  # masked, or rows of unequal lengths
        return None
    if host.ndim > 1 or host.dtype.kind not in "iu":
        return None
    tokens = np.atleast_1d(host).astype(np.int64)
    return tokens if tokens.size and tokens.min() >= 0 else None


_PROMPT = (
    "several start tokens are several examples. For a prompt, run the model over all its tokens but the "
    "last, and pass the last token alone as start, with the state after the others"
)
"""The remedy if the tokens of one sequence were passed as start."""


def _check_start(start: Any, tokens: Array, state: State, axis: int) -> None:
    """Check that several start tokens are several examples, and not one prompt.

    They are if the state has a row for each, or, with a state without arrays, if they are an array (B,).

    Raises
    ------
    ArgumentError, DecodingError, DeviceError
    """
    count = tokens.shape[0]
    if isinstance(start, (list, tuple)) and count > 1 and not any(map(is_array, flatten(state))):
        raise ArgumentError(
            f"decode: start {brief(start)} may be a prompt or {count} examples: {_PROMPT}. For {count} "
            "examples without a state, pass an array: start=np.array([...])"
        )
    try:
        check_state(state, tokens, axis, "the initial state:")
    except DecodingError as error:
        raise DecodingError(f"{error}; {_PROMPT}" if count > 1 else str(error)) from None


class Arguments(NamedTuple):
    """The checked arguments that all searches have.

    Attributes
    ----------
    stepper : Stepper
    tokens : array (B,)
        The start tokens, on the device of the search.
    single : bool
        Whether ``start`` was a single token, so that one result is returned and not a list.
    eos : int or None
    scoring : Scoring
    """

    stepper: Stepper
    tokens: Array
    single: bool
    eos: int | None
    scoring: Scoring


def check_arguments(
    step: Step,
    state: State,
    start: Any,
    max_length: int,
    eos: int | None,
    penalty: float,
    axis: int,
) -> Arguments:
    """Check the arguments that all searches have.

    Raises
    ------
    ArgumentError, DecodingError, DeviceError
    """
    end = None if eos is None else check_whole("decode", "eos", eos, 0)
    stepper = Stepper(step, axis, end)
    tokens, single = start_tokens(start, state)
    _check_start(start, tokens, state, stepper.axis)
    T = check_whole("decode", "max_length", max_length, 1)
    scoring = Scoring(_exponent(penalty, T), T, end is not None)
    return Arguments(stepper, tokens, single, end, scoring)


def _exponent(penalty: Any, max_length: int) -> float:
    try:
        exponent = float(penalty)
        usable = math.isfinite(exponent) and math.isfinite(max_length ** abs(exponent))
    except (TypeError, ValueError, OverflowError):
        usable = False
    if not usable:
        raise ArgumentError(f"decode: length_penalty {brief(penalty)} must be a finite number")
    return exponent


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
