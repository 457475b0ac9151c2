"""Products of matrices and tensors, and their derivatives."""

from __future__ import annotations

import math
from string import ascii_letters

from ..arrays.namespaces import Array, Namespace
from .primitive import define


def matmul(xp: Namespace, a: Array, b: Array) -> Array:
    """Matrix product over the last two axes; the axes before them broadcast."""
    return xp.matmul(a, b)


def matmul_vjp_a(xp: Namespace, g: Array, y: Array, a: Array, b: Array) -> Array:
    return xp.matmul(g, b.mT)


def matmul_vjp_b(xp: Namespace, g: Array, y: Array, a: Array, b: Array) -> Array:
    if b.ndim == 2 < a.ndim:  # the whole batch shares b, so one product is enough
        lead = g.shape[: g.ndim - y.ndim]
        a = xp.reshape(a, (math.prod(a.shape[:-1]), a.shape[-1]))
        g = xp.reshape(g, (*lead, a.shape[0], g.shape[-1]))
    return xp.matmul(a.mT, g)


def einsum(xp: Namespace, *operands: Array, subscripts: str) -> Array:
    """Einstein sum; ``subscripts`` is explicit: letters only, an arrow, a letter per axis."""
    y = xp.einsum(subscripts, *operands)
    return y if len(operands) > 1 else y * 1  # with one operand, y may be a view of it


def einsum_vjp(
    xp: Namespace, g: Array, y: Array, *operands: Array, subscripts: str
) -> tuple[Array, ...]:
    terms, _, out = subscripts.partition("->")
    inputs = terms.split(",")
    lead = "".join(_fresh(subscripts, g.ndim - y.ndim))
    return tuple(
        _einsum_vjp_one(xp, g, lead, out, inputs, operands, i) for i in range(len(operands))
    )


def _einsum_vjp_one(
    xp: Namespace,
    g: Array,
    lead: str,
    out: str,
    inputs: list[str],
    operands: tuple[Array, ...],
    i: int,
) -> Array:
    """Contract ``g`` with the other operands, and with ones or an identity matrix where these are needed.

    Ones have an axis that only this operand has; an identity matrix has the two axes of a diagonal.
    """
    x, term = operands[i], inputs[i]
    names = [lead + out, *inputs[:i], *inputs[i + 1 :]]
    arrays = [g, *operands[:i], *operands[i + 1 :]]
    spare = iter(_fresh(lead + out + "".join(inputs), len(term)))
    target = ""
    for axis, letter in enumerate(term):
        if letter in target:  # a diagonal: the cotangent is 0 where the two indices differ
            twin = next(spare)
            names.append(letter + twin)
            arrays.append(xp.eye_like(x.shape[axis], g))
            letter = twin
        target += letter
    if not set(target) <= set("".join(names)):  # an axis that only this operand has
        names.append(target)
        arrays.append(xp.ones_like(x))
    return xp.einsum(",".join(names) + "->" + lead + target, *arrays)


def _fresh(used: str, count: int) -> list[str]:
    return [c for c in ascii_letters if c not in used][:count]


define(
    matmul,
    matmul_vjp_a,
    matmul_vjp_b,
    jvp="multilinear",
    broadcasts=True,
    requirement="the last axis of the first operand must equal the second-to-last of the second, "
    "and the axes before them must broadcast",
)
define(
    einsum,
    jvp="multilinear",
    all_inputs=einsum_vjp,
    requirement="a letter must name one size, and the output's letters must be among the inputs'",
)
