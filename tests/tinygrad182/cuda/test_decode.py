"""Decoding on CUDA: the number of waits, the places of arrays, and the numbers of the CPU."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from models import CharLM
from tests.support import host, moved
from tinygrad182.engine.modes import MODES, PendingCheck, deferred_checks

cupy = pytest.importorskip("cupy")
if not tg.cuda_is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

STAND_IN = getattr(cupy, "__fake__", False)
counts = pytest.mark.skipif(not STAND_IN, reason="only the stand-in counts waits")
CARDS = [f"cuda:{i}" for i in range(min(2, cupy.cuda.runtime.getDeviceCount()))]
cards = pytest.mark.parametrize("card", CARDS)

M, H = 7, 4


@pytest.fixture(autouse=True)
def _host_is_the_default() -> Any:
    """Nothing here goes to a card because it is the default device."""
    with tg.use_device("cpu"):
        yield


# --- steps of all kinds -------------------------------------------------------------------------

_RNG = np.random.default_rng(0)
WEIGHTS = [_RNG.normal(size=(n, H)) for n in (M, M, M, H, H, H)] + [_RNG.normal(size=(H, M))]


def language_model(device: str) -> CharLM:
    return CharLM("abcdefg", H, 3, rng=0, dtype="float64", device=device)


def zeros(device: str, *shape: int) -> tg.Tensor:
    return tg.zeros(shape, dtype="float64", device=device)


def of_one_hot_letters(device: str) -> Any:
    """A table of one-hot rows, an LSTM's cell and a linear layer."""
    cell = tg.nn.LSTMCell(M, H, rng=0, dtype="float64", device=device)
    head = tg.nn.Linear(H, M, rng=1, dtype="float64", device=device)
    letters = tg.eye(M, dtype="float64", device=device)

    def step(tokens: Any, state: Any) -> Any:
        h, c = cell(letters[tokens], state)
        return tg.log_softmax(head(h), axis=-1), (h, c)

    return step


def of_gates_by_hand(device: str) -> Any:
    """A gated recurrent unit that a user wrote, whose tables are indexed three times."""
    xz, xr, xn, hz, hr, hn, out = (tg.tensor(w, device=device) for w in WEIGHTS)

    def step(tokens: Any, h: Any) -> Any:
        z, r = tg.sigmoid(xz[tokens] + h @ hz), tg.sigmoid(xr[tokens] + h @ hr)
        h = (1 - z) * tg.tanh(xn[tokens] + (r * h) @ hn) + z * h
        return tg.log_softmax(h @ out, axis=-1), h

    return step


def of_raw_arrays(device: str) -> Any:
    """A recurrent network in the array library's own functions."""
    table, *_, weight, out = (tg.tensor(w, device=device).data for w in WEIGHTS)
    m = tg.backend.namespace(table).module

    def step(tokens: Any, h: Any) -> Any:
        h = m.tanh(table[tokens] + h @ weight)
        z = h @ out
        z = z - z.max(axis=1, keepdims=True)
        return z - m.log(m.exp(z).sum(axis=1, keepdims=True)), h

    return step


Kind = tuple[Callable[[str], Any], Callable[[str, int], Any], int]
KINDS: dict[str, Kind] = {
    "frozen step": (
        lambda device: language_model(device).frozen_step(),
        lambda device, B: (zeros(device, 1, B, H).data,) * 2,
        1,
    ),
    "frozen step, state None": (
        lambda device: language_model(device).frozen_step(),
        lambda device, B: None,
        1,
    ),
    "CharLM.step": (
        lambda device: language_model(device).step,
        lambda device, B: (zeros(device, 1, B, H),) * 2,
        1,
    ),
    "one-hot letters": (of_one_hot_letters, lambda device, B: (zeros(device, B, H),) * 2, 0),
    "gates by hand": (of_gates_by_hand, lambda device, B: zeros(device, B, H), 0),
    "raw arrays": (of_raw_arrays, lambda device, B: zeros(device, B, H).data, 0),
}
kinds = pytest.mark.parametrize("kind", KINDS)


class Asked:
    """A step that counts its calls."""

    def __init__(self, step: Any) -> None:
        self.step, self.calls = step, 0

    def __call__(self, tokens: Any, state: Any) -> Any:
        self.calls += 1
        return self.step(tokens, state)


