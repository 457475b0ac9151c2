"""Machine code from LLVM's text: compiled once, and loaded from a file by later processes.

:mod:`..compiled` calls :func:`functions` with what writes the text. A file's name has a digest of
everything that the code depends on: the program, the processor, the versions, and the source files that
write the text.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import contextlib
import hashlib
import io
import pkgutil
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from ... import _caches
from .vectors import Code

LEVEL = 3
OFF = ("loop_unrolling", "loop_vectorization", "slp_vectorization")
"""Passes of LLVM that are off: they take long, and the loops are already written as they should run."""


def functions(name: str, made_from: str, write: Callable[[], Any], exported: Sequence[str]) -> Any:
    """Return machine code in memory, which has the addresses of the ``exported`` functions by name.

    ``write()`` gives LLVM's text; it is called only if there is no file. The text depends on ``made_from``,
    the ``name``, which is also shown on stderr, and the files of :func:`_sources`.
    """
    made_for = _machine().triple, llvm.get_host_cpu_name(), _features(), Code.HEAD
    made_by = llvmlite.__version__, LEVEL, OFF, _sources()
    key = hashlib.sha256(repr((name, made_from, made_for, made_by)).encode()).hexdigest()[:20]
    if key not in _LOADED:
        file = f"loops.{key}.o"
        code = _caches.read_cached(file) or _made(file, name, write)
        _LOADED[key] = _linked(key, code, exported)
    return _LOADED[key]


_LOADED: dict[str, Any] = {}
"""Machine code by its digest: a module cannot be loaded twice."""


def _made(file: str, name: str, write: Callable[[], Any]) -> bytes:
    _say(f"compiling the loops of {name} ...")
    code = _compiled(str(write()))
    _caches.write_cached(file, code)
    return code


def _linked(key: str, code: bytes, exported: Sequence[str]) -> Any:
    library = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
    for function in exported:
        library.export_symbol(function)
    return library.link(_jit(), key)


@cache
def _sources() -> str:
    """A digest of the files that write LLVM's text, :data:`WRITERS` and the rules of operations."""
    package, found = __name__.partition(".")[0], hashlib.sha256()
    for file in [*(f"kernels/{name}.py" for name in WRITERS), "primitives/elementwise.py"]:
        with contextlib.suppress(OSError):  # there may be no source files
            found.update(pkgutil.get_data(package, file) or b"")  # also from an archive
    return found.hexdigest()


WRITERS = (
    "llvm/matrices", "llvm/operations", "llvm/row_powers", "llvm/time_loops", "llvm/vectors", "operators",
    "powers", "program",
)  # fmt: skip
"""The files of ``kernels`` that LLVM's text depends on."""


@cache
def _features() -> str:
    return str(llvm.get_host_cpu_features().flatten())


@cache
def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    return target.create_target_machine(
        llvm.get_host_cpu_name(), _features(), opt=LEVEL, reloc="pic", jit=True
    )


@cache
def _jit() -> Any:
    return llvm.create_lljit_compiler(_machine(), suppress_errors=True)


def _compiled(text: str) -> bytes:
    machine = _machine()
    options = llvm.create_pipeline_tuning_options(LEVEL)
    for name in OFF:
        setattr(options, name, False)
    builder = llvm.create_pass_builder(machine, options)
    with llvm.parse_assembly(
        text
    ) as module:  # if __del__ freed it, an interrupt would be swallowed
        builder.getModulePassManager().run(module, builder)
        return bytes(machine.emit_object(module))


def _say(what: str) -> None:
    # without a terminal there may be no stderr, or one that is closed
    with contextlib.suppress(OSError):
        print(f"tinygrad182: {what}", file=sys.stderr or io.StringIO(), flush=True)
