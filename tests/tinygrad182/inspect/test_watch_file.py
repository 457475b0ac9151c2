"""The file of a watched run: after a killed process, when a run continues, and when it is refused."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tinygrad182.inspect.watching import file

from .test_watching import Net, loss_of, train

load = tg.inspect.load_watch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def watched(path: Path, count: int = 3, factor: float = 1.0) -> tg.inspect.Watch:
    model = Net()
    with tg.inspect.watch(model, every=1, path=path) as watch:
        for i in range(count):
            (loss_of(model, i, steps=3) * factor**i).backward()
    return watch


def assert_same(found: tg.inspect.Watched, expected: tg.inspect.Watched) -> None:
    np.testing.assert_array_equal(found.steps, expected.steps)
    np.testing.assert_array_equal(found.loss, expected.loss)
    assert list(found) == list(expected)
    for path, stack in expected.items():
        for name, state in stack.items():
            other = found[path][name]
            for field in ("time", "there"):
                np.testing.assert_array_equal(getattr(other, field), getattr(state, field))
            for field in ("log10_grad_norm", "log10_value_norm"):
                actual, wanted = getattr(other, field), getattr(state, field)
                np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(wanted))
                np.testing.assert_allclose(actual, wanted, rtol=0, atol=0.51e-6)


@pytest.mark.parametrize("factor", [1.0, 1e-150, math.inf])
def test_what_is_read_is_what_was_watched(path: Path, factor: float) -> None:
    watch = watched(path, 4, factor)
    run = load(path)
    assert_same(run, watch)
    assert (run.every, run.model, run.ended) == (1, watch.model, watch.ended)
    assert repr(run) == repr(watch)
    assert run.ended == "The run ended: it was stopped."
    watch.save(path.with_name("again.jsonl"))
    assert path.with_name("again.jsonl").read_bytes() == path.read_bytes()


def test_each_line_is_json_without_words_of_pythons_own(path: Path) -> None:
    watched(path, 3, float("nan"))

    def refuse(word: str) -> Any:
        raise AssertionError(word)

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_a_file_cut_anywhere_in_its_last_line_reads(path: Path) -> None:
    rnn = tg.nn.RNN(1, 2, rng=0)
    with tg.inspect.watch(rnn, every=1, path=path):
        for _ in range(3):
            rnn(tg.ones((2, 1, 1)))[0][-1].sum().backward()
    *lines, _ = path.read_bytes().splitlines(keepends=True)  # without the line of the end
    before = b"".join(lines[:-1])
    for count in range(len(lines[-1])):
        path.write_bytes(before + lines[-1][:count])
        run = load(path)
        assert run.steps.tolist() == [0, 1]
        assert run.ended.startswith(
            "The run broke off after training step 1: its process was killed"
        )
        assert ("in the middle of a line" in run.ended) == (count > 0)
    path.write_bytes(before + lines[-1])
    assert load(path).steps.tolist() == [0, 1, 2]


PROGRAM = """
import sys
import tinygrad182 as tg
model = tg.nn.RNN(1, 3, rng=0, fused=False)
tg.inspect.watch(model, every=2, path=sys.argv[1])
for i in range(3):
    (model(tg.ones((7, 1, 1)))[0][-1] ** 2).sum().backward()
