"""The names that students give to inputs, states and parameters, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import ArgumentError
from ...tensors.functions import concat
from ...tensors.tensor import Tensor
from .formulas import PARAMETERS

Role = str | tuple[str, ...]
"""The meaning of a name: a parameter of the reference, ``weight_ih``; one gate's block, ``weight_ih_f``; a
transpose, ``weight_ih.T``; or several of them side by side, ``("weight_hh", "weight_ih")``."""

# fmt: off
ALIASES = {
    "weight_ih": ("weight_ih", "w_ih", "wih", "w_x", "wx", "w_xh", "wxh"),
    "weight_hh": ("weight_hh", "w_hh", "whh", "w_h", "wh"),
    "bias_ih": ("bias_ih", "b_ih", "bih", "b_x", "bx"),
    "bias_hh": ("bias_hh", "b_hh", "bhh", "b_h", "bh"),
    "bias": ("bias", "b"),
}
# fmt: on
"""Other names of the parameters in lower case. A single bias is the sum of both."""

ALL = "parameters"
"""The role of an argument for a dict of all parameters."""

DICTS = ("parameters", "params", "p", "weights", "theta")

_WHOLE = {"wi": "weight_ih", "wx": "weight_ih", "wh": "weight_hh"}
_WHOLE |= {"bi": "bias_ih", "bx": "bias_ih", "bh": "bias_hh", "b": "bias"}
_BLOCK_OF_A_GATE = re.compile(r"(wi|wx|wh|bi|bx|bh|b)([a-z])")

_DATA = {"x": ("x", "xs", "input", "inputs", "inp"), "h": ("h", "hidden"), "c": ("c", "cell")}
_BEFORE_OR_AFTER = re.compile(r"_?(t|prev|previous|old|next|init|tm1|0)$|^(prev|old|next)_?")


def role_of(
    name: str, known: Iterable[str], names: Mapping[str, Any], gates: Sequence[str] = ()
) -> Role | None:
    """Return the parameter of the reference that a name means; None if it means none.

    ``W_if`` and ``W_xf`` are gate f's block of ``weight_ih``, as in PyTorch's equations.
    """
    meant = names.get(name, name)
    if not isinstance(meant, str):
        return tuple(meant)
    last = meant.rpartition(".")[2].removesuffix("_l0")
    if meant == ALL or last in known:
        return meant if meant == ALL else last
    if _root(meant) in (*known, "bias"):
        return meant
    role = next((role for role, others in ALIASES.items() if last.lower() in others), None)
    return role or _block_of_a_gate(last.lower().replace("_", ""), gates)


def _root(role: str) -> str:
    """The parameter that a role selects from: weight_ih for weight_ih_f.T."""
    whole = role.removesuffix(".T")
    roots = (n for n in (*PARAMETERS, "bias") if whole == n or whole.startswith(f"{n}_"))
    return next(roots, whole)


def _block_of_a_gate(name: str, gates: Sequence[str]) -> str | None:
    match = _BLOCK_OF_A_GATE.fullmatch(name)
    if not match or len(gates) < 2:
        return None
    start, gate = match.groups()
    gate = "g" if gate == "c" and "g" in gates and "c" not in gates else gate
    return f"{_WHOLE[start]}_{gate}" if gate in gates else None


def meant_by(role: Role, parameters: Mapping[str, Tensor], gates: Sequence[str]) -> Tensor:
    """Return the parameter, or the blocks of parameters, that a role means.

    Raises
    ------
    ArgumentError
        There is no such parameter or gate.
    """
    if not isinstance(role, str):
        return concat([meant_by(part, parameters, gates) for part in role], axis=-1)
    if role.endswith(".T"):
        return meant_by(role.removesuffix(".T"), parameters, gates).T
    if role == "bias":
        return parameters["bias_ih"] + parameters["bias_hh"]
    if role in parameters:
        return parameters[role]
    whole, _, gate = role.rpartition("_")
    if gate not in gates or whole not in (*parameters, "bias"):
        found = ", ".join(parameters)
        raise ArgumentError(
            f"compare_cells: names has {role!r}; the reference's parameters are {found}. 'weight_ih_f' is "
            "the block of gate f in weight_ih, and 'weight_ih.T' its transpose"
        )
    array = meant_by(whole, parameters, gates)
    units, k = array.shape[0] // len(gates), list(gates).index(gate)
    return array[k * units : (k + 1) * units]


def both_biases(roles: Mapping[str, Role]) -> dict[str, Role]:
    """Let a bias that comes without the other one mean the sum of both."""
    others = {"bias_ih": "bias_hh", "bias_hh": "bias_ih"}
    found: dict[str, Role] = {}
    for name, role in roles.items():
        start = next((b for b in others if isinstance(role, str) and role.startswith(b)), "")
        other = str(role).replace(start, others[start], 1) if start else role
        alone = bool(start) and other not in roles.values()
        found[name] = str(role).replace(start, "bias", 1) if alone else role
    return found


def data_name(name: str, state: Iterable[str]) -> str | None:
    """Return ``"x"`` or the part of the state that a name means: h for ``h_prev`` or ``prev_h``."""
    lower = name.lower()
    for each in (lower, _BEFORE_OR_AFTER.sub("", lower, count=1)):
        if each == "x" or each in state:
            return each
        for data, others in _DATA.items():
            if each in others and (data == "x" or data in state):
                return data
    return None


def unknown(names: list[str], parameters: Mapping[str, Any]) -> str:
    """Message about arguments whose names are not recognized."""
    found, known = ", ".join(map(repr, names)), ", ".join(parameters)
    return (
        f"compare_cells: yours takes {found}; a cell takes x, its state, and the parameters {known}. Say "
        f"which of them you mean: names={{{names[0]!r}: 'weight_ih'}}. 'weight_ih_f' is one gate's block, "
        "and ('weight_hh', 'weight_ih') are two weights side by side, for [h, x]"
    )


class Parameters(dict[str, Tensor]):
    """A dict of all parameters that recognizes the student's names.

    Its keys are the reference's names. ``names`` has the meanings of those that are not recognized.
    """

    def __init__(
        self, found: Mapping[str, Tensor], names: Mapping[str, Any], gates: Sequence[str]
    ) -> None:
        super().__init__(found)
        self._names, self._gates = names, gates

    def __missing__(self, name: str) -> Tensor:
        role = role_of(name, self, self._names, self._gates)
        if role is None or role == ALL:
            raise ArgumentError(unknown([name], self))
        return meant_by(role, self, self._gates)
