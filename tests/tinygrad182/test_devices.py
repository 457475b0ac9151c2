"""Devices: errors say what is missing, and operands of two devices raise."""

from __future__ import annotations

import builtins
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import array_api_strict
import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, host_only, leaf, xp
from tinygrad182.arrays import namespaces

from .table import ROWS, Row

# --- names --------------------------------------------------------------------------------------

ASKING: list[Callable[[str], Any]] = [
    tg.use_device,
    lambda device: tg.zeros(2, device=device),
    lambda device: tg.full(2, 1.0, device=device),
    lambda device: tg.arange(2, device=device),
    lambda device: tg.eye(2, device=device),
    lambda device: tg.tensor([1.0], device=device),
    lambda device: tg.tensor(np.ones(2), device=device),
    lambda device: tg.ones(2).to(device),
    lambda device: tg.to_device(tg.ones(2), device),
    lambda device: tg.nn.Linear(2, 2, rng=0).to(device),
]


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize(
    "name", ["tpu", "cuda:x", "cuda:-1", "CPU", "cpu:0", "", "cuda0", 0, "mps"]
)
def test_unknown_names(ask: Callable[[Any], Any], name: Any) -> None:
    with pytest.raises(tg.DeviceError, match=r"unknown device .*use 'cpu', 'cuda' or 'cuda:N'"):
        ask(name)
    assert tg.zeros(1).device is not None  # and nothing was switched


def _cupy(monkeypatch: pytest.MonkeyPatch, count: Callable[[], int]) -> None:
    """Put a CuPy in place that finds as many devices as ``count`` says."""
    tg.use_device("cpu")  # what is made before the question needs no card
    cupy = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=count))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)


