"""The playground's networks, built a second time from what its page says of them."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tinygrad182 as tg

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3, "ResNet": 1}


class Stop(NamedTuple):
    """A key of the page's data, read back."""

    cell: str
    nonlinearity: str
    radius: float
    bias: float
    forget: float
    length: int
    loss: str

    @classmethod
    def read(cls, key: str) -> Stop:
        cell, nonlinearity, radius, bias, forget, length, loss = key.split("/")
        numbers = float(radius), float(bias), float(forget or 0)
        return cls(cell, nonlinearity, *numbers, int(length), loss)


def rows_of(page: Path) -> dict[str, dict[str, Any]]:
    """The rows of a page, by their keys, as its JavaScript unpacks them."""
    html = page.read_text(encoding="utf-8")
    index, numbers = (
        zlib.decompress(base64.b64decode(re.search(rf'"{name}":"([^"]+)"', html)[1]))  # type: ignore[index]
        for name in ("index", "numbers")
    )
    found, floats = json.loads(index), np.frombuffer(numbers, "<f8")
    rows = found["losses"]
    for key, row in rows.items():
        places = row.pop("at") | found["values"][key.rsplit("/", 2)[0]]
        row |= {name: floats[at : at + row["steps"]] for name, at in places.items()}
    return dict(rows)


class Network(NamedTuple):
    """The loss of one stop; W_h; the direction v in which it reads a state; the layer and its input."""

    loss: tg.Tensor
    weight: np.ndarray[Any, Any]
    v: np.ndarray[Any, Any]
    layer: Any
    x: np.ndarray[Any, Any]


def network(stop: Stop, size: int, seed: int) -> Network:
    """Build what the page says, with a chain of ``nn.ResBlock`` for the ResNet."""
    draws = np.random.default_rng(seed)
    x = draws.standard_normal((200, 1, 4))[: stop.length]
    start, v = draws.standard_normal((1, size)), draws.standard_normal(size)
    start, v = start / np.linalg.norm(start), v / np.linalg.norm(v)
    biases = stop.bias * draws.standard_normal((4, size))[: GATES[stop.cell]]
    if stop.cell == "LSTM":
        biases[1] += stop.forget  # gates are in the order i, f, g, o
    initial, bound = np.random.default_rng(seed), 1 / np.sqrt(size)
    initial.uniform(-bound, bound, (GATES[stop.cell] * size, 4))
    blocks = initial.uniform(-bound, bound, (GATES[stop.cell], size, size))
    radii = np.abs(np.linalg.eigvals(blocks)).max(axis=1)
    weight = (blocks * (stop.radius / radii)[:, None, None]).reshape(-1, size)
    layer: Any = None
    if stop.cell == "ResNet":
        states = _residual(stop, weight, biases[0], start)
    else:
        options = {"nonlinearity": stop.nonlinearity} if stop.nonlinearity else {}
        layer = getattr(tg.nn, stop.cell)(4, size, rng=seed, dtype="float64", **options)
        layer.weight_hh_l0.assign(weight)
        layer.bias_ih_l0.assign(biases.ravel())
        if stop.cell == "GRU":
            layer.bias_hh_l0.assign(np.zeros(3 * size))
        states = list(layer(tg.tensor(x))[0])
    read = states if stop.loss == "all" else states[-1:]
    loss = sum(((h * v).sum() for h in read), start=tg.zeros(()))
    return Network(loss, weight, v, layer, x)


def _residual(stop: Stop, weight: Any, bias: Any, start: Any) -> list[tg.Tensor]:
    nonlinearity: Any = stop.nonlinearity
    block: Any = tg.nn.ResBlock(len(weight), nonlinearity, dtype="float64")
    block.linear.weight.assign(weight)
    block.linear.bias.assign(bias)
    h, states = tg.tensor(start), []
    for t in range(stop.length):
        h = tg.inspect.mark(block(h), "h", time=t)
        states.append(h)
    return states
