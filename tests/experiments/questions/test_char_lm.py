"""char-lm: training against one long run, searches against all texts, and the sentences."""

import copy
import dataclasses
import json
import re
import sys
from itertools import product

import numpy as np
import pytest
from rich.progress import Progress

import tinygrad182 as tg
from experiments.app.command_line import main
from experiments.app.errors import DataError, OptionError
from experiments.drawing.words import typed
from experiments.questions import char_lm
from experiments.questions.char_lm import saliency
from experiments.questions.char_lm.continuations import (
    Continuation,
    Sample,
    continuations,
    log_probabilities,
    long_samples,
)
from experiments.questions.char_lm.learner import History, Learner, model_of, sequences
from experiments.questions.char_lm.ngrams import ngram_losses
from experiments.questions.char_lm.text import LEAST, Corpus
from models import CharLM
from tests.experiments.texts import a_text
from tests.support import assert_close, assert_same_bits
from tinygrad182.display.pages import prose

# --- learning -------------------------------------------------------------------------------------


def a_learner(*, learning_rate=0.01, dtype=None, seed=0, layers=1, window=6):
    text = a_text(400)
    source = Corpus("toy", text[:-60], text[-60:])
    model = CharLM(source.vocabulary, 5, 3, layers, rng=seed, dtype=dtype)
    return Learner(model, source, 3, window, learning_rate)


def test_sequences_lie_side_by_side():
    assert sequences(np.arange(11), 2, 3).numpy().T.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert sequences(np.arange(11), 5, 3).numpy().shape == (5, 2)  # only 2 have a window
    with pytest.raises(DataError, match="too short for windows of 11"):
        sequences(np.arange(11), 2, 11)


def test_states_go_on_from_window_to_window_and_start_again_with_the_text():
    learner = a_learner(learning_rate=1e-30, dtype="float64")
    windows = (len(learner.text) - 1) // 6
    assert windows > 3
    learner.learn(windows + 2, 2)
    logits, _ = learner.model(learner.text[:-1])
    pieces = [
        tg.nn.cross_entropy(logits[k : k + 6], learner.text[k + 1 : k + 7]).item()
        for k in range(0, 6 * windows, 6)
    ]
    assert learner.history.losses == pytest.approx([*pieces, *pieces[:2]], rel=1e-12)


def test_the_step_size_falls_to_0():
    learner, sizes = a_learner(learning_rate=0.5), []
    learner.learn(4, 2, advance=lambda: sizes.append(learner.optimizer.lr))
    assert sizes == [0.5, 0.375, 0.25, 0.125]


def test_it_learns():
    learner = a_learner(learning_rate=0.03)
    learner.learn(120, 2)
    assert learner.history.moments == [0, 120]
    texts = (text.numpy().T.ravel() for text in (learner.text, learner.held_out))
    without_context = ngram_losses(*texts, len(learner.model.vocabulary), 1)[0]
    assert learner.history.held_out[1] < without_context < learner.history.held_out[0]


def test_watching_and_saving_change_nothing_about_the_training(tmp_path):
    watched, alone = a_learner(), a_learner()
    watched.learn(5, 99, save=lambda: watched.save(tmp_path / "model.safetensors"))
    alone.learn(5, 2)
    assert watched.history.moments == [0, 1, 2, 3, 4, 5]
    assert watched.history.losses == alone.history.losses
    assert watched.history.held_out[-1] == alone.history.held_out[-1]


@pytest.mark.parametrize("at", [0, 2, 10])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_that_goes_on_gives_the_same_bits(tmp_path, at, dtype):
    whole = a_learner(dtype=dtype)

    def save():
        whole.save(tmp_path / f"{whole.history.moments[-1]}.safetensors")

    assert whole.learn(10, 3, save=save) == ""
    resumed = a_learner(dtype=dtype, seed=9)
    path = tmp_path / f"{at}.safetensors"
    resumed.resume(tg.load(path), path)
    assert len(resumed.history.losses) == at
    assert resumed.learn(10, 3) == ""
    assert vars(resumed.history) == vars(whole.history)
    for name, value in whole.model.state_dict().items():
        assert_same_bits(resumed.model.state_dict()[name], value, name)


