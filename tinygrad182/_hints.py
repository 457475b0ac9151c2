"""What to write in place of NumPy's functions that we do not have, so that gradients flow."""

from __future__ import annotations

HINTS = {
    # shape
    "append": "tg.concat([x, y])",
    "atleast_1d": "x if x.ndim > 0 else x[None]",
    "atleast_2d": "x if x.ndim > 1 else tg.reshape(x, (1, -1))",
    "broadcast_arrays": "[tg.broadcast_to(a, np.broadcast_shapes(x.shape, v.shape)) for a in (x, v)]",
    "column_stack": "tg.stack([v, w], axis=1)",
    "copy": "x.clone()",
    "dstack": "tg.stack([x, y], axis=2)",
    "fliplr": "tg.flip(x, axis=1)",
    "flipud": "tg.flip(x, axis=0)",
    "hstack": "tg.concat([x, y], axis=-1)",
    "moveaxis": "tg.permute_dims(x, axes)",
    "ravel": "tg.reshape(x, (-1,))",
    "repeat": "tg.take(x, np.repeat(np.arange(len(x)), n), axis=0)",
    "roll": "tg.concat([x[-n:], x[:-n]])",
    "rollaxis": "tg.permute_dims(x, axes)",
    "rot90": "tg.flip(x.T, axis=0)",
    "tile": "tg.concat([x] * n)",
    "vstack": "tg.concat([tg.reshape(a, (-1, a.shape[-1])) for a in (x, y)])",
    # selecting
    "array_split": "[x[:n], x[n:]]",
    "compress": "x[mask]",
    "delete": "tg.concat([x[:n], x[n + 1 :]])",
    "diag": "m[i, i] with i = np.arange(len(m))",
    "diagonal": "m[i, i] with i = np.arange(len(m))",
    "extract": "x[mask]",
    "hsplit": "[x[:, :n], x[:, n:]]",
    "split": "[x[:n], x[n:]]",
    "take_along_axis": "x[i, indices] with i = np.arange(len(x))[:, None]",
    "tril": "tg.where(np.tri(*x.shape, dtype=bool), x, 0)",
    "triu": "tg.where(np.tri(*x.shape, k=-1, dtype=bool), 0, x)",
    "vsplit": "[x[:n], x[n:]]",
    # order
    "median": "tg.mean(tg.take(v, i)) with i = tg.argsort(v)[(len(v) - 1) // 2 : len(v) // 2 + 1]",
    "partition": "tg.take(v, i) with i = np.argpartition(v.numpy(), n)",
    "percentile": (
        "tg.sum(tg.take(v, tg.argsort(v)) * tg.tensor(w, device=v.device)) "
        "with w = np.maximum(1 - np.abs(i - q / 100 * (len(v) - 1)), 0) with i = np.arange(len(v))"
    ),
    "quantile": (
        "tg.sum(tg.take(v, tg.argsort(v)) * tg.tensor(w, device=v.device)) "
        "with w = np.maximum(1 - np.abs(i - p * (len(v) - 1)), 0) with i = np.arange(len(v))"
    ),
    "sort": "tg.take(v, tg.argsort(v))",
    # reductions
    "add.accumulate": "tg.cumulative_sum(x, axis=0)",
    "average": "tg.sum(x * y) / tg.sum(y)",
    "cumprod": "tg.stack([tg.prod(v[: i + 1]) for i in range(len(v))])",
    "cumulative_prod": "tg.stack([tg.prod(v[: i + 1]) for i in range(len(v))])",
    "diff": "x[..., 1:] - x[..., :-1]",
    "nan_to_num": "tg.where(tg.isnan(x), 0, x)",
    "nanmax": "tg.max(x[~tg.isnan(x)])",
    "nanmean": "tg.mean(x[~tg.isnan(x)])",
    "nanmin": "tg.min(x[~tg.isnan(x)])",
    "nanprod": "tg.prod(x[~tg.isnan(x)])",
    "nanstd": "tg.std(x[~tg.isnan(x)])",
    "nansum": "tg.sum(x[~tg.isnan(x)])",
    "nanvar": "tg.var(x[~tg.isnan(x)])",
    "ptp": "tg.max(x) - tg.min(x)",
    "trapezoid": "tg.sum((v[1:] + v[:-1]) * (w[1:] - w[:-1])) / 2",
    # products
    "convolve": (
        "tg.pad(v, n)[i] @ tg.flip(w) "
        "with i = np.arange(len(v) + n)[:, None] + np.arange(n + 1) with n = len(w) - 1"
    ),
    "correlate": "v[i] @ w with i = np.arange(len(v) - len(w) + 1)[:, None] + np.arange(len(w))",
    "cross": (
        "tg.stack([v[1] * w[2] - v[2] * w[1], v[2] * w[0] - v[0] * w[2], v[0] * w[1] - v[1] * w[0]])"
    ),
    "inner": "x @ y.T",
    "interp": (
        "w[i] + (w[i + 1] - w[i]) * (x - g[i]) / (g[i + 1] - g[i]) "
        "with i = np.searchsorted(grid, x.numpy()) - 1 with g = tg.tensor(grid, device=x.device)"
    ),
    "kron": "tg.reshape(tg.einsum('ij,kl->ikjl', x, y), (len(x) * len(y), -1))",
    "linalg.cross": (
        "tg.stack([v[1] * w[2] - v[2] * w[1], v[2] * w[0] - v[0] * w[2], v[0] * w[1] - v[1] * w[0]])"
    ),
    "linalg.diagonal": "m[i, i] with i = np.arange(len(m))",
    "linalg.matrix_norm": "tg.sqrt(tg.sum(x * x))",
    "linalg.matrix_power": "m @ m",
    "linalg.multi_dot": "x @ m @ v",
    "linalg.norm": "tg.sqrt(tg.sum(x * x))",
    "linalg.tensordot": "tg.einsum('ij,ij->', x, y)",
    "linalg.trace": "tg.sum(m * tg.eye_like(len(m), m))",
    "linalg.vecdot": "tg.sum(x * y, axis=-1)",
    "linalg.vector_norm": "tg.sqrt(tg.sum(x * x))",
    "matvec": "x @ v",
    "multiply.outer": "v[:, None] * w",
    "subtract.outer": "v[:, None] - w",
    "tensordot": "tg.einsum('ij,ij->', x, y)",
    "trace": "tg.sum(m * tg.eye_like(len(m), m))",
    "vdot": "tg.sum(x * y)",
    "vecdot": "tg.sum(x * y, axis=-1)",
    # elementwise
    "arccosh": "tg.log(x + tg.sqrt(x * x - 1))",
    "arcsinh": "tg.sign(x) * tg.log(tg.abs(x) + tg.sqrt(x * x + 1))",
    "arctanh": "(tg.log1p(x) - tg.log1p(-x)) / 2",
    "cbrt": "tg.sign(x) * tg.abs(x) ** (1 / 3)",
    "ceil": "-tg.floor(-x)",
    "cosh": "(tg.exp(x) + tg.exp(-x)) / 2",
    "deg2rad": "x * (np.pi / 180)",
    "degrees": "x * (180 / np.pi)",
    "exp2": "2.0**x",
    "fabs": "tg.abs(x)",
    "float_power": "x**y",
    "floor_divide": "tg.floor(x / y)",
    "fmax": "tg.maximum(x, y)",
    "fmin": "tg.minimum(x, y)",
    "hypot": "tg.sqrt(x * x + y * y)",
    "log10": "tg.log(x) / np.log(10)",
    "log2": "tg.log(x) / np.log(2)",
    "logaddexp": "tg.logsumexp(tg.stack([x, y]), axis=0)",
    "positive": "+x",
    "rad2deg": "x * (180 / np.pi)",
    "radians": "x * (np.pi / 180)",
    "reciprocal": "1 / x",
    "remainder": "x - y * tg.floor(x / y)",
    "sinh": "(tg.expm1(x) - tg.expm1(-x)) / 2",
    "tan": "tg.sin(x) / tg.cos(x)",
    "trunc": "tg.sign(x) * tg.floor(tg.abs(x))",
}
"""NumPy's name → the composition, of arrays x and y, vectors v and w, a square matrix m."""
