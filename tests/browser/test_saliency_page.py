"""The text that answers to the pointer, in a real browser."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.questions.char_lm.saliency import Saliency, passage, saliency_of, telling
from experiments.questions.char_lm.saliency_figures import expectation, text_chart
from experiments.questions.char_lm.text import Corpus
from models import CharLM
from tests.browser.texts import clipped, overlapping, texts
from tests.experiments.texts import a_text
from tinygrad182.display import charts
from tinygrad182.display.pages import chart_page

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

TEXT = a_text(140)
SOURCE = Corpus("toy", TEXT, TEXT)
VOCABULARY = SOURCE.vocabulary

Shown = tuple[list[Saliency], str, Path]


@pytest.fixture(scope="module")
def written(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The page of three small models; ``browser`` comes first, so that none is made without a browser."""
    models = [CharLM(VOCABULARY, 4, 3, cell=cell, rng=1) for cell in ("rnn", "lstm", "gru")]
    found = [saliency_of(model, SOURCE) for model in models]
    chart = text_chart(found, passage(SOURCE), VOCABULARY, "toy")
    path = tmp_path_factory.mktemp("pages") / "page.html"
    page = chart_page("text", chart.to_dict(), charts.library(), below='<p id="controls"></p>')
    path.write_text(page, encoding="utf-8")
    return found, passage(SOURCE), path


def told(page: Any, model: str, t: int) -> dict[str, str]:
    """The label of a character in a model's text, as a dict."""
    cells = f'#chart svg path[aria-roledescription="rect mark"][aria-label*="model: {model}; "]'
    # Behind each coloured cell is the one that takes the pointer; both say the same.
    label = page.locator(f'{cells}[aria-label*="; t: {t}; "]').last.get_attribute("aria-label")
    return dict(part.split(": ", 1) for part in label.split("; ") if ": " in part)


def point(page: Any, model: str, t: int, how: str = "hover") -> None:
    """Put the pointer on a character, or click it."""
    name = f'aria-label*="model: {model}; "'
    cells = f'#chart svg path[aria-roledescription="rect mark"][{name}][aria-label*="; t: {t}; "]'
    getattr(page.locator(cells).first, how)(force=True)


def framed(page: Any, k: int) -> None:
    """Wait until every text is about the prediction after character k."""
    for model in ("RNN", "LSTM", "GRU"):
        cells = f'#chart svg path[aria-label*="model: {model}; "][aria-label*="; t: {k}; "]'
        page.locator(f'{cells}[aria-label*="characters back: 0"]').first.wait_for(state="attached")


def assert_about(page: Any, shown: Shown, k: int) -> None:
    """Every text shows the norms, and says the prediction, of character k."""
    found, text, _ = shown
    framed(page, k)
    said = page.locator("#chart svg text", has_text="the text goes on with").all_text_contents()
    expected = [expectation(each.probabilities[k], VOCABULARY, text[k + 1]) for each in found]
    assert said == expected
    for each in found:
        relative = each.relative()
        for t in (0, k // 2, k):
            cell = told(page, each.name, t)
            assert cell["characters back"] == str(k - t)
            for name, log10 in (
                ("‖∂L/∂xₜ‖", each.log10[k, t]),
                ("of the largest", relative[k, t]),
            ):
                assert math.log10(float(cell[name])) == pytest.approx(log10, abs=0.03)
        assert told(page, each.name, k + 1)["characters back"] == "not read yet"


def test_pointing_at_a_character_shows_its_prediction_in_every_model(
    written: Shown, opened: Callable[..., Any]
) -> None:
    found, _, path = written
    page = opened(path)
    assert_about(page, written, telling(found[1]))
    for k, model in ((50, "RNN"), (90, "GRU")):
        point(page, model, k)
        assert_about(page, written, k)


def test_a_click_keeps_a_character_and_a_double_click_lets_it_go(
    written: Shown, opened: Callable[..., Any]
) -> None:
    page = opened(written[2])
    point(page, "LSTM", 60, "click")
    point(page, "LSTM", 20)
    assert_about(page, written, 60)
    point(page, "LSTM", 20, "dblclick")
    assert_about(page, written, 20)


def test_no_text_is_cut_or_over_another(written: Shown, opened: Callable[..., Any]) -> None:
    page = opened(written[2])
    found = texts(page)
    assert not overlapping(found)
    assert not clipped(page, found)
    assert min(text.size for text in found) >= 11
