"""Products along the last axis. The derivative by an element is the product of the other elements.

No quotient is taken, so derivatives are right where elements are 0. Intermediate products are kept as
mantissas and exponents, so they neither overflow nor underflow; see :mod:`tinygrad182.arrays.scaled`.
"""

from __future__ import annotations

from ..arrays import scaled
from ..arrays.namespaces import Array, Namespace
from .primitive import PRIMITIVES, Primitive, Tangents, define


def prod(xp: Namespace, x: Array) -> Array:
    """Product of the elements along the last axis."""
    if not xp.is_floating(x) or not x.shape[-1]:
        return xp.astype(xp.prod(x, axis=-1), x.dtype)
    return scaled.number(xp, scaled.running(xp, x).at((..., -1)))


def prod_vjp(xp: Namespace, g: Array, y: Array, x: Array) -> Array:
    return xp.reshape(g, (*g.shape, 1)) * xp.product_of_others(x)


def prod_jvp(xp: Namespace, tangents: Tangents, y: Array, x: Array) -> Array:
    return xp.sum(tangents[0] * xp.product_of_others(x), axis=-1)


def product_of_others(xp: Namespace, x: Array) -> Array:
    """The product of all other elements along the last axis, for each element."""
    return xp.product_of_others(x)


def others_vjp(xp: Namespace, g: Array, y: Array, x: Array) -> Array:
    return _others(xp, x, g)[1]  # the derivative of output i by input k is that of k by i


def others_jvp(xp: Namespace, tangents: Tangents, y: Array, x: Array) -> Array:
    return _others(xp, x, tangents[0])[1]


def _others(xp: Namespace, x: Array, t: Array) -> tuple[Array, Array]:
    """The products of the other elements, and their tangent along ``t``, by recursion over pairs."""
    n = x.shape[-1]
    if n < 2:
        return xp.ones_like(x), xp.zeros_like(t)
    if n % 2:
        x = xp.concat([x, xp.ones_like(x[..., :1])], axis=-1)
        t = xp.concat([t, xp.zeros_like(t[..., :1])], axis=-1)
    a, b, da, db = x[..., ::2], x[..., 1::2], t[..., ::2], t[..., 1::2]
    far, dfar = _others(xp, a * b, da * b + a * db)
    pairs = xp.stack([far * b, far * a], axis=-1)
    changes = xp.stack([dfar * b + far * db, dfar * a + far * da], axis=-1)
    return _in_line(xp, pairs)[..., :n], _in_line(xp, changes)[..., :n]


def _in_line(xp: Namespace, pairs: Array) -> Array:
    return xp.reshape(pairs, (*pairs.shape[:-2], 2 * pairs.shape[-2]))


def cumulative_prod(xp: Namespace, x: Array) -> Array:
    """Running product along the last axis."""
    if not xp.is_floating(x) or not x.shape[-1]:
        return xp.astype(xp.cumulative_prod(x, axis=-1), x.dtype)
    return scaled.number(xp, scaled.running(xp, x))


def cumulative_prod_vjp(xp: Namespace, g: Array, y: Array, x: Array) -> Array:
    if not x.shape[-1]:
        return g
    before, after = scaled.running_before(xp, x), scaled.sums_after(xp, x, g)
    return scaled.number(xp, scaled.times(xp, before, after))


def _one_by_one(xp: Namespace, x: Array) -> Array:
    """The running product as a loop: the definition that is differentiated when the rule is recorded."""
    products: list[Array] = []
    for factor in xp.unstack(x, axis=-1):
        products.append(products[-1] * factor if products else factor)
    return xp.stack(products, axis=-1) if products else x * 1


define(prod, prod_vjp, jvp=prod_jvp)
define(product_of_others, others_vjp, jvp=others_jvp)
PRIMITIVES["cumulative_prod"] = Primitive(
    "cumulative_prod",
    cumulative_prod,
    (cumulative_prod_vjp,),
    jvp="definition",
    definition=_one_by_one,
    leading_axes=True,
)