def start_on(card: str, kind: str, *tokens: int) -> Any:
    """Numbers, or an array of the card where no state says where the search is to be."""
    start = list(tokens) if len(tokens) > 1 else tokens[0]
    return tg.tensor(np.array(start), device=card) if "None" in kind else start


SEARCHES: dict[str, Callable[..., Any]] = {
    "beam_search": lambda *a, **k: tg.decode.beam_search(*a[:3], 3, *a[3:], **k),
    "penalty": lambda *a, **k: tg.decode.beam_search(*a[:3], 3, *a[3:], length_penalty=0.7, **k),
    "greedy": tg.decode.greedy,
    "trace": lambda *a, **k: tg.decode.beam_search(*a[:3], 3, *a[3:], trace=True, **k),
    "sample": lambda *a, **k: tg.decode.sample(*a, count=5, rng=0, **k),
    "sample of a few": lambda *a, **k: tg.decode.sample(*a, count=5, rng=0, top_k=3, **k),
}
searches = pytest.mark.parametrize("name", SEARCHES)


# --- waits ----------------------------------------------------------------------------------------


@counts
@kinds
@searches
def test_the_host_waits_once_without_an_end_token(name: str, kind: str) -> None:
    """For any number of steps; once more where start tokens on the card have to be looked at."""
    make, state, axis = KINDS[kind]
    step = make("cuda")
    for B, T in ((1, 3), (1, 17), (2, 17)):
        start = start_on("cuda", kind, *range(B))
        with cupy.counted("tinygrad182") as found:
            SEARCHES[name](step, state("cuda", B), start, T, state_axis=axis)
        assert found["sync"] == 1 + ("None" in kind), cupy.WAITS


@counts
@kinds
@searches
def test_the_host_waits_once_a_step_with_one(name: str, kind: str) -> None:
    make, state, axis = KINDS[kind]
    step = Asked(make("cuda"))
    with cupy.counted("tinygrad182") as found:
        SEARCHES[name](
            step, state("cuda", 2), start_on("cuda", kind, 0, 3), 12, eos=5, state_axis=axis
        )
    assert step.calls > 1
    assert found["sync"] <= step.calls + ("None" in kind), cupy.WAITS


@counts
@kinds
def test_exact_search_waits_once_a_call_and_rescoring_once(kind: str) -> None:
    make, state, axis = KINDS[kind]
    step = Asked(make("cuda"))
    start = start_on("cuda", kind, 0)
    with cupy.counted("tinygrad182") as found:
        result = tg.decode.exact_search(
            step, state("cuda", 1), start, 5, state_axis=axis, beam_width=2, max_expansions=50
        )
    assert step.calls > 10
    assert found["sync"] <= step.calls
    if "None" not in kind:
        with cupy.counted("tinygrad182") as found:
            tg.decode.rescore(step, state("cuda", 1), 0, result.tokens, axis)  # type: ignore[union-attr]
        assert found["sync"] == 1, cupy.WAITS


@counts
def test_a_step_is_run_without_waits() -> None:
    """Between its calls too: nothing is looked at before the last one."""
    step = language_model("cuda").step

    def watched(tokens: Any, state: Any) -> Any:
        with cupy.no_waits():
            return step(tokens, state)

    state = (zeros("cuda", 1, 1, H),) * 2
    tg.decode.beam_search(watched, state, 0, 3, 9, eos=5, state_axis=1)
    tg.decode.rescore(watched, state, 0, [1, 2, 3], 1)


# --- the numbers of the CPU -------------------------------------------------------------------------


def facts(results: Any) -> Any:
    """Return what a search has found, its numbers apart."""
    results = results if isinstance(results, list) else [results]
    tokens = [[(h.tokens, h.finished) for h in one] for one in results]
    numbers = [x for one in results for h in one for x in (h.log_probability, h.score)]
    for one in results:
        if isinstance(one, tg.decode.SearchResult):
            tokens.append([one.certified, one.expanded])
            numbers += [one.bound, one.pruned]
            for step in one.lattice.steps if one._lattice else ():
                tokens.append([step.parents.tolist(), step.tokens.tolist(), step.ended])
                numbers += [*step.candidates.ravel(), *step.log_probabilities]
    states = [
        host(part)
        for one in results
        for h in one[:2]
        for part in (h.state if isinstance(h.state, tuple) else (h.state,))
    ]
    return tokens, numbers, states


