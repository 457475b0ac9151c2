"""The edge between host and device: data of the host goes where it is used, operands never move.

Runs on every device (``pytest --device``); waits and launches are counted on the fake CuPy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, assert_same_bits, const, device, leaf
from tinygrad182.engine import anomaly

A = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -3.0]])
G = np.array([[1.0, 2.0, 4.0], [-1.0, 0.5, 8.0]])
"""A value and a cotangent."""


def on_stand_in() -> Any:
    """The fake CuPy, which counts; the test is skipped without it, and on other devices."""
    cupy = pytest.importorskip("cupy")
    if not (getattr(cupy, "__fake__", False) and device() != "cpu"):
        pytest.skip("only a stand-in for CuPy counts what a device waits for")
    return cupy


def arrays(x: np.ndarray[Any, Any]) -> Any:
    return x


def lists(x: np.ndarray[Any, Any]) -> Any:
    return x.tolist()


def rows(x: np.ndarray[Any, Any]) -> Any:
    return list(x)


def narrow(x: np.ndarray[Any, Any]) -> Any:
    return x.astype({"f": "float32", "i": "int32"}.get(x.dtype.kind, x.dtype))


def swapped(x: np.ndarray[Any, Any]) -> Any:
    return x.astype(x.dtype.newbyteorder())  # bytes in the order of other machines


def strided(x: np.ndarray[Any, Any]) -> Any:
    return np.repeat(x, 2, axis=-1)[..., ::2]


HOST = [arrays, lists, rows, narrow, strided, swapped]
"""Forms in which a user may have numbers at hand."""

host = pytest.mark.parametrize("form", HOST)


# --- data goes where it is used -----------------------------------------------------------------


@host
def test_tensor_follows_the_default_device(form: Callable[..., Any]) -> None:
    assert tg.tensor(form(A)).device == device()
    assert tg.nn.Parameter(form(A)).device == device()
    assert tg.tensor(form(A), device="cpu").device == "cpu"
    with tg.use_device("cpu"):
        assert tg.tensor(form(A)).device == "cpu"
        assert tg.tensor(form(A), device=device()).device == device()
    np.testing.assert_array_equal(tg.tensor(form(A)).numpy(), A)


def test_what_is_on_a_device_stays_there() -> None:
    x = const(A)
    with tg.use_device("cpu"):
        assert tg.tensor(x).device == tg.tensor(x.data).device == device()
        assert tg.tensor(x, device="cpu").device == "cpu"


def test_scalars_of_numpy() -> None:
    assert tg.tensor(np.float64(2.5)).device == device()
    assert tg.tensor(np.float64(2.5)).dtype == np.float64
    assert tg.tensor(np.array(3)).dtype == np.int64


@host
def test_assign(form: Callable[..., Any]) -> None:
    x = leaf(np.zeros((2, 3)))
    x.assign(form(A))
    np.testing.assert_array_equal(x.numpy(), A)
    x.data = form(G)
    np.testing.assert_array_equal(x.numpy(), G)
    x.data = np.float32(2)
    np.testing.assert_array_equal(x.numpy(), np.full((2, 3), 2.0))
    assert x.device == device()


@host
def test_parameters_by_their_attribute(form: Callable[..., Any]) -> None:
    layer = tg.nn.Linear(3, 2, rng=0, dtype="float64")
    with pytest.raises(tg.ArgumentError, match=r"write its values with \.weight\.assign\(values\)"):
        layer.weight = form(A)
    layer.weight.assign(form(A))
    layer.weight.data = form(G)
    np.testing.assert_array_equal(layer.weight.numpy(), G)


@host
def test_cotangents(form: Callable[..., Any]) -> None:
    x = leaf(A)
    (x * x).backward(form(G))
    assert x.grad is not None
    assert_close(x.grad, 2 * A * G, 1e-15)
    assert_close(tg.grad(x * x, x, [form(G)])[0], 2 * A * G, 1e-15)
    assert_close(tg.vjp(lambda x: x * x, x)[1](form(G))[0], 2 * A * G, 1e-15)
    (again,) = tg.grad(x * x, x, [form(G)], create_graph=True)
    assert again is not None
    assert_close(tg.grad(again, x, [form(G)])[0], 2 * G * G, 1e-15)


def test_one_cotangent_as_an_array() -> None:
    x = leaf(A)
    assert_close(tg.grad(x * x, x, G)[0], 2 * A * G, 1e-15)


@host
def test_tangents(form: Callable[..., Any]) -> None:
    x = leaf(A)
    assert_close(tg.jvp(lambda x: x * x, [x], [form(G)])[1], 2 * A * G, 1e-15)  # type: ignore[arg-type]


INDICES = [np.array([1, 0, 1]), np.array([[0, -1], [1, 1]]), np.array([True, False])]


@pytest.mark.parametrize("index", INDICES, ids=["one axis", "two axes", "mask"])
@host
def test_indices(form: Callable[..., Any], index: np.ndarray[Any, Any]) -> None:
    x = leaf(A)
    y = x[list(form(index)) if form is rows else form(index)]
    assert_same_bits(y, A[index])
    y.sum().backward()
    expected = np.zeros_like(A)
    np.add.at(expected, index, 1.0)
    assert_same_bits(x.grad, expected)
    if index.dtype != bool:
        assert_same_bits(tg.take(x, form(index), axis=0), A[index])


def test_masks_of_the_host() -> None:
    x = leaf(A)
    mask = A > 0
    assert_same_bits(x[mask], A[mask])
    assert_same_bits(x[:, np.array([True, False, True])], A[:, [True, False, True]])
    assert_same_bits(tg.where(mask, x, 0.0), np.where(mask, A, 0.0))
    assert_same_bits(tg.where(mask, 1.0, x), np.where(mask, 1.0, A))
    assert_same_bits(np.where(mask, x, 0.0), np.where(mask, A, 0.0))  # type: ignore[call-overload]


@host
def test_tokens_and_targets(form: Callable[..., Any]) -> None:
    tokens = np.array([[3, 1], [0, 3]])
    embedding = tg.nn.Embedding(4, 2, padding_idx=1, rng=0)
    assert_same_bits(embedding(form(tokens)), embedding.weight.numpy()[tokens])
    assert embedding(2).shape == (2,)
    assert embedding(np.int64(2)).shape == (2,)
    logits, classes = leaf(A), np.array([2, 0])
    expected = -np.mean(
        [np.log(np.exp(a[c]) / np.exp(a).sum()) for a, c in zip(A, classes, strict=True)]
    )
    assert_close(tg.nn.cross_entropy(logits, form(classes)), expected, 1e-14)
    assert_close(tg.nn.mse_loss(logits, form(G)), ((A - G) ** 2).mean(), 1e-14)


@host
def test_lengths_inputs_and_states(form: Callable[..., Any]) -> None:
    inputs = np.random.default_rng(0).normal(size=(5, 3, 2))
    for fused in (True, False):
        lstm = tg.nn.LSTM(2, 4, rng=0, dtype="float64", fused=fused)
        zeros = np.zeros((1, 3, 4))
        output, _ = lstm(inputs, (zeros, zeros), lengths=form(np.array([5, 2, 3])))
        expected, _ = lstm(const(inputs), lengths=const(np.array([5, 2, 3])))
        assert_same_bits(output, expected)
        assert output.device == device()


@host
def test_state_dicts_from_the_host(form: Callable[..., Any]) -> None:
    model = tg.nn.LSTM(2, 3, rng=0, dtype="float64")
    other = tg.nn.LSTM(2, 3, rng=1, dtype="float64", device="cpu")
    model.load_state_dict({k: form(v.numpy()) for k, v in other.state_dict().items()})
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-7)
        assert ours.device == device()


def test_lists_of_what_is_on_a_device() -> None:
    x = const(A)
    assert_same_bits(tg.tensor([x[0], x[1]]), A)
    assert_same_bits(
        tg.tensor([[x.data[0, 0], 2.0], [np.float64(3.0), x.data[1, 1]]]), [[0.5, 2], [3, 0.25]]
    )
    assert tg.nn.init.spectral_radius(const(np.diag([1.0, -3.0])).data) == 3.0
    assert tg.nn.init.spectral_radius([[x.data[0, 2], 0.0], [0.0, 1.0]]) == 2.0


def test_a_library_with_arrays_of_its_own() -> None:
    strict = pytest.importorskip("array_api_strict")
    x = tg.tensor(strict.asarray(A), requires_grad=True)
    for found in (
        x[np.array([1, 0, 1])],
        x[[0, 1], [2, -1]],
        x[A > 0],
        tg.where(A > 0, x, 0.0),
        tg.nn.mse_loss(x, G),
        tg.nn.cross_entropy(x, [0, 2]),
        *tg.grad(x * x, x, G),
        tg.jvp(lambda x: x * x, [x], [G])[1],
        x.detach().clone().assign(G),
        x.detach().clone().assign([[1, 2, 3], [4, 5, 6]]),
    ):
        assert isinstance(found, tg.Tensor)
        assert type(found.data) is type(x.data)
    with pytest.raises(tg.DTypeError, match="negative integer powers"):
        tg.tensor(strict.asarray([1, 2])) ** -1
    y = x * 2
    y.data[0, 0] = 7.0  # a copy
    assert y.numpy()[0, 0] == 1.0


# --- operands never move ------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, a: x + a,
    "reflected": lambda x, a: a * x,
    "matmul": lambda x, a: x @ a.T,
    "maximum": tg.maximum,
    "where": lambda x, a: tg.where(x > 0, x, a),
    "compare": lambda x, a: x < a,
    "concat": lambda x, a: tg.concat([x, a]),
    "einsum": lambda x, a: tg.einsum("ij,ij->", x, a),
    "function of numpy": np.maximum,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
@pytest.mark.parametrize("default", ["cpu", "device"])
def test_an_operand_on_the_wrong_device(operation: Callable[..., Any], default: str) -> None:
    x = leaf(A)
    with tg.use_device("cpu" if default == "cpu" else device()):
        if device() == "cpu":
            operation(x, G)
            return
        for operand in (G, tg.tensor(G, device="cpu")):
            with pytest.raises(tg.DeviceError, match=r"different devices.*x\.to\(device\)"):
                operation(x, operand)


def test_a_tensor_on_the_wrong_device_is_not_moved() -> None:
    if device() == "cpu":
        pytest.skip("there is one device")
    x, index = leaf(A), tg.tensor([0, 1], dtype="int64", device="cpu")
    far = tg.tensor(G, device="cpu")
    for call in (
        lambda: x.assign(far),
        lambda: (x * x).backward(far),
        lambda: tg.grad(x * x, x, far),
        lambda: tg.jvp(lambda x: x * x, [x], [far]),
        lambda: x[index],
        lambda: tg.nn.cross_entropy(x, index),
        lambda: tg.nn.mse_loss(x, far),
        lambda: tg.nn.Embedding(3, 2)(index),
        lambda: tg.nn.Linear(3, 2, dtype="float64")(far),
    ):
        with pytest.raises(tg.DeviceError, match="different devices"):
            call()
    assert_same_bits(x, A)


def test_numbers_and_lists_have_no_device() -> None:
    """Among operands they go beside the first that has one."""
    x = leaf(np.array([0.5, 2.0]))
    for default in ("cpu", device()):
        with tg.use_device(default):
            for found, expected in (
                (tg.stack([x[0], 2.0]), [0.5, 2.0]),
                (tg.stack([2.0, x[0], np.float64(3)]), [2.0, 0.5, 3.0]),
                (tg.concat([x, [1.0, 2.0]]), [0.5, 2.0, 1.0, 2.0]),
                (tg.concat([[1.0], x, x.data]), [1.0, 0.5, 2.0, 0.5, 2.0]),
                (x @ [1.0, 2.0], 4.5),
                ([1.0, 2.0] @ x, 4.5),
                (tg.outer([2.0], x), [[1.0, 4.0]]),
                (tg.einsum("i,i->", x, [1.0, 2.0]), 4.5),
                (np.dot(x, [1.0, 2.0]), 4.5),  # type: ignore[arg-type]
                (tg.clip(2.0, x, 9.0), [2.0, 2.0]),
                (tg.clip(x, 1.0, [1.0, 1.5] @ x), [1.0, 2.0]),
            ):
                assert isinstance(found, tg.Tensor)
                assert (found.device, found.tolist()) == (device(), expected)


def test_arrays_of_numpy_are_operands_in_every_function() -> None:
    if device() == "cpu":
        pytest.skip("there is one device")
    x, far = leaf(A), A.copy()
    for call in (
        lambda: tg.stack([x, far]),
        lambda: tg.concat([[[1.0, 2.0, 3.0]], far, x]),
        lambda: x @ far.T,
        lambda: tg.outer(x[0], far[0]),
        lambda: tg.einsum("ij,ij->", x, far),
        lambda: tg.clip(far, x, None),
    ):
        with pytest.raises(tg.DeviceError, match="different devices"):
            call()


def test_a_mask_goes_to_a_raw_array() -> None:
    mask = A > 0
    with tg.use_device("cpu"):
        found = tg.where(mask, leaf(A).data, 0.0)
    assert found.device == device()
    assert_same_bits(found, np.where(mask, A, 0.0))


# --- one reader of values -----------------------------------------------------------------------


def load(value: Any) -> tg.Tensor:
    layer = tg.nn.Linear(2, 1, rng=0, bias=False, dtype="float64")
    layer.load_state_dict({"weight": value})
    return layer.weight


def remember(value: Any) -> tg.Tensor:
    p = leaf(np.zeros((1, 2)))
    optimizer = tg.optim.SGD([p], lr=1.0, momentum=0.5)
    p.grad = const(np.ones((1, 2)))
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["momentum_buffer"] = value
    optimizer.load_state_dict(saved)
    found: tg.Tensor = optimizer.state_dict()["state"][0]["momentum_buffer"]
    return found


def assign(value: Any) -> tg.Tensor:
    return leaf(np.zeros((1, 2))).assign(value)


READERS = pytest.mark.parametrize("read", [assign, load, remember])


@READERS
def test_values_are_cast_before_they_are_moved(read: Callable[[Any], tg.Tensor]) -> None:
    for given in (
        np.array([[1.0, 2.0]], "longdouble"),
        np.array([[1, 2]]),
        np.array([[1.0, 2.0]], ">f4"),
        np.ma.array([[1.0, 2.0]]),  # no element is masked
        [[1, 2]],
    ):
        found = read(given)
        assert (found.device, str(found.dtype)) == (device(), "float64")
        assert_same_bits(found, np.array([[1.0, 2.0]]))
    if read is not assign:
        far = tg.tensor(np.array([[1.0, 2.0]], "longdouble"), device="cpu")
        assert_same_bits(read(far), np.array([[1.0, 2.0]]))


@READERS
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([[1.0, None]]), "dtype object is not numeric"),
        (np.array([["a", "b"]]), "dtype <U1 is not numeric"),
        (np.ma.array([[1.0, 2.0]], mask=[[True, False]]), "mask would be lost"),
        (np.array([[1j, 2.0]]), "complex"),
        ([[1j, 2.0]], "complex"),
        ([[1.0], [1.0, 2.0]], "inhomogeneous"),
    ],
    ids=["objects", "text", "mask", "complex", "complex list", "ragged"],
)
def test_values_that_are_refused(read: Callable[[Any], Any], value: Any, message: str) -> None:
    expected = tg.DTypeError if read is assign else tg.StateDictError
    with pytest.raises(expected, match=message):
        read(value)


def test_complex_values_on_the_device() -> None:
    with pytest.raises(tg.DTypeError, match=r"assign: cannot read .*complex"):
        leaf(A).assign(const(A * 1j))
    with pytest.raises(tg.StateDictError, match="complex"):
        load(const(np.array([[1j, 2.0]])))


def test_masked_lengths_and_tokens() -> None:
    masked = np.ma.array([1, 2], mask=[True, False])
    with pytest.raises(tg.ArgumentError, match=r"^decode: start masked_array.*must be a token"):
        tg.decode.greedy(lambda t, s: s, None, masked, 3)
    rnn = tg.nn.RNN(1, 1, rng=0)
    with pytest.raises(tg.DTypeError, match=r"lengths cannot be read.*mask would be lost"):
        rnn(np.ones((3, 2, 1), "float32"), lengths=masked)


# --- numbers ------------------------------------------------------------------------------------


def test_numbers_that_do_not_fit() -> None:
    x = const(np.array([1, 2], "int8"))
    condition = const(np.array([True, False]))
    for call in (
        lambda: tg.where(condition, x, 300),
        lambda: tg.where(condition, 300, x),
        lambda: tg.where(condition, x, np.array(300)),
        lambda: tg.where(True, x, np.int64(-129)),
        lambda: tg.where(condition, condition, 2**63),
        lambda: tg.where(condition, 2**63, 1),
        lambda: tg.clip(x, 300, None),
        lambda: tg.clip(x, None, -300),
        lambda: x * 300,
        lambda: tg.maximum(x, 300),
        lambda: tg.full_like(x, 300),
        lambda: tg.pad(x, 1, 300),
        lambda: tg.full((2,), 300, dtype="int8"),
        lambda: tg.full((2,), float("nan"), dtype="int64"),
        lambda: tg.tensor([1, 300], dtype="int8"),
        lambda: tg.full((2,), np.longdouble("1e30"), dtype="int32"),
        lambda: tg.tensor([np.int64(1), 300], dtype="int8"),
        lambda: tg.arange(300, dtype="int8"),
        lambda: x.assign([np.int64(1), 300]),
        lambda: x.assign([1, float("nan")]),
        lambda: x.assign(300),
        lambda: x.assign([1, 300]),
        lambda: x.assign(np.array(300)),
    ):
        with pytest.raises(tg.DTypeError, match=r"out of bounds|cannot convert"):
            call()
    assert x.tolist() == [1, 2]
    assert tg.clip(x, -300, 300).tolist() == [1, 2]  # bounds that bound nothing
    assert tg.clip(x, -300, 1).tolist() == [1, 1]
    assert tg.where(condition, x, -128).tolist() == [1, -128]
    largest = const(np.zeros(2, "uint64"))
    assert largest.assign([2**64 - 1, 0]).tolist() == [2**64 - 1, 0]
    assert tg.where(condition, x, 127).dtype == x.dtype
    assert tg.where(condition, x, 300.0).tolist() == [1.0, 300.0]


def test_complex_constants() -> None:
    for value in (1 + 2j, np.array(1 + 2j), np.complex64(1 + 2j)):
        assert str(tg.full((2,), value).dtype) == "complex64"
        assert_same_bits(tg.full((2,), value), np.full(2, 1 + 2j, "complex64"))
        for call in (
            lambda value=value: tg.full((2,), value, dtype="float32"),
            lambda value=value: tg.full_like(leaf(A), value),
            lambda value=value: tg.tensor(
                [value.item() if hasattr(value, "item") else value], dtype="float32"
            ),
        ):
            with pytest.raises(tg.DTypeError, match="complex"):
                call()


def test_fill_values_are_numbers() -> None:
    x = leaf(A)
    for two in (np.array(2.0), np.longdouble(2), 2, np.int8(2)):
        assert_same_bits(tg.full_like(x, two), np.full_like(A, 2.0))
        assert_same_bits(tg.full((2, 3), two, dtype="float64"), np.full_like(A, 2.0))
    for value in (np.ones(3), x[0], x.data, tg.tensor(2.0, device="cpu"), [1.0], "a", None):
        for make in (lambda v: tg.full_like(x, v), lambda v: tg.full((2, 3), v)):
            with pytest.raises(tg.ArgumentError, match=r"^full(_like)?: fill_value .*a number"):
                make(value)


def test_a_scalar_on_the_left_of_a_comparison() -> None:
    x = leaf(np.float32([0.1, 1.0]))
    for found, expected in (
        (np.float64(0.1) == x, [True, False]),
        (x == np.float64(0.1), [True, False]),
        (np.float32(0.5) < x, [False, True]),
        (np.array(0.5) >= x, [True, False]),
        (np.array(True) & (x > 0.5), [False, True]),
    ):
        assert isinstance(found, tg.Tensor)
        assert (found.device, found.tolist()) == (device(), expected)


def test_arrays_without_axes_are_numbers() -> None:
    x = leaf(np.float32([0.5, 1.0]))
    for y in (
        x * np.array(2.0),
        np.array(2.0) * x,
        x + np.float64(1),
        tg.maximum(x, np.array(0.7)),
    ):
        assert (str(y.dtype), y.device) == ("float32", device())
    assert_same_bits(tg.exp(np.array(0.0, "float32")), np.float32(1.0))  # alone, it keeps its type
    assert str(tg.sign(np.array(-2.0, "float32")).dtype) == "float32"
    assert x[np.array(1)].item() == 1.0


def test_longdouble_where_it_is_not_there() -> None:
    if device() == "cpu":
        assert tg.zeros(2, dtype="longdouble").dtype == np.longdouble
        return
    for call in (
        lambda: tg.zeros(3, dtype="longdouble"),
        lambda: tg.ones(3) * np.longdouble(2),
        lambda: np.longdouble(2) * tg.ones(3),
        lambda: tg.maximum(tg.ones(3), np.ones(3, "longdouble")),
        lambda: tg.ones(3).astype("longdouble"),
        lambda: tg.tensor(np.ones(3, "longdouble")),
        lambda: tg.tensor([1.0], dtype=np.clongdouble),
        lambda: tg.nn.Linear(2, 2, dtype="longdouble"),
    ):
        with pytest.raises(tg.DTypeError, match="use 'float64'"):
            call()


def test_what_cannot_be_read_is_not_printed_whole() -> None:
    x, many = leaf(A), [["a"] * 50] * 500
    for call in (
        lambda: x.assign(many),
        lambda: x.backward(many),
        lambda: x[many],
        lambda: x[dict.fromkeys(range(99), many)],
        lambda: tg.full((2,), many),  # type: ignore[arg-type]
        lambda: tg.zeros(many),  # type: ignore[arg-type]
        lambda: tg.tensor([[1e3] * 500] * 500, dtype="int8"),
        lambda: tg.nn.init.spectral_radius(many),
        lambda: tg.nn.Linear(many, 2),  # type: ignore[arg-type]
        lambda: tg.decode.greedy(lambda t, s: s, None, many, 3),
    ):
        with pytest.raises(tg.TinygradError) as caught:
            call()
        assert len(str(caught.value)) < 400


def test_matrices_that_cannot_be_read() -> None:
    for value in ("abc", [[1.0, 2.0], [3.0]], [[1j]], None, np.array([["a"]])):
        with pytest.raises(tg.DTypeError, match=r"^spectral_radius: cannot read .* as a matrix"):
            tg.nn.init.spectral_radius(value)
    assert tg.nn.init.spectral_radius(const(2 * np.eye(2)).data) == 2.0


def test_a_library_of_cuda_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows when an operation first needs it: the error says what to install."""

    def without(*_: Any) -> None:
        raise ImportError("libcublas.so.12: cannot open shared object file")

    x = leaf(np.eye(2))
    monkeypatch.setattr(tg.backend.namespace(x.data), "matmul", without)
    with pytest.raises(tg.MissingDependencyError, match=r"libcublas.*pip install 'tinygrad182\["):
        x @ x


