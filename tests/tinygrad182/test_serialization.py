"""Checkpoints: loaded values equal the saved ones, here and in PyTorch."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import tinygrad182 as tg
from tests.support import Array, assert_close, assert_same_bits, const, needs_torch
from tinygrad182 import _files
from tinygrad182.testing import strategies


class Holder(tg.nn.Module):
    """Parameters under any names, some in a module inside and one under two names."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self.parts = {name: tg.nn.Parameter(array) for name, array in arrays.items()}
        self.inside = [tg.nn.Module()]
        for parameter in list(self.parts.values())[:1]:
            self.inside[0].shared = parameter  # type: ignore[attr-defined]


class Net(tg.nn.Module):
    """A bit of everything: recurrent, used twice, 0-d, empty, and one that gets no gradient."""

    def __init__(self, rng: int, dtype: str = "float64") -> None:
        self.rnn = tg.nn.LSTM(2, 3, rng=rng, dtype=dtype)
        self.head = tg.nn.Linear(3, 1, rng=rng + 1, dtype=dtype)
        self.scale = tg.nn.Parameter(np.asarray(1.0 + rng, dtype))
        self.empty = tg.nn.Parameter(np.ones((0, 3), dtype))
        self.unused = tg.nn.Parameter(np.full(2, rng, dtype))
        self.twice = [self.scale]

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        return self.head(self.rnn(x)[0]) * self.scale + self.empty.sum()


def train(net: Net, optimizer: Any, steps: range) -> None:
    for step in steps:
        x = const(np.random.default_rng(step).normal(size=(4, 2, 2)).astype(net.scale.dtype))
        optimizer.zero_grad()
        (net(x) ** 2).mean().backward()
        optimizer.step()


def assert_same_states(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_same_bits(found[name], value, name)


def saved(model: tg.nn.Module, optimizer: Any = None, **meta: Any) -> tg.Checkpoint:
    with tempfile.TemporaryDirectory() as folder:
        tg.save(f"{folder}/file", model, optimizer, **meta)
        return tg.load(f"{folder}/file")


# --- loaded values ------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(names, strategies.arrays(dtype=strategies.dtypes()), max_size=4))
def test_parameters_come_back_bit_by_bit(arrays: dict[str, Array]) -> None:
    model = Holder(arrays)
    checkpoint = saved(model)
    assert_same_states(checkpoint.model, model.state_dict())
    assert len(checkpoint.model) == len(arrays) + bool(arrays)
    assert checkpoint.optimizer is None
    assert checkpoint.meta == {}
    twin = Holder({name: np.ones_like(array) for name, array in arrays.items()})
    twin.load_state_dict(checkpoint.model)
    assert_same_states(twin.state_dict(), model.state_dict())


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -0.0, 5e-324, np.finfo(float).max])
def test_extreme_numbers_come_back(value: float) -> None:
    assert_same_bits(saved(Holder({"a": np.array(value)})).model["parts.a"], np.array(value))


@given(st.dictionaries(st.sampled_from(["epoch", "vocabulary", "λ", "loss "]), json_values))
def test_facts_come_back(meta: dict[str, Any]) -> None:
    found = saved(tg.nn.Linear(1, 1), **meta).meta
    assert repr(found) == repr(meta)  # which tells 1 from 1.0 and True, and -0.0 from 0.0


def test_tuples_come_back_as_lists() -> None:
    assert saved(tg.nn.Linear(1, 1), shape=(2, (3,))).meta == {"shape": [2, [3]]}


@pytest.mark.parametrize("dtype", [">f8", ">f4", "<f8"])
def test_byte_orders(dtype: str, tmp_path: Path) -> None:
    array = np.array([1.5, -2.0], dtype)
    tg.save(tmp_path / "file", Holder({"a": array}))
    assert_same_bits(load_file(tmp_path / "file")["parts.a"], array.astype(array.dtype.name))


FLOATS, INTEGERS = ["float64", "float32", "float16"], ["int64", "int32", "int16", "int8"]
DTYPES = [*FLOATS, *INTEGERS, *(f"u{name}" for name in INTEGERS), "bool"]


