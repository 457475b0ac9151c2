"""CharLM against its definition, computed with NumPy loops; its two steps against each other."""

import numpy as np
import pytest

import tinygrad182 as tg
from models import CharLM
from models.char_lm import VocabularyError
from tests.support import array, assert_close, assert_same_bits, const, host, moved

VOCABULARY = "abc\n é∂🙂"
ONE, SEVERAL = {"num_layers": 1}, {"num_layers": 3}


def model_of(num_layers=1, dtype="float64", **sizes):
    sizes = {"hidden_size": 5, "embedding_dim": 3, **sizes}
    model = CharLM(VOCABULARY, num_layers=num_layers, rng=0, dtype=dtype, **sizes)
    rng = np.random.default_rng(1)
    for parameter in model.parameters():  # biases too are something
        parameter.assign(const(rng.normal(scale=0.7, size=parameter.shape).astype(dtype)))
    return model


def states_of(model, count, seed=2):
    rng = np.random.default_rng(seed)
    shape = (model.lstm.num_layers, count, model.lstm.hidden_size)
    return tuple(rng.normal(size=shape) for _ in range(2))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def by_definition(model, tokens, state):
    """Logits and last states from the formulas, one sequence and one character at a time."""
    p = {name: value.numpy() for name, value in model.state_dict().items()}
    hidden, cells = (part.copy() for part in state)
    logits = np.empty((*tokens.shape, len(model.vocabulary)))
    for t, b in np.ndindex(*tokens.shape):
        x = p["embedding.weight"][tokens[t, b]]
        for k in range(len(hidden)):
            z = p[f"lstm.weight_ih_l{k}"] @ x + p[f"lstm.weight_hh_l{k}"] @ hidden[k, b]
            i, f, g, o = np.split(z + p[f"lstm.bias_ih_l{k}"], 4)
            cells[k, b] = sigmoid(f) * cells[k, b] + sigmoid(i) * np.tanh(g)
            x = hidden[k, b] = sigmoid(o) * np.tanh(cells[k, b])
        logits[t, b] = p["head.weight"] @ x + p["head.bias"]
    return logits, (hidden, cells)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("layers", [ONE, SEVERAL])
def test_logits_and_states_follow_the_definition(layers):
    model = model_of(**layers)
    tokens = np.random.default_rng(3).integers(0, 8, (6, 4))
    state = states_of(model, 4)
    logits, last = model(tokens, tuple(map(const, state)))
    expected, expected_last = by_definition(model, tokens, state)
    assert_close(logits, expected, 1e-13)
    for part, expected_part in zip(last, expected_last, strict=True):
        assert_close(part, expected_part, 1e-13)


@pytest.mark.parametrize("layers", [ONE, SEVERAL])
@pytest.mark.parametrize("given", [False, True])
def test_a_sequence_is_its_steps_one_after_the_other(layers, given):
    model = model_of(**layers)
    tokens = np.random.default_rng(4).integers(0, 8, (7, 3))
    state = tuple(map(const, states_of(model, 3))) if given else None
    logits, last = model(tokens, state)
    for t in range(7):
        log_probabilities, state = model.step(tokens[t], state)
        assert_close(log_probabilities, log_softmax(logits[t].numpy()), 1e-12)
    for part, expected in zip(state, last, strict=True):
        assert_close(part, expected, 1e-13)


@pytest.mark.parametrize("layers", [ONE, SEVERAL])
def test_gradients_of_the_steps_are_those_of_the_sequence(layers):
    model = model_of(**layers)
    tokens = np.random.default_rng(5).integers(0, 8, (6, 2))
    logits, _ = model(tokens[:-1])
    tg.nn.cross_entropy(logits, tokens[1:]).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = None
    total, state = 0.0, None
    for t in range(5):
        log_probabilities, state = model.step(tokens[t], state)
        total = total - log_probabilities[np.arange(2), tokens[t + 1]].sum() / 10
    total.backward()
    for name, p in model.named_parameters():
        assert_close(p.grad, expected[name], 1e-11, name)


