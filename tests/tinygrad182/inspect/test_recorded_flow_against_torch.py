"""A penalty on gradient flow against PyTorch's double backward through a loop of its cells, in float64."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles import loops
from tests.support import assert_close, const, host, needs_torch

torch = needs_torch()


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_penalty_on_norms_that_change(kind: str, fused: bool) -> None:
    x = loops.inputs(0, 12, 3, 2)
    layer = getattr(tg.nn, kind)(2, 4, rng=0, dtype="float64", fused=fused)
    output, _ = layer(const(x))
    loss = (output[-1] ** 2).sum()
    flow = tg.inspect.gradient_flow(loss, create_graph=True)[f"{kind.lower()}.l0"].h
    logs = flow.log_grad_norm
    (loss + ((logs[1:] - logs[:-1]) ** 2).sum()).backward()

    cell = getattr(torch.nn, f"{kind}Cell")(2, 4, dtype=torch.float64)
    weights = {k.removesuffix("_l0"): torch.tensor(host(v)) for k, v in layer.state_dict().items()}
    cell.load_state_dict(weights)
    state, states = None, []
    for x_t in torch.tensor(np.asarray(x)):
        state = cell(x_t, state)
        states.append(state[0] if kind == "LSTM" else state)
    theirs = (states[-1] ** 2).sum()
    grads = torch.autograd.grad(theirs, states, create_graph=True)
    sizes = torch.stack([g.norm().log() for g in grads])
    (theirs + ((sizes[1:] - sizes[:-1]) ** 2).sum()).backward()

    assert_close(host(logs), sizes.detach().numpy(), 1e-13)
    for name, p in layer.named_parameters():
        grad = getattr(cell, name.removesuffix("_l0")).grad
        assert_close(host(p.grad), grad.numpy(), 1e-12, name)
