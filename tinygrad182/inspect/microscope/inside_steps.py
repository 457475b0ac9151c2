"""Facts from inside some steps: how large the input is, and the factors on the hidden path."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..passes.scaling import HostArray
from ..views.step_flow import StepFlow

LARGE = 5.0
"""Factor from which on an input is called large."""


class Large(NamedTuple):
    """An input that is larger at some steps than usual.

    Attributes
    ----------
    label : str
        The label of the large operation: ``"x"``, or its product with the weights.
    times : float
        The smallest norm at these steps, divided by the median of all others.
    """

    label: str
    times: float


def large_input(flow: StepFlow, steps: list[int]) -> Large | None:
    """Return the steps' input, or its first product with weights, if it is large at some steps.

    ``flow`` also holds other steps to compare with.
    """
    here = np.isin(flow.time, steps)
    inputs = [i for i, o in enumerate(flow.operations) if o.kind == "input"]
    products = [e.target for e in flow.edges if e.source in inputs and not _mixes(flow, e.target)]
    for i in [*inputs, *products]:
        log = flow.operations[i].log10_value_norm  # type: ignore[index]
        usual = float(np.median(log[~here])) if (~here).any() else np.nan
        times = 10.0 ** (float(log[here].min(initial=np.inf)) - usual)
        if LARGE <= times < np.inf:
            return Large(flow.operations[i].label, times)  # type: ignore[index]
    return None


def _mixes(flow: StepFlow, target: int | str) -> bool:
    """Whether an operation uses more than one other operation or input."""
    return isinstance(target, str) or sum(e.target == target for e in flow.edges) > 1


class HiddenPath(NamedTuple):
    """The factors of one step over the hidden path, part by part, at n steps.

    All are decadic logarithms. Their sum is log10 of ‖the part of ∂L/∂c_{t−1} over h_{t−1}‖ / ‖∂L/∂c_t‖.

    Attributes
    ----------
    gates : ndarray (n,)
        From c_t to the sums inside the gates.
    weight : ndarray (n,)
        From there to h_{t−1}, through the recurrent weights.
    output : ndarray (n,)
        From h_{t−1} to c_{t−1}.
    """

    gates: HostArray
    weight: HostArray
    output: HostArray


def hidden_path(flow: StepFlow, cell: str, steps: list[tuple[int, int]]) -> HiddenPath | None:
    """Split the factor of the hidden path; None if a step does not have an LSTM's form.

    ``steps`` are pairs of times: a step and the one before it, in the order in which they run.
    """
    states = {o.name: i for i, o in enumerate(flow.operations) if o.kind == "state"}
    (hidden, *more) = [name for name in states if name != cell] or [""]
    labels = [o.label for o in flow.operations]
    if more or f"{hidden}₋" not in labels or cell not in states:
        return None
    inner = [e for e in flow.edges if isinstance(e.target, int)]
    back = [e for e in inner if e.source == labels.index(f"{hidden}₋")]
    out = [e for e in inner if e.source == states[cell]]
    peeps = [e for e in inner if labels[e.source] == f"{cell}₋"]
    if not len(back) == len(out) == len(peeps) == 1:
        return None
    times = flow.time.tolist()
    now, before = ([times.index(t) for t in some] for some in zip(*steps, strict=True))
    sums = flow.operations[back[0].target].log10_grad_norm[now]  # type: ignore[index]
    arrives = back[0].log10_norm[now]
    return HiddenPath(
        sums - flow.operations[states[cell]].log10_grad_norm[now],
        arrives - sums,
        out[0].log10_norm[before] - arrives,
    )
