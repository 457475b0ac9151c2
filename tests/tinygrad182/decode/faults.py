"""Beam searches with a fault: faults of other libraries, and possible faults of ours.

A fault wraps one function of ``tinygrad182.decode`` while a search runs. The wrapper is given the function
and its arguments, and calls it with other arguments, or returns something else.
"""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np

import tinygrad182 as tg
from tinygrad182._trees import flatten, rebuild
from tinygrad182.arrays import backend

from . import properties as p
from .properties import Property

Change = Callable[..., Any]


@dataclass(frozen=True)
class Fault:
    """A change of one function, and the property that sees it."""

    what: str
    function: str  # such as ``BeamSearch._expand``, wherever in tinygrad182.decode it is
    change: Change  # ``change(function, *arguments)``, called instead of ``function(*arguments)``
    seen_by: Property
    penalties: tuple[float, ...] = ()  # those with which it shows

    def __str__(self) -> str:
        return self.what

    def search(self, *args: Any, **named: Any) -> Any:
        """:func:`tinygrad182.decode.beam_search`, with the fault."""
        with planted(self.function, self.change):
            return tg.decode.beam_search(*args, **named)


@functools.cache
def _modules() -> list[Any]:
    found = pkgutil.walk_packages(tg.decode.__path__, f"{tg.decode.__name__}.")
    return [importlib.import_module(module.name) for module in found]


@functools.cache
def _owners(function: str) -> list[tuple[Any, str]]:
    """The class that has a method, or all modules that have imported a function."""
    owner, _, name = function.rpartition(".")
    if owner:
        owners = [
            m for m in _modules() if getattr(vars(m).get(owner), "__module__", "") == m.__name__
        ]
        return [(getattr(module, owner), name) for module in owners]
    return [(module, name) for module in _modules() if name in vars(module)]


@contextmanager
def planted(function: str, change: Change) -> Iterator[None]:
    """Put a wrapper in a function's place."""
    owners = _owners(function)
    assert owners, f"tinygrad182.decode has no {function}"
    original = getattr(*owners[0])

    @functools.wraps(original)
    def wrapper(*args: Any, **named: Any) -> Any:
        return change(original, *args, **named)

    with ExitStack() as stack:
        for owner, name in owners:
            stack.enter_context(mock.patch.object(owner, name, wrapper))
        yield


@contextmanager
def having(owner: Any, **values: Any) -> Iterator[None]:
    """An object with other values of some attributes."""
    with ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


# --- the state ----------------------------------------------------------------------------------


def _without_reordering(leaf: Any, axis: int, count: int) -> Any:
    """Rows that leave a leaf of the state in its order, repeated if there are more rows to fill."""
    leaf = leaf.numpy() if isinstance(leaf, tg.Tensor) else leaf
    return np.arange(count) % (leaf.shape[axis] if backend.is_array(leaf) else 1)


def gather_reorders_nothing(gather: Any, self: Any, state: Any, rows: Any) -> Any:
    leaves = flatten(state)
    stay = [_without_reordering(leaf, self.axis, len(rows)) for leaf in leaves]
    return rebuild(state, [gather(self, x, own) for x, own in zip(leaves, stay, strict=True)])


def gather_reorders_the_first_part(gather: Any, self: Any, state: Any, rows: Any) -> Any:
    wrong = flatten(gather_reorders_nothing(gather, self, state, rows))
    return rebuild(state, flatten(gather(self, state, rows))[:1] + wrong[1:])


def gather_skips_the_callers_state(gather: Any, self: Any, state: Any, rows: Any) -> Any:
    return gather(self, state, rows) if self.calls else state


def step_is_given_the_tokens_themselves(call: Any, self: Any, tokens: Any, state: Any) -> Any:
    step = self.step
    with having(self, step=lambda _, state: step(tokens, state)):
        return call(self, tokens, state)


def states_of_the_beams_place(keep_states: Any, self: Any, step: Any, state: Any) -> None:
    complete = [one for sequences in self.complete for one in sequences]
    parents = [one.parent for one in complete]
    for one in complete:
        one.parent = 0
    keep_states(self, step, state)
    for one, parent in zip(complete, parents, strict=True):
        one.parent = parent


