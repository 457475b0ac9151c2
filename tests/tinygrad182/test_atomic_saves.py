"""Saving is all or nothing: after a failure in the middle, the previous file is whole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import tinygrad182 as tg
from tinygrad182 import _files

ROOT = Path(__file__).parents[2]
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks, signals and modes")


def listing(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


KILLED = """
import os, resource, signal, sys
import numpy as np
import tinygrad182 as tg
from tinygrad182 import _files
from tinygrad182.serialization import checkpoints, safetensors_files

TRACED = {checkpoints.__file__, safetensors_files.__file__, _files.__file__}
folder, path = sys.argv[1], os.path.join(sys.argv[1], "model.safetensors")
outcomes, strays = set(), 0

def save(generation):
    model = tg.nn.Linear(100, 60, dtype="float64", rng=0)
    optimizer = tg.optim.SGD(model.parameters(), 0.0, momentum=0.5)
    for p in model.parameters():
        p.assign(generation)
        p.grad = tg.tensor(p.numpy())
    optimizer.step()
    tg.save(path, model, optimizer, generation=generation)

def generation():
    checkpoint = tg.load(path)
    arrays = [*checkpoint.model.values()]
    arrays += [s["momentum_buffer"] for s in checkpoint.optimizer["state"].values()]
    found = {float(x) for a in arrays for x in a.numpy().ravel()} | {checkpoint.meta["generation"]}
    assert len(arrays) == 4 and len(found) == 1, found
    return found.pop()

def killed(before, number):
    # Save in a process that sets its own trap; whether it was caught.
    global strays
    old = generation()
    child = os.fork()
    if not child:
        before()
        save(number)
        os._exit(0)
    caught = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    new = generation()
    assert new == number if not caught else new in (old, number), (old, new, number)
    if caught:
        outcomes.add(new == number)
        strays += len(os.listdir(folder)) > 1
    return caught

def at_line(number):
    seen = 0
    def trace(frame, event, arg):
        nonlocal seen
        if frame.f_code.co_filename not in TRACED:
            return None
        seen += event == "line"
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    return lambda: sys.settrace(trace)

def at_byte(number):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
    return limit

