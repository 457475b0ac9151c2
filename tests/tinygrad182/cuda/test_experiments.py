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
from tests.experiments.texts import a_text
from tests.support import device

CARD = device() if device() != "cpu" else "cuda"

TINY = {"length": 4, "hidden_size": 3, "batch": 2, "repeats": 1}
SMALL: dict[str, dict[str, Any]] = {
    "gradient-flow": {
        "length": 4,
        "hidden_size": 3,
        "batch": 2,
        "steps": 1,
        "nonlinearity": ("tanh", "relu"),
        "spectral_radius": (0.5, 2.0),
    },
    "weight-paths": TINY,
    "linear-rnn": TINY | {"hidden_size": 8},
    "nonlinearity": TINY | {"draws": 1},
    "target": TINY,
    "lstm": TINY,
    "cell-path": TINY | {"steps": 1, "forget_bias": (0.0, 1.0), "hops": 2},
    "h-detach": TINY | {"draws": 2, "scale": (1.0,)},
    "sensitivity": {
        "decay": (0.5, 0.8),
        "forget_bias": (0.0, 1.0),
        "hidden_size": 2,
        "batch": 3,
        "repeats": 1,
    },
    "skip": {"length": 3, "hidden_size": 3, "batch": 2, "repeats": 1, "blocks": 2},
    "beam-tree": {},
    "beam-cost": {
        "length": (2, 4),
        "vocabulary": (4, 6),
        "beam_width": (1, 2),
        "at_length": 2,
        "at_beam_width": 2,
        "hidden_size": 3,
        "repeats": 1,
    },
    "penalty": TINY | {"steps": 2, "larger": (3.0,)},
    "training": TINY | {"length": 3, "steps": 1, "moments": 2, "layers": (2,)},
    "char-lm": {
        "hidden_size": 4,
        "embedding": 2,
        "batch": 2,
        "window": 4,
        "steps": 2,
        "moments": 2,
        "characters": 3,
        "beam_width": (2,),
        "temperature": (0.5,),
        "expansions": 9,
    },
}
"""Sizes near the smallest that each experiment takes."""

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