def test_start_tokens_on_another_device_than_the_model() -> None:
    if device() == "cpu":
        pytest.skip("there is one device")
    embedding = tg.nn.Embedding(4, 4, rng=0)
    table = const(np.zeros((4, 4)))

    def step(tokens: Any, state: Any) -> Any:
        return tg.log_softmax(embedding(tg.tensor(tokens))), state

    def late(tokens: Any, state: Any) -> Any:
        return tg.log_softmax(table[: len(tokens)]), state

    for f in (step, late):
        with tg.use_device("cpu"):
            with pytest.raises(
                tg.DeviceError, match=r"tokens are on cpu.*start=tg\.tensor\(\[0\], dtype='int64'"
            ):
                tg.decode.greedy(f, None, 0, 3)
            start = tg.tensor([0], dtype="int64", device=device())
            assert len(tg.decode.greedy(f, None, start, 3)) == 1
        assert tg.decode.greedy(f, None, 0, 3).tokens


def test_negative_powers_of_integers() -> None:
    i, negative = const(np.array([2, 3])), const(np.array([1, -1]))
    for call in (
        lambda: i**-1,
        lambda: i**negative,
        lambda: 2**negative,
        lambda: i ** np.int64(-2),
    ):
        with pytest.raises(tg.DTypeError, match=r"^power: .*negative integer powers.*float64"):
            call()
    assert (i**2).tolist() == [4, 9]
    assert (i**-1.0).tolist() == [1 / 2, 1 / 3]
    assert (2.0**negative).tolist() == [2.0, 0.5]


