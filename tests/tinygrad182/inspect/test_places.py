"""``places``: which step an operation belongs to, read from the graph."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import tinygrad182 as tg
from tests.oracles import loops
from tests.oracles.loops import Case, Weights, cases, mark
from tests.support import const, leaf
from tinygrad182.engine.backpropagation import ancestors
from tinygrad182.engine.recording import Node, node_of
from tinygrad182.inspect.loops.axes import TimeAxis
from tinygrad182.inspect.loops.times import places
from tinygrad182.recurrence.unrolling import unrolled


def read(loss: tg.Tensor) -> tuple[list[Node], dict[Node, int], dict[Node, TimeAxis]]:
    nodes = ancestors([unrolled(node_of(loss))], constants=True)
    return nodes, *places(nodes)


@given(case=cases)
def test_layers_record_their_steps(case: Case) -> None:
    """A node made at a step belongs to it; one of a whole sequence to none, and has an axis as long."""
    nodes, times, axes = read(case.loss)
    for node in nodes:
        if node.scope.time is not None:
            assert times.get(node, -1) == node.scope.time
    assert times.keys().isdisjoint(axes)
    for node, (axis, _) in axes.items():
        assert axis < 0
        assert node.value.shape[axis] == case.T
    if case.T > 1:
        for k in range(case.layer.num_layers):
            weight = getattr(case.layer, f"weight_ih_l{k}")._node
            (turned,) = [n for n in nodes if weight in (n.inputs or ())]
            uses = [n for n in nodes if turned in (n.inputs or ())]
            assert turned not in times
            assert turned not in axes
            assert [axes[n] for n in uses] == [(-3, 0)]


def test_a_stack_of_sequences_is_not_a_stack_of_steps() -> None:
    """Each of its operands has all steps, and belongs to none."""
    x = leaf(np.random.default_rng(0).normal(size=(5, 3, 2)))
    batch = tg.stack([x[::-1, i] for i in range(3)], axis=1)
    rnn = tg.nn.RNN(2, 3, rng=0, dtype="float64", fused=False)
    _, times, axes = read(rnn(batch)[0].sum())
    assert axes[node_of(batch)] == (-3, 0)
    assert times.keys().isdisjoint(node_of(batch).inputs or ())


@pytest.mark.parametrize("loop", [n for n in loops.LOOPS if n != "gates_of_one_weight"])
@pytest.mark.parametrize("T", [1, 2, 5])
def test_every_operation_in_a_loop_belongs_to_its_step(loop: str, T: int) -> None:
    """With a weight for every step, an operation that reads the weight of step t belongs to step t."""
    w = Weights(copies=True)
    states = loops.LOOPS[loop](w, T, 2, 3)
    nodes, times, _ = read(loops.loss_of(list(states.values())[-1], "all"))
    for (name, t), tensor in w.leaves.items():
        if name == "f":
            continue  # as good as computed before the loop; what it meets is not
        readers = [n for n in nodes if tensor._node in (n.inputs or ())]
        assert [times.get(n) for n in readers] == [t] * len(readers), f"{name} at {t}"
    for hs in states.values():
        for h in hs:
            (m,) = h._node.marks
            assert times.get(h._node) == m.scope.time or h._node not in nodes


def test_what_is_computed_before_the_loop_belongs_to_no_step() -> None:
    w = Weights()
    _, times, axes = read(loops.loss_of(loops.rnn_outside(w, 4, 2, 3)["h"], "all"))
    weight = w.leaves["W", 0]._node
    turned = [n for n in [*times, *axes] if weight in (n.inputs or ())]
    assert turned == []


def test_what_follows_belongs_to_the_one_step_it_is_computed_from() -> None:
    hs = loops.rnn_outside(Weights(), 4, 2, 3)["h"]
    single = tg.tanh(hs[1] * 2.0)
    total, running = const(np.zeros(())), hs[0]
    for h in hs:
        total = total + h.sum()
    for h in hs[1:]:
        running = running + h  # also where a mixture meets one more step
    _, times, _ = read(single.sum() + total + running.sum())
    assert times[single._node] == 1
    assert running._node not in times
    assert (running * 2.0)._node not in times
    assert total._node not in times


def test_a_state_that_is_handed_on_belongs_to_the_step_that_computed_it() -> None:
    h = mark(mark(tg.tanh(leaf(np.ones((2, 3))) * 2.0), "h", 0), "h", 1)
    after = mark(tg.exp(h), "h", 2)
    nodes, times, axes = read(tg.stack([h, h, after]).sum())
    assert [times[n] for n in nodes if n.op in {"multiply", "tanh"}] == [0, 0]
    assert [(n.op, *place) for n, place in axes.items()] == [("stack", -3, 0)]


def test_gates_taken_from_one_weight_are_not_a_time_axis() -> None:
    """W[0] at step 0 looks like a step's part of a whole; W[1] at step 0 tells that it is not."""
    for T in (1, 2, 3, 4):
        w = Weights()
        _, _, axes = read(loops.loss_of(loops.gates_of_one_weight(w, T, 2, 3)["h"], "all"))
        assert all(n.op != "reshape" for n in axes)


