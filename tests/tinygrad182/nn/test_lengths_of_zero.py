"""A sequence of length 0: its last state is its initial one, and nothing else comes from it."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, assert_close, assert_same_bits, const, host, leaf
from tests.tinygrad182.cells import KINDS

T, I, H, LAYERS = 5, 2, 3, 2  # noqa: E741
LENGTHS = {"some": [3, 0, 5, 0], "one": [1, 0], "all": [0, 0]}
LONG, EMPTY = [0, 2], [1, 3]  # the sequences of "some" with steps, and those without
every_kind = pytest.mark.parametrize("kind", KINDS)
every_way = pytest.mark.parametrize("fused", [True, False])
every_batch = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=list(LENGTHS))


def made(kind: str, fused: bool) -> Any:
    """Two layers of a cell."""
    scan, params = KINDS[kind]
    options = {"rng": 4, "dtype": "float64", "fused": fused, "return_states": True}
    if scan is tg.nn.RNN.scan:
        return tg.nn.RNN(I, H, LAYERS, **params, **options)
    return type(kind, (tg.nn.RecurrentLayer,), {"scan": scan})(I, H, LAYERS, **options)


def drawn(layer: Any, batch: int) -> tuple[tg.Tensor, list[tg.Tensor]]:
    """An input, and initial states."""
    rng = np.random.default_rng(5)
    x = leaf(rng.normal(size=(T, batch, I)))
    return x, [leaf(rng.normal(size=(LAYERS, batch, H))) for _ in layer.scan.parts]


def run(layer: Any, x: Any, starts: list[Any], **options: Any) -> tuple[Any, list[Any], Any]:
    """The output, the last states and all states."""
    start = None if not starts else starts[0] if len(starts) == 1 else tuple(starts)
    output, last, states = layer(x, start, **options)
    return output, list(last) if isinstance(last, tuple) else [last], states


def shares(layer: Any, batch: int) -> tuple[Array, list[Array]]:
    """Weights of a loss for every output and for the last states."""
    rng = np.random.default_rng(6)
    by_last = [rng.normal(size=(LAYERS, batch, H)) for _ in layer.scan.parts]
    return rng.normal(size=(T, batch, H)), by_last


# --- results and gradients ------------------------------------------------------------------------


def together(layer: Any, x: Any, starts: list[Any], lengths: list[int], cut: int | None) -> Any:
    """A loss of a batch, which reads the padding too."""
    by_output, by_last = shares(layer, len(lengths))
    output, last, _ = run(layer, x, starts, lengths=lengths, truncate=cut)
    ends = sum((const(b) * h * (h + 1)).sum() for b, h in zip(by_last, last, strict=True))
    return (const(by_output) * output**2).sum() + ends


def alone(layer: Any, x: Any, starts: list[Any], lengths: list[int], cut: int | None) -> Any:
    """The loss of one sequence after the other; values in the padding are constants."""
    by_output, by_last = shares(layer, len(lengths))
    total = const(np.float64(0.0))
    for i, n in enumerate(lengths):
        last = [start[:, i : i + 1] for start in starts]
        held = last[0][-1]
        if n:
            output, last, _ = run(layer, x[:n, i : i + 1], last, truncate=cut)
            total = total + (const(by_output[:n, i : i + 1]) * output**2).sum()
            held = output[-1]
        total = total + (const(by_output[n:, i : i + 1]) * held.detach() ** 2).sum()
        for b, h in zip(by_last, last, strict=True):
            total = total + (const(b[:, i : i + 1]) * h * (h + 1)).sum()
    return total


@every_kind
@every_way
@every_batch
@pytest.mark.parametrize("cut", [None, 2])
def test_a_batch_is_its_sequences_run_alone(
    kind: str, fused: bool, lengths: list[int], cut: int | None
) -> None:
    """The loss, its gradients, and those of a penalty on them."""
    found = []
    for loss_of in (together, alone):
        layer = made(kind, fused)
        x, starts = drawn(layer, len(lengths))
        targets = [x, *starts, *layer.parameters()]
        loss = loss_of(layer, x, starts, lengths, cut)
        by_loops = tg.grad(loss, targets, retain_graph=True)
        by_definition = tg.grad(loss, targets, create_graph=True)
        penalty = sum((g**2).sum() for g in by_definition if g is not None)
        both = [*by_loops, *by_definition, *tg.grad(penalty, targets)]
        pairs = zip(both, targets * 3, strict=True)
        dense = [np.zeros(x.shape) if g is None else host(g) for g, x in pairs]
        found.append([host(loss), *dense])
    for i, (a, b) in enumerate(zip(*found, strict=True)):
        assert_close(a, b, 1e-12, f"value {i}", floor=1.0)


@every_kind
@every_way
@pytest.mark.parametrize("cut", [None, 2])
def test_the_last_state_is_the_initial_one_to_the_bit(
    kind: str, fused: bool, cut: int | None
) -> None:
    """Its gradient is passed on unchanged, past the windows too."""
    layer, lengths = made(kind, fused), LENGTHS["some"]
    x, starts = drawn(layer, len(lengths))
    _, by_last = shares(layer, len(lengths))
    output, last, states = run(layer, x, starts, lengths=lengths, truncate=cut)
    sum((const(b) * h).sum() for b, h in zip(by_last, last, strict=True)).backward()
    assert_same_bits(host(output)[:, EMPTY], np.stack([host(starts[0])[-1, EMPTY]] * T))
    for part, start, end, b in zip(states, starts, last, by_last, strict=True):
        assert_same_bits(host(end)[:, EMPTY], host(start)[:, EMPTY])
        assert_same_bits(host(part)[:, :, EMPTY], np.stack([host(start)[:, EMPTY]] * T, axis=1))
        assert_same_bits(host(start.grad)[:, EMPTY], b[:, EMPTY])


@every_way
def test_a_constant_initial_state(fused: bool) -> None:
    """If no sequence has a step, gradients by parameters and inputs are missing or zero."""
    layer = made("lstm", fused)
    x, starts = drawn(layer, 2)
    for given in ([], [start.detach() for start in starts]):
        output, last, _ = run(layer, x, given, lengths=[0, 0])
        for h, start in zip(last, given, strict=False):
            assert_same_bits(h, host(start))
        loss = (output**2).sum() + sum((h**2).sum() for h in last)
        for g, p in zip(
            tg.grad(loss, [x, *layer.parameters()]), [x, *layer.parameters()], strict=True
        ):
            assert g is None or not host(g).any(), p.shape
    for p in layer.parameters():
        p.requires_grad = False
    assert not run(layer, x.detach(), starts[:0], lengths=[0, 3])[0].requires_grad


def test_padding_of_nan() -> None:
    layer = made("lstm", fused=True)
    _, starts = drawn(layer, 2)
    x = leaf(np.full((T, 2, I), np.nan))
    output, last, _ = run(layer, x, starts, lengths=[0, 0])
    loss = (output**2).sum() + sum((h**2).sum() for h in last)
    for g in tg.grad(loss, [x, *starts, *layer.parameters()]):
        assert g is None or np.isfinite(host(g)).all()


# --- views ----------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """Figures of the inspector, each by a name.

    Attributes
    ----------
    initial : dict of str to array (B, H)
        Gradients by the initial states.
    rows : dict of str to array (B, …)
        Figures that belong to one sequence each.
    wholes : dict of str to array
    """

    initial: dict[str, Array]
    rows: dict[str, Array]
    wholes: dict[str, Array]


def seen(kind: str, fused: bool, sequences: list[int], cut: int | None) -> Seen:
    """Figures of the inspector for a batch of some of the sequences in ``LENGTHS``."""
    layer, lengths = made(kind, fused), np.array(LENGTHS["some"])[sequences]
    x, starts = drawn(layer, len(LENGTHS["some"]))
    by_output, by_last = shares(layer, len(LENGTHS["some"]))
    some = [start[:, sequences] for start in starts]
    _, last, states = run(layer, x[:, sequences], some, lengths=lengths, truncate=cut)
    going = (np.arange(T)[:, None] < lengths)[..., None]
    outputs = const(going * by_output[:, sequences]) * states.h[-1] ** 2
    ends = sum((const(b[:, sequences]) * h).sum() for b, h in zip(by_last, last, strict=True))
    losses = [*[outputs[t].sum() for t in range(T)], ends]
    loss = sum(losses[1:], start=losses[0])
    found = Seen({}, {}, {})
    for path, stack in tg.inspect.gradient_flow(loss).items():
        for name, flow in stack.items():
            what = f"{path} {name}"
            found.initial[what] = flow.initial_grad
            found.rows[f"{what} flow"] = np.moveaxis(host(flow.grad), 1, 0)
            hops = tg.inspect.grad_by_hops(loss, 2, state=name, path=path)
            found.rows[f"{what} hops"] = np.moveaxis(host(hops.grad), -2, 0)
            for part, array in tg.inspect.path_split(loss, path)[name].parts.items():
                found.rows[f"{what} {part}"] = np.moveaxis(host(array), 1, 0)
            found.wholes[f"{what} matrix"] = tg.inspect.state_grad_matrix(losses, path, name)
        for i, n in enumerate(lengths):
            jacobians = tg.inspect.step_jacobians(loss, path, i)
            assert jacobians.time.tolist() == list(range(n))
            if n:
                found.wholes[f"{path} Jacobians {sequences[i]}"] = jacobians.matrices
        if KINDS[kind].scan is tg.nn.RNN.scan:
            split = tg.inspect.gain_split(loss, path)
            found.wholes[f"{path} gains"] = np.array([split.saturation, split.weight])
    for name, weight in layer.named_parameters():
        found.wholes[f"{name} by time"] = tg.inspect.weight_grad_by_time(loss, weight)
    for node in tg.inspect.trace(loss).select(name="h"):
        if node.time >= 0:
            found.rows[f"{node.module} traced {node.time}"] = node.grad
    return found


@every_kind
@every_way
@pytest.mark.parametrize("cut", [None, 2])
def test_every_view_shows_nothing_of_it(kind: str, fused: bool, cut: int | None) -> None:
    """The other sequences' figures are what they are without it; its own are 0 at every step.

    Its initial state has what arrives at the last one.
    """
    found, expected = (seen(kind, fused, some, cut) for some in ([0, 1, 2, 3], LONG))
    assert [part.keys() for part in found] == [part.keys() for part in expected]
    for name, array in expected.wholes.items():
        assert_close(found.wholes[name], array, 1e-12, name, floor=1e-9)
    for name, array in (expected.rows | expected.initial).items():
        rows = host((found.rows | found.initial)[name])
        assert_close(rows[LONG], array, 1e-12, name, floor=1e-9)
        assert name in found.initial or not rows[EMPTY].any(), name
    layer = made(kind, fused)
    _, by_last = shares(layer, len(LENGTHS["some"]))
    for k, name in itertools.product(range(LAYERS), layer.scan.parts):
        (rows,) = [g for what, g in found.initial.items() if what.endswith(f"l{k} {name}")]
        expected_rows = by_last[layer.scan.parts.index(name)][k]
        assert_same_bits(host(rows)[EMPTY], expected_rows[EMPTY], name)


SLOPES = {"tanh": lambda h: 1 - h**2, "relu": lambda h: 1.0 * (h > 0), "identity": np.ones_like}


@every_way
@pytest.mark.parametrize("kind", SLOPES)
def test_gains_of_sequences_that_end(kind: str, fused: bool) -> None:
    """By the formula, with a slope of 0 past the end of each; the loss reads the padding too."""
    layer, lengths = made(kind, fused), np.array(LENGTHS["some"])
    x, starts = drawn(layer, len(lengths))
    loss = together(layer, x, starts, lengths, None)
    flow = tg.inspect.gradient_flow(loss)["rnn.l1"].h
    delta, slopes = host(flow.grad), SLOPES[kind](host(flow.value))
    through = delta * slopes * (np.arange(T)[:, None] < lengths)[..., None]
    arrived = through @ host(layer.weight_hh_l1)
    norms = [np.sqrt((g**2).sum(axis=(1, 2))) for g in (delta, through, arrived)]
    found = tg.inspect.gain_split(loss, "rnn.l1")
    assert_close(found.saturation, norms[1] / norms[0], 1e-12)
    assert_close(found.weight, norms[2] / norms[1], 1e-12)


@every_way
def test_the_initial_state_is_seen_where_none_was_given(fused: bool) -> None:
    """Zeros have a gradient too, also where a loss sees nothing else."""
    for lengths in ([0, 3], [0, 0]):
        layer = made("lstm", fused)
        x, _ = drawn(layer, 2)
        _, by_last = shares(layer, 2)
        _, last, _ = run(layer, x, [], lengths=lengths)
        flows = tg.inspect.gradient_flow(
            sum((const(b) * h).sum() for b, h in zip(by_last, last, strict=True))
        )
        assert len(flows) == LAYERS
        for k, stack in enumerate(flows.values()):
            for b, flow in zip(by_last, stack.values(), strict=True):
                assert_same_bits(host(flow.initial_grad)[0], b[k, 0])
                assert not flow.sample_grad_norm[:, 0].any()


@every_way
def test_a_sequence_without_steps_has_no_jacobians(fused: bool) -> None:
    layer = made("lstm", fused)
    x, starts = drawn(layer, 2)
    loss = run(layer, x, starts, lengths=[0, 3])[0].sum()
    path = next(iter(tg.inspect.gradient_flow(loss)))
    found = tg.inspect.step_jacobians(loss, path, sample=0)
    assert found.time.shape == (0,)
    assert found.time.dtype == np.int64
    assert found.matrices.shape == (0, 2 * H, 2 * H)
    assert found.singular_values.shape == found.log_growth.shape == (0, 2 * H)
    with pytest.raises(
        tg.ArgumentError, match=r"step_jacobians: times 0; the sequence has no steps"
    ):
        tg.inspect.step_jacobians(loss, path, sample=0, times=0)