def test_conditions_that_are_numbers() -> None:
    x, other = leaf(A), leaf(G)
    for condition in (True, np.True_, np.array(True), 1):
        assert_same_bits(tg.where(condition, x, 0.0), A)
        found = tg.grad(tg.where(condition, x, other), [x, other], G, create_graph=True)
        assert_same_bits(found[0], G)
        assert_same_bits(found[1], np.zeros_like(G))
    assert_same_bits(tg.where(False, x, other), G)
    assert_same_bits(tg.grad(tg.where(False, x, other), other, G)[0], G)
    assert tg.where(True, 1.0, 2.0).item() == 1.0
    assert_same_bits(tg.jvp(lambda x: tg.where(True, x, other), x, G)[1], G)  # type: ignore[arg-type]


def test_nan_has_no_sign() -> None:
    assert np.isnan(tg.sign(const(np.array([np.nan, -2.0]))).numpy()).tolist() == [True, False]


@pytest.mark.parametrize(
    "dtype", ["int8", "uint16", "bool", "complex64", "complex128", "float16", "int64"]
)
def test_adding_at_indices(dtype: str) -> None:
    """Indices may repeat, also in the types that a card cannot add atomically."""
    index, values = np.array([0, 2, 0, 0]), np.array([1, 2, 3, 127]).astype(dtype)
    if dtype.startswith("complex"):
        values = (values * (1 - 2j)).astype(dtype)
    expected = np.zeros(3, dtype)
    np.add.at(expected, index, values)
    assert_same_bits(tg.scatter_add((3,), dtype, [((const(index),), const(values))]), expected)