def states_in_the_steps_memory(keep_states: Any, self: Any, step: Any, state: Any) -> None:
    one = self.stepper.one
    with (
        having(self.stepper, gather=lambda state, rows: (state, rows)),
        having(self.stepper, one=lambda both, n: one(both[0], int(both[1][n]))),
    ):
        keep_states(self, step, state)


# --- pruning and ends -----------------------------------------------------------------------------


def counts_only_the_best(
    counts: Any, self: Any, step: Any, b: int, ended: float, kept: Any, eos: int
) -> bool:
    among = len(kept) < self.width or ended > kept[-1]
    return bool(among and counts(self, step, b, ended, kept, eos))


def counts_among_equals(
    counts: Any, self: Any, step: Any, b: int, ended: float, kept: Any, eos: int
) -> bool:
    return bool((len(kept) and ended == kept[0]) or counts(self, step, b, ended, kept, eos))


def counts_and_forgets(counts: Any, self: Any, step: Any, b: int, *args: Any) -> bool:
    pruned = self.pruned[b]
    answer: bool = counts(self, step, b, *args)
    self.pruned[b] = pruned
    return answer


def improves_at_the_present_length(
    can_improve: Any, self: Any, b: int, kept: Any, length: int
) -> bool:
    with having(self.scoring, reach=self.scoring.score):
        answer: bool = can_improve(self, b, kept, length)
    return answer


def results_finished_by_length(results: Any, self: Any) -> Any:
    found = results(self)
    for result in found:
        result._hypotheses = tuple(
            replace(h, finished=len(h.tokens) < self.scoring.max_length) for h in result
        )
    return found


def unfinished_of_probability_0(
    complete_unfinished: Any, self: Any, examples: Any, state: Any
) -> None:
    step = self.steps[-1]
    for b in examples:
        i = step.places[b]
        for value, parent, token in zip(step.kept[i], step.parents[i], step.tokens[i], strict=True):
            if value == -math.inf:
                self._add(b, step, float(value), int(parent), int(token))
    complete_unfinished(self, examples, state)


def ended_of_probability_0(end: Any, self: Any, b: int, step: Any, eos: int) -> None:
    for parent, value in enumerate(step.ends[step.places[b]].tolist()):
        if value == -math.inf:
            self._add(b, step, value, parent, eos)
    end(self, b, step, eos)


# --- examples and their companions ------------------------------------------------------------------


def advance_from_the_first_example(advance: Any, self: Any, step: Any, going: Any) -> Any:
    places, beams, rows, tokens = advance(self, step, going)
    return places, beams, rows % step.before.shape[1], tokens


def advance_to_the_wrong_places(advance: Any, self: Any, step: Any, going: Any) -> Any:
    places, *rest = advance(self, step, going)
    if len(going) < len(step.places):
        places = {b: i for i, b in enumerate(reversed(list(places)))}
    return places, *rest


def settle_with_the_first(settle: Any, self: Any, step: Any, state: Any) -> Any:
    going = settle(self, step, state)
    return going if len(going) == len(step.places) else []


def settle_with_the_last(settle: Any, self: Any, step: Any, state: Any) -> Any:
    return list(step.places) if settle(self, step, state) else []


def account_for_all_together(account: Any, self: Any) -> None:
    own = self.pruned
    self.pruned = np.full_like(own, -math.inf)
    account(self)
    self.pruned = np.maximum(own, self.pruned.max())


def account_and_forget(account: Any, self: Any) -> None:
    account(self)
    self.pruned[:] = -math.inf


def account_for_the_last_step(account: Any, self: Any) -> None:
    with having(self, steps=self.steps[-1:]):
        account(self)


# --- numbers and order --------------------------------------------------------------------------------


def expand_in_float32(
    expand: Any, self: Any, length: int, places: Any, beams: Any, log_probs: Any
) -> Any:
    return expand(self, length, places, self.xp.astype(beams, "float32"), log_probs)


def expand_and_write(
    expand: Any, self: Any, length: int, places: Any, beams: Any, log_probs: Any
) -> Any:
    if log_probs.flags.writeable:
        np.multiply(log_probs, 1.5, out=log_probs)
    return expand(self, length, places, beams, log_probs)


def candidates_with(change: Callable[[Any], Any]) -> Change:
    """Candidates whose log-probabilities are changed."""

    def changed(best_candidates: Any, *args: Any, **options: Any) -> Any:
        found = best_candidates(*args, **options)
        return found._replace(log_probability=change(found.log_probability))

    return changed


