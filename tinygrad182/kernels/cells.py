"""One step of each recurrent layer on plain arrays, and the way back; NumPy and CuPy alike.

Gates are kept in PyTorch's order: an LSTM's i, f, g, o.
"""

from __future__ import annotations

from typing import Any

from ..backend import Array


class Vanilla:
    """h_t = σ(z_t), z_t = x_t W_xᵀ + h_{t−1} W_hᵀ + b."""

    keeps_gates = False  # backward needs h_t alone

    def __init__(self, m: Any, nonlinearity: str = "tanh") -> None:
        if nonlinearity not in ("tanh", "relu", "identity"):
            raise ValueError(f"nonlinearity {nonlinearity!r}; tanh, relu and identity are known")
        self.m = m
        self.nonlinearity = nonlinearity

    def forward(self, z: Array, product: Array, before: list[Array], after: list[Array]) -> None:
        """From x_t W_xᵀ + b in ``z``, h_{t−1} W_hᵀ in ``product`` and a state to the next state.

        ``product`` is written over. ``z`` may be the memory of the next state.
        """
        m, (h,) = self.m, after
        m.add(z, product, out=product)  # not into z: CuPy would copy it before it writes to h
        if self.nonlinearity == "tanh":
            m.tanh(product, out=h)
        elif self.nonlinearity == "identity":
            h[...] = product
        elif z.dtype.kind == "c":
            h[...] = m.where(product.real > 0, product, 0)
        else:
            m.maximum(product, 0, out=h)

    def factors(self, gates: Array, before: list[Array], after: list[Array]) -> tuple[Array, ...]:
        """What backward multiplies by at several steps: it does not depend on the cotangents."""
        (h,) = after
        if self.nonlinearity == "tanh":
            return (1 - h * h,)
        return (h <= 0,) if self.nonlinearity == "relu" else ()

    def inside(self, factors: list[Array], deltas: Array) -> None:
        """Add what parts of a state send each other within a step."""

    def backward(self, factors: list[Array], deltas: Array, dz: Array) -> None:
        """From the cotangents of a state, (parts, …, B, H), to those of the sum, ``dz``.

        What goes to the state before without the sum is left in ``deltas``.
        """
        if self.nonlinearity == "tanh":
            self.m.multiply(deltas[0], factors[0], out=dz)
            return
        if self.nonlinearity == "relu":  # 0 also of an infinite cotangent
            dz[...] = self.m.where(factors[0], 0, deltas[0])
        else:
            dz[...] = deltas[0]


class LongShortTerm:
    """c_t = f ∘ c_{t−1} + i ∘ g, h_t = o ∘ tanh(c_t); i, f, o = σ(z), g = tanh(z)."""

    keeps_gates = True

    def __init__(self, m: Any) -> None:
        self.m = m

    def forward(self, z: Array, product: Array, before: list[Array], after: list[Array]) -> None:
        """Do what :meth:`Vanilla.forward` does; the gates are left in ``z``."""
        m, n = self.m, z.shape[-1] // 4
        m.add(z, product, out=z)
        i, f, g, o = (z[..., k * n : (k + 1) * n] for k in range(4))
        h, c = after
        m.tanh(g, out=h)
        _sigmoid(m, z)  # of all blocks, for one call is faster
        g[...] = h
        m.multiply(f, before[1], out=c)
        m.multiply(i, g, out=h)
        m.add(c, h, out=c)
        m.tanh(c, out=h)
        m.multiply(o, h, out=h)

    def factors(self, gates: Array, before: list[Array], after: list[Array]) -> tuple[Array, ...]:
        """What backward multiplies by at several steps: it does not depend on the cotangents."""
        m, n = self.m, gates.shape[-1] // 4
        i, f, g, o = (gates[..., k * n : (k + 1) * n] for k in range(4))
        tanh_c = m.tanh(after[1])
        by_c = m.zeros((*gates.shape[:-1], 4, n), gates.dtype)  # the last block is filled from h
        m.multiply(g, i * (1 - i), out=by_c[..., 0, :])
        m.multiply(before[1], f * (1 - f), out=by_c[..., 1, :])
        m.multiply(i, 1 - g * g, out=by_c[..., 2, :])
        return by_c, tanh_c * (o * (1 - o)), o * (1 - tanh_c * tanh_c), f

    def inside(self, factors: list[Array], deltas: Array) -> None:
        """Add what parts of a state send each other within a step: h to c."""
        dh, dc = deltas
        dc += dh * factors[2]

    def backward(self, factors: list[Array], deltas: Array, dz: Array) -> None:
        """From the cotangents of a state, (parts, …, B, H), to those of the sum, ``dz``.

        What goes to the state before without the sum is left in ``deltas``: ∂c_t/∂c_{t−1} = f.
        """
        m, (dh, dc) = self.m, deltas
        by_c, by_h, _, f = factors
        blocks = dz.reshape((*dz.shape[:-1], 4, dh.shape[-1]))
        m.multiply(dc[..., None, :], by_c, out=blocks)
        m.multiply(dh, by_h, out=blocks[..., 3, :])
        m.multiply(dc, f, out=dc)


def _sigmoid(m: Any, z: Array) -> None:
    """Put σ(z) in the place of ``z``. 1 / (1 + e⁻ᶻ) is accurate on both tails."""
    if z.dtype.kind == "c":  # among complex numbers infinity does not lead to 0
        e = m.exp(m.where(z.real < 0, z, -z))
        z[...] = m.where(z.real < 0, e, 1) / (1 + e)
        return
    m.negative(z, out=z)
    m.exp(z, out=z)
    m.add(z, 1, out=z)
    m.divide(1, z, out=z)
