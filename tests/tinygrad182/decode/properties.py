"""Properties of every beam search. Each one takes the search to check, which may be a faulty one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

import tinygrad182 as tg
from tests.oracles import beam_search
from tests.support import array, const, host, share_memory
from tinygrad182._trees import flatten, rebuild
from tinygrad182.arrays.namespaces import is_array

from .cases import Case, Search

Property = Callable[[Case, Search], None]


def _assert_same(case: Case, found: Any, expected: Any) -> None:
    """Check that two searches found equal hypotheses."""
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    for h, e in zip(found, expected, strict=True):
        assert case.same(h.log_probability, e.log_probability)
        assert case.same(h.score, e.score)


def equals_the_textbook(case: Case, search: Search) -> None:
    """Equal to the textbook: ties by (score, length, parent, token), ends from every beam, no early stop.

    The bound too is that of the textbook, which goes on to the last step.
    """
    for b, result in enumerate(case.run(search)):
        expected = beam_search.beam(case.next_token(b), case.width, case.rules)
        _assert_same(case, result, expected.hypotheses)
        assert case.same(result.bound, expected.bound)
        assert result.certified == expected.certified


def certificate_is_sound(case: Case, search: Search) -> None:
    """The optimum of all sequences is not above the bound; a certified best one is the optimum."""
    for b, result in enumerate(case.run(search)):
        every = beam_search.everything(case.next_token(b), case.rules)
        best = result.score if result else -math.inf
        optimum = every[0].score if every else -math.inf
        slack = case.tolerance * (1 + abs(optimum)) if every else 0.0
        assert optimum <= result.bound + slack
        assert not result.certified or case.same(best, optimum)
        assert result.bound == max(best, result.pruned)
        assert result.gap == (0.0 if result.certified else result.bound - best)
        assert result.certified == (result.bound == best)


def certificate_covers_what_is_missing(case: Case, search: Search) -> None:
    """A sequence that was not returned is not better than the last one returned, or a pruned prefix."""
    for b, result in enumerate(case.run(search)):
        full = len(result) == case.width
        excused = max(result.pruned, result[-1].score if full else -math.inf)
        found = {h.tokens for h in result}
        for one in beam_search.everything(case.next_token(b), case.rules):
            assert one.tokens in found or one.score <= excused + case.tolerance * (
                1 + abs(one.score)
            )


def one_beam_is_an_argmax_loop(case: Case, search: Search) -> None:
    """The most likely token, again and again: bit for bit."""
    rules = case.rules._replace(penalty=0.0)
    for b in case.each():
        [result] = case.of([b]).run(search, beam_width=1, length_penalty=0.0)
        tokens: list[int] = []
        total, last = 0.0, case.starts[b]
        state = case.model.state([case.examples[b]])
        while not rules.complete(tuple(tokens)) and total > -math.inf:
            with tg.no_grad():
                values, state = case.model.step(const(np.array([last])).data, state)
            last = int(np.argmax(host(values)[0]))
            tokens.append(last)
            total += float(host(values)[0, last])
        if total == -math.inf:
            assert not result
        else:
            assert [h.tokens for h in result] == [tuple(tokens)]
            assert result.log_probability == result.score == total  # not one bit less


def widest_is_exhaustive(case: Case, search: Search) -> None:
    """K = M^T: every sequence that can be reached, and a proof that these are all."""
    width = case.model.M**case.rules.max_length
    for b, result in enumerate(case.run(search, beam_width=max(width, 2))):
        every = beam_search.everything(case.next_token(b), case.rules)
        assert sorted(h.tokens for h in result) == sorted(one.tokens for one in every)
        score = {one.tokens: one.score for one in every}
        assert all(case.same(h.score, score[h.tokens]) for h in result)
        assert result.certified
        assert result.pruned == -math.inf
        assert result.gap == 0


def scores_are_the_models(case: Case, search: Search) -> None:
    """Each log-probability is that of the tokens given to the model; best first, no two alike."""
    for b, result in enumerate(case.run(search)):
        for h in result:
            expected = beam_search.rescored(case.next_token(b), h.tokens)
            assert math.isclose(h.log_probability, expected, rel_tol=1e-10, abs_tol=1e-10)
            assert h.score == h.log_probability / len(h.tokens) ** case.rules.penalty
        assert all(a.score >= z.score for a, z in pairwise(result))
        assert len({h.tokens for h in result}) == len(result) <= case.width


def ended_sequences_are_not_extended(case: Case, search: Search) -> None:
    """The end token comes last and nowhere else; a hypothesis without one has ``max_length`` tokens."""
    for result in case.run(search):
        for h in result:
            assert case.rules.eos not in h.tokens[:-1]
            assert h.finished == (h.tokens[-1] == case.rules.eos)
            assert h.finished or len(h.tokens) == case.rules.max_length


def only_what_can_be_reached(case: Case, search: Search) -> None:
    """No hypothesis of probability 0; where nothing was pruned, all that can be reached, up to K."""
    for b, result in enumerate(case.run(search)):
        every = {one.tokens for one in beam_search.everything(case.next_token(b), case.rules)}
        assert all(h.tokens in every and h.log_probability > -math.inf for h in result)
        if result.pruned == -math.inf:
            assert len(result) == min(case.width, len(every))


def companions_do_not_matter(case: Case, search: Search) -> None:
    """An example has the result that it has alone, whatever the others and its place among them are."""
    alone = [case.of([b]).run(search)[0] for b in case.each()]
    for order in (list(case.each()), [*reversed(case.each()), 0, 0]):
        for b, result in zip(order, case.of(order).run(search), strict=True):
            _assert_same(case, result, alone[b])
            for name in ("pruned", "bound"):
                assert case.same(getattr(result, name), getattr(alone[b], name))
            assert (result.certified, result.expanded) == (alone[b].certified, alone[b].expanded)


def states_are_those_of_running_again(case: Case, search: Search) -> None:
    """The state of a hypothesis is one row, and the model's state after all tokens but the last."""
    for b, result in enumerate(case.run(search)):
        for h in result:
            tokens = (case.starts[b], *h.tokens[:-1])
            expected = case.model.parts_after(case.examples[b], tokens)
            for part, other in zip(case.model.parts(h.state), expected, strict=True):
                assert part.shape == other.shape
                np.testing.assert_allclose(part, other, rtol=0, atol=1e-10)


