"""Files of ``torch.save`` are read without PyTorch, and nothing in them runs."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_same_bits, needs_torch
from tests.tinygrad182 import torch_files
from tests.tinygrad182.torch_files import Named, Persistent, pickled, tensor, write_archive

W = np.arange(6.0).reshape(2, 3)
STATE = {"lstm.weight": W, "bias": np.array([1.5, -2.0], "float32"), "steps": np.array(7)}


def test_a_state_dict(tmp_path: Path) -> None:
    torch_files.write(tmp_path / "weights", STATE)
    found = tg.load(tmp_path / "weights")
    assert list(found.model) == list(STATE)
    for name, value in STATE.items():
        assert_same_bits(found.model[name], value, name)
    assert found.optimizer is None
    assert found.meta == {}


@pytest.mark.parametrize("dtype", torch_files.STORAGES)
@pytest.mark.parametrize("order", ["little", "big"])
def test_dtypes_and_byte_orders(dtype: str, order: str, tmp_path: Path) -> None:
    array = np.array([[1, 0, 3]], dtype)
    data = array.astype(array.dtype.newbyteorder(">" if order == "big" else "<")).tobytes()
    program = pickled({"a": tensor("0", array)})
    write_archive(tmp_path / "f", program, {"0": data}, order, root="anything")
    assert_same_bits(tg.load(tmp_path / "f").model["a"], array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_views_of_shared_numbers_at_every_protocol(protocol: int, tmp_path: Path) -> None:
    numbers = np.arange(24.0)
    tensors = {
        "transposed": tensor("0", numbers, 0, (4, 6), (1, 4)),
        "inside": tensor("0", numbers, 7, (2, 2), (12, 3)),
        "one": tensor("0", numbers, 23, (), ()),
        "expanded": tensor("0", numbers, 5, (3, 2), (0, 1)),
        "empty": tensor("0", numbers, 24, (0, 3), (3, 1)),
    }
    program = pickled(OrderedDict(tensors), protocol)
    write_archive(tmp_path / "f", program, {"0": numbers.tobytes()})
    model = tg.load(tmp_path / "f").model
    assert_same_bits(model["transposed"], numbers.reshape(6, 4).T)
    assert_same_bits(model["inside"], np.array([[7.0, 10.0], [19.0, 22.0]]))
    assert model["one"].item() == 23
    assert model["expanded"].tolist() == [[5.0, 6.0]] * 3
    assert model["empty"].shape == (0, 3)


@pytest.mark.parametrize("around", ["state_dict", "model", "net"])
def test_a_state_dict_beside_other_things(around: str, tmp_path: Path) -> None:
    optimizer = {"state": {0: {"step": tensor("0", W)}}, "param_groups": [{"lr": 0.1}]}
    torch_files.write(tmp_path / "f", STATE, around, epoch=3, name="x", optimizer=optimizer)
    found = tg.load(tmp_path / "f")
    assert list(found.model) == list(STATE)
    assert found.meta == {"epoch": 3, "name": "x"}


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    numbers = np.array([1.0, -2.5, 3.0e38, 1e-40], "float32")
    upper = (numbers.view("uint32") >> 16).astype("uint16")
    storage = Persistent("storage", Named("torch.BFloat16Storage"), "0", "cpu", 4)
    rows = Named("torch._utils._rebuild_tensor_v2", storage, 0, (2, 2), (1, 2), False, {})
    one = Named("torch._utils._rebuild_tensor_v2", storage, 1, (), (), False, {})
    write_archive(tmp_path / "f", pickled({"a": rows, "b": one}), {"0": upper.tobytes()})
    model = tg.load(tmp_path / "f").model
    expected = (upper.astype("uint32") << 16).view("float32")
    assert_same_bits(model["a"], expected.reshape(2, 2).T)
    assert_same_bits(model["b"], expected[1])


# --- what is refused ------------------------------------------------------------------------------

MARKER = "ran"


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARKER,)


DATA = {"0": W.tobytes()}
NUMBERS = W.ravel()


def opened(path: Path, value: Any) -> None:
    write_archive(path, pickled(value), DATA)


def rebuilt(offset: Any, shape: Any, strides: Any) -> dict[str, Any]:
    return {"a": tensor("0", NUMBERS, offset, shape, strides)}


def raw(program: bytes) -> Callable[[Path], None]:
    return lambda path: write_archive(path, b"\x80\x02" + program, DATA)


def valued(value: Any) -> Callable[[Path], None]:
    return lambda path: opened(path, value)


BILLION = b"(]" + b"q\x00" + b"".join(b"](" + b"h\x00" * 9 + b"eq\x00" for _ in range(60)) + b"t."

REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a function of the system": (
        valued({"a": Evil()}),
        r"posix\.mkdir, which is refused.*state_dict",
    ),
    "eval": (valued(Named("builtins.eval", "1")), r"builtins\.eval, which is refused"),
    "eval as two": (raw(b"\x8c\x08builtins\x8c\x04eval\x93."), r"builtins\.eval, which is refused"),
    "a name alone": (valued({"a": Named("os.system")}), r"os\.system, which is refused"),
    "a whole module": (
        valued(Named("__main__.Net")),
        r"__main__\.Net.*torch\.save\(model\.state_dict",
    ),
    "an attribute of a name": (
        valued(Named("torch._utils.__dict__")),
        r"torch\._utils\.__dict__, which is refused",
    ),
    "INST": (raw(b"(S'ls'\nios\nsystem\n."), "instruction STRING|INST"),
    "OBJ": (raw(b"(ccollections\nOrderedDict\no."), "instruction OBJ"),
    "NEWOBJ": (raw(b"ccollections\nOrderedDict\n)\x81."), "instruction NEWOBJ"),
    "an extension": (raw(b"\x82\x01."), "instruction EXT1"),
    "calling a list": (raw(b"](K\x01tR."), "damaged"),
    "calling a dtype": (raw(b"ctorch\nfloat32\n)R."), "damaged"),
    "state set on a name": (
        raw(b"ccollections\nOrderedDict\n}(X\x01\x00\x00\x00aK\x01ub."),
        "damaged",
    ),
    "state set on a tensor": (
        lambda p: write_archive(p, pickled({"a": tensor("0", W)})[:-2] + b"}bs.", DATA),
        "damaged|no state dict",
    ),
    "a key that is a tuple": (raw(b"}" + b")" + b"\x85" * 200_000 + b"K\x01s."), "damaged"),
    "a place far away": (raw(b"h\xff."), "damaged"),
    "an endless mark": (raw(b"(" * 1000 + b"."), "damaged"),
    "nothing": (raw(b"."), "damaged"),
    "too little for a tuple": (raw(b"K\x01\x87."), "damaged"),
    "an escape that is none": (raw(b"S'\\o'\n."), "damaged|instruction STRING"),
    "no end": (raw(b"}"), "damaged"),
    "lists of lists": (raw(BILLION), "holds no state dict"),
    "a long text that is not there": (raw(b"\x8d" + b"\xff" * 7 + b"\x7f."), "damaged"),
    "no state dict": (valued([1, 2]), "holds no state dict; save the weights"),
    "an empty one": (valued({}), "holds no state dict"),
    "two state dicts": (
        valued({"model": {"a": tensor("0", W)}, "ema": {"a": tensor("0", W)}}),
        r"holds 2 state dicts, 'model', 'ema'; save only one .*\['model'\], path",
    ),
    "an offset beyond": (valued(rebuilt(1, (2, 3), (3, 1))), "damaged"),
    "a negative offset": (valued(rebuilt(-1, (2,), (1,))), "damaged"),
    "a stride beyond": (valued(rebuilt(0, (2,), (6,))), "damaged"),
    "a negative stride": (valued(rebuilt(0, (2,), (-1,))), "damaged"),
    "a negative size": (valued(rebuilt(0, (-1,), (1,))), "damaged"),
    "an overflow": (valued(rebuilt(2**62, (2,), (1,))), "damaged"),
    "another overflow": (valued(rebuilt(0, (2,), (2**62,))), "damaged"),
    "a huge size": (valued(rebuilt(0, (2**40,), (0,))), "repeat its numbers more than 8 times"),
    "sizes whose product overflows": (
        valued(rebuilt(0, (2**33, 2**33), (0, 0))),
        "repeat its numbers",
    ),
    "a size that is a text": (valued(rebuilt(0, ("a", 2**33), (0, 0))), "damaged"),
    "a size that is a fraction": (valued(rebuilt(0, (1.0,), (1,))), "damaged"),
    "many axes": (valued(rebuilt(0, (1,) * 65, (1,) * 65)), "damaged"),
    "more strides": (valued(rebuilt(0, (1,), (1, 1))), "damaged"),
    "many large views": (
        valued({str(i): tensor("0", NUMBERS, 0, (2**16,), (0,)) for i in range(33)}),
        "repeat its numbers",
    ),
    "numbers that are not there": (valued({"a": tensor("1", W)}), "damaged"),
    "a file beside": (valued({"a": tensor("../data.pkl", W)}), "damaged"),
    "a storage of something else": (
        valued(Named("torch._utils._rebuild_tensor_v2", [1], 0, (), ())),
        "damaged",
    ),
    "a dtype that NumPy lacks": (
        valued(Persistent("storage", Named("torch.Float8_e4m3fnStorage"), "0", "cpu", 1)),
        r"torch\.Float8_e4m3fnStorage, which is refused: only tensors of real numbers",
    ),
    "something compressed with LZMA": (
        lambda p: write_archive(p, pickled({"a": 1}), {}, compression=zipfile.ZIP_LZMA),
        "is compressed, or damaged",
    ),
    "names that are huge numbers": (valued({2**61 - 1: 1, 2**62 - 2: 2}), "damaged.*huge number"),
    "something compressed": (
        lambda p: write_archive(
            p, pickled({"a": 1}), {"0": bytes(10**6)}, compression=zipfile.ZIP_DEFLATED
        ),
        "is compressed, or damaged; save it again",
    ),
    "a zip archive of another kind": (
        lambda p: zipfile.ZipFile(p, "w").writestr("a/b", "c"),
        "a zip archive that torch.save did not write|damaged",
    ),
    "an old file": (
        lambda p: p.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + pickle.dumps({})),
        r"is a pickle.*torch\.save\(torch\.load\(path, weights_only=True\), path\)",
    ),
    "a pickle": (lambda p: p.write_bytes(pickle.dumps({"a": Evil()})), "is a pickle"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write, message = REFUSED[name]
    write(tmp_path / "f.pt")
    with pytest.raises(tg.CheckpointError, match=message) as caught:
        tg.load("f.pt")
    assert str(caught.value).startswith("load: ")
    assert str(caught.value).count("load: ") == 1
    assert len(str(caught.value)) < 600
    assert not (tmp_path / MARKER).exists()


def test_a_torch_script_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "f", pickled({}), {})
    with zipfile.ZipFile(tmp_path / "f", "a") as file:
        file.writestr("archive/constants.pkl", b"")
    with pytest.raises(tg.CheckpointError, match="is a TorchScript module, which is code"):
        tg.load(tmp_path / "f")


def whole(folder: Path) -> bytes:
    torch_files.write(folder / "whole", {"a": W})
    return (folder / "whole").read_bytes()


def outcome(path: Path, content: bytes) -> dict[str, Array] | None:
    """The arrays that are read, or None for one of our errors."""
    path.touch()
    with path.open("r+b") as file:  # making or emptying a file takes the system far longer
        file.write(content)
        file.truncate()
    try:
        return {name: value.numpy() for name, value in tg.load(path).model.items()}
    except tg.CheckpointError:
        return None


def test_a_file_cut_at_any_byte(tmp_path: Path) -> None:
    content = whole(tmp_path)
    assert outcome(tmp_path / "f", content) is not None
    for end in reversed(range(len(content))):
        assert outcome(tmp_path / "f", content[:end]) is None, end


def test_a_file_with_one_byte_changed(tmp_path: Path) -> None:
    """An entry has a checksum: the numbers are those that were written, or there is an error."""
    content = whole(tmp_path)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x55
        found = outcome(tmp_path / "f", bytes(changed))
        if found is not None:
            assert_same_bits(found["a"], W, str(place))
            assert found.keys() == {"a"}


@given(
    st.lists(
        st.sampled_from([bytes([i]) for i in b"()}]\x85\x86\x87tRQbsuae0q\x01h\x01K2."]),
        max_size=40,
    )
)
def test_random_programs(parts: list[bytes]) -> None:
    """Programs are known instructions in any order."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        write_archive(path, pickled({"a": tensor("0", W)})[:-1] + b"".join(parts) + b".", DATA)
        outcome(path, path.read_bytes())


