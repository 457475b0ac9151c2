"""``look``: what a page holds for every kind of model, and what is said where it cannot be made."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

import models
import tinygrad182 as tg
from tinygrad182.display import charts
from tinygrad182.display.pages import in_script
from tinygrad182.errors import (
    ArgumentError,
    FileError,
    FreedGraphError,
    GraphError,
    UnknownPathError,
)

alt = pytest.importorskip("altair")
pytest.importorskip("vl_convert")

X = np.random.default_rng(0).normal(size=(8, 2, 3))


class Minimal(tg.nn.RecurrentLayer):
    gates = ("f", "n")
    state = ("h",)

    @staticmethod
    def step(xp, x, h, state):
        z = x + h
        n = z.shape[-1] // 2
        f = xp.sigmoid(z[..., :n])
        return (f * state[0] + (1 - f) * xp.tanh(z[..., n:]),)


def _own_loop():
    w = tg.tensor(np.eye(3) * 0.9, requires_grad=True)
    h = tg.zeros((2, 3), dtype="float64")
    for t in range(8):
        h = tg.inspect.mark(tg.tanh(tg.tensor(X[t]) + h @ w), "h", time=t)
    return (h**2).sum()


def _layer(cls, *args, **kwargs):
    layer = cls(3, 4, *args, rng=0, dtype="float64", **kwargs)
    return (layer(tg.tensor(X))[0] ** 2).sum()


def _encoder_decoder():
    encoder = tg.nn.LSTM(3, 4, rng=0, dtype="float64")
    decoder = tg.nn.LSTM(2, 4, rng=1, dtype="float64")
    head = tg.nn.Linear(4, 5, rng=2, dtype="float64")
    _, state = encoder(tg.tensor(X))
    output, _ = decoder(tg.tensor(X[:5, :, :2]), state)
    targets = np.zeros((5, 2), np.int64)
    return tg.nn.cross_entropy(head(output).reshape(10, 5), targets.reshape(-1))


def _feed_forward():
    net = tg.nn.Sequential(
        tg.nn.Linear(3, 4, rng=0, dtype="float64"),
        tg.tanh,
        tg.nn.Linear(4, 1, rng=1, dtype="float64"),
    )
    return (net(tg.tensor(X[0])) ** 2).mean()


def _residual():
    net = models.ResidualNet(3, 4, depth=6, rng=0, dtype="float64")
    return (net(tg.tensor(X[0])) ** 2).sum()


MODELS = {
    "rnn": lambda: _layer(tg.nn.RNN),
    "relu": lambda: _layer(tg.nn.RNN, nonlinearity="relu"),
    "lstm": lambda: _layer(tg.nn.LSTM),
    "two layers": lambda: _layer(tg.nn.LSTM, 2),
    "unrolled": lambda: _layer(tg.nn.LSTM, fused=False),
    "both directions": lambda: _layer(tg.nn.GRU, bidirectional=True),
    "own cell": lambda: _layer(Minimal),
    "own loop": _own_loop,
    "residual": _residual,
    "encoder and decoder": _encoder_decoder,
    "feed-forward": _feed_forward,
    "functions": lambda: tg.tanh(tg.tensor(X[0], requires_grad=True)).sum(),
}


@pytest.fixture(params=MODELS)
def view(request):
    return tg.inspect.look(MODELS[request.param]())


def test_the_page_of_every_model_is_valid_asks_for_nothing_and_is_the_same_again(view, tmp_path):
    spec = view._spec()
    text = json.dumps(spec)
    alt.VConcatChart.validate(json.loads(text))
    page = view.page()  # made again
    assert in_script(spec) in page
    page = page.replace(spec["$schema"], "")
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="https?:', page)
    for sentence in view.sentences:
        assert sentence.text.partition("∂")[0] in page
    view.save_svg(tmp_path / "page.svg")  # drawn without a browser
    assert (tmp_path / "page.svg").read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.parametrize("model", ["lstm", "residual"])
def test_every_view_alone_is_valid(model):
    view = tg.inspect.look(MODELS[model]())
    with charts.unchecked():
        names = list(view.charts())
    for name in names:
        spec = json.loads(json.dumps(view._spec(name)))
        kind = alt.VConcatChart if "vconcat" in spec else alt.LayerChart
        kind.validate(spec)


def test_a_picture_of_a_view_has_the_look_that_is_asked_for(tmp_path):
    view = _look()
    view.save_png(tmp_path / "network.png", view="network")
    view.save_svg(tmp_path / "network.svg", view="network", dark=True)
    assert (tmp_path / "network.png").read_bytes().startswith(b"\x89PNG")
    assert charts.DARK.paper in (tmp_path / "network.svg").read_text(encoding="utf-8")


def test_every_box_opens_into_its_operations(view):
    boxes = view.network.blocks
    assert {i for i, box in enumerate(boxes) if box.kind == "recurrence"} == view.flow.keys()
    for i, flow in view.steps.items():
        assert flow.operations
        assert flow.path == boxes[i].path
    opened = {box.kind for i, box in enumerate(boxes) if i in view.steps}
    assert opened & {"recurrence", "module"}


def test_the_steps_that_are_kept_are_those_asked_for():
    loss = _layer(tg.nn.LSTM)
    view = tg.inspect.look(loss, steps=[2, 5])
    (i,) = view.flow
    assert {row["t"] for row in view._rows if row["block"] == i} == {2, 5}
    assert any("the 2 steps asked for" in note for note in view._notes())
    with pytest.raises(ArgumentError, match="the steps are 0 to 7"):
        tg.inspect.look(loss, steps=[8]).charts()


def test_long_sequences_keep_the_steps_with_most_to_see():
    rnn = tg.nn.RNN(1, 2, nonlinearity="identity", rng=0, dtype="float64")
    rnn.weight_hh_l0.data[...] = 0.5 * np.eye(2)
    view = tg.inspect.look(rnn(tg.ones((3000, 1, 1), dtype="float64"))[0][-1].sum())
    (i,) = view.flow
    kept = view.kept[i].places
    assert len(kept) == 1000
    assert {0, 2999} <= set(kept)
    assert 2999 - math.ceil(3 / math.log10(2)) in kept  # below a thousandth of the end
    assert any("1000 of 3000 steps" in note for note in view._notes())


def test_a_model_is_called_and_its_last_output_is_the_loss():
    rnn = tg.nn.RNN(3, 4, rng=0, dtype="float64")
    x = tg.tensor(X)
    by_model = tg.inspect.look(rnn, x)
    by_loss = tg.inspect.look(rnn(x)[0][-1].sum())
    (i,) = by_model.flow
    ours, theirs = by_model.flow[i].h.grad, by_loss.flow[i].h.grad
    np.testing.assert_array_equal(ours, theirs)
    every = tg.inspect.look(rnn, x, loss=lambda out: (out[0] ** 2).sum())
    assert not np.array_equal(every.flow[i].h.grad, theirs)


def test_a_loss_of_several_elements_begins_with_the_gradient_given():
    rnn = tg.nn.RNN(3, 4, rng=0, dtype="float64")
    output, _ = rnn(tg.tensor(X))
    g = np.random.default_rng(1).normal(size=output.shape)
    view = tg.inspect.look(output, gradient=g)
    (i,) = view.flow
    expected = tg.inspect.gradient_flow(output, g)["rnn.l0"].h.grad
    np.testing.assert_allclose(view.flow[i].h.grad, expected, rtol=1e-12)


def test_nothing_of_the_graph_is_changed():
    rnn = tg.nn.RNN(3, 4, rng=0, dtype="float64")
    loss = (rnn(tg.tensor(X))[0] ** 2).sum()
    tg.inspect.look(loss).page()
    assert rnn.weight_hh_l0.grad is None
    loss.backward()
    assert rnn.weight_hh_l0.grad is not None


def test_a_graph_draws_itself_with_the_gradient_it_was_traced_with(tmp_path):
    rnn = tg.nn.RNN(3, 4, rng=0, dtype="float64")
    output, _ = rnn(tg.tensor(X))
    graph = tg.inspect.trace(output, 2 * np.ones(output.shape))
    view = graph.look()
    (i,) = view.flow
    expected = tg.inspect.gradient_flow(2 * output.sum())["rnn.l0"].h.log10_grad_norm
    np.testing.assert_allclose(view.flow[i].h.log10_grad_norm, expected, rtol=1e-12)
    graph.save_html(tmp_path / "page.html")
    graph.save_png(tmp_path / "step.png", view="step", time=3)
    graph.save_svg(tmp_path / "curves.svg", view="curves")
    assert len(list(tmp_path.iterdir())) == 3


def test_an_opened_step_is_drawn_too(tmp_path):
    graph = tg.inspect.trace(_layer(tg.nn.LSTM))
    (scan,) = [node for node in graph if node.is_fused]
    graph.expand(scan, time=3).save_png(tmp_path / "step.png")
    assert (tmp_path / "step.png").exists()


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (lambda: tg.inspect.look(tg.ones(3)), GraphError, "does not require grad"),
        (lambda: tg.inspect.look(_own_loop(), 3), ArgumentError, "a loss takes no inputs"),
        (lambda: tg.inspect.look(3), ArgumentError, "neither a Tensor nor a model"),
        (lambda: tg.inspect.look(lambda: 3), ArgumentError, "the model returns a int; pass loss="),
        (lambda: _look().chart("flow"), UnknownPathError, "no view 'flow'; there are 'network'"),
        (lambda: _look().chart(path="x"), UnknownPathError, "no box 'x'; there are"),
        (lambda: _look().chart(time=99), ArgumentError, "the steps are 0 to 7"),
        (lambda: _look().chart(operation="q"), UnknownPathError, "no operation 'q'"),
        (lambda: _look().save_html("/"), FileError, "is a folder"),
        (lambda: _look(sample=5)._rows, ArgumentError, "the batch has 2 sequences"),
    ],
)
def test_objects_that_cannot_be_shown_raise(what, error, message):
    with pytest.raises(error, match=message):
        what()


def _look(**options):
    return tg.inspect.look(_layer(tg.nn.LSTM), **options)


def test_a_freed_graph_is_refused():
    loss = _layer(tg.nn.LSTM)
    graph = tg.inspect.trace(loss)
    loss.backward()
    with pytest.raises(FreedGraphError):
        graph.look().page()
    with pytest.raises(FreedGraphError):
        tg.inspect.look(loss)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_numbers_that_went_wrong_are_on_the_page_and_marked(broken):
    x = X.copy()
    x[4, 0, 0] = broken
    rnn = tg.nn.RNN(3, 4, nonlinearity="relu", rng=0, dtype="float64")
    view = tg.inspect.look((rnn(tg.tensor(x))[0][-1] ** 2).sum())
    assert "first anomaly: h at t = 4 is not finite" in view.page()