def states_go_on(case: Case, search: Search) -> None:
    """A search from a hypothesis's state and last token continues after all of its tokens."""
    for b, result in enumerate(case.run(search)):
        for h in result[:2]:
            on = search(
                case.model.step, h.state, h.tokens[-1], case.width, 2, eos=case.rules.eos,
                state_axis=case.model.axis,
            )  # fmt: skip
            behind = case.next_token(b)
            expected = beam_search.beam(
                lambda tokens, behind=behind, h=h: behind(h.tokens + tokens),
                case.width,
                case.rules._replace(max_length=2, penalty=0.0),
            )
            _assert_same(case, on, expected.hypotheses)


def a_step_keeps_its_arrays(case: Case, search: Search) -> None:
    """A step may use its results again and write into its arguments: the search has copies."""
    buffers: dict[Any, Any] = {}
    returned: list[tuple[Any, Any]] = []

    def kept(place: int, x: Any) -> Any:
        if not is_array(x):
            return x
        buffer = buffers.setdefault((place, x.shape), x.copy())
        buffer[...] = x
        returned.append((buffer, x.copy()))
        return buffer

    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        for buffer, copy in returned:
            np.testing.assert_array_equal(
                host(buffer), host(copy)
            )  # not written since the last call
        returned.clear()
        given = [tokens, *filter(is_array, flatten(state))]
        values, state = case.model.step(tokens, state)
        leaves = [kept(n, leaf) for n, leaf in enumerate(flatten(state), 1)]
        for x in given:
            if not any(share_memory(x, buffer) for buffer in buffers.values()):
                x[...] = -1
        return kept(0, values), rebuild(state, leaves)

    plain = case.run(search)
    state = case.model.state(case.examples)
    again = case.run(search, step=step, state=state)
    for part, expected in zip(
        case.model.parts(state), case.model.parts(case.model.state(case.examples)), strict=True
    ):
        np.testing.assert_array_equal(part, expected)  # the caller's own
    for result, other in zip(again, plain, strict=True):
        _assert_same(case, result, other)
        for buffer in buffers.values():
            buffer[...] = 0
        for h, o in zip(result, other, strict=True):
            for part, expected in zip(
                case.model.parts(h.state), case.model.parts(o.state), strict=True
            ):
                np.testing.assert_array_equal(part, expected)


def float32_models_have_float64_sums(case: Case, search: Search) -> None:
    """Log-probabilities of float32 are added without losing any more."""
    if not case.model.exact:
        return

    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        values, state = case.model.step(tokens, state)
        narrow = host(values).astype(np.float32)
        return const(narrow) if isinstance(values, tg.Tensor) else array(narrow), state

    def next_token(b: int, tokens: tuple[int, ...]) -> list[float]:
        values: list[float] = np.float32(case.next_token(b)(tokens)).astype(float).tolist()
        return values

    for b, result in enumerate(case.run(search, step=step)):
        expected = beam_search.beam(functools.partial(next_token, b), case.width, case.rules)
        _assert_same(case, result, expected.hypotheses)


SMALL: tuple[Property, ...] = (
    certificate_is_sound,
    certificate_covers_what_is_missing,
    widest_is_exhaustive,
    only_what_can_be_reached,
)
"""Properties that ask for all sequences there are."""

PROPERTIES: tuple[Property, ...] = (
    equals_the_textbook,
    one_beam_is_an_argmax_loop,
    scores_are_the_models,
    ended_sequences_are_not_extended,
    companions_do_not_matter,
    states_are_those_of_running_again,
    states_go_on,
    a_step_keeps_its_arrays,
    float32_models_have_float64_sums,
    *SMALL,
)

OFTEN: tuple[Property, ...] = (equals_the_textbook, certificate_is_sound, companions_do_not_matter)
"""Properties that see faults which few searches show."""