def test_norms() -> None:
    parts = [
        A,
        np.array([3e-200, 4e-200]),
        np.array([[3e200], [4e200]]),
        np.zeros((0, 2)),
        np.array([np.nan]),
    ]
    parts += [np.array([np.inf, 1.0]), np.zeros(3), np.float32([3, 4]), np.array(-2.0)]
    found = tg.backend.norms([const(a).data for a in parts])
    expected = [np.linalg.norm(A), 5e-200, 5e200, 0.0, np.nan, np.inf, 0.0, 5.0, 2.0]
    np.testing.assert_allclose(found, expected, rtol=2e-16)
    assert [tg.backend.norm(const(a).data) for a in parts[:3]] == found[:3]


# --- what a graph holds is not written to ------------------------------------------------------


def results(x: tg.Tensor) -> dict[str, tg.Tensor]:
    y = x * 2
    return {
        "result": y,
        "detached": y.detach(),
        "view of it": y.detach()[0],
        "view": x.T,
        "cast": y.astype("float32"),
    }


@pytest.mark.parametrize("which", ["result", "detached", "view of it", "view", "cast"])
def test_writes_to_results(which: str) -> None:
    """A write through ``.data`` changes no gradient: it raises, or it writes to a copy."""
    x = leaf(A)
    y = results(x)[which]
    z = (y * y).sum() if y.requires_grad else None
    try:
        y.data[...] = 7.0
    except ValueError:
        assert device() == "cpu"
    else:
        assert device() != "cpu"
    with pytest.raises(tg.GraphError, match="assign"):
        y.assign(7.0)
    if z is None:
        (expected,) = tg.grad((x * 2).sum(), x)
        assert_same_bits(expected, np.full_like(A, 2.0))
    else:
        (found,) = tg.grad(z, x)
        assert_close(found, (2 if which == "view" else 8) * A, 1e-6 if which == "cast" else 1e-15)
    assert_close(results(x)[which], y, 0.0)