@cards
@kinds
@pytest.mark.parametrize("name", [*SEARCHES, "exact_search", "exhaustive"])
@pytest.mark.parametrize("eos", [None, 5])
def test_a_card_finds_what_the_cpu_finds(name: str, kind: str, card: str, eos: int | None) -> None:
    make, state, axis = KINDS[kind]
    search = SEARCHES.get(name) or getattr(tg.decode, name)
    T = {"exhaustive": 2, "exact_search": 3}.get(name, 6)
    found = []
    for device in ("cpu", card):
        start = start_on(device, kind, 0, 3)
        results = search(make(device), state(device, 2), start, T, eos=eos, state_axis=axis)
        found.append(facts(results))
    for cpu, gpu in zip(*found, strict=True):
        if isinstance(cpu[0], list):
            assert gpu == cpu
        else:
            for a, b in zip(cpu, gpu, strict=True):
                np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-13)


@cards
def test_rescoring_finds_what_the_cpu_finds(card: str) -> None:
    for kind in ("CharLM.step", "one-hot letters"):
        make, state, axis = KINDS[kind]
        found = []
        for device in ("cpu", card):
            each = tg.decode.rescore(make(device), state(device, 1), 2, [1, 5, 0, 3], axis)
            flow = tg.inspect.gradient_flow(each.sum())
            found.append([host(each), *(host(s.h.grad) for s in flow.values())])
        for cpu, gpu in zip(*found, strict=True):
            np.testing.assert_allclose(gpu, cpu, rtol=1e-11, atol=1e-13)


# --- places of arrays -------------------------------------------------------------------------------


@cards
def test_start_tokens_go_where_the_state_is(card: str) -> None:
    step, state = of_raw_arrays(card), zeros(card, 2, H).data
    expected = [one.tokens for one in tg.decode.greedy(step, state, [1, 2], 5)]  # type: ignore[union-attr]
    host_tokens = np.array([1, 2])
    for start in (
        (1, 2), host_tokens, tg.tensor(host_tokens, device=card), tg.tensor(host_tokens, device=card).data,
        host_tokens.astype("uint8"),
    ):  # fmt: skip
        assert [one.tokens for one in tg.decode.greedy(step, state, start, 5)] == expected  # type: ignore[union-attr]
    assert [h.tokens for h in tg.decode.greedy(step, state[:1], 1, 5)] == expected[:1]
    assert [h.tokens for h in tg.decode.greedy(step, state[:1], np.int64(1), 5)] == expected[:1]


@cards
def test_start_tokens_decide_where_no_state_does(card: str) -> None:
    step = language_model(card).frozen_step()
    tokens = np.array([1, 2])
    expected = language_model("cpu").frozen_step()
    reference = [one.tokens for one in tg.decode.greedy(expected, None, tokens, 5, state_axis=1)]  # type: ignore[union-attr]
    for start in (tg.tensor(tokens, device=card), tg.tensor(tokens, device=card).data):
        found = tg.decode.greedy(step, None, start, 5, state_axis=1)
        assert [one.tokens for one in found] == reference  # type: ignore[union-attr]
    with tg.use_device(card):
        found = tg.decode.greedy(step, None, tokens, 5, state_axis=1)
    assert [one.tokens for one in found] == reference  # type: ignore[union-attr]
    with pytest.raises(
        tg.DeviceError, match=r"tokens are on cpu.*start=tg\.tensor.*model's device"
    ):
        tg.decode.greedy(lambda t, s: (zeros(card, len(t), M), s), None, 0, 5)


@cards
def test_a_state_and_start_tokens_that_contradict_each_other(card: str) -> None:
    step = of_raw_arrays(card)
    there, here = zeros(card, 1, H), zeros("cpu", 1, H)
    for state, start in (
        (there, tg.tensor(np.array([0]))),
        (here, tg.tensor(np.array([0]), device=card)),
        (here.data, tg.tensor(np.array([0]), device=card).data),
    ):
        for search in (tg.decode.greedy, tg.decode.sample, tg.decode.exact_search):
            with pytest.raises(
                tg.DeviceError, match=rf"(?=.*{card})(?=.*cpu).*state and the start"
            ):
                search(step, state, start, 3)  # type: ignore[operator]