def test_axes_go_along_with_operations_and_end_in_sums() -> None:
    hs = loops.rnn_outside(Weights(), 5, 2, 3)["h"]
    whole = tg.stack(hs)
    v = leaf(np.ones((3, 4)))
    along = {
        "tanh": (tg.tanh(whole), -3),
        "matmul": (whole @ v, -3),
        "left": (v.T @ tg.permute_dims(whole, (0, 2, 1)), -3),
        "second": (tg.stack(hs, axis=1) * 2.0, -2),
        "turned": (tg.permute_dims(whole, (1, 2, 0)), -1),
        "last": (tg.permute_dims(whole, (2, 1, 0)), -1),
        "features": (v.T @ tg.permute_dims(whole, (1, 2, 0)), -1),
        "broadcast": (const(np.ones((7, 1, 1, 1))) * whole, -3),
    }
    summed = {
        "over time": whole.sum(axis=0),
        "mixed": tg.permute_dims(whole, (1, 2, 0)) @ const(np.ones((5, 5))),
        "mixed from the left": const(np.ones((5, 5))) @ tg.permute_dims(whole, (1, 0, 2)),
    }
    loss = sum(y.sum() for y, _ in along.values()) + sum(y.sum() for y in summed.values())
    _, times, axes = read(loss)
    for name, (y, axis) in along.items():
        assert axes[y._node].axis == axis, name
    for name, y in summed.items():
        assert y._node not in axes, name
        assert y._node not in times, name


def test_stacks_in_another_order_have_no_time_axis() -> None:
    hs = loops.rnn_outside(Weights(), 3, 2, 3)["h"]
    for wrong in (hs[::-1], [*hs, hs[0]]):
        y = tg.stack(wrong)
        _, _, axes = read(y.sum() + hs[-1].sum())
        assert y._node not in axes
    later = tg.stack(hs[1:])
    _, _, axes = read(later.sum() + hs[-1].sum())
    assert axes[later._node] == (-3, 1)


@pytest.mark.parametrize("name", ["d", "h"])
def test_several_steps_side_by_side_are_part_of_no_later_state(name: str) -> None:
    """This holds also if a decoder's states continue the encoder's under one name."""
    w = Weights()
    hs = loops.rnn_outside(w, 4, 2, 3)["h"]
    keys, d = tg.tanh(tg.stack(hs) * 2.0), hs[-1]
    for t in range(4, 7):
        d = mark(tg.tanh((keys * d).sum(axis=0) + d), name, t)
    _, times, axes = read(d.sum())
    assert keys._node not in times
    assert axes[keys._node] == (-3, 0)