def test_writes_to_a_detached_result_leave_the_graph_as_it_was() -> None:
    x = leaf(A)
    y = x * 2
    z = (y * y).sum()
    with pytest.raises(tg.GraphError, match=r"clone\(\)"):
        y.detach().assign(0.0)
    free = y.detach().clone()
    free.assign(0.0)
    assert_close(tg.grad(z, x)[0], 8 * A, 1e-15)


def test_writes_to_leaves_are_noticed() -> None:
    for write in (lambda x: x.data.__setitem__(0, 5.0), lambda x: x.assign(1.0)):
        x = leaf(A)
        z = (x * x).sum() + (x * x * x).sum()
        write(x)
        with pytest.raises(tg.InPlaceError):
            z.backward()
    x = leaf(A)
    z = (x * x).sum()
    held = x.data
    assert x.data is held
    z.backward(retain_graph=True)  # it was only looked at
    held[0] = 3.0
    with pytest.raises(tg.InPlaceError):
        z.backward()


def test_a_write_after_the_second_recording() -> None:
    x = leaf(A)
    first, held = (x * x).sum(), x.data
    second = (x * x).sum()
    assert x.data is held
    held[0] = 3.0
    for z in (first, second):
        with pytest.raises(tg.InPlaceError):
            z.backward()


