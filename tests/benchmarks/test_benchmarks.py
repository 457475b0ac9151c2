"""Helpers that the benchmarks share, and the framework's internals that they use."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinygrad182 as tg
from benchmarks import layers, memory, operations, peers, recurrent, timing
from benchmarks.worker import ROOT, Worker


@pytest.mark.parametrize("function", memory.CHECKED, ids=lambda f: f.__name__)
def test_the_checks_for_anomalies_are_found_where_they_are_taken_out(function):
    assert memory.without_checks(function).co_name == function.__name__


def test_a_report_is_printed_and_written(tmp_path, capsys):
    rows = [{"layer": "LSTM", "ms": 1.23456, "torch ms": None}]
    timing.report("speed", rows, tmp_path)
    title, headings, cells, *rest = capsys.readouterr().out.strip().splitlines()
    assert title == "speed"
    assert headings.split() == ["layer", "ms", "torch", "ms"]
    assert cells.split() == ["LSTM", "1.23", "·"]
    assert rest[0].startswith("date ")
    assert json.loads((tmp_path / "speed.json").read_text())["rows"] == rows


# --- recurrent layers beside peers ----------------------------------------------------------------

SHAPE = (7, 3, 2, 5)


def with_weights(cell, weights):
    """Our layer with a peer's weights, in the order in which a scan takes them."""
    ours = layers.layer(cell, SHAPE)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "p_i", "p_f", "p_o")
    given = {f"{name}_l0": w for name, w in zip(names, weights, strict=False) if w is not None}
    assert {name for name, _ in ours.named_parameters()} == set(given)
    for name, parameter in ours.named_parameters():
        parameter.data[...] = np.asarray(given[name])
    return ours, given


@pytest.mark.parametrize("cell", peers.CELLS)
def test_the_scan_in_jax_is_the_same_recurrence(cell):
    pytest.importorskip("jax")
    x, g = layers.data(SHAPE)
    output, (found,) = peers.jax_scan(cell, x, g)()
    ours, given = with_weights(cell, peers.jax_weights(cell, SHAPE[2], SHAPE[3]))
    mine, _ = ours(tg.tensor(x))
    mine.backward(tg.tensor(g))
    assert_allclose(mine.numpy(), output, rtol=2e-5, atol=1e-6)
    gradients = [gradient for gradient in found if gradient is not None]
    for name, gradient in zip(given, gradients, strict=True):
        assert_allclose(getattr(ours, name).grad.numpy(), gradient, rtol=2e-4, atol=1e-6)


@pytest.mark.peers
def test_the_loop_in_pytorch_is_the_same_recurrence_as_the_cell_of_ones_own():
    torch = pytest.importorskip("torch")
    x, g = layers.data(SHAPE)
    cell = peers.peephole_cell(SHAPE[2], SHAPE[3], "cpu")
    weights = [w.detach().numpy().copy() for w in cell.parameters()]
    weights[2] += weights[3]
    ours, _ = with_weights("Peephole", [*weights[:3], None, *weights[4:]])
    state = (torch.zeros(g.shape[1:]),) * 2
    for x_t in torch.from_numpy(x):
        state = cell(x_t, state)
    _, (h, c) = ours(tg.tensor(x))
    assert_allclose(h.numpy()[0], state[0].detach().numpy(), rtol=1e-5, atol=1e-6)
    assert_allclose(c.numpy()[0], state[1].detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_layer_may_take_as_long_as_the_faster_peer_or_a_little_more_than_the_products():
    times = {"recorded": [3.0], "torch": [2.0], "JAX": [4.0], "products": [2.5]}
    anywhere, at_the_smallest = (100, 64, 32, 128), (20, 10, 1, 16)
    assert recurrent.of_target(times, anywhere) == 3 / (1.15 * 2.5)
    assert recurrent.of_target(times, at_the_smallest) == 3 / 2
    assert recurrent.of_target({"recorded": [3.0], "products": [2.5]}, anywhere) is None
    assert recurrent.row("LSTM", anywhere, times)["met"] == "no"
    assert recurrent.row("LSTM", anywhere, times | {"recorded": [2.8]})["met"] == "yes"


def test_a_worker_measures_the_framework_of_the_folder_it_is_given(tmp_path):
    (tmp_path / "tinygrad182").mkdir()
    (tmp_path / "tinygrad182" / "__init__.py").write_text(ONLY_THERE)
    with Worker(tmp_path) as worker:
        assert worker.ask("first", cell="OnlyThere", dtype="float32")["step"] >= 0
        with pytest.raises(RuntimeError, match="no answer to first"):
            worker.ask("first", cell="LSTM", dtype="float32")


ONLY_THERE = """
from types import SimpleNamespace
result = SimpleNamespace(sum=lambda: SimpleNamespace(backward=lambda: None))
nn = SimpleNamespace(OnlyThere=lambda *sizes, **options: lambda x: (result, None))
ones = lambda shape, dtype: None
"""


# --- operations without a layer -------------------------------------------------------------------

SMALL = "7,3,2,5"


def test_the_loop_that_keeps_every_result_computes_the_same():
    *arrays, weights = operations.data(SMALL)
    losses, kept = [], []

    def keep(result):
        kept.append(result)
        return result

    for loop, word in ((operations.loop, operations.nothing), (operations.loop_keeping_all, keep)):
        leaves = [tg.tensor(w, requires_grad=True) for w in weights]
        losses.append(loop(word, *map(tg.tensor, arrays), leaves).item())
    assert losses[0] == losses[1]
    assert len({id(result) for result in kept}) == 7 * operations.A_STEP


@pytest.mark.peers
@pytest.mark.parametrize("kept", operations.THEIRS)
def test_the_loop_in_pytorch_computes_the_same(kept):
    pytest.importorskip("torch")
    forward, _ = operations.our_loop(SMALL, "backward")
    loss, results = operations.torch_loop(SMALL, kept)[0]()
    assert_allclose(loss.item(), forward().item(), rtol=1e-5)
    assert (
        len(results) == {"every result": 7 * operations.A_STEP, "every state": 7, "leaves": 0}[kept]
    )


def test_contestants_take_turns_and_each_stage_has_a_time():
    chains = {"short": ("weight", 1), "long": ("number", 50)}
    with Worker(ROOT) as worker:
        contestants = {n: (worker, "operations.our_chain", given) for n, given in chains.items()}
        times = timing.in_turns(contestants, 2, "cpu")
        counts = worker.ask("call", function="operations.costs", given=[SMALL])
    assert [[len(stages) for stages in rounds] for rounds in times.values()] == [[2, 2], [2, 2]]
    row = operations.Measured(times, 50).row("long", {"/short": "short", "/torch": "torch"})
    assert row["/short"] > 1
    assert row["/torch"] is None
    assert row["forward, µs/op"] + row["backward, µs/op"] == pytest.approx(row["ms"] * 20, rel=0.5)
    assert all(count > 0 for count in counts.values())
