"""The sentences about steps, paths and inputs, against NumPy and against experiments."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array
from tinygrad182.inspect.charts.drawn_steps import steps_to_draw
from tinygrad182.inspect.microscope.story import story
from tinygrad182.inspect.microscope.wording import Sentence, pace

SEEDS = range(4)
T, H, INPUTS = 30, 8, 3
FORGET = slice(H, 2 * H)


def one(sentences: list[Sentence], kind: str) -> Sentence:
    (found,) = [s for s in sentences if s.kind == kind]
    return found


def inputs(rng: np.random.Generator, scale: float) -> Array:
    return rng.normal(size=(T, 2, INPUTS)) * scale


def last(layer: Any, x: Array) -> tg.Tensor:
    return (layer(tg.tensor(x))[0][-1] ** 2).sum()


def lstm(rng: np.random.Generator, forget: float, scale: float = 1.0, **options: Any) -> Any:
    """A layer whose forget gates have a bias, and whose recurrent weights are ``scale`` times as large."""
    layer = tg.nn.LSTM(INPUTS, H, rng=rng, forget_bias=forget, dtype="float64", **options)
    layer.weight_hh_l0.assign(scale * layer.weight_hh_l0.numpy())
    return layer


def saturating(rng: np.random.Generator, x: Array, times: slice | int) -> Any:
    """A vanilla layer that keeps the gradient except where its first input is large, as it is made here."""
    layer = tg.nn.RNN(INPUTS, H, rng=rng, dtype="float64")
    layer.weight_hh_l0.assign(np.linalg.qr(rng.normal(size=(H, H)))[0])
    weight = rng.normal(size=(H, INPUTS)) * 0.3
    weight[:, 0] = rng.choice([-1, 1], H) * rng.uniform(0.5, 0.8, H)
    layer.weight_ih_l0.assign(weight)
    x[times, :, 0] = 4.0
    return layer


@pytest.mark.parametrize("seed", SEEDS)
def test_the_steps_of_a_stretch_are_those_that_pass_little_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, x = int(rng.integers(8, T - 14)), inputs(rng, 0.05)
    loss = last(saturating(rng, x, slice(first, first + 7)), x)
    place = one(story(loss), "place")
    log = tg.inspect.gradient_flow(loss)["rnn.l0"].h.log_grad_norm / math.log(10)
    told = re.search(r"at the steps t = (\d+) to t = (\d+), which together pass back", place.text)
    assert told
    start, end = map(int, told.groups())
    assert (start, end) == (place.numbers["start"], place.numbers["end"] + 1)
    assert abs(end - first) <= 1
    assert (
        f"pass back {10 ** (log[end - 1] - log[start]):.0e} of what".replace("e-0", "e-")
        in place.text
    )
    steps = np.diff(log)[end - 1 : start]
    assert place.numbers["step"] == end + int(steps.argmax())


@pytest.mark.parametrize("fused", [True, False])
def test_an_input_that_is_large_where_a_layer_saturates_is_described(fused: bool) -> None:
    rng = np.random.default_rng(0)
    x = inputs(rng, 0.05)
    layer = saturating(rng, x, 14)
    layer.fused = fused
    (cause,) = [s for s in story(last(layer, x)) if "why" in s.numbers]
    bias = layer.bias_ih_l0.numpy()
    given = x if fused else x @ layer.weight_ih_l0.numpy().T + bias  # as the steps are given it
    norms = np.linalg.norm(given.reshape(T, -1), axis=1)
    usual = 10 ** np.median(np.log10(np.delete(norms, [0, 14])))
    assert cause.numbers["input_times"] == pytest.approx(norms[14] / usual, rel=1e-9)
    what = "x" if fused else "W_ih x + b"
    assert f"There {what} is {norms[14] / usual:.0f} times as large as usual." in cause.text


def test_an_input_that_is_as_large_as_usual_is_not_blamed() -> None:
    rng = np.random.default_rng(0)
    layer, x = lstm(rng, 5.0, 0.1), inputs(rng, 1.0)
    with tg.inspect.intervene("lstm.l0", "f", value=1e-4, time=12):
        told = story(last(layer, x))
    (cause,) = [s for s in told if "why" in s.numbers]
    assert cause.numbers["why"] == "f"
    assert "input" not in cause.numbers


def hidden_factors(layer: Any, x: Array) -> list[list[float]]:
    """The factors by which each step over h multiplies ∂L/∂c, in NumPy: gates, weights, and h to c."""

    def sigmoid(z: Array) -> Array:
        return 1 / (1 + np.exp(-z))

    weight = layer.weight_hh_l0.numpy()
    h = c = np.zeros((2, H))
    run = []
    for x_t in x:
        z = x_t @ layer.weight_ih_l0.numpy().T + h @ weight.T + layer.bias_ih_l0.numpy()
        z = z + (layer.bias_hh_l0.numpy() if "bias_hh_l0" in dict(layer.named_parameters()) else 0)
        i, f, o = (sigmoid(z[:, k * H : (k + 1) * H]) for k in (0, 1, 3))
        g, before = np.tanh(z[:, 2 * H : 3 * H]), c
        c = f * c + i * g
        h = o * np.tanh(c)
        run.append((i, f, g, o, c, before))
    found, by_h, by_c = [], 2 * h, np.zeros_like(c)
    for t in range(T - 1, 0, -1):
        i, f, g, o, c, before = run[t]
        by_c = by_c + by_h * o * (1 - np.tanh(c) ** 2)
        by_z = [by_c * g * i * (1 - i), by_c * before * f * (1 - f), by_c * i * (1 - g**2)]
        by_z = np.concatenate([*by_z, by_h * np.tanh(c) * o * (1 - o)], axis=1)
        by_h = by_z @ weight
        around = by_h * run[t - 1][3] * (1 - np.tanh(run[t - 1][4]) ** 2)
        sizes = [np.linalg.norm(a) for a in (by_c, by_z, by_h, around)]
        found.append([b / a for a, b in pairwise(sizes)])
        by_c = by_c * f
    return found


@pytest.mark.parametrize("fused", [True, False])
def test_the_hidden_path_is_split_as_numpy_splits_it(fused: bool) -> None:
    rng = np.random.default_rng(0)
    layer, x = lstm(rng, -4.0, 3.0, fused=fused), inputs(rng, 1.0)
    cause = one(story(last(layer, x)), "cause")
    gates, weight, output = np.log10(hidden_factors(layer, x)).mean(axis=0)
    assert cause.numbers["gates"] == pytest.approx(gates, rel=1e-8)
    assert cause.numbers["weight"] == pytest.approx(weight, rel=1e-8)
    assert cause.numbers["output"] == pytest.approx(output, rel=1e-8)
    assert cause.numbers["around"] == pytest.approx(gates + weight + output, rel=1e-8)
    assert f"the weight matrix by {10**weight:.2g}" in cause.text


def test_a_gradient_grows_by_what_the_hidden_path_adds() -> None:
    rng = np.random.default_rng(0)
    layer, x = lstm(rng, 5.0, 3.0), inputs(rng, 1.0)
    told = story(last(layer, x))
    assert one(told, "regime").numbers["decades"] > 0.1
    assert one(told, "cause").text.endswith("; it grows by what the hidden path adds.")
    layer.weight_hh_l0.assign(np.zeros((4 * H, H)))  # the experiment: without it nothing grows
    told = story(last(layer, x))
    assert one(told, "regime").numbers["decades"] < 0
    assert "adds" not in one(told, "cause").text


def test_why_the_gradient_by_h_is_large_where_the_loss_reads_it() -> None:
    rng = np.random.default_rng(0)
    layer, x = lstm(rng, 5.0, 0.3), inputs(rng, 1.0)
    output, (_, c) = layer(tg.tensor(x))
    told = story((output[-1] ** 2).sum())
    note = one(told, "note")
    flow = tg.inspect.gradient_flow((output[-1] ** 2).sum())["lstm.l0"]
    ratio = (flow.h.log_grad_norm - flow.c.log_grad_norm) / math.log(10)
    assert note.folded
    assert note.numbers["usual"] == pytest.approx(ratio[:-1].mean())
    assert note.text.startswith(f"The loss reads h at t = {T - 1} directly")
    both = (output[-1] ** 2).sum() + 1e-6 * (c**2).sum()
    assert not [s for s in story(both) if s.kind == "note"]


def test_the_opened_step_is_the_one_the_sentences_name() -> None:
    rng = np.random.default_rng(0)
    x = inputs(rng, 0.5)
    layer = tg.nn.RNN(INPUTS, H, rng=rng, dtype="float64")
    x[11] *= 1.8
    view = tg.inspect.look(last(layer, x))
    (i,) = view.flow
    named = next(s.numbers["step"] for s in view.sentences if "step" in s.numbers)
    assert f"t = {named}, passes back" in one(view.sentences, "place").text
    assert view._times[i][view._spans()[i].step] == named
    assert named in [int(view.steps[i].time[k]) for k in view._with_vectors[i].places]


def test_the_opened_step_has_units_where_others_were_asked_for() -> None:
    rng = np.random.default_rng(0)
    view = tg.inspect.look(last(lstm(rng, 0.0), inputs(rng, 1.0)), steps=[3, 22])
    (i,) = view.flow
    assert view._times[i][view._spans()[i].step] in (3, 22)


def test_a_step_that_is_named_is_kept() -> None:
    flat = np.linspace(-9.0, 0.0, 200)
    for named in range(200):
        kept = steps_to_draw([flat], 8, [named])
        assert named in kept.places
        assert len(kept.places) == 8
    assert "that the sentences name" in kept.description


@pytest.mark.parametrize("decades", [-3.0, -0.4, 0.4, 3.0])
def test_a_pace_says_what_each_step_does(decades: float) -> None:
    text = pace(decades, 20, "step")
    number = float(re.findall(r"[\d.]+", text)[-1]) / (100 if "%" in text else 1)
    assert number == pytest.approx(10 ** (decades / 20), rel=0.01)
