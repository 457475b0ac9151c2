"""The lattice: the fate of every prefix, in text and in pictures."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import array, in_numpy
from tinygrad182.display.pages import legible

from .tree import START, state, step


def lattice(width: int) -> tg.decode.Lattice:
    result = tg.decode.beam_search(step, state(), START, width, 3, trace=True)
    assert isinstance(result, tg.decode.SearchResult)
    return result.lattice


def table(seed: int, length: int, words: int) -> Any:
    rng = np.random.default_rng(seed)
    values = np.log(rng.dirichlet(np.ones(words), size=(length, words)))
    return in_numpy(lambda tokens, state: (values[state, tokens], state + 1))


TEXT = """
step 1  + neural                  -0.650  *
        + network                 -0.730
step 2  + neural network          -1.250
        + network neural          -1.330
        - neural neural           -1.450  the optimum is dropped here
        - network network         -1.530
step 3  # neural network network  -1.850
        # network neural network  -1.930
        - neural network neural   -2.050
        - network neural neural   -2.130
+ kept   - pruned   # finished   * the optimum
"""


def test_text_shows_where_the_optimum_is_dropped() -> None:
    text = lattice(2).text(words=["neural", "network"], optimum=(0, 0, 0))
    assert text == TEXT.strip()
    assert str(lattice(1)).count("-0.730") == 1


def test_the_optimum_is_shown_where_it_is_dropped_however_many_are_better() -> None:
    text = lattice(1).text(optimum=(1, 1, 1), most=0)
    assert "- 1      -0.730  the optimum is dropped here" in text
    assert "1 more" in text


@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from([None, 0, 2]))
def test_every_candidate_has_one_fate(seed: int, width: int, eos: int | None) -> None:
    T, M = 4, 3
    result = tg.decode.beam_search(table(seed, T, M), array([0]), 0, width, T, eos, trace=True)
    assert isinstance(result, tg.decode.SearchResult)
    steps = result.lattice.nodes()
    for length, nodes in enumerate(steps, 1):
        assert len({n.tokens for n in nodes}) == len(nodes)
        assert all(len(n.tokens) == length for n in nodes)
        kept = [n for n in nodes if n.fate == "kept"]
        assert len(kept) <= width
        assert len(nodes) == result.lattice.steps[length - 1].candidates.size
        assert sum(n.fate == "pruned" for n in nodes) == result.lattice.pruned_at(length)
    finished = {
        n.tokens: n.log_probability for nodes in steps for n in nodes if n.fate == "finished"
    }
    for hypothesis in result:
        assert finished[hypothesis.tokens] == hypothesis.log_probability
        assert result.lattice.dropped(hypothesis.tokens) is None


@given(st.integers(0, 1000), st.integers(1, 3), st.sampled_from([None, 1]))
def test_what_was_dropped_is_not_returned(seed: int, width: int, eos: int | None) -> None:
    T, M = 3, 3
    args = table(seed, T, M), array([0]), 0
    result = tg.decode.beam_search(*args, width, T, eos, trace=True)
    every = tg.decode.exhaustive(*args, T, eos)
    assert isinstance(result, tg.decode.SearchResult)
    assert isinstance(every, tg.decode.SearchResult)
    kept = result.lattice.prefixes()
    for hypothesis in every:
        dropped = result.lattice.dropped(hypothesis.tokens)
        if dropped is None:
            continue
        assert hypothesis.tokens not in {h.tokens for h in result}
        prefix = hypothesis.tokens[:dropped]
        assert prefix[:-1] in kept[dropped - 1]
        assert prefix not in kept[dropped]


def test_greedy_drops_an_end_token_that_is_not_the_likeliest() -> None:
    @in_numpy
    def two(tokens: Any, state: Any) -> tuple[Any, Any]:
        return np.log(np.tile([0.4, 0.6], (len(tokens), 1))), state

    result = tg.decode.greedy(two, None, 0, 2, eos=0, trace=True)
    assert isinstance(result, tg.decode.SearchResult)
    assert result.lattice.dropped((0,)) == 1
    wide = tg.decode.beam_search(two, None, 0, 2, 2, eos=0, trace=True)
    assert isinstance(wide, tg.decode.SearchResult)
    assert wide.lattice.dropped((0,)) is None


def test_pages_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("altair")
    page, image = tmp_path / "new" / "page.html", tmp_path / "image.png"
    options: dict[str, Any] = {"words": ["neural", "network"], "optimum": (0, 0, 0)}
    lattice(2).save_html(page, **options)
    lattice(2).save_png(image, **options)
    text = page.read_text(encoding="utf-8")
    assert "<script src=" not in text  # nothing is fetched
    assert "dropped at step 2" in text
    assert image.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.rglob("*"))) == 3


def test_the_chart_holds_every_prefix_and_the_gradient() -> None:
    pytest.importorskip("altair")
    w = tg.tensor([[0.5]], requires_grad=True)
    h = tg.ones((1, 1))
    for t in range(3):
        h = tg.inspect.mark(tg.tanh(h @ w), "h", time=t)
    flow = tg.inspect.gradient_flow(h.sum())
    chart = lattice(2).chart(optimum=(0, 0, 0), gradient=flow)
    spec = json.loads(chart.to_json())
    panels, rows = spec["vconcat"], spec["datasets"]
    drawn_from = [rows[layer["data"]["name"]] for layer in panels[0]["layer"]]
    nodes = next(found for found in drawn_from if "prefix" in found[0])
    assert {n["prefix"]: n["fate"] for n in nodes} == {
        " ".join(map(str, n.tokens)): n.fate for nodes in lattice(2).nodes() for n in nodes
    }
    assert [n["prefix"] for n in nodes if n["optimum"]] == ["0", "0 0"]
    drawn = [row["log10"] for row in rows[panels[1]["data"]["name"]]]
    assert drawn == pytest.approx((flow[""].h.log_grad_norm / np.log(10)).tolist())


def test_texts_cannot_leave_the_script_of_a_page(tmp_path: Path) -> None:
    """Words, functions of words and titles, as a browser reads the page before it reads the script."""
    pytest.importorskip("altair")
    bad = ["</script><script>alert(1)</script>", "<!-- <script>", "\u2028'&amp;"]
    page = tmp_path / "page.html"
    for title in bad:
        for words in (bad, lambda token: bad[token]):
            lattice(2).save_html(page, words=words, title=title)
            text = page.read_text(encoding="utf-8")
            assert text.count("</script>") == text.count("<script>") == 2
            assert "alert(1)" not in text.replace("alert(1)\\u003c/script\\u003e", "").replace(
                "alert(1)&lt;/script&gt;", ""
            )
            (spec,) = re.findall(r'vegaEmbed\("#chart", (.*), \{ mode', text)
            chart = lattice(2).chart(words=words, title=title)
            assert json.loads(spec) == json.loads(chart.to_json())


BAD = "\x00\x0b\x0c\x1b\ufffe\uffff\udc80"
"""Characters that no picture can hold: drawing them would end the process."""


def test_texts_that_no_picture_can_hold(tmp_path: Path) -> None:
    pytest.importorskip("altair")
    words = [BAD, lambda token: BAD, list(BAD)]
    for each in words:
        chart = lattice(2).chart(words=each, title=f"t{BAD}")
        drawn = json.dumps(chart.to_dict(), ensure_ascii=False)
        assert not set(BAD) & set(drawn)
        assert not re.search(r"\\u00", drawn)
        assert not set(BAD) & set(lattice(2).text(words=each))
    h = tg.inspect.mark(tg.ones(1, requires_grad=True) * 1, BAD, time=0)
    flow = tg.inspect.gradient_flow(h.sum())
    drawn = json.dumps(lattice(2).chart(gradient=flow).to_dict(), ensure_ascii=False)
    assert not set(BAD) & set(drawn)
    assert not re.search(r"\\u00", drawn)
    lattice(2).save_png(tmp_path / "a.png", words=BAD, title=BAD, gradient=flow)
    lattice(2).save_html(tmp_path / "a.html", words=BAD, title=BAD)
    assert "<title>␀␋␌␛���</title>" in (tmp_path / "a.html").read_text(encoding="utf-8")


@given(st.text(st.characters(exclude_categories=())))
@example(BAD)
def test_what_is_legible_is_xml_and_nothing_else_changes(text: str) -> None:
    found = legible(text)
    assert len(found) == len(text)
    assert legible(found) == found
    read = ElementTree.fromstring(f"<a>{html.escape(found)}</a>".encode())
    assert (read.text or "") == re.sub("\r\n?", "\n", found)
    for one, other in zip(text, found, strict=True):
        if one != other:
            with pytest.raises((ElementTree.ParseError, UnicodeEncodeError)):
                ElementTree.fromstring(f"<a>{html.escape(one)}</a>".encode())


def test_a_title_is_a_string(tmp_path: Path) -> None:
    for save in (lattice(1).save_png, lattice(1).save_html):
        with pytest.raises(tg.ArgumentError, match=r"lattice: title 5.*string"):
            save(tmp_path / "a", title=5)


def test_a_search_without_a_lattice_says_so() -> None:
    table = np.log(np.full(2, 0.5))
    uniform = in_numpy(lambda tokens, state: (np.tile(table, (len(tokens), 1)), state))
    result = tg.decode.greedy(uniform, None, array(0), 2)
    with pytest.raises(tg.ArgumentError, match=r"no lattice.*trace=True"):
        _ = result.lattice
    assert not hasattr(result, "lattice")


def test_what_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(tg.ArgumentError, match=r"words 3.*sequence"):
        lattice(1).text(words=3)  # type: ignore[arg-type]
    with pytest.raises(tg.FileError, match="is a folder"):
        lattice(1).save_html(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "altair", None)
    with pytest.raises(tg.MissingDependencyError, match=r"tinygrad182\[viz\]"):
        lattice(1).save_png(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_bad_sequences_and_gradients_are_refused(tmp_path: Path) -> None:
    for wrong in ((0, 9), (0, 0, 0, 0), 3, "ab", (0.5,)):
        with pytest.raises(tg.ArgumentError, match="lattice: "):
            lattice(2).text(optimum=wrong)  # type: ignore[arg-type]
        with pytest.raises(tg.ArgumentError, match="lattice: "):
            lattice(2).dropped(wrong)  # type: ignore[arg-type]
    with pytest.raises(tg.ArgumentError, match=r"gradient.*int"):
        lattice(2).save_png(tmp_path / "a.png", gradient=3)
    assert not list(tmp_path.iterdir())


def test_a_hypothesis_is_as_good_as_its_tokens() -> None:
    every = tg.decode.exhaustive(step, state(), START, 3)
    assert isinstance(every, tg.decode.SearchResult)
    assert lattice(2).text(optimum=every.best) == lattice(2).text(optimum=(0, 0, 0))  # type: ignore[arg-type]


def test_text_stays_readable() -> None:
    """Blanks are shown, and neither long prefixes nor many lines fill the terminal."""
    text = lattice(2).text(words=[" ", "\n"])
    assert "␣ ⏎" in text
    wide = tg.decode.exhaustive(table(0, 5, 4), array([0]), 0, 5, trace=True)
    assert isinstance(wide, tg.decode.SearchResult)
    lines = wide.lattice.text(words=["a long word", "b", "c", "d"]).splitlines()
    assert len(lines) < 5 * 45
    assert max(map(len, lines)) < 100
    assert any(" more" in line for line in lines)


def test_an_optimum_that_cannot_be_reached_is_not_a_node(tmp_path: Path) -> None:
    @in_numpy
    def holes(tokens: Any, state: Any) -> tuple[Any, Any]:
        return np.tile([-0.1, -np.inf], (len(tokens), 1)), state

    result = tg.decode.beam_search(holes, None, 0, 2, 2, trace=True)
    assert isinstance(result, tg.decode.SearchResult)
    result.lattice.save_png(tmp_path / "a.png", optimum=(1, 0))
    assert "-inf" not in result.lattice.text(optimum=(1, 0))
