"""Options of recurrent layers in combinations drawn at random, with every view on them.

The reference runs each sequence alone, and each direction of a level alone, step by step, in layers with
none of these options.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, assert_close, assert_same_bits, const, host, leaf
from tests.tinygrad182.nn.own_cells import SWISH, Leaky, Peephole, swish

KINDS: dict[str, Any] = {
    "LSTM": tg.nn.LSTM,
    "GRU": tg.nn.GRU,
    "Peephole": Peephole,
    "Leaky": Leaky,
    "tanh": tg.nn.RNN,
    "function": partial(tg.nn.RNN, nonlinearity=swish),
    "primitive": partial(tg.nn.RNN, nonlinearity=SWISH),
}
I, H, RATE = 2, 3, 0.25  # noqa: E741
SEEDS = range(3)

kinds = pytest.mark.parametrize("kind", KINDS)
seeds = pytest.mark.parametrize("seed", SEEDS)


class Case(NamedTuple):
    """A layer's options, and the lengths of its sequences; at least one has a step."""

    kind: str
    seed: int
    levels: int
    options: dict[str, Any]
    T: int
    lengths: list[int]
    cut: int | None

    @property
    def directions(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.options["bidirectional"] else ("",)

    @property
    def places(self) -> list[str]:
        """The levels and directions, as names of parameters and paths end."""
        return [f"l{k}{direction}" for k in range(self.levels) for direction in self.directions]

    def made(self, rng: Any, **others: Any) -> Any:
        options = {**self.options, "return_states": True, "dtype": "float64", "rng": rng, **others}
        return KINDS[self.kind](I, H, self.levels, **options)


def drawn(kind: str, seed: int) -> Case:
    draw = np.random.default_rng([seed, *kind.encode()])
    names = ("bidirectional", "batch_first", "fused", "bias")
    options: dict[str, Any] = dict(zip(names, (draw.random(4) < 0.6).tolist(), strict=True))
    levels, T, B = (int(n) for n in draw.integers((1, 2, 1), (3, 6, 4)))
    options["dropout"] = RATE * (levels - 1)
    lengths = draw.integers(0, T + 1, size=B) * (draw.random(B) < 0.8)
    lengths[draw.integers(B)] = draw.integers(1, T + 1)
    cut = [None, 1, 2, 3][draw.integers(4)]
    return Case(kind, seed, levels, options, T, lengths.tolist(), cut)


class Numbers(NamedTuple):
    """Inputs, initial states by part, and how much of every result is in the losses."""

    x: Array
    starts: Array
    by_output: Array
    by_last: Array

    def by_initial(self) -> Array:
        """The gradient of the losses by the initial states, if these are the last ones."""
        return self.by_last * (2 * self.starts + 1)

    def of(self, i: int, n: int) -> Numbers:
        """The numbers of one sequence."""
        one = slice(i, i + 1)
        return Numbers(
            self.x[:n, one],
            self.starts[:, :, one],
            self.by_output[:n, one],
            self.by_last[:, :, one],
        )


def numbers(case: Case, parts: int) -> Numbers:
    draw, B = np.random.default_rng(case.seed), len(case.lengths)
    inside = (np.arange(case.T)[:, None] < np.array(case.lengths))[..., None]
    states = parts, len(case.places), B, H
    return Numbers(
        np.where(inside, draw.normal(size=(case.T, B, I)), np.nan),
        draw.normal(size=states),
        draw.normal(size=(case.T, B, len(case.directions) * H)) * inside,
        draw.normal(size=states),
    )


class Run(NamedTuple):
    """Operands, results and losses of a layer's run: time first, states by part."""

    x: tg.Tensor
    starts: list[tg.Tensor]
    output: tg.Tensor
    last: list[tg.Tensor]
    states: list[tg.Tensor]
    losses: list[tg.Tensor]

    @property
    def loss(self) -> tg.Tensor:
        return sum(self.losses[1:], self.losses[0])


def run(module: Any, given: Numbers) -> Run:
    x, starts = leaf(given.x), [leaf(part) for part in given.starts]
    output, last, states = module(x, starts)
    every = const(given.by_output) * output**2
    losses = [every[t].sum() for t in range(len(given.x))]
    ends = [(const(b) * h * (h + 1)).sum() for b, h in zip(given.by_last, last, strict=True)]
    return Run(x, starts, output, last, states, [*losses, sum(ends[1:], ends[0])])


class Together(tg.nn.Module):
    """The layer with all its options."""

    def __init__(self, case: Case, layer: Any) -> None:
        self.case, self.layer = case, layer

    def forward(self, x: tg.Tensor, starts: list[tg.Tensor]) -> Any:
        def turned(x: tg.Tensor) -> tg.Tensor:
            return x.swapaxes(0, 1) if self.layer.batch_first else x

        output, last, states = called(
            self.layer, turned(x), starts, lengths=self.case.lengths, truncate=self.case.cut
        )
        return turned(output), last, states


def called(layer: Any, x: Any, starts: list[Any], **options: Any) -> tuple[Any, list[Any], Any]:
    """The output, the last states and all states, in lists by part."""
    output, last, states = layer(x, starts[0] if len(starts) == 1 else tuple(starts), **options)
    return output, list(last) if isinstance(last, tuple) else [last], list(states)


class Alone(tg.nn.Module):
    """A layer of one level and one direction for every place; masks are drawn after the weights."""

    def __init__(self, case: Case) -> None:
        self.case, draws = case, np.random.default_rng(case.seed)
        state = case.made(draws, dropout=0.0).state_dict()
        self.places = []
        for place in case.places:
            size = state[f"weight_ih_{place}"].shape[1]
            options = {"bias": case.options["bias"], "fused": False, "return_states": True}
            layer = KINDS[case.kind](size, H, dtype="float64", **options)
            names = {n: n.removesuffix("l0") + place for n in layer.state_dict()}
            layer.load_state_dict({n: state[theirs] for n, theirs in names.items()})
            self.places.append(layer)
        shape = case.T, len(case.lengths), len(case.directions) * H
        self.masks = [draws.random(shape) >= RATE for _ in range(case.levels - 1)]
        self.sequence = 0

    def forward(self, x: tg.Tensor, starts: list[tg.Tensor]) -> Any:
        lasts: list[Any] = []
        wholes: list[Any] = []
        for k in range(self.case.levels):
            if k:
                one = slice(self.sequence, self.sequence + 1)
                x = x * const(self.masks[k - 1][: len(x), one] / (1 - RATE))
            outputs = []
            for direction in self.case.directions:
                order = slice(None, None, -1 if direction else 1)
                j = len(lasts)
                start = [part[j : j + 1] for part in starts]
                _, last, every = called(self.places[j], x[order], start, truncate=self.case.cut)
                lasts.append(last)
                wholes.append([part[0, order] for part in every])
                outputs.append(wholes[-1][0])
            x = tg.concat(outputs, axis=2)
        states = [tg.stack(list(part)) for part in zip(*wholes, strict=True)]
        return x, [tg.concat(list(part)) for part in zip(*lasts, strict=True)], states


class Both(NamedTuple):
    """A layer's run, and the runs of its sequences that have steps, by their numbers."""

    case: Case
    given: Numbers
    layer: Any
    whole: Run
    reference: Alone
    alone: dict[int, Run]

    def assert_same_gradients(self) -> None:
        """By the inputs and by every parameter, after a backward pass of all runs."""
        by_x = np.zeros(self.given.x.shape)
        for i, one in self.alone.items():
            by_x[: self.case.lengths[i], i] = dense(one.x)[:, 0]
        assert_close(dense(self.whole.x), by_x, 1e-11, f"{self.case}: x", floor=1.0)
        for place, single in zip(self.case.places, self.reference.places, strict=True):
            own = own_parameters(self.layer, place)
            for name, weight in own_parameters(single, "l0").items():
                what = f"{self.case}: {name}_{place}"
                assert_close(dense(own[name]), dense(weight), 1e-11, what, floor=1.0)


def both(kind: str, seed: int, **gate: Any) -> Both:
    """The runs of a case; ``gate`` is a change of a gate in one direction of one level."""
    case = drawn(kind, seed)
    module = Together(case, case.made(seed))
    parts, reference, alone = module.layer.scan.parts, Alone(case), {}
    given, j = numbers(case, len(parts)), seed % len(case.places)

    def setting(path: str) -> AbstractContextManager[None]:
        return tg.inspect.intervene(path, **gate) if gate else nullcontext()

    with setting(f"layer.{case.places[j]}"):
        whole = run(module, given)
    for i, n in enumerate(case.lengths):
        if n:
            reference.sequence = i
            with setting(f"places.{j}.l0"):
                alone[i] = run(reference, given.of(i, n))
    return Both(case, given, module.layer, whole, reference, alone)


def dense(x: tg.Tensor) -> Array:
    """The gradient of a tensor; zeros if it was not reached."""
    return np.zeros(x.shape) if x.grad is None else host(x.grad)


def own_parameters(layer: Any, place: str) -> dict[str, Any]:
    """The parameters of one place, by their names without it."""
    own = {n.rpartition(f"_{place}"): p for n, p in layer.named_parameters()}
    return {name: p for (name, found, rest), p in own.items() if found and not rest}


@kinds
@seeds
def test_results_and_gradients(kind: str, seed: int) -> None:
    found = both(kind, seed)
    case, given, _, whole, _, alone = found
    for p, (last, every) in enumerate(zip(whole.last, whole.states, strict=True)):
        expected = given.starts[p].copy()
        for i, one in alone.items():
            expected[:, i] = host(one.last[p])[:, 0]
        held = np.stack([expected] * case.T, axis=1)
        for i, one in alone.items():
            held[:, : case.lengths[i], i] = host(one.states[p])[:, :, 0]
        assert_close(last, expected, 1e-13, f"{case}: last")
        assert_close(every, held, 1e-13, f"{case}: states")
        if p == 0:
            of_top = [held[k] for k in range(len(held) - len(case.directions), len(held))]
            assert_close(whole.output, np.concatenate(of_top, axis=2), 1e-13, f"{case}: output")
    whole.loss.backward()
    by_start = given.by_initial()
    for i, one in alone.items():
        one.loss.backward()
        by_start[:, :, i] = [host(start.grad)[:, 0] for start in one.starts]
    for start, expected in zip(whole.starts, by_start, strict=True):
        assert_close(start.grad, expected, 1e-11, f"{case}: ∂L/∂start", floor=1.0)
    found.assert_same_gradients()


@kinds
@pytest.mark.parametrize("seed", [0, 1])
def test_a_gate_that_is_set(kind: str, seed: int) -> None:
    gate = KINDS[kind](I, H).scan.gates[seed % 2 - 1]
    found = both(kind, seed, gate=gate, scale=np.array([1.5, -0.5, 0.25]))
    for one in (found.whole, *found.alone.values()):
        one.loss.backward()
    found.assert_same_gradients()


@kinds
@pytest.mark.parametrize("seed", [0, 1])
def test_a_penalty_on_the_flow(kind: str, seed: int) -> None:
    """The squares of all gradients that arrive at states, as a loss of their own."""
    found = both(kind, seed)
    for one in (found.whole, *found.alone.values()):
        stacks = tg.inspect.gradient_flow(one.loss, create_graph=True).values()
        sum((flow.grad**2).sum() for stack in stacks for flow in stack.values()).backward()
    found.assert_same_gradients()


@kinds
@seeds
def test_every_view(kind: str, seed: int) -> None:
    """A sequence's share of a figure is the figure of it alone, and squares of norms add up."""
    case, given, layer, whole, reference, alone = both(kind, seed)
    is_vanilla = isinstance(layer, tg.nn.RNN)
    for j, place in enumerate(case.places):
        path, theirs = f"layer.{place}", f"places.{j}.l0"
        rows, squares = figures(whole, path, own_parameters(layer, place), is_vanilla)
        rows_alone = {what: np.zeros_like(array) for what, array in rows.items()}
        squares_alone = {what: np.zeros_like(array) for what, array in squares.items()}
        for p, part in enumerate(layer.scan.parts):
            rows_alone[f"{part} initial"][:] = given.by_initial()[p, j]
        for i, one in alone.items():
            of_one = figures(one, theirs, own_parameters(reference.places[j], "l0"), is_vanilla)
            for what, array in of_one[0].items():
                rows_alone[what][i][tuple(map(slice, array.shape[1:]))] = array[0]
            for what, array in of_one[1].items():
                if what == "inputs of the path" and place.endswith("reverse"):
                    array = array[:, ::-1]  # there, inputs are counted as they are read
                here = squares_alone[what][:, : array.shape[1]]
                here[: len(array) - 1] += array[:-1]
                here[-1] += array[-1]
            jacobians = tg.inspect.step_jacobians(whole.loss, path, sample=i).matrices
            expected = tg.inspect.step_jacobians(one.loss, theirs).matrices
            assert_close(jacobians, host(expected), 1e-11, f"{case} {path}")
        for what, found in (rows | squares).items():
            expected = (rows_alone | squares_alone)[what]
            assert_close(found, expected, 1e-11, f"{case} {path}: {what}", floor=1e-3)


@kinds
@seeds
def test_jacobians_that_are_recorded(kind: str, seed: int) -> None:
    """Recorded Jacobians equal unrecorded ones; a sequence may end where a window does."""
    case, _, _, whole, _, alone = both(kind, seed)
    for path in [f"layer.{place}" for place in case.places]:
        for i in alone:
            found = tg.inspect.step_jacobians(whole.loss, path, i, create_graph=True)
            expected = tg.inspect.step_jacobians(whole.loss, path, i)
            np.testing.assert_array_equal(found.time, expected.time)
            assert_close(found.matrices, host(expected.matrices), 1e-11, f"{case} {path}")


def figures(
    run: Run, path: str, weights: dict[str, Any], is_vanilla: bool
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Figures of one sequence each, ``(B, …)``, and squares of norms over all sequences.

    The squares have a row for every loss, the last of which is the loss of the last states; those of one
    loss have one row.
    """
    see, loss, losses = tg.inspect, run.loss, run.losses
    rows: dict[str, Array] = {}
    squares: dict[str, Array] = {}
    for part, flow in see.gradient_flow(loss)[path].items():
        rows[f"{part} flow"] = np.moveaxis(host(flow.grad), 1, 0)
        rows[f"{part} initial"] = host(flow.initial_grad)
        rows[f"{part} norms"] = host(flow.sample_grad_norm).T
        hops = see.grad_by_hops(loss, 2, state=part, through="h", path=path)
        rows[f"{part} hops"] = np.moveaxis(host(hops.grad), -2, 0)
        squares[f"{part} of each loss"] = see.state_grad_matrix(losses, path, part) ** 2
    for part, split in see.path_split(loss, path).items():
        for way, array in split.parts.items():
            rows[f"{part} by {way}"] = np.moveaxis(host(array), 1, 0)
    squares["inputs of the path"] = see.input_grad_matrix(losses, path) ** 2
    squares["inputs of all"] = see.input_grad_matrix(losses, inputs=run.x) ** 2
    for name, weight in weights.items():
        by_time = see.weight_grad_by_time(loss, weight, per_sample=True)
        rows[f"{name} by time"] = np.moveaxis(host(by_time), 1, 0)
        norms = see.weight_grad_by_time(loss, weight, norm_only=True, per_sample=True)
        rows[f"{name} norms by time"] = norms.T
    if is_vanilla:
        gains, delta = see.gain_split(loss, path), see.gradient_flow(loss)[path].h.grad_norm
        for way, factor in (("σ", gains.saturation), ("W", gains.gain)):
            squares[f"through {way}"] = np.where(delta > 0, delta * factor, 0.0)[None] ** 2
    return rows, squares


@kinds
def test_copies_and_checkpoints(kind: str, tmp_path: Path) -> None:
    """A copy draws what the layer would; a file keeps the parameters of both directions."""
    case = drawn(kind, 0)
    case = case._replace(levels=2, options={**case.options, "bidirectional": True, "dropout": RATE})
    layer, other = case.made(3), case.made(4)
    x = const(np.random.default_rng(0).normal(size=(4, 4, I)))
    twin = copy.deepcopy(layer)
    assert_same_bits(twin(x)[0], layer(x)[0])
    tg.save(tmp_path / "layer.safetensors", layer)
    other.load_state_dict(tg.load(tmp_path / "layer.safetensors").model)
    assert_same_bits(other.eval()(x)[0], layer.eval()(x)[0])