def test_files_of_others(tmp_path: Path) -> None:
    arrays = {name: np.ones((2, 0 if "8" in name else 3), name) for name in DTYPES}
    arrays["a scalar"] = np.array(3)
    for metadata in (None, {}, {"format": "pt", "meta": "{", "optimizer": "?"}):
        save_file(arrays, tmp_path / "file", metadata)
        checkpoint = tg.load(str(tmp_path / "file"))
        assert_same_states(checkpoint.model, arrays)
        assert checkpoint.optimizer is None
        assert checkpoint.meta == (metadata or {})


def test_integers_and_others_of_a_module_are_saved() -> None:
    class Counting(tg.nn.Linear):
        def _own_state(self) -> dict[str, Any]:
            steps = np.arange(12, dtype="int32").reshape(3, 4).T[::2]
            return {**super()._own_state(), "steps": steps, "seen": np.array(True)}

    model = Counting(2, 1, rng=0)
    assert_same_states(saved(model).model, model.state_dict())
    assert saved(model).model["steps"].tolist() == [[0, 4, 8], [2, 6, 10]]


MAKERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda ps: tg.optim.SGD(ps, 0.1),
    "momentum": lambda ps: tg.optim.SGD(ps, 0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda ps: tg.optim.Adam(ps, 0.02, betas=(0.8, 0.99), eps=1e-7, weight_decay=0.01),
}
STEPS = 5


@given(
    st.sampled_from(list(MAKERS)),
    st.sampled_from(["float64", "float32"]),
    st.integers(0, STEPS),
    st.sampled_from([None, 0.003]),
)
def test_resumed_training_is_training_that_ran_through(
    name: str, dtype: str, stop: int, new_rate: float | None
) -> None:
    through, stopped, resumed = Net(0, dtype), Net(0, dtype), Net(5, dtype)
    first, second, third = (MAKERS[name](net.parameters()) for net in (through, stopped, resumed))
    train(through, first, range(stop))
    train(stopped, second, range(stop))
    third.lr, third.weight_decay = 7.0, 3.0  # both come from the file
    if new_rate is not None:
        first.lr = second.lr = new_rate
    checkpoint = saved(stopped, second, step=stop)
    resumed.load_state_dict(checkpoint.model)
    third.load_state_dict(checkpoint.optimizer)
    train(through, first, range(stop, STEPS))
    train(resumed, third, range(checkpoint.meta["step"], STEPS))
    assert_same_states(resumed.state_dict(), through.state_dict())
    assert third.state_dict()["param_groups"] == first.state_dict()["param_groups"]
    states, expected = third.state_dict()["state"], first.state_dict()["state"]
    assert states.keys() == expected.keys()
    for i, state in expected.items():
        assert_same_states(states[i], state)


def test_an_optimizers_state_never_meets_a_parameter() -> None:
    model = tg.nn.Module()
    for name in ("optimizer/0/exp_avg", "_optimizer/1/exp_avg_sq", "optimizer/"):
        setattr(model, name, tg.nn.Parameter([1.0, 2.0]))
    optimizer = tg.optim.Adam(model.parameters(), lr=0.1)
    for p in model.parameters():
        p.grad = tg.tensor([3.0, 4.0], device=p.device)
    optimizer.step()
    checkpoint = saved(model, optimizer)
    assert_same_states(checkpoint.model, model.state_dict())
    assert checkpoint.optimizer is not None
    for i, state in optimizer.state_dict()["state"].items():
        assert_same_states(checkpoint.optimizer["state"][i], state)


def test_what_a_checkpoint_shows() -> None:
    model = tg.nn.Linear(3, 1, rng=0)
    optimizer = tg.optim.Adam(model.parameters())
    assert repr(saved(model)) == "<Checkpoint: model: 2 arrays, 4 elements>"
    assert repr(saved(model, optimizer, epoch=3, loss=0.5)) == (
        "<Checkpoint: model: 2 arrays, 4 elements; optimizer: state of 0 parameters; meta: epoch, loss>"
    )


# --- PyTorch ------------------------------------------------------------------------------------