def _no_driver() -> int:
    raise RuntimeError("cudaErrorInsufficientDriver")


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_no_gpu(ask: Callable[[str], Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy imports without a GPU: the message says that the driver is missing."""
    _cupy(monkeypatch, _no_driver)
    with pytest.raises(tg.DeviceError, match=r"finds no usable CUDA driver or GPU .*NVIDIA driver"):
        ask(name)
    assert not tg.cuda_is_available()


@pytest.mark.parametrize("ask", ASKING)
def test_too_few_gpus(ask: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _cupy(monkeypatch, lambda: 2)
    with pytest.raises(tg.DeviceError, match=r"'cuda:2': this machine has 2 CUDA device\(s\)"):
        ask("cuda:2")


NOT_INSTALLED = r"not installed: pip install 'tinygrad182\[cuda12\]'"


def test_no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_cupy(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "cupy":
            raise ModuleNotFoundError("No module named 'cupy'", name="cupy")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_cupy)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    for ask in ASKING:
        with pytest.raises(tg.MissingDependencyError, match=NOT_INSTALLED):
            ask("cuda")
    assert not tg.cuda_is_available()


def test_a_failed_switch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _cupy(monkeypatch, _no_driver)
    before = tg.zeros(1).device
    with pytest.raises(tg.DeviceError):
        tg.use_device("cuda")
    assert tg.zeros(1).device == before


def test_importing_the_framework_does_not_import_cupy() -> None:
    code = "import sys, tinygrad182 as tg; tg.zeros(2) + 1; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_scalar_of_numpy_changes_nothing_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a scalar's type were registered as an array's, scalar values would be on another device."""
    monkeypatch.setattr(namespaces, "NAMESPACES", dict(namespaces.NAMESPACES))
    assert namespaces.namespace(np.float32(1)) is namespaces.NUMPY
    assert np.float32 not in namespaces.NAMESPACES
    assert not namespaces.is_array(np.float32(1))


def test_moving_to_where_it_is_already() -> None:
    x = leaf([1.0])
    assert x.to(x.device) is x
    assert tg.to_device(x, x.device) is x


# --- libraries that meet ------------------------------------------------------------------------


def _strict(values: Any) -> Any:
    return array_api_strict.asarray(np.asarray(values))


X = np.arange(1.0, 7.0).reshape(2, 3)
V = np.ones(3)

# Each is called with a tensor x on the device under test and something of array-api-strict, which is
# once an array, once a tensor.
MEETINGS: dict[str, Callable[[tg.Tensor, Any], Any]] = {
    "add": lambda x, s: x + s,
    "reflected": lambda x, s: x.data * tg.as_tensor(s),
    "multiply": lambda x, s: tg.multiply(s, x),
    "divide": lambda x, s: tg.divide(s, x),
    "power": lambda x, s: x**s,
    "maximum": lambda x, s: tg.maximum(x, s),
    "matmul": lambda x, s: x @ s,
    "where": lambda x, s: tg.where(s > 0, x, 0.0),
    "greater": lambda x, s: x > s,
    "equal": lambda x, s: x == s,
    "concat": lambda x, s: tg.concat([x[0], s]),
    "stack": lambda x, s: tg.stack([x[0], s]),
    "einsum": lambda x, s: tg.einsum("ij,j->i", x, s),
    "outer": lambda x, s: tg.outer(x[0], s),
    "clip": lambda x, s: tg.clip(x, s),
}


@pytest.mark.parametrize("meet", MEETINGS.values(), ids=MEETINGS.keys())
@pytest.mark.parametrize("raw", [True, False], ids=["array", "tensor"])
def test_two_libraries_never_mix(meet: Callable[[tg.Tensor, Any], Any], raw: bool) -> None:
    other = _strict(V) if raw else tg.tensor(_strict(V))
    for x in (const(X), leaf(X)):
        with pytest.raises(tg.DeviceError) as caught:
            meet(x, other)
        message = str(caught.value)
        assert xp().name in message
        assert "array_api_strict" in message
        assert "to(device)" in message


def test_it_raises_before_any_work() -> None:
    """Shapes also mismatch and sums would overflow, but the error of devices comes first."""
    huge = const(np.full((2, 3), 1e308))
    with np.errstate(all="raise"), pytest.raises(tg.DeviceError, match=r"^add: .*\(2, 3\).*\(5,\)"):
        huge + _strict(np.ones(5))


@pytest.mark.parametrize("key", [[0, 1], [True, False]])
def test_an_index_of_another_library(key: Any) -> None:
    x = const(X)
    with pytest.raises(tg.DeviceError, match="array_api_strict"):
        x[_strict(key)]
    with pytest.raises(tg.DeviceError, match="array_api_strict"):
        x[:, 1][tg.tensor(_strict(key))]


def test_cotangents_and_directions_of_another_library() -> None:
    x = leaf(V)
    for g in (_strict(V), tg.tensor(_strict(V))):
        with pytest.raises(tg.DeviceError, match="array_api_strict"):
            (x * 2).backward(g)
        with pytest.raises(tg.DeviceError, match="array_api_strict"):
            tg.grad(x * 2, x, g)
        with pytest.raises(tg.DeviceError, match="array_api_strict"):
            tg.vjp(lambda x: x * 2, x)[1](g)
        with pytest.raises(tg.DeviceError, match="array_api_strict"):
            tg.jvp(lambda x: x * 2, x, g)


def test_gradients_and_values_of_another_library() -> None:
    x = leaf(V)
    with pytest.raises(tg.DeviceError, match="array_api_strict"):
        x.grad = tg.tensor(_strict(V))
    for value in (_strict(V), tg.tensor(_strict(V))):
        with pytest.raises(tg.DeviceError, match="array_api_strict"):
            x.assign(value)
    assert x.tolist() == V.tolist()


def test_numbers_go_with_every_library() -> None:
    x = tg.tensor(_strict(X), requires_grad=True)
    y = (2 * x + 1 - x / 3) ** 2 * np.float64(0.5)
    assert type(y.data) is type(x.data)
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), (5 / 3 * X + 1) * 5 / 3, rtol=1e-15)


def test_a_tensor_of_the_third_library_converts() -> None:
    x = tg.tensor(_strict(X))
    assert x.device == "cpu"
    assert x.numpy().tolist() == x.tolist() == X.tolist()
    assert x[0, 0].item() == 1.0
    assert "1." in repr(x)
    assert type(tg.zeros_like(x).data) is type(x.data)


# --- a library with several devices, simulated by array-api-strict ------------------------------


def _strict_namespace() -> Any:
    return tg.backend.namespace(_strict(V))


def test_two_devices_of_one_library_never_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_strict_namespace(), "device", lambda array: str(array.device))
    first, second = (array_api_strict.Device(name) for name in ("CPU_DEVICE", "device1"))
    x = tg.tensor(array_api_strict.asarray(V, device=first), requires_grad=True)
    y = array_api_strict.asarray(V, device=second)
    with pytest.raises(tg.DeviceError, match=r"^multiply: .*CPU_DEVICE.*device1"):
        x * y


class _CurrentDevice:
    """A fake of CuPy's context of a current device."""

    def __init__(self) -> None:
        self.inside = 0
        self.entered = 0

    def __call__(self, array: Any) -> _CurrentDevice:
        assert type(array) is type(_strict(V))
        return self

    def __enter__(self) -> None:
        self.inside += 1
        self.entered += 1

    def __exit__(self, *_: Any) -> None:
        self.inside -= 1