@cards
def test_an_array_of_a_state_elsewhere_is_named(card: str) -> None:
    step = of_raw_arrays(card)

    def leaving(tokens: Any, state: Any) -> Any:
        values, h = step(tokens, state)
        return values, (h, np.zeros((len(tokens), 2)))

    where = rf"array 1 is not .*{card}.*cpu \(numpy"
    with pytest.raises(tg.DeviceError, match="the initial state: " + where):
        tg.decode.greedy(step, (zeros(card, 1, H), np.zeros((1, 2))), 0, 3)
    with pytest.raises(tg.DeviceError, match="step returned a state whose " + where):
        tg.decode.greedy(leaving, zeros(card, 1, H).data, 0, 3)
    with pytest.raises(tg.DeviceError, match="the initial state: " + where):
        tg.decode.rescore(step, (zeros(card, 1, H), np.zeros((1, 2))), 0, [1])


@cards
def test_the_state_of_a_hypothesis_is_on_its_card(card: str) -> None:
    """The state is read while another card is the current one, and has memory of its own."""
    make, state, axis = KINDS["CharLM.step"]
    step = make(card)
    for found in (
        tg.decode.beam_search(step, state(card, 1), 0, 3, 5, state_axis=axis),
        tg.decode.sample(step, state(card, 1), 0, 5, state_axis=axis, count=2, rng=0),
        tg.decode.exact_search(step, state(card, 1), 0, 4, state_axis=axis),
    ):
        h, c = found.state  # type: ignore[union-attr]
        assert h.device == c.device == card
        assert h.shape == (1, 1, H)
        on = tg.decode.greedy(step, (h, c), found.tokens[-1], 3, state_axis=axis)  # type: ignore[union-attr]
        assert len(on.tokens) == 3  # type: ignore[union-attr]


# --- errors that come later on a card ---------------------------------------------------------------


def looking_up(device: str, rows: int, change: Any = None) -> Any:
    """A step with a table of so many rows, for a vocabulary of M."""
    embedding = tg.nn.Embedding(rows, 2, rng=0, device=device)
    values = np.log(np.random.default_rng(1).dirichlet(np.ones(M)))
    row = tg.tensor(values, device=device)

    def step(tokens: Any, state: Any) -> Any:
        if change is not None:
            change(tokens)
        found = embedding(tokens)
        return row + 0 * found.sum(axis=1, keepdims=True), state

    return step


LATE: dict[str, Callable[[Any, Any], Any]] = {
    "beam_search": lambda step, state: tg.decode.beam_search(step, state, 0, M, 4),
    "end token": lambda step, state: tg.decode.beam_search(step, state, 0, M, 4, eos=0),
    "exhaustive": lambda step, state: tg.decode.exhaustive(step, state, 0, 3),
    "exact_search": lambda step, state: tg.decode.exact_search(step, state, 0, 4, beam_width=M),
    "sample": lambda step, state: tg.decode.sample(step, state, 0, 4, count=30, rng=0),
    "sample, end token": lambda step, state: tg.decode.sample(
        step, state, 0, 4, 0, count=30, rng=0
    ),
    "rescore": lambda step, state: tg.decode.rescore(step, state, 0, [M - 1, 0]),
}


@cards
@pytest.mark.parametrize("name", LATE)
def test_a_token_beyond_the_table_raises(name: str, card: str) -> None:
    """CuPy wraps it around; the bounds are looked at when the host reads the step."""
    told = r"indices from \d to 6; they must lie in \[0, 6\), in call [23] of the step"
    with pytest.raises(tg.IndexOutOfRangeError, match=told):
        LATE[name](looking_up(card, M - 1), zeros(card, 1, 1))
    LATE[name](looking_up(card, M), zeros(card, 1, 1))


@cards
def test_tokens_that_the_step_has_changed_are_looked_at_too(card: str) -> None:
    def further(tokens: Any) -> None:
        tokens += 1

    LATE["beam_search"](looking_up(card, M + 1, further), zeros(card, 1, 1))
    with pytest.raises(tg.IndexOutOfRangeError, match="from 1 to 7"):
        LATE["beam_search"](looking_up(card, M, further), zeros(card, 1, 1))


