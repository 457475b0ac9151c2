"""PyTorch's modules as ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._calls import told
from ..errors import ArgumentError, DTypeError
from .embedding import Embedding
from .linear import Linear
from .lstm import LSTM, LSTMCell
from .module import Module
from .norm import LayerNorm
from .rnn import RNN, RNNCell


@told
def from_torch(module: Any) -> Module:
    """Turn a PyTorch ``RNN``, ``LSTM``, their cells, ``Linear``, ``Embedding`` or ``LayerNorm`` into ours.

    The result has copies of its parameters, in its dtype, on the default device, and gives the same
    outputs and gradients; frozen parameters stay frozen (a bias, PyTorch's sum of two, if both are).
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
        Another kind of module, or one with an option that ours does not have: ``bidirectional``,
        ``proj_size``, ``dropout``, ``max_norm``, ``scale_grad_by_freq``.
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
    convert = None if theirs is None else _LAYERS.get(theirs.__name__)
    if convert is None or getattr(module.forward, "__func__", None) is not theirs.forward:  # type: ignore[union-attr]
        raise ArgumentError(
            f"from_torch: {kind.__module__}.{kind.__name__} has no counterpart here; "
            f"pass a torch.nn module that is one of {', '.join(_LAYERS)}, with its own forward"
        )
    for option, without in _OPTIONS_OURS_LACK.items():
        if getattr(module, option, without) != without:
            remedy = "; set module.dropout = 0 first" if option == "dropout" else ""
            raise ArgumentError(
                f"from_torch: {kind.__name__} with {option}={getattr(module, option)}; "
                f"ours has none{remedy}"
            )
    try:
        state = {name: p.detach().cpu().numpy() for name, p in module.state_dict().items()}
    except (TypeError, NotImplementedError) as error:  # bfloat16, or no values yet
        raise DTypeError(
            f"from_torch: the parameters of {kind.__name__} cannot be read ({error}); "
            "call module.float() first"
        ) from error
    layer = convert(module, next((value.dtype for value in state.values()), "float32"))
    layer.load_state_dict(state)
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    for name, parameter in layer.named_parameters():
        parameter.requires_grad = not trained.isdisjoint({name, name.replace("bias_ih", "bias_hh")})
    return layer


def _linear(module: Any, dtype: Any) -> Module:
    return Linear(
        module.in_features, module.out_features, module.bias is not None, dtype=dtype, rng=0
    )


def _rnn(module: Any, dtype: Any) -> Module:
    return RNN(**_options(module), nonlinearity=module.nonlinearity, dtype=dtype, rng=0)


def _lstm(module: Any, dtype: Any) -> Module:
    return LSTM(**_options(module), dtype=dtype, rng=0)


def _options(module: Any) -> dict[str, Any]:
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first")
    return {name: getattr(module, name) for name in names}


def _rnn_cell(module: Any, dtype: Any) -> Module:
    sizes = module.input_size, module.hidden_size, module.bias
    return RNNCell(*sizes, nonlinearity=module.nonlinearity, dtype=dtype, rng=0)


def _lstm_cell(module: Any, dtype: Any) -> Module:
    return LSTMCell(module.input_size, module.hidden_size, module.bias, dtype=dtype, rng=0)


def _layer_norm(module: Any, dtype: Any) -> Module:
    affine, bias = module.elementwise_affine, module.bias is not None
    return LayerNorm(tuple(module.normalized_shape), module.eps, affine, bias, dtype=dtype)


def _embedding(module: Any, dtype: Any) -> Module:
    sizes = module.num_embeddings, module.embedding_dim
    return Embedding(*sizes, module.padding_idx, dtype=dtype, rng=0)


_OPTIONS_OURS_LACK: dict[str, Any] = {
    "bidirectional": False,
    "proj_size": 0,
    "dropout": 0,
    "max_norm": None,
    "scale_grad_by_freq": False,
}
"""And their values where they are not used."""

_LAYERS: dict[str, Callable[[Any, Any], Module]] = {
    "Linear": _linear,
    "RNN": _rnn,
    "LSTM": _lstm,
    "RNNCell": _rnn_cell,
    "LSTMCell": _lstm_cell,
    "Embedding": _embedding,
    "LayerNorm": _layer_norm,
}