@host_only("the third library plays the card")
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_everything_runs_on_the_device_of_its_operands(
    row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forwards, rules and sums run inside the context of a library's current device."""
    device = _CurrentDevice()
    xp = _strict_namespace()
    monkeypatch.setattr(xp, "guarded", True)
    monkeypatch.setattr(xp, "on", device)
    outside: set[str] = set()
    for name in namespaces.SHARED:
        monkeypatch.setattr(xp, name, _watched(getattr(xp, name), name, device, outside))
    xs = [tg.tensor(_strict(x), requires_grad=x.dtype.kind == "f") for x in row.draw()]
    y = row.f(*xs)
    g = np.random.default_rng(0).standard_normal(y.shape)
    active = [x for x in xs if x.requires_grad]
    tg.grad(y, active, _strict(g), retain_graph=True)
    tg.grad(y, active, _strict(g), create_graph=True)
    tg.grad(y.sum(), active, retain_graph=True)
    first = next(k for k, x in enumerate(xs) if x.requires_grad)

    def f(x: Any) -> tg.Tensor:
        return row.f(*xs[:first], x, *xs[first + 1 :])

    tg.jacobian(f, xs[first].detach())
    for point in (xs[first], xs[first].detach()):
        tg.jvp(f, point, point.detach())
    assert not outside
    assert device.inside == 0


def _watched(f: Any, name: str, device: _CurrentDevice, outside: set[str]) -> Any:
    def watched(*args: Any, **options: Any) -> Any:
        if not device.inside:
            outside.add(name)
        return f(*args, **options)

    return watched


# --- a CuPy that cannot be used -----------------------------------------------------------------


def _bare(**names: Any) -> ModuleType:
    """A CuPy with a GPU, every function we call, and what is given."""
    cupy = ModuleType("cupy")
    runtime = SimpleNamespace(getDeviceCount=lambda: 1)
    cupy.cuda = SimpleNamespace(runtime=runtime)  # type: ignore[attr-defined]
    cupy.ndarray = type("ndarray", (), {})  # type: ignore[attr-defined]
    cupy.power = np.power  # type: ignore[attr-defined]
    for name in namespaces.SHARED:
        setattr(cupy, name, None)
    for name, value in names.items():
        setattr(cupy, name, value)
    return cupy


def _no_compiler() -> Any:
    def version() -> None:
        raise RuntimeError("CuPy failed to load libnvrtc.so.12")

    runtime = SimpleNamespace(getDeviceCount=lambda: 1)
    return SimpleNamespace(runtime=runtime, nvrtc=SimpleNamespace(getVersion=version))


@pytest.fixture
def _unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CuPy has been seen yet."""
    known = {k: v for k, v in namespaces.NAMESPACES.items() if k.__module__ != "cupy"}
    monkeypatch.setattr(namespaces, "NAMESPACES", known)


@pytest.mark.usefixtures("_unregistered")
@pytest.mark.parametrize("ask", ASKING)
def test_an_old_cupy(ask: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy 14.1 has no ``cumulative_sum``: the message names the version that has."""
    cupy = _bare(__version__="14.1.1")
    del cupy.cumulative_sum
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    message = r"14\.2 or newer; 14\.1\.1 has no cupy\.cumulative_sum: pip install .*--upgrade"
    with tg.use_device("cpu"), pytest.raises(tg.MissingDependencyError, match=message):
        ask("cuda")
    assert not tg.cuda_is_available()


@pytest.mark.usefixtures("_unregistered")
@pytest.mark.parametrize("ask", ASKING)
def test_a_cupy_without_a_compiler(
    ask: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", _bare(cuda=_no_compiler()))
    message = (
        r"cannot load what it needs \(CuPy failed to load libnvrtc.*pip install 'tinygrad182\["
    )
    with tg.use_device("cpu"), pytest.raises(tg.MissingDependencyError, match=message):
        ask("cuda")
    assert not tg.cuda_is_available()


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcublas.so.12: cannot open shared object file"),
        ModuleNotFoundError("No module named 'cupy_backends'", name="cupy_backends"),
    ],
)
def test_a_cupy_that_does_not_load(error: ImportError, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cupy":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with pytest.raises(tg.MissingDependencyError, match=r"installed but cannot load .*cu"):
        tg.backend.check_device("cuda")
    assert not tg.cuda_is_available()
