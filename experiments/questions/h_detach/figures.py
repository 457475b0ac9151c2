"""Blocked gradients as figures and tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import altair as alt
import numpy as np

from experiments.drawing import charts
from experiments.drawing.curves import Line, Look, curves
from experiments.drawing.sweep import sweep_chart
from experiments.drawing.tables import Column, Figure, Row, Table, rows_of
from experiments.questions.h_detach.measure import Blocked, Network, arrived, growth

DETACHED = "through no hidden state"

DASHES = ((1, 0), (7, 3), (4, 2), (2, 2), (9, 3))


def name_of(block: float) -> str:
    """Name a probability in the legend.

    >>> name_of(0.0), name_of(0.25), name_of(1.0)
    ('p = 0: the true gradient', 'p = 0.25', 'p = 1: all of h blocked')
    """
    return f"p = {block:g}" + {0.0: ": the true gradient", 1.0: ": all of h blocked"}.get(block, "")


def block_looks(network: Network) -> dict[str, Look]:
    """A colour for every probability."""
    between = [blocked for blocked in network.blocked if 0 < blocked.block < 1]
    return {
        name_of(0.0): Look(charts.INK, width=3.0),
        **{
            name_of(blocked.block): Look(
                charts.PALETTE[2 + i % 4], DASHES[1 + i % (len(DASHES) - 1)], 2.2
            )
            for i, blocked in enumerate(between)
        },
        name_of(1.0): Look(charts.BLUE, width=3.0),
    }


def panel_of(network: Network) -> tuple[str, str]:
    """Column and row of a network's panel: its weights and its forget bias."""
    return f"weights × {network.scale:g}", f"forget bias {network.forget_bias:g}"


