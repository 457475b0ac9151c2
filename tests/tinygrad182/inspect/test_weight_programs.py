"""``weight_grad_by_time`` of random programs, beside the same programs with a weight for every step.

A program is a sequence of stages over (T, B, H): linear maps of all steps at once, recurrent layers in
windows, loops of your own, residual connections, concatenated features, attention with a decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles import loops
from tests.support import assert_close, const, leaf

H, B = 2, 2
by_time = loops.reading(tg.inspect.weight_grad_by_time)


class Program:
    """A random program; each weight is one for all steps or, with ``copies``, one for each step."""

    def __init__(self, seed: int, fused: bool, copies: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.fused, self.copies = fused, copies
        self.T = int(self.rng.integers(1, 8))
        self.leaves: dict[str, list[tg.Tensor]] = {}
        self.layers: list[Any] = []
        x = const(self.rng.normal(size=(self.T, B, H)))
        self.seen = [x]
        stages: list[Callable[[tg.Tensor], tg.Tensor]] = [
            self.linear,
            self.layer,
            self.layer,
            self.loop,
            self.residual,
            self.features,
            self.window,
            self.memory,
            self.past_attention,
        ]
        for _ in range(int(self.rng.integers(2, 6))):
            x = stages[int(self.rng.integers(len(stages)))](x)
            self.seen.append(x)
        x = self.layer(x)
        self.total = self.decoder(x) if self.rng.random() < 0.3 else self.loss(x)
        if self.rng.random() < 0.3 and not copies:  # a penalty belongs to no step
            for (w,) in self.leaves.values():
                self.total = self.total + 0.1 * (w * w).sum()

    def weights(self, *shape: int) -> list[tg.Tensor]:
        """A new weight: the leaf that each step uses."""
        values = self.rng.normal(size=shape) * 0.5
        count = self.T if self.copies else 1
        name = f"W{len(self.leaves)}"
        self.leaves[name] = [leaf(values) for _ in range(count)]
        return [self.leaves[name][t if self.copies else 0] for t in range(self.T)]

    def each(self, x: tg.Tensor, inputs: int = H) -> tg.Tensor:
        """Multiply all steps by a weight."""
        w = self.weights(inputs, H)
        if not self.copies:
            return x @ w[0]
        return tg.stack([x[t] @ w[t] for t in range(self.T)])

    def linear(self, x: tg.Tensor) -> tg.Tensor:
        return tg.tanh(self.each(x))

    def layer(self, x: tg.Tensor) -> tg.Tensor:
        kind = [tg.nn.RNN, tg.nn.LSTM][int(self.rng.integers(2))]
        layer: Any = kind(H, H, rng=len(self.layers), dtype="float64", fused=self.fused)
        self.layers.append(layer)
        window = [None, 1, 2, 3][int(self.rng.integers(4))]
        if window is not None and self.rng.random() < 0.5:
            window = max(1, self.T - 1)  # a last window of one step
        y: tg.Tensor = layer(x, truncate=window)[0]
        return y

    def loop(self, x: tg.Tensor) -> tg.Tensor:
        w, h, hs = self.weights(H, H), const(np.zeros((B, H))), []
        name = f"h{len(self.leaves)}"
        for t in range(self.T):
            h = tg.inspect.mark(tg.tanh(x[t] + h @ w[t].T), name, time=t)
            hs.append(h)
        return tg.stack(hs)

    def residual(self, x: tg.Tensor) -> tg.Tensor:
        return x + self.seen[int(self.rng.integers(len(self.seen)))]

    def features(self, x: tg.Tensor) -> tg.Tensor:
        other = self.seen[int(self.rng.integers(len(self.seen)))]
        return self.each(tg.concat([x, other], axis=-1), 2 * H)

    def window(self, x: tg.Tensor) -> tg.Tensor:
        """Steps taken one by one, with a weight and no mark."""
        w = self.weights(H, H)
        return tg.stack([tg.tanh(x[t] @ w[t]) for t in range(self.T)])

    def memory(self, x: tg.Tensor) -> tg.Tensor:
        """A loop with a part of the state that is not marked."""
        w, v, hs, name = self.weights(H, H), self.weights(H, H), [], f"m{len(self.leaves)}"
        c = h = tg.inspect.mark(const(np.ones((B, H))), name, time=-1)
        for t in range(self.T):
            c = c * 0.5 + tg.tanh(x[t] @ v[t] + h @ w[t].T)
            h = tg.inspect.mark(tg.tanh(c), name, time=t)
            hs.append(h)
        return tg.stack(hs)

    def past_attention(self, x: tg.Tensor) -> tg.Tensor:
        """Every step looks at all states before it, through a weight."""
        w, hs, name = self.weights(H, H), [const(np.ones((B, H)))], f"p{len(self.leaves)}"
        for t in range(self.T):
            keys = tg.stack(hs) @ w[t]
            scores = tg.softmax((keys * x[t]).sum(axis=-1, keepdims=True), axis=0)
            h = tg.tanh((scores * keys).sum(axis=0) + x[t])
            hs.append(tg.inspect.mark(h, name, time=t))
        return tg.stack(hs[1:])

    def decoder(self, states: tg.Tensor) -> tg.Tensor:
        """Attention over all states; the decoder's steps continue the encoder's, or begin at 0."""
        keys, d = self.each(states), states[-1]
        offset = self.T if self.rng.random() < 0.5 else 0
        for t in range(2, 5):
            scores = tg.softmax((keys * d).sum(axis=-1, keepdims=True), axis=0)
            d = tg.inspect.mark(tg.tanh((scores * keys).sum(axis=0) + d), "d", time=t - 2 + offset)
        return (d * d).sum()

    def loss(self, x: tg.Tensor) -> tg.Tensor:
        scale = const(self.rng.normal(size=x.shape))
        if self.rng.random() < 0.4:
            return (scale[-1] * x[-1] * x[-1]).sum()
        return (scale * x * x).sum()


@pytest.mark.parametrize("seed", range(40))
def test_random_programs(seed: int) -> None:
    """The parts are right at every step, or refused; fused and unrolled layers agree."""
    fused, unrolled, reference = (
        Program(seed, True),
        Program(seed, False),
        Program(seed, True, True),
    )
    for name, (weight,) in fused.leaves.items():
        grads = [loops.grad(reference.total, w) for w in reference.leaves[name]]
        expected = np.stack(grads)
        if not expected.any():
            continue
        for program in (fused, unrolled):
            (weight,) = program.leaves[name]
            parts = by_time(program.total, weight)
            padding = np.zeros((max(0, len(parts) - len(expected)), *weight.shape))
            whole = np.concatenate([expected, padding])
            if len(parts) < len(whole):
                assert not whole[len(parts) :].any()
            assert_close(parts, whole[: len(parts)], 1e-9, f"{name} of {program.fused}")
    for a, b in zip(fused.layers, unrolled.layers, strict=True):
        for (name, w), (_, v) in zip(a.named_parameters(), b.named_parameters(), strict=True):
            total = loops.grad(fused.total, w)
            if total.any():
                parts, others = by_time(fused.total, w), by_time(unrolled.total, v)
                n = min(len(parts), len(others))
                assert not parts[n:].any()
                assert not others[n:].any()
                assert_close(parts[:n], others[:n], 1e-9, name)
                assert_close(parts.sum(axis=0), total, 1e-9, name)