def test_a_write_before_the_second_recording() -> None:
    x = leaf(A)
    first = (x * x).sum()
    held = x.data
    held[0] = 3.0
    second = (x * x).sum()
    assert x.data is held
    second.backward()
    with pytest.raises(tg.InPlaceError):
        first.backward()


# --- moving what there is -----------------------------------------------------------------------


def _step(model: tg.nn.Module, optimizer: tg.optim.Optimizer) -> None:
    optimizer.zero_grad()
    (model(A) ** 2).sum().backward()
    optimizer.step()


OPTIMIZERS: dict[str, Callable[[Any], tg.optim.Optimizer]] = {
    "adam": lambda ps: tg.optim.Adam(ps, lr=0.1, weight_decay=0.01),
    "momentum": lambda ps: tg.optim.SGD(ps, lr=0.1, momentum=0.9),
    "plain": lambda ps: tg.optim.SGD(ps, lr=0.1),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_an_optimizer_follows_its_model(make: Callable[[Any], tg.optim.Optimizer]) -> None:
    """CPU, device, CPU: the same as staying."""
    models = [tg.nn.Linear(3, 2, rng=0, dtype="float64", device="cpu") for _ in range(2)]
    optimizers = [make(m.parameters()) for m in models]
    for place in ("cpu", device(), "cpu", device()):
        models[1].to(place)
        saved = optimizers[1].state_dict()  # of a model that has just moved
        optimizers[1].load_state_dict(saved)
        for model, optimizer in zip(models, optimizers, strict=True):
            _step(model, optimizer)
        state = optimizers[1].state_dict()["state"]
        arrays = [v for entry in state.values() for v in entry.values() if isinstance(v, tg.Tensor)]
        assert {a.device for a in arrays} <= {place}
    for stayed, went in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert_close(went, stayed.numpy(), 1e-14)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("back", [False, True], ids=["to the device", "to the CPU"])
def test_checkpoints_cross(make: Callable[[Any], Any], back: bool, tmp_path: Any) -> None:
    places = ("cpu", device())[:: -1 if back else 1]
    old, new = (tg.nn.LSTM(3, 2, rng=i, dtype="float64", device=p) for i, p in enumerate(places))

    def step(model: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        (model(A[:, None])[0] ** 2).sum().backward()
        optimizer.step()

    first, second = make(old.parameters()), make(new.parameters())
    step(old, first)
    tg.save(tmp_path / "m.safetensors", old, first)
    for where in (None, "cpu", device()):
        found = tg.load(tmp_path / "m.safetensors", device=where)
        assert {v.device for v in found.model.values()} == {where or device()}
        new.load_state_dict(found.model)
        second.load_state_dict(found.optimizer)
    new.load_state_dict(old.state_dict())
    second.load_state_dict(first.state_dict())
    step(old, first)
    step(new, second)
    for a, b in zip(old.parameters(), new.parameters(), strict=True):
        assert (a.device, b.device) == places
        assert_close(b, a.numpy(), 1e-14)


def test_gradient_checks_on_the_device() -> None:
    check = tg.testing.check_gradients(lambda x: tg.tanh(x[[0, 1, 1]] * x[:1]), A)
    assert check.error < 1e-10
    assert tg.testing.check_gradients(tg.tanh, A.astype("float32")).error < 1e-10
    rnn = tg.nn.RNN(2, 3, rng=0, dtype="float64")
    with tg.use_device("cpu"):
        assert tg.testing.check_gradients(rnn, np.ones((2, 1, 2)), max_entries=4).error < 1e-10


# --- what a device waits for --------------------------------------------------------------------


@contextmanager
def waits(at_most: int) -> Iterator[None]:
    """Fail if the host waits more often."""
    cupy = on_stand_in()
    with cupy.counted("tinygrad182") as found:
        yield
    assert found["sync"] <= at_most, f"{found['sync']} waits: {cupy.WAITS.most_common(4)}"


def test_indices_are_waited_for_once() -> None:
    on_stand_in()
    x, i = leaf(A), const(np.array([0, 1]))
    embedding = tg.nn.Embedding(4, 2, padding_idx=0, rng=0)
    for call in (
        lambda: x[i],
        lambda: x[i, i],
        lambda: x[:, i],
        lambda: x[i, 1],
        lambda: x[const(A > 0)],
        lambda: tg.take(x, i, axis=0),
        lambda: embedding(i),
        lambda: tg.nn.cross_entropy(x, i),
    ):
        with waits(1):
            call()
    with waits(0):
        embedding(np.array([1, 2]))
        embedding([[1], [2]])
        x[np.array([0, 1])], x[[1]], x[A > 0], x[:, np.arange(2)], x[1:], x[None, ..., 0]
        tg.nn.cross_entropy(x, [0, 2])
        tg.nn.mse_loss(x, A)
        tg.where(A > 0, x, 0.0)


def test_indices_that_were_checked_are_not_waited_for_again() -> None:
    on_stand_in()
    x, i = leaf(A), const(np.array([0, 1]))
    y = (x[i] ** 3).sum()
    with waits(0):
        (g,) = tg.grad(y, x, create_graph=True)
        assert g is not None
        (h,) = tg.grad((g * g).sum(), x, create_graph=True)
        assert h is not None
        h.sum().backward()
    again = tg.remat(lambda x: x[i] ** 3)
    with waits(1):
        z = again(x).sum()
    with waits(0):
        z.backward()
    with waits(1):
        tg.hessian(lambda x: (x[i] ** 3).sum(), A)


def test_indices_out_of_range_on_a_device() -> None:
    x, logits = leaf(A), leaf(A)
    for form in (const, arrays, lists):
        with pytest.raises(tg.IndexOutOfRangeError, match=r"^index: 2.*axis 0"):
            x[form(np.array([0, 2]))]
        with pytest.raises(tg.IndexOutOfRangeError, match=r"^index: -4.*axis 1"):
            x[form(np.array([0])), form(np.array([-4]))]
        with pytest.raises(
            tg.IndexOutOfRangeError, match=r"^Embedding: indices from -1 to 2.*\[0, 4\)"
        ):
            tg.nn.Embedding(4, 2)(form(np.array([2, -1])))
        with pytest.raises(
            tg.IndexOutOfRangeError, match=r"^cross_entropy: targets from 0 to 3.*\[0, 3\)"
        ):
            tg.nn.cross_entropy(logits, form(np.array([3, 0])))


def test_shapes_and_dtypes_are_not_waited_for() -> None:
    on_stand_in()
    x, v, w = const(A), const(A[0]), leaf(A)
    with waits(0):
        assert (np.ndim(x), np.shape(w), np.size(x)) == (2, (2, 3), 6)
        assert np.result_type(x, np.float32) == "float64"
        assert np.isrealobj(x)
        assert not np.iscomplexobj(w)
        tg.inner(w, v)
        tg.select([x > 1, x < 0], [w, x], 0.0)
        tg.gradient(w, v, axis=1)
        tg.split(w, 3, axis=1)
        tg.tensordot(w, v, 1)
        tg.nn.Dropout(0.5, rng=0)(w)
    for call in (
        lambda: tg.sort(w),
        lambda: tg.median(w),
        lambda: tg.quantile(w, [0.25, 0.5]),
        lambda: tg.take_along_axis(w, tg.argsort(x), axis=-1),
    ):
        with waits(1):
            call()


def test_norms_are_waited_for_once() -> None:
    on_stand_in()
    lstm = tg.nn.LSTM(3, 4, num_layers=2, rng=0, dtype="float64")
    lstm(A[:, None])[0].sum().backward()
    norms = [np.linalg.norm(p.grad.numpy()) for p in lstm.parameters() if p.grad is not None]
    with waits(1):
        total = tg.optim.clip_grad_norm_(lstm.parameters(), 0.5)
    np.testing.assert_allclose(total, np.linalg.norm(norms), rtol=1e-15)
    with waits(1):
        assert_close(np.array(tg.optim.clip_grad_norm_(lstm.parameters(), 0.5)), 0.5, 1e-5)


def test_reading_a_leaf_is_waited_for_once_in_a_pass() -> None:
    on_stand_in()
    x = leaf(A)
    z = (x * x).sum() + (x * 3).sum() + (x * x * x).sum()
    with waits(0):
        assert x.data is x.data
    with waits(1):
        z.backward()


def test_training_steps_do_not_wait() -> None:
    on_stand_in()
    for make in (tg.nn.LSTM, tg.nn.RNN):
        layer = make(3, 4, rng=0, dtype="float64")
        optimizer = tg.optim.Adam(layer.parameters())
        with waits(0):
            layer(A[:, None], lengths=[2])[0].sum().backward()
            optimizer.step()
            layer.load_state_dict({k: np.ones(v.shape) for k, v in layer.state_dict().items()})


def test_a_graph_is_looked_at_without_copies() -> None:
    cupy = on_stand_in()
    x = leaf(np.eye(3))
    graph = tg.inspect.trace((x @ x).sum())
    with cupy.counted("tinygrad182") as found:
        shapes = [node.shape for node in graph.nodes]
        assert "matmul" in "".join(map(repr, graph.nodes))
    assert shapes == [(3, 3), (3, 3), ()]
    assert not found["alloc"]
    assert not found["sync"]


def test_one_look_tells_what_is_not_finite() -> None:
    on_stand_in()
    x = const(np.array([1.0, np.inf]))
    with waits(1):
        assert anomaly.kind_of(x.data) == "inf"
    with waits(1):
        assert anomaly.kind_of(const(np.array([np.nan, np.inf])).data) == "nan"