LAYERS: dict[str, tuple[Callable[[Any], Any], Array]] = {
    "RNN": (lambda nn: nn.RNN(2, 3, 2), np.ones((4, 1, 2), "float32")),
    "LSTM": (lambda nn: nn.LSTM(2, 3, 2), np.ones((4, 1, 2), "float32")),
    "Linear": (lambda nn: nn.Linear(2, 3), np.ones((4, 2), "float32")),
    "Embedding": (lambda nn: nn.Embedding(5, 3), np.array([[0, 4], [2, 2]])),
}


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("name", LAYERS)
def test_pytorch_loads_ours_and_we_load_pytorchs(name: str, tmp_path: Path) -> None:
    torch = needs_torch()
    from safetensors import torch as files

    make, x = LAYERS[name]
    ours, theirs = make(tg.nn), make(torch.nn)
    tg.save(tmp_path / "ours", ours)
    theirs.load_state_dict(files.load_file(tmp_path / "ours"), strict=True)
    expected = _first(theirs(torch.tensor(x))).detach().numpy()
    assert_close(_first(ours(const(x))), expected, 2e-6)
    theirs = make(torch.nn)
    files.save_file(theirs.state_dict(), tmp_path / "theirs")
    ours.load_state_dict(tg.load(tmp_path / "theirs").model)
    expected = _first(theirs(torch.tensor(x))).detach().numpy()
    assert_close(_first(ours(const(x))), expected, 2e-6)


def _shared(nn: Any) -> Any:
    """A layer in two places, and a head whose weight is the table's."""
    table, layer, head = nn.Embedding(5, 2), nn.Linear(2, 2), nn.Linear(2, 5)
    head.weight = table.weight
    return nn.Sequential(table, layer, layer, head)


def test_every_place_of_a_module_is_in_the_file(tmp_path: Path) -> None:
    model, twin = _shared(tg.nn), _shared(tg.nn)
    tg.save(tmp_path / "file", model, tg.optim.Adam(model.parameters()))
    checkpoint = tg.load(tmp_path / "file")
    places = ["0.weight", *(f"{i}.{name}" for i in (1, 2, 3) for name in ("weight", "bias"))]
    assert sorted(checkpoint.model) == sorted(places)
    twin.load_state_dict(checkpoint.model)
    assert_same_states(twin.state_dict(), model.state_dict())
    assert twin[3].weight is twin[0].weight


def test_pytorch_loads_a_module_in_two_places_and_we_load_pytorchs(tmp_path: Path) -> None:
    torch = needs_torch()
    from safetensors import torch as files

    ours, theirs = _shared(tg.nn), _shared(torch.nn)
    tg.save(tmp_path / "ours", ours)
    theirs.load_state_dict(files.load_file(tmp_path / "ours"), strict=True)
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    assert_same_states(state, ours.state_dict())
    theirs = _shared(torch.nn)
    torch.save(theirs.state_dict(), tmp_path / "all.pt")  # safetensors refuses names of one memory
    files.save_model(theirs, str(tmp_path / "each once"))  # and leaves all but one out
    for name, strict in (("all.pt", True), ("each once", False)):
        ours = _shared(tg.nn)
        ours.load_state_dict(tg.load(tmp_path / name).model, strict=strict)
        state = {name: value.numpy() for name, value in theirs.state_dict().items()}
        assert_same_states(ours.state_dict(), state)


