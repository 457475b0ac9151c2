"""What mutants of the engine came through before these tests: corners that nothing else looks at."""

from __future__ import annotations

import string
from typing import Any

import array_api_strict
import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, assert_close, const, host, host_only, leaf, write
from tinygrad182.arrays import backend
from tinygrad182.engine import backpropagation
from tinygrad182.engine.backpropagation import Cotangents, ancestors, backpropagate
from tinygrad182.engine.modes import at_time
from tinygrad182.primitives.index import ARRAY
from tinygrad182.transforms import derivatives, recomputing

H = 1e-20


# --- the complex step where the definition has a kink -------------------------------------------


@pytest.mark.parametrize(
    ("f", "x", "expected"),
    [
        (tg.sigmoid, H * 1j, 0.5 + 0.25j * H),
        (tg.relu, H * 1j, 0.0),
        (tg.relu, -1 + H * 1j, 0.0),
        (tg.relu, 1 + H * 1j, 1 + H * 1j),
        (tg.abs, -1 + H * 1j, 1 - H * 1j),
        (tg.abs, H * 1j, H * 1j),
        (lambda x: tg.maximum(x, 1.0), 1 - H * 1j, 1 - H * 1j),
        (lambda x: tg.minimum(x, 1.0), 1 + H * 1j, 1 + H * 1j),
        (lambda x: tg.maximum(1.0, x), 1 + H * 1j, 1.0),
        (lambda x: x**3, -2 + H * 1j, -8 + 12j * H),
        (lambda x: x**2, -2 + H * 1j, 4 - 4j * H),
        (lambda x: 2.0**x, 3 + H * 1j, 8 + 8j * np.log(2) * H),
        (lambda x: x**0.5, -4 + 1j, (-4 + 1j) ** 0.5),
        (tg.log1p, 0.5 + 2j, np.log(1.5 + 2j)),
        (tg.log1p, H + H * 1j, H + H * 1j),
    ],
)
def test_values_at_complex_numbers(f: Any, x: complex, expected: complex) -> None:
    found = f(const([x])).numpy()
    np.testing.assert_allclose(found.real, [np.real(expected)], rtol=1e-15)
    np.testing.assert_allclose(found.imag, [np.imag(expected)], rtol=1e-15)


def test_the_size_of_negative_zero_is_positive() -> None:
    assert not np.signbit(tg.abs(const([-0.0])).numpy())


# --- what is copied -----------------------------------------------------------------------------


def _copies(monkeypatch: pytest.MonkeyPatch, y: tg.Tensor) -> int:
    made = []
    copy = backend.copy
    monkeypatch.setattr(backend, "copy", lambda x: made.append(x) or copy(x))
    y.backward(array(np.ones(y.shape)))
    monkeypatch.undo()
    return len(made)


def test_a_gradient_that_shares_memory_is_copied_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = leaf([1.0, 2.0])
    assert _copies(monkeypatch, x + 1) == 1  # the cotangent of the output itself
    assert _copies(monkeypatch, x * x) == 0  # a sum of two edges, in a buffer of its own
    x.grad = None
    assert _copies(monkeypatch, x * x) == 0
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 4.0]


def test_three_contributions_are_added_into_one_buffer() -> None:
    x = leaf([1.0, 2.0])
    assert x._node is not None
    sums = Cotangents()
    for g in ([1.0, 1.0], [2.0, 2.0], [4.0, 4.0]):
        sums.add(x._node, array(g))
        if g[0] == 2.0:
            assert sums.owns(x._node)
            buffer = sums._sums[x._node]
    assert sums.pop(x._node) is buffer
    assert buffer.tolist() == [7.0, 7.0]
    assert sums.pop(x._node) is None


# --- inputs without a derivative ----------------------------------------------------------------


def test_a_condition_that_requires_grad_gets_none() -> None:
    x = leaf([1.0, 0.0])
    tg.where(x, x * 2, 0.0).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 0.0]
    c = leaf([1.0, 0.0])
    assert tg.grad(tg.where(c, x, 0.0).sum(), c) == [None]