# Sizes with and without blocks of columns in the products, and without and with a rest.
@pytest.mark.parametrize("hidden_size", [1, 5, 64, 70])
@pytest.mark.parametrize("layers", [ONE, SEVERAL])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("count", [1, 9])
def test_the_frozen_step_gives_the_same_numbers(hidden_size, layers, dtype, tolerance, count):
    model = model_of(**layers, hidden_size=hidden_size, dtype=dtype)
    frozen = model.frozen_step()
    tokens = np.random.default_rng(6).integers(0, 8, (5, count))
    state = frozen_state = None
    for t in range(5):
        expected, state = model.step(tokens[t], state)
        found, frozen_state = frozen(tokens[t], frozen_state)
        assert type(found) is type(array(0.0))
        assert found.dtype == expected.dtype
        assert (host(found) <= 0).all()
        assert_close(found, expected, tolerance)
        for part, expected_part in zip(frozen_state, state, strict=True):
            assert_close(part, expected_part, tolerance)


def test_the_frozen_step_takes_stored_states_and_tensors():
    model = model_of(**SEVERAL)
    frozen = model.frozen_step()
    state = moved(states_of(model, 2))
    expected, _ = model.step(np.array([1, 2]), state)
    assert_close(frozen(np.array([1, 2]), states_of(model, 2))[0], expected, 1e-12)  # of the host
    assert_close(frozen(np.array([1, 2]), state)[0], expected, 1e-12)
    as_tensors = frozen(np.array([1, 2]), tuple(map(const, state)))[0]
    assert_same_bits(as_tensors, frozen(np.array([1, 2]), state)[0])


def test_tokens_come_from_the_host_or_from_where_the_model_is():
    model = model_of(**SEVERAL)
    for step in (model.step, model.frozen_step()):
        expected, _ = step(np.array([1, 2]))
        for tokens in (
            [1, 2],
            (1, 2),
            array([1, 2]),
            const(np.array([1, 2])),
            const(np.array([1, 2])).to("cpu"),
        ):
            assert_same_bits(step(tokens)[0], expected)


def test_what_the_frozen_step_returned_is_never_written_to_again():
    frozen = model_of(**SEVERAL).frozen_step()
    tokens, returned, kept = np.array([0, 3, 7]), [], []
    state = None
    for _ in range(4):
        before = None if state is None else [part.copy() for part in state]
        values, after = frozen(tokens, state)
        if before is not None:
            for part, was in zip(state, before, strict=True):
                assert_same_bits(part, was)
        returned.append((values, *after))
        kept.append([array.copy() for array in returned[-1]])
        state = after
    for arrays, copies in zip(returned, kept, strict=True):
        for x, copy in zip(arrays, copies, strict=True):
            assert_same_bits(x, copy)


def test_the_frozen_step_keeps_the_weights_it_was_made_from():
    model = model_of()
    frozen = model.frozen_step()
    before, _ = frozen(np.array([1]))
    for parameter in model.parameters():
        parameter.assign(parameter * 2.0)
    assert_same_bits(frozen(np.array([1]))[0], before)
    assert np.abs(host(model.frozen_step()(np.array([1]))[0]) - host(before)).max() > 0.1


@pytest.mark.parametrize("logit", [800.0, -800.0])
def test_the_frozen_step_survives_large_logits(logit):
    model = model_of()
    model.head.bias.assign(const(np.where(np.arange(8) == 3, logit, 0.0)))
    expected, _ = model.step(np.array([1]))
    assert_close(model.frozen_step()(np.array([1]))[0], expected, 1e-12)


@pytest.mark.parametrize("layers", [ONE, SEVERAL])
def test_going_on_from_a_stored_state_is_running_from_the_start(layers):
    model = model_of(**layers)
    step = model.frozen_step()
    first = tg.decode.beam_search(step, None, 0, 2, 3, state_axis=1)
    for hypothesis in first:
        on = tg.decode.greedy(step, hypothesis.state, hypothesis.tokens[-1], 4, state_axis=1)
        state = None
        for token in (0, *hypothesis.tokens[:-1]):
            _, state = model.step([token], state)
        again = tg.decode.greedy(model.step, state, hypothesis.tokens[-1], 4, state_axis=1)
        assert on.tokens == again.tokens
        assert on.log_probability == pytest.approx(again.log_probability, rel=1e-12)