def candidates_from_behind(
    best_candidates: Any, prefixes: Any, tokens: Any, count: int, without: int | None = None
) -> Any:
    """Ties go by the last parent and token: the candidates are reversed, and the result reversed back."""
    (A, K), M = prefixes.shape, tokens.shape[1]
    turned = tokens.reshape(A, K, M)[:, ::-1, ::-1].reshape(A * K, M)
    without = None if without is None else M - 1 - without
    found = best_candidates(prefixes[:, ::-1], turned, count, without=without)
    return found._replace(
        parent=K - 1 - found.parent, token=M - 1 - found.token, top=found.top[:, ::-1]
    )


def candidates_with_the_end(best_candidates: Any, *args: Any, without: int | None = None) -> Any:
    return best_candidates(*args, without=None)


def ranked_by(key: Callable[[Any], Any]) -> Change:
    """Complete sequences in another order."""

    def rank(_: Any, self: Any, b: int) -> None:
        self.complete[b].sort(key=key)
        del self.complete[b][self.width :]

    return rank


def scored_without_the_end(
    add: Any, self: Any, b: int, step: Any, value: float, parent: int, token: int
) -> None:
    add(self, b, step, value, parent, token)
    length = max(1, step.length - (token == self.eos))
    self.complete[b][-1].score = self.scoring.score(value, length)


def prefixes_of_the_wrong_parent(prefixes: Any, self: Any, complete: Any) -> Any:
    steps = [step._replace(parents=0 * step.parents) for step in self.steps]
    with having(self, steps=steps):
        return prefixes(self, complete)