"""


def test_a_process_that_ends_says_so(path: Path) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, str(path)], check=True)
    run = load(path)
    assert run.steps.tolist() == [0, 2]
    assert "its process ended" in run.ended


def forked(run: Callable[[], object]) -> int:
    """Start a process that only runs a function, without importing anything."""
    child = os.fork()
    if not child:
        try:
            run()
        finally:
            os._exit(0)
    return child


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@needs_fork
def test_a_run_that_is_killed_can_be_read_and_shows_where_it_stopped(path: Path) -> None:
    def run_on() -> None:
        model = Net()
        tg.inspect.watch(model, every=2, path=path)
        for i in range(1_000_000):
            loss_of(model, i).backward()

    child = forked(run_on)
    try:
        until = time.monotonic() + 60
        while not path.exists() or path.read_bytes().count(b"\n") < 6:
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
            assert time.monotonic() < until
            time.sleep(0.02)
        assert load(path).ended == "The run goes on."
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run = load(path)
    count = len(run.steps)
    assert count >= 5
    assert run.steps.tolist() == list(range(0, 2 * count, 2))
    assert f"The run broke off after training step {run.steps[-1]}" in repr(run)
    assert run["rnn.l0"].h.there.all()
    assert run["rnn.l0"].h.there.shape == (count, 7)


# --- continuing a run -----------------------------------------------------------------------------


def test_training_that_goes_on_leaves_out_what_it_makes_again(path: Path) -> None:
    watched(path, 6)
    path.write_bytes(path.read_bytes() + b'{"step": 6, "lo')
    model = Net()
    with tg.inspect.watch(model, every=2, path=path, step=3) as watch:
        train(model, 4)
    assert watch.steps.tolist() == [0, 1, 2, 4, 6]
    assert_same(load(path), watch)
    assert load(path).every == watch.every == 2
    assert "5 training steps were watched, from 0 to 6." in repr(watch)
    assert load(path).ended == "The run ended: it was stopped."


def test_a_file_that_is_there_is_not_written_over(path: Path) -> None:
    watched(path)
    before = path.read_bytes()
    with pytest.raises(tg.errors.FileError, match="is there already; to go on with it, pass step="):
        tg.inspect.watch(Net(), path=path)
    with pytest.raises(tg.errors.FileError, match="is the run of another model"):
        tg.inspect.watch(Net("rnn"), path=path, step=2)
    assert path.read_bytes() == before


def test_two_watches_do_not_write_one_file(path: Path) -> None:
    model = Net()
    with (
        tg.inspect.watch(model, path=path),
        pytest.raises(tg.errors.FileError, match="is being written by another watch; stop that"),
    ):
        tg.inspect.watch(model, path=path, step=1)


def test_a_step_without_a_file_to_go_on_with(path: Path) -> None:
    with pytest.raises(tg.errors.FileError, match=r"watch: there is no file .* leave step= out"):
        tg.inspect.watch(Net(), path=path, step=2)
    assert not path.exists()


def test_a_disk_that_is_full_ends_the_file_and_not_the_training(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Net()
    watch = tg.inspect.watch(model, every=1, path=path)
    loss_of(model, 0).backward()
    with monkeypatch.context() as patched:
        full = OSError(28, "No space left on device")
        patched.setattr(file.Appended, "append", lambda *_: (_ for _ in ()).throw(full))
        with pytest.warns(UserWarning, match=r"No space left.*watch\.save\(path\)") as warned:
            loss_of(model, 1).backward()
    assert warned[0].filename == __file__
    loss_of(model, 2).backward()
    watch.stop()
    assert watch.steps.tolist() == [0, 1, 2]
    assert load(path).steps.tolist() == [0]
    watch.save(path)
    assert_same(load(path), watch)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_line_that_is_not_written_as_a_whole_is_an_error(path: Path) -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(OSError, match="No space"),
    ):
        file.Appended(path, full).append(b"line\n")


def test_a_line_that_is_written_in_part_is_an_error(path: Path) -> None:
    class Short(io.BytesIO):
        def write(self, data: Any) -> int:
            return len(data) - 1

    with pytest.raises(OSError, match="4 of 5 bytes were written; the disk may be full"):
        file.Appended(path, Short()).append(b"line\n")


# --- files that are refused -----------------------------------------------------------------------


BEGIN = b'{"tinygrad182 watch":1,"every":1,"model":""}\n'
LINE = b'{"step":1,"loss":1,"states":{"a":{"h":{%b"log10 grad":%b,"log10 value":%b}}}}\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin with the line of a watched run; pass a file that"),
        (b'{"tinygrad182 watch":1', "does not begin"),
        (b'{"a":1}\n', "does not begin"),
        (b"\xff\n", "does not begin"),
        (b'{"tinygrad182 watch":1,"every":"x","model":""}\n', "does not begin"),
        (BEGIN + b'{"goes on from":"x"}\n', "line 2 .* 'x' is not a whole number from 0"),
        (BEGIN + b'{"step":1e400,"loss":1,"states":{}}\n', "inf is not a whole number from 0"),
        (BEGIN + b'{"step":-1,"loss":1,"states":{}}\n', "-1 is not a whole number from 0"),
        (BEGIN + b"[" * 100_000 + b"\n", "line 2 of .* is damaged .RecursionError"),
        (BEGIN + LINE % (b"", b"[]", b"[]"), "time steps do not increase, or there are none"),
        (BEGIN + LINE % (b'"time":[1,1],', b"[1,2]", b"[1,2]"), "time steps do not increase"),
        (b'{"tinygrad182 watch":2,"every":1,"model":""}\n', "has version 2 of its format"),
        (b'{"tinygrad182 watch":1,"every":1,"model":""}\n[]\n', r"line 2 of .* is damaged"),
        (b'{"tinygrad182 watch":1,"every":1,"model":""}\n{"step":1}\n', "remove that line"),
        (
            b'{"tinygrad182 watch":1,"every":1,"model":""}\n{"step":1,"loss":1,"states":'
            b'{"a":{"h":{"log10 grad":[1],"log10 value":[]}}}}\n',
            "its lists have different lengths",
        ),
    ],
)
def test_files_that_are_none(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)
    with pytest.raises(tg.errors.FileError, match=words) as raised:
        load(path)
    assert str(raised.value).count("load_watch: ") == 1


def test_a_path_below_a_file(path: Path) -> None:
    path.touch()
    with pytest.raises(tg.errors.FileError, match=r"cannot write .*: .*run.jsonl is not a folder"):
        tg.inspect.watch(Net(), path=path / "run.jsonl")


def test_numbers_of_numpy_are_written(path: Path) -> None:
    model = Net()
    every: Any = np.int64(2)
    tg.inspect.watch(model, every, path).stop()
    tg.inspect.watch(model, every, path, step=every).stop()
    assert load(path).every == 2


@needs_fork
def test_a_process_that_is_forked_does_not_write(path: Path) -> None:
    model = Net()
    with tg.inspect.watch(model, every=1, path=path) as watch:
        loss = loss_of(model, 0)
        child = forked(lambda: (loss.backward(retain_graph=True), watch.stop()))
        os.waitpid(child, 0)
        assert load(path).ended == "The run goes on."
        loss.backward()
    assert_same(load(path), watch)


def test_the_file_of_a_run_is_not_written_over(path: Path) -> None:
    model = Net()
    with tg.inspect.watch(model, path=path) as watch:
        loss_of(model, 0).backward()
        with pytest.raises(tg.errors.FileError, match=r"save: .* is being written by a watch"):
            watch.save(path)
    with pytest.raises(tg.errors.FileError, match=r"save_html: .* is the file of a watched run"):
        load(path).save_html(path)
    assert_same(load(path), watch)


def test_an_exception_without_words_is_named(path: Path) -> None:
    model = Net()
    with pytest.raises(KeyboardInterrupt), tg.inspect.watch(model, path=path):
        raise KeyboardInterrupt
    assert load(path).ended == "The run ended: KeyboardInterrupt."


def test_no_file_and_a_folder(path: Path) -> None:
    with pytest.raises(
        tg.errors.FileError, match=r"there is no file .*run.jsonl; tg.inspect.watch"
    ):
        load(path)
    with pytest.raises(tg.errors.FileError, match=r"is a folder.*name of a file"):
        load(path.parent)
