"""Sentences on blocking the gradient through h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.drawing.tables import power_text
from experiments.drawing.words import between, counted, spread
from experiments.questions.h_detach.measure import Network, arrived, growth
from experiments.regressors.networks import gate_of

if TYPE_CHECKING:
    from experiments.questions.h_detach import HDetachOptions


def headline(found: Sequence[Network]) -> str:
    """The gain and the loss, with the reason."""
    wild = max(found, key=lambda network: growth(network.true.gradient))
    poor = min(found, key=lambda network: network.left)
    grown = growth(wild.true.gradient)
    won = (
        f"With h open, {setting(wild)}, the gradient grows to {times(grown)} its size on its way back."
        if grown > 0
        else "With h open none explodes here either."
    )
    lost = (
        f"But what comes back through h is lost: with {setting(poor)}, {power_text(poor.left)} of "
        "$‖∂L/∂c_0‖$ is left."
        if poor.left < 0
        else "Nor is anything of $‖∂L/∂c_0‖$ lost."
    )
    return (
        "With h blocked, the forget gates alone multiply the gradient on its way back, and they are below "
        f"1, so it cannot explode. {won} {lost}"
    )


def times(log10: float) -> str:
    """Write a factor whose logarithm is given.

    >>> times(2.4914), times(0.0414), times(12.0)
    ('310 times', '1.1 times', '1.0e+12 times')
    """
    number = f"{float(f'{10.0**log10:.2g}'):,g}" if log10 < 5 else power_text(log10)
    return f"{number} times"


def setting(network: Network) -> str:
    """Name a network in a sentence."""
    return (
        f"forget bias {network.forget_bias:g}, weights × {network.scale:g} and seed {network.seed}"
    )


def sentences(opts: HDetachOptions, found: Sequence[Network]) -> tuple[str, ...]:
    """Each kind of network at every probability, and what a draw costs."""
    said = [
        "Blocking changes the mean gradient too: a part that went through $j$ hidden states stays with "
        "probability $(1 − p)^j$, so long ways through h are damped the most."
    ]
    for kind in dict.fromkeys((network.forget_bias, network.scale) for network in found):
        some = [network for network in found if (network.forget_bias, network.scale) == kind]
        text = (
            f"With forget bias {kind[0]:g} and weights × {kind[1]:g} ({opts.seeds_text}), gates are about "
            f"{gate_of(kind[0]):.2g}: with h blocked "
            f"{spread(arrived(network.detached) for network in some)} of the gradient comes back to the "
            f"first step, with h open {spread(arrived(network.true) for network in some)}. The gradients "
            "of the parameters with h blocked and open have a cosine of "
            f"{between((network.detached.cosine for network in some), '.2f')}."
        )
        drawn = [b for network in some for b in network.blocked if 0 < b.block < 1]
        if drawn:
            text += (
                f" A single draw of the blocked steps is off the mean by {between(b.noise for b in drawn)} "
                f"times its size ({counted(opts.draws, 'draw')} for each p)."
            )
        said.append(text)
    return tuple(said)