def by_hand(model, tokens):
    """Log-probabilities at each step, and the first layer's states, from the formulas."""
    p, layers = dict(model.named_parameters()), range(model.lstm.num_layers)
    zero = tg.zeros((tokens.shape[1], model.lstm.hidden_size), dtype="float64")
    last, found, states = [(zero, zero) for _ in layers], [], []
    for row in tokens:
        x = p["embedding.weight"][row]
        for k in layers:
            h, c = last[k]
            z = x @ p[f"lstm.weight_ih_l{k}"].T + h @ p[f"lstm.weight_hh_l{k}"].T
            z = z + p[f"lstm.bias_ih_l{k}"]
            i, f, g, o = (z[:, n : n + c.shape[1]] for n in range(0, z.shape[1], c.shape[1]))
            c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
            x = tg.sigmoid(o) * tg.tanh(c)
            last[k] = (x, c)
        states.append(last[0])
        found.append(tg.log_softmax(x @ p["head.weight"].T + p["head.bias"]))
    return found, states


@pytest.mark.parametrize("layers", [1, 2])
def test_the_flow_is_the_gradient_by_the_states(layers):
    learner = a_learner(dtype="float64", layers=layers)
    flow = learner.flow()
    piece = learner.held_out[:7, :16].numpy()
    sequences = np.arange(piece.shape[1])
    found, states = by_hand(learner.model, piece[:-1])
    losses = [-rows[sequences, piece[t + 1]].mean() for t, rows in enumerate(found)]
    for i, loss in enumerate((sum(losses) / 6, losses[-1])):
        for j in range(2):
            gradients = tg.grad(loss, [state[j] for state in states], retain_graph=True)
            norms = [np.linalg.norm(gradient.numpy()) for gradient in gradients]
            assert_close(10 ** flow[i, j], norms, 1e-12)


def test_training_that_overflows_ends_and_says_so():
    learner = a_learner(learning_rate=1e38)
    with np.errstate(all="ignore"):  # as the command line does
        stopped = learner.learn(10, 2)
    assert "overflowed" in stopped
    assert len(learner.history.losses) < 10


def test_a_checkpoint_from_before_cells_had_names_is_gone_on_from(tmp_path):
    path = tmp_path / "model.safetensors"
    learner = a_learner()
    learner.learn(2, 2)
    learner.save(path)
    checkpoint = tg.load(path)
    del checkpoint.meta["config"]["cell"]
    go_on(checkpoint, path)
    checkpoint.meta["config"]["cell"] = "gru"
    with pytest.raises(tg.CheckpointError, match="its config does not fit the rest"):
        model_of(checkpoint, path)


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_learners_of_other_cells_learn(cell):
    text = a_text(400)
    source = Corpus("toy", text[:-60], text[-60:])
    learner = Learner(CharLM(source.vocabulary, 5, 3, cell=cell, rng=0), source, 3, 6, 0.03)
    assert learner.learn(60, 2) == ""
    assert learner.history.held_out[1] < learner.history.held_out[0] - 0.3
    assert learner.flow().shape == (2, 1, 6)  # h alone


def test_checkpoints_of_others_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    tg.save(path, tg.nn.Linear(2, 2, rng=0))
    with pytest.raises(DataError, match=r"model\.safetensors: not a checkpoint of char-lm"):
        model_of(tg.load(path), path)


ODD = (None, True, -1, 10**30, 10**400, 0.5, float("nan"), float("inf"), "", "x", [], [[]], {})


