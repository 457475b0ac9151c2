"""Beam searches with a fault: those of other libraries, and those that ours could have had.

A fault is one piece of one function written otherwise. The function with the fault takes the place of the
right one while the search runs.
"""

from __future__ import annotations
import __future__ as future

import functools
import importlib
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any
from unittest import mock

import tinygrad182 as tg

from . import properties as p
from .properties import Property


@dataclass(frozen=True)
class Fault:
    """A change of one function, and the property that sees it."""

    what: str
    function: str  # from tinygrad182.decode on
    before: str
    after: str
    seen_by: Property
    penalties: tuple[float, ...] = ()  # those with which it shows

    def __str__(self) -> str:
        return self.what

    @functools.cached_property
    def _faulty(self) -> tuple[Any, str, Any]:
        """The function's owner, its name, and it with the fault."""
        module_name, *path, name = self.function.split(".")
        module = importlib.import_module(f"tinygrad182.decode.{module_name}")
        owner = getattr(module, path[0]) if path else module
        original = getattr(owner, name)
        text = textwrap.dedent(inspect.getsource(original))
        assert text.count(self.before) == 1, f"{self.function} no longer says {self.before!r} once"
        code = compile(
            text.replace(self.before, self.after), module.__file__ or "", "exec",
            future.annotations.compiler_flag,
        )  # fmt: skip
        scope: dict[str, Any] = {}
        exec(code, original.__globals__, scope)
        return owner, name, scope[name]

    def search(self, *args: Any, **named: Any) -> Any:
        """:func:`tinygrad182.decode.beam_search`, with the fault."""
        with mock.patch.object(*self._faulty):
            return tg.decode.beam_search(*args, **named)


GATHER = "[_rows(xp, leaf, rows, self.axis) for leaf in flatten(state)]"
# Each row where it is, as often as there are rows to fill: no reordering.
IN_PLACE = "xp.arange(len(rows)) % (array_of(leaf).shape[self.axis] if is_array(leaf) else 1)"
RANK = "(-one.score, one.length, one.parent, one.token)"

