"""The compiled loops, NumPy's and the definition give the same states and gradients."""

from __future__ import annotations

import importlib.abc
import re
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import assert_close, assert_same_bits
from tests.tinygrad182.kernels.cases import KINDS, TOLERANCE, loops, make
from tinygrad182 import kernels
from tinygrad182.backend import NUMPY
from tinygrad182.kernels import arrays, half
from tinygrad182.kernels.cells import LongShortTerm
from tinygrad182.kernels.powers import held
from tinygrad182.primitives.recurrent import RNN_SCAN, run

UNITS = st.one_of(st.integers(1, 19), st.sampled_from([32, 64, 70]))
"""Some fill registers or groups of them, some leave a rest."""

NAMES = ("x", "h_0", "c_0", "weight_ih", "weight_hh", "bias")


def needs_numba() -> tuple[Any, Any]:
    """The modules with the compiled loops; the test is skipped where Numba is not installed."""
    pytest.importorskip("numba")
    from tinygrad182.kernels import compiled, rows

    return compiled, rows


@pytest.mark.parametrize("form", ["compiled", "NumPy"])
@given(
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 18), UNITS),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
    lead=st.sampled_from([(), (1,), (3,), (2, 2)]),
    bias=st.booleans(),
    lengths=st.booleans(),
    window=st.integers(1, 8),
)
def test_loops_equal_the_definition(
    form: str, kind: str, dtype: str, window: int, **options: Any
) -> None:
    if form == "compiled":
        needs_numba()
    case = make(kind, dtype=dtype, **options)
    states, *expected = case.defined()
    with loops(form, steps=window):
        assert_close(case.states(), states, TOLERANCE[dtype], "states")
        found = case.gradients()
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.dtype == dtype
        assert_close(a, b, 10 * TOLERANCE[dtype], f"gradient {i}", floor=1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [False, True])
def test_every_state_has_its_whole_gradient(kind: str, lengths: bool) -> None:
    """∂L/∂s_t from what is inside = what a step's own product and gates pass on, by differences in g."""
    needs_numba()
    case = make(kind, (6, 3, 2, 5), "float64", lead=(2,), lengths=lengths)
    with loops("NumPy"):
        expected = case.inside()
    with loops("compiled"):
        found = case.inside()
    for name in ("sums", "initial", "states"):
        assert_close(getattr(found, name), getattr(expected, name), 1e-13, name)
    for name in ("powers", "initial_powers"):  # none has changed
        assert getattr(found, name) == getattr(expected, name) == -held("float64").middle
    last = np.ldexp(found.states[..., -1, :, :], found.powers)
    g = case.g if kind == "lstm" else case.g[:, None]
    own = np.moveaxis(g, 1, 0)[..., -1, :, :]
    assert_close(last[0], own[0], 1e-15, "the last state gets its own cotangent alone")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gates_are_accurate_on_both_tails(dtype: str) -> None:
    compiled, _ = needs_numba()
    eps = np.finfo(dtype).eps
    sizes = np.concatenate([np.logspace(-30, 0, 1500), np.linspace(1, 86, 3500)])
    line = np.concatenate([-sizes[::-1], sizes]).astype(dtype).reshape(-1, 20)
    B, n = line.shape
    x, z = np.tile(line, 4)[None], np.empty((1, B, 4 * n), dtype)
    states, before = np.empty((2, 1, B, n), dtype), np.zeros((B, n), dtype)
    weights = (np.eye(4 * n, dtype=dtype), np.zeros((4 * n, n), dtype), None)
    compiled.forward(LongShortTerm(np), x, [before, before], weights, z, states, arrays.ALL)
    wide = line.astype(np.longdouble)
    sigmoid, tanh = 1 / (1 + np.exp(-wide)), np.tanh(wide)
    i, _, g, _ = (z[0, :, k * n : (k + 1) * n] for k in range(4))
    assert (np.abs(i - sigmoid) / sigmoid).max() < 2 * eps
    assert (np.abs(g - tanh) / np.abs(tanh)).max() < 2 * eps
    c = (sigmoid * tanh).astype(np.longdouble)
    assert (np.abs(states[1, 0] - c) / np.abs(c)).max() < 6 * eps


