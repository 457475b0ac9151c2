"""The picture of a rolled network: the places and texts of its boxes, and its arrows."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from tinygrad182.inspect.microscope.network import Block, Link, Network
from tinygrad182.inspect.microscope.network_chart import network_chart

alt = pytest.importorskip("altair")
vl_convert = pytest.importorskip("vl_convert")


def box(
    title: str, log: float = -1.0, kind: str = "module", path: str = "", steps: int = 1
) -> Block:
    return Block(path, title, kind, ("h", "c") if kind == "recurrence" else (), steps, log)


def chain(*logs: float) -> Network:
    boxes = [box(f"box {i}", log) for i, log in enumerate(logs)]
    return Network(tuple(boxes), tuple(Link(i - 1, i, log) for i, log in enumerate(logs) if i))


def spec_of(network: Network, linked: bool = False) -> Any:
    return network_chart(network, linked).to_dict(validate=False)


def rows(spec: Any, mark: str) -> list[Any]:
    """The data of all layers with a mark."""
    found = []
    for layer in spec["layer"]:
        if layer["mark"]["type"] == mark:
            data = layer.get("data") or spec["data"]
            found += data["values"] if "values" in data else spec["datasets"][data["name"]]
    return found


def svg_of(network: Network, block: int = 0) -> str:
    chart = network_chart(network).add_params(alt.param(name="block", value=block))
    text: str = vl_convert.vegalite_to_svg(chart.to_json(validate=False))
    return text


def test_what_is_written() -> None:
    network = Network(
        (
            box("input", -400.3),
            box("LSTM 8 → 64", -2.0, "recurrence", "rnn.l0", 1000),
            Block("head", "Linear 64 → 1", "module", (), 1, math.nan, calls=7),
        ),
        (Link(0, 1, -2.0), Link(1, 2, math.nan)),
    )
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg_of(network))
    for text in (
        "LSTM 8 → 64", "rnn.l0", "‖∂L/∂·‖ 5.0e-401", "‖∂L/∂·‖ 0.01", "h, c", "× 1000", "steps",
        "head, 7 calls", "‖∂L/∂·‖ NaN",
    ):  # fmt: skip
        assert text in texts


def test_no_letter_is_small() -> None:
    sizes = re.findall(r'font-size="([\d.]+)px"', svg_of(chain(-1.0, -2.0)))
    assert sizes
    assert min(map(float, sizes)) >= 11


@pytest.mark.parametrize("log", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_usual_numbers_have_colours_of_their_own(log: float) -> None:
    fills = box_colours(svg_of(chain(-1.0, log, -4.0)))
    assert fills[1] == "#5d636b"
    assert len(set(fills)) == 3


def box_colours(svg: str) -> list[str]:
    group = svg[svg.index("mark-rect") :]
    return re.findall(r'fill="([^"]+)"', group[: group.index("</g>")])


def luminance(colour: str) -> float:
    if colour.startswith("#"):
        parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    else:
        parts = [int(n) for n in re.findall(r"\d+", colour)]
    x = np.array(parts) / 255
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_text_can_be_read_on_every_colour() -> None:
    network = chain(*np.linspace(-10, 0, 41).tolist(), math.nan)
    inks = {t["block"]: t["ink"] for t in rows(spec_of(network), "text")}
    fills = box_colours(svg_of(network))
    assert len(set(fills)) > 40
    for i, fill in enumerate(fills):
        low, high = sorted((luminance(fill), luminance(inks[i])))
        assert (high + 0.05) / (low + 0.05) >= 4.0, (i, fill, inks[i])


def test_the_scale_goes_over_the_decades_there_are() -> None:
    rect = next(x for x in spec_of(chain(-3.5, -1.2))["layer"] if x["mark"]["type"] == "rect")
    assert "'viridis'" in str(rect)
    assert "'domain': [-4, -1]" in str(rect)


def test_arrows_are_wider_where_more_comes_back() -> None:
    spec = spec_of(chain(-9.0, -6.0, -3.0, -math.inf, 0.0))
    width = {p["arrow"]: p["width"] for p in rows(spec, "line")}
    dash = {p["arrow"]: p["dash"] for p in rows(spec, "line")}
    assert width[0] < width[1] < width[3] == 5
    assert dash == {0: False, 1: False, 2: True, 3: False}


def test_a_click_is_taken_by_one_layer_when_it_is_linked() -> None:
    alone, linked = (spec_of(chain(-1.0, -2.0), linked) for linked in (False, True))
    assert "pick_block" not in str(alone)
    found = [p for p in [*linked.get("params", []), *_of_layers(linked)] if "select" in p]
    (pick,) = found
    assert pick["name"] == "pick_block"
    assert pick["select"]["fields"] == ["block"]
    assert (pick["select"]["toggle"], pick["select"]["clear"]) == (False, False)
    assert all(
        "block" in row for mark in ("rect", "text", "point", "line") for row in rows(linked, mark)
    )


def _of_layers(spec: Any) -> list[Any]:
    return [p for layer in spec["layer"] for p in layer.get("params", [])]


def test_the_chosen_box_is_outlined() -> None:
    group = svg_of(chain(-1.0, -2.0), block=1)
    group = group[group.index("mark-rect") :]
    first, chosen = re.findall(r"<path[^>]*>", group[: group.index("</g>")])
    assert 'stroke="#D55E00"' not in first
    assert 'stroke="#D55E00"' in chosen