def mutated(facts, depth=0):
    """Something odd in each place, and one thing less; of longer lists the ends are tried."""
    yield from ODD
    places = range(len(facts)) if isinstance(facts, list) else facts
    for key in places if isinstance(facts, (dict, list)) else ():
        if isinstance(facts, list) and key not in (0, len(facts) - 1):
            continue
        left_out = copy.copy(facts)
        del left_out[key]
        yield left_out
        for part in mutated(facts[key]):
            changed = copy.copy(facts)
            changed[key] = part
            yield changed


def go_on(checkpoint, path):
    """Do what --resume does before and after training, with a step in between."""
    model = model_of(checkpoint, path)
    learner = a_learner()
    assert learner.model.vocabulary == model.vocabulary
    learner.model = model
    learner.optimizer = tg.optim.Adam(model.parameters(), lr=0.01)
    learner.resume(checkpoint, path)
    learner.fits()
    done = len(learner.history.losses)
    learner.learn(done + 1, 2)
    learner.history.gradient()


def test_damaged_checkpoints_raise_before_anything_is_made_of_them(tmp_path):
    """Every mutation ends in an error of ours, or in a training that goes on."""
    path = tmp_path / "model.safetensors"
    learner = a_learner()
    learner.learn(2, 2)
    learner.save(path)
    good = tg.load(path)
    go_on(copy.deepcopy(good), path)
    told = taken = 0
    for facts in mutated(good.meta):
        if not isinstance(facts, dict):
            continue  # which tg.load does not give
        checkpoint = dataclasses.replace(good, meta=facts, optimizer=None)
        try:
            go_on(checkpoint, path)
        except (tg.CheckpointError, DataError) as error:
            told += 1
            assert re.match(rf"{re.escape(str(path))}: .*name (another )?one", str(error))  # noqa: PT017
        else:
            taken += 1
    assert told > 500
    assert taken > 10


@pytest.mark.parametrize("moments", [[1, 2], [0, 0], [0, 3], [2, 0], [0.0, 2.0]])
def test_moments_are_steps_that_were_made_from_the_first_on(tmp_path, moments):
    path = tmp_path / "model.safetensors"
    learner = a_learner()
    learner.learn(2, 2)
    learner.history.moments = moments
    learner.save(path)
    with pytest.raises(tg.CheckpointError, match="its history does not fit the rest"):
        model_of(tg.load(path), path)


def test_training_goes_on_with_the_sizes_it_began_with(tmp_path):
    path = tmp_path / "model.safetensors"
    a_learner().save(path)
    learner = a_learner()
    learner.learn(2, 2)
    learner.save(path)
    for window, batch, words in ((6, 2, "--batch 3"), (5, 3, "--window 6")):
        text = a_text(400)
        other = Learner(learner.model, Corpus("toy", text[:-60], text[-60:]), batch, window, 0.01)
        other.resume(tg.load(path), path)
        with pytest.raises(OptionError, match=f"go on with {words}"):
            other.fits()


@pytest.mark.parametrize("of", ["model", "optimizer"])
def test_a_checkpoint_without_some_arrays_is_named(tmp_path, of):
    path = tmp_path / "model.safetensors"
    learner = a_learner()
    learner.learn(2, 2)
    learner.save(path)
    checkpoint = tg.load(path)
    if of == "model":
        checkpoint.model.popitem()
    else:
        checkpoint.optimizer["state"][0].popitem()
    with pytest.raises(
        tg.CheckpointError, match=r"model\.safetensors: load_state_dict.*name another"
    ):
        go_on(checkpoint, path)


# --- searches -------------------------------------------------------------------------------------


def a_model():
    model = CharLM("abc", 4, 3, rng=3)
    model.head.weight.assign(3.0 * model.head.weight.numpy())
    return model


def search(model, prompt, itself="", **options):
    defaults = {"characters": 4, "beam_width": (2, 9), "temperature": (0.5,), "expansions": 500}
    opts = char_lm.CharLMOptions(**{**defaults, **options})
    return {each.method: each for each in continuations(model, prompt, opts, itself)}


