"""PyTorch's modules as ours."""

from __future__ import annotations

from typing import Any

from .._calls import told
from ..errors import ArgumentError, DTypeError
from .embedding import Embedding
from .gru import GRU, GRUCell
from .linear import Linear
from .lstm import LSTM, LSTMCell
from .module import Module
from .norm import LayerNorm
from .rnn import RNN, RNNCell


@told
def from_torch(module: Any) -> Module:
    """Turn a PyTorch layer into ours: ``RNN``, ``LSTM``, ``GRU``, their cells, or another of those named.

    The result has copies of its parameters, in its dtype, on the default device, and gives the same
    outputs and gradients; frozen parameters stay frozen (a bias, PyTorch's sum of two, if both are). It
    is in training or not as the module is; what its dropout leaves out is drawn by a generator of its own.
    PyTorch itself is not imported. The way back, as PyTorch loads its own tensors only::

        state = layer.state_dict()
        module.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})

    Parameters
    ----------
    module : torch.nn.Module
        A subclass of these may be given, if its ``forward`` is the one it inherits.

    Returns
    -------
    Module
        The layer of the same name.

    Raises
    ------
    ArgumentError
        Another kind of module, or one with an option that ours does not have: ``proj_size``,
        ``max_norm``, ``scale_grad_by_freq``.
    DTypeError
        Parameters that NumPy cannot hold, such as ``bfloat16``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> import torch  # doctest: +SKIP
    >>> lstm = tg.nn.from_torch(torch.nn.LSTM(3, 8, num_layers=2))  # doctest: +SKIP
    """
    kind = type(module)
    theirs = next((k for k in kind.__mro__ if k.__module__.startswith("torch.nn.")), None)
    ours, options = _LAYERS.get(getattr(theirs, "__name__", ""), (None, ()))
    if ours is None or getattr(module.forward, "__func__", None) is not theirs.forward:  # type: ignore[union-attr]
        raise ArgumentError(
            f"from_torch: {kind.__module__}.{kind.__name__} has no counterpart here; "
            f"pass a torch.nn module that is one of {', '.join(_LAYERS)}, with its own forward"
        )
    for option, (without, remedy) in _OPTIONS_OURS_LACK.items():
        if getattr(module, option, without) != without:
            raise ArgumentError(
                f"from_torch: {kind.__name__} with {option}={getattr(module, option)}; ours has none"
                f"{remedy}"
            )
    try:
        state = {name: p.detach().cpu().numpy() for name, p in module.state_dict().items()}
    except (TypeError, NotImplementedError) as error:  # bfloat16, or no values yet
        raise DTypeError(
            f"from_torch: the parameters of {kind.__name__} cannot be read ({error}); "
            "call module.float() first"
        ) from error
    dtype = next((value.dtype for value in state.values()), "float32")
    layer = ours(**{name: _option(module, name) for name in options}, dtype=dtype)
    layer.load_state_dict(state)
    layer.train(module.training)
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    own = dict(layer.named_parameters())
    for name, parameter in own.items():
        second = name.replace("bias_ih", "bias_hh")
        parameter.requires_grad = name in trained or (second not in own and second in trained)
    return layer


def _option(module: Any, name: str) -> Any:
    """What a module was made with; of a bias it keeps the parameter, or None."""
    value = getattr(module, name)
    return value is not None and value is not False if name == "bias" else value


_OPTIONS_OURS_LACK: dict[str, tuple[Any, str]] = {
    "proj_size": (0, "; use one without it, and a Linear after it"),
    "max_norm": (None, ""),
    "scale_grad_by_freq": (False, ""),
}
"""Their values where they are not used, and what to do about them."""

# fmt: off
_SEQUENCE = (
    "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
)
# fmt: on
_STEP = ("input_size", "hidden_size", "bias")

_LAYERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "Linear": (Linear, ("in_features", "out_features", "bias")),
    "RNN": (RNN, (*_SEQUENCE, "nonlinearity")),
    "LSTM": (LSTM, _SEQUENCE),
    "GRU": (GRU, _SEQUENCE),
    "RNNCell": (RNNCell, (*_STEP, "nonlinearity")),
    "LSTMCell": (LSTMCell, _STEP),
    "GRUCell": (GRUCell, _STEP),
    "Embedding": (Embedding, ("num_embeddings", "embedding_dim", "padding_idx")),
    "LayerNorm": (LayerNorm, ("normalized_shape", "eps", "elementwise_affine", "bias")),
}
"""Our class, and what its constructor takes over: both have the same names for it."""
