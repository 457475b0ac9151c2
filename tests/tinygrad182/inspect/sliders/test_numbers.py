"""The page's numbers are the library's at every stop, for networks that are built here a second time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.tinygrad182.inspect.sliders.recipe import Stop, network, rows_of
from tinygrad182.errors import ArgumentError, UnknownPathError
from tinygrad182.inspect import playground
from tinygrad182.inspect.sliders.settings import PlaygroundSetting

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

SIZE, SEED = 5, 3
FEW: dict[str, Any] = {
    "radius": (0.5, 3.0),
    "bias": (3.0,),
    "forget_bias": (0.0, 2.0),
    "length": (10, 30),
}
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "playground.html"
    playground(SIZE, SEED, FEW).save_html(path)
    return path


@pytest.fixture(scope="module")
def losses(written: Path) -> dict[str, Any]:
    return rows_of(written)


@np.errstate(divide="ignore")
def check(stop: Stop, row: dict[str, Any], size: int, seed: int) -> None:
    """Compare all that is stored of one stop with what the public functions say."""
    loss, weight, v, *_ = network(stop, size, seed)
    (flow,) = tg.inspect.gradient_flow(loss).values()
    for k, name in enumerate("hc" if stop.cell == "LSTM" else "h"):
        np.testing.assert_allclose(row[f"g{k}"], flow[name].log10_grad_norm, **CLOSE)
        norms = row[f"v{k}"][: stop.length]
        np.testing.assert_allclose(norms, np.log10(flow[name].value_norm), **CLOSE)
    shares = tg.inspect.path_split(loss)["c" if stop.cell == "LSTM" else "h"].shares
    parts = ("via h", "via branch", "local")
    stored = {part: row[f"s{k}"] for k, part in enumerate(parts) if f"s{k}" in row}
    assert stored.keys() == shares.keys() - {"direct"}
    for part, share in stored.items():
        np.testing.assert_allclose(share, shares[part], **CLOSE)
    last = tg.inspect.step_jacobians(loss, times=[stop.length - 1]).matrices[0]
    radius = np.abs(np.linalg.eigvals(last)).max()
    np.testing.assert_allclose(row["radius"], radius, rtol=1e-9)
    if stop.nonlinearity == "identity":
        check_closed_form(stop, row, weight, v)


def check_closed_form(stop: Stop, row: dict[str, Any], weight: Any, v: Any) -> None:
    """The circles are the norms of powers of the matrix, and lie on the curve."""
    matrix = weight + (stop.cell == "ResNet") * np.eye(len(v))
    powers = [np.linalg.matrix_power(matrix.T, k) @ v for k in range(stop.length)]
    gradients = np.cumsum(powers, axis=0) if stop.loss == "all" else np.array(powers)
    norms = np.linalg.norm(gradients[::-1], axis=1)[row["exact_t"]]
    assert len(norms) > 6
    np.testing.assert_allclose(row["exact"], np.log10(norms), rtol=0, atol=1e-11)
    np.testing.assert_allclose(row["exact"], np.take(row["g0"], row["exact_t"]), rtol=0, atol=1e-11)


def test_every_stop_has_the_librarys_numbers(losses: Any) -> None:
    assert len(losses) == 72
    for key, row in losses.items():
        check(Stop.read(key), row, SIZE, SEED)


FULL = playground(16, 0)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.sampled_from(FULL.settings))
def test_stops_of_the_whole_page_have_the_librarys_numbers(setting: Any) -> None:
    (losses, values) = FULL.rows([setting])
    check(Stop.read(setting.key), losses[setting.key] | values[setting.network], 16, 0)


def test_a_page_holds_every_combination_once() -> None:
    keys = [setting.key for setting in FULL.settings]
    assert len(set(keys)) == len(keys) == (2 * 3 + 4 + 1) * 11 * 3 * 4 * 2


def test_the_first_sentence_says_the_change(losses: Any) -> None:
    for key, row in losses.items():
        log = row["g1" if key.startswith("LSTM") else "g0"]
        lines, decades = " ".join(row["lines"]), log[0] - log[-1]
        if not math.isfinite(log[0]):
            assert "exactly 0" in lines
        elif decades < -2:
            mantissa, exponent = f"{10**decades:.0e}".split("e")
            assert f" {mantissa}e{int(exponent)} of " in lines, key
        elif decades < 0:
            assert f" {100 * 10**decades:.0f}% of " in lines, key


def test_what_a_cell_passes_straight_on_is_the_mean_of_its_gates(losses: Any) -> None:
    """Computed by hand from the states; σ(x) is (1 + tanh(x / 2)) / 2."""
    said = {
        "LSTM": (1, "by the forget gates alone", "keeps {:.0%} of ∂L/∂c on the direct path"),
        "GRU": (1, "the update gates z alone", "keeps {:.0%} of ∂L/∂h this way"),
    }
    for key, row in losses.items():
        stop = Stop.read(key)
        if stop.cell not in said:
            continue
        place, reason, words = said[stop.cell]
        net = network(stop, SIZE, SEED)
        (states,) = tg.inspect.gradient_flow(net.loss).values()
        h = np.array(states.h.value)[:-1, 0]
        pick = slice(place * SIZE, (place + 1) * SIZE)
        layer = net.layer
        sums = net.x[1:, 0] @ layer.weight_ih_l0.numpy()[pick].T + h @ net.weight[pick].T
        gates = (1 + np.tanh((sums + layer.bias_ih_l0.numpy()[pick]) / 2)) / 2
        lines = " ".join(row["lines"])
        assert words.format(gates.mean()) in lines, key
        assert reason in lines.lower(), key


def test_the_factors_of_saturation_and_weight_make_up_the_change() -> None:
    found = FULL.measure(PlaygroundSetting(length=10))
    change = (found.gradients["h"][0] - found.gradients["h"][-1]) / 9
    np.testing.assert_allclose(found.saturation + found.weight, change, rtol=1e-12)


def test_gradients_that_are_exactly_0_are_words() -> None:
    """One ReLU passes nothing back past the last step at which it is off."""
    setting = PlaygroundSetting(nonlinearity="relu", length=30)
    row = playground(1).row(setting)
    (flow,) = tg.inspect.gradient_flow(network(Stop.read(setting.key), 1, 0).loss).values()
    zeros = np.flatnonzero(flow["h"].grad_norm == 0)
    assert 0 < len(zeros) < 30
    assert [t for t, log in enumerate(row["g0"]) if log == "0"] == zeros.tolist()
    assert f"No gradient arrives at t = 0: from t = {zeros[-1]} back" in row["lines"][0]
    assert row["s2"][0] is None


@pytest.mark.parametrize(
    ("stops", "told"),
    [
        ({"radius": [0.9, 0.95]}, r"radius .*choose among its stops"),
        ({"length": []}, r"length .*choose among its stops"),
        ({"lenght": [10]}, "no control 'lenght'; there are cell"),
        (["length"], "must be a dict of lists"),
        ({"cell": [["GRU"]]}, r"cell .*choose among its stops"),
    ],
)
def test_unknown_stops_raise(stops: Any, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        playground(stops=stops)


def test_what_is_given_one_number_gets_one_stop() -> None:
    assert playground(stops={"radius": 0.9, "cell": "GRU"}).stops["radius"] == (0.9,)  # type: ignore[dict-item]
    assert playground(stops={"radius": np.array([0.9, 0.5])}).stops["radius"] == (0.5, 0.9)  # type: ignore[dict-item]


@pytest.mark.parametrize("seed", [None, -1, 0.5, np.random.default_rng(0)])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    """Every network is drawn from it anew."""
    with pytest.raises(ArgumentError, match=r"seed .*whole number from 0"):
        playground(seed=seed)


def test_pictures_of_views(tmp_path: Path) -> None:
    play = playground(4)
    play.save_svg(tmp_path / "view.svg", cell="ResNet", nonlinearity="identity", length=10)
    drawn = (tmp_path / "view.svg").read_text(encoding="utf-8")
    for text in ("block t", "The states", "via branch", "‖(I + Wₕᵀ)ᵏ v‖", "|λ|max multiplied"):
        assert text in drawn
    assert "title" in play.spec("shares", cell="LSTM", length=10)
    with pytest.raises(UnknownPathError, match=r"no view 'share'.*'words'"):
        play.save_png(tmp_path / "view.png", "share")
    with pytest.raises(ArgumentError, match=r"radius = 0.95 is not a stop.*0.25"):
        play.save_png(tmp_path / "view.png", radius=0.95)
    with pytest.raises(ArgumentError, match=r"no control 'radios'.*cell"):
        play.spec(radios=0.9)
    with pytest.raises(ArgumentError, match=r"one of \.settings, not 'RNN'"):
        play.measure("RNN")  # type: ignore[arg-type]