# --- other cells ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_another_cell_reads_a_sequence_as_its_steps(cell):
    model = model_of(**SEVERAL, cell=cell)
    tokens = np.random.default_rng(4).integers(0, 8, (7, 3))
    logits, last = model(tokens)
    layer = getattr(tg.nn, cell.upper())(3, 5, 3, dtype="float64")
    layer.load_state_dict(getattr(model, cell).state_dict())
    expected, _ = layer(model.embedding(tokens))
    assert_close(logits, model.head(expected), 1e-13)
    state = None
    for t in range(7):
        log_probabilities, state = model.step(tokens[t], state)
        assert_close(log_probabilities, log_softmax(logits[t].numpy()), 1e-12)
    assert_close(state, last, 1e-13)


def test_another_cell_is_in_the_names():
    assert "gru.weight_hh_l0" in dict(model_of(cell="gru").named_parameters())


def test_an_lstm_is_the_same_with_and_without_its_name():
    first, same = CharLM("abc", 4, 3, rng=7), CharLM("abc", 4, 3, cell="lstm", rng=7)
    for name, value in first.state_dict().items():
        assert_same_bits(value, same.state_dict()[name], name)


def test_unknown_cells_raise():
    with pytest.raises(tg.ArgumentError, match=r"no cell 'LSTM'.*'rnn', 'lstm', 'gru'"):
        CharLM("abc", cell="LSTM")
    with pytest.raises(tg.ArgumentError, match=r"LSTMStep.*GRU.*tg\.nn\.LSTM.*own step"):
        model_of(cell="gru").frozen_step()


# --- characters -----------------------------------------------------------------------------------


def test_texts_become_tokens_and_back():
    model = CharLM(VOCABULARY, 2, 2, rng=0)
    text = "ab\n∂🙂 éc"
    tokens = model.encode(text)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [VOCABULARY.index(character) for character in text]
    for given in (tokens, tg.tensor(tokens), tokens.tolist(), tuple(tokens.tolist())):
        assert model.decode(given) == text
    assert model.encode("").shape == (0,)
    assert model.decode([]) == ""


@pytest.mark.parametrize("vocabulary", ["z", "🙂a", "cab", "\ud800x"])
def test_a_token_is_the_position_in_the_vocabulary(vocabulary):
    model = CharLM(vocabulary, 2, 2, rng=0)
    assert model.encode(vocabulary).tolist() == list(range(len(vocabulary)))
    assert model.decode(range(len(vocabulary))) == vocabulary


def test_unknown_characters_are_named():
    model = CharLM("abc", 2, 2, rng=0)
    with pytest.raises(VocabularyError, match=r"3 characters: '!', 'A', '🙂'$"):
        model.encode("ab🙂cA!A")
    with pytest.raises(VocabularyError, match=r"and 16 more$"):
        model.encode("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@pytest.mark.parametrize("tokens", [[3], [-1], [0.0], ["a"], [True]])
def test_numbers_that_are_not_tokens_are_errors(tokens):
    with pytest.raises(VocabularyError, match=r"whole numbers in \[0, 3\)"):
        CharLM("abc", 2, 2, rng=0).decode(tokens)


def test_a_vocabulary_has_every_character_once():
    with pytest.raises(VocabularyError, match="empty"):
        CharLM("")
    with pytest.raises(VocabularyError, match=r"once.*'a', 'c'"):
        CharLM("abcac")


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [SEVERAL, {"cell": "gru"}], ids=["layers", "another cell"])
def test_a_checkpoint_makes_the_same_model(options, tmp_path):
    model = model_of(**options)
    tg.save(tmp_path / "model.safetensors", model, config=model.config)
    checkpoint = tg.load(tmp_path / "model.safetensors")
    again = CharLM(**checkpoint.meta["config"], dtype="float64")
    again.load_state_dict(checkpoint.model)
    tokens = model.encode("ab∂")[:, None]
    assert_same_bits(again(tokens)[0], model(tokens)[0])


def test_one_seed_gives_one_model_and_its_parts_differ():
    first, same, other = (CharLM("abc", 4, 3, rng=seed) for seed in (7, 7, 8))
    for name, value in first.state_dict().items():
        assert_same_bits(value, same.state_dict()[name], name)
    assert (first.head.weight.numpy() != other.head.weight.numpy()).any()


def test_parameters_are_named_after_the_parts():
    assert [name for name, _ in CharLM("ab", 2, 2).named_parameters()] == [
        "embedding.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "lstm.bias_ih_l0",
        "head.weight",
        "head.bias",
    ]
