"""The cost of a search in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.questions.beam_cost.measure import LAST, Costs, slopes

if TYPE_CHECKING:
    from experiments.questions.beam_cost import BeamCostOptions


def headline(found: Costs) -> str:
    """The reason, then the cost of the longest search, both ways."""
    costs = next(iter(found.by_length.values()))
    longest = costs[-1]
    return (
        "With its state stored, a hypothesis goes on by one step of the model; without it, the model runs "
        "again over all tokens so far, so a search of twice the length costs four times as much. "
        f"At T = {longest.length} (K = {longest.width}, M = {longest.vocabulary}) storing the state takes "
        f"{longest.stored * 1e3:.0f} ms and running again {longest.again * 1e3:.0f} ms, "
        f"{longest.again / longest.stored:.0f} times as long, for the same hypotheses. The time grows as T "
        f"to the power {slopes(costs, 'stored'):.2f} and {slopes(costs, 'again'):.2f}."
    )


def sentences(opts: BeamCostOptions, found: Costs) -> tuple[str, ...]:
    """Slopes over T, K and M, and what has to be stored."""
    said = [
        "A hypothesis must store its tokens, its log-probability and the model's state after the last "
        f"token: for this LSTM 2 × {opts.hidden_size} numbers (hidden state and cell state). The state can "
        "be computed again from the tokens alone, at the price below.",
        "Running again costs T²/2 · K steps of the model, and choosing among K·M candidates T times. An "
        "estimate of T² · K · M log M counts the choice at every one of these steps: it is an upper bound.",
    ]
    for vocabulary, costs in found.by_length.items():
        last = costs[-LAST:]
        said.append(
            f"M = {vocabulary}, K = {costs[0].width}, T from {last[0].length} to {last[-1].length}: the "
            f"time grows as T to the power {slopes(costs, 'stored'):.2f} with the state stored, "
            f"{slopes(costs, 'again'):.2f} run again."
        )
    for costs, name in ((found.by_width, "width"), (found.by_vocabulary, "vocabulary")):
        if len(costs) > 1:
            first, last_cost = costs[0], costs[-1]
            said.append(
                f"Over the {name}, from {getattr(first, name)} to {getattr(last_cost, name)} at T = "
                f"{first.length}: {first.stored * 1e3:.1f} to {last_cost.stored * 1e3:.1f} ms with the "
                f"state stored, {first.again * 1e3:.0f} to {last_cost.again * 1e3:.0f} ms run again."
            )
    return tuple(said)