@pytest.mark.parametrize("prompt", ["a", "cab"])
def test_searches_find_what_all_texts_together_show(prompt):
    model = a_model()
    texts = ["".join(text) for text in product("abc", repeat=4)]
    expected = dict(zip(texts, log_probabilities(model, prompt, texts), strict=True))
    assert sum(np.exp(list(expected.values()))) == pytest.approx(1.0, rel=1e-5)
    found = search(model, prompt, itself="abca")
    assert list(found) == [
        "greedy", "beam 2", "beam 9", "exact search", "sample, temperature 0.5", "the text itself",
    ]  # fmt: skip
    for each in found.values():
        assert each.log_probability == pytest.approx(expected[each.text], abs=1e-5)
        assert each.rescored == pytest.approx(expected[each.text], abs=1e-6)
        assert each.bound is None or each.bound >= max(expected.values()) - 1e-5
    best = found["exact search"]
    assert best.certified
    assert best.text == max(expected, key=expected.get)
    assert found["the text itself"].certified is None


def test_rescoring_adds_up_the_steps():
    model, text = a_model(), "bccab"
    total, state = 0.0, None
    for last, following in zip("a" + text, text, strict=False):
        values, state = model.step(model.encode(last), state)
        total += values.numpy()[0, model.encode(following)[0]]
    assert log_probabilities(model, "a", [text]) == pytest.approx([total], rel=1e-5)


def test_an_exact_search_can_be_left_out():
    assert "exact search" not in search(a_model(), "a", expansions=0)


def test_samples_are_drawn_at_their_temperature():
    model = a_model()
    opts = char_lm.CharLMOptions(prompt=("ab", "c"), temperature=(0.01, 1.0), seed=1)

    def sampled():
        return long_samples(model, opts, length=5, count=3, progress=Progress(disable=True))

    drawn = sampled()
    assert [(each.prompt, each.temperature) for each in drawn] == [
        (prompt, temperature)
        for temperature in (0.01, 1.0)
        for prompt in ("ab", "c")
        for _ in "123"
    ]
    cold = {each.text for each in drawn if each.temperature == 0.01 and each.prompt == "c"}
    assert cold == {search(model, "c", characters=5)["greedy"].text}
    assert drawn == sampled()


# --- what is said ---------------------------------------------------------------------------------

OPTS = char_lm.CharLMOptions(beam_width=(2,), characters=4, temperature=(0.5,))
HISTORY = History([2.0, 1.0], [0, 2], [3.0, 1.0], [[[[-1.0, 0.0]] * 2] * 2] * 2)
SHARES = [
    {"source": "letters at random", "known": 0.1},
    {"source": "sample, temperature 0.5", "known": 0.48},
    {"source": "held-out text", "known": 0.5},
]


def held(history=HISTORY, counting=(3.0, 1.1), words=SHARES, **changed):
    greedy = {"text": "aaaa", "log_probability": -3.0, "rescored": -3.0, "bound": -2.0}
    found = [
        Continuation("a", "greedy", **{**greedy, **changed.get("greedy", {})}),
        Continuation("a", "beam 2", **{**greedy, **changed.get("beam", {})}),
        Continuation(
            "a", "the text itself", **{**greedy, "bound": None, **changed.get("text", {})}
        ),
    ]
    return [c.holds for c in char_lm.claims(history, counting, found, words, OPTS)]


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, None),
        ({"counting": (3.0, 0.99)}, 0),
        ({"counting": (3.0, 0.0)}, 0),
        ({"words": [*SHARES[:1], {**SHARES[1], "known": 0.45}, SHARES[2]]}, 1),
        ({"words": [{**row, "known": np.nan} for row in SHARES]}, 1),
        ({"words": [{**row, "known": 0.5} for row in SHARES]}, 1),
        ({"greedy": {"rescored": -3.001}}, 2),
        ({"beam": {"rescored": -2.999}}, 2),
        ({"text": {"log_probability": -1.9, "rescored": -1.9}}, 3),
        ({"beam": {"bound": -3.001}}, 3),
        ({"beam": {"log_probability": -3.001, "rescored": -3.001}}, 4),
    ],
)
def test_each_claim_is_decided_by_its_numbers(change, broken):
    assert held(**change) == [number != broken for number in range(5)]