FAULTS = (
    # The state.
    Fault(
        "states are not reordered", "stepping.Stepper.gather", GATHER,
        f"[_rows(xp, leaf, {IN_PLACE}, self.axis) for leaf in flatten(state)]",
        p.scores_are_the_models,
    ),
    Fault(
        "only the first part of a state is reordered", "stepping.Stepper.gather", GATHER,
        f"[_rows(xp, leaf, {IN_PLACE} if n else rows, self.axis) for n, leaf in enumerate(flatten(state))]",
        p.scores_are_the_models,
    ),
    Fault(
        "a hypothesis has the state of the best one", "beam.BeamSearch._keep_states",
        "kept, n)", "kept, 0)",
        p.states_are_those_of_running_again,
    ),
    Fault(
        "the state is that of the beam's place, not of its parent", "beam.BeamSearch._keep_states",
        "sequence.parent for sequence in own", "0 * sequence.parent for sequence in own",
        p.states_are_those_of_running_again,
    ),
    Fault(
        "a hypothesis's state has the rows of all", "stepping.Stepper.one",
        "rebuild(state, [_row(leaf, row, self.axis) for leaf in flatten(state)])", "state",
        p.states_are_those_of_running_again,
    ),
    Fault(
        "the state is the step's own memory", "beam.BeamSearch._keep_states",
        "kept, n)", "state, rows[n])",
        p.a_step_keeps_its_arrays,
    ),
    Fault(
        "the caller's state is given to the step", "beam.BeamSearch.run",
        "state = self.stepper.gather(state, xp.arange(B))", "",
        p.a_step_keeps_its_arrays,
    ),
    Fault(
        "tokens that the step can write into are read again", "stepping.Stepper.__call__",
        "xp.copy(tokens)", "tokens",
        p.a_step_keeps_its_arrays,
    ),
    # The end token.
    Fault(
        "ended sequences are extended", "beam.BeamSearch._expand",
        "without=self.eos", "without=None",
        p.ended_sequences_are_not_extended,
    ),
    Fault(
        "the search stops at the first end token", "beam.BeamSearch._can_improve",
        "len(ranked) < self.width or reach > ranked[-1].score", "not ranked",
        p.equals_the_textbook,
    ),
    Fault(
        "the search stops when K have ended", "beam.BeamSearch._can_improve",
        "reach > ranked[-1].score", "False",
        p.equals_the_textbook,
    ),
    Fault(
        "the search stops by the score at the present length", "beam.BeamSearch._can_improve",
        "self.scoring.reach(float(kept[0]), length)", "self.scoring.score(float(kept[0]), length)",
        p.equals_the_textbook, penalties=(0.6, 1.0, 2.5),
    ),
    Fault(
        "an end token counts only among the K best", "beam.BeamSearch._counts",
        "if not self.greedy or not len(kept) or ended > kept[0]:",
        "if len(kept) < self.width or ended > kept[-1]:",
        p.equals_the_textbook,
    ),
    Fault(
        "one beam takes end tokens that are not the most likely", "beam.BeamSearch._counts",
        "not self.greedy", "True",
        p.one_beam_is_an_argmax_loop,
    ),
    Fault(
        "one beam takes the end token among equals", "beam.BeamSearch._counts",
        "eos < int(step.tokens[step.places[b], 0])", "True",
        p.one_beam_is_an_argmax_loop,
    ),
    Fault(
        "unfinished sequences do not count", "beam.BeamSearch._complete_unfinished",
        "if value > -math.inf:", "if self.eos is None:",
        p.equals_the_textbook,
    ),
    Fault(
        "an ended sequence is called unfinished", "beam.BeamSearch._results",
        "one.token == self.eos", "one.length < self.scoring.max_length",
        p.ended_sequences_are_not_extended,
    ),
    # What cannot be reached.
    Fault(
        "more beams than sequences: junk at −1e9", "selection._largest",
        "return xp.index(x, (rows, at)), at", "return xp.maximum(xp.index(x, (rows, at)), -1e9), at",
        p.only_what_can_be_reached,
    ),
    Fault(
        "unfinished sequences of probability 0 count", "beam.BeamSearch._complete_unfinished",
        "value > -math.inf", "True",
        p.only_what_can_be_reached,
    ),
    Fault(
        "ended sequences of probability 0 count", "beam.BeamSearch._end",
        "value > -math.inf and", "",
        p.only_what_can_be_reached,
    ),
    # Examples and their companions.
    Fault(
        "states come from another example", "beam.BeamSearch._advance",
        "parents + step.before.shape[1] * chosen[:, None]", "parents + 0 * chosen[:, None]",
        p.companions_do_not_matter,
    ),
    Fault(
        "all examples stop with the first", "beam.BeamSearch._settle",
        "return going", "return going if len(going) == len(step.places) else []",
        p.companions_do_not_matter,
    ),
    Fault(
        "no example stops before the last", "beam.BeamSearch._settle",
        "return going", "return list(step.places) if going else []",
        p.companions_do_not_matter,
    ),
    Fault(
        "places are not counted anew", "beam.BeamSearch._advance",
        "{b: i for i, b in enumerate(going)}", "{b: i for i, b in enumerate(reversed(going))}",
        p.companions_do_not_matter,
    ),
    Fault(
        "examples share what they have pruned", "beam.BeamSearch._account",
        "np.maximum(self.pruned[examples], best)", "np.maximum(self.pruned[examples], best.max())",
        p.companions_do_not_matter,
    ),
    # The certificate.
    Fault(
        "nothing is remembered of what was pruned", "beam.BeamSearch._account",
        "np.maximum(self.pruned[examples], best)", "-math.inf",
        p.certificate_is_sound,
    ),
    Fault(
        "only what the last step pruned is remembered", "beam.BeamSearch._account",
        "list(same)", "list(same)[-1:]",
        p.certificate_is_sound,
    ),
    Fault(
        "the bound forgets the length still to come", "result.Scoring.reach",
        "return self.score(log_probability, shortest if self.penalty < 0 else self.max_length)",
        "return self.score(log_probability, length)",
        p.certificate_is_sound, penalties=(0.6, 1.0, 2.5),
    ),
    Fault(
        "the bound of a negative penalty is that of a positive one", "result.Scoring.reach",
        "shortest if self.penalty < 0 else self.max_length", "self.max_length",
        p.equals_the_textbook, penalties=(-0.5, -1.0, -2.0),
    ),
    Fault(
        "one beam forgets the end token it did not take", "beam.BeamSearch._counts",
        "self.pruned[b] = max(self.pruned[b], self.scoring.score(ended, step.length))", "pass",
        p.certificate_is_sound,
    ),
    # Numbers and order.
    Fault(
        "sums are float32", "beam.BeamSearch.run",
        'dtype=xp.dtype("float64")', 'dtype=xp.dtype("float32")',
        p.float32_models_have_float64_sums,
    ),
    Fault(
        "sums of float64 are rounded to float32", "selection._largest",
        "return xp.index(x, (rows, at)), at",
        'return xp.astype(xp.astype(xp.index(x, (rows, at)), "float32"), "float64"), at',
        p.scores_are_the_models,
    ),
    Fault(
        "candidates that tie go by the last", "selection._largest",
        "xp.argsort(-x, axis=1)[:, :count]",
        "(x.shape[1] - 1 - xp.argsort(-x[:, ::-1], axis=1))[:, :count]",
        p.equals_the_textbook,
    ),
    Fault(
        "hypotheses that tie go by the last", "beam.BeamSearch._rank",
        RANK, "(-one.score, -one.length, -one.parent, -one.token)",
        p.equals_the_textbook,
    ),
    Fault(
        "ended hypotheses go before unfinished ones", "beam.BeamSearch._rank",
        RANK, "(-one.score,)",
        p.equals_the_textbook,
    ),
    Fault(
        "hypotheses are ranked by log-probability", "beam.BeamSearch._rank",
        RANK, "(-one.log_probability, one.length, one.parent, one.token)",
        p.scores_are_the_models,
    ),
    Fault(
        "the length does not count the end token", "beam.BeamSearch._add",
        "self.scoring.score(value, step.length)",
        "self.scoring.score(value, max(1, step.length - (token == self.eos)))",
        p.scores_are_the_models,
    ),
    Fault(
        "words are read from the wrong parent", "beam.BeamSearch._prefixes",
        "= step.parents[at]", "= 0 * step.parents[at]",
        p.scores_are_the_models,
    ),
    Fault(
        "the step's log-probabilities are written into", "beam.BeamSearch._expand",
        "found = ",
        "log_probs.flags.writeable and np.multiply(log_probs, 1.5, out=log_probs)\n    found = ",
        p.a_step_keeps_its_arrays,
    ),
)  # fmt: skip