def test_the_mark_of_an_index_array_says_so() -> None:
    assert repr(ARRAY) == "ARRAY"


# --- einsum -------------------------------------------------------------------------------------


def test_a_letter_summed_in_one_operand_alone_may_be_any() -> None:
    x, y = leaf(np.arange(6.0).reshape(2, 3)), leaf([2.0, 3.0, 5.0])
    tg.einsum("Xi,i->i", x, y).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[2.0, 3.0, 5.0]] * 2


def test_einsum_carries_several_leading_axes() -> None:
    x = leaf(np.arange(6.0).reshape(2, 3))
    y = tg.einsum("ij,ij->i", x, x)
    assert x._node is not None
    assert y._node is not None
    g = np.arange(1.0, 25.0).reshape(3, 4, 2)
    found = backpropagate([(y._node, array(g))], {x._node})[x._node]
    assert_close(found, 2 * g[..., None] * x.numpy(), 1e-15)
    assert y._node.inputs is None  # freed, unless told otherwise


@pytest.mark.parametrize("letters", [string.ascii_lowercase, string.ascii_uppercase])
def test_new_letters_are_found_in_either_case(letters: str) -> None:
    x = leaf(np.full((1,) * 26, 3.0))
    jacobian = tg.jacobian(lambda x: tg.einsum(f"{letters},{letters}->", x, x), x)
    assert jacobian.item() == 6.0


# --- shapes and types ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 4, 1), (1, 4, 3), (5, 1, 3), (2, 1, 4, 1), (1, 1), (3,)])
def test_an_axis_of_one_is_summed_where_it_was_repeated_and_nowhere_else(
    shape: tuple[int, ...],
) -> None:
    x = leaf([[3.0]])
    c = np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)
    jacobian = tg.jacobian(lambda x: x * const(c), x)
    assert_close(jacobian, c.reshape(*np.broadcast_shapes(shape, (1, 1)), 1, 1), 0.0)
    (x * const(c)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[c.sum()]]


@pytest.mark.parametrize(("narrow", "wide"), [("float32", "float64"), ("float16", "float32")])
def test_a_tangent_has_the_type_its_value_was_promoted_to(narrow: str, wide: str) -> None:
    x, c = const(np.ones(2, narrow)), const(np.ones(2, wide))
    for f in (lambda x: x + c, lambda x: c - x):
        out, tangent = tg.jvp(f, x, np.ones(2))
        assert isinstance(out, tg.Tensor)
        assert isinstance(tangent, tg.Tensor)
        assert out.dtype == tangent.dtype == np.dtype(wide)


def test_a_cotangent_is_cast_down_before_it_is_used() -> None:
    x = leaf(np.ones(1, np.float32))
    g = leaf([2.0**24 + 1])  # float32 rounds it, and three times it, differently
    for given, recorded in ((g, True), (g, False), (g.numpy(), False)):
        (dx,) = tg.grad(x * 3, x, given, create_graph=recorded)
        assert dx is not None
        assert dx.dtype == tg.float32
        assert dx.item() == 3 * 2.0**24
    (dx,) = tg.grad(x * 3, x, g, create_graph=True)
    assert dx is not None
    assert tg.grad(dx.sum(), g)[0].tolist() == [3.0]  # type: ignore[union-attr]


def test_grad_frees_the_graph_unless_told_otherwise() -> None:
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    tg.grad(y, x, retain_graph=True)
    tg.grad(y, x)
    with pytest.raises(tg.FreedGraphError):
        tg.grad(y, x)


@host_only("NumPy has such classes")
def test_an_array_of_a_class_of_its_own_is_taken_for_its_numbers() -> None:
    class Own(np.ndarray):  # type: ignore[type-arg]
        pass

    x = leaf([1.0, 2.0])
    for own in (np.array([3.0, 4.0]).view(Own), np.ma.masked_array([3.0, 4.0])):
        assert (x * own).tolist() == [3.0, 8.0]


