"""The computed sentences: models whose gradient is lost in a known way, and experiments that confirm it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from models.residual import ResidualNet
from tests.support import Array
from tinygrad182.inspect.microscope.passed_back import far
from tinygrad182.inspect.microscope.story import story
from tinygrad182.inspect.microscope.trend import pieces
from tinygrad182.inspect.microscope.wording import Sentence

SEEDS = range(8)
T, H, INPUTS = 30, 8, 3
FORGET = slice(H, 2 * H)
"""The rows of an LSTM's forget gate, and of a GRU's update gate."""


def one(sentences: list[Sentence], kind: str) -> Sentence:
    """The only sentence of a kind."""
    (found,) = [s for s in sentences if s.kind == kind]
    return found


def orthogonal(rng: np.random.Generator, n: int = H) -> Array:
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


def rnn(rng: np.random.Generator, scale: float, nonlinearity: str = "tanh") -> tg.nn.RNN:
    """A layer whose weight matrix multiplies every gradient's norm by ``scale``."""
    layer = tg.nn.RNN(INPUTS, H, nonlinearity=nonlinearity, rng=rng, dtype="float64")
    layer.weight_hh_l0.assign(scale * orthogonal(rng))
    return layer


def inputs(rng: np.random.Generator, scale: float = 0.1, steps: int = T) -> Array:
    return rng.normal(size=(steps, 2, INPUTS)) * scale


def last(layer: Any, x: Array) -> tg.Tensor:
    """A loss at the last step."""
    return (layer(tg.tensor(x))[0][-1] ** 2).sum()


def gated(rng: np.random.Generator, kind: str, **options: Any) -> Any:
    """A layer that remembers, unless its first input is 1, which shuts the gate of the previous state."""
    layer = getattr(tg.nn, kind)(INPUTS, H, rng=rng, dtype="float64", **options)
    weight, bias = layer.weight_ih_l0.numpy().copy(), layer.bias_ih_l0.numpy().copy()
    weight[FORGET, 0], bias[FORGET] = -25.0, 5.0
    layer.weight_ih_l0.assign(weight)
    layer.bias_ih_l0.assign(bias)
    return layer


def shutting(rng: np.random.Generator, times: Any, steps: int = T) -> Array:
    x = inputs(rng, 0.3, steps)
    x[..., 0] = 0.0
    x[times, :, 0] = 1.0
    return x


def passed(loss: tg.Tensor, path: str, state: str, time: int) -> float:
    """The factor that one step passes back, from the gradients alone."""
    log = tg.inspect.gradient_flow(loss)[path][state].log_grad_norm
    return float(np.exp(log[time - 1] - log[time]))


