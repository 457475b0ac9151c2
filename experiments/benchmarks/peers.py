"""The same recurrent layer in other libraries: forward and backward with the output's cotangent given."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from tinygrad182.cuda import import_cupy

Cell = Literal["LSTM", "RNN"]
Run = Callable[[], object]


def threads(count: int) -> ExitStack:
    """Give every library as many threads; the context gives NumPy's back."""
    stack = ExitStack()
    if find_spec("torch") is not None:
        import torch  # a peer: not installed for users

        torch.set_num_threads(count)
    if find_spec("numba") is not None:
        import numba

        numba.set_num_threads(min(count, os.cpu_count() or 1))
    if find_spec("threadpoolctl") is not None:
        from threadpoolctl import threadpool_limits

        stack.enter_context(threadpool_limits(count))
    return stack


def timed_on_device(runs: dict[str, Run], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run in each round between two events on the device, after two rounds not counted.

    A contestant's events are of its own library, in the stream that it works in; its turn is over when
    its last event has happened.
    """
    cuda = import_cupy().cuda
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 2):
        for name, run in runs.items():
            of_torch = name.startswith("torch")
            first, last = _torch_events() if of_torch else (cuda.Event(), cuda.Event())
            first.record()
            run()
            last.record()
            last.synchronize()
            taken = first.elapsed_time(last) if of_torch else cuda.get_elapsed_time(first, last)
            if turn >= 2:
                times[name].append(taken / 1e3)
    return times


def _torch_events() -> tuple[Any, Any]:
    import torch

    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def xla_flags(count: int) -> str:
    """What JAX reads as it starts."""
    eigen = "false" if count == 1 else "true"
    return f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={count}"


def products(cell: Cell, shape: tuple[int, int, int, int], device: str) -> Run:
    """The matrix products alone, on random arrays and into memory that is there.

    None for a gradient by the input: nobody asks for it here.
    """
    steps, batch, inputs, hidden = shape
    rows = (4 if cell == "LSTM" else 1) * hidden
    m: Any = np if device == "cpu" else import_cupy()
    draw = np.random.default_rng(0)
    sizes = ((steps * batch, inputs), (steps, batch, hidden), (inputs, rows), (hidden, rows))
    x, h, weight_ih, weight_hh = (m.asarray(draw.normal(size=s), "float32") for s in sizes)
    back_hh = m.ascontiguousarray(weight_hh.T)
    z = m.empty((steps, batch, rows), "float32")
    dh = m.empty((batch, hidden), "float32")
    flat = z.reshape(-1, rows)
    across = h.reshape(-1, hidden).T

    def run() -> None:
        m.matmul(x, weight_ih, out=flat)
        for t in range(steps):
            m.matmul(h[t], weight_hh, out=z[t])
        for t in reversed(range(steps)):
            m.matmul(z[t], back_hh, out=dh)
        m.matmul(across, flat)
        m.matmul(x.T, flat)

    return run


def torch_layer(cell: Cell, x: Any, g: Any, device: str) -> Run:
    """PyTorch's own layer (cuDNN on CUDA), which keeps no state's gradient."""
    import torch

    make: Any = torch.nn.LSTM if cell == "LSTM" else torch.nn.RNN
    module = make(x.shape[2], g.shape[2], device=device)
    sequence, cotangent = (torch.from_numpy(a).to(device) for a in (x, g))

    def run() -> None:
        module.zero_grad(set_to_none=True)
        output, _ = module(sequence)
        output.backward(cotangent)

    return run


def torch_cells(cell: Cell, x: Any, g: Any, device: str) -> Run:
    """PyTorch's cell in a loop, every state keeping its gradient."""
    import torch

    make: Any = torch.nn.LSTMCell if cell == "LSTM" else torch.nn.RNNCell
    module = make(x.shape[2], g.shape[2], device=device)
    sequence, cotangent = (torch.from_numpy(a).to(device) for a in (x, g))
    zero = torch.zeros(g.shape[1:], device=device)

    def run() -> None:
        module.zero_grad(set_to_none=True)
        state: Any = (zero, zero) if cell == "LSTM" else zero
        outputs = []
        for t in range(len(x)):
            state = module(sequence[t], state)
            parts = state if cell == "LSTM" else (state,)
            for part in parts:
                part.retain_grad()
            outputs.append(parts[0])
        torch.stack(outputs).backward(cotangent)

    return run


def jax_scan(cell: Cell, x: Any, g: Any) -> Run:
    """A compiled scan in JAX; zeros added to the states get the states' gradients."""
    import jax
    import jax.numpy as jnp

    _, _, inputs = x.shape
    steps, batch, hidden = g.shape
    rows = (4 if cell == "LSTM" else 1) * hidden
    draw = np.random.default_rng(0)
    shapes = ((rows, inputs), (rows, hidden), (rows,))
    weights = [jnp.asarray(draw.uniform(-1, 1, s) / np.sqrt(hidden), jnp.float32) for s in shapes]
    zero = jnp.zeros((batch, hidden))
    zeros = tuple(jnp.zeros((steps, batch, hidden)) for _ in range(2 if cell == "LSTM" else 1))

    def lstm(state: Any, z: Any, added: Any) -> Any:
        i, f, c, o = jnp.split(z, 4, axis=-1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(c) + added[1]
        return jax.nn.sigmoid(o) * jnp.tanh(c) + added[0], c

    def rnn(state: Any, z: Any, added: Any) -> Any:
        return (jnp.tanh(z) + added[0],)

    def outputs(weights: Any, added: Any, x: Any) -> Any:
        weight_ih, weight_hh, bias = weights

        def step(state: Any, now: Any) -> Any:
            z, added = now
            new = (lstm if cell == "LSTM" else rnn)(state, z + state[0] @ weight_hh.T, added)
            return new, new[0]

        start = (zero,) * len(added)
        return jax.lax.scan(step, start, (x @ weight_ih.T + bias, added))[1]

    def gradients(weights: Any, added: Any, x: Any, g: Any) -> Any:
        output, back = jax.vjp(outputs, weights, added, x)
        return output, back(g)

    sequence, cotangent = jnp.asarray(x), jnp.asarray(g)
    compiled: Callable[..., Any] = jax.jit(gradients)
    wait: Callable[[Any], object] = jax.block_until_ready
    return lambda: wait(compiled(weights, zeros, sequence, cotangent))