def test_a_view_of_a_raw_array_is_a_tensor() -> None:
    flipped = tg.apply(tg.PRIMITIVES["flip"], array([1.0, 2.0]), axis=(-1,))
    assert flipped.tolist() == [2.0, 1.0]


def test_a_constant_computed_from_another_has_a_life_of_its_own() -> None:
    x, c = leaf([1.0, 2.0]), const([3.0, 4.0])
    y = (x * (c + 1)).sum()
    c.assign(0.0)
    y.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    ("before", "after", "raises"),
    [(1.0, np.nan, True), (np.nan, 1.0, True), (np.nan, np.nan, False)],
)
def test_a_number_written_over_nan_is_a_change(before: float, after: float, raises: bool) -> None:
    x = leaf([before, 2.0])
    y = (x * x).sum()
    write(x, after, at=0)
    if raises:
        with pytest.raises(tg.InPlaceError):
            y.backward()
    else:
        y.backward()


def test_an_elementwise_primitive_may_have_parameters() -> None:
    scaled = tg.Primitive(
        "scaled",
        forward=lambda xp, x, *, by: x * by,
        vjp=(lambda xp, g, y, x, *, by: g * by,),
        jvp="elementwise",
    )
    _, tangent = tg.jvp(lambda x: tg.apply(scaled, x, by=3.0), const([1.0]), const([2.0]))
    assert tangent.tolist() == [6.0]  # type: ignore[union-attr]


# --- nodes --------------------------------------------------------------------------------------


def test_what_a_new_node_holds() -> None:
    x = leaf([1.0])
    y = x * 2
    assert x._node is not None
    assert y._node is not None
    assert (x._node.keeps_grad, y._node.keeps_grad) == (True, False)
    assert (x._node.params, y._node.params) == ({}, {})
    assert (x._node.inputs, x._node.marks, x._node.grad) == ((), (), None)


def test_primitives_say_how_they_push_tangents() -> None:
    kinds = {p.name: p.jvp for p in tg.PRIMITIVES.values() if not callable(p.jvp)}
    assert set(kinds.values()) == {"elementwise", "linear", "multilinear", "definition"}
    assert (kinds["exp"], kinds["reshape"], kinds["matmul"]) == (
        "elementwise",
        "linear",
        "multilinear",
    )


def test_primitives_say_what_they_broadcast_and_what_is_a_view() -> None:
    table = tg.PRIMITIVES
    assert not any(table[name].broadcasts for name in ("sum", "index", "concat", "einsum"))
    assert all(table[name].broadcasts for name in ("add", "matmul", "broadcast_to"))
    assert not any(table[name].view for name in ("exp", "add", "sum", "concat", "stack"))
    assert all(table[name].view for name in ("reshape", "index", "flip", "broadcast_to"))


def test_a_recorded_gradient_is_the_one_that_was_computed() -> None:
    x = leaf([1.0, 2.0])
    (g,) = tg.grad((x * x).sum(), x, create_graph=True)
    assert g is not None
    assert g._node is not None
    assert g._node.op == "add"  # of the two edges: nothing was added to the graph for a copy


def test_what_lies_behind_the_targets_stays() -> None:
    x = leaf([1.0, 2.0])
    h = x * x
    assert tg.grad((h * h).sum(), h)[0] is not None
    h.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 4.0]


def test_a_function_that_runs_again_is_one_node_of_that_name() -> None:
    with at_time(3):
        y = tg.remat(lambda x: x * x)(leaf([1.0]))
    assert y._node is not None
    assert (y._node.op, y._node.place()) == ("remat", ", at t = 3")


# --- how far is walked --------------------------------------------------------------------------


