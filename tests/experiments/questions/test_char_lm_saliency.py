"""Saliency of characters: its numbers against plain gradients, and the contents of the chart."""

import dataclasses
import re

import numpy as np
import pytest
from rich.progress import Progress

import tinygrad182 as tg
from experiments.questions import char_lm
from experiments.questions.char_lm import saliency as measured
from experiments.questions.char_lm import saliency_figures
from experiments.questions.char_lm.learner import Learner
from experiments.questions.char_lm.saliency import (
    Saliency,
    by_lag,
    of_text,
    passage,
    saliency_of,
    telling,
)
from experiments.questions.char_lm.text import Corpus
from models import CharLM
from tests.experiments.texts import a_text
from tests.support import assert_close

CELLS = ("rnn", "lstm", "gru")


def a_model(cell, layers=1):
    return CharLM("abcde ", 5, 3, layers, cell=cell, rng=4, dtype="float64")


def losses_by_hand(model, tokens):
    """−log p of each following character (T, B), and the vectors that were read, as one leaf (T, B, E)."""
    x = tg.tensor(model.embedding(tokens[:-1]).numpy(), requires_grad=True)
    hidden, _ = model.recurrent(x)
    p = tg.softmax(model.head(hidden))
    t, b = np.indices(tokens[1:].shape)
    return -tg.log(p[t, b, tokens[1:]]), x


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_each_norm_is_that_of_the_gradient_by_the_vector(cell, layers):
    model, text = a_model(cell, layers), "bad cab dead a"
    log10, probabilities = of_text(model, text)
    losses, x = losses_by_hand(model, model.encode(text)[:, None])
    assert log10.shape == (13, 13)
    for k in range(13):
        (gradient,) = tg.grad(losses[k, 0], [x], retain_graph=True)
        assert_close(10.0 ** log10[k], np.linalg.norm(gradient.numpy()[:, 0], axis=-1), 1e-11)
        assert np.all(np.isneginf(log10[k, k + 1 :]))
        following = probabilities[k, model.encode(text[k + 1])[0]]
        assert -np.log(following) == pytest.approx(losses[k, 0].item(), rel=1e-12)
    assert_close(probabilities.sum(axis=1), np.ones(13), 1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_by_lag_is_the_median_over_windows(cell, monkeypatch):
    monkeypatch.setattr(measured, "LAGS", 6)
    monkeypatch.setattr(measured, "WINDOWS", 3)
    model, text = a_model(cell), "abc de bad cab dead ace bed"
    starts = [0, 9, 18]  # 27 characters are three pieces, whose first 7 are read
    left = []
    for start in starts:
        losses, x = losses_by_hand(model, model.encode(text[start : start + 7])[:, None])
        (gradient,) = tg.grad(losses[5, 0], [x])
        norms = np.linalg.norm(gradient.numpy()[::-1, 0], axis=-1)
        left.append(norms / norms[0])
    assert_close(10.0 ** by_lag(model, text), np.sort(left, axis=0)[1], 1e-11)


def test_a_window_without_a_gradient_is_left_out_of_the_median(monkeypatch):
    monkeypatch.setattr(measured, "LAGS", 3)
    monkeypatch.setattr(measured, "WINDOWS", 4)
    norms = iter([[[-9.0, -2.0, -1.0]], [[-np.inf] * 3], [[-5.0, -4.0, 1.0]], [[-3.0, -3.0, 0.0]]])
    monkeypatch.setattr(measured, "_log10_norms", lambda model, loss: np.array(next(norms)))
    text = "abc de bad cab d"
    assert by_lag(a_model("rnn"), text).tolist() == [0.0, -3.0, -6.0]
    monkeypatch.setattr(measured, "_log10_norms", lambda model, loss: np.full((1, 3), -np.inf))
    assert np.isnan(by_lag(a_model("rnn"), text)).all()


def found_of(cell, *norms):
    with np.errstate(divide="ignore"):
        log10 = np.log10(np.array(norms, dtype=float))
    return Saliency(cell, log10, np.full((len(norms), 2), [0.75, 0.25]), np.zeros(100))


def test_distances_are_means_of_characters_back():
    found = found_of("lstm", [2, 0, 0], [1, 3, 0], [3, 0, 1])
    assert_close(found.distances(), [0.0, 0.25, 1.5], 1e-15)
    assert_close(10 ** found.relative()[2], [1, 0, 1 / 3], 1e-15)
    assert telling(found) == 2


def test_a_prediction_without_a_gradient_is_never_the_telling_one(monkeypatch):
    monkeypatch.setattr(measured, "BEFORE", 0)
    found = found_of("lstm", [1, 0, 0], [1, 1, 0], [0, 0, 0])
    assert np.isnan(found.distances()[2])
    assert telling(found) == 1


def test_the_passage_has_one_character_more_than_predictions():
    text = a_text(2000)
    piece = passage(Corpus("toy", text, text[:1000]))
    assert len(piece) == measured.PASSAGE + 1
    assert piece in text
    assert passage(Corpus("toy", text, text[:50])) == text[:50]


# --- the chart ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown():
    """Three small models' saliency, and the rows of its chart."""
    text = a_text(140)
    source = Corpus("toy", text, text)
    models = [CharLM(source.vocabulary, 4, 3, cell=cell, rng=1) for cell in CELLS]
    found = [saliency_of(model, source) for model in models]
    chart = saliency_figures.text_chart(found, passage(source), source.vocabulary, "toy")
    return found, passage(source), chart.to_dict()


def test_the_chart_holds_every_norm_of_every_model(shown):
    found, text, spec = shown
    (rows,) = spec["datasets"].values()
    (largest,) = (param["value"] for param in spec["params"] if param["name"] == "largest")
    for each in found:
        cells = [row for row in rows if row["model"] == each.name and "t" in row]
        assert [row["t"] for row in cells] == list(range(len(text) - 1))
        for row in cells:
            t = row["t"]
            assert row["k_to_log"] == pytest.approx(each.log10[t:, t].tolist(), rel=5e-4)
        assert largest[each.name] == pytest.approx(each.log10.max(axis=1).tolist(), rel=5e-4)
        (head,) = (row for row in rows if row["model"] == each.name and "k_to_said" in row)
        assert len(head["k_to_said"]) == len(text) - 1
        assert head["line"] == cells[0]["line"] - 1


def test_the_heads_say_what_is_expected_and_what_comes():
    said = saliency_figures.expectation(np.array([0.004, 0.9, 0.096]), "a\nb", "b")
    assert said == "expects “⏎” 90%, “b” 10%, “a” 0%; the text goes on with “b” 9.6%"


def test_norms_that_are_0_or_nan_are_named():
    logs = np.array([-0.123456, -np.inf, np.nan, -412.0, np.inf])
    assert saliency_figures._drawable(logs) == [
        -0.1235, "exactly 0", "not a number", -412.0, "not a number",
    ]  # fmt: skip


# --- what is said ---------------------------------------------------------------------------------


def looked(**back):
    found = []
    for cell, log10 in back.items():
        by_lag = np.zeros(measured.LAGS)
        by_lag[measured.BACK] = log10
        found.append(dataclasses.replace(found_of(cell, [1.0]), by_lag=by_lag))
    return found


@pytest.mark.parametrize(
    ("lstm", "gru", "holds"),
    [(-3.0, -4.0, True), (-4.01, -3.0, False), (-3.0, -4.01, False), (np.nan, -3.0, False)],
)
def test_the_claim_is_decided_by_the_smaller_of_the_two(lstm, gru, holds):
    (claim,) = char_lm.farther(looked(rnn=-5.0, lstm=lstm, gru=gru))
    assert claim.holds is holds


@pytest.mark.parametrize(("rate", "ended"), [(0.01, []), (1e38, ["RNN", "GRU"])])
def test_the_others_have_the_sizes_and_the_steps_of_the_lstm(rate, ended):
    text = a_text(400)
    source = Corpus("toy", text[:-60], text[-60:])
    options = char_lm.CharLMOptions(batch=3, window=6, learning_rate=rate)
    lstm = Learner(CharLM(source.vocabulary, 5, 3, 2, rng=0), source, 3, 6, rate)
    lstm.history.losses = [1.0] * 10
    with np.errstate(all="ignore"):  # as the command line does
        others, trouble = char_lm.compared(lstm, source, options, Progress(disable=True))
    assert [each.model.config for each in others] == [
        {**lstm.model.config, "cell": cell} for cell in ("rnn", "gru")
    ]
    assert [
        re.match("The training of the (...) ended early: .*overflow", t)[1] for t in trouble
    ] == ended
    whole = [len(each.history.losses) == 10 for each in others]
    assert whole == [not ended, not ended]


def test_nothing_is_claimed_about_an_lstm_alone():
    assert char_lm.farther(looked(lstm=-1.0)) == ()
    (said,) = char_lm.words.looking_back(looked(rnn=-412.0, lstm=-1.0))
    assert "was read, is 1.0e-412 in the RNN, 0.1 in the LSTM (median" in said
    assert said.startswith(
        "An RNN multiplies the gradient by $W_h$ at each step back; a gated cell"
    )
