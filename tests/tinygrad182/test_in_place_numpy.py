"""NumPy's ways to write into an array: noticed in ``.data`` of a leaf, refused on a Tensor itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, host_only, leaf

pytestmark = host_only("these are NumPy's arrays")

Change = Callable[[tg.Tensor], Any]

WRITES: list[Change] = [
    lambda x: np.add(x.data, 1.0, out=x.data),
    lambda x: np.multiply(x.data, 2.0, x.data),
    lambda x: np.cumsum(x.data, out=x.data),
    lambda x: np.clip(x.data, 5.0, 6.0, out=x.data),
    lambda x: np.einsum("i,i->i", x.data, x.data, out=x.data),
    lambda x: np.add.at(x.data, [0], 1.0),
    lambda x: np.copyto(x.data, 100.0),
    lambda x: np.copyto(x.data[1:], 100.0),
    lambda x: np.put(x.data, [0], 100.0),
    lambda x: np.place(x.data, x.data > 0, [100.0]),
    lambda x: np.putmask(x.data, x.data > 0, 100.0),
    lambda x: x.data.fill(100.0),
    lambda x: x.data[::-1].sort(),
    lambda x: x.data.reshape(2, 1).T.__setitem__(0, 100.0),
    lambda x: x.data.view("int64").__ixor__(1),
    lambda x: memoryview(x.data).__setitem__(0, 100.0),
    lambda x: np.random.default_rng(0).random(out=x.data),
    lambda x: np.random.default_rng(0).shuffle(np.negative(x.data, out=x.data)),
]


@pytest.mark.parametrize("write", WRITES)
def test_numpys_writes_into_the_data_raise(write: Change) -> None:
    x, w, c = leaf([1.0, 2.0]), leaf([3.0, 4.0]), const([3.0, 4.0])
    for changed, y in ((w, (x * w * w).sum()), (c, (x * c).sum())):
        write(changed)
        with pytest.raises(tg.InPlaceError):
            y.backward()
    assert x.grad is None


@pytest.mark.parametrize(
    "write",
    [
        lambda y: np.add(y, 1.0, out=y),
        lambda y: np.add(np.ones(2), np.ones(2), out=y),
        lambda y: np.add.at(y, [0], 1.0),
        lambda y: np.copyto(y, np.ones(2)),
        lambda y: np.copyto(y.numpy(), np.ones(2)),
        lambda y: np.put(y, [0], 1.0),
        lambda y: y.__setitem__(0, 1.0),
        lambda y: np.ones(2).__iadd__(y),
    ],
)
def test_numpys_writes_into_a_tensor_are_refused(write: Change) -> None:
    """Nothing is written through a Tensor itself, whether it is a result, a leaf or a constant."""
    for y in (leaf([1.0, 2.0]) * 2, leaf([2.0, 4.0]), (leaf([1.0, 2.0]) * 2).detach()):
        with pytest.raises((tg.TinygradError, ValueError, TypeError)):
            write(y)
        assert y.tolist() == [2.0, 4.0]