def _walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many nodes each walk over a graph finds from now on."""
    walked: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        nodes = ancestors(*args, **kwargs)
        walked.append(len(nodes))
        return nodes

    for module in (backpropagation, derivatives, recomputing):
        monkeypatch.setattr(module, "ancestors", counting)
    return walked


def test_what_runs_again_is_walked_to_its_ends_and_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else T segments that use one result would each walk all that lies before it."""
    older = leaf([1.0])
    u = x = leaf([0.5])
    for _ in range(50):
        u = u * 1.01
    y = tg.remat(lambda x: x * u * older * 2.0)(x)
    assert y._node is not None
    walked = _walked(monkeypatch)
    g = array(np.ones(1))
    primitive: Any = y._node.primitive
    xp, inputs = backend.namespace(g), [x.data, older.data, u.data]
    with backend.on(g):
        primitive.forward(xp, *inputs)
        primitive.vjp(xp, g, y.data, *inputs)
        primitive.jvp(xp, (g, g, g), y.data, *inputs)
    assert len(walked) == 3
    assert max(walked) < 10


def test_the_walk_to_chosen_ends_leaves_out_what_is_older(monkeypatch: pytest.MonkeyPatch) -> None:
    walked = _walked(monkeypatch)
    u = leaf([0.5])
    for _ in range(50):
        u = u * 1.01
    h = leaf([2.0]) * 1
    y = h * u
    assert h._node is not None
    assert y._node is not None
    backpropagate([(y._node, array(np.ones(1)))], {h._node}, stop=True)
    assert max(walked) < 10


def test_what_runs_again_returns_what_the_function_returned() -> None:
    x = leaf([1.0, 2.0])

    def f(x: tg.Tensor, times: int) -> Any:
        return {"y": x * times, "n": (tg.ones(1), [])}

    for context in (tg.enable_grad(), tg.no_grad()):
        with context:
            found = tg.remat(f)(x, times=3)
        assert found["y"].tolist() == [3.0, 6.0]
        assert found["n"][0].tolist() == [1.0]
        assert found["n"][1] == []


def test_an_array_given_to_what_runs_again_is_kept_as_it_was() -> None:
    x = tg.tensor(array_api_strict.asarray([2.0]), requires_grad=True)
    c = array_api_strict.asarray([3.0])
    y = tg.remat(lambda x, c: x * c)(x, c)
    c[...] = 100.0
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3.0]


def test_what_is_used_twice_is_walked_once() -> None:
    """2⁶⁰ paths lead through this graph."""

    def doubled(x: tg.Tensor) -> tg.Tensor:
        for _ in range(60):
            x = x + x
        return x

    x = leaf([1.0])
    tg.remat(doubled)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0**60]
    assert tg.jvp(doubled, x, np.ones(1))[1].tolist() == [2.0**60]  # type: ignore[union-attr]


# --- what a rule returns ------------------------------------------------------------------------


def _with_rule(rule: Any, broadcasts: bool = False, together: bool = False) -> tg.Primitive:
    """Twice its input, by a derivative rule of one's own that promises leading axes."""
    return tg.Primitive(
        "wrong",
        forward=lambda xp, x: 2.0 * x,
        vjp=(lambda *args: (rule(*args),)) if together else (rule,),
        jvp="linear",
        broadcasts=broadcasts,
        leading_axes=True,
    )


WRONG = {
    "another size": lambda xp, g, y, x: xp.concat([g, g], axis=-1),
    "the first axis lost": lambda xp, g, y, x: g[0],
    "the first axis summed": lambda xp, g, y, x: xp.sum(g, axis=0, keepdims=True),
    "an axis more behind, of one": lambda xp, g, y, x: g[..., None],
    "as many elements": lambda xp, g, y, x: xp.permute_dims(
        g, (*range(g.ndim - 2), g.ndim - 1, g.ndim - 2)
    ),
}