def test_windows_keep_their_axis_also_of_one_step() -> None:
    hs = loops.rnn_outside(Weights(), 5, 2, 3)["h"]
    whole = tg.concat([tg.stack(hs[:4]), tg.stack(hs[4:])])
    window, flat, one = whole[2:], whole[:, 0], whole[3]
    after = tg.tanh(window)[1]
    _, times, axes = read(whole.sum() + flat.sum() + one.sum() + after.sum())
    assert axes[whole._node] == (-3, 0)
    assert axes[window._node] == (-3, 2)
    assert axes[flat._node] == (-2, 0)
    assert times[one._node] == 3
    assert times[after._node] == 3


def test_an_axis_that_two_operands_disagree_about_is_not_known() -> None:
    whole = tg.stack(loops.rnn_outside(Weights(), 5, 2, 3)["h"])
    shifted = whole[1:] + whole[:-1]
    _, times, axes = read(shifted.sum())
    assert shifted._node not in axes
    assert shifted._node not in times


def test_features_beside_each_other_and_lengthened_shapes_keep_the_axis() -> None:
    whole = tg.stack(loops.rnn_outside(Weights(), 5, 2, 3)["h"])
    wide, long = tg.concat([whole, whole * 2.0], axis=-1), whole[:, :, None]
    flat, mixed = whole.reshape(5, 6), whole.reshape(10, 3)
    _, _, axes = read(wide.sum() + long.sum() + flat.sum() + mixed.sum())
    assert axes[wide._node] == (-3, 0)
    assert axes[long._node] == (-4, 0)
    assert axes[flat._node] == (-2, 0)
    assert mixed._node not in axes


@pytest.mark.parametrize("form", ["one product", "a product a step"])
@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("time", [None, 0, 3])
def test_keys_that_an_only_state_reads_belong_to_their_own_steps(
    form: str, T: int, time: int | None
) -> None:
    """A state that is the only one of its loop changes nothing: a pooled one, or a decoder of one step."""
    hs, W = loops.rnn_outside(Weights(), T, 2, 3)["h"], leaf(np.eye(3))
    keys = tg.stack(hs) @ W if form == "one product" else tg.stack([h @ W for h in hs])
    scores = tg.softmax((keys * hs[-1]).sum(axis=-1, keepdims=True), axis=0)
    d = (scores * keys).sum(axis=0) @ leaf(np.eye(3))
    loss = (d if time is None else mark(d, "d", time)).sum()
    nodes, times, axes = read(loss)
    uses = [n for n in nodes if W._node in (n.inputs or ())]
    found = [t for n in uses for t in ([times[n]] if n in times else range(T))]
    assert found == list(range(T))
    assert all(n in times or axes[n] == (-3, 0) for n in uses)
    if time is not None:
        assert times[d._node] == time  # what mixes steps is the state's


def test_states_side_by_side_are_part_of_no_later_loop() -> None:
    """The last of the stacked states begins a later loop of several steps."""
    hs, W = loops.rnn_outside(Weights(), 4, 2, 3)["h"], leaf(np.eye(3))
    whole = tg.stack(hs)
    keys, d, total = whole @ W, whole[-1], const(np.zeros(()))
    for t in range(3):
        d = mark(tg.tanh(d * 0.5), "d", t)
        total = total + (keys * d).sum()
    _, times, axes = read(total)
    assert keys._node not in times
    assert axes[keys._node] == (-3, 0)


def test_a_decoder_of_one_step_with_a_marked_initial_state() -> None:
    hs, W, V = loops.rnn_outside(Weights(), 4, 2, 3)["h"], leaf(np.eye(3)), leaf(np.eye(3))
    keys, first = tg.stack(hs) @ W, mark(hs[-1] * 1.0, "d", -1)
    scores = tg.tanh(keys + first @ V)
    d = mark((tg.softmax(scores, axis=0) * keys).sum(axis=0), "d", 0)
    nodes, times, axes = read(d.sum())
    (use,) = [n for n in nodes if V._node in (n.inputs or ())]
    assert times[use] == 0
    assert axes[keys._node] == (-3, 0)
