"""The page of two runs as a reader meets it: sentences, both pictures, in the light and in the dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.browser.texts import overlapping, texts

pytest.importorskip("altair")
pytest.importorskip("vl_convert")


@pytest.fixture(scope="module")
def written(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """``browser`` is the first argument, so that no page is made without a browser."""
    lstm = tg.nn.LSTM(3, 4, num_layers=2, rng=0)
    x = tg.tensor(np.random.default_rng(0).normal(size=(20, 2, 3)).astype("float32"))
    path = tmp_path_factory.mktemp("pages") / "diff.html"
    found = tg.inspect.diff(lstm(x)[0][-1].sum(), lstm(x, truncate=8)[0][-1].sum())
    found.save_html(path)
    return path, found.sentences


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_two_runs(
    written: tuple[Path, list[str]], opened: Callable[..., Any], scheme: str
) -> None:
    path, sentences = written
    page = opened(path, scheme)
    header = page.locator("header").inner_text()
    assert all(sentence in header for sentence in sentences)
    found = texts(page)
    seen = {text.text for text in found}
    assert seen >= {"lstm.l1: gradients", "‖∂L/∂hₜ‖", "tanh(c)", "W_hh h₋"}
    assert page.locator('#chart svg path[aria-label*="tanh(c)"]').count() > 0
    assert min(text.size for text in found) >= 11
    assert not overlapping(found)