@pytest.mark.parametrize(("together", "broadcasts"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("rule", WRONG)
def test_a_rule_that_returns_a_wrong_shape_is_told(
    rule: str, together: bool, broadcasts: bool
) -> None:
    """A rule gets one cotangent, or several that come at once."""
    wrong, x = _with_rule(WRONG[rule], broadcasts, together), leaf(np.ones((3, 4)))
    with pytest.raises(tg.ShapeError, match="the derivative rule of wrong returned shape"):
        tg.apply(wrong, x).sum().backward()
    with pytest.raises(tg.ShapeError, match=r"returned shape .*several cotangents come at once"):
        tg.jacobian(lambda x: tg.apply(wrong, x), x)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("rule", [lambda *_: 2.0, lambda xp, g, y, x: [g]])
def test_a_rule_that_returns_no_array_is_told(rule: Any, together: bool) -> None:
    with pytest.raises(tg.DTypeError, match=r"rule of wrong returned a .*array .*\(3,\)"):
        tg.apply(_with_rule(rule, together=together), leaf(np.ones(3))).sum().backward()


def _product(vjp: Any, **options: Any) -> Any:
    """The product of two Tensors by a primitive of one's own, as a function."""
    product = tg.Primitive("product", lambda xp, a, b: a * b, vjp, "elementwise", **options)
    return lambda a, b: tg.apply(product, a, b)


def _backward(f: Any, a: tg.Tensor, b: tg.Tensor) -> None:
    f(a, b).sum().backward()


def _twice_backward(f: Any, a: tg.Tensor, b: tg.Tensor) -> None:
    tg.grad(f(a, b).sum(), (a, b), create_graph=True)


def _jacobian(f: Any, a: tg.Tensor, b: tg.Tensor) -> None:
    tg.jacobian(lambda b: f(a, b), b)


def _jvp(f: Any, a: tg.Tensor, b: tg.Tensor) -> None:
    tg.jvp(f, (a, b), (a, b))


DERIVED = [_backward, _twice_backward, _jacobian, _jvp]
RETURNED: dict[str, tuple[Any, type[Exception], str]] = {
    "too few": (lambda xp, g, y, a, b: (g * b,), tg.ShapeError, "a tuple of 1"),
    "none": (lambda xp, g, y, a, b: (), tg.ShapeError, "a tuple of 0"),
    "too many": (lambda xp, g, y, a, b: [g * b, g * a, g], tg.ShapeError, "a list of 3"),
    "nothing": (lambda xp, g, y, a, b: None, tg.DTypeError, "a NoneType"),
    "a function": (lambda xp, g, y, a, b: len, tg.DTypeError, "a builtin_function_or_method"),
    "an array": (
        lambda xp, g, y, a, b: xp.stack([g * b, g * a]),
        tg.DTypeError,
        "a (ndarray|Tensor)",
    ),
}


@pytest.mark.parametrize("derived", DERIVED)
@pytest.mark.parametrize("leading_axes", [False, True])
@pytest.mark.parametrize("name", RETURNED)
def test_a_rule_for_all_inputs_returns_a_cotangent_for_each(
    name: str, leading_axes: bool, derived: Any
) -> None:
    rule, kind, returned = RETURNED[name]
    f = _product(rule, leading_axes=leading_axes)
    message = f"^the derivative rule of product returned {returned}, for 2 inputs; return a tuple "
    with pytest.raises(kind, match=message):
        derived(f, leaf([0.5, 2.0]), leaf([1.0, 3.0]))


@pytest.mark.parametrize("derived", DERIVED)
@pytest.mark.parametrize("leading_axes", [False, True])
@pytest.mark.parametrize(
    ("vjp", "told"),
    [
        ((lambda xp, g, y, a, b: g * b,), "a tuple of 1"),
        ((), "a tuple of 0"),
        (None, "a NoneType"),
    ],
)
def test_there_is_a_rule_for_each_input(
    vjp: Any, told: str, leading_axes: bool, derived: Any
) -> None:
    f = _product(vjp, leading_axes=leading_axes)
    message = f"^the vjp of product is {told}, for 2 inputs; pass a tuple with a rule for each"
    with pytest.raises((tg.ShapeError, tg.DTypeError), match=message):
        derived(f, leaf([0.5, 2.0]), leaf([1.0, 3.0]))


@pytest.mark.parametrize("kind", [tuple, list])
def test_an_elementwise_rule_may_be_one_for_all_inputs(kind: Any) -> None:
    f = _product(lambda xp, g, y, a, b: kind([g * b, g * a]))
    a, b = const([0.5, 2.0]), const([1.0, 3.0])
    tg.testing.check_gradients(f, a, b)
    _, tangent = tg.jvp(f, (a, b), (const([1.0, 0.0]), const([10.0, 1.0])))
    assert host(tangent).tolist() == [6.0, 2.0]


@pytest.mark.parametrize("found", [1.0, None, [1.0], tg.ones(3)])
def test_a_forward_that_returns_no_array_is_told(found: Any) -> None:
    primitive = tg.Primitive("wrong", lambda xp, x: found, (lambda xp, g, y, x: g,), "linear")
    for x in (leaf(np.ones(3)), tg.ones(3)):
        with pytest.raises(tg.DTypeError, match=r"^wrong: the forward returned a .*array"):
            tg.apply(primitive, x)


def test_only_a_primitive_that_broadcasts_may_leave_repeated_axes_to_the_engine() -> None:
    x = leaf(np.ones((3, 1)))
    (g,) = tg.grad(tg.apply(_with_rule(WRONG["another size"], broadcasts=True), x).sum(), x)
    assert g is not None
    assert g.tolist() == [[2.0]] * 3
    with pytest.raises(tg.ShapeError, match=r"wrong returned shape \(3, 2\)"):
        tg.apply(_with_rule(WRONG["another size"]), x).sum().backward()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_rule_may_return_a_wider_type_or_a_scalar(shape: tuple[int, ...], dtype: str) -> None:
    """An input's gradient has the input's own type, and is an array."""

    def rule(xp: Any, g: Any, y: Any, x: Any) -> Any:
        return 2.0 * xp.astype(g, dtype)[()]

    x = leaf(np.ones(shape, np.float32))
    for create_graph in (False, True):
        (g,) = tg.grad(tg.apply(_with_rule(rule), x).sum(), x, create_graph=create_graph)
        assert g is not None
        assert g.dtype == tg.float32
        assert_close(g, np.full(shape, 2.0), 0.0)
        assert backend.is_array(g._data)


def test_one_shape_is_summed_by_how_many_axes_lead() -> None:
    """One number repeated over four rows of five, and over five with four cotangents at once."""
    x, c = leaf([3.0]), np.arange(20.0).reshape(4, 5)
    for _ in range(2):
        (g,) = tg.grad((x * const(c)).sum(), x)
        assert g is not None
        assert g.tolist() == [c.sum()]
        y = x * const(np.ones(5))
        assert y._node is not None
        assert x._node is not None
        found = backpropagate([(y._node, array(c))], {x._node}, retain_graph=True)[x._node]
        assert_close(found, c.sum(axis=1, keepdims=True), 0.0)


@pytest.mark.parametrize("op", [tg.multiply, tg.matmul, tg.einsum, tg.where])
def test_a_constant_may_not_change_between_forward_and_backward(op: Any) -> None:
    """Nor a weight whose gradient is not asked for: rules of the others use its values."""
    for requires_grad in (False, True):
        x, c = leaf(np.ones((2, 2))), tg.tensor(array(np.ones((2, 2))), requires_grad=requires_grad)
        operands = {tg.einsum: ("ij,jk->ik", x, c), tg.where: (c, x, 0.0)}.get(op, (x, c))
        y = op(*operands)
        write(c.data, 5.0)
        with pytest.raises(tg.InPlaceError, match="changed in place"):
            tg.grad(y.sum(), x)


# --- nodes that a caller knows ------------------------------------------------------------------


def test_constants_among_the_nodes_a_caller_knows_get_nothing() -> None:
    x, c = leaf([1.0, 2.0]), const([3.0, 4.0])
    y = (x * c + c).sum()
    assert y._node is not None
    nodes = ancestors([y._node], constants=True)
    assert c._node in nodes
    passed: list[Any] = []
    backpropagate([(y._node, array(1.0))], visit=lambda node, g: passed.append(node), nodes=nodes)
    assert passed == [node for node in reversed(nodes) if node is not c._node]


def test_a_trace_shows_what_it_showed_after_a_pass_that_frees() -> None:
    x, w = leaf([[1.0, 2.0]]), leaf([[3.0], [4.0]])
    loss = tg.tanh(x @ w * 0.1).sum()
    graph = tg.inspect.trace(loss)
    before = [(n.op, host(n.value), host(n.grad), [i.op for i in n.inputs]) for n in graph]
    loss.backward()
    after = [(n.op, host(n.value), host(n.grad), [i.op for i in n.inputs]) for n in graph]
    assert repr(before) == repr(after)


# --- what is quicker on small arrays is as right ------------------------------------------------

TYPES = "?bBhHiIlLefdgFDG"


@host_only("the forms are NumPy's")
@pytest.mark.parametrize("left", TYPES)
def test_products_of_matrices_are_numpys(left: str) -> None:
    """Products of every type with every other, in any layout, with and without axes of length 0."""
    rng, xp = np.random.default_rng(0), backend.NUMPY
    for right in TYPES:
        for m, k, n in [
            (3, 4, 5),
            (1, 1, 1),
            (0, 3, 2),
            (2, 0, 3),
            (2, 3, 0),
            (2, 300, 1),
            (99, 5, 3),
        ]:
            a = (rng.normal(size=(m, k)) * 5).astype(left)
            b = (rng.normal(size=(k, n)) * 5).astype(right)
            for x, y in [
                (a, b),
                (np.asfortranarray(a), np.repeat(b, 2, axis=0)[::2]),
                (a[::-1, ::-1], b[::-1]),
            ]:
                found, expected = xp.matmul(x, y), np.matmul(x, y)
                assert found.dtype == expected.dtype
                size = np.abs(x.astype("G")) @ np.abs(y.astype("G"))
                exact = found.dtype.kind not in "fc"
                eps = 0 if exact else 16 * np.finfo(found.dtype).eps
                if exact:
                    np.testing.assert_array_equal(found, expected)
                assert exact or (np.abs(found - expected) <= eps * np.abs(size)).all()
                assert np.array_equal(found, xp.matmul(x, y))


@host_only("the forms are NumPy's")
def test_a_product_of_halves_is_added_up_in_float32() -> None:
    ones = np.ones((1, 4096), np.float16)
    assert backend.NUMPY.matmul(ones, ones.T).item() == 4096  # a count in halves ends at 2048


@host_only("the forms are NumPy's")
def test_products_of_other_than_two_matrices() -> None:
    rng, xp = np.random.default_rng(0), backend.NUMPY
    for a, b in [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 2)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
    ]:
        x, y = rng.normal(size=a), rng.normal(size=b)
        np.testing.assert_allclose(xp.matmul(x, y), np.matmul(x, y), rtol=1e-14)
    with pytest.raises(tg.ShapeError, match=r"\(2, 3\).*\(2, 3\).*the last axis of the first"):
        tg.matmul(leaf(np.ones((2, 3))), np.ones((2, 3)))


@host_only("the forms are NumPy's")
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5), (1, 1, 1), (1024,), (1025,), (2, 600)])
def test_one_number_spread_over_a_shape_keeps_its_bits(kind: str, shape: tuple[int, ...]) -> None:
    dtype = np.dtype(kind)
    numbers: list[Any] = [1]
    if dtype.kind in "fc":
        numbers = [0.0, -0.0, dtype.type(1) / 3, np.nan, np.inf, np.finfo(dtype).smallest_subnormal]
    if dtype.kind == "c":
        numbers += [1 + 2j, complex(0.0, -0.0)]
    if dtype.kind in "iu":
        numbers += [np.iinfo(dtype).max, np.iinfo(dtype).min]
    for number in numbers:
        for ndim in range(len(shape) + 1):
            x = np.full((1,) * ndim, number, dtype)
            spread = backend.NUMPY.broadcast_to(x, shape)
            assert spread.dtype == dtype
            assert spread.shape == shape
            assert np.array_equal(spread, np.broadcast_to(x, shape), equal_nan=True)
            for part, whole in ((x.real, spread.real), (x.imag, spread.imag)):
                assert dtype.kind not in "fc" or (np.signbit(whole) == np.signbit(part)).all()
