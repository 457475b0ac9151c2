"""What a device's queue needs: no look at a number while what the inputs get is found.

The loops themselves have kernels there, which ``cuda/test_kernels.py`` runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import Array, assert_close
from tests.tinygrad182.kernels.cases import KINDS, make
from tinygrad182.backend import NUMPY
from tinygrad182.kernels.arrays import Deltas
from tinygrad182.kernels.products import sent


class OnDevice(np.ndarray[Any, Any]):
    """An array whose numbers the host can only have by :meth:`get`, which is counted."""

    waits = 0

    def get(self) -> Array:
        OnDevice.waits += 1
        return np.array(self)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the host waits for the device")

    def __setitem__(self, key: Any, value: Any) -> None:
        """Where a mask is True is for the host to know."""
        keys = key if isinstance(key, tuple) else (key,)
        if any(getattr(k, "dtype", "") == "bool" for k in keys):
            self._refuse()
        super().__setitem__(key, value)

    __bool__ = __float__ = __int__ = __index__ = __array_function__ = item = tolist = _refuse  # type: ignore[assignment]


class Module:
    """NumPy's functions, as those of another library whose arrays are all on a device."""

    __name__ = "on_device"

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found

        def on_device(*args: Any, **kwargs: Any) -> Any:
            result = found(*_plain(args), **{k: _plain(v) for k, v in kwargs.items()})
            if "out" in kwargs:
                return kwargs["out"]
            if isinstance(result, tuple):
                return tuple(map(device, result))
            return device(result) if isinstance(result, (np.ndarray, np.generic)) else result

        return on_device


def _plain(x: Any) -> Any:
    """The same memory, as NumPy's own functions take it."""
    if isinstance(x, OnDevice):
        return x.view(np.ndarray)
    return type(x)(map(_plain, x)) if type(x) in (tuple, list) else x


def device(x: Any) -> Any:
    return np.asarray(x).view(OnDevice) if isinstance(x, (np.ndarray, np.generic)) else x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("gain", [1.0, 1e-6])
def test_what_the_inputs_get_is_found_without_a_wait(kind: str, lengths: bool, gain: float) -> None:
    """From rows at powers of two, whether they are similar or vanish; and it is what the host finds."""
    case = make(kind, (30, 3, 2, 4), "float64", lengths=lengths, gain=gain)
    y, saved = case.run()
    (window,) = case.scan.inside(NUMPY, case.g, y, tuple(case.inputs), saved, **case.params)
    arrays = {name: device(getattr(window.setting, name)) for name in ARRAYS}
    setting = window.setting._replace(m=Module(), **arrays)
    deltas = Deltas(*map(device, window.deltas.by_rows()))
    OnDevice.waits = 0
    found = [_plain(c) for c in sent(setting, deltas) if c is not None]
    assert OnDevice.waits == 0
    for a, b in zip(found, case.gradients(), strict=True):
        assert_close(a, b, 1e-12, floor=1e-12)


ARRAYS = ("x", "initial", "states", "weight_ih")
"""The arrays of a setting."""