@pytest.mark.parametrize("form", ["compiled", "NumPy"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_goes_the_way_of_the_definition(
    form: str, kind: str, value: float
) -> None:
    if form == "compiled":
        needs_numba()
    clean = make(kind, (5, 3, 2, 4), "float64")
    broken = make(kind, (5, 3, 2, 4), "float64")
    broken.inputs[0][2, 1, 0] = value
    with np.errstate(all="ignore"):
        states = broken.defined()[0]
    with np.errstate(all="ignore"), loops(form):
        found, other = broken.states(), clean.states()
        found_back, other_back = broken.gradients()[0], clean.gradients()[0]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(states))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(states))
    assert_same_bits(found[..., [0, 2], :], other[..., [0, 2], :], "companions in the batch")
    assert_same_bits(found_back[:, [0, 2]], other_back[:, [0, 2]], "their gradients")


@pytest.mark.parametrize("form", ["compiled", "NumPy"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_cotangent_that_is_not_finite_arrives(form: str, value: float) -> None:
    if form == "compiled":
        needs_numba()
    case = make("tanh", (4, 2, 2, 3), "float64")
    case.g[3, 1, 0] = value
    with np.errstate(all="ignore"), loops(form):
        by_x, by_h, *_ = case.gradients()
    assert not np.isfinite(by_x[0, 1]).any()
    assert not np.isfinite(by_h[1]).any()
    assert np.isfinite(by_x[:, 0]).all()


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "tanh"])
def test_any_layout_is_taken_without_compiling_again(kind: str, contiguous: bool) -> None:
    _, rows = needs_numba()
    case = make(kind, (4, 3, 2, 5), "float64", lengths=True)
    with loops("compiled"):
        expected = case.gradients()
        before = len(rows.forward.overloads), len(rows.backward.overloads)
        for i, x in enumerate(case.inputs):
            wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
            wide[..., ::2] = x
            case.inputs[i] = wide[..., ::2].copy() if contiguous else wide[..., ::2]
            case.inputs[i].flags.writeable = False
        case.g = case.g.copy() if contiguous else np.asfortranarray(case.g)
        case.g.flags.writeable = False
        for a, b in zip(case.gradients(), expected, strict=True):
            assert_close(a, b, 1e-14)
        assert (len(rows.forward.overloads), len(rows.backward.overloads)) == before


def test_a_broadcast_cotangent() -> None:
    """The gradient of a sum is one number, repeated."""
    needs_numba()
    case = make("lstm", (4, 3, 2, 5), "float64")
    case.g = np.broadcast_to(np.float64(0.5), case.g.shape)
    expected = case.defined()[1:]
    with loops("compiled"):
        for a, b in zip(case.gradients(), expected, strict=True):
            assert_close(a, b, 1e-13)


# --- threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lstm", "relu"])
def test_split_over_threads_to_the_same_bits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, _ = needs_numba()
    case = make(kind, (9, 7, 2, 5), lead=(2,), lengths=True)
    calls = []
    with loops("compiled"):
        expected = [case.states(), *case.gradients()]
        monkeypatch.setattr(compiled, "EACH", 1)
        monkeypatch.setattr(compiled.numba, "get_num_threads", lambda: 3)
        submit = ThreadPoolExecutor.submit
        monkeypatch.setattr(ThreadPoolExecutor, "submit", lambda *a: calls.append(a) or submit(*a))
        found = [case.states(), *case.gradients()]
    assert len(calls) == 6  # forward, forward and backward, each on two threads besides this one
    for a, b in zip(found, expected, strict=True):
        assert_same_bits(a, b)


def test_from_many_threads_at_once() -> None:
    needs_numba()
    cases = [make("lstm", (30, 2, 3, 8), seed=i) for i in range(8)]
    with loops("compiled"):
        expected = [case.gradients() for case in cases]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                found = list(pool.map(lambda case: case.gradients(), cases))
                for some, others in zip(found, expected, strict=True):
                    for a, b in zip(some, others, strict=True):
                        assert_same_bits(a, b)


# --- the choice -----------------------------------------------------------------------------------


@pytest.fixture
def _chosen_anew() -> Any:
    kernels._BUILT.clear()
    yield
    kernels._BUILT.clear()