def test_the_shares_are_of_samples_without_their_last_piece():
    source = Corpus("toy", "yield object", "yield nothing")
    samples = [Sample("a", 0.5, "object obj"), Sample("b", 0.5, "objekt. yield obje")]
    shares = {r["source"]: r["known"] for r in char_lm.word_shares(source, samples, 0)}
    assert shares["sample, temperature 0.5"] == pytest.approx(2 / 3)
    assert shares["held-out text"] == 0.5


def test_dollar_signs_of_a_text_begin_no_formula():
    (said,) = char_lm.words.about([Continuation("$a$", "greedy", "$b_1$ ", -3.0, -3.0, -3.0)])
    assert typed(said).startswith("After “$a$” the likeliest text found is “$b_1$ ”")
    assert prose(said).startswith("After “$a$” the likeliest text found is “$b_1$ ”")
    assert "<math>" not in prose(said)


def test_sentences_say_what_is_proven():
    greedy = Continuation("a", "greedy", "b", -3.0, -3.0, -1.0)
    best = Continuation("a", "exact search", "  ", -2.0, -2.0, -2.0)
    itself = Continuation("a", "the text itself", "c\n", -4.0, -4.0, None)
    (said,) = char_lm.words.about([greedy, best, itself])
    assert "“··”, log-probability -2.00: proven to be the likeliest of all (exact search)" in said
    assert "“c⏎”, has -4.00: the likeliest text is not one that people write" in said
    (said,) = char_lm.words.about([greedy])
    assert "no text is likelier by more than 2.00" in said
    all_said = char_lm.words.sentences(HISTORY, [greedy], "the loss overflowed")
    assert "0.1 of the gradient is left before training" in all_said[0]
    assert all_said[-1] == "Training ended early: the loss overflowed."


SMALL = [
    *("--hidden-size", "6", "--embedding", "3", "--batch", "4", "--window", "8", "--steps", "6"),
    *("--moments", "3", "--characters", "5", "--beam-width", "2", "3", "--expansions", "50"),
]
ALONE = [*SMALL, "--no-compare"]
"""Without an RNN and a GRU."""


