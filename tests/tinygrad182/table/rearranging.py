"""Operations that rearrange elements or change their type."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad182 as tg
from tests import support

from .row import Row, row


def _scatter(*values: Any) -> tg.Tensor:
    """Two values added at keys that overlap, the second at an index array that repeats itself."""
    first, second = values
    items = [((slice(0, 3),), first), ((_like(second, np.asarray([1, 1])),), second)]
    return tg.scatter_add((4, 2), (first[0] + second[0]).dtype, items)


def _like(x: tg.Tensor, array: Any) -> tg.Tensor:
    """A NumPy array as a constant of the library and device of ``x``."""
    xp = tg.backend.namespace(x.data)
    return tg.tensor(xp.from_numpy(array, x.device))


def _torch_scatter(t: Any, first: Any, second: Any) -> Any:
    base = t.cat([first, t.zeros(1, 2, dtype=first.dtype)])
    return base.index_add(0, t.tensor([1, 1]), second)


def _scatter_overlapping(first: Any, second: Any) -> tg.Tensor:
    """Two values of one shape, that of the result, one of them backwards."""
    items = [((slice(0, 2),), first), ((slice(None, None, -1),), second)]
    return tg.scatter_add((2, 2), (first + second).dtype, items)


def _torch_overlapping(t: Any, first: Any, second: Any) -> Any:
    return first + second.flip(0)


def _scatter_ones(first: Any, second: Any) -> tg.Tensor:
    """Three axes, one of them 1, and a value of fewer."""
    items = [((slice(1, 2),), first), ((0,), second)]
    return tg.scatter_add((3, 2, 1), (first[0] + second).dtype, items)


def _torch_scatter_ones(t: Any, first: Any, second: Any) -> Any:
    return t.cat([second[None], first, t.zeros_like(first)])


def _narrower(x: Any) -> tg.Tensor:
    return tg.astype(x, "complex64" if "complex" in str(x.dtype) else "float32")


def _same_type(x: Any) -> tg.Tensor:  # tg.astype returns x where it has the type already
    return tg.apply(tg.PRIMITIVES["astype"], x, dtype=x.dtype)


def _to_device(x: Any) -> tg.Tensor:  # tg.to_device returns x where it is there already
    return tg.apply(tg.PRIMITIVES["to_device"], x, device=support.device())


def _pad(t: Any, x: Any, *pads: int, value: float = 0.0) -> Any:
    return t.nn.functional.pad(x, pads, value=value)


ROWS: list[Row] = [
    row("reshape", "", lambda x: tg.reshape(x, (3, 2)), lambda t, x: x.reshape(3, 2), (2, 3)),
    row("reshape", "unknown", lambda x: x.reshape(-1, 2), lambda t, x: x.reshape(-1, 2), (2, 3)),
    row("reshape", "flat", lambda x: tg.reshape(x, 6), lambda t, x: x.reshape(6), (2, 3)),
    row("reshape", "flatten", lambda x: x.flatten(), lambda t, x: x.flatten(), (2, 3)),
    row("reshape", "square", lambda x: tg.reshape(x, (4,)), lambda t, x: x.reshape(4), (2, 2)),
    row("reshape", "to-0d", lambda x: tg.reshape(x, ()), lambda t, x: x.reshape(()), (1, 1)),
    row("reshape", "from-0d", lambda x: tg.reshape(x, (1, 1)), lambda t, x: x.reshape(1, 1), ()),
    row("reshape", "empty", lambda x: tg.reshape(x, (3, 0)), lambda t, x: x.reshape(3, 0), (0, 3)),
    row(
        "permute_dims",
        "cycle",
        lambda x: tg.permute_dims(x, (2, 0, 1)),
        lambda t, x: x.permute(2, 0, 1),
        (2, 3, 4),
    ),
    row(
        "permute_dims",
        "negative",
        lambda x: tg.permute_dims(x, (-1, 0, 1)),
        lambda t, x: x.permute(2, 0, 1),
        (2, 3, 4),
    ),
    row(
        "permute_dims",
        "size-1",
        lambda x: tg.permute_dims(x, (2, 1, 0)),
        lambda t, x: x.permute(2, 1, 0),
        (2, 1, 3),
    ),
    row(
        "permute_dims",
        "cube",
        lambda x: tg.permute_dims(x, (2, 0, 1)),
        lambda t, x: x.permute(2, 0, 1),
        (2, 2, 2),
    ),
    row("permute_dims", "T", lambda x: x.T, lambda t, x: x.permute(2, 1, 0), (2, 3, 4)),
    row(
        "permute_dims",
        "transpose",
        lambda x: x.transpose(1, 0),
        lambda t, x: x.permute(1, 0),
        (2, 3),
    ),
    row("permute_dims", "empty", lambda x: x.T, lambda t, x: x.permute(1, 0), (0, 3)),
    row("permute_dims", "0d", lambda x: tg.permute_dims(x, ()), lambda t, x: x, ()),
    row("transpose", "", tg.transpose, lambda t, x: x.permute(2, 1, 0), (2, 3, 4)),
    row(
        "transpose",
        "axes",
        lambda x: tg.transpose(x, (1, 2, 0)),
        lambda t, x: x.permute(1, 2, 0),
        (2, 3, 4),
    ),
    row("swapaxes", "", lambda x: tg.swapaxes(x, 0, -1), lambda t, x: x.swapaxes(0, -1), (2, 3, 4)),
    row("swapaxes", "same", lambda x: tg.swapaxes(x, 1, 1), lambda t, x: x, (2, 3)),
    row("matrix_transpose", "", tg.matrix_transpose, lambda t, x: x.mT, (2, 3)),
    row("matrix_transpose", "mT", lambda x: x.mT, lambda t, x: x.mT, (2, 3, 4)),
    row("expand_dims", "first", lambda x: tg.expand_dims(x, 0), lambda t, x: x[None], (2, 3)),
    row("expand_dims", "last", lambda x: tg.expand_dims(x, -1), lambda t, x: x[..., None], (2, 3)),
    row("expand_dims", "0d", lambda x: tg.expand_dims(x, 0), lambda t, x: x[None], ()),
    row("squeeze", "all", lambda x: tg.squeeze(x), lambda t, x: x.squeeze(), (1, 2, 1)),
    row("squeeze", "one", lambda x: tg.squeeze(x, -1), lambda t, x: x.squeeze(-1), (1, 2, 1)),
    row("squeeze", "pair", lambda x: x.squeeze((0, 2)), lambda t, x: x.squeeze((0, 2)), (1, 2, 1)),
    row("squeeze", "0d", lambda x: tg.squeeze(x), lambda t, x: x, ()),
    row(
        "broadcast_to",
        "leading",
        lambda x: tg.broadcast_to(x, (2, 3)),
        lambda t, x: x.expand(2, 3),
        (3,),
    ),
    row(
        "broadcast_to",
        "inner",
        lambda x: tg.broadcast_to(x, (2, 3, 4)),
        lambda t, x: x.expand(2, 3, 4),
        (3, 1),
    ),
    row(
        "broadcast_to",
        "square",
        lambda x: tg.broadcast_to(x, (2, 2, 2)),
        lambda t, x: x.expand(2, 2, 2),
        (2, 2),
    ),
    row(
        "broadcast_to",
        "three-axes",
        lambda x: tg.broadcast_to(x, (2, 2, 3)),
        lambda t, x: x.expand(2, 2, 3),
        (2, 1, 3),
    ),
    row(
        "broadcast_to", "0d", lambda x: tg.broadcast_to(x, (2, 1)), lambda t, x: x.expand(2, 1), ()
    ),
    row("broadcast_to", "same", lambda x: tg.broadcast_to(x, (2, 3)), lambda t, x: x, (2, 3)),
    row(
        "broadcast_to",
        "to-empty",
        lambda x: tg.broadcast_to(x, (0, 3)),
        lambda t, x: x.expand(0, 3),
        (1, 3),
    ),
    row(
        "broadcast_to",
        "from-empty",
        lambda x: tg.broadcast_to(x, (2, 0, 3)),
        lambda t, x: x.expand(2, 0, 3),
        (0, 1),
    ),
    row(
        "concat",
        "first",
        lambda *xs: tg.concat(xs),
        lambda t, *xs: t.cat(xs),
        (2, 3),
        (1, 3),
        (2, 3),
    ),
    row(
        "concat",
        "last",
        lambda *xs: tg.concat(xs, axis=-1),
        lambda t, *xs: t.cat(xs, -1),
        (2, 3),
        (2, 1),
    ),
    row(
        "concat",
        "middle",
        lambda *xs: tg.concat(xs, axis=1),
        lambda t, *xs: t.cat(xs, 1),
        (2, 1, 2),
        (2, 3, 2),
    ),
    row(
        "concat",
        "equal",
        lambda *xs: tg.concat(xs),
        lambda t, *xs: t.cat(xs),
        (2, 1),
        (2, 1),
    ),
    row("concat", "square", lambda *xs: tg.concat(xs), lambda t, *xs: t.cat(xs), (2, 2), (2, 2)),
    row("concat", "one", lambda x: tg.concat([x]), lambda t, x: x, (2,)),
    row("concat", "empty", lambda *xs: tg.concat(xs), lambda t, *xs: t.cat(xs), (0, 3), (2, 3)),
    row("stack", "first", lambda *xs: tg.stack(xs), lambda t, *xs: t.stack(xs), (2, 3), (2, 3)),
    row(
        "stack",
        "middle",
        lambda *xs: tg.stack(xs, axis=1),
        lambda t, *xs: t.stack(xs, 1),
        (2, 3),
        (2, 3),
        (2, 3),
    ),
    row(
        "stack",
        "last",
        lambda *xs: tg.stack(xs, axis=-1),
        lambda t, *xs: t.stack(xs, -1),
        (2, 3),
        (2, 3),
    ),
    row(
        "stack",
        "before-last",
        lambda *xs: tg.stack(xs, axis=-2),
        lambda t, *xs: t.stack(xs, -2),
        (2, 3),
        (2, 3),
    ),
    row("stack", "empty", lambda *xs: tg.stack(xs), lambda t, *xs: t.stack(xs), (0, 3), (0, 3)),
    row(
        "stack",
        "three-axes",
        lambda *xs: tg.stack(xs, axis=1),
        lambda t, *xs: t.stack(xs, 1),
        (2, 2, 1),
        (2, 2, 1),
    ),
    row("stack", "square", lambda *xs: tg.stack(xs), lambda t, *xs: t.stack(xs), (2, 2), (2, 2)),
    row("stack", "0d", lambda *xs: tg.stack(xs), lambda t, *xs: t.stack(xs), (), ()),
    row(
        "unstack", "first", lambda x: tg.stack(tg.unstack(x)[::-1]), lambda t, x: x.flip(0), (3, 2)
    ),
    row("unstack", "last", lambda x: tg.unstack(x, axis=-1)[1], lambda t, x: x[..., 1], (2, 3)),
    row(
        "unstack", "iterated", lambda x: sum(x[1:], x[0] * 2), lambda t, x: x.sum(0) + x[0], (3, 2)
    ),
    row("flip", "all", lambda x: tg.flip(x), lambda t, x: x.flip(0, 1), (2, 3)),
    row("flip", "axis", lambda x: tg.flip(x, axis=1), lambda t, x: x.flip(1), (2, 3, 2)),
    row("flip", "pair", lambda x: tg.flip(x, axis=(0, -1)), lambda t, x: x.flip(0, 2), (2, 3, 2)),
    row("flip", "0d", lambda x: tg.flip(x), lambda t, x: x, ()),
    row("flip", "square", lambda x: tg.flip(x, axis=0), lambda t, x: x.flip(0), (2, 2)),
    row("flip", "size-1", lambda x: tg.flip(x, axis=1), lambda t, x: x.flip(1), (2, 3, 1)),
    row("flip", "empty", lambda x: tg.flip(x), lambda t, x: x.flip(0), (0,)),
    row(
        "take_along_axis",
        "",
        lambda x: tg.take_along_axis(x, np.array([[1, 0, 1], [2, 2, 0]]), axis=1),
        lambda t, x: t.stack([x[0, [1, 0, 1]], x[1, [2, 2, 0]]]),
        (2, 3),
    ),
    row("pad", "number", lambda x: tg.pad(x, 1), lambda t, x: _pad(t, x, 1, 1, 1, 1), (2, 3)),
    row("pad", "pair", lambda x: tg.pad(x, (1, 2)), lambda t, x: _pad(t, x, 1, 2), (3,)),
    row(
        "pad",
        "pairs",
        lambda x: tg.pad(x, ((0, 2), (1, 0)), 7.0),
        lambda t, x: _pad(t, x, 1, 0, 0, 2, value=7.0),
        (2, 3),
    ),
    row("pad", "nothing", lambda x: tg.pad(x, 0), lambda t, x: x, (2, 3)),
    row("pad", "empty", lambda x: tg.pad(x, 1), lambda t, x: _pad(t, x, 1, 1), (0,)),
    row("astype", "narrower", _narrower, lambda t, x: x.float(), (2, 3), through_float32=True),
    row("astype", "same", lambda x: tg.astype(x, x.dtype), lambda t, x: x, (2, 3)),
    *(
        row(name, case, function, lambda t, x: x.clone(), shape)
        for name, function in (("astype", _same_type), ("to_device", _to_device))
        for case, shape in (
            ("", (2, 3)),
            ("square", (2, 2)),
            ("three-axes", (2, 3, 1)),
            ("0d", ()),
            ("empty", (0, 3)),
        )
    ),
    row("to_device_of", "", lambda x: tg.to_device_of(x, x * 2), lambda t, x: x.clone(), (2, 3)),
    row("scatter_add", "", _scatter, _torch_scatter, (3, 2), (2, 2)),
    row("scatter_add", "equal", _scatter_overlapping, _torch_overlapping, (2, 2), (2, 2)),
    row("scatter_add", "size-1", _scatter_ones, _torch_scatter_ones, (1, 2, 1), (2, 1)),
    row(
        "scatter_add",
        "empty",
        lambda x: tg.scatter_add((4, 2), x.dtype, [((slice(0, 0),), x)]),
        lambda t, x: t.zeros(4, 2, dtype=x.dtype) + x.sum(0),
        (0, 2),
    ),
]
