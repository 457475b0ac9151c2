"""Formatting of norms: Vega's own output is compared with Python's formatting."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from tinygrad182.inspect.charts.magnitudes import norm_text

alt = pytest.importorskip("altair")
vl_convert = pytest.importorskip("vl_convert")


def written(*logs: float | str) -> list[str]:
    rows = [{"log": log, "at": k} for k, log in enumerate(logs)]
    chart = alt.Chart(alt.InlineData(values=rows)).transform_calculate(text=norm_text("datum.log"))
    spec: Any = chart.mark_text().encode(y="at:O", text="text:N").to_dict(validate=False)
    spec["encoding"]["y"]["axis"] = None
    return re.findall(r">([^<>]+)</text>", vl_convert.vegalite_to_svg(spec))


def test_norms_are_written_with_two_digits() -> None:
    logs = [math.log10(x) for x in (1.0, 0.83, 0.01, 250.0, 4.5e-12, 9.94e-5, 9.96e-5, 3.2e17)]
    expected = ["1", "0.83", "0.01", "250", "4.5e-12", "9.9e-5", "1.0e-4", "3.2e17"]
    assert written(*logs, -400.5) == [*expected, "3.2e-401"]


def test_words_stay() -> None:
    assert written("0", "∞", "NaN") == ["0", "∞", "NaN"]