def flow_chart(shown: Sequence[Network], size: str) -> alt.TopLevelMixin:
    """Mean gradients over time, a curve for each probability."""
    length = len(shown[0].true.gradient)
    lines: list[Line] = []
    dots: list[Line] = []
    for network in shown:
        panel = panel_of(network)
        last = network.true.gradient[-1]  # the same at every probability
        lines += [Line(name_of(b.block), b.gradient - last, *panel) for b in network.blocked]
        dots.append(Line(DETACHED, network.hops[0] - last, *panel, every=max(1, length // 12)))
    return curves(
        lines,
        block_looks(shown[0]),
        x=charts.steps(length),
        y="relative size of ∂L/∂cₜ",
        dots=dots,
        rules=(0.0,),
        title="The gradient with h blocked at each step with probability p",
        subtitle=f"in units of the last step's, mean over all choices of the blocked steps; {size}",
    )


def hop_chart(shown: Sequence[Network], size: str) -> alt.TopLevelMixin:
    """Gradient at the first cell state by the number of hidden states on its way, for each probability."""
    lines: list[Line] = []
    most = len(shown[0].hops) // 2
    for network in shown:
        hops = network.hops[: most + 1, 0] - network.true.gradient[-1]
        for blocked in network.blocked[:-1]:
            left = np.arange(len(hops)) * np.log10(1.0 - blocked.block)
            name = name_of(blocked.block)
            lines.append(Line(name, hops + left, *panel_of(network)))
    return curves(
        lines,
        block_looks(shown[0]),
        x=charts.steps(most + 1, "hidden states on the way", "hops"),
        y="relative size of the part",
        title="What reaches the first cell state, by the number of hidden states on its way",
        subtitle=f"part of ∂L/∂c₀, times 1 − p for each, in units of the last step's; {size}",
    )


def direction_chart(found: Sequence[Network], seeds: str) -> alt.TopLevelMixin:
    """Cosine between the mean gradient of all parameters and the true one, against p."""
    rows: list[Row] = [
        {
            "what": f"forget bias {network.forget_bias:g}, weights × {network.scale:g}",
            "seed": network.seed,
            "scale": blocked.block,
            "value": charts.drawable(blocked.cosine),
        }
        for network, blocked in _each(found)
    ]
    kinds = dict.fromkeys(str(row["what"]) for row in rows)
    blocks = [blocked.block for blocked in found[0].blocked]
    axis = alt.Axis(values=blocks, labelExpr="format(datum.value, '.3~g')")
    return sweep_chart(
        rows,
        dict(zip(kinds, itertools.cycle(charts.PALETTE), strict=False)),
        x=alt.X("scale:Q", title="probability p that h is blocked at a step", axis=axis),
        y="cosine with the true gradient",
        title="Blocking turns the gradient most where it comes from many steps",
        subtitle=f"mean gradient of all parameters; untrained, lines through the means of {seeds}",
    )


def figures(
    shown: Sequence[Network], found: Sequence[Network], size: str, seeds: str
) -> tuple[Figure, ...]:
    """Gradients over time and by hops of one seed, and directions of all."""
    return (
        *(
            Figure(
                f"forget_bias_{bias:g}",
                f"The gradient over time with h blocked more and more, forget bias {bias:g}",
                "Black is the true gradient, blue the cell path alone, which never rises above its start. "
                "Where black rises towards the left, blocking tames an explosion; where it falls and lies "
                "far above blue, blocking throws away what came back through h. Circles: the part that "
                "tg.inspect.grad_by_hops finds for paths through no hidden state.",
                flow_chart([n for n in shown if n.forget_bias == bias], size),
            )
            for bias in dict.fromkeys(network.forget_bias for network in shown)
        ),
        Figure(
            "hops",
            "Why: long ways through h are damped the most",
            "A part that went through $j$ hidden states is multiplied by $(1 − p)^j$. With $p = 1$ only "
            "the part through none is left. Parts may be larger than the whole, since they cancel. The "
            "lower half of the numbers is drawn; all are in hops.csv.",
            hop_chart(shown, size),
        ),
        Figure(
            "direction",
            "The direction of the parameters' gradient",
            "With forget gates near one half, the gradient of the parameters comes from the last few "
            "steps, with few hidden states on the way, and hardly turns. With gates near 1 it comes from "
            "nearly all steps, and most of its parts are damped. At a cosine of 1 the blocked gradient "
            "points the way of the true one; a step along one at 0 does not lower the loss at first order.",
            direction_chart(found, seeds),
        ),
    )


SETTING = (
    Column("forget_bias", "forget bias", "g"),
    Column("scale", "weights ×", "g"),
    Column("seed", "seed", "d"),
)


def tables(found: Sequence[Network]) -> tuple[Table, ...]:
    """Every network for people; every probability, time step and number of hops for programs."""
    return (
        Table(
            "networks",
            "Each network with h, and with h blocked at every step",
            found,
            (
                *SETTING,
                Column("first_log10", "$‖∂L/∂c_0‖/‖∂L/∂c_{T−1}‖$", get=lambda e: arrived(e.true)),
                Column("detached_first_log10", "with h blocked", get=lambda e: arrived(e.detached)),
                Column(
                    "growth_log10", "largest of any step", get=lambda e: growth(e.true.gradient)
                ),
                Column(
                    "hidden_share", "share through h", "+.2f", get=lambda e: e.true.hidden_share
                ),
                Column("cosine", "cosine", "+.3f", get=lambda e: e.detached.cosine),
                Column("length", "length", ".3g", get=lambda e: e.detached.length),
                Column("noise", "noise", ".2g", get=lambda e: max(b.noise for b in e.blocked)),
                Column("error", "error", ".0e", get=lambda e: max(b.error for b in e.blocked)),
            ),
            "Share through h: of $∂L/∂c_t$ in one step, median. Cosine and length: the gradient of all "
            "parameters with h blocked, against the true one. Noise: distance of a single draw's "
            "$∂L/∂c_0$ from the mean, in units of the mean, largest of any p. Error: the mean against "
            "$Σ_j (1 − p)^j$ times the part through $j$ hidden states, largest of any p. Each p is in "
            "blocked.csv.",
            printed=True,
        ),
        Table(
            "blocked",
            "Each network at each probability",
            [
                {
                    **_setting(network),
                    "block": blocked.block,
                    "first_log10": arrived(blocked),
                    "growth_log10": growth(blocked.gradient),
                    "hidden_share": blocked.hidden_share,
                    "cosine": blocked.cosine,
                    "length": blocked.length,
                    "noise": blocked.noise,
                    "error": blocked.error,
                }
                for network, blocked in _each(found)
            ],
        ),
        Table(
            "steps",
            "Each time step",
            [
                {**_setting(network), "block": blocked.block, "step": step, "gradient_log10": value}
                for network, blocked in _each(found)
                for step, value in enumerate(blocked.gradient.tolist())
            ],
        ),
        Table(
            "hops",
            "What reaches the first cell state through each number of hidden states",
            [
                {**_setting(network), "hops": j, "norm_log10": value}
                for network in found
                for j, value in enumerate(network.hops[:, 0].tolist())
            ],
        ),
    )


def _each(found: Iterable[Network]) -> Iterator[tuple[Network, Blocked]]:
    for network in found:
        for blocked in network.blocked:
            yield network, blocked


def _setting(network: Network) -> Row:
    (row,) = rows_of([network], SETTING)
    return row
