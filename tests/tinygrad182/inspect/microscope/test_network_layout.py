"""The places of the boxes and arrows of a rolled network."""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad182.inspect.microscope.network import Block, Link, Network
from tinygrad182.inspect.microscope.network_layout import LOWEST, WIDTH, placed, shortened, ways_of


def box(title: str, log: float = -1.0, kind: str = "module") -> Block:
    recurrent = kind == "recurrence"
    path, states = "encoder.layers.11.attention.out", ("h", "c") if recurrent else ()
    return Block(path, title, kind, states, 100000 if recurrent else 1, log)


def network(*links: tuple[int, int]) -> Network:
    count = 1 + max(map(max, links))
    return Network(
        tuple(box(str(i)) for i in range(count)), tuple(Link(a, b, 0.0) for a, b in links)
    )


@st.composite
def networks(draw: Any) -> Network:
    count = draw(st.integers(1, 12))
    words = st.sampled_from(["loss", "LSTM 128 → 256", "Linear 1024 → 50257, tanh", "transformer"])
    kinds = st.sampled_from(["module", "recurrence"])
    logs = st.sampled_from([0.0, -3.2, -400.0, math.nan, math.inf, -math.inf])
    boxes = [box(draw(words), draw(logs), draw(kinds)) for _ in range(count)]
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    links = draw(st.sets(pairs.filter(lambda p: p[0] != p[1]), max_size=16))
    return Network(tuple(boxes), tuple(Link(a, b, draw(logs)) for a, b in sorted(links)))


@settings(max_examples=100, deadline=None)
@given(networks())
def test_nothing_overlaps_and_nothing_is_cut(network: Network) -> None:
    boxes, height = placed(network)
    assert height >= LOWEST
    for b in boxes:
        assert 0 <= b.x < b.x + b.width <= WIDTH
        assert 0 <= b.y < b.top <= height
        assert 14 * len(b.lines) < b.height
        assert all(6.1 * len(line) <= b.width for line in b.lines)  # pixels of a usual letter
    loops = [12 if block.kind == "recurrence" else 0 for block in network.blocks]
    right = [b.x + b.width + loop for b, loop in zip(boxes, loops, strict=True)]
    assert max(right) < WIDTH
    for a, b in combinations(boxes, 2):
        beside = right[a.block] < b.x or right[b.block] < a.x
        assert beside or a.top < b.y or b.top < a.y
    for way in ways_of(network, boxes):
        assert all(0 <= x <= WIDTH and 0 <= y <= height for x, y in way)


@settings(max_examples=100, deadline=None)
@given(networks())
def test_arrows_lead_from_box_to_box_and_upwards(network: Network) -> None:
    boxes, _ = placed(network)
    for link, way in zip(network.links, ways_of(network, boxes), strict=True):
        source, target = boxes[link.source], boxes[link.target]
        assert link.source > link.target or target.y > source.top
        (out, first), *_, (into, last) = way
        assert first == source.top
        assert last == target.y
        assert source.x < out < source.x + source.width
        assert target.x < into < target.x + target.width
        assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(way))


def test_boxes_that_read_the_same_stand_side_by_side() -> None:
    (first, one, other, last), _ = placed(network((0, 1), (0, 2), (1, 3), (2, 3)))
    assert one.y == other.y
    assert one.x + one.width < other.x
    assert first.top < one.y < last.y


def test_arrows_past_boxes_go_around_them_in_lanes() -> None:
    rolled = network((0, 1), (0, 3), (1, 2), (1, 3), (2, 3))
    boxes, _ = placed(rolled)
    ways = dict(
        zip([(k.source, k.target) for k in rolled.links], ways_of(rolled, boxes), strict=True)
    )
    far, near = (min(x for x, _ in ways[link]) for link in ((1, 3), (0, 3)))
    assert far < near - 6 < near < boxes[1].x - 6
    assert all(x == boxes[0].middle for x, _ in ways[0, 1])


@pytest.mark.parametrize("bold", [True, False])
def test_a_text_is_cut_in_its_middle(bold: bool) -> None:
    assert shortened("short", 100, bold=bold) == "short"
    cut = shortened("encoder.blocks.17.attention.out", 90, bold=bold)
    assert len(cut) == int(90 / (11 * (0.62 if bold else 0.56)))
    assert cut.startswith("encode")
    assert cut.endswith("out")
    assert "…" in cut


def test_a_network_of_one_box_stands_in_the_middle() -> None:
    (only,), height = placed(Network((box("operations"),), ()))
    assert (only.y + only.top) / 2 == pytest.approx(height / 2, abs=1)