def test_compiled_where_numba_is_installed() -> None:
    compiled, _ = needs_numba()
    assert kernels.loops(np, np.dtype("float32")) is compiled
    assert kernels.loops(np, np.dtype("float64")) is compiled
    assert kernels.loops(np, np.dtype("complex128")) is arrays
    assert kernels.loops(np, np.dtype("float16")) is half
    assert kernels.loops(object(), np.dtype("float32")) is arrays


@pytest.mark.usefixtures("_chosen_anew")
def test_never_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numba", "tinygrad182.kernels.compiled", "tinygrad182.kernels.rows"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(kernels, "compiled", raising=False)
    assert kernels.loops(np, np.dtype("float32")) is arrays
    lstm = tg.nn.LSTM(2, 3, rng=0)
    output, _ = lstm(tg.ones((4, 2, 2)))
    output.sum().backward()
    assert lstm.weight_hh_l0.grad is not None


class Broken(importlib.abc.MetaPathFinder):
    """Numba is there, and fails while it is imported."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "numba":
            raise self.error


@pytest.mark.usefixtures("_chosen_anew")
@pytest.mark.parametrize(
    "error", [RuntimeError, AttributeError, ImportError, ValueError, OSError, SystemExit]
)
def test_a_numba_that_cannot_be_imported(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, which names the cause, and NumPy's loops from the first call on."""
    monkeypatch.setattr(sys, "meta_path", [Broken(error("threads must be > 0")), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    with pytest.warns(RuntimeWarning, match="does not work.*threads must be > 0") as warned:
        found = [kernels.loops(np, np.dtype(name)) for name in ("float32", "float64", "float32")]
    assert found == [arrays] * 3
    assert len(warned) == 1


@pytest.mark.usefixtures("_chosen_anew")
@pytest.mark.parametrize("there", [{}, {"config": None}, {"config": types.SimpleNamespace()}])
def test_a_numba_that_lacks_what_is_asked_of_it(
    there: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a folder of that name, or an installation of which a part is missing."""
    numba = types.ModuleType("numba")
    vars(numba).update(there)
    monkeypatch.setitem(sys.modules, "numba", numba)
    for name in ("compiled", "rows"):
        monkeypatch.delitem(sys.modules, f"tinygrad182.kernels.{name}", raising=False)
        monkeypatch.delattr(kernels, name, raising=False)
    with pytest.warns(RuntimeWarning, match="Numba does not work") as warned:
        found = [kernels.loops(np, np.dtype(name)) for name in ("float32", "float64", "float32")]
    assert found == [arrays] * 3
    assert len(warned) == 1


@pytest.mark.usefixtures("_chosen_anew")
@pytest.mark.parametrize("error", [EOFError, SystemExit])
@pytest.mark.parametrize("folder", ["", "/somewhere/else"])
def test_loops_that_cannot_be_compiled(
    folder: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the folder where files that are damaged would be."""
    compiled, _ = needs_numba()

    def ready(dtype: Any) -> None:
        raise error("Ran out of input")

    monkeypatch.setattr(compiled, "ready", ready)
    monkeypatch.setattr(compiled.numba.config, "CACHE_DIR", folder)
    named = re.escape(folder or f"{kernels.__path__[0]}/__pycache__")
    with pytest.warns(RuntimeWarning, match=rf"Ran out of input.*in {named}$") as warned:
        found = [kernels.loops(np, np.dtype("float64")) for _ in range(2)]
    assert found == [arrays] * 2
    assert len(warned) == 1


@pytest.mark.usefixtures("_chosen_anew")
def test_threads_that_come_while_the_loops_are_built_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, _ = needs_numba()
    built = []

    def ready(dtype: Any) -> None:
        built.append(dtype)
        time.sleep(0.05)

    monkeypatch.setattr(compiled, "ready", ready)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: kernels.loops(np, np.dtype("float32")), range(4)))
    assert found == [compiled] * 4
    assert len(built) == 1


@pytest.mark.usefixtures("_chosen_anew")
def test_an_interrupt_while_the_loops_are_built_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled, _ = needs_numba()

    def ready(dtype: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compiled, "ready", ready)
        with pytest.raises(KeyboardInterrupt):
            kernels.loops(np, np.dtype("float32"))
    assert kernels.loops(np, np.dtype("float32")) is compiled


@pytest.mark.usefixtures("_chosen_anew")
def test_a_child_made_while_the_loops_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent's thread is not in it, so it neither waits for it nor builds."""
    monkeypatch.setattr(kernels, "_BUILDING", kernels._BUILDING)  # to be put back
    kernels._BUILDING.acquire()
    try:
        held = kernels._BUILDING
        kernels._in_child()
        assert kernels.loops(np, np.dtype("float32")) is arrays
    finally:
        held.release()


def test_a_folder_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba then refuses to cache; the loops are compiled in every process."""
    _, rows = needs_numba()
    njit = rows.njit

    def refusing(function: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(function, **options)

    monkeypatch.setattr(rows, "njit", refusing)
    assert rows.kept(lambda x: x + 1)(1) == 2


@pytest.mark.usefixtures("_chosen_anew")
def test_what_cannot_be_compiled_is_run_by_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a later Numba or LLVM refuses."""
    _, rows = needs_numba()

    def refusing(*operands: Any) -> None:
        raise NotImplementedError("no such instruction")

    monkeypatch.setattr(rows, "backward", refusing)
    with pytest.warns(RuntimeWarning, match="NumPy runs them.*no such instruction"):
        assert kernels.loops(np, np.dtype("float32")) is arrays
    assert kernels.loops(np, np.dtype("float32")) is arrays  # said once


def test_compiling_is_said_before_it_begins_and_loading_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled, rows = needs_numba()
    numba = pytest.importorskip("numba")
    said: list[str] = []

    class Passes(compiled.event.Listener):  # type: ignore[misc,name-defined]
        def on_start(self, event: Any) -> None:
            said.append(capsys.readouterr().err)

        def on_end(self, event: Any) -> None:
            pass

    for name in ("forward", "backward"):
        monkeypatch.setattr(rows, name, numba.njit(lambda *given: 0))
    with compiled.event.install_listener("numba:run_pass", Passes()):
        compiled.ready(np.dtype("float32"))
    assert "compiling the loops of recurrent layers for float32" in said[0]
    assert not any(said[1:])
    assert "compiled in" in capsys.readouterr().err
    compiled.ready(np.dtype("float32"))  # now they are there
    numba.njit(lambda: 0)()  # not ours
    assert capsys.readouterr().err == ""


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["compiled", "NumPy"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lead", [(), (2,), (0,)])
def test_a_batch_of_none(form: str, kind: str, lead: tuple[int, ...]) -> None:
    if form == "compiled":
        needs_numba()
    for batch in (0, 2) if lead == (0,) else (0,):
        case = make(kind, (3, batch, 2, 5), lead=lead)
        with loops(form):
            assert case.states().shape[-2:] == (batch, 5)
            for found, x in zip(case.gradients(), case.inputs, strict=True):
                assert found.shape == (*lead, *x.shape)
                assert not found.any()


@pytest.mark.parametrize("form", ["compiled", "NumPy"])
@pytest.mark.parametrize("kind", ["lstm", "tanh"])
def test_shapes_that_do_not_belong_together(form: str, kind: str) -> None:
    """Compiled loops would read past the end of an array."""
    if form == "compiled":
        needs_numba()
    case = make(kind, (3, 2, 4, 5), lengths=True)
    with loops(form):
        case.states()
        for i, x in enumerate(case.inputs):
            for wrong in (x[:-1], x[..., :-1], x[None], 1.5):
                if i == 0 and np.shape(wrong)[1:] == x.shape[1:]:
                    continue  # one step less
                operands = [*case.inputs[:i], wrong, *case.inputs[i + 1 :]]
                with pytest.raises(ValueError, match="has shape"):
                    run(case.scan, NUMPY, *operands, **case.params)
                given = [tg.tensor(a) if np.ndim(a) else a for a in operands]
                with pytest.raises(tg.errors.ShapeError):
                    tg.apply(case.scan, *given, **case.params)
        for operands, what in (
            ([case.inputs[0][:0], *case.inputs[1:]], "no steps"),
            ([*case.inputs[:-1], case.inputs[-1] * 1.0], "whole numbers"),
        ):
            with pytest.raises(ValueError, match=what):
                run(case.scan, NUMPY, *operands, **case.params)


def test_an_unknown_nonlinearity() -> None:
    with pytest.raises(ValueError, match="sinus"):
        run(RNN_SCAN, NUMPY, *make("tanh", (3, 2, 4, 5)).inputs, nonlinearity="sinus")
