"""The texts that char-lm learns, their words, and n-gram models against dicts."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from experiments.app.errors import DataError
from experiments.questions.char_lm.ngrams import ngram_losses
from experiments.questions.char_lm.text import (
    LEAST,
    Corpus,
    beginnings,
    corpus,
    known_share,
    read_text,
    reference,
)
from tests.experiments.texts import a_text

# --- text -----------------------------------------------------------------------------------------


def test_no_paragraph_of_the_reference_is_in_both_parts():
    paragraphs = reference().split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    found = corpus(None)
    assert found.training + found.held_out == reference()
    assert len(found.training) == pytest.approx(9 * len(found.held_out), rel=1e-3)
    assert set(found.vocabulary) == set(reference())
    assert Corpus("toy", "cab", "d").vocabulary == "abcd"
    assert list(found.vocabulary) == sorted(set(found.vocabulary))


def test_a_file_is_cut_in_two(tmp_path):
    path = tmp_path / "mine.txt"
    text = a_text(LEAST) + "é"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    found = corpus(path)
    assert (found.name, found.training + found.held_out) == ("mine.txt", text)
    assert len(found.held_out) == len(text) // 10


def test_files_that_are_not_text_are_named(tmp_path):
    path = tmp_path / "mine.txt"
    with pytest.raises(DataError, match=r"mine\.txt: there is no such file"):
        read_text(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"mine\.txt: not a text file; save it as UTF-8"):
        read_text(path)
    path.write_text("too short")
    with pytest.raises(DataError, match="9 characters; 2,000 or more are needed"):
        corpus(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path)


def test_beginnings_are_spread_and_end_with_a_word():
    text = "cut off\n\n" + "\n\n".join(f"Word{k} " * 10 for k in "abcdefghi")
    assert beginnings(text, 3, 20) == (
        "Worda Worda Worda ",
        "Wordd Wordd Wordd ",
        "Wordg Wordg Wordg ",
    )
    assert beginnings("no paragraph here", 3, 8) == ("no ",)
    assert beginnings("x" * 90, 2, 8) == ("xxxxxxxx",)
    assert all(start in corpus(None).held_out for start in beginnings(corpus(None).held_out, 5))


def test_what_follows_a_prompt_is_read_in_the_held_out_text_alone():
    source = Corpus("toy", "abcabc", "xyzabq")
    assert source.after("xy", 3) == "zab"
    assert source.after("ab", 1) == "q"
    assert source.after("ab", 2) == ""  # the text ends before
    assert source.after("ca", 1) == ""


def test_words_are_looked_up_without_their_case():
    assert known_share("Yield_yield yie1d the", {"yield"}) == 1.0
    assert known_share("yield wield", {"yield"}) == 0.5
    assert np.isnan(known_share("a b c 12345", {"yield"}))


# --- counting -------------------------------------------------------------------------------------


def counted_by_loops(training, held_out, size, n):
    """An n-gram model's mean −log p from dicts."""
    tokens, counts = [*training, *held_out], defaultdict(Counter)
    for i in range(len(training)):
        for k in range(min(n, i + 1)):
            counts[tuple(tokens[i - k : i])][tokens[i]] += 1
    total = 0.0
    for i in range(len(training), len(tokens)):
        p = 1 / size
        for k in range(n):
            if seen := counts.get(tuple(tokens[i - k : i])):
                followed, kinds = sum(seen.values()), len(seen)
                p = (seen[tokens[i]] + kinds * p) / (followed + kinds)
        total -= np.log(p)
    return total / len(held_out)


@pytest.mark.parametrize("size", [1, 3, 40])
def test_counting_is_what_dicts_count(size):
    rng = np.random.default_rng(size)
    training, held_out = (rng.integers(0, size, n) ** 2 // size for n in (200, 60))
    expected = [counted_by_loops(training, held_out, size, n) for n in (1, 2, 3, 4, 5)]
    assert ngram_losses(training, held_out, size, 5) == pytest.approx(expected, rel=1e-12)


def test_the_models_that_count_are_distributions():
    training = np.random.default_rng(0).integers(0, 4, 30)
    for n in (1, 2, 3):
        losses = [ngram_losses(training, np.array([token]), 4, n)[-1] for token in range(4)]
        assert np.exp(-np.array(losses)).sum() == pytest.approx(1.0, rel=1e-12)
