"""A graph as text for Graphviz: what is written, what is left out, and whether Graphviz takes it."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from models.residual import ResidualNet
from tests.support import const
from tinygrad182.engine.backpropagation import ancestors
from tinygrad182.inspect.graph.dot import quoted, to_dot
from tinygrad182.inspect.loops.hosting import copied_to_host
from tinygrad182.inspect.microscope.network import Block, Link, Network, network_of

NODE = re.compile(r'^\s*(\w+) \[label="((?:[^"\\]|\\.)*)"')
EDGE = re.compile(r"^\s*(\w+) -> (\w+)")


class Parsed:
    """A small reader of what to_dot writes."""

    def __init__(self, text: str) -> None:
        self.nodes: dict[str, str] = {}
        self.edges: list[tuple[str, str]] = []
        self.clusters: list[str] = []
        self.inside: dict[str, list[str]] = {}
        open_now: list[str] = []
        for line in text.splitlines():
            if edge := EDGE.match(line):
                self.edges.append(edge.group(1, 2))
            elif begun := re.match(r"\s*subgraph (\w+) {", line):
                self.clusters.append(begun[1])
                open_now.append(begun[1])
            elif line.strip() == "}":
                open_now = open_now[:-1]
            elif (node := NODE.match(line)) and node[1] not in ("node", "edge"):
                assert node[1] not in self.nodes
                self.nodes[node[1]] = node[2].replace("\\n", "\n")
                self.inside[node[1]] = list(open_now)
        assert text.count("{") - text.count("}") == 0
        assert {end for edge in self.edges for end in edge} <= self.nodes.keys()
        assert len(self.edges) == len(set(self.edges))


def rolled(graph: Any) -> Network:
    here = copied_to_host(graph._seeds)
    nodes = ancestors([node for node, _ in here.seeds], constants=True)
    return network_of(nodes, here.seeds)


def looped(T: int) -> Any:
    w = tg.tensor(np.full((4, 4), 0.1), requires_grad=True)
    h, x = const(np.ones((3, 4))), const(np.ones((T, 3, 4)))
    for t in range(T):
        h = tg.inspect.mark(tg.tanh(h @ w + x[t]), "h", time=t)
    return (h**2).sum()


def through_lstm(T: int = 5) -> Any:
    lstm = tg.nn.LSTM(2, 3, rng=0)
    return tg.inspect.trace(lstm(tg.ones((T, 1, 2)))[0][-1].sum())


def accepted(text: str) -> None:
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed")
    run = subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()
    assert b"</svg>" in run.stdout
    assert not run.stderr.decode().strip()


def test_boxes_and_arrows_with_their_gradients() -> None:
    boxes = (
        Block("", "input", "input", (), 1, -3.0),
        Block("rnn.l0", "LSTM 2 → 3", "recurrence", ("h", "c"), 50, -400.3),
        Block("", "loss", "loss", (), 1, math.nan),
    )
    text = to_dot(Network(boxes, (Link(0, 1, -400.3), Link(1, 2, -2.0))))
    read = Parsed(text)
    assert list(read.nodes.values()) == [
        "input\n‖∂L/∂·‖ 1.0e-3",
        "LSTM 2 → 3\nrnn.l0\n‖∂L/∂·‖ 5.0e-401",
        "loss\n‖∂L/∂·‖ NaN",
    ]
    assert read.edges == [("b1", "b1"), ("b0", "b1"), ("b1", "b2")]
    assert '[label="h, c × 50 steps"]' in text
    widths = dict(re.findall(r'label="([^"]+)", penwidth=([\d.]+)', text))
    assert widths == {"5.0e-401": "0.5", "0.01": "5.0"}


def test_every_operation_with_its_norms() -> None:
    w = tg.tensor(np.full((2, 2), 2.0), requires_grad=True)
    graph = tg.inspect.trace((const(np.ones((1, 2))) @ w).sum())
    read = Parsed(to_dot(rolled(graph), opened=True, grads=graph._grads))
    labels = sorted(read.nodes.values())
    assert labels == [
        "leaf\n(1, 2)\n‖value‖ 1.41",
        "leaf\n(2, 2)\n‖value‖ 4\n‖grad‖ 2",
        "matmul\n(1, 2)\n‖value‖ 5.66\n‖grad‖ 1.41",
        "sum\n()\n‖value‖ 8\n‖grad‖ 1",
    ]
    ops = {name: label.split("\n")[0] for name, label in read.nodes.items()}
    assert sorted((ops[a], ops[b]) for a, b in read.edges) == [
        ("leaf", "matmul"), ("leaf", "matmul"), ("matmul", "sum")
    ]  # fmt: skip


def test_a_recurrence_has_a_cluster_for_each_step() -> None:
    graph = through_lstm().opened()
    network = rolled(graph)
    read = Parsed(to_dot(network, opened=True, grads=graph._grads))
    assert len(read.nodes) == len(graph)
    steps = {c for c in read.clusters if re.match(r"cluster_b1_\d", c)}
    assert steps == {f"cluster_b1_{t}" for t in range(6)}  # the initial state is the first
    for t in range(5):
        inside = [
            read.nodes[n].split("\n")[0]
            for n in read.nodes
            if f"cluster_b1_{t + 1}" in read.inside[n]
        ]
        assert sorted(inside).count("tanh") == 2
        assert {"multiply h", "add c"} <= set(inside)


def test_operations_of_a_loop_of_your_own_are_in_the_step_they_lead_to() -> None:
    graph = tg.inspect.trace(looped(4))
    read = Parsed(to_dot(rolled(graph), opened=True))
    for t in range(4):
        inside = [
            read.nodes[n].split("\n")[0]
            for n in read.nodes
            if f"cluster_b1_{t + 1}" in read.inside[n]
        ]
        assert sorted(inside)[-3:] == ["add", "matmul", "tanh h"]


@pytest.mark.parametrize("most", [1, 60, 400])
def test_the_text_says_what_is_left_out(most: int) -> None:
    graph = tg.inspect.trace(looped(500))
    text = to_dot(rolled(graph), opened=True, most=most)
    told = re.match(r"// (\d+) of (\d+) nodes are written; (\d+) are left out\n", text)
    assert told
    written, total, out = map(int, told.groups())
    read = Parsed(text)
    stand_ins = [label for name, label in read.nodes.items() if name.endswith("_out")]
    assert total == len(graph)
    assert written + out == total
    assert written == len(read.nodes) - len(stand_ins)
    assert written <= max(most, 14)
    assert written >= min(most - 8, 400)
    counted = sum(int(re.search(r"(\d+) nodes", label)[1]) for label in stand_ins)  # type: ignore[index]
    assert counted == out
    # the first steps feed the node for the steps in between, which feeds the last ones
    assert "b1_out" in {target for _, target in read.edges}
    assert "b1_out" in {source for source, _ in read.edges}


def test_a_fused_layer_is_one_operation() -> None:
    graph = through_lstm()
    read = Parsed(to_dot(rolled(graph), opened=True, grads=graph._grads))
    assert len(read.nodes) == len(graph)
    assert any(label.startswith("lstm_scan") for label in read.nodes.values())


def test_names_are_escaped() -> None:
    name = 'a "b" \\N {c}\n<d>'
    box = Block(name, 'say "hi"\\', "module", (), 1, 0.0)
    text = to_dot(Network((box,), ()))
    assert 'label="say \\"hi\\"\\\\\\na \\"b\\" \\\\N {c}\\n<d>\\n' in text
    accepted(text)


def test_a_quoted_text() -> None:
    assert quoted('"\\') == '"\\"\\\\"'


@pytest.mark.parametrize("opened", [False, True])
def test_graphviz_takes_it(opened: bool) -> None:
    model = ResidualNet(2, 4, depth=6, rng=0)
    for graph in (through_lstm().opened(), tg.inspect.trace(model(tg.ones((2, 2))).sum())):
        accepted(to_dot(rolled(graph), opened, graph._grads, most=40))


@pytest.mark.parametrize("most", [0, 1.5, "all", None])
def test_a_limit_that_is_none(most: Any) -> None:
    with pytest.raises(tg.ArgumentError, match="to_dot: most"):
        to_dot(Network((), ()), opened=True, most=most)
