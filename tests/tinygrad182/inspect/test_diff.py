"""``diff`` names a planted change, and nothing that is not a change."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import tinygrad182 as tg
from tinygrad182.errors import ArgumentError
from tinygrad182.inspect.differences import chart

T, B, H = 24, 2, 5
LAYERS: dict[str, Any] = {"RNN": tg.nn.RNN, "LSTM": tg.nn.LSTM, "GRU": tg.nn.GRU}
GATES = {"LSTM": "ifgo", "GRU": "rzn"}


class Model:
    """Two layers of one kind and a head, always with the same numbers for the same seed."""

    def __init__(self, kind: str = "LSTM", seed: int = 0, dtype: Any = "float64", **options: Any):
        options = {"num_layers": 2, "hidden_size": H} | options
        self.layer = LAYERS[kind](input_size=3, rng=seed, dtype="float64", **options).to(
            dtype=dtype
        )
        hidden = options["hidden_size"]
        self.head = tg.nn.Linear(hidden, 1, rng=seed + 1, dtype="float64").to(dtype=dtype)
        self.dtype = dtype

    def loss(self, steps: int = T, batch: int = B, **options: Any) -> tg.Tensor:
        x = np.random.default_rng(0).normal(size=(64, batch, 3))[:steps].astype(self.dtype)
        return (self.head(self.layer(tg.tensor(x), **options)[0][-1]) ** 2).sum()


def words(found: tg.inspect.TraceDiff) -> str:
    return " ".join(found.sentences)


# --- differences that are not changes -------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
def test_one_model_run_twice_is_the_same_to_the_last_bit(kind: str) -> None:
    model = Model(kind)
    found = tg.inspect.diff(model.loss(), model.loss())
    assert found.same
    assert found.values is found.gradients is found.backward is None
    assert found.sentences == [
        f"The {w} are the same to the last bit." for w in ("values", "gradients")
    ]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_and_step_by_step_agree(kind: str, dtype: str) -> None:
    runs = [Model(kind, dtype=dtype, fused=fused).loss() for fused in (True, False)]
    found = tg.inspect.diff(*runs)
    assert found.same, found
    series = found.series["gradients"]
    assert {label for label in ("h", "z", "f") if label in series[f"{kind.lower()}.l1"]} >= {"h"}


def test_two_dtypes_differ_by_rounding() -> None:
    found = tg.inspect.diff(Model(dtype="float32").loss(), Model(dtype="float64").loss())
    assert found.same
    told = words(found)
    assert "a is float32, b float64." in told
    sizes = [float(x) for x in re.findall(r"differ by (\S+) of the largest", told)]
    assert len(sizes) == 2
    assert all(1e-8 < size < 1e-5 for size in sizes)
    assert "rounding of float32" in told


def test_rounding_that_grows_has_no_single_cause() -> None:
    """A chaotic recurrence: each step enlarges a difference, and no step makes one."""
    runs = []
    for dtype in ("float32", "float64"):
        rnn = tg.nn.RNN(3, 32, rng=0, dtype="float64")
        rnn.weight_hh_l0.data[...] = np.random.default_rng(1).normal(size=(32, 32)) * 0.8
        x = np.random.default_rng(0).normal(size=(60, 1, 3)).astype(dtype)
        runs.append(rnn.to(dtype=dtype)(tg.tensor(x))[0][-1].sum())
    found = tg.inspect.diff(*runs)
    assert not found.same
    assert found.values is not None
    assert found.values.cause == "grown"
    assert found.gradients is not None
    assert found.gradients.cause == "values"
    assert "No single place is the cause" in words(found)


def test_rounding_that_grows_in_a_fused_layer_has_no_single_cause() -> None:
    """Step by step, what a layer computes for all steps at once is an input."""
    runs = []
    for fused in (True, False):
        rnn = tg.nn.RNN(3, 32, num_layers=2, rng=0, dtype="float64", fused=fused)
        for k, name in enumerate(("weight_hh_l0", "weight_hh_l1")):
            getattr(rnn, name).data[...] = np.random.default_rng(k).normal(size=(32, 32)) * 0.8
        x = np.random.default_rng(0).normal(size=(30, 1, 3)).astype("float32")
        runs.append(rnn.to(dtype="float32")(tg.tensor(x))[0][-1].sum())
    found = tg.inspect.diff(*runs, tolerance=1e-6)
    assert found.values is None or found.values.cause == "grown"
    assert np.nanmax(found.series["values"]["rnn.l1"]["W_ih x + b"]) > 1e-6


def test_a_number_that_one_dtype_cannot_hold_is_an_overflow() -> None:
    runs = []
    for dtype in ("float32", "float64"):
        rnn = tg.nn.RNN(1, 2, nonlinearity="relu", rng=0, dtype="float64")
        rnn.weight_ih_l0.data[...], rnn.weight_hh_l0.data[...] = 1.0, np.eye(2) * 1e5
        runs.append(rnn.to(dtype=dtype)(tg.ones((9, 1, 1), dtype=dtype))[0][-1].sum())
    found = tg.inspect.diff(*runs)
    assert found.values is not None
    assert (found.values.cause, found.values.time) == ("overflow", 8)
    assert "the coarser dtype cannot hold so large a number" in words(found)
    assert "intervention" not in words(found)


def test_gradients_in_half_precision_agree_but_for_rounding() -> None:
    found = tg.inspect.diff(Model(dtype="float16").loss(50), Model(dtype="float32").loss(50))
    assert found.same
    assert all(np.isfinite(row).all() for row in found.series["gradients"]["lstm.l0"].values())


def test_a_gradient_whose_rounding_grows_over_many_steps_arises_nowhere() -> None:
    runs = []
    for dtype in ("float32", "float64"):
        rnn = tg.nn.RNN(3, 8, nonlinearity="identity", rng=0, dtype="float64").to(dtype=dtype)
        x = np.random.default_rng(0).normal(size=(150, 1, 3)).astype(dtype)
        runs.append(rnn(tg.tensor(x))[0][-1].sum())
    found = tg.inspect.diff(*runs, tolerance=6e-7)
    assert np.nanmax(found.series["gradients"]["rnn.l0"]["h"]) > 6e-7
    assert found.gradients is None


def test_a_sum_that_cancels_is_not_a_cause() -> None:
    """A prediction near its target shows the digits that float32 lacks, but no operation causes this."""
    runs = []
    for dtype in ("float32", "float64"):
        rnn = tg.nn.RNN(3, 4, rng=0, dtype="float64").to(dtype=dtype)
        x = np.random.default_rng(0).normal(size=(5, 1, 3)).astype("float32").astype(dtype)
        output = rnn(tg.tensor(x))[0][-1]
        near = (np.asarray(output.numpy(), "float64").round(4) + 1e-4).astype("float32")
        runs.append(((output - near.astype(dtype)) ** 2).sum())
    found = tg.inspect.diff(*runs)
    assert found.values is None or found.values.cause == "grown"


# --- planted changes ------------------------------------------------------------------------------


def test_a_gate_of_layer_two_that_is_changed_at_one_step() -> None:
    model = Model()
    with tg.inspect.intervene("lstm.l1", gate="f", function=lambda f: f * 0.5, time=15):
        changed = model.loss()
    found = tg.inspect.diff(model.loss(), changed)
    assert found.values is not None
    assert (found.values.path, found.values.label, found.values.time) == ("lstm.l1", "f", 15)
    assert found.values.cause == "arises"
    assert found.values.b == pytest.approx(found.values.a / 2, rel=1e-12)
    told = words(found)
    assert "The values part first at t = 15 in lstm.l1: gate f" in told
    assert "The values that differ are those of lstm.l1 at t = 15 … 23, linear and loss." in told
    assert "cannot be compared" not in told
    # the loss sees other states, so the gradients differ from its end on, and this follows from values
    assert found.gradients is not None
    assert found.gradients.cause == "values"
    assert found.backward is None
    assert f"the first to differ is t = {T - 1} in lstm.l1" in told


def test_a_gradient_differs_where_an_independent_pass_says() -> None:
    model = Model()
    with tg.inspect.intervene("lstm.l1", gate="f", function=lambda f: f * 0.5, time=15):
        runs = model.loss(), model.loss()
        flows = [
            tg.inspect.gradient_flow(loss)["lstm.l1"].h.grad for loss in (model.loss(), runs[0])
        ]
    plain = Model().loss()
    flows[0] = tg.inspect.gradient_flow(plain)["lstm.l1"].h.grad
    found = tg.inspect.diff(plain, runs[0])
    apart = np.abs(flows[0] - flows[1]).max(-1) / np.maximum(*(np.abs(f).max(-1) for f in flows))
    np.testing.assert_allclose(
        found.series["gradients"]["lstm.l1"]["h"], apart.max(-1), rtol=1e-9, atol=1e-13
    )


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_planted_bias_is_named(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(LAYERS)))
    layer, unit = data.draw(st.integers(0, 1)), data.draw(st.integers(0, H - 1))
    gates = GATES.get(kind, "h")
    k = data.draw(st.integers(0, len(gates) - 1))
    model = Model(kind)
    before = model.loss(8)
    name = f"bias_ih_l{layer}"
    changed = Model(kind)
    getattr(changed.layer, name).data[k * H + unit] += data.draw(st.sampled_from([-0.5, 1e-3, 0.5]))
    found = tg.inspect.diff(before, changed.loss(8))
    assert found.values is not None
    assert (found.values.path, found.values.time) == (f"{kind.lower()}.l{layer}", 0)
    assert (found.values.cause, found.values.parameters) == ("parameters", (name,))
    assert found.values.unit == unit
    if len(gates) > 1:
        assert found.values.gate == gates[k]
        assert f"{name} differs in the rows of gate {gates[k]}" in words(found)


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_planted_step_is_named(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(GATES)))
    layer, gate = data.draw(st.integers(0, 1)), data.draw(st.sampled_from(GATES[kind]))
    time, unit = data.draw(st.integers(0, 9)), data.draw(st.integers(0, H - 1))
    one = np.eye(H)[unit] * data.draw(st.sampled_from([0.2, -1e-3]))
    path = f"{kind.lower()}.l{layer}"
    model = Model(kind)
    with tg.inspect.intervene(path, gate=gate, function=lambda g: g + one, time=time):
        changed = model.loss(10)
    found = tg.inspect.diff(model.loss(10), changed)
    assert found.values is not None
    named = (found.values.path, found.values.label, found.values.time, found.values.unit)
    assert named == (path, gate, time, unit)
    assert f"The values part first at t = {time} in {path}: gate {gate} (unit {unit}" in words(
        found
    )


def test_two_seeds() -> None:
    found = tg.inspect.diff(Model(seed=0).loss(), Model(seed=5).loss())
    assert "All 8 parameters differ." in words(found)
    assert found.values is not None
    assert (found.values.time, found.values.cause) == (0, "parameters")


def test_other_inputs() -> None:
    model = Model()
    x = np.random.default_rng(0).normal(size=(T, B, 3))
    other = x.copy()
    other[7, 1, 2] += 0.5
    runs = [(model.head(model.layer(tg.tensor(each))[0][-1]) ** 2).sum() for each in (x, other)]
    found = tg.inspect.diff(*runs)
    assert found.values is not None
    assert (found.values.cause, found.values.time) == ("input", 7)
    assert (found.values.sequence, found.values.unit) == (1, 2)
    assert "The runs are given different numbers" in words(found)


# --- gradients alone ------------------------------------------------------------------------------


def loop(cut: int | None = None, bump: int | None = None, all_steps: bool = False) -> tg.Tensor:
    """A two-layer loop of your own, with a forgotten detach or another bias at one step."""
    rng = np.random.default_rng(0)
    w = [tg.tensor(rng.normal(size=(H, H)) / 2, requires_grad=True) for _ in range(3)]
    bias = tg.tensor(np.zeros(H), requires_grad=True)
    x, total = rng.normal(size=(T, B, H)), 0.0
    h = g = tg.zeros((B, H), dtype="float64")
    for t in range(T):
        if t == cut:
            h = h.detach()
        h = tg.inspect.mark(tg.tanh(x[t] + h @ w[0]), "h", time=t)
        b = bias + 0.5 if t == bump else bias
        g = tg.inspect.mark(tg.tanh(h @ w[1] + g @ w[2] + b), "g", time=t)
        if all_steps:
            total = total + (h * h).sum() + (g * g).sum()
    return total if all_steps else (g * g).sum()


def test_steps_that_a_detach_cuts_off_have_no_gradient() -> None:
    """One run cuts off the earlier steps, and so has no gradients there to compare."""
    w = tg.tensor(np.random.default_rng(0).normal(size=(H, H)) / 2, requires_grad=True)

    def run(cut: int | None) -> tg.Tensor:
        h = tg.ones((B, H), dtype="float64")
        for t in range(10):
            h = h.detach() if t == cut else h
            h = tg.inspect.mark(tg.tanh(h @ w), "h", time=t)
        return (h * h).sum()

    found = tg.inspect.diff(run(None), run(6))
    assert found.values is None
    assert found.gradients is not None
    assert (found.gradients.label, found.gradients.time, found.gradients.b) == ("h", 5, 0.0)
    assert (found.series["gradients"]["the loop"]["h"][:6] == 1).all()
    assert "the loop has 10 steps in a and 4 in b." in words(found)


@pytest.mark.parametrize("all_steps", [False, True])
def test_a_forgotten_detach_is_found_by_the_gradients_alone(all_steps: bool) -> None:
    found = tg.inspect.diff(loop(all_steps=all_steps), loop(cut=12, all_steps=all_steps))
    assert found.values is None
    assert found.gradients is not None
    named = (found.gradients.label, found.gradients.time, found.gradients.cause)
    assert named == ("h", 11, "arises")
    assert found.backward is found.gradients
    told = words(found)
    assert (
        "Going back, the gradients part first at t = 11 in the loop: the gradient by the state h"
        in told
    )
    assert "a detach" in told


def test_the_bias_of_a_loop_at_one_step() -> None:
    found = tg.inspect.diff(loop(), loop(bump=15))
    assert found.values is not None
    assert (found.values.time, found.values.cause) == (15, "arises")
    assert found.values.label != "h"
    assert "those of the loop at t = 15 … 23" in words(found)


def packed(bump: int | None = None, marked: bool = False, cut: int | None = None) -> tg.Tensor:
    """A loop with the four gates of an LSTM from one product; gate f has another bias at one step."""
    rng = np.random.default_rng(0)
    w, bias = (tg.tensor(rng.normal(size=n) / 3, requires_grad=True) for n in ((H, 4 * H), 4 * H))
    x = rng.normal(size=(T, B, 4 * H))
    h = c = tg.zeros((B, H), dtype="float64")
    for t in range(T):
        h = h.detach() if t == cut else h
        b = bias + np.eye(4 * H)[H + 2] / 2 if t == bump else bias
        z = x[t] + h @ w + b
        i, f, o = (tg.sigmoid(z[:, k * H : (k + 1) * H]) for k in (0, 1, 3))
        f = tg.inspect.mark(f, "f", time=t) if marked else f
        c = tg.inspect.mark(f * c + i * tg.tanh(z[:, 2 * H : 3 * H]), "c", time=t)
        h = tg.inspect.mark(o * tg.tanh(c), "h", time=t)
    return (h * h).sum()


@pytest.mark.parametrize(("marked", "name"), [(True, "f"), (False, "σ₂(x + W h₋ + b)")])
def test_a_gate_of_a_loop_is_named_by_its_mark_or_by_where_it_leads(
    marked: bool, name: str
) -> None:
    found = tg.inspect.diff(packed(marked=marked), packed(15, marked))
    at = found.values
    assert at is not None
    assert (at.label, at.time, at.cause) == ("x + W h₋ + b", 15, "arises")
    assert (at.gate, at.unit) == (name, 2)
    assert (at.way[0], at.way[-1]) == (name, "c")
    told = words(found)
    assert f"x + W h₋ + b ({name}, unit 2 of sequence" in told
    assert f"From there it goes through {name} and {at.way[1]} into c." in told


def test_a_detached_state_is_named_and_not_what_its_gradient_goes_on_to() -> None:
    """At the step before the cut the loss leads to c alone: h is not a part of that run there."""
    found = tg.inspect.diff(packed(), packed(cut=12))
    assert found.values is None
    assert found.gradients is not None
    assert (found.gradients.label, found.gradients.time) == ("h", 11)
    assert (found.gradients.cause, found.gradients.b) == ("arises", 0.0)


def test_the_first_step_of_a_loop_is_compared_under_the_names_of_later_steps() -> None:
    series = tg.inspect.diff(packed(), packed(bump=15)).series["values"]["the loop"]
    assert series["W h₋"][0] == series["x + W h₋ + b"][0] == 0
    assert "W x1" not in series


def test_marks_of_one_name_in_two_layers_are_not_an_input_of_the_run() -> None:
    def run(bump: int | None = None) -> tg.Tensor:
        w = [tg.tensor(np.eye(H) / k, requires_grad=True) for k in (2, 3)]
        x, states = np.random.default_rng(0).normal(size=(T, B, H)), [np.zeros((B, H))] * 2
        for t in range(T):
            below: Any = x[t]
            for k in (0, 1):
                z = below + states[k] @ w[k] + (1.0 if (k, t) == (1, bump) else 0.0)
                gate = tg.inspect.mark(tg.sigmoid(z), "f", time=t)
                below = tg.inspect.mark(gate * tg.tanh(below @ w[k]), f"h{k}", time=t)
                states[k] = below
        return (below * below).sum()

    found = tg.inspect.diff(run(), run(15))
    assert found.values is not None
    assert (found.values.time, found.values.cause, found.values.gate) == (15, "arises", "f")
    assert "given different numbers" not in words(found)
    assert "of #2" not in words(found)


def test_truncation_is_found_in_the_layer_nearest_to_the_loss() -> None:
    model = Model()
    found = tg.inspect.diff(model.loss(), model.loss(truncate=10))
    assert found.values is None
    assert found.gradients is not None
    assert (found.gradients.path, found.gradients.time) == ("lstm.l1", 19)
    assert found.gradients.b == 0.0


def test_a_wrong_backward_rule_is_found_behind_a_change_of_values() -> None:
    found = tg.inspect.diff(loop(), loop(cut=5, bump=15))
    assert found.gradients is not None
    assert found.gradients.cause == "values"
    assert found.values is not None
    assert found.values.time == 15


def test_vanished_gradients_are_compared_truly() -> None:
    """One gate changes gradients of 1e-60, which float32 cannot represent."""
    rnn = tg.nn.RNN(1, 4, rng=0)
    rnn.weight_hh_l0.data[...] *= 0.02
    x = tg.ones((40, 1, 1))
    found = tg.inspect.diff(rnn(x)[0][-1].sum(), rnn(x, truncate=10)[0][-1].sum())
    assert found.gradients is not None
    assert found.gradients.time == 29
    assert found.gradients.log10_scale + np.log10(abs(found.gradients.a)) < -10
    assert np.all(found.series["gradients"]["rnn.l0"]["h"][:30] == 1.0)


def test_without_values_no_cause_is_claimed() -> None:
    changed = Model()
    changed.layer.bias_ih_l1.data[H] += 0.5
    graphs = [tg.inspect.trace(model.loss(6)).numbers() for model in (Model(), changed)]
    graphs = [
        dataclasses.replace(
            graph,
            has_values=False,
            boxes=[
                dataclasses.replace(
                    box, steps=[dataclasses.replace(some, values={}) for some in box.steps]
                )
                for box in graph.boxes
            ],
        )
        for graph in graphs
    ]
    found = tg.inspect.diff(*graphs)
    assert found.gradients is not None
    assert (found.gradients.cause, found.backward) == ("unknown", None)
    assert "they were not saved" in words(found)
    assert "detach" not in words(found)


# --- what cannot be compared ----------------------------------------------------------------------


def test_other_lengths_are_named_and_common_steps_are_compared() -> None:
    model = Model()
    found = tg.inspect.diff(model.loss(12), model.loss(9))
    told = words(found)
    assert "lstm.l0 has 12 steps in a and 9 in b. Compared are t = 0 … 8." in told
    assert np.isnan(found.series["values"]["lstm.l0"]["h"][9:]).all()
    assert (found.series["values"]["lstm.l0"]["h"][:9] == 0).all()


def test_other_batch_sizes_and_layers_are_named() -> None:
    told = words(tg.inspect.diff(Model().loss(6), Model(num_layers=1).loss(6)))
    assert "lstm.l1 is in a alone." in told
    found = tg.inspect.diff(Model().loss(6), Model(hidden_size=3).loss(6))
    assert "cannot be compared number by number" in words(found)
    assert "2 × 5 in a and 2 × 3 in b" in words(found)


@pytest.mark.parametrize(
    "options", [{"hidden_size": 3}, {"num_layers": 1}, {"kind": "GRU"}, {"batch": 1}, {"steps": 4}]
)
def test_what_follows_from_other_shapes_is_not_called_a_change(options: dict[str, Any]) -> None:
    sizes = {name: options.pop(name) for name in ("batch", "steps") if name in options}

    def loss(model: Model, steps: int = 6, batch: int = B) -> tg.Tensor:
        x = np.random.default_rng(0).normal(size=(6, B, 3))[:steps, :batch]
        return (model.layer(tg.tensor(x))[0][-1] ** 2).sum()

    found = tg.inspect.diff(loss(Model()), loss(Model(**options), **sizes))
    assert found.values is not None
    assert (found.values.path, found.values.cause) == ("loss", "uncompared")
    told = words(found)
    assert "the runs do not have the same steps, shapes or layers" in told
    assert "different numbers" not in told
    assert "as by an intervention" not in told


def test_another_mask_of_dropout_is_not_another_input() -> None:
    model = Model(dropout=0.3)
    found = tg.inspect.diff(model.loss(6), model.loss(6))
    assert found.values is not None
    assert (found.values.path, found.values.label) == ("lstm.l1", "x")
    assert found.values.cause == "between"
    assert "a mask of dropout" in words(found)


def test_ragged_sequences_have_no_other_backward_pass() -> None:
    model = Model()
    x = tg.tensor(np.random.default_rng(0).normal(size=(9, B, 3)))
    ragged = (model.layer(x, lengths=np.array([9, 5]))[0] ** 2).sum()
    found = tg.inspect.diff(ragged, (model.layer(x)[0] ** 2).sum())
    assert found.values is not None
    assert (found.values.time, found.values.sequence) == (5, 1)
    assert found.backward is None


def test_places_in_whole_sequences_are_elements() -> None:
    """Both directions side by side are one array (T, B, 2H), which has no rows of sequences."""
    model = Model(bidirectional=True)
    x = tg.tensor(np.random.default_rng(0).normal(size=(9, B, 3)))
    with tg.inspect.intervene("lstm.l1_reverse", gate="f", function=lambda f: f + 0.2, time=2):
        changed = (model.layer(x)[0] ** 2).sum()
    found = tg.inspect.diff((model.layer(x)[0] ** 2).sum(), changed)
    assert found.gradients is not None
    assert len(found.gradients.element) == 3
    told = words(found)
    assert "at t = 2 in lstm.l1_reverse, which counts from the end: gate f" in told
    assert f"(element {[*found.gradients.element]})" in told
    assert "those of lstm, lstm.l1_reverse at every step, lstm.l0_reverse" in told


def test_nothing_in_common_is_an_error() -> None:
    w = tg.tensor(np.ones(3), requires_grad=True)
    with pytest.raises(ArgumentError, match="nothing to compare"):
        tg.inspect.diff(Model().loss(4), tg.inspect.mark(tg.tanh(w), "s", time=0)[0])


@pytest.mark.parametrize("wrong", [3, None, [1.0]])
def test_what_is_not_a_run_is_refused(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="neither a loss"):
        tg.inspect.diff(wrong, Model().loss(2))


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), "x", float("inf")])
def test_a_tolerance_is_a_number_from_0(tolerance: Any) -> None:
    loss = Model().loss(2)
    with pytest.raises(ArgumentError, match="tolerance"):
        tg.inspect.diff(loss, loss, tolerance)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite(wrong: float) -> None:
    model = Model("GRU")
    x = np.random.default_rng(0).normal(size=(6, B, 3))
    other = x.copy()
    other[3, 1, 2] = wrong
    runs = [(model.layer(tg.tensor(each))[0][-1] ** 2).sum() for each in (x, other)]
    found = tg.inspect.diff(*runs)
    assert found.values is not None
    assert (found.values.time, found.values.sequence, found.values.unit) == (3, 1, 2)
    assert found.values.difference == np.inf
    assert ("NaN" if np.isnan(wrong) else "∞") in words(found)
    assert tg.inspect.diff(runs[1], runs[1]).same


def test_a_smaller_tolerance_finds_a_smaller_change() -> None:
    model, changed = Model(dtype="float32"), Model(dtype="float32")
    changed.head.weight.data[0, 1] *= 1 + 3e-6
    losses: tuple[Callable[[], tg.Tensor], ...] = (model.loss, changed.loss)
    assert tg.inspect.diff(*(loss() for loss in losses)).same
    found = tg.inspect.diff(*(loss() for loss in losses), tolerance=3e-7)
    assert found.values is not None
    assert found.values.path == "linear"


# --- pictures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cut() -> tg.inspect.TraceDiff:
    model = Model("RNN", num_layers=1)
    return tg.inspect.diff(model.loss(6), model.loss(6, truncate=3))


def test_pictures_and_pages(cut: tg.inspect.TraceDiff, tmp_path: Any) -> None:
    pytest.importorskip("vl_convert")
    cut.save_svg(tmp_path / "diff.svg")
    drawn = (tmp_path / "diff.svg").read_text()
    assert all(text in drawn for text in ("rnn.l0: gradients", "W_hh h₋", "difference"))
    cut.save_html(tmp_path / "diff.html")
    page = (tmp_path / "diff.html").read_text()
    assert cut.sentences[0] in page
    assert "A column is a time step" in page


def test_charts_are_what_vega_lite_allows(cut: tg.inspect.TraceDiff) -> None:
    pytest.importorskip("altair")
    cut.chart().to_dict(validate=True)


def test_long_runs_are_drawn_with_the_largest_difference_of_each_column() -> None:
    pytest.importorskip("altair")
    model = Model("RNN", num_layers=1, hidden_size=2)
    x = np.zeros((700, 1, 3))
    found = tg.inspect.diff(
        model.layer(tg.tensor(x))[0][-1].sum(), model.layer(tg.tensor(x), truncate=333)[0][-1].sum()
    )
    panel = chart._steps(found.boxes[0], "gradients", None)
    rows = [row for layer in panel.layer for row in layer.data.values]
    columns = {row["t"] for row in rows if row.get("y") == "h" and "kind" in row}
    assert 100 < len(columns) <= 210


def test_curves_are_those_of_a_state_that_differs() -> None:
    """If one loop has two layers, the curves are those of the layer that was changed."""
    found = tg.inspect.diff(loop(), loop(bump=15))
    assert found.boxes[0].a.states == ("h", "g")
    assert chart._state_of_interest(found.boxes[0], found.tolerance) == "g"
    same = tg.inspect.diff(loop(), loop())
    assert chart._state_of_interest(same.boxes[0], same.tolerance) == "h"