@pytest.fixture(scope="module")
def brief():
    """Shorter samples and a shorter passage: what costs most of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(char_lm, "SAMPLE_LENGTH", 30)
        patch.setattr(saliency, "PASSAGE", 48)
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory, brief):
    folder = tmp_path_factory.mktemp("char-lm")
    (folder / "mine.txt").write_text(a_text(LEAST))
    options = ["--data", str(folder / "mine.txt"), "--checkpoint", str(folder / "on/the.way")]
    assert main(["char-lm", "--out", str(folder / "out"), *SMALL, *options]) == 0
    return folder


def test_a_small_run_writes_its_files(small):
    record = json.loads((small / "out/results.json").read_text())
    assert len(record["tables"]["continuations"]) == 3 * 7
    models = [row["model"] for row in record["tables"]["models"]]
    assert models == [*(f"{n}-gram" for n in range(1, 9)), "RNN", "LSTM", "GRU"]
    assert [row["model"] for row in record["tables"]["reach"]] == ["RNN", "LSTM", "GRU"]
    assert record["claims"][-1]["statement"].startswith("The LSTM and the GRU look farther back")
    names = {
        "loss.png",
        "flow.png",
        "searches.png",
        "saliency.png",
        "reach.png",
        "model.safetensors",
        "samples.txt",
        "samples.csv",
    }
    assert names < set(record["files"])
    assert names < {path.name for path in (small / "out").iterdir()}
    assert (small / "out/flow.csv").read_text().count("\n") == 1 + 3 * 2 * 2 * 8
    assert (small / "out/losses.csv").read_text().count("\n") == 1 + 6
    text = (small / "out/samples.txt").read_text()
    assert text.count("=== sample, temperature 1") == 3 + 3 * char_lm.SAMPLES


@pytest.mark.skipif(sys.platform == "win32", reason="no file can have the name")
def test_a_text_and_a_name_with_control_characters(tmp_path, brief, draw_only):
    draw_only("searches", "saliency")
    data = tmp_path / "a\x0cb.txt"
    data.write_text(a_text(LEAST).replace("e", "\x00").replace("i", "\x0c").replace("o", "\x1b"))
    assert main(["char-lm", "--data", str(data), "--out", str(tmp_path / "out"), *ALONE]) == 0
    assert (tmp_path / "out/searches.png").exists()
    assert (tmp_path / "out/saliency.png").exists()
    record = json.loads((tmp_path / "out/results.json").read_text())
    assert "a␌b.txt" in record["headline"]
    assert "\x1b" not in " ".join(record["reading"])


@pytest.mark.parametrize(("text", "better"), [("abc def ghi\n", False), ("a", True)])
def test_a_text_that_counting_predicts_without_error(tmp_path, brief, draw_only, text, better):
    """The n-gram models have a loss of 0; also, the file's name is not UTF-8."""
    draw_only(*["reach", "saliency"] * better)  # of which no gradient has a logarithm
    data = tmp_path / ("für.txt" if sys.platform == "win32" else "f\udcfcr.txt")
    data.write_text(text * (LEAST // len(text) + 1))
    assert main(["char-lm", "--data", str(data), "--out", str(tmp_path / "out"), *ALONE]) == 0
    record = json.loads((tmp_path / "out/results.json").read_text())
    assert (
        record["claims"][0]["holds"] is better
    )  # with one character, nothing is unknown to either
    assert "-0.00" not in record["headline"]


def test_a_finished_model_is_decoded_without_training(small, tmp_path, monkeypatch, draw_only):
    draw_only()
    monkeypatch.setattr(Learner, "step", None)
    finished, on_the_way = small / "out/model.safetensors", small / "on/the.way"
    assert tg.load(finished).meta == tg.load(on_the_way).meta
    options = ["--data", str(small / "mine.txt"), "--resume", str(finished)]
    sizes = [*ALONE[4:], "--hidden-size", "99", "--embedding", "99"]
    assert main(["char-lm", "--out", str(tmp_path), *sizes, *options]) == 0
    folders = small / "out", tmp_path
    before, after = (json.loads((folder / "results.json").read_text()) for folder in folders)
    for name in after["tables"]:
        alone = [row for row in before["tables"][name] if row.get("model") not in ("RNN", "GRU")]
        assert after["tables"][name] == alone
    assert after["configuration"]["hidden_size"] == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "yield", "wörd"], "not in the vocabulary"),
        (["--resume", "nowhere.safetensors"], "there is no file"),
        (["--window", "300"], "too short for windows of 300"),
    ],
)
def test_what_cannot_be_is_said_before_training(
    small, tmp_path, arguments, words, capsys, monkeypatch
):
    monkeypatch.setattr(Learner, "step", None)
    options = ["--data", str(small / "mine.txt"), "--out", str(tmp_path / "out")]
    assert main(["char-lm", *SMALL, *options, *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_size": 0}, "--hidden-size must be 1 or more"),
        ({"window": 1}, "--window must be 2 or more"),
        ({"moments": 1}, "--moments must be 2 or more"),
        ({"beam_width": ()}, "--beam-width needs at least one value"),
        ({"beam_width": (0,)}, "--beam-width must be 1 or more"),
        ({"temperature": (0.0,)}, "--temperature must be a finite number above 0"),
        ({"expansions": -1}, "--expansions must be 0 or more"),
        ({"prompt": ("a", "")}, "--prompt needs at least one character"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        char_lm.CharLMOptions(**options)
