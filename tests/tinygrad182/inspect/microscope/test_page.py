"""The page's frame: signals that are valid whatever is selected, and text that stays text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from tinygrad182.display import charts
from tinygrad182.inspect.microscope.page import Panels, Span, compose, page

alt = pytest.importorskip("altair")
vl_convert = pytest.importorskip("vl_convert")

SPANS = (
    Span(loop=2),
    Span(steps=1000, first=0, last=9990, step=17, node=3),
    Span(steps=5, first=2, last=6, step=4, node=1),
)


def picking(name: str, fields: list[str], chosen: dict[str, int] | None) -> Any:
    """A chart that makes a selection, with the values that were selected."""
    value = {} if chosen is None else {"value": [chosen]}
    pick = alt.selection_point(name, fields=fields, **value)
    rows = [dict.fromkeys(fields, 0)]
    return alt.Chart(charts.data(rows)).mark_point().encode(x=f"{fields[0]}:Q").add_params(pick)


def told() -> Any:
    """A chart that shows the signals' values."""
    said = alt.Chart(charts.data([{}])).transform_calculate(
        said="'signals ' + block + ' ' + step + ' ' + node + ' ' + window[0] + ' ' + window[1]"
        " + ' ' + loop + ' ' + loop_step"
    )
    return said.mark_text().encode(text="said:N")


def signals(
    block: int | None = None,
    step: int | None = None,
    node: tuple[int, int] | None = None,
    window: tuple[float, float] | None = None,
) -> list[float]:
    """The signals that the charts of a page get for these selections."""
    brush = alt.selection_interval(
        "brush", encodings=["x"], **({} if window is None else {"value": {"x": window}})
    )
    strip = alt.Chart(charts.data([{"t": 0}])).mark_point().encode(x="t:Q").add_params(brush)
    steps = picking("pick_step", ["i"], None if step is None else {"i": step})
    of_node = None if node is None else {"node": node[0], "block": node[1]}
    panels = Panels(
        network=picking("pick_block", ["block"], None if block is None else {"block": block}),
        curves=alt.vconcat(steps, strip),
        opened=picking("pick_node", ["node", "block"], of_node),
        linked=[told()],
    )
    return said_in(compose(panels, SPANS, 1))


def said_in(chart: Any) -> list[float]:
    svg = vl_convert.vegalite_to_svg(json.dumps(chart))
    texts = [
        e.text or "" for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]
    (found,) = (text for text in texts if text.startswith("signals "))
    return [float(word) for word in found.split()[1:]]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, [1, 17, 3, 0, 9990]),
        ({"step": 999}, [1, 999, 3, 0, 9990]),
        ({"node": (6, 1)}, [1, 17, 6, 0, 9990]),
        ({"window": (30, 40)}, [1, 17, 3, 30, 40]),
        ({"block": 2}, [2, 4, 1, 2, 6]),
        ({"block": 2, "step": 3}, [2, 3, 1, 2, 6]),
        ({"block": 2, "step": 700}, [2, 4, 1, 2, 6]),  # this block has fewer steps
        ({"block": 2, "node": (6, 1)}, [2, 4, 1, 2, 6]),  # an operation of another block
        ({"block": 2, "window": (30, 40)}, [2, 4, 1, 2, 6]),  # nor does a window without its steps
        # A block without time has one step, and the curves of a recurrence beside it.
        ({"block": 0, "step": 3, "node": (1, 2)}, [0, 0, 0, 2, 6, 2, 3]),
    ],
)
def test_signals_are_valid_whatever_is_selected(
    chosen: dict[str, Any], expected: list[float]
) -> None:
    loop, loop_step = expected[5:] or expected[:2]
    assert signals(**chosen) == [*expected[:5], loop, loop_step]


def test_a_graph_without_time_has_no_steps_to_choose() -> None:
    panels = Panels(network=picking("pick_block", ["block"], {"block": 2}), linked=[told()])
    assert said_in(compose(panels, [Span(), Span(), Span(node=2)], 0)) == [2, 0, 2, 0, 0, 2, 0]


@pytest.mark.parametrize(
    ("spans", "name"),
    [
        ([Span(), Span(30, 0, 29)], "Step t = 0 to 29"),
        ([Span(30, 0, 29), Span(7, 0, 6)], "Step"),
    ],
)
def test_the_slider_says_its_ends_if_they_are_those_of_every_box(
    spans: list[Span], name: str
) -> None:
    curves = alt.vconcat(picking("pick_step", ["i"], None), told())
    panels = Panels(network=picking("pick_block", ["block"], None), curves=curves)
    (bind,) = [p["bind"] for p in compose(panels, spans, 0)["params"] if "bind" in p]
    assert bind["i"]["name"] == name


def test_linked_views_stand_three_in_a_row() -> None:
    network = picking("pick_block", ["block"], None)
    spec = compose(Panels(network=network, linked=[told()] * 5), [Span()], 0)
    assert [len(row["hconcat"]) for row in spec["vconcat"]] == [1, 3, 2]


class _Read(HTMLParser):
    """The text of each element, and what a browser would run."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._open.append(tag)
        self.found.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            self.found[tag][-1] += data


BAD = "</script><script>alert(1)</script><b>&'\""


def test_texts_stay_texts() -> None:
    chart = compose(Panels(network=picking("pick_block", ["block"], None)), [Span()], 0)
    read = _Read(page(BAD, [BAD, "2 < 3"], chart, [BAD], ["kept all"], {"gain split": BAD})).found
    assert read["title"] == [BAD]
    assert read["h1"] == [BAD]
    assert read["p"] == [BAD, "2 < 3"]
    assert BAD in read["li"]
    assert read["li"][-2:] == ["kept all", f"gain split: {BAD}"]
    assert "b" not in read
    assert len(read["script"]) == 2


def test_an_empty_list_has_no_fold() -> None:
    chart = compose(Panels(network=picking("pick_block", ["block"], None)), [Span()], 0)
    assert _Read(page("t", ["s"], chart)).found["summary"] == ["How to read this page"]


def test_the_page_takes_the_theme_and_forbids_the_network() -> None:
    chart = compose(Panels(network=picking("pick_block", ["block"], None)), [Span()], 0)
    written = page("t", ["s"], chart)
    (themes,) = re.findall(r"config: (.*)\[\+dark\.matches\]", written)
    assert json.loads(themes) == [charts.theme(), charts.theme(dark=True)]
    assert "default-src 'none'" in written
    assert "connect-src" not in written
    assert charts.DARK.paper in written
    assert "config" not in chart