FAULTS = (
    # The state.
    Fault(
        "states are not reordered", "Stepper.gather",
        gather_reorders_nothing,
        p.scores_are_the_models,
    ),
    Fault(
        "only the first part of a state is reordered", "Stepper.gather",
        gather_reorders_the_first_part,
        p.scores_are_the_models,
    ),
    Fault(
        "a hypothesis has the state of the best one", "Stepper.one",
        lambda one, self, state, row: one(self, state, 0),
        p.states_are_those_of_running_again,
    ),
    Fault(
        "the state is that of the beam's place, not of its parent", "BeamSearch._store_states",
        states_of_the_beams_place,
        p.states_are_those_of_running_again,
    ),
    Fault(
        "a hypothesis's state has the rows of all", "Stepper.one",
        lambda one, self, state, row: state,
        p.states_are_those_of_running_again,
    ),
    Fault(
        "the state is the step's own memory", "BeamSearch._store_states",
        states_in_the_steps_memory,
        p.a_step_keeps_its_arrays,
    ),
    Fault(
        "the caller's state is given to the step", "Stepper.gather",
        gather_skips_the_callers_state,
        p.a_step_keeps_its_arrays,
    ),
    Fault(
        "tokens that the step can write into are read again", "Stepper.__call__",
        step_is_given_the_tokens_themselves,
        p.a_step_keeps_its_arrays,
    ),
    # The end token.
    Fault(
        "ended sequences are extended", "best_candidates",
        candidates_with_the_end,
        p.ended_sequences_are_not_extended,
    ),
    Fault(
        "the search stops at the first end token", "BeamSearch._can_improve",
        lambda can, self, b, *args: can(self, b, *args) and not self.complete[b],
        p.equals_the_textbook,
    ),
    Fault(
        "the search stops when K have ended", "BeamSearch._can_improve",
        lambda can, self, b, *args: can(self, b, *args) and len(self.complete[b]) < self.width,
        p.equals_the_textbook,
    ),
    Fault(
        "the search stops by the score at the present length", "BeamSearch._can_improve",
        improves_at_the_present_length,
        p.equals_the_textbook, penalties=(0.6, 1.0, 2.5),
    ),
    Fault(
        "an end token counts only among the K best", "BeamSearch._counts",
        counts_only_the_best,
        p.equals_the_textbook,
    ),
    Fault(
        "one beam takes end tokens that are not the most likely", "BeamSearch._counts",
        lambda counts, *args: True,
        p.one_beam_is_an_argmax_loop,
    ),
    Fault(
        "one beam takes the end token among equals", "BeamSearch._counts",
        counts_among_equals,
        p.one_beam_is_an_argmax_loop,
    ),
    Fault(
        "unfinished sequences do not count", "BeamSearch._complete_unfinished",
        lambda complete, self, examples, state: complete(
            self, examples if self.eos is None else [], state
        ),
        p.equals_the_textbook,
    ),
    Fault(
        "an ended sequence is called unfinished", "BeamSearch._results",
        results_finished_by_length,
        p.ended_sequences_are_not_extended,
    ),
    # Unreachable sequences.
    Fault(
        "more beams than sequences: junk at −1e9", "best_candidates",
        candidates_with(lambda x: np.maximum(x, -1e9)),
        p.only_what_can_be_reached,
    ),
    Fault(
        "unfinished sequences of probability 0 count", "BeamSearch._complete_unfinished",
        unfinished_of_probability_0,
        p.only_what_can_be_reached,
    ),
    Fault(
        "ended sequences of probability 0 count", "BeamSearch._end",
        ended_of_probability_0,
        p.only_what_can_be_reached,
    ),
    # Examples and their companions.
    Fault(
        "states come from another example", "BeamSearch._advance",
        advance_from_the_first_example,
        p.companions_do_not_matter,
    ),
    Fault(
        "all examples stop with the first", "BeamSearch._settle",
        settle_with_the_first,
        p.companions_do_not_matter,
    ),
    Fault(
        "no example stops before the last", "BeamSearch._settle",
        settle_with_the_last,
        p.companions_do_not_matter,
    ),
    Fault(
        "places are not counted anew", "BeamSearch._advance",
        advance_to_the_wrong_places,
        p.companions_do_not_matter,
    ),
    Fault(
        "examples share what they have pruned", "BeamSearch._account",
        account_for_all_together,
        p.companions_do_not_matter,
    ),
    # The certificate.
    Fault(
        "nothing is remembered of what was pruned", "BeamSearch._account",
        account_and_forget,
        p.certificate_is_sound,
    ),
    Fault(
        "only what the last step pruned is remembered", "BeamSearch._account",
        account_for_the_last_step,
        p.certificate_is_sound,
    ),
    Fault(
        "the bound forgets the length still to come", "Scoring.reach",
        lambda reach, self, value, length: self.score(value, length),
        p.certificate_is_sound, penalties=(0.6, 1.0, 2.5),
    ),
    Fault(
        "the bound of a negative penalty is that of a positive one", "Scoring.reach",
        lambda reach, self, value, length: self.score(value, self.max_length),
        p.equals_the_textbook, penalties=(-0.5, -1.0, -2.0),
    ),
    Fault(
        "one beam forgets the end token it did not take", "BeamSearch._counts",
        counts_and_forgets,
        p.certificate_is_sound,
    ),
    # Numbers and order.
    Fault(
        "sums are float32", "BeamSearch._expand",
        expand_in_float32,
        p.float32_models_have_float64_sums,
    ),
    Fault(
        "sums of float64 are rounded to float32", "best_candidates",
        candidates_with(lambda x: x.astype("float32").astype("float64")),
        p.scores_are_the_models,
    ),
    Fault(
        "candidates that tie go by the last", "best_candidates",
        candidates_from_behind,
        p.equals_the_textbook,
    ),
    Fault(
        "hypotheses that tie go by the last", "BeamSearch._rank",
        ranked_by(lambda one: (-one.score, -one.length, -one.parent, -one.token)),
        p.equals_the_textbook,
    ),
    Fault(
        "ended hypotheses go before unfinished ones", "BeamSearch._rank",
        ranked_by(lambda one: -one.score),
        p.equals_the_textbook,
    ),
    Fault(
        "hypotheses are ranked by log-probability", "BeamSearch._rank",
        ranked_by(lambda one: (-one.log_probability, one.length, one.parent, one.token)),
        p.scores_are_the_models,
    ),
    Fault(
        "the length does not count the end token", "BeamSearch._add",
        scored_without_the_end,
        p.scores_are_the_models,
    ),
    Fault(
        "words are read from the wrong parent", "BeamSearch._prefixes",
        prefixes_of_the_wrong_parent,
        p.scores_are_the_models,
    ),
    Fault(
        "the step's log-probabilities are written into", "BeamSearch._expand",
        expand_and_write,
        p.a_step_keeps_its_arrays,
    ),
)  # fmt: skip
