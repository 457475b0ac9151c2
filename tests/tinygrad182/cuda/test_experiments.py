"""Every experiment has equal claims, tables and sentences on a card and on the CPU."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy")
pytest.importorskip("altair")

from rich.progress import Progress

import tinygrad182 as tg
from experiments.app.catalogue import CATALOGUE, load
from experiments.app.command_line import main
from experiments.app.result import Result
from experiments.questions import char_lm, nonlinearity
from experiments.questions.char_lm import saliency
from models import CharLM
from tests.experiments.sizes import SMALL
from tests.experiments.texts import a_text
from tests.support import device

CARD = device() if device() != "cpu" else "cuda"

SECONDS = ("stored_ms", "again_ms", "ratio")
"""Keys whose values differ from run to run."""


@pytest.fixture(autouse=True)
def _less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that no option makes smaller."""
    monkeypatch.setattr(nonlinearity, "SCALES", 3)
    monkeypatch.setattr(char_lm, "SAMPLE_LENGTH", 20)
    monkeypatch.setattr(char_lm, "SAMPLES", 2)
    monkeypatch.setattr(saliency, "PASSAGE", 12)  # float32: each step back adds its rounding


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("char-lm") / "text.txt"
    path.write_text(a_text(2000))
    return path


def run(name: str, where: str, **more: Any) -> Result:
    experiment = load(name)
    options = experiment.options(device=where, **SMALL[name], **more)
    with tg.use_device(where), Progress(disable=True) as progress, np.errstate(all="ignore"):
        return experiment.run(options, progress)


def same(found: Any, expected: Any, tolerance: float) -> bool:
    """Compare numbers up to rounding, and anything else exactly."""
    if isinstance(expected, float) and isinstance(found, float):
        return found == pytest.approx(expected, rel=tolerance, abs=tolerance, nan_ok=True)
    return bool(found == expected)


def words(result: Result) -> list[str]:
    """Headline and sentences, with one placeholder for rounding errors."""
    return [
        re.sub(r"\b[\d.]+e-1\d\b|\b0\b", "rounding", text)
        for text in (result.headline, *result.reading)
    ]


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_card_finds_what_the_cpu_finds(name: str, text: Path) -> None:
    more = {"data": text} if name == "char-lm" else {}
    tolerance = 1e-5 if name == "char-lm" else 1e-9  # its model is float32
    timed = name == "beam-cost"
    card, cpu = (run(name, where, **more) for where in (CARD, "cpu"))
    for ours, theirs in zip(card.claims, cpu.claims, strict=True):
        assert ours.statement == theirs.statement
        if not (timed and " time " in ours.statement):
            assert ours.holds == theirs.holds, ours.statement
            assert same(ours.measured, theirs.measured, tolerance), ours.statement
    for ours, theirs in zip(card.tables, cpu.tables, strict=True):
        for row, expected in zip(ours.rows, theirs.rows, strict=True):
            for key in expected.keys() - (SECONDS if timed else ()):
                assert same(row[key], expected[key], tolerance), (ours.name, key, row, expected)
    if not timed:
        assert words(card) == words(cpu)


def test_a_run_on_a_card_writes_its_folder_and_goes_on(text: Path, tmp_path: Path) -> None:
    """The model of a card is trained on there, and loaded by one on the CPU."""
    options = ["--device", CARD, "--data", str(text)]
    for name in ("hidden_size", "embedding", "batch", "window", "characters", "expansions"):
        options += [f"--{name.replace('_', '-')}", str(SMALL["char-lm"][name])]
    options += ["--beam-width", "2", "--temperature", "0.5", "--moments", "2"]
    first, on = tmp_path / "first", tmp_path / "on"
    assert main(["char-lm", *options, "--steps", "2", "--out", str(first)]) == 0
    more = ["--steps", "3", "--resume", str(first / "model.safetensors")]
    assert main(["char-lm", *options, *more, "--out", str(on)]) == 0
    assert (on / "report.html").is_file()
    with tg.use_device("cpu"):
        checkpoint = tg.load(on / "model.safetensors")
        losses = checkpoint.meta["history"]["losses"]
        assert len(losses) == 3
        assert all(map(math.isfinite, losses))
        model = CharLM(**checkpoint.meta["config"])
        model.load_state_dict(checkpoint.model)
        assert {p.device for p in model.parameters()} == {"cpu"}
