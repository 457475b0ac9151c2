"""The strategies draw what they promise, and often enough: the shares are measured."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array
from tinygrad182.testing import strategies as ts

SHAPES: list[tuple[int, ...]] = [(), (1,), (5,), (2, 0), (3, 4), (2, 3, 4)]


def drawn(strategy: st.SearchStrategy[Any], n: int = 100) -> list[Any]:
    """Examples as in a test, beside another draw, so that they may repeat."""
    found = []

    @settings(max_examples=n, database=None, derandomize=True)
    @given(strategy, ts.SEEDS)
    def collect(example: Any, seed: int) -> None:
        found.append(example)

    collect()
    return found


def share(examples: list[Any], condition: Callable[[Any], bool]) -> float:
    return sum(map(condition, examples)) / len(examples)


def failure(strategy: st.SearchStrategy[Any], condition: Callable[[Any], bool]) -> str:
    """The output of hypothesis for a test that fails if ``condition`` is true."""

    @settings(max_examples=50, database=None, derandomize=True)
    @given(example=strategy)
    def test(example: Any) -> None:
        assert not condition(example)

    with pytest.raises(AssertionError) as caught:
        test()
    return "\n".join(caught.value.__notes__)


# --- shapes -------------------------------------------------------------------------------------


def test_shapes() -> None:
    found = drawn(ts.shapes(), 200)
    for ndim in range(4):
        assert share([len(s) for s in found], ndim.__eq__) >= 0.1
    assert 0.08 <= share(found, lambda s: 0 in s) <= 0.3
    assert {n for s in found for n in s} == {0, 1, 2, 3}
    bounded = drawn(ts.shapes(2, 4, 3, 5, empty=False))
    assert {len(s) for s in bounded} == {2, 3, 4}
    assert {n for s in bounded for n in s} == {3, 4, 5}
    assert share(drawn(ts.shapes(1, 1, 1, 1000)), lambda s: s == (0,)) >= 0.05


@pytest.mark.parametrize("n", [2, 3])
def test_every_pattern_of_broadcasting_is_drawn(n: int) -> None:
    found = drawn(ts.broadcastable_shapes(n), 300)
    counts = Counter(name for s in found for name in s.patterns)
    assert min(counts[name] for name in ts.PATTERNS) >= 10, counts
    assert share(found, lambda s: s.result_shape not in s.input_shapes) >= 0.1
    assert share(found, lambda s: len(set(map(len, s.input_shapes))) > 1) >= 0.25
    assert share(found, lambda s: 0 in s.result_shape) >= 0.08
    assert share(found, lambda s: 0 not in s.result_shape) >= 0.5
    for s in found:
        assert len(s.patterns) == len(s.input_shapes) == n
        assert s.result_shape == np.broadcast_shapes(*s.input_shapes)


def test_patterns_are_parts_of_the_whole() -> None:
    kept = {name: pattern((2, 3, 4)) for name, pattern in ts.PATTERNS.items()}
    assert len(set(kept.values())) == len(kept)  # all are different
    for name, pattern in ts.PATTERNS.items():
        for whole in SHAPES:
            part = pattern(whole)
            if name != "one element":  # it has an axis even if the whole shape is 0-d
                assert np.broadcast_shapes(part, whole) == whole
    for s in drawn(ts.broadcastable_shapes(2, whole=(2, 3, 4)), 20):
        assert all(kept[p] == shape for p, shape in zip(s.patterns, s.input_shapes, strict=True))


def test_a_failure_names_the_patterns() -> None:
    printed = failure(ts.broadcastable_shapes(2), lambda s: s.input_shapes[0] == ())
    assert "patterns=('0-d', 'whole'), input_shapes=((), (1, 1))" in printed


# --- domains ------------------------------------------------------------------------------------

DOMAINS: list[tuple[ts.Domain, Callable[[Array], Any]]] = [
    (ts.real, lambda x: np.abs(x) < 10),
    (ts.positive, lambda x: (x >= 0.3) & (x <= 2.5)),
    (ts.nonzero, lambda x: (np.abs(x) >= 0.3) & (np.abs(x) <= 2.5)),
    (ts.mask, lambda x: x.dtype == bool),
    (ts.between(-0.7, 2.0), lambda x: (x >= -0.7) & (x <= 2.0)),
    (ts.away_from(0.0), lambda x: np.abs(x) >= 0.1),
    (ts.away_from(-1.0, 1.0, distance=0.5), lambda x: np.abs(np.abs(x) - 1) >= 0.5),
    (ts.away_from(*range(-9, 10), distance=0.6), lambda x: np.abs(x) >= 9.6),
    (ts.apart(0.25), lambda x: np.diff(np.sort(x, axis=None)) >= 0.25 - 1e-12),
    (ts.log_uniform(), lambda x: (np.abs(x) >= 0.99e-30) & (np.abs(x) <= 1.01e30)),
]


@pytest.mark.parametrize(("domain", "holds"), DOMAINS, ids=[d.__name__ for d, _ in DOMAINS])
def test_values_keep_their_promise(domain: ts.Domain, holds: Callable[[Array], Any]) -> None:
    for shape in (*SHAPES, (40, 50)):
        for seed in range(5):
            x = ts.sample(shape, domain, seed=seed)
            assert x.shape == shape
            assert np.all(holds(x))
    x = ts.sample((40, 50), domain)
    assert not np.array_equal(x, ts.sample((40, 50), domain, seed=1))
    if domain is not ts.positive:  # both signs, both truth values
        assert 0.2 < np.mean(x > 0) < 0.8 or domain.__name__ == "between(-0.7, 2.0)"


def test_every_decade_is_as_likely() -> None:
    sizes = np.log10(np.abs(ts.sample((6000,), ts.log_uniform(1e-30, 1e30))))
    counts, _ = np.histogram(sizes, bins=6, range=(-30, 30))
    assert counts.min() > 850


# --- layouts ------------------------------------------------------------------------------------

IS: dict[str, Callable[[Array], bool]] = {
    "contiguous": lambda x: x.flags.c_contiguous and x.flags.writeable and x.flags.aligned,
    "fortran": lambda x: x.flags.f_contiguous and not x.flags.c_contiguous,
    "reversed": lambda x: max(x.strides) < 0,
    "strided": lambda x: not x.flags.c_contiguous and x.strides[-1] == 2 * x.itemsize,
    "read-only": lambda x: not x.flags.writeable,
    "unaligned": lambda x: not x.flags.aligned,
    "broadcast": lambda x: x.strides == (0, 0, 0),
}


@pytest.mark.parametrize("layout", ts.LAYOUTS)
def test_a_layout_changes_memory_and_nothing_else(layout: str) -> None:
    for dtype in drawn(ts.dtypes(integers=True, booleans=True), 20):
        for shape in SHAPES:
            x = ts.sample(shape, dtype=dtype)
            y = ts.laid_out(x, layout)
            assert (y.dtype, y.shape) == (x.dtype, x.shape)
            np.testing.assert_array_equal(y, x)
            assert not np.shares_memory(x, y)
    assert IS[layout](ts.laid_out(np.ones((2, 3, 4)), layout))


def test_stride_0_where_values_repeat() -> None:
    x = np.broadcast_to(np.arange(3.0)[:, None], (2, 3, 4)).copy()
    assert ts.laid_out(x, "broadcast").strides == (0, 8, 0)
    assert ts.sample((4, 3), layout="broadcast").strides == (0, 8)
    with pytest.raises(tg.ArgumentError, match=r"^laid_out: layout 'C'.*contiguous"):
        ts.laid_out(x, "C")


def test_every_layout_is_drawn() -> None:
    counts = Counter(drawn(ts.layouts(broadcast=True)))
    assert min(counts[name] for name in ts.LAYOUTS) >= 5
    assert "broadcast" not in drawn(ts.layouts())
    found = drawn(ts.arrays(ts.shapes(2, 3, 2, 3, empty=False)))
    for name in ts.LAYOUTS:
        assert (share(found, IS[name]) >= 0.04) == (name != "broadcast"), name
    pairs = drawn(ts.broadcastable_arrays(ts.real, ts.real, whole=(2, 3)))
    assert share(pairs, lambda xs: not all(x.flags.c_contiguous for x in xs)) >= 0.3


# --- arrays and tensors -------------------------------------------------------------------------


def test_dtypes() -> None:
    assert {d.name for d in drawn(ts.dtypes())} == {"float64", "float32"}
    for dtype in drawn(ts.dtypes()):
        tg.tensor(np.ones(2, dtype), requires_grad=True)
    every = Counter(d.name for d in drawn(ts.dtypes(integers=True, booleans=True)))
    assert set(every) == {"float64", "float32", "int64", "int32", "bool"}
    assert ts.sample((9,), dtype="bool").tolist() == (ts.sample((9,)) > 0).tolist()
    assert ts.sample((9,), dtype="int32").tolist() == np.rint(ts.sample((9,))).tolist()


def test_a_failure_prints_the_call_that_makes_the_array_again() -> None:
    found: list[Array] = []

    def fails(x: Array) -> bool:
        if x.ndim == 2 and not x.flags.c_contiguous and abs(x).max() > 1.0:
            found.append(x)
            return True
        return False

    strategy = ts.arrays(domain=ts.between(-2.0, 2.0), dtype=ts.dtypes())
    calls = [line for line in failure(strategy, fails).splitlines() if line.startswith("sample(")]
    (again,) = (eval(call, vars(ts)) for call in calls)
    np.testing.assert_array_equal(again, found[-1])
    assert (again.dtype, again.strides) == (found[-1].dtype, found[-1].strides)

    printed = failure(ts.broadcastable_arrays(ts.real, ts.nonzero), lambda xs: xs[1].ndim == 0)
    assert printed.startswith("broadcast patterns: whole, 0-d\nsample((1, 1), real, ")


def test_operands_never_tie() -> None:
    for a, b in drawn(ts.broadcastable_arrays(ts.real, ts.real)):
        assert not np.any(a == b)


def test_tensors_hold_the_layout_and_require_grad() -> None:
    found = drawn(ts.tensors(ts.shapes(2, 2, 2, 2, empty=False), layout="fortran"), 10)
    assert all(x.requires_grad for x in found)
    if found[0].device == "cpu":
        assert all(not x.numpy().flags.c_contiguous for x in found)
    (x,) = drawn(ts.tensors((3,), dtype="int64", seed=1), 1)
    assert not x.requires_grad
    assert x.device == tg.zeros(1).device


# --- index expressions --------------------------------------------------------------------------


def _kinds(key: Any) -> set[str]:
    names = set()
    for entry in key if isinstance(key, tuple) else (key,):
        if isinstance(entry, np.ndarray):
            names.add("mask" if entry.dtype == bool else "array")
        elif isinstance(entry, slice):
            names.add("negative step" if (entry.step or 1) < 0 else "slice")
        else:
            names.add({int: "integer", type(None): "newaxis"}.get(type(entry), "ellipsis"))
    return names


def test_every_kind_of_index_is_drawn() -> None:
    found = drawn(ts.index_expressions((2, 3, 4)), 300)
    for kind in (*ts.KINDS, "negative step"):
        assert np.mean([kind in _kinds(key) for key in found]) >= 0.03, kind
    assert share(found, lambda key: len(_kinds(key)) >= 3) >= 0.15
    assert share(found, lambda key: {"array", "mask"} <= _kinds(key)) >= 0.01
    assert share(found, lambda key: not isinstance(key, tuple)) >= 0.02
    assert share(found, lambda key: np.zeros((2, 3, 4))[key].size > 0) >= 0.5
    masks = [k for key in found if isinstance(key, tuple) for k in key if _kinds(k) == {"mask"}]
    assert {k.ndim for k in masks} == {1, 2, 3}
    assert {bool(k.all()) for k in masks} == {bool(k.any()) for k in masks} == {True, False}


@pytest.mark.parametrize("shape", [*SHAPES, (0,), (2, 3, 1, 2)], ids=str)
def test_numpy_takes_every_key(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape)
    for key in drawn(ts.index_expressions(shape)):
        x[key]
    for kind in ts.KINDS:
        for key in drawn(ts.index_expressions(shape, kinds=[kind]), 10):
            x[key]
            wanted = {kind, "slice", "negative step"} if kind == "slice" or 0 in shape else {kind}
            assert _kinds(key) <= wanted


@pytest.mark.parametrize("shape", [s for s in SHAPES if s], ids=str)
def test_numpy_refuses_every_key_out_of_range(shape: tuple[int, ...]) -> None:
    for key in drawn(ts.index_expressions(shape, out_of_range=True)):
        with pytest.raises(IndexError, match="out of bounds"):
            np.zeros(shape)[key]


def test_wrong_calls() -> None:
    with pytest.raises(tg.ArgumentError, match=r"\{'int'\} are not among the kinds"):
        drawn(ts.index_expressions((2,), kinds=["int"]))
    with pytest.raises(tg.ArgumentError, match=r"shape \(\) has no axis"):
        drawn(ts.index_expressions((), out_of_range=True))
    with pytest.raises(tg.ArgumentError, match=r"as in \['slice'\]"):
        drawn(ts.index_expressions((2,), kinds="slice"))
    with pytest.raises(tg.ArgumentError, match=r"^index_expressions: shape \(-1, 2\)"):
        drawn(ts.index_expressions((-1, 2)))


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: ts.between(2, 1), r"^between: bounds 2 and 1 must .* smaller one first"),
    (lambda: ts.between(0, np.inf), r"^between: .* finite"),
    (lambda: ts.away_from(np.nan), r"^away_from: kinks \(nan,\)"),
    (lambda: ts.away_from(0.0, distance=-1.0), r"^away_from: .* distance -1\.0"),
    (lambda: ts.apart(0.0), r"^apart: distance 0\.0; it must be positive"),
    (lambda: ts.log_uniform(0, 1), r"^log_uniform: sizes 0 and 1 must be positive"),
    (lambda: ts.log_uniform(2, 1), r"^log_uniform: .* smaller one first"),
    (lambda: ts.sample(-1), r"^sample: shape -1 must hold whole numbers from 0"),
    (lambda: ts.sample((2.5,)), r"^sample: shape \(2\.5,\) must be a whole number"),
    (lambda: ts.sample((2,), "real"), r"^sample: domain 'real' .* strategies\.real"),  # type: ignore[arg-type]
    (lambda: ts.sample((2,), lambda rng, shape: np.ones(3)), r"returned shape \(3,\) .* \(2,\)"),
    (lambda: ts.sample((2,), dtype="foo"), r"^sample: dtype 'foo' .* 'float32'"),
    (lambda: ts.sample((2,), dtype="U3"), r"^sample: dtype 'U3'"),
    (lambda: ts.sample((2,), layout="C"), r"^laid_out: layout 'C' must be one of contiguous"),
    (lambda: ts.sample((2,), seed=-1), r"^sample: seed -1; pass an integer that is not negative"),
    (lambda: ts.sample((2,), seed="a"), r"^sample: seed 'a'"),  # type: ignore[arg-type]
]
WRONG_STRATEGIES: list[tuple[st.SearchStrategy[Any], str]] = [
    (ts.shapes(3, 2), r"^shapes: min_dims=3 and max_dims=2 must be whole numbers of at least 0"),
    (ts.shapes(-1, 2), r"^shapes: min_dims=-1"),
    (ts.shapes(1.5, 2), r"^shapes: min_dims=1\.5"),  # type: ignore[arg-type]
    (
        ts.shapes(1, 2, 0, 3),
        r"^shapes: min_side=0 and max_side=3 must be whole numbers of at least 1",
    ),
    (ts.shapes(1, 2, 3, 2), r"^shapes: min_side=3"),
    (ts.broadcastable_shapes(0), r"^broadcastable_shapes: 0 operands"),
    (ts.broadcastable_shapes(2, whole=(2, -1)), r"^broadcastable_shapes: whole \(2, -1\)"),
    (ts.broadcastable_arrays(), r"^broadcastable_arrays: pass a domain"),
    (ts.arrays((2,), domain="real"), r"^sample: domain 'real'"),  # type: ignore[arg-type]
    (ts.arrays((2,), dtype="foo"), r"^sample: dtype 'foo'"),
    (ts.arrays((2,), layout="C"), r"^laid_out: layout 'C'"),
    (ts.arrays((-2,)), r"^sample: shape \(-2,\)"),
    (ts.tensors((2,), dtype="foo"), r"^sample: dtype 'foo'"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_arguments_out_of_their_range_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(tg.ArgumentError, match=message):
        call()


@pytest.mark.parametrize(("strategy", "message"), WRONG_STRATEGIES)
def test_strategies_name_arguments_out_of_range(
    strategy: st.SearchStrategy[Any], message: str
) -> None:
    with pytest.raises(tg.ArgumentError, match=message):
        drawn(strategy, 1)


@pytest.mark.parametrize("module", ["strategies", "strategies.index_keys"])
def test_without_hypothesis_the_command_is_named(module: str) -> None:
    """The import runs in a new process, since imported modules stay imported."""
    program = f"""
        import sys
        sys.modules["hypothesis"] = None
        import tinygrad182 as tg, tinygrad182.testing
        for use in (lambda: __import__("tinygrad182.testing.{module}"), lambda: tg.testing.strategies):
            try:
                use()
            except tg.MissingDependencyError as error:
                print(error)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    line = "tinygrad182.testing.strategies needs hypothesis: pip install hypothesis"
    assert ran.stdout.splitlines() == [line, line]


# --- shrinking ----------------------------------------------------------------------------------


def test_failing_examples_are_small() -> None:
    few = settings(max_examples=200, database=None)
    assert find(ts.shapes(), lambda s: 3 in s, settings=few) == (3,)
    x = find(ts.arrays(), lambda x: x.size > 1, settings=few)
    assert x.shape == (2,)
    assert x.flags.c_contiguous
    key = find(ts.index_expressions((2, 3, 4)), lambda key: "mask" in _kinds(key), settings=few)
    assert len(key) <= 2
    printed = failure(ts.broadcastable_shapes(2), lambda s: True)
    assert "patterns=('whole', 'whole'), input_shapes=((1, 1), (1, 1))" in printed