def test_what_a_step_has_indexed_is_not_kept_for_the_check() -> None:
    """Otherwise a search would hold the activations of all its steps."""
    seen: list[Any] = []

    def step(tokens: Any, state: Any) -> Any:
        assert all(x() is None for x in seen)
        activations = state + tg.ones((len(tokens), M), dtype="float64", device="cuda")
        rows = tg.tensor(np.arange(len(tokens)), device="cuda")
        found = activations[rows, tg.tensor(tokens)]
        seen[:] = [weakref.ref(x) for x in (activations.data, rows.data)]
        return math.log(1 / M) + 0 * activations, 0 * found[:, None]

    tg.decode.beam_search(step, zeros("cuda", 1, 1), 0, 2, 4)


def test_a_start_token_beyond_the_vocabulary_is_in_the_table() -> None:
    """A table may have a row for a start token that no step predicts."""
    assert tg.decode.greedy(looking_up("cuda", M + 1), zeros("cuda", 1, 1), M, 4)
    with pytest.raises(tg.IndexOutOfRangeError, match=r"from 7 to 7.*in call 1 of the step"):
        tg.decode.greedy(looking_up("cuda", M), zeros("cuda", 1, 1), M, 4)


def test_checks_are_deferred_inside_the_context_alone() -> None:
    x, far = tg.ones(3, device="cuda"), tg.tensor(np.array([5]), device="cuda")
    pending: list[PendingCheck] = []
    seen: list[Any] = []

    def elsewhere() -> None:
        seen.append(MODES.get().pending)
        try:
            _ = x[far]
        except tg.IndexOutOfRangeError as error:
            seen.append(error)

    with deferred_checks(pending):
        _ = x[far]
        with tg.no_grad(), tg.use_device("cuda"), pytest.raises(tg.IndexOutOfRangeError):
            _ = x[[5]]  # data of the host is checked there
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert seen[0] is None
    assert isinstance(seen[1], tg.IndexOutOfRangeError)
    [check] = pending
    with pytest.raises(tg.IndexOutOfRangeError, match=r"5.*axis 0"):
        check.judge(tg.backend.fetch(check.values))
    with pytest.raises(KeyError), deferred_checks(pending):
        raise KeyError
    with pytest.raises(tg.IndexOutOfRangeError):
        _ = x[far]
    assert len(pending) == 1


def tabled(card: str, *rows: list[float]) -> Any:
    """Step t gives row t of log-probabilities; the state counts the steps."""
    table = tg.tensor(np.array(rows), device=card)

    def step(tokens: Any, count: Any) -> Any:
        return table[count.astype("int64")], count + 1

    return step


@cards
def test_wrong_numbers_raise_with_their_step(card: str) -> None:
    ok, wrong = [math.log(0.5)] * 2, [math.nan, math.log(0.5)]
    step, state = tabled(card, ok, wrong, ok), zeros(card, 1)
    with pytest.raises(tg.DecodingError, match=r"step 2, parent 0, .*after tokens \[0\] is NaN"):
        tg.decode.beam_search(step, state, 0, 2, 3)
    with pytest.raises(tg.DecodingError, match="step 2 is NaN"):
        tg.decode.sample(step, state, 0, 3)
    with pytest.raises(tg.DecodingError, match="token 0 at t = 1 is NaN"):
        tg.decode.rescore(step, state, 0, [0, 0, 0])


@cards
def test_what_a_step_says_after_a_dead_end_is_not_looked_at(card: str) -> None:
    """The search does not wait to see a dead end, and so the step is asked about it once more."""
    nothing, wrong = [-math.inf] * 2, [math.nan, 3.0]
    ok = [math.log(0.5)] * 2
    assert not tg.decode.sample(tabled(card, ok, nothing, wrong, wrong), zeros(card, 1), 0, 4)
    assert not tg.decode.greedy(tabled(card, ok, nothing, wrong, wrong), zeros(card, 1), 0, 4)

    def half(tokens: Any, state: Any) -> Any:
        """Give nothing after token 1; what comes after that is not a log-probability."""
        m = tg.backend.namespace(tokens).module
        dead = state | (tokens == 1)
        values = m.where(dead[:, None], m.where(state[:, None], 3.0, -math.inf), math.log(0.5))
        return m.broadcast_to(values, (len(tokens), 2)).copy(), dead

    state = moved(np.zeros(1, bool), card)
    drawn = tg.decode.sample(half, state, 0, 4, count=64, rng=0)
    alive = tg.decode.sample(half, np.zeros(1, bool), 0, 4, count=64, rng=0)
    assert [h.tokens for h in drawn] == [h.tokens for h in alive]  # type: ignore[union-attr]
    assert 0 < len(drawn) < 64