def test_a_dtype_that_numpy_lacks(tmp_path: Path) -> None:
    torch = needs_torch()
    from safetensors import torch as files

    files.save_file({"w": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / "file")
    with pytest.raises(tg.DTypeError, match=r"load: w has a dtype that NumPy lacks.*bfloat16"):
        tg.load(tmp_path / "file")


# --- what is refused ----------------------------------------------------------------------------

LINEAR = tg.nn.Linear(1, 1, rng=0)


class Odd(tg.optim.SGD):
    def state_dict(self) -> dict[str, Any]:
        return {"state": {0: {"what": object()}}, "param_groups": []}


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def _named(name: str, dtype: Any = "float32") -> tg.nn.Module:
    model = tg.nn.Module()
    with tg.use_device("cpu"):  # where all dtypes are to be had
        setattr(model, name, tg.nn.Parameter(np.ones(2, dtype)))
    return model


REFUSED: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no module": (lambda p: tg.save(p / "f", {"w": 1}), tg.ArgumentError, "dict is not a Module"),
    "no optimizer": (
        lambda p: tg.save(p / "f", LINEAR, {"lr": 1}),
        tg.ArgumentError,
        "dict is not an Optimizer",
    ),
    "an optimizer's odd state": (
        lambda p: tg.save(p / "f", LINEAR, Odd(LINEAR.parameters(), 0.1)),
        tg.ArgumentError,
        "the optimizer's state holds more than arrays",
    ),
    "a long double": (
        lambda p: tg.save(p / "f", _named("w", np.longdouble)),
        tg.DTypeError,
        "save: w is float128",
    ),
    "the header's name": (
        lambda p: tg.save(p / "f", _named("__metadata__")),
        tg.ArgumentError,
        "cannot be called '__metadata__'",
    ),
    "a surrogate": (lambda p: tg.save(p / "f", _named("\ud800")), tg.ArgumentError, "surrogates"),
    "no path": (lambda p: tg.save(3, LINEAR), tg.ArgumentError, "save: 3 is not a path"),
    "bytes": (lambda p: tg.load(b"f"), tg.ArgumentError, "load: b'f' is not a path"),
    "a null": (lambda p: tg.load(p / "a\0"), tg.ArgumentError, "is not a path.*null"),
    "a long name": (lambda p: tg.save(p / ("x" * 300), LINEAR), tg.CheckpointError, "too long"),
    "a protected file": (
        lambda p: ((p / "f").touch(), (p / "f").chmod(0o444), tg.save(p / "f", LINEAR)),
        tg.CheckpointError,
        "save: cannot write .*f: .*write-protected; use another name",
    ),
    "saving to a folder": (lambda p: tg.save(p, LINEAR), tg.CheckpointError, "save: .* a folder"),
    "loading a folder": (lambda p: tg.load(p), tg.CheckpointError, "load: .* is a folder"),
    "a pipe": (  # such as a device, but one of the test's own
        lambda p: (os.mkfifo(p / "f"), tg.save(p / "f", LINEAR)),
        tg.CheckpointError,
        "not a regular file",
    ),
    "below a file": (
        lambda p: ((p / "f").touch(), tg.save(p / "f" / "g", LINEAR)),
        tg.CheckpointError,
        "save: ",
    ),
    "a missing file": (
        lambda p: tg.load(p / "f"),
        tg.CheckpointNotFoundError,
        "load: there is no file .*f$",
    ),
    "an empty file": (
        lambda p: ((p / "f").touch(), tg.load(p / "f")),
        tg.CheckpointError,
        "damaged, or not a safetensors file",
    ),
    "another format": (
        lambda p: ((p / "f").write_bytes(b"PK" * 99), tg.load(p / "f")),
        tg.CheckpointError,
        "damaged, or not a safetensors file",
    ),
    "a newer version": (
        lambda p: (save_file({}, p / "f", {"tinygrad182": '{"version": 2}'}), tg.load(p / "f")),
        tg.CheckpointError,
        "version 2 .*newer",
    ),
    "a header in pieces": (
        lambda p: (save_file({}, p / "f", {"tinygrad182": "{"}), tg.load(p / "f")),
        tg.CheckpointError,
        "header of .* is damaged",
    ),
    "a device that is not there": (
        lambda p: (tg.save(p / "f", LINEAR), tg.load(p / "f", device="abacus")),
        tg.DeviceError,
        "abacus",
    ),
}
META: dict[str, Any] = {
    "an array": np.ones(2),
    "a NumPy number": np.float32(1),
    "a Tensor": tg.ones(1),
    "NaN": float("nan"),
    "infinity inside": {"a": [1.0, float("inf")]},
    "a set": {1},
    "keys that are numbers": [{"a": {1: 2}}],
    "a key that is None": ({None: 2},),
    "a circle": _circle(),
    "too deep": _deep(),
    "bytes": b"1",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call(tmp_path)
    assert not [file for file in tmp_path.iterdir() if file.name != "f"]


@pytest.mark.parametrize("name", META)
def test_facts_that_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        tg.ArgumentError, match=r"save: history (is not a JSON|holds a dict with keys)"
    ):
        tg.save(tmp_path / "new" / "f", LINEAR, epoch=1, history=META[name])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 241, "x" * 242, "x" * 255, "∂" * 85, "x∂" * 63 + "xyz"])
def test_names_as_long_as_the_system_takes(name: str, tmp_path: Path) -> None:
    for n in range(2):
        tg.save(tmp_path / name, LINEAR, n=n)
        (tmp_path / f"{_files._prefix(tmp_path / name)}0123abcd.tmp").touch()
    tg.save(tmp_path / name, LINEAR, n=2)
    assert tg.load(tmp_path / name).meta == {"n": 2}
    assert [file.name for file in tmp_path.iterdir()] == [name]


