"""Traces on disk: a saved trace loads bit by bit, and a damaged file is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import tinygrad182 as tg
from tinygrad182.errors import (
    ArgumentError,
    CheckpointError,
    CheckpointNotFoundError,
    FileError,
    FreedGraphError,
)

T, B, H = 9, 2, 4


def loss_of(dtype: str = "float32", **options: object) -> tg.Tensor:
    lstm = tg.nn.LSTM(3, H, num_layers=2, rng=0, dtype=dtype)
    x = np.random.default_rng(0).normal(size=(T, B, 3)).astype(dtype)
    return (lstm(tg.tensor(x), **options)[0][-1] ** 2).sum()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.trace"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_was_saved_comes_back(path: Path, dtype: str) -> None:
    graph = tg.inspect.trace(loss_of(dtype))
    graph.save(path)
    trace = tg.inspect.load_trace(path)
    assert trace.dtype == dtype
    assert repr(trace) == repr(graph.numbers())
    for mine, other in zip(graph.numbers().boxes, trace.boxes, strict=True):
        for some, loaded in zip(mine.steps, other.steps, strict=True):
            assert some.operations == loaded.operations
            for what in ("values", "gradients"):
                rows, back = some.of(what), loaded.of(what)  # type: ignore[arg-type]
                assert rows.keys() == back.keys()
                for label, row in rows.items():
                    np.testing.assert_array_equal(row.values, back[label].values)
                    np.testing.assert_array_equal(row.powers, back[label].powers)
    assert tg.inspect.diff(graph, path).same


def test_the_gradients_are_those_of_gradient_flow(path: Path) -> None:
    loss = loss_of("float64")
    tg.inspect.trace(loss).save(path)
    box = tg.inspect.load_trace(path).boxes[1]
    (steps,) = box.steps
    rows = steps.grads["c"]
    expected = tg.inspect.gradient_flow(loss)["lstm.l1"].c.grad
    np.testing.assert_allclose(
        np.ldexp(rows.values, rows.powers[..., None])[np.argsort(steps.times)], expected, rtol=1e-12
    )


def test_float32_stays_float32_and_gradients_alone_are_half(path: Path, tmp_path: Path) -> None:
    graph = tg.inspect.trace(loss_of())
    graph.save(path)
    graph.save(tmp_path / "alone", values=False)
    kept = load_file(path)
    assert {str(a.dtype) for name, a in kept.items() if name.endswith(("value", "grad"))} == {
        "float32"
    }
    sizes = [sum(a.nbytes for a in load_file(p).values()) for p in (path, tmp_path / "alone")]
    assert sizes[1] < 0.6 * sizes[0]


def test_gradients_alone_are_compared(path: Path) -> None:
    tg.inspect.trace(loss_of()).save(path, values=False)
    found = tg.inspect.diff(path, loss_of(truncate=5))
    assert "Values were not saved: gradients alone are compared." in found.sentences
    assert found.values is None
    assert found.gradients is not None
    assert found.gradients.time == 4
    with pytest.raises(ArgumentError, match="without values"):
        tg.inspect.load_trace(path).save(path)


def test_numbers_that_no_float_holds_come_back(path: Path) -> None:
    rnn = tg.nn.RNN(1, 2, rng=0)
    rnn.weight_hh_l0.data[...] *= 1e-20
    loss = rnn(tg.ones((20, 1, 1)))[0][-1].sum()
    tg.inspect.trace(loss).save(path)
    (steps,) = tg.inspect.load_trace(path).boxes[0].steps
    rows = steps.grads["h"]
    norms = rows._replace(values=rows.values.astype(np.float64)).log10_norm()
    np.testing.assert_allclose(
        norms, tg.inspect.gradient_flow(loss)["rnn.l0"].h.log_grad_norm / np.log(10), rtol=1e-9
    )
    assert norms[0] < -300


def test_a_graph_that_was_freed_is_not_saved(path: Path) -> None:
    loss = loss_of()
    graph = tg.inspect.trace(loss)
    loss.backward()
    with pytest.raises(FreedGraphError):
        graph.save(path)
    assert not path.exists()


def test_files_that_are_not_traces(path: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="there is no file"):
        tg.inspect.load_trace(path)
    path.write_bytes(b"not a trace at all")
    with pytest.raises(CheckpointError, match="damaged"):
        tg.inspect.load_trace(path)
    tg.save(path, tg.nn.Linear(1, 1, rng=0))
    with pytest.raises(CheckpointError, match="is not a trace"):
        tg.inspect.load_trace(path)
    with pytest.raises(FileError, match="folder"):
        tg.inspect.load_trace(tmp_path)


@pytest.mark.parametrize(
    "header",
    ["", "[]", "{}", '{"version": 1}', '{"version": "x"}', '{"version": 1, "boxes": [3]}', "null"],
)
def test_a_damaged_header_raises(path: Path, header: str) -> None:
    save_file({"x": np.ones(3)}, path, {"tinygrad182.trace": header})
    with pytest.raises(CheckpointError, match="damaged"):
        tg.inspect.load_trace(path)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("label", "x"), ("operands", ["nothing"]), ("shape", ["x"]), ("shape", 3), ("label", 5)],
)
def test_operations_that_do_not_fit_raise(path: Path, name: str, wrong: object) -> None:
    tg.inspect.trace(loss_of()).save(path)
    with safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["tinygrad182.trace"])
    facts["boxes"][0]["steps"][0][3][name] = wrong
    save_file(load_file(path), path, {"tinygrad182.trace": json.dumps(facts)})
    with pytest.raises(CheckpointError, match="damaged"):
        tg.inspect.load_trace(path)


def test_a_newer_version_and_missing_arrays_raise(path: Path) -> None:
    save_file({"x": np.ones(3)}, path, {"tinygrad182.trace": json.dumps({"version": 2})})
    with pytest.raises(CheckpointError, match="version 2"):
        tg.inspect.load_trace(path)
    tg.inspect.trace(loss_of()).save(path)
    with safe_open(path, framework="numpy") as file:
        header = file.metadata()
    for name in ("0/0/time", "0/0/3/grad", "0/0/3/power", "0/0/3/value", "parameter/0/grad"):
        arrays = load_file(path)
        if name.endswith(("grad", "value")) and not name.startswith("parameter"):
            arrays[name] = arrays[name][1:]
        else:
            del arrays[name]
        damaged = path.with_name("damaged")
        save_file(arrays, damaged, header)
        with pytest.raises(CheckpointError, match="damaged"):
            tg.inspect.load_trace(damaged)
