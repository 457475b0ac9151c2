"""On a device, the host looks at no number while the loops run, so its queue never drains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support import Array, assert_close
from tests.tinygrad182.kernels.cases import KINDS, Case, make
from tinygrad182.arrays.namespaces import NAMESPACES, NumPyLike
from tinygrad182.kernels import numpy_loops, products
from tinygrad182.kernels.runs import StepCotangents, windows
from tinygrad182.recurrence import scans


class OnDevice(np.ndarray[Any, Any]):
    """An array whose numbers the host can only read by :meth:`get`, which is counted."""

    waits = 0

    def get(self) -> Array:
        OnDevice.waits += 1
        return np.array(self)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the host waits for the device")

    def __setitem__(self, key: Any, value: Any) -> None:
        """Refuse Boolean masks: to use one, the host would have to read it."""
        keys = key if isinstance(key, tuple) else (key,)
        if any(getattr(k, "dtype", "") == "bool" for k in keys):
            self._refuse()
        super().__setitem__(key, value)

    __bool__ = __float__ = __int__ = __index__ = __array_function__ = item = tolist = _refuse  # type: ignore[assignment]


class Module:
    """NumPy's functions as another library, whose arrays are on a device."""

    __name__ = "on_device"

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found

        def on_device(*args: Any, **kwargs: Any) -> Any:
            result = found(*_on_host(args), **{k: _on_host(v) for k, v in kwargs.items()})
            if "out" in kwargs:
                return kwargs["out"]
            if isinstance(result, tuple):
                return tuple(map(device, result))
            return device(result) if isinstance(result, (np.ndarray, np.generic)) else result

        return on_device


def _on_host(x: Any) -> Any:
    """The arrays as NumPy's own, with the same memory."""
    if isinstance(x, OnDevice):
        return x.view(np.ndarray)
    if isinstance(x, Module):
        return np
    if hasattr(x, "_fields"):
        return type(x)(*map(_on_host, x))
    return type(x)(map(_on_host, x)) if type(x) in (tuple, list) else x


def device(x: Any) -> Any:
    return np.asarray(x).view(OnDevice) if isinstance(x, (np.ndarray, np.generic)) else x


XP: Any = NumPyLike(Module())
NAMESPACES[OnDevice] = XP


class Loops:
    """NumPy's loops on arrays of the device, which count as one job of its queue."""

    @staticmethod
    def forward(run: Any, x: Any) -> None:
        numpy_loops.forward(*_on_host((run, x)))

    @staticmethod
    def backward(run: Any, *operands: Any) -> StepCotangents:
        found = numpy_loops.backward(*_on_host((run, *operands))).by_rows()
        return StepCotangents(*map(device, found))

    exponents = staticmethod(numpy_loops.exponents)
    at_powers = staticmethod(numpy_loops.at_powers)
    crossed = staticmethod(numpy_loops.crossed)


@pytest.fixture(autouse=True)
def _loops_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (scans, products):
        on_host = module.loops
        monkeypatch.setattr(
            module,
            "loops",
            lambda program, m, dtype, on_host=on_host: (
                on_host(program, m, dtype) if m is np else Loops
            ),
        )


def moved(case: Case) -> Case:
    return replace(case, inputs=[device(x) for x in case.inputs], g=device(case.g))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("gain", [1.0, 1e-6])
def test_the_loops_never_wait(kind: str, lengths: bool, gain: float) -> None:
    """They give the numbers of the host, also where gradients vanish."""
    case = make(kind, (30, 3, 2, 4), "float64", lengths=lengths, gain=gain)
    there = moved(case)
    OnDevice.waits = 0
    y, _ = there.run(XP)
    inside = there.inside(xp=XP)
    assert OnDevice.waits == 0
    assert_close(_on_host(y), case.states(), 1e-14)
    expected = case.inside()
    found = np.ldexp(_on_host(inside.states), _on_host(inside.powers)[..., None])
    assert_close(
        found,
        np.ldexp(expected.states, np.asarray(expected.powers)[..., None]),
        1e-12,
        floor=1e-300,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_backward_pass_waits_a_few_times_in_all(kind: str) -> None:
    """It waits to compare the sizes of rows, but not at every step or window."""
    case = make(kind, (300, 256, 2, 32), "float64", gain=0.1)
    there = moved(case)
    y, saved = there.run(XP)
    assert len(windows(np, (300, 256, case.program.columns * 32))) > 2
    OnDevice.waits = 0
    found = there.pulled(y, saved, XP)
    assert OnDevice.waits <= 4
    for a, b in zip(found, case.gradients(), strict=True):
        assert_close(_on_host(a), b, 1e-10, floor=1e-3)
