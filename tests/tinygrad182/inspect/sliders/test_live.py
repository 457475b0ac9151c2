"""A slider that is moved in a notebook reaches Python, which draws the reader's own model anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tinygrad182 import _caches
from tinygrad182.errors import ArgumentError
from tinygrad182.inspect import live_sliders

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
pytest.importorskip("anywidget")

X = np.random.default_rng(0).standard_normal((12, 2, 3))


@pytest.fixture(autouse=True)
def _no_javascript(monkeypatch: pytest.MonkeyPatch) -> None:
    """Putting the widget's JavaScript together takes seconds; nothing runs it here."""
    read_cached = _caches.read_cached
    stub = b"export default {}"
    monkeypatch.setattr(
        _caches, "read_cached", lambda name: stub if name.endswith("js") else read_cached(name)
    )


class Reader(tg.nn.Module):
    """A stack of LSTMs and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = tg.nn.LSTM(3, 4, 2, rng=0, dtype="float64")
        self.head = tg.nn.Linear(4, 1, rng=1, dtype="float64")

    def forward(self, x: Any) -> Any:
        return self.head(self.lstm(x)[0])


def move(widget: Any, **sliders: Any) -> None:
    """Send what altair's JavaScript sends when a slider is moved."""
    widget._params = {**widget._params, **sliders}


def drawn(widget: Any) -> dict[str, Any]:
    """The parameter that Python sets, as altair's JavaScript gets it."""
    return dict(widget._params["drawn"])


def changed(at: dict[str, Any]) -> Reader:
    """A model as the sliders say, made by hand."""
    model = Reader()
    for name, parameter in model.lstm.named_parameters():
        values = parameter.numpy().copy()
        if "weight_hh" in name:
            values *= at["weights"]
        if "bias" in name:
            values *= at["biases"]
            values[4:8] += at["forget_bias"]
        parameter.assign(values)
    return model


@pytest.mark.parametrize("path", ["lstm.l0", "lstm.l1"])
def test_a_move_draws_the_models_numbers(path: str) -> None:
    model = Reader()
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    widget = live_sliders(model, tg.tensor(X), path=path)
    first = drawn(widget)
    assert widget.spec["params"][0] == {"name": "drawn", "value": first}
    at = {"weights": 1.0, "biases": 1.0, "forget_bias": 0.0, "steps": 12, "reads": "last"}
    rows = [(dict(at), first)]
    moves = [
        ("weights", 2.5),
        ("forget_bias", -2.0),
        ("steps", 7),
        ("reads", "all"),
        ("biases", 0.5),
    ]
    for name, value in moves:
        at[name] = value
        move(widget, **{name: value})
        rows.append((dict(at), drawn(widget)))
    for at, row in rows:
        output = changed(at)(tg.tensor(X[: at["steps"]]))
        loss = (output[-1] if at["reads"] == "last" else output).sum()
        flow = tg.inspect.gradient_flow(loss)[path]
        shares = tg.inspect.path_split(loss, path)["c"].shares
        for k, name in enumerate("hc"):
            np.testing.assert_allclose(row[f"g{k}"], flow[name].log10_grad_norm, rtol=0, atol=1e-12)
            norms = np.log10(flow[name].value_norm)
            np.testing.assert_allclose(row[f"v{k}"], norms, rtol=0, atol=1e-12)
        for k, part in enumerate(("via h", "local")):
            np.testing.assert_allclose(row[f"s{k}"], shares[part], rtol=0, atol=1e-12)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), before[name])
        assert parameter.grad is None


def test_a_model_has_the_sliders_that_apply() -> None:
    def names(widget: Any) -> list[str]:
        return [param["name"] for param in widget.spec["params"] if "bind" in param]

    rnn = tg.nn.RNN(3, 4, batch_first=True, rng=0, dtype="float64")
    x = tg.tensor(X.swapaxes(0, 1))
    widget = live_sliders(rnn, x)
    assert names(widget) == ["weights", "biases", "steps", "reads"]
    move(widget, steps=5)
    assert len(drawn(widget)["g0"]) == 5
    assert drawn(widget)["states"] == ["h"]
    widget = live_sliders(rnn, x, loss=lambda output: (output[0][:, 3] ** 2).sum())
    assert names(widget) == ["weights", "biases", "steps"]
    move(widget, weights=0.0)
    zeros = [t for t, log in enumerate(drawn(widget)["g0"]) if log == "0"]
    assert zeros == [t for t in range(12) if t != 3]


@pytest.mark.parametrize(
    ("model", "inputs", "told"),
    [
        (tg.nn.Linear(3, 3, rng=0), (tg.ones((4, 3)),), "Linear.* has no recurrent layers"),
        (tg.nn.RNN(3, 3, rng=0), (), r"sequence of two steps or more.*shape \(\)"),
        (tg.nn.RNN(3, 3, rng=0), (tg.ones((1, 2, 3)),), r"it has shape \(1, 2, 3\)"),
    ],
)
def test_models_that_cannot_be_shown_raise(model: Any, inputs: Any, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        live_sliders(model, *inputs)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (3, "loss = 3 must be a function"),
        (lambda output: None, "single element, not None"),
        (lambda output: output[0], r"single element, not tensor"),
    ],
)
def test_an_invalid_loss_raises(loss: Any, told: str) -> None:
    rnn = tg.nn.RNN(3, 4, rng=0, dtype="float64")
    with pytest.raises(ArgumentError, match=told):
        live_sliders(rnn, tg.tensor(X), loss=loss)
