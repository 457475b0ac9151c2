"""``tg.inspect.watch``: the record of a training run, which stays unchanged by it."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, host
from tinygrad182.engine import autodiff
from tinygrad182.inspect.watching import chart

flow_of = tg.inspect.gradient_flow


class Net(tg.nn.Module):
    """Two recurrent layers of an LSTM, or a vanilla RNN in both directions, and a head."""

    def __init__(self, kind: str = "lstm", seed: int = 0) -> None:
        super().__init__()
        options: dict[str, Any] = {"rng": seed, "dtype": "float64"}
        if kind == "lstm":
            self.rnn = tg.nn.LSTM(2, 3, 2, **options)
        else:
            self.rnn = tg.nn.RNN(2, 3, bidirectional=True, **options)
        self.head = tg.nn.Linear(3 if kind == "lstm" else 6, 1, **options)

    def forward(self, x: Any) -> tg.Tensor:
        return self.head(self.rnn(x)[0][-1])


def loss_of(model: Net, seed: int, steps: int = 7, batch: int = 4) -> tg.Tensor:
    x = np.random.default_rng(seed).normal(size=(steps, batch, 2))
    return (model(const(x)) ** 2).mean()


def train(
    model: Net, count: int, before: Callable[[tg.Tensor], object] = lambda loss: None
) -> None:
    optimizer = tg.optim.Adam(model.parameters(), lr=0.01)
    for i in range(count):
        loss = loss_of(model, i)
        before(loss)
        optimizer.zero_grad()
        loss.backward()
        tg.optim.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=False)
        optimizer.step()


def parameters(model: Net) -> list[Any]:
    return [host(p) for p in model.parameters()]


@pytest.fixture(autouse=True)
def _nobody_watches() -> Any:
    """A watch that a test leaves behind would be noticed by all that follow."""
    yield
    gc.collect()
    assert not autodiff._OBSERVERS


# --- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lstm", "rnn"])
def test_every_nth_pass_is_kept_as_gradient_flow_finds_it(kind: str) -> None:
    model, expected = Net(kind), []
    with tg.inspect.watch(model, every=3) as watch:
        train(model, 8, lambda loss: expected.append((float(loss.item()), flow_of(loss))))
    assert watch.steps.tolist() == [0, 3, 6]
    assert watch.loss.tolist() == [expected[i][0] for i in (0, 3, 6)]
    assert list(watch) == list(expected[0][1])
    for path, stack in watch.items():
        assert list(stack) == list(expected[0][1][path])
        for name, state in stack.items():
            assert state.there.all()
            assert state.time.tolist() == list(range(7))
            for s, i in enumerate((0, 3, 6)):
                found = expected[i][1][path][name]
                np.testing.assert_array_equal(state.log10_grad_norm[s], found.log10_grad_norm)
                np.testing.assert_array_equal(
                    10 ** state.log10_value_norm[s], 10 ** np.log10(found.value_norm)
                )
    assert watch["rnn.l0"].h is watch["rnn.l0"]["h"]


def test_training_gives_the_same_bits() -> None:
    alone, watched = Net(), Net()
    train(alone, 6)
    with tg.inspect.watch(watched, every=2):
        train(watched, 6)
    for a, b in zip(parameters(alone), parameters(watched), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_graph_is_freed_or_retained_as_it_is_without_a_watch() -> None:
    model = Net()
    with tg.inspect.watch(model, every=1) as watch:
        loss = loss_of(model, 0)
        loss.backward(retain_graph=True)
        loss.backward()
        with pytest.raises(tg.FreedGraphError, match=r"freed"):
            loss.backward()
        loss_of(model, 0).backward(create_graph=True)
        assert next(model.parameters()).grad.requires_grad
    assert watch.steps.tolist() == [0, 1, 2]


def test_passes_of_others_do_not_count() -> None:
    model, other = Net(), Net(seed=1)
    with tg.inspect.watch(model, every=1) as watch, tg.inspect.watch(other, every=2) as second:
        loss_of(other, 0).backward()
        with tg.no_grad():
            loss_of(model, 0)
        loss_of(model, 1).backward()
        (loss_of(model, 2) + loss_of(other, 2)).backward()
        loss_of(other, 3).backward()
    assert watch.steps.tolist() == [0, 1]
    assert second.steps.tolist() == [0, 2]
    loss_of(model, 0).backward()
    assert len(watch.steps) == 2


def test_gradients_that_are_accumulated_count_for_each_pass() -> None:
    model = Net()
    with tg.inspect.watch(model, every=2) as watch:
        for i in range(4):
            loss_of(model, i).backward()
    assert watch.steps.tolist() == [0, 2]


def test_sequences_of_other_lengths_and_other_paths() -> None:
    model = Net("rnn")
    with tg.inspect.watch(model, every=1) as watch:
        for steps in (3, 5):
            loss_of(model, 0, steps).backward()
        h = tg.ones((1, 3), dtype="float64")
        for t in (4, 6):
            h = tg.inspect.mark(tg.tanh(h @ model.rnn.weight_hh_l0), "s", time=t)
        h.sum().backward()
    state = watch["rnn.l0"].h
    assert state.there.tolist() == [[True] * 3 + [False] * 2, [True] * 5, [False] * 5]
    assert np.isnan(state.log10_grad_norm[0, 3:]).all()
    own = watch[""].s
    assert own.time.tolist() == [4, 6]
    assert own.there.tolist() == [[False] * 2, [False] * 2, [True] * 2]
    assert "rnn.l0_reverse" in watch
    assert "·" in repr(watch)
    watch.chart()


def test_a_cotangent_is_the_one_the_pass_starts_from() -> None:
    model = Net()
    output = model(const(np.ones((5, 4, 2))))
    g = np.arange(4.0).reshape(4, 1)
    expected = flow_of(output, const(g))["rnn.l1"].h.log10_grad_norm
    with tg.inspect.watch(model) as watch:
        output.backward(const(g), retain_graph=True)
        watch.record(output, g)
    assert watch.steps.tolist() == [0, 1]
    for s in (0, 1):
        np.testing.assert_array_equal(watch["rnn.l1"].h.log10_grad_norm[s], expected)
        assert watch.loss[s] == pytest.approx(float((host(output) * g).sum()), rel=1e-12)


def test_what_is_handed_over_is_kept_and_nothing_else() -> None:
    model = Net()
    with tg.inspect.watch(model, every=None) as watch:
        watch.record(loss_of(model, 99))
        train(model, 3)
        loss = loss_of(model, 99)
        watch.record(loss)
        loss.backward()
    assert watch.steps.tolist() == [0, 3]


def test_numbers_that_are_not_finite_are_kept() -> None:
    model = Net()
    with tg.inspect.watch(model, every=1) as watch:
        for factor in (1.0, math.inf, math.nan, 0.0):
            (loss_of(model, 0) * factor).backward()
    assert watch.loss[1:3].tolist() == [math.inf, pytest.approx(math.nan, nan_ok=True)]
    logs = watch["rnn.l0"].h.log10_grad_norm
    assert np.isfinite(logs[0]).all()
    assert not np.isfinite(logs[1]).any()
    assert np.isnan(logs[2]).all()
    assert np.isneginf(logs[3]).all()
    assert watch["rnn.l0"].h.worst() == 1
    assert watch["rnn.l0"].h.there.all()
    watch.chart()
    assert "NaN" in repr(watch)


def test_the_worst_training_step_of_a_run_that_explodes() -> None:
    rnn = tg.nn.RNN(1, 1, rng=0, dtype="float64", nonlinearity="relu")
    with tg.inspect.watch(rnn, every=1) as watch:
        for factor in (1.5, 3.0, 2.0):
            rnn.weight_hh_l0.data[...] = factor
            rnn.weight_ih_l0.data[...] = 1.0
            rnn(const(np.ones((5, 1, 1))))[0][-1].sum().backward()
    h = watch["rnn.l0"].h
    np.testing.assert_allclose(h.reach, 4 * np.log10([1.5, 3.0, 2.0]), rtol=1e-12)
    assert h.worst() == 1
    assert "81 at training step 1 (the worst) and 16 at training step 2." in watch._sentences()[2]


def test_a_gradient_of_0_at_the_last_time_step_is_not_the_worst() -> None:
    rnn = tg.nn.RNN(1, 2, rng=0, dtype="float64")
    with tg.inspect.watch(rnn, every=1) as watch:
        for last in (0, 3):
            output = rnn(const(np.ones((4, 1, 1))))[0]
            output[last].sum().backward()
    h = next(iter(watch.values())).h
    assert np.isposinf(h.reach[0])
    assert h.worst() == 1
    with tg.inspect.watch(rnn, every=1) as watch:
        rnn(const(np.ones((4, 1, 1))))[0][0].sum().backward()
    assert "‖∂L/∂h‖ at the last time step is 0, at every training step." in watch._sentences()[2]


def test_when_the_loss_is_first_not_finite_is_said() -> None:
    model = Net()
    with tg.inspect.watch(model, every=2) as watch:
        for factor in (0.0, 1.0, math.inf, 1.0, math.nan):
            (loss_of(model, 0) * factor).backward()
    said = (
        "The loss is ∞ at training step 2, the first at which it is not finite; at training step 0"
    )
    assert f"{said} it is 0." in repr(watch)


def test_a_gradient_below_every_float() -> None:
    model = Net()
    with tg.inspect.watch(model) as watch:
        (loss_of(model, 0, 4000)).backward()
    logs = watch["rnn.l0"].h.log10_grad_norm
    assert -2000 < logs[0, 0] < -400
    assert watch["rnn.l0"].h.reach[0] == pytest.approx(logs[0, 0] - logs[0, -1], abs=1e-9)


# --- beginning and end ----------------------------------------------------------------------------


def test_a_watch_that_nobody_holds_ends_and_the_model_is_not_kept() -> None:
    model = Net()
    watch = tg.inspect.watch(model)
    assert len(autodiff._OBSERVERS) == 1
    del watch
    assert not autodiff._OBSERVERS
    watch, gone = tg.inspect.watch(model), weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    loss_of(Net(), 0).backward()
    assert len(watch.steps) == 0
    assert repr(watch).startswith("Nothing was watched yet")
    watch.chart()


def test_with_a_file_it_is_there_as_long_as_its_model(tmp_path: Path) -> None:
    model, path = Net(), tmp_path / "run.jsonl"
    tg.inspect.watch(model, every=2, path=path)
    gc.collect()
    train(model, 3)
    assert tg.inspect.load_watch(path).ended == "The run goes on."
    del model
    gc.collect()
    run = tg.inspect.load_watch(path)
    assert run.steps.tolist() == [0, 2]
    assert "its model is gone" in run.ended


def test_an_observation_that_ended_does_not_end_another() -> None:
    class Observer:
        def before_backward(self, output: tg.Tensor, gradient: Any) -> None:
            raise NotImplementedError

    ends = []
    for _ in range(3):  # an object that takes the place of one that died has its id
        observer = Observer()
        ends.append(autodiff.observe(observer))
        del observer
    last = Observer()
    ends.append(autodiff.observe(last))
    for end in ends[:-1]:
        end()
    assert len(autodiff._OBSERVERS) == 1
    ends[-1]()
    assert not autodiff._OBSERVERS


def test_an_exception_is_recorded_as_the_end(tmp_path: Path) -> None:
    model, path = Net(), tmp_path / "run.jsonl"

    def fail() -> None:
        loss_of(model, 0).backward()
        raise ZeroDivisionError("division by zero")

    with pytest.raises(ZeroDivisionError), tg.inspect.watch(model, path=path):
        fail()
    assert "ZeroDivisionError: division by zero" in tg.inspect.load_watch(path).ended


def test_threads_count_together() -> None:
    model = Net()
    with tg.inspect.watch(model, every=2) as watch:
        threads = [
            threading.Thread(target=lambda: [loss_of(model, i).backward() for i in range(5)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert watch.steps.tolist() == list(range(0, 20, 2))


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            {"model": [1]},
            tg.DTypeError,
            r"watch: \[1\] is a list, not a Module; put the parameters",
        ),
        ({"every": 0}, tg.ArgumentError, "watch: every 0 must be a whole number from 1"),
        (
            {"every": 2.0},
            tg.ArgumentError,
            "watch: every 2.0 must be a whole number from 1",
        ),
        ({"every": True}, tg.ArgumentError, "watch: every True must be"),
        ({"step": -1}, tg.ArgumentError, "watch: step -1 must be a whole number from 0"),
    ],
)
def test_arguments_that_cannot_be(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tg.inspect.watch(**{"model": Net()} | arguments)


def test_a_model_without_marked_states_says_so_at_the_first_pass() -> None:
    model = tg.nn.Linear(2, 1, rng=0, dtype="float64")
    watch = tg.inspect.watch(model)
    loss = model(const(np.ones((3, 2)))).sum()
    with pytest.raises(tg.GraphError, match=r"state.*marked") as raised:
        loss.backward()
    assert "watch.stop() lets training go on" in raised.value.__notes__[0]
    watch.stop()
    loss.backward()


def test_a_later_loss_without_states_does_not_end_the_training() -> None:
    model = Net()
    watch = tg.inspect.watch(model, every=1)
    loss_of(model, 0).backward()
    with pytest.warns(
        UserWarning, match=r"nothing is kept at training step 1.*state.*marked"
    ) as warned:
        (model.head.weight**2).sum().backward()
    assert warned[0].filename == __file__
    assert model.head.weight.grad is not None
    (model.head.weight**2).sum().backward()  # which is an error here where it warns again
    loss_of(model, 1).backward()
    assert watch.steps.tolist() == [0, 3]
    watch.stop()


def test_a_watch_that_ended_takes_no_more(tmp_path: Path) -> None:
    model = Net()
    for path in (None, tmp_path / "run.jsonl"):
        watch = tg.inspect.watch(model, path=path)
        watch.stop()
        with pytest.raises(tg.ArgumentError, match="record: this watch has ended; begin another"):
            watch.record(loss_of(model, 0))
        assert len(watch.steps) == 0


def test_a_chart_of_a_number_that_is_not_a_training_step() -> None:
    with tg.inspect.watch(model := Net()) as watch:
        loss_of(model, 0).backward()
    with pytest.raises(tg.ArgumentError, match=r"chart: step .*'last'.*whole number"):
        watch.chart(step="last")  # type: ignore[arg-type]


def test_names_that_are_not_there() -> None:
    model = Net()
    with tg.inspect.watch(model) as watch:
        loss_of(model, 0).backward()
    with pytest.raises(tg.UnknownPathError, match=r"no states were watched in 'rnn'.*'rnn.l0'"):
        watch["rnn"]
    with pytest.raises(tg.UnknownPathError, match=r"no state 'x' in 'rnn.l0'.*'h', 'c'"):
        watch["rnn.l0"]["x"]
    with pytest.raises(AttributeError, match=r"no state 'x'.*'h', 'c'"):
        _ = watch["rnn.l0"].x


def test_what_is_shown_does_not_grow_while_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("altair")
    model, grids = Net(), tg.inspect.Watched._grids

    def meanwhile(self: tg.inspect.Watched) -> Any:
        found = grids(self)
        loss_of(model, 1).backward()  # as another thread may
        return found

    with tg.inspect.watch(model, every=1) as watch:
        loss_of(model, 0).backward()
        monkeypatch.setattr(tg.inspect.Watched, "_grids", meanwhile)
        watch.chart()
    assert watch.steps.tolist() == [0, 1]


# --- pictures -------------------------------------------------------------------------------------


def test_pictures_of_a_run_that_overflowed_and_of_nothing() -> None:
    pytest.importorskip("altair")
    model = Net("rnn")
    with tg.inspect.watch(model, every=1) as watch:
        assert "Nothing was watched yet" in str(watch.chart().to_dict(validate=False))
        for factor in (1.0, math.inf, math.nan, 0.0):
            (loss_of(model, 0) * factor).backward()
    spec = watch.chart(step=1).to_dict(validate=False)
    told = [row["what"] for rows in spec["datasets"].values() for row in rows if "what" in row]
    assert told == ["at the rule", "at training step 0", "exactly 0", "infinite", "NaN"]
    assert spec["params"] == [{"name": "moment", "value": 1}]


def test_a_long_run_draws_the_steps_with_most_to_see_and_says_which() -> None:
    pytest.importorskip("altair")
    model = tg.nn.RNN(1, 2, rng=0, dtype="float64")
    x = const(np.ones((120, 1, 1)))
    with tg.inspect.watch(model, every=1) as watch:
        for i in range(300):
            (model(x)[0][-1].sum() * (math.nan if i in (203, 204) else 1.0)).backward()
    spec, told = chart.drawn(watch._grids(), watch.steps, watch.loss, None)
    rows = [row for rows in spec["datasets"].values() for row in rows if "v" in row and "x" in row]
    steps = {row["step"] for row in rows}
    assert {0, 203, 299} <= steps
    assert sum(len(row["v"]) for row in rows) <= chart.MOST_CELLS
    assert told[0].startswith(f"{len(steps)} of 300 watched training steps are drawn: the first")
    assert told[1].startswith("rnn.l0 h: 81 of 120 time steps are drawn")


def test_a_page_of_many_states_tells_of_the_worst_and_folds_the_others() -> None:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    rnn = tg.nn.RNN(1, 2, 6, rng=0, dtype="float64")
    with tg.inspect.watch(rnn, every=1) as watch:
        for _ in range(2):
            rnn(const(np.ones((9, 1, 1))))[0][-1].sum().backward()
    front, folded = watch._in_front()
    assert front[2].startswith(
        "Of 6 states, these vanish or explode most; the others are at the end"
    )
    reach = {path: abs(stack.h.reach).max() for path, stack in watch.items()}
    worst = sorted(reach, key=lambda path: -reach[path])[:3]
    assert [text.split(" h: ")[0] for text in front[3:]] == worst != list(watch)[:3]
    assert len(folded) == 3
    assert sorted(front[3:] + folded) == sorted(watch._sentences()[2:])
    html = watch.page()
    assert "<summary>More about this gradient</summary>" in html
    assert "_reverse" not in html


def test_a_page_says_how_steps_of_the_other_direction_are_counted() -> None:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    with tg.inspect.watch(model := Net("rnn")) as watch:
        loss_of(model, 0).backward()
    assert "its step 0 reads the last input" in watch.page()
