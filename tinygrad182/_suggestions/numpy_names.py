"""NumPy's functions that ``tg`` does not have, and the composition to write instead."""

from __future__ import annotations

HINTS = {
    "block": "tg.concat([tg.concat([x, y], axis=1), tg.concat([y, x], axis=1)], axis=0)",
    "copysign": "tg.where(y < 0, -tg.abs(x), tg.abs(x))",
    "cov": "d @ d.T / (x.shape[1] - 1) with d = x - tg.mean(x, axis=1, keepdims=True)",
    "divmod": "(tg.floor_divide(x, y), tg.remainder(x, y))",
    "ediff1d": "tg.diff(tg.ravel(x))",
    "insert": "tg.concat([x[:n], y[:1], x[n:]])",
    "meshgrid": "tg.broadcast_arrays(v, tg.expand_dims(w, 1))",
    "modf": "(x - tg.trunc(x), tg.trunc(x))",
    "nancumprod": "tg.cumprod(tg.where(tg.isnan(x), 1, x))",
    "nancumsum": "tg.cumsum(tg.where(tg.isnan(x), 0, x))",
    "nanmedian": "tg.median(x[~tg.isnan(x)])",
    "polyval": "(v[0] * x + v[1]) * x + v[2]",
    "resize": "tg.reshape(tg.tile(tg.ravel(x), 2), (4, 3))",
    "vander": "tg.stack([v**2, v, v**0], axis=1)",
}
"""NumPy's name → the composition, for matrices x and y and vectors v and w."""

MODULES = {
    "fft": (
        "write the transform as two products, x @ np.cos(w) for the real part and -(x @ np.sin(w)) for "
        "the imaginary part, with w = 2 * np.pi / n * np.outer(np.arange(n), np.arange(n))"
    ),
    "linalg": (
        "inverses, solutions and decompositions of matrices do not exist here; define your own with "
        "tg.define, from a forward and its derivative"
    ),
}
"""NumPy's module → the hint for all its functions."""


def hint(name: str) -> str:
    """What to write instead of a function such as ``"linalg.inv"``, as part of a sentence."""
    if name in HINTS:
        return f"write {HINTS[name]}"
    return MODULES.get(name.partition(".")[0], "compose it from the functions of tg")