save(0)
size = os.path.getsize(path)
for number in (0, 1, 8, 100, 4096, size // 2, size - 1):
    assert killed(at_byte(number), number + 1), number
assert outcomes == {False} and strays == 7, (outcomes, strays)
lines = 1
while killed(at_line(lines), lines):
    lines += 1
    assert lines < 1000, "each save takes more lines than the last: what was left is not cleared away"
assert lines > 50 and outcomes == {False, True}, (lines, outcomes)
killed(at_byte(10), 0)
assert len(os.listdir(folder)) == 2
save(1)
assert os.listdir(folder) == ["model.safetensors"] and generation() == 1
"""


@posix_only
def test_a_save_that_is_killed_anywhere(tmp_path: Path) -> None:
    """By SIGKILL before every line of a save, and at bytes in the middle of the file."""
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", ["os.fsync", "pathlib.Path.replace", "shutil.copymode"])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_save_that_fails(
    name: str, interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt if interrupted else OSError(errno.ENOSPC, "No space left")

    path = tmp_path / "file"
    tg.save(path, tg.nn.Linear(2, 1, rng=0))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(name, fail)
        with pytest.raises(KeyboardInterrupt if interrupted else tg.CheckpointError) as caught:
            tg.save(path, tg.nn.Linear(2, 1, rng=1))
    if not interrupted:
        assert str(caught.value) == f"save: cannot write {path}: [Errno 28] No space left"
    assert path.read_bytes() == before
    assert listing(tmp_path) == ["file"]


@posix_only
def test_the_order_in_which_a_file_becomes_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole content, then the name, then the folder that holds the name."""
    path = tmp_path / "file"
    events: list[Any] = []
    replace = Path.replace

    def fsync(descriptor: int) -> None:
        is_folder = os.path.samestat(os.fstat(descriptor), tmp_path.stat())
        events.append("folder" if is_folder else os.fstat(descriptor).st_size)

    def renamed(self: Path, to: Path) -> Path:
        events.append("rename")
        return replace(self, to)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    tg.save(path, tg.nn.Linear(30, 30, rng=0))
    assert events == [path.stat().st_size, "rename", "folder"]


@posix_only
def test_saves_at_the_same_time_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that begins and ends while another writes leaves the other's file alone."""
    path, fsync = tmp_path / "file", os.fsync
    inner: list[int] = []

    def another_save(descriptor: int) -> None:
        if not inner:
            inner.append(1)
            tg.save(path, tg.nn.Linear(1, 1), who="inner")
            inner.append(tg.load(path).meta["who"])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", another_save)
    tg.save(path, tg.nn.Linear(1, 1), who="outer")
    assert inner == [1, "inner"]
    assert tg.load(path).meta == {"who": "outer"}
    assert listing(tmp_path) == ["file"]


def test_threads_that_save_to_one_file(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(20):
                tg.save(tmp_path / "file", tg.nn.Linear(3, 2, rng=number), number=number)
                tg.load(tmp_path / "file")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert listing(tmp_path) == ["file"]


def test_only_strays_of_the_same_file_are_removed(tmp_path: Path) -> None:
    others = [
        ".other.0123abcd.tmp",
        ".a[x].b.0123abcd.tmp",
        ".a[x].0123abc.tmp",
        "a[x].0123abcd.tmp",
    ]
    for name in (*others, ".a[x].0123abcd.tmp", ".a[x].ffffffff.tmp"):
        (tmp_path / name).touch()
    tg.save(tmp_path / "a[x]", tg.nn.Linear(1, 1))
    assert listing(tmp_path) == sorted([*others, "a[x]"])


def test_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has none, and renames no file that is open."""
    monkeypatch.setattr(_files, "_WINDOWS", True)
    path, replace, names = tmp_path / "file", Path.replace, []

    def renamed(self: Path, to: Path) -> Path:
        descriptors = Path("/proc/self/fd")
        if descriptors.exists():
            assert self not in [file.resolve() for file in descriptors.iterdir()]
        names.append(self.name)
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", renamed)
    (tmp_path / ".file.0123abcd.tmp").touch()
    tg.save(path, tg.nn.Linear(1, 1), n=1)
    assert tg.load(path).meta == {"n": 1}
    assert len(names) == 1
    assert listing(tmp_path) == ["file"]


@posix_only
def test_modes_links_and_folders(tmp_path: Path) -> None:
    model = tg.nn.Linear(1, 1)
    path = tmp_path / "runs" / "1" / "file"
    previous = os.umask(0o027)
    try:
        tg.save(path, model)
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o604)
    link = tmp_path / "last"
    link.symlink_to(path)
    tg.save(link, model, n=2)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o604
    assert tg.load(path).meta == {"n": 2}


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    model = tg.nn.Linear(2, 3, rng=0)
    optimizer = tg.optim.Adam(model.parameters(), 0.1)
    contents = set()
    for _ in range(8):
        tg.save(tmp_path / "f", model, optimizer, epoch=3, loss=0.25)
        contents.add((tmp_path / "f").read_bytes())
    assert len(contents) == 1


def test_several_files_or_none(tmp_path: Path) -> None:
    _files.write_files("x", tmp_path / "new", {"a": b"1", "b": b"2"})
    assert [(tmp_path / "new" / name).read_bytes() for name in "ab"] == [b"1", b"2"]
    (tmp_path / "new" / "b").chmod(0o444)
    with pytest.raises(tg.FileError, match=r"x: cannot write into .*new: .*write-protected"):
        _files.write_files("x", tmp_path / "new", {"a": b"3", "b": b"4", "c": b"5"})
    assert [(tmp_path / "new" / name).read_bytes() for name in "ab"] == [b"1", b"2"]
    assert listing(tmp_path / "new") == ["a", "b"]