def one_array(path: Path, dtype: str, size: int) -> Path:
    """A file with one array of four elements, of a type that NumPy may lack."""
    entry = {"dtype": dtype, "shape": [4], "data_offsets": [0, size]}
    header = json.dumps({"a": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    return path


LACKED = {"F8_E4M3": 4, "F8_E5M2": 4, "F8_E8M0": 4, "F4": 2, "F6_E2M3": 3, "BF16": 8, "C64": 32}


@pytest.mark.parametrize(("dtype", "size"), LACKED.items())
def test_types_that_numpy_lacks(dtype: str, size: int, tmp_path: Path) -> None:
    with pytest.raises(tg.DTypeError, match=r"load: a has a dtype that NumPy lacks.*PyTorch first"):
        tg.load(one_array(tmp_path / "file", dtype, size))


FACTS = {
    "version": 1,
    "meta": {"epoch": 3, "1": [None]},
    "optimizer": {
        "prefix": "optimizer/",
        "state": {"0": {"step": 3}, "1": {}},
        "param_groups": [{"lr": 0.1, "params": [0, 1]}],
    },
}
ODD: tuple[Any, ...] = (None, True, 0, -1, 10**30, 1.5, "", "x", [], [1], {}, {"x": 1}, {"0": 1})


def mutated(facts: Any) -> Iterator[Any]:
    """Every way to put something odd in one place, and to leave one thing out."""
    yield from ODD
    inside = range(len(facts)) if isinstance(facts, list) else facts
    for key in inside if isinstance(facts, (dict, list)) else ():
        for part in mutated(facts[key]):
            changed = copy.copy(facts)
            changed[key] = part
            yield changed
        changed = copy.copy(facts)
        del changed[key]
        yield changed


def test_odd_facts_are_taken_or_refused(tmp_path: Path) -> None:
    """Any header gives a checkpoint whose methods work, or one of our errors."""
    taken, told = 0, 0
    for facts in mutated(FACTS):
        arrays = {"weight": np.ones(2), "optimizer/0/momentum_buffer": np.ones(2)}
        save_file(arrays, tmp_path / "file", {"tinygrad182": json.dumps(facts)})
        try:
            checkpoint = tg.load(tmp_path / "file")
        except tg.CheckpointError as error:
            assert str(tmp_path / "file") in str(error)  # noqa: PT017
            assert re.search("use a copy|install a newer", str(error))  # noqa: PT017
            told += 1
            continue
        taken += 1
        repr(checkpoint)
        assert isinstance(checkpoint.meta, dict)
        if checkpoint.optimizer is not None:
            for i, entry in checkpoint.optimizer["state"].items():
                assert isinstance(i, int)
                assert isinstance(entry, dict)
            with contextlib.suppress(tg.TinygradError):
                tg.optim.SGD(LINEAR.parameters(), 0.1).load_state_dict(checkpoint.optimizer)
    assert taken > 50
    assert told > 50


def test_errors_are_those_a_caller_would_expect() -> None:
    assert issubclass(tg.CheckpointNotFoundError, FileNotFoundError)
    assert issubclass(tg.CheckpointNotFoundError, tg.CheckpointError)
    assert issubclass(tg.CheckpointError, OSError)


@given(st.data())
def test_damaged_files_raise_our_errors(data: st.DataObject) -> None:
    """Files are cut anywhere, or have changed bytes in the header; the elements have no checksum."""
    optimizer = tg.optim.SGD(LINEAR.parameters(), 0.1, momentum=0.9)
    optimizer.state = [{"momentum_buffer": p.data} for p in LINEAR.parameters()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        tg.save(path, LINEAR, optimizer, epoch=3)
        content = bytearray(path.read_bytes())
        size = 8 + int.from_bytes(content[:8], "little")
        if data.draw(st.booleans()):
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
            with pytest.raises(tg.CheckpointError):
                tg.load(path)
            return
        for at in data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=3)):
            content[at] = data.draw(st.integers(32, 127))
        path.write_bytes(content)
        try:
            tg.load(path)
        except tg.TinygradError as error:
            assert isinstance(error, (tg.CheckpointError, tg.DTypeError))  # noqa: PT017
