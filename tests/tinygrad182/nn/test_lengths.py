"""``lengths=``: values past a sequence's end affect nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import assert_close, assert_same_bits, const, draw, leaf

KINDS = ["RNN", "LSTM"]
LENGTHS = [4, 7, 1, 5]
T, B = 7, len(LENGTHS)
INSIDE = np.arange(T)[:, None] < np.array(LENGTHS)  # (T, B)


def layer(kind: str, layers: int = 2, **options: Any) -> Any:
    return getattr(tg.nn, kind)(2, 3, layers, rng=4, dtype="float64", **options)


def state(kind: str, layers: int, batch: int = B) -> tuple[Any, list[tg.Tensor]]:
    """Random initial states, as the layer takes them and as a list."""
    parts = [leaf(a) for a in draw(5, *[(layers, batch, 3)] * (2 if kind == "LSTM" else 1))]
    return (tuple(parts) if kind == "LSTM" else parts[0]), parts


def parts_of(last: Any) -> list[tg.Tensor]:
    return list(last) if isinstance(last, tuple) else [last]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch_first", [True, False])
def test_every_sequence_is_as_if_run_alone(kind: str, layers: int, batch_first: bool) -> None:
    """A sequence cut to its length has equal outputs and last states, and gradients add up."""
    model = layer(kind, layers, batch_first=batch_first)
    x, a, b = draw(1, (T, B, 2), (T, B, 3), (layers, B, 3))
    start, starts = state(kind, layers)
    inputs = leaf(x.swapaxes(0, 1) if batch_first else x)
    output, last = model(inputs, start, lengths=LENGTHS)
    output = output.swapaxes(0, 1) if batch_first else output
    loss = (const(a * INSIDE[..., None]) * output**2).sum()
    (loss + sum((const(b) * part).sum() for part in parts_of(last))).backward()
    gradients = [p.grad.numpy() for p in model.parameters()]
    model.zero_grad()
    for i, n in enumerate(LENGTHS):
        alone = leaf(x[:n, i])
        begins = [leaf(h.numpy()[:, i]) for h in starts]
        y, ends = model(alone, tuple(begins) if kind == "LSTM" else begins[0])
        assert_close(output[:n, i], y.numpy(), 1e-14, f"output {i}")
        for part, end in zip(parts_of(last), parts_of(ends), strict=True):
            assert_close(part[:, i], end.numpy(), 1e-14, f"last state {i}")
        loss = (const(a[:n, i]) * y**2).sum()
        (loss + sum((const(b[:, i]) * end).sum() for end in parts_of(ends))).backward()
        assert inputs.grad is not None
        found = inputs.grad.numpy().swapaxes(0, 1) if batch_first else inputs.grad.numpy()
        assert_close(found[:n, i], alone.grad.numpy(), 1e-13, f"x {i}")
        assert (found[n:, i] == 0.0).all()
        for h, begin in zip(starts, begins, strict=True):
            assert_close(h.grad[:, i], begin.grad.numpy(), 1e-13, f"initial state {i}")
    for (name, p), whole in zip(model.named_parameters(), gradients, strict=True):
        assert_close(p.grad, whole, 1e-13, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [1e300, np.nan, np.inf])
def test_what_stands_in_the_padding_is_never_read(kind: str, padding: float) -> None:
    """Even NaN in the padding changes nothing, although the loss reads every output."""
    model = layer(kind, return_states=True)
    (x,) = draw(2, (T, B, 2))
    found = []
    for value in (0.0, padding):
        model.zero_grad()
        filled = leaf(np.where(INSIDE[..., None], x, value))
        start, starts = state(kind, 2)
        output, last, states = model(filled, start, lengths=LENGTHS)
        values = [output, *parts_of(last), *states]
        sum(((v + 1) ** 2).sum() for v in values).backward()
        found.append([*values, *(v.grad for v in [filled, *starts, *model.parameters()])])
    for zero, other in zip(*found, strict=True):
        assert np.isfinite(zero.numpy()).all()
        assert_same_bits(other, zero.numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_states_stay_and_send_nothing_back(kind: str) -> None:
    model = layer(kind, return_states=True)
    x, a = draw(3, (T, B, 2), (2, T, B, 3))
    inputs = leaf(x)
    output, last, states = model(inputs, lengths=LENGTHS)
    assert_same_bits(output, states.h.numpy()[-1])
    for part, name in zip(parts_of(last), states._fields, strict=True):
        values = getattr(states, name).numpy()
        assert values.shape == (2, T, B, 3)
        for i, n in enumerate(LENGTHS):
            for t in range(n - 1, T):
                assert_same_bits(values[:, t, i], part.numpy()[:, i], f"{name} at {t}")
    for used in states:  # of a loss that reads all steps, those inside alone have a part
        both = [(const(w) * used).sum() for w in (a, a * INSIDE[None, ..., None])]
        wanted = [inputs, *model.parameters()]
        (whole, inside) = (tg.grad(loss, wanted, retain_graph=True) for loss in both)
        for w, i in zip(whole, inside, strict=True):
            assert_same_bits(w, i.numpy())
        assert (whole[0].numpy()[~INSIDE] == 0.0).all()
        assert (whole[0].numpy()[INSIDE] != 0.0).all()
    padded = (const(a * ~INSIDE[None, ..., None]) * states.h).sum()
    assert all((g.numpy() == 0.0).all() for g in tg.grad(padded, wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_full_lengths_change_no_bit(kind: str) -> None:
    (x,) = draw(4, (T, B, 2))
    runs = []
    for lengths in (None, [T] * B):
        model = layer(kind)
        output, last = model(const(x), lengths=lengths)
        ((output**2).sum() + sum(p.sum() for p in parts_of(last))).backward()
        runs.append([output, *parts_of(last), *(p.grad for p in model.parameters())])
    for without, given_ in zip(*runs, strict=True):
        assert_same_bits(given_, without.numpy())


def test_lengths_may_be_given_in_many_forms() -> None:
    model = layer("LSTM")
    (x,) = draw(6, (T, B, 2))
    expected = model(const(x), lengths=LENGTHS)[0].numpy()
    forms: list[Any] = [tuple(LENGTHS), const(np.array(LENGTHS))]
    forms += [np.array(LENGTHS, dtype) for dtype in ("int8", "uint8", "int32", "uint64")]
    for form in forms:
        assert_same_bits(model(const(x), None, form)[0], expected)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from(KINDS))
def test_the_state_after_any_lengths(lengths: list[int], kind: str) -> None:
    """This holds also if no sequence reaches the last step."""
    model = layer(kind)
    (x,) = draw(7, (5, len(lengths), 2))
    _, last = model(const(x), lengths=lengths)
    for i, n in enumerate(lengths):
        _, alone = model(const(x[:n, i]))
        for part, end in zip(parts_of(last), parts_of(alone), strict=True):
            assert_close(part[:, i], end.numpy(), 1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_flow_stops_at_each_end(kind: str) -> None:
    """A loss of the last states has no gradient past an end; before it, each sequence has its own."""
    model = layer(kind, 1)
    (x,) = draw(8, (T, B, 2))
    flow = tg.inspect.gradient_flow(model(const(x), lengths=LENGTHS)[0].sum())[f"{kind.lower()}.l0"]
    by_last = model(const(x), lengths=LENGTHS)[1]
    last = tg.inspect.gradient_flow(parts_of(by_last)[0].sum())[f"{kind.lower()}.l0"]
    for i, n in enumerate(LENGTHS):
        y, ends = model(const(x[:n, i]))
        for stack, loss in ((flow, y.sum()), (last, parts_of(ends)[0].sum())):
            alone = tg.inspect.gradient_flow(loss)[f"{kind.lower()}.l0"]
            for name in stack:
                assert_close(stack[name].grad[:n, i], alone[name].grad[:, 0], 1e-13, name)
                assert_close(stack[name].initial_grad[i], alone[name].initial_grad[0], 1e-13)
        assert (last.h.sample_grad_norm[n:, i] == 0.0).all()
