"""What people call the inputs, states and parameters of a cell, and what they mean by it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import ArgumentError
from ...tensors.functions import concat
from ...tensors.tensor import Tensor

Role = str | tuple[str, ...]
"""A parameter of the reference; a gate's block of it, ``weight_ih_f``; its transpose, ``weight_ih.T``;
or several of these side by side, ``("weight_hh", "weight_ih")``."""

# fmt: off
ALIASES = {
    "weight_ih": ("weight_ih", "w_ih", "wih", "w_x", "wx", "w_xh", "wxh"),
    "weight_hh": ("weight_hh", "w_hh", "whh", "w_h", "wh"),
    "bias_ih": ("bias_ih", "b_ih", "bih", "b_x", "bx"),
    "bias_hh": ("bias_hh", "b_hh", "bhh", "b_h", "bh"),
    "bias": ("bias", "b"),
}
# fmt: on
"""What people call the parameters of a cell, in small letters; one bias alone is the sum of both."""

ALL = "parameters"
"""The role of an argument that takes all parameters in one dict."""

DICTS = ("parameters", "params", "p", "weights", "theta")

_WHOLE = {"wi": "weight_ih", "wx": "weight_ih", "wh": "weight_hh"}
_WHOLE |= {"bi": "bias_ih", "bx": "bias_ih", "bh": "bias_hh", "b": "bias"}
_OF_A_GATE = re.compile(r"(wi|wx|wh|bi|bx|bh|b)([a-z])")

_DATA = {"x": ("x", "xs", "input", "inputs", "inp"), "h": ("h", "hidden"), "c": ("c", "cell")}
_WHEN = re.compile(r"_?(t|prev|previous|old|next|init|tm1|0)$|^(prev|old|next)_?")


def role_of(
    name: str, known: Iterable[str], names: Mapping[str, Any], gates: Sequence[str] = ()
) -> Role | None:
    """Return what of the reference's parameters a name means; None for any other name.

    ``W_if`` and ``W_xf`` are gate f's block of ``weight_ih``, as in PyTorch's equations.
    """
    meant = names.get(name, name)
    if not isinstance(meant, str):
        return tuple(meant)
    plain = meant.rpartition(".")[2].removesuffix("_l0")
    if meant == ALL or plain in known:
        return meant if meant == ALL else plain
    if _root(meant) in (*known, "bias"):
        return meant
    role = next((role for role, others in ALIASES.items() if plain.lower() in others), None)
    return role or _of_a_gate(plain.lower().replace("_", ""), gates)


def _root(role: str) -> str:
    """The parameter that a role is a part of: weight_ih of weight_ih_f.T."""
    whole = role.removesuffix(".T")
    return next(
        (
            n
            for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "bias")
            if whole == n or whole.startswith(f"{n}_")
        ),
        whole,
    )


def _of_a_gate(plain: str, gates: Sequence[str]) -> str | None:
    found = _OF_A_GATE.fullmatch(plain)
    if not found or len(gates) < 2:
        return None
    start, gate = found.groups()
    gate = "g" if gate == "c" and "g" in gates and "c" not in gates else gate
    return f"{_WHOLE[start]}_{gate}" if gate in gates else None


def meant_by(role: Role, parameters: Mapping[str, Tensor], gates: Sequence[str]) -> Tensor:
    """Compute what a role means: a parameter, or blocks of parameters.

    Raises
    ------
    ArgumentError
        There is no such parameter, or no such gate.
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
            f"compare_cells: names has {role!r}; the reference's parameters are {found}. Of weight_ih, "
            "weight_ih_f is the block of gate f, and weight_ih.T the transpose"
        )
    array = meant_by(whole, parameters, gates)
    units, k = array.shape[0] // len(gates), list(gates).index(gate)
    return array[k * units : (k + 1) * units]


def both_biases(roles: Mapping[str, Role]) -> dict[str, Role]:
    """Let one bias without the other be the sum of both."""
    others = {"bias_ih": "bias_hh", "bias_hh": "bias_ih"}
    found: dict[str, Role] = {}
    for name, role in roles.items():
        start = next((b for b in others if isinstance(role, str) and role.startswith(b)), "")
        other = str(role).replace(start, others[start], 1) if start else role
        alone = bool(start) and other not in roles.values()
        found[name] = str(role).replace(start, "bias", 1) if alone else role
    return found


def data_name(name: str, state: Iterable[str]) -> str | None:
    """Return ``"x"`` or the part of the state that a name means: h of ``h_prev`` or ``prev_h``."""
    plain = name.lower()
    for each in (plain, _WHEN.sub("", plain, count=1)):
        if each == "x" or each in state:
            return each
        for data, others in _DATA.items():
            if each in others and (data == "x" or data in state):
                return data
    return None


def unknown(names: list[str], parameters: Mapping[str, Any]) -> str:
    """Say that arguments have names that mean nothing here."""
    found, known = ", ".join(map(repr, names)), ", ".join(parameters)
    return (
        f"compare_cells: yours takes {found}; a cell takes x, its state, and the parameters {known}. Say "
        f"which of them is meant: names={{{names[0]!r}: 'weight_ih'}}; 'weight_ih_f' is one gate's block, "
        "('weight_hh', 'weight_ih') are two side by side, as [h, x] takes them"
    )


class Parameters(dict[str, Tensor]):
    """All parameters in one dict, found by whatever they are called.

    Parameters
    ----------
    found : dict of str to Tensor
        By the reference's names.
    names : dict of str to str
        Those of the student, where they are not found by themselves.
    gates : sequence of str
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
