"""Sentences on gradients and states under several nonlinearities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.drawing.numbers import log10
from experiments.drawing.words import spread
from experiments.questions.nonlinearity.measure import Seen, exploding, near_zero, of_kind, typical
from experiments.regressors.flow import FACTOR, FACTOR_DECADES
from experiments.regressors.networks import NONLINEARITIES, NONLINEARITY_TEXT
from experiments.regressors.untrained import UntrainedOptions


def headline(opts: UntrainedOptions, found: Sequence[Seen]) -> str:
    """The effect of each nonlinearity at the largest radius, and of small inputs."""
    top = max(each.network.radius for each in found)
    at_top = [each for each in found if each.network.radius == top]
    usual = [each for each in at_top if not each.halvings]
    changes = ", ".join(
        f"{NONLINEARITY_TEXT[kind]} {_change(of_kind(usual, kind))}"
        for kind in dict.fromkeys(each.network.nonlinearity for each in usual)
    )
    tanh = [each for each in of_kind(at_top, "tanh") if each.halvings]
    small = f"; with {tanh[0].inputs}, tanh {_change(tanh)}" if tanh else ""
    return (
        "A saturated unit passes hardly any gradient, and a ReLU unit that is off passes none. At "
        f"spectral radius {top:g} ({opts.seeds_text}), from step {opts.length - 1} back to step 0, the "
        f"gradient is multiplied by: {changes}{small}."
    )


def _change(drawn: Sequence[Seen]) -> str:
    """By what the gradient changes; in words where that is not a number."""
    logs = [each.flow.growth for each in drawn if math.isfinite(each.flow.growth)]
    rest = dict.fromkeys(each.verdict for each in drawn if not math.isfinite(each.flow.growth))
    return " or ".join([*([f"×{spread(logs)}"] if logs else []), *rest])


def sentences(
    opts: UntrainedOptions, found: Sequence[Seen], draws: Sequence[Seen]
) -> tuple[str, ...]:
    """States, the two factors, verdicts, and whatever died or overflowed."""
    said = []
    top = max(each.network.radius for each in found)
    usual = [each for each in found if each.network.radius == top and not each.halvings]
    for kind in dict.fromkeys(each.network.nonlinearity for each in usual):
        drawn = of_kind(usual, kind)
        factors = [(typical(each.saturation), typical(each.weight)) for each in drawn]
        saturations = [s for s, _ in factors if s is not None]
        weights = [w for _, w in factors if w is not None]
        weight = "$W_h$" if kind in NONLINEARITIES else "$W_h$, with any constant factor inside it,"
        if saturations and weights:
            said.append(
                f"{NONLINEARITY_TEXT[kind]}, spectral radius {top:g}, {opts.seeds_text}: on average, the "
                f"slopes multiply the gradient by {spread(saturations)} a step, and {weight} by "
                f"{spread(weights)}. The largest |h| is "
                f"{spread(float(log10(each.largest.max())) for each in drawn)}."
            )
    kinds = dict.fromkeys(each.network.nonlinearity for each in draws)
    linear = of_kind(draws, "identity")
    often = ", ".join(f"{NONLINEARITY_TEXT[k]} in {exploding(of_kind(draws, k))}" for k in kinds)
    said.append(
        f"How often the gradient explodes, of {len(linear)} networks each at spectral radius {top:g} "
        f"with inputs as they are: {often}."
    )
    if relu := of_kind(draws, "relu"):
        blown = sum(each.largest.max() >= 10.0**FACTOR_DECADES for each in relu)
        said.append(
            f"ReLU's largest |h| is {FACTOR} or more in {blown} of these {len(relu)} networks."
        )
    for kind in dict.fromkeys(each.network.nonlinearity for each in found):
        counts = {
            verdict: sum(e.verdict == verdict for e in found if e.network.nonlinearity == kind)
            for verdict in ("vanishes", "is stable", "explodes", "dies", "overflows")
        }
        words = ", ".join(f"{verdict} in {n}" for verdict, n in counts.items() if n)
        said.append(
            f"{NONLINEARITY_TEXT[kind]}: the gradient {words} of {sum(counts.values())} networks."
        )
    bent = [
        e for e in found if e.network.nonlinearity == "tanh" and e.halvings and e.network.radius > 1
    ]
    if far := [each for each in bent if not near_zero(each)]:
        largest = max(float(each.largest.max()) for each in far)
        said.append(
            f"With {far[0].inputs} tanh's states do not stay near 0 over {opts.length} steps: the largest "
            f"|h| is {largest:.2g}. So nothing is said about states near 0; more --halvings keep them "
            "there."
        )
    if dead := [each.name for each in found if each.verdict == "dies"]:
        said.append(f"The gradient is exactly zero at some step: {'; '.join(dead)}.")
    return tuple(said)


def where_tanh_is(seen: Sequence[Seen]) -> str:
    """Whether small inputs keep tanh's states near 0, at which radii."""
    said = ""
    small = [each for each in of_kind(seen, "tanh") if each.halvings]
    if near := [each for each in small if near_zero(each)]:
        radii = ", ".join(f"{each.network.radius:g}" for each in near)
        said += f"; tanh's states stay near 0, where it is almost linear, at radius {radii}"
    if far := [each for each in small if not near_zero(each)]:
        reached = ", ".join(
            f"{each.largest.max():.2g} at radius {each.network.radius:g}" for each in far
        )
        said += f"; they do not stay there everywhere: tanh's largest |h| is {reached}"
    return said
