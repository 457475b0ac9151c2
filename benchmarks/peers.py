"""Recurrent layers in other libraries: forward, and backward with the output's cotangent given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np

from tinygrad182.arrays.cuda import import_cupy

Cell = Literal["LSTM", "GRU", "RNN", "Peephole"]
Shape = tuple[int, int, int, int]
"""T, B, I, H."""
Run = Callable[[], object]

CELLS: tuple[Cell, ...] = get_args(Cell)
GATES: dict[Cell, int] = {"LSTM": 4, "GRU": 3, "RNN": 1, "Peephole": 4}
WITH_A_CELL_STATE: tuple[Cell, ...] = ("LSTM", "Peephole")


def threads(count: int) -> ExitStack:
    """Give every library as many threads; the context gives NumPy's and ours back."""
    stack = ExitStack()
    if find_spec("torch") is not None:
        import torch  # a peer: not installed for users

        torch.set_num_threads(count)
    if find_spec("threadpoolctl") is not None:
        from threadpoolctl import threadpool_limits

        stack.enter_context(threadpool_limits(count))
    if find_spec("llvmlite") is not None:
        compiled = import_module("tinygrad182.kernels.compiled")
        stack.enter_context(_set(compiled, "THREADS", count))
    return stack


@contextmanager
def _set(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def xla_flags(count: int) -> str:
    """Flags that JAX reads as it starts."""
    eigen = "false" if count == 1 else "true"
    return f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={count}"


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


def products(cell: Cell, shape: Shape, device: str) -> Run:
    """The matrix products alone, on random arrays and into memory that is there.

    None for a gradient by the input: nobody asks for it here. A GRU has as many products as its gates
    say, for its reset gate stands behind them.
    """
    steps, batch, inputs, hidden = shape
    rows = GATES[cell] * hidden
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


# --- PyTorch --------------------------------------------------------------------------------------


def torch_layer(cell: Cell, x: Any, g: Any, device: str) -> Run | None:
    """PyTorch's own layer (cuDNN on CUDA), which keeps no state's gradient; None where it has none."""
    import torch

    make: Any = getattr(torch.nn, cell, None)
    if make is None:
        return None
    module = make(x.shape[2], g.shape[2], device=device)
    sequence, cotangent = (torch.from_numpy(a).to(device) for a in (x, g))

    def run() -> None:
        module.zero_grad(set_to_none=True)
        output, _ = module(sequence)
        output.backward(cotangent)

    return run


def torch_loop(cell: Cell, x: Any, g: Any, device: str) -> Run:
    """PyTorch's cell in a loop, every state keeping its gradient."""
    import torch

    make: Any = getattr(torch.nn, f"{cell}Cell", None) or peephole_cell
    module = make(x.shape[2], g.shape[2], device=device)
    sequence, cotangent = (torch.from_numpy(a).to(device) for a in (x, g))
    zero = torch.zeros(g.shape[1:], device=device)
    pair = cell in WITH_A_CELL_STATE

    def run() -> None:
        module.zero_grad(set_to_none=True)
        state: Any = (zero, zero) if pair else zero
        outputs = []
        for x_t in sequence.unbind():
            state = module(x_t, state)
            parts = state if pair else (state,)
            for part in parts:
                part.retain_grad()
            outputs.append(parts[0])
        torch.stack(outputs).backward(cotangent)

    return run


def peephole_cell(inputs: int, hidden: int, device: str) -> Any:
    """An LSTM's cell whose gates also see the cell state, as one writes it in PyTorch."""
    import torch
    from torch.nn.functional import linear

    class PeepholeCell(torch.nn.LSTMCell):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__(inputs, hidden, device=device)
            draw = torch.zeros(3, hidden, device=device).uniform_(-1, 1) / hidden**0.5
            self.p_i, self.p_f, self.p_o = map(torch.nn.Parameter, draw)

        def forward(self, x: Any, state: Any) -> Any:
            h, c = state
            z = linear(x, self.weight_ih, self.bias_ih) + linear(h, self.weight_hh, self.bias_hh)
            i, f, g, o = z.chunk(4, -1)
            i, f = torch.sigmoid(i + self.p_i * c), torch.sigmoid(f + self.p_f * c)
            c = f * c + i * torch.tanh(g)
            return torch.sigmoid(o + self.p_o * c) * torch.tanh(c), c

    return PeepholeCell()


# --- JAX ------------------------------------------------------------------------------------------


def jax_scan(cell: Cell, x: Any, g: Any) -> Run:
    """A compiled scan in JAX, the input's product outside of it: the output and the weights' gradients."""
    import jax
    import jax.numpy as jnp

    _, batch, hidden = g.shape
    start = (jnp.zeros((batch, hidden)),) * (2 if cell in WITH_A_CELL_STATE else 1)
    sequence, cotangent = jnp.asarray(x), jnp.asarray(g)
    weights = jax_weights(cell, x.shape[2], hidden)

    def outputs(weights: Any, x: Any) -> Any:
        weight_ih, weight_hh, bias_ih, bias_hh, *others = weights
        across = weight_hh.T

        def step(state: Any, x_t: Any) -> Any:
            h = state[0] @ across
            h = h if bias_hh is None else h + bias_hh
            new = _JAX_STEPS[cell](x_t, h, state, *others)
            return new, new[0]

        return jax.lax.scan(step, start, x @ weight_ih.T + bias_ih)[1]

    def gradients(weights: Any, x: Any, g: Any) -> Any:
        output, back = jax.vjp(lambda weights: outputs(weights, x), weights)
        return output, back(g)

    compiled: Callable[..., Any] = jax.jit(gradients)
    wait: Callable[[Any], object] = jax.block_until_ready
    return lambda: wait(compiled(weights, sequence, cotangent))


def jax_weights(cell: Cell, inputs: int, hidden: int) -> list[Any]:
    """The weights, with a bias of the state's own only where it matters."""
    import jax.numpy as jnp

    rows = GATES[cell] * hidden
    draw = np.random.default_rng(0)
    shapes: list[Any] = [
        (rows, inputs),
        (rows, hidden),
        (rows,),
        (rows,) if cell == "GRU" else None,
    ]
    shapes += [(hidden,)] * 3 if cell == "Peephole" else []
    return [
        s and jnp.asarray(draw.uniform(-1, 1, s) / np.sqrt(hidden), jnp.float32) for s in shapes
    ]


def _jax_rnn(x: Any, h: Any, state: Any) -> Any:
    import jax.numpy as jnp

    return (jnp.tanh(x + h),)


def _jax_lstm(x: Any, h: Any, state: Any) -> Any:
    import jax.numpy as jnp
    from jax.nn import sigmoid

    i, f, g, o = jnp.split(x + h, 4, axis=-1)
    c = sigmoid(f) * state[1] + sigmoid(i) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(c), c


def _jax_gru(x: Any, h: Any, state: Any) -> Any:
    import jax.numpy as jnp
    from jax.nn import sigmoid

    (x_r, x_z, x_n), (h_r, h_z, h_n) = jnp.split(x, 3, axis=-1), jnp.split(h, 3, axis=-1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * h_n)
    return ((1 - z) * n + z * state[0],)


def _jax_peephole(x: Any, h: Any, state: Any, p_i: Any, p_f: Any, p_o: Any) -> Any:
    import jax.numpy as jnp
    from jax.nn import sigmoid

    c = state[1]
    i, f, g, o = jnp.split(x + h, 4, axis=-1)
    c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * jnp.tanh(g)
    return sigmoid(o + p_o * c) * jnp.tanh(c), c


_JAX_STEPS: dict[Cell, Callable[..., Any]] = {
    "LSTM": _jax_lstm,
    "GRU": _jax_gru,
    "RNN": _jax_rnn,
    "Peephole": _jax_peephole,
}