# --- PyTorch's own files --------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_of_pytorch(protocol: int, tmp_path: Path) -> None:
    torch = needs_torch()
    module = torch.nn.LSTM(2, 3, 2, bidirectional=True)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(4, 2))[0].sum().backward()
    optimizer.step()
    path, state = tmp_path / "f", module.state_dict()
    checkpoint = {"model": state, "optimizer": optimizer.state_dict(), "size": torch.Size([2])}
    for saved in (state, dict(module.named_parameters()), checkpoint):
        torch.save(saved, path, pickle_protocol=protocol)
        model = tg.load(path).model
        assert list(model) == list(state)
        for name, value in state.items():
            assert_same_bits(model[name], value.numpy(), name)


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float16", "bfloat16", "int64", "int8", "uint8", "uint16", "uint32", "bool"],
)
def test_dtypes_of_pytorch(dtype: str, tmp_path: Path) -> None:
    torch = needs_torch()
    value = torch.arange(12.0).reshape(3, 4).to(getattr(torch, dtype)).T[1:]
    torch.save({"a": value}, tmp_path / "f")
    expected = value.float() if dtype == "bfloat16" else value
    assert_same_bits(tg.load(tmp_path / "f").model["a"], expected.numpy())


def test_what_pytorch_saves_beside_state_dicts_is_refused(tmp_path: Path) -> None:
    torch = needs_torch()
    path, module = tmp_path / "f", torch.nn.Linear(1, 2)
    cases = [
        (lambda: torch.save(module, path), r"torch\.nn\.modules\.linear\.Linear, which is refused"),
        (
            lambda: torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False),
            "is a pickle",
        ),
        (
            lambda: torch.save({"a": torch.ones(2, dtype=torch.complex64)}, path),
            "ComplexFloatStorage",
        ),
        (lambda: torch.save({"a": torch.ones(2).to(torch.float8_e5m2)}, path), "float8_e5m2"),
        (lambda: torch.save({"a": torch.ones(2).to_sparse()}, path), "sparse"),
    ]
    for save, message in cases:
        save()
        with pytest.raises(tg.CheckpointError, match=message):
            tg.load(path)


def test_pytorch_reads_the_files_of_these_tests(tmp_path: Path) -> None:
    torch = needs_torch()
    torch_files.write(tmp_path / "f", STATE)
    for name, value in torch.load(tmp_path / "f", weights_only=True).items():
        assert_same_bits(value.numpy(), STATE[name], name)