# --- where the gradient ends up -------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rho", [0.5, 1.0, 1.5])
def test_a_linear_network_halves_doubles_or_keeps_it_as_its_matrix_does(
    rho: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    told = story(last(rnn(rng, rho, "identity"), inputs(rng)))
    regime, cause = one(told, "regime"), one(told, "cause")
    (piece,) = regime.numbers["pieces"]
    assert piece[:2] == (T - 1, 0)
    assert piece[2] / (T - 1) == pytest.approx(math.log10(rho), abs=1e-10)
    assert regime.numbers["decades"] == pytest.approx((T - 1) * math.log10(rho), abs=1e-9)
    text = {0.5: "halves with every step", 1.0: "keeps its size", 1.5: "doubles every 1.7 steps"}[
        rho
    ]
    assert text in regime.text
    assert cause.numbers["weight"] == pytest.approx(math.log10(rho), abs=1e-10)
    assert cause.numbers["saturation"] == pytest.approx(0, abs=1e-12)
    if rho != 1:
        assert "the weight matrix alone" in cause.text.lower()
        assert "nothing saturates" in cause.text.lower()


@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_short_sequences_have_sentences_too(steps: int) -> None:
    rng = np.random.default_rng(0)
    told = story(last(rnn(rng, 0.5, "identity"), inputs(rng, steps=steps)))
    if steps == 1:
        (only,) = told
        assert only.text == "There is one step, t = 0: no gradient goes back through time."
        return
    assert one(told, "regime").numbers["decades"] == pytest.approx((steps - 1) * math.log10(0.5))
    assert "halves with every step" in one(told, "regime").text
    assert len([s for s in told if s.kind == "place"]) == (steps > 2)


def test_a_size_that_no_float_holds_is_written() -> None:
    rng = np.random.default_rng(0)
    told = story(last(rnn(rng, 0.5, "identity"), inputs(rng, steps=10_000)))
    assert one(told, "regime").numbers["decades"] == pytest.approx(
        9999 * math.log10(0.5), rel=1e-12
    )
    assert "8e-3011 of it is left" in one(told, "regime").text or "e-30" in one(told, "regime").text


def loop(step: Any, steps: int = T, first: int = 0, backward: bool = False) -> tg.Tensor:
    """A loss at the last step of a loop of your own, ``h = step(h, t)``."""
    h = tg.inspect.mark(tg.full((2, H), 0.3, dtype="float64", requires_grad=True), "h", time=-1)
    for t in reversed(range(steps)) if backward else range(steps):
        if t == first and first:
            h = h.detach()
        h = tg.inspect.mark(step(h, t), "h", time=t)
    return (h * tg.tensor(np.arange(1.0, H + 1))).sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gradient_that_is_kept_and_then_lost_is_described_in_two_pieces(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bend, w = int(rng.integers(12, 28)), tg.tensor(orthogonal(rng), requires_grad=True)
    told = story(loop(lambda h, t: (1.0 if t > bend else 0.6) * (h @ w), 40))
    regime, place, cause = (one(told, kind) for kind in ("regime", "place", "cause"))
    (kept, lost) = regime.numbers["pieces"]
    assert kept == (39, bend, pytest.approx(0, abs=1e-10))
    assert lost == (bend, 0, pytest.approx(bend * math.log10(0.6)))
    assert f"keeps its size until t = {bend}, then halves every 1.4 steps" in regime.text
    if bend <= 0.6 * 39:
        assert (place.numbers["start"], place.numbers["end"]) == (bend, 0)
        assert cause.numbers["why"] == "weight"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_line_that_wavers_is_one_piece(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=200) * 0.4
    assert len(pieces(0.3 * np.arange(200.0) + noise)) == 1
    bent = pieces(0.3 * np.minimum(np.arange(200.0), 120) + noise)
    assert [abs(p.start - 120) < 12 for p in bent[1:]] == [True]


# --- where, and by what ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_step_at_which_a_vanilla_network_saturates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    planted, layer, x = int(rng.integers(2, T - 1)), rnn(rng, 0.98), inputs(rng)
    layer.weight_ih_l0.assign(
        rng.choice([-1.0, 1.0], (H, INPUTS)) * (0.3 + rng.random((H, INPUTS)))
    )
    x[planted] = 0.0
    x[planted, :, 0] = 20.0
    loss = last(layer, x)
    told = story(loss)
    regime, place, cause = (one(told, kind) for kind in ("regime", "place", "cause"))
    assert place.numbers["times"] == [planted]
    assert f"at one step: t = {planted} passes back" in regime.text
    assert (cause.numbers["why"], cause.numbers["time"]) == ("saturation", [planted])
    split = tg.inspect.gain_split(loss, times=planted)
    assert cause.numbers["factor"] == pytest.approx(math.log10(split.saturation[0]))
    assert split.gain[0] == pytest.approx(passed(loss, "rnn.l0", "h", planted))
    x[planted] = 0.0  # the experiment: without the large input nothing is lost there
    assert passed(last(layer, x), "rnn.l0", "h", planted) > 0.5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_step_at_which_a_gate_shuts(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    planted = int(rng.integers(2, T - 1))
    layer, x = gated(rng, kind, fused=seed % 4 > 0), shutting(rng, planted)
    path, gate, state = {"LSTM": ("lstm.l0", "f", "c"), "GRU": ("gru.l0", "z", "h")}[kind]
    loss = last(layer, x)
    told = story(loss)
    assert f"t = {planted}" in one(told, "regime").text
    assert one(told, "place").numbers["times"] == [planted]
    (cause,) = [s for s in told if "why" in s.numbers]
    assert (cause.numbers["why"], cause.numbers["time"]) == (gate, [planted])
    assert {"f": "the forget gates", "z": "the update gates"}[gate] in cause.text
    seen: list[tg.Tensor] = []

    def look(value: tg.Tensor) -> tg.Tensor:
        seen.append(value)
        return value

    with tg.inspect.intervene(path, gate, function=look, time=planted):
        last(layer, x)
    assert cause.numbers["value"] == pytest.approx(float(seen[0].numpy().mean()), rel=1e-9)
    with tg.inspect.intervene(path, gate, value=1.0, time=planted):
        assert passed(last(layer, x), path, state, planted) > 0.6
    assert passed(loss, path, state, planted) < 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_the_stretch_on_which_forget_gates_stay_shut(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = int(rng.integers(3, T - 10))
    layer, x = gated(rng, "LSTM"), shutting(rng, slice(first, first + 7))
    place, cause = (one(story(last(layer, x)), kind) for kind in ("place", "cause"))
    assert abs(place.numbers["start"] - (first + 6)) <= 2
    assert abs(place.numbers["end"] - (first - 1)) <= 2
    assert cause.numbers["why"] == "f"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_step_at_which_all_units_are_switched_off(seed: int) -> None:
    rng = np.random.default_rng(seed)
    planted, layer = int(rng.integers(1, T - 1)), rnn(rng, 0.9, "relu")
    layer.bias_ih_l0.assign(np.full(H, 2.0))
    layer.weight_ih_l0.assign(-np.ones((H, INPUTS)))
    x = np.zeros((T, 2, INPUTS))
    x[planted] = 100.0
    loss = last(layer, x)
    told = story(loss)
    regime, cause = one(told, "regime"), one(told, "cause")
    norms = tg.inspect.gradient_flow(loss)["rnn.l0"].h.grad_norm
    assert not norms[:planted].any()
    assert norms[planted:].all()
    assert regime.numbers["zero"] == planted
    assert f"is exactly 0 before t = {planted}" in regime.text
    assert cause.numbers["why"] == "saturation"
    assert "all are switched off" in cause.text


@pytest.mark.parametrize("every", [True, False])
def test_windows_of_truncated_backpropagation_are_not_a_lost_gradient(every: bool) -> None:
    rng = np.random.default_rng(0)
    output = rnn(rng, 0.9)(tg.tensor(inputs(rng)), truncate=10)[0]
    told = story((output**2).sum() if every else (output[-1] ** 2).sum())
    assert one(told, "regime").numbers["zero"] == 20
    assert one(told, "cause").numbers["why"] == "cut"
    assert "t = 20 begins one" in one(told, "cause").text


def test_states_that_change_their_shape_are_described_as_layers() -> None:
    rng, h = np.random.default_rng(0), tg.ones((2, 6), dtype="float64")
    for t in range(4):
        w = tg.tensor(rng.normal(size=(6 - t, 5 - t)), requires_grad=True)
        h = tg.inspect.mark(tg.tanh(h @ w), "h", time=t)
    told = story(h.sum())
    assert told
    assert all(s.path == "" and "Going back" in s.text for s in told[:1])


def test_a_loop_whose_past_is_detached_says_where_its_graph_begins() -> None:
    rng = np.random.default_rng(0)
    w = tg.tensor(0.7 * orthogonal(rng), requires_grad=True)
    told = story(loop(lambda h, t: tg.tanh(h @ w), first=13))
    assert one(told, "regime").numbers["end"] == 13
    assert one(told, "note").numbers["begins"] == 13


def test_a_past_that_is_detached_from_what_the_last_step_sends_back() -> None:
    w = tg.tensor(0.7 * np.eye(H), requires_grad=True)
    h, loss = tg.ones((2, H), dtype="float64"), tg.zeros((), dtype="float64")
    for t in range(T):
        h = tg.inspect.mark(tg.tanh((h.detach() if t == 13 else h) @ w), "h", time=t)
        loss = loss + (h**2).sum()
    told = story(loss)
    assert one(told, "regime").numbers["zero"] == 13
    assert "Nothing leads from t = 13 to t = 12" in one(told, "cause").text


@pytest.mark.parametrize("seed", SEEDS)
def test_the_step_at_which_values_stop_being_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    planted, layer, x = int(rng.integers(0, T)), rnn(rng, 0.9), inputs(rng)
    x[planted] = np.nan
    (only,) = story(last(layer, x))
    assert (only.numbers["time"], only.numbers["what"]) == (planted, "NaN")
    assert f"NaN from t = {planted} on" in only.text


@pytest.mark.parametrize("seed", SEEDS)
def test_the_step_that_makes_a_gradient_no_number(seed: int) -> None:
    rng = np.random.default_rng(seed)
    planted = int(rng.integers(1, T))
    w = tg.tensor(0.9 * orthogonal(rng), requires_grad=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = loop(lambda h, t: tg.tanh(h @ w) + (tg.sqrt(h * 0.0) if t == planted else 0.0))
        (only,) = story(loss)
    assert (only.numbers["time"], only.numbers["what"]) == (planted, "NaN")


# --- through which path ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_factors_of_a_vanilla_network_make_up_its_fall(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loss = last(rnn(rng, 0.8), inputs(rng, 1.0))
    told = story(loss)
    cause, regime = one(told, "cause").numbers, one(told, "regime").numbers
    assert cause["weight"] == pytest.approx(math.log10(0.8), abs=1e-9)
    whole = (cause["weight"] + cause["saturation"]) * (T - 1)
    assert whole == pytest.approx(regime["decades"], abs=1e-9)
    share = (T - 1) * math.log10(0.8) / regime["decades"]
    assert cause["weight_share"] == pytest.approx(share)
    assert f"{share:.0%} of the fall (in decades) is the weight matrix" in one(told, "cause").text


def test_a_matrix_that_grows_what_saturation_shrinks_has_no_share_of_the_fall() -> None:
    rng = np.random.default_rng(0)
    told = one(story(last(rnn(rng, 1.1), inputs(rng, 2.0))), "cause")
    assert "weight_share" not in told.numbers
    assert told.numbers["saturation"] < 0 < told.numbers["weight"]
    assert told.text.startswith("Saturation shrinks the gradient, ")
    assert f"by {10 ** told.numbers['saturation']:.2f} (saturation)" in told.text


@pytest.mark.parametrize("seed", SEEDS)
def test_the_share_of_the_cell_path_is_that_of_path_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layer = tg.nn.LSTM(INPUTS, H, rng=rng, dtype="float64", fused=seed % 4 > 0)
    loss = last(layer, inputs(rng, 1.0))
    cause = one(story(loss), "cause")
    split = tg.inspect.path_split(loss)["c"]
    assert cause.numbers["share"] == pytest.approx(split.shares["direct"][:-1].mean(), rel=1e-9)
    direct, whole = split.parts["direct"], split.grad
    kept = [np.linalg.norm(direct[t - 1]) / np.linalg.norm(whole[t]) for t in range(1, T)]
    assert cause.numbers["kept"] == pytest.approx(np.log10(kept).mean(), rel=1e-9)
    assert cause.numbers["gate"] == "f"
    assert cause.text.startswith("On the cell path ")
    assert "never by a matrix" in cause.text
    assert f"{cause.numbers['share']:.0%} of ∂L/∂c" in cause.text
    assert f"by {10 ** cause.numbers['kept']:.2f}" in cause.text


def test_forget_gates_that_are_shut_throughout_leave_the_hidden_path() -> None:
    rng = np.random.default_rng(0)
    layer = tg.nn.LSTM(INPUTS, H, forget_bias=-6.0, rng=rng, dtype="float64")
    cause = one(story(last(layer, inputs(rng, 1.0))), "cause")
    assert cause.numbers["share"] < 0.1
    assert cause.text.startswith("The forget gates are nearly shut, so ")
    assert f"over the hidden path: {1 - cause.numbers['share']:.0%}" in cause.text


def test_the_sign_of_the_straight_path_counts() -> None:
    rng = np.random.default_rng(0)
    w = tg.tensor(0.5 * orthogonal(rng), requires_grad=True)
    told = one(story(loop(lambda h, t: 0.1 * tg.tanh(h @ w) - 0.9 * h)), "cause")
    assert told.numbers["kept"] == pytest.approx(math.log10(0.9), abs=1e-12)
    assert 0.8 < told.numbers["share"] < 1.1


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_depth_in_the_place_of_time(seed: int, skip: bool) -> None:
    rng = np.random.default_rng(seed)
    model = ResidualNet(INPUTS, H, depth=20, skip=skip, rng=rng, dtype="float64")
    loss = model(tg.tensor(inputs(rng, 1.0)[0])).sum()
    told = story(loss)
    cause = one(told, "cause")
    assert "from block 19 to block 0" in one(told, "regime").text
    if skip:
        assert cause.numbers["kept"] == pytest.approx(0, abs=1e-12)
        assert cause.text.startswith("The skips pass the gradient back as it is")
    else:
        assert "the weight matrices" in cause.text
        assert one(told, "regime").numbers["decades"] < -2


@pytest.mark.parametrize("leak", [0.9, 0.99])
def test_the_straight_path_of_a_loop_of_your_own(leak: float) -> None:
    rng = np.random.default_rng(0)
    w = tg.tensor(0.5 * orthogonal(rng), requires_grad=True)
    told = one(story(loop(lambda h, t: leak * h + (1 - leak) * tg.tanh(h @ w))), "cause")
    assert told.numbers["kept"] == pytest.approx(math.log10(leak), abs=1e-12)
    assert told.text.startswith("On the straight path h → h no matrix multiplies the gradient")
    assert f"each step multiplies it by {leak:.2f}" in told.text


def test_a_gate_that_stands_in_the_factor_turned_round_is_not_named() -> None:
    w = tg.tensor(np.eye(H), requires_grad=True)

    def step(h: tg.Tensor, t: int) -> tg.Tensor:
        return h + tg.inspect.mark(tg.sigmoid(h @ w - 2.0), "z") * (tg.tanh(h @ w) - h)

    assert one(story(loop(step)), "cause").numbers["gate"] == ""


# --- losses over many steps, several recurrences --------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_loss_over_all_steps_is_followed_from_the_last_alone(kind: str, fused: bool) -> None:
    rng = np.random.default_rng(0)
    layer = getattr(tg.nn, kind)(INPUTS, H, rng=rng, dtype="float64", fused=fused)
    output, _ = layer(tg.tensor(inputs(rng, 1.0)))
    followed = far((output**2).mean())
    alone = (output[-1] ** 2).sum() / math.prod(output.shape)
    a, b = (tg.inspect.gradient_flow(loss) for loss in (followed.loss, alone))
    for path, states in b.items():
        assert followed.reads[path] == list(range(T))
        for name, state in states.items():
            np.testing.assert_allclose(a[path][name].grad, state.grad, rtol=1e-12)
    text = one(story((output**2).mean()), "regime").text
    assert text.startswith("The loss reads 30 steps")
    assert "the last one alone" in text


def test_a_loss_at_one_step_is_followed_as_it_is() -> None:
    rng = np.random.default_rng(0)
    loss = last(rnn(rng, 0.9), inputs(rng))
    assert far(loss).loss is loss


def test_several_recurrences_are_sorted_by_the_change_of_their_gradients() -> None:
    rng = np.random.default_rng(0)
    lstm = tg.nn.LSTM(INPUTS, H, 2, bidirectional=True, rng=rng, dtype="float64")
    told = story(lstm(tg.tensor(inputs(rng, 1.0)))[0].sum())
    regimes = [s for s in told if s.kind == "regime"]
    assert {s.path for s in regimes} == {"lstm.l0", "lstm.l0_reverse", "lstm.l1", "lstm.l1_reverse"}
    sizes = [abs(s.numbers["decades"]) for s in regimes]
    assert sizes == sorted(sizes, reverse=True)
    assert all(s.text.startswith(f"{s.path}: ") for s in told)
    for path in {s.path for s in told}:
        assert len([s for s in told if s.path == path and not s.folded]) <= 3


def test_gradients_from_the_layer_above_are_described() -> None:
    rng = np.random.default_rng(0)
    layer = tg.nn.RNN(INPUTS, H, 2, rng=rng, dtype="float64")
    layer.weight_hh_l0.assign(0.3 * orthogonal(rng))
    layer.weight_hh_l1.assign(0.9 * orthogonal(rng))
    loss = last(layer, inputs(rng, 1.0))
    told = [s for s in story(loss) if (s.path, s.kind) == ("rnn.l0", "cause")]
    local = tg.inspect.path_split(loss, "rnn.l0")["h"].shares["local"][:-1].mean()
    assert told[0].numbers["afresh"] == pytest.approx(local)
    assert f"{local:.0%} of it is new at every step" in told[0].text


def test_a_loop_that_runs_from_the_end_is_described_in_its_own_times() -> None:
    w = tg.tensor(0.5 * np.eye(H), requires_grad=True)
    told = story(loop(lambda h, t: h @ w, backward=True))
    assert "from t = 0 to t = 29" in one(told, "regime").text


def test_sequences_that_end_earlier_are_left_to_the_longest() -> None:
    rng = np.random.default_rng(0)
    layer, x = rnn(rng, 0.9), tg.tensor(inputs(rng, 1.0))
    _output, final = layer(x, lengths=[T, 5])
    told = story((final**2).sum())
    alone = story((layer(x[:, :1])[0][-1] ** 2).sum())
    assert one(told, "regime").numbers["decades"] == pytest.approx(
        one(alone, "regime").numbers["decades"]
    )


def test_a_gradient_may_be_given() -> None:
    rng = np.random.default_rng(0)
    output, _ = rnn(rng, 0.9)(tg.tensor(inputs(rng)))
    given = np.zeros(output.shape)
    given[7] = 1.0
    a, b = story(output, given), story(output[7].sum())
    assert [s.text for s in a] == [s.text for s in b]


def test_every_text_is_a_sentence() -> None:
    rng = np.random.default_rng(0)
    for kind in ("RNN", "LSTM", "GRU"):
        layer = getattr(tg.nn, kind)(INPUTS, H, rng=rng, dtype="float64")
        for told in story((layer(tg.tensor(inputs(rng)))[0] ** 2).sum()):
            assert not told.text[0].islower()
            assert told.text.endswith(".")
            assert "  " not in told.text
            assert all(len(part.split()) <= 34 for part in told.text.split(". "))


# --- graphs without a recurrence ------------------------------------------------------------------


class MLP(tg.nn.Module):
    def __init__(self, nonlinearity: Any, rng: np.random.Generator) -> None:
        super().__init__()
        self.layers = [tg.nn.Linear(H, H, rng=rng, dtype="float64") for _ in range(6)]
        for layer in self.layers:
            layer.weight.assign(orthogonal(rng))
            layer.bias.assign(np.zeros(H))
        self.nonlinearity = nonlinearity

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        for layer in self.layers:
            x = self.nonlinearity(layer(x))
        return x


@pytest.mark.parametrize("seed", SEEDS)
def test_the_layer_at_which_a_feed_forward_network_saturates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, planted = MLP(tg.tanh, rng), seed % 5
    model.layers[planted].bias.assign(np.full(H, 9.0))
    regime, place = story((model(tg.tensor(rng.normal(size=(4, H)) * 0.1)) ** 2).mean())
    assert place.numbers["op"] == "tanh"
    assert f"tanh after layers.{planted}, which passes back" in place.text
    assert regime.numbers["decades"] < place.numbers["factor"] / 2 < -2
    model.layers[planted].bias.assign(np.zeros(H))
    (alone,) = story((model(tg.tensor(rng.normal(size=(4, H)) * 0.01)) ** 2).mean())
    assert "keeps its size" in alone.text


def test_the_layer_at_which_a_feed_forward_network_is_switched_off() -> None:
    rng = np.random.default_rng(0)
    model = MLP(tg.relu, rng)
    for layer in model.layers:
        layer.bias.assign(np.ones(H))
    model.layers[3].bias.assign(np.full(H, -99.0))
    (only,) = story(model(tg.tensor(rng.normal(size=(4, H)))).sum())
    assert only.text == (
        "From relu after layers.3 back, the gradient is exactly 0: that operation makes it so."
    )


def test_a_graph_of_a_leaf_alone_has_no_story() -> None:
    assert story(tg.tensor(1.0, requires_grad=True)) == []


@pytest.mark.parametrize("fused", [True, False])
def test_sequences_that_have_ended_are_followed_from_their_end(fused):
    layer = tg.nn.LSTM(2, 4, rng=0, dtype="float64", fused=fused)
    x = tg.tensor(np.random.default_rng(0).normal(size=(8, 2, 2)))
    told = story((layer(x, lengths=[3, 5])[0] ** 2).sum())
    assert told[0].numbers["start"] == 4
    assert "multiplied by 0 " not in told[-2].text
    assert "multiply it by 0 " not in told[-2].text


def test_a_factor_that_differs_along_the_way_is_called_a_mean():
    h, one = (tg.tensor(np.ones((1, 4)), requires_grad=True) for _ in range(2))
    for t in range(40):
        h = tg.inspect.mark(h * (2.0 if t < 20 else 0.5) * one, "h", time=t)
    assert "on average each step" in story(h.sum())[1].text
