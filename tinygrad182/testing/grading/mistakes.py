"""The mistakes that students make in a cell or in its derivative: a row each.

A row says which lines of the right formula are replaced, and by what. To add a mistake, add a row. It is
recognized if the student's numbers are those of the changed formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

from ...tensors.functions import concat, relu, reshape, sigmoid, tanh
from .formulas import (
    GRU_FORMULA,
    LSTM_FORMULA,
    PARAMETERS,
    RNN_FORMULA,
    Bend,
    Formula,
    Line,
    Reading,
)


@dataclass(frozen=True)
class Mistake:
    """A mistake, as changes of a formula.

    Attributes
    ----------
    name : str
        A short name, for a column of grades.
    sentence : str
        The mistake in a sentence for the student.
    lines : dict of str to callable
        The wrong lines of the formula, by their names.
    changes : dict
        Changes of other fields of the formula.
    """

    name: str
    sentence: str
    lines: Mapping[str, Line] = field(default_factory=dict, repr=False, compare=False)
    changes: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def planted_in(self, formula: Formula) -> Formula:
        """Return the formula with this mistake in it."""
        return formula.changed(self.lines, **self.changes)

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}"


# --- functions for the rows -----------------------------------------------------------------------


def sloped(y: Any, a: Any, slope: Any) -> Any:
    """Return the value of y, with ``slope`` as its derivative by a."""
    return y.detach() + slope.detach() * (a - a.detach())


def derived_from(y: Any, other: Any) -> Any:
    """Return the value of y with the derivatives of another expression."""
    return y.detach() + (other - other.detach())


def by_blocks(x: Any, weight: Any) -> Any:
    """Return x W for each square block of a weight; x Wᵀ is right."""
    n = x.shape[-1]
    return concat([x @ weight[k : k + n] for k in range(0, weight.shape[0], n)], axis=-1)


def reshaped(weight: Any) -> Any:
    """Return a weight in the shape of its transpose, without reordering its numbers."""
    return reshape(weight, weight.shape[::-1])


# --- in every cell: weights and biases ------------------------------------------------------------

# fmt: off
IN_SUMS = [
    Mistake("weight_hh without its transpose", "h is multiplied by W_hh; it has to be W_hhᵀ",
        {"from_h": lambda h, weight_hh, bias_hh: by_blocks(h, weight_hh) + bias_hh}),
    Mistake("weight_ih without its transpose", "x is multiplied by W_ih; it has to be W_ihᵀ",
        {"from_x": lambda x, weight_ih, bias_ih: by_blocks(x, weight_ih) + bias_ih}),
    Mistake("weight_hh reshaped",
        "W_hh is reshaped, which keeps the order of its numbers; transpose it: W_hh.T",
        {"from_h": lambda h, weight_hh, bias_hh: h @ reshaped(weight_hh) + bias_hh}),
    Mistake("weight_ih reshaped",
        "W_ih is reshaped, which keeps the order of its numbers; transpose it: W_ih.T",
        {"from_x": lambda x, weight_ih, bias_ih: x @ reshaped(weight_ih) + bias_ih}),
    Mistake("weights swapped", "x is multiplied by W_hhᵀ and h by W_ihᵀ; it has to be the other way round",
        {"from_x": lambda x, weight_hh, bias_ih: x @ weight_hh.T + bias_ih,
         "from_h": lambda h, weight_ih, bias_hh: h @ weight_ih.T + bias_hh}),
    Mistake("bias left out", "no bias is added; add b_ih and b_hh",
        {"from_x": lambda x, weight_ih: x @ weight_ih.T,
         "from_h": lambda h, weight_hh: h @ weight_hh.T}),
    Mistake("bias_ih left out", "b_ih is not added to x W_ihᵀ",
        {"from_x": lambda x, weight_ih: x @ weight_ih.T}),
    Mistake("bias_hh left out", "b_hh is not added to h W_hhᵀ",
        {"from_h": lambda h, weight_hh: h @ weight_hh.T}),
    Mistake("bias_ih added twice", "b_ih is added a second time, where b_hh belongs",
        {"from_h": lambda h, weight_hh, bias_ih: h @ weight_hh.T + bias_ih}),
    Mistake("bias added twice", "b is added to x W_ihᵀ and again to h W_hhᵀ",
        {"from_h": lambda h, weight_hh, bias_ih, bias_hh: h @ weight_hh.T + bias_hh + bias_ih + bias_hh}),
    Mistake("h left out", "the state before the step does not enter the sums; add h W_hhᵀ",
        {"from_h": lambda bias_hh: bias_hh}),
    Mistake("x left out", "the input does not enter the sums; add x W_ihᵀ",
        {"from_x": lambda bias_ih: bias_ih}),
]
"""In the sums x W_ihᵀ + b_ih and h W_hhᵀ + b_hh."""

# --- LSTM -----------------------------------------------------------------------------------------

IN_LSTM = [
    Mistake("h instead of c",
        "c_t is made from f ∘ h; it has to be f ∘ c, of the cell state before the step",
        {"c_t": lambda f, h, i, g: f * h + i * g}),
    Mistake("c instead of h", "the sums are made from the cell state c; they have to be made from h",
        {"from_h": lambda c, weight_hh, bias_hh: c @ weight_hh.T + bias_hh}),
    Mistake("h and c in the other order", "the step returns (c, h); it has to return (h, c)",
        {"h_t": lambda f, c, i, g: f * c + i * g,
         "c_t": lambda f, c, i, g, o: o * tanh(f * c + i * g)}),
    Mistake("tanh on the wrong side: around o ∘ c", "h_t is tanh(o ∘ c_t); it has to be o ∘ tanh(c_t)",
        {"h_t": lambda o, c_t: tanh(o * c_t)}),
    Mistake("tanh on the wrong side: around o", "h_t is tanh(o) ∘ c_t; it has to be o ∘ tanh(c_t)",
        {"h_t": lambda o, c_t: tanh(o) * c_t}),
    Mistake("tanh inside the cell state", "c_t is tanh(f ∘ c + i ∘ g); the tanh belongs into h_t alone",
        {"c_t": lambda f, c, i, g: tanh(f * c + i * g), "h_t": lambda o, c_t: o * c_t}),
    Mistake("tanh twice", "c_t is tanh(f ∘ c + i ∘ g), and h_t has a tanh too; leave out that of c_t",
        {"c_t": lambda f, c, i, g: tanh(f * c + i * g)}),
    Mistake("old c in h", "h_t is made from the cell state before the step; it has to be o ∘ tanh(c_t)",
        {"h_t": lambda o, c: o * tanh(c)}),
    Mistake("forget gate left out", "c_t is c + i ∘ g; it has to be f ∘ c + i ∘ g",
        {"c_t": lambda c, i, g: c + i * g}),
    Mistake("input gate left out", "c_t is f ∘ c + g; it has to be f ∘ c + i ∘ g",
        {"c_t": lambda f, c, g: f * c + g}),
    Mistake("output gate left out", "h_t is tanh(c_t); it has to be o ∘ tanh(c_t)",
        {"h_t": lambda c_t: tanh(c_t)}),
    Mistake("c left out", "c_t is i ∘ g, which remembers nothing; add f ∘ c",
        {"c_t": lambda i, g: i * g}),
    Mistake("1 − f in the place of i", "c_t is f ∘ c + (1 − f) ∘ g; it has to be f ∘ c + i ∘ g",
        {"c_t": lambda f, c, g: f * c + (1 - f) * g}),
    Mistake("1 − f in the place of f", "c_t is (1 − f) ∘ c + i ∘ g; it has to be f ∘ c + i ∘ g",
        {"c_t": lambda f, c, i, g: (1 - f) * c + i * g}),
    Mistake("no derivative through tanh of c",
        "h_t sends nothing back to c_t; add dh ∘ o ∘ (1 − tanh²(c_t)) to dc",
        {"h_t": lambda o, c_t: o * tanh(c_t.detach())}),
    Mistake("o left out of dc",
        "dh reaches c_t without the factor o; it has to be dh ∘ o ∘ (1 − tanh²(c_t))",
        {"h_t": lambda o, c_t: derived_from(o * tanh(c_t), o * tanh(c_t).detach() + tanh(c_t))}),
    Mistake("f left out of dc", "dc goes to the step before without the factor f; it has to be dc_t ∘ f",
        {"c_t": lambda f, c, i, g: derived_from(f * c + i * g, f * c.detach() + c + i * g)}),
    Mistake("dc of the next step is not added",
        "the dc that comes from the step after is left out; add it to what comes through h_t",
        {"h_t": lambda f, c, i, g, o: o * tanh(f * c + i * g),
         "c_t": lambda f, c, i, g: (f * c + i * g).detach()}),
    Mistake("h instead of c in df",
        "df is made with h; it has to be dc ∘ c, of the cell state before the step",
        {"c_t": lambda f, c, i, g, h: derived_from(
            f * c + i * g, f * h.detach() + f.detach() * c + i * g)}),
    Mistake("new c in df", "df is made with c_t; it has to be dc ∘ c, of the cell state before the step",
        {"c_t": lambda f, c, i, g: derived_from(
            f * c + i * g, f * (f * c + i * g).detach() + f.detach() * c + i * g)}),
    Mistake("tanh left out of do", "do is dh ∘ c_t; it has to be dh ∘ tanh(c_t)",
        {"h_t": lambda o, c_t: derived_from(
            o * tanh(c_t), o * c_t.detach() + o.detach() * tanh(c_t))}),
    Mistake("no gradient at all",
        "no gradient goes back from h_t or c_t: both were computed outside of the graph (numpy(), no_grad)",
        {"h_t": lambda o, c_t: (o * tanh(c_t)).detach(),
         "c_t": lambda f, c, i, g: (f * c + i * g).detach()}),
]
"""In the state of an LSTM, and in its derivative."""

# --- GRU ------------------------------------------------------------------------------------------

IN_GRU = [
    Mistake("z and 1 − z swapped", "h_t is z ∘ n + (1 − z) ∘ h; it has to be (1 − z) ∘ n + z ∘ h",
        {"h_t": lambda n, z, h: z * n + (1 - z) * h}),
    Mistake("reset gate before the product",
        "r is multiplied with h before W_hn; here it is r ∘ (h W_hnᵀ + b_hn)",
        {"a_n": lambda from_x_n, r, h, weight_hh_n, bias_hh_n:
            from_x_n + (r * h) @ weight_hh_n.T + bias_hh_n}),
    Mistake("b_hn outside of the reset gate",
        "r is multiplied with h W_hnᵀ alone; here it is r ∘ (h W_hnᵀ + b_hn)",
        {"a_n": lambda from_x_n, r, h, weight_hh_n, bias_hh_n:
            from_x_n + r * (h @ weight_hh_n.T) + bias_hh_n}),
    Mistake("reset gate around both sums",
        "n is tanh(r ∘ (x part + h part)); r belongs to the h part alone",
        {"a_n": lambda from_x_n, r, from_h_n: r * (from_x_n + from_h_n)}),
    Mistake("reset gate left out", "n is made without r; it has to be tanh(x part + r ∘ h part)",
        {"a_n": lambda from_x_n, from_h_n: from_x_n + from_h_n}),
    Mistake("z left out of n", "h_t is n + z ∘ h; it has to be (1 − z) ∘ n + z ∘ h",
        {"h_t": lambda n, z, h: n + z * h}),
    Mistake("h left out of h_t", "h_t is (1 − z) ∘ n; add z ∘ h",
        {"h_t": lambda n, z: (1 - z) * n}),
    Mistake("no derivative through z ∘ h", "h gets no gradient from z ∘ h; add dh ∘ z",
        {"h_t": lambda n, z, h: (1 - z) * n + z * h.detach()}),
    Mistake("tanh on the wrong side: around r ∘ h part",
        "n is x part + tanh(r ∘ h part); it has to be tanh of the whole sum",
        {"n": lambda from_x_n, r, from_h_n: from_x_n + tanh(r * from_h_n)}),
    Mistake("tanh on the wrong side: around the h part",
        "n is x part + r ∘ tanh(h part); it has to be tanh of the whole sum",
        {"n": lambda from_x_n, r, from_h_n: from_x_n + r * tanh(from_h_n)}),
    Mistake("tanh on the wrong side: around h_t",
        "h_t is tanh((1 − z) ∘ n + z ∘ h), and n has no tanh; it belongs into n alone",
        {"n": lambda a_n: a_n, "h_t": lambda n, z, h: tanh((1 - z) * n + z * h)}),
    Mistake("tanh twice", "h_t is tanh((1 − z) ∘ n + z ∘ h), and n has a tanh too; leave out that of h_t",
        {"h_t": lambda n, z, h: tanh((1 - z) * n + z * h)}),
    Mistake("sign of dz", "dz is dh ∘ (n − h); it has to be dh ∘ (h − n)",
        {"h_t": lambda n, z, h: derived_from(
            (1 - z) * n + z * h, (1 - z.detach()) * n + z.detach() * h + z * (n - h).detach())}),
    Mistake("r left out of the h part's derivative",
        "the h part of n gets da_n without the factor r; it has to be da_n ∘ r",
        {"a_n": lambda from_x_n, r, from_h_n: derived_from(
            from_x_n + r * from_h_n, from_x_n + from_h_n + r * from_h_n.detach())}),
    Mistake("1 − z left out of dn", "dn is dh; it has to be dh ∘ (1 − z)",
        {"h_t": lambda n, z, h: derived_from(
            (1 - z) * n + z * h, n + z * (h - n).detach() + z.detach() * h)}),
]
"""In the state of a GRU, and in its derivative."""

# --- RNN ------------------------------------------------------------------------------------------

IN_RNN = [
    Mistake("tanh on the wrong side: around h",
        "h_t is tanh(h W_hhᵀ) + x W_ihᵀ; it has to be tanh of the whole sum",
        {"h_t": lambda from_x, from_h: from_x + tanh(from_h)}),
    Mistake("tanh on the wrong side: around x",
        "h_t is tanh(x W_ihᵀ) + h W_hhᵀ; it has to be tanh of the whole sum",
        {"h_t": lambda from_x, from_h: tanh(from_x) + from_h}),
    Mistake("tanh on the wrong side: around each sum",
        "h_t is tanh(x W_ihᵀ) + tanh(h W_hhᵀ); it has to be tanh of the whole sum",
        {"h_t": lambda from_x, from_h: tanh(from_x) + tanh(from_h)}),
    Mistake("tanh on the wrong side: around the h before the step",
        "h_t is x W_ihᵀ + tanh(h) W_hhᵀ; it has to be tanh of the whole sum",
        {"h_t": lambda from_x, h, weight_hh, bias_hh: from_x + tanh(h) @ weight_hh.T + bias_hh}),
    Mistake("derivative of tanh at the h before the step",
        "the derivative of tanh is taken as 1 − h²; it is 1 − h_t², of the state after the step",
        {"h_t": lambda a, h: sloped(tanh(a), a, 1 - h * h)}),
]
"""In a simple RNN with tanh, and in its derivative."""

IN_DERIVATIVE_OF_SUMS = [
    Mistake("dh without its transpose", "dh is made with W_hhᵀ; it has to be da W_hh",
        {"from_h": lambda h, weight_hh, bias_hh: derived_from(
            h @ weight_hh.T + bias_hh,
            by_blocks(h, weight_hh.detach()) + h.detach() @ weight_hh.T + bias_hh)}),
    Mistake("dx without its transpose", "dx is made with W_ihᵀ; it has to be da W_ih",
        {"from_x": lambda x, weight_ih, bias_ih: derived_from(
            x @ weight_ih.T + bias_ih,
            by_blocks(x, weight_ih.detach()) + x.detach() @ weight_ih.T + bias_ih)}),
]
"""In the derivative of the sums."""
# fmt: on

ONE_BIAS: tuple[dict[str, Line], ...] = (
    {
        "from_x": lambda x, weight_ih, bias_ih, bias_hh: x @ weight_ih.T + (bias_ih + bias_hh),
        "from_h": lambda h, weight_hh: h @ weight_hh.T,
    },
    {
        "from_x": lambda x, weight_ih: x @ weight_ih.T,
        "from_h": lambda h, weight_hh, bias_ih, bias_hh: h @ weight_hh.T + (bias_ih + bias_hh),
    },
)
"""Both biases in one of the sums, as a student with one bias writes it. It is right in a simple RNN."""

# --- in a nonlinearity ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Slope:
    """A wrong derivative of a nonlinearity y = σ(a) or y = tanh(a), computed by ``slope(y, a)``.

    ``found`` and ``right`` are the student's derivative and the right one, as text.
    """

    name: str
    found: str
    right: str
    slope: Callable[[Any, Any], Any]


# fmt: off
SLOPES = {
    "sigmoid": [
        Slope("left out", "1", "y (1 − y) with y = σ(a)", lambda y, a: 1 + 0 * a),
        Slope("without 1 − y", "y = σ(a)", "y (1 − y)", lambda y, a: y),
        Slope("without y", "1 − σ(a)", "y (1 − y)", lambda y, a: 1 - y),
        Slope("at the input", "a (1 − a)", "y (1 − y) with y = σ(a)", lambda y, a: a * (1 - a)),
        Slope("with σ applied twice", "σ(y) (1 − σ(y))", "y (1 − y)",
            lambda y, a: sigmoid(y) * (1 - sigmoid(y))),
        Slope("of tanh", "1 − y²", "y (1 − y)", lambda y, a: 1 - y * y),
    ],
    "tanh": [
        Slope("left out", "1", "1 − y² with y = tanh(a)", lambda y, a: 1 + 0 * a),
        Slope("without the square", "1 − y", "1 − y²", lambda y, a: 1 - y),
        Slope("at the input", "1 − a²", "1 − y² with y = tanh(a)", lambda y, a: 1 - a * a),
        Slope("with tanh applied twice", "1 − tanh²(y)", "1 − y²", lambda y, a: 1 - tanh(y) ** 2),
        Slope("of σ", "y (1 − y)", "1 − y²", lambda y, a: y * (1 - y)),
    ],
}
# fmt: on

NONLINEARITIES = {"tanh": tanh, "sigmoid": sigmoid, "relu": relu}

OTHERS = {"sigmoid": ("tanh",), "tanh": ("sigmoid", "relu")}
"""Nonlinearities that students use instead of the right one; instead of any other, all of these."""


def _in_bends(formula: Formula) -> Iterator[Mistake]:
    """Another nonlinearity, none, or a wrong derivative, in one line or in all lines of its kind."""
    bends = _bends(formula)
    for name, bend in bends.items():
        if bend.kind not in SLOPES:
            yield from _replaced(bend.kind, f"in {name}", {name: bend})
    for kind, slopes in SLOPES.items():
        alike = {name: bend for name, bend in bends.items() if bend.kind == kind}
        single = [{name: bend} for name, bend in alike.items()]
        for lines in single + [alike] * (len(alike) > 1):
            where = "in " + ", ".join(f"gate {n}" if n in formula.gates else n for n in lines)
            yield from _replaced(kind, where, lines)
            compute = next(iter(lines.values())).compute
            for wrong in slopes:
                yield Mistake(
                    f"derivative of {kind} {wrong.name} {where}",
                    f"the derivative of {kind} is taken as {wrong.found} {where}; it is {wrong.right}",
                    _computed_by(_with_slope(compute, wrong.slope), lines),
                )


def _bends(formula: Formula) -> dict[str, Bend]:
    return {name: line for name, line in formula.lines.items() if isinstance(line, Bend)}


def _computed_by(compute: Callable[[Any], Any], lines: Mapping[str, Bend]) -> dict[str, Line]:
    """The lines with another function in each."""
    return {name: Reading(bend.reads, compute) for name, bend in lines.items()}


def _replaced(kind: str, where: str, lines: Mapping[str, Bend]) -> Iterator[Mistake]:
    """No nonlinearity, or another one."""
    if kind != "identity":
        left_out = _computed_by(lambda a: a, lines)
        yield Mistake(f"{kind} left out {where}", f"there is no {kind} {where}", left_out)
    for other in OTHERS.get(kind, tuple(NONLINEARITIES)):
        if other != kind:
            yield Mistake(
                f"{other} in the place of {kind} {where}",
                f"{other} is used {where}; it has to be {kind}",
                _computed_by(NONLINEARITIES[other], lines),
            )


def _with_slope(compute: Callable[[Any], Any], slope: Callable[[Any, Any], Any]) -> Any:
    return lambda a: sloped(compute(a), a, slope(compute(a), a))


# --- all mistakes of a cell -----------------------------------------------------------------------


def mistakes_of(formula: Formula) -> Iterator[Mistake]:
    """Yield every mistake that a cell can have; mistakes in the sums come first."""
    yield from IN_SUMS
    yield from _in_order(formula)
    yield from _in_biases(formula)
    for right, rows in ((LSTM_FORMULA, IN_LSTM), (GRU_FORMULA, IN_GRU), (RNN_FORMULA, IN_RNN)):
        alike = (sorted(formula.gates), formula.state) == (sorted(right.gates), right.state)
        if alike and (rows is not IN_RNN or _bends(formula)["h_t"].kind == "tanh"):
            yield from rows
    yield from _in_bends(formula)
    yield from IN_DERIVATIVE_OF_SUMS
    yield from _detached(formula)


def _in_order(formula: Formula) -> Iterator[Mistake]:
    """Gates in another order."""
    right = ", ".join(formula.gates)
    for order in permutations(formula.gates):
        if order != formula.gates:
            found = ", ".join(order)
            sentence = f"your gates are in the order {found}; PyTorch's and ours is {right}"
            yield Mistake("gates in another order", sentence, changes={"gates": order})


def _in_biases(formula: Formula) -> Iterator[Mistake]:
    """No bias in one gate of several."""
    if len(formula.gates) == 1:
        return
    for gate in formula.gates:
        yield Mistake(
            f"bias left out in gate {gate}",
            f"no bias is added in gate {gate}; add its part of b_ih and b_hh",
            {
                f"from_x_{gate}": Reading(("x", f"weight_ih_{gate}"), lambda x, w: x @ w.T),
                f"from_h_{gate}": Reading(("h", f"weight_hh_{gate}"), lambda h, w: h @ w.T),
            },
        )


def _detached(formula: Formula) -> Iterator[Mistake]:
    """A line or an input that no gradient goes through."""
    gates = [gate for gate in formula.gates if gate in formula.lines]
    after = [f"{part}_t" for part in formula.state]
    for name in (*formula.state, *gates, *after, "x", *PARAMETERS):
        yield Mistake(
            f"no gradient through {name}",
            f"no gradient goes back through {name}: it was detached, or computed outside of the graph "
            "(numpy(), .data, no_grad), or its term is left out of the derivative",
            changes={"detached": name},
        )
