"""Conversion of PyTorch's modules to ours, without importing PyTorch.

:func:`from_torch` walks the tree of a module; ``_CONVERTERS`` at the end has a row for each class. A state
dict without its class is read in :mod:`.models_from_state_dicts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .._suggestions.calls import explains_calls
from ..errors import ArgumentError, DTypeError
from ..tensors.functions import log_softmax, relu, sigmoid, softmax, tanh
from ..tensors.tensor import Tensor
from .containers import ModuleDict, ModuleList, Sequential
from .dropout import Dropout
from .embedding import Embedding
from .gru import GRU, GRUCell
from .layer_norm import LayerNorm
from .linear import Linear
from .lstm import LSTM, LSTMCell
from .module import Module, Parameter, join_path
from .rnn import RNN, RNNCell


@explains_calls
def from_torch(module: Any) -> Module:
    """Convert a PyTorch layer, or a tree of ``Sequential``, lists and dicts of layers, to ours.

    The result has copies of the parameters, in their dtype, on the default device, and gives equal outputs
    and gradients. Frozen parameters stay frozen; our one bias, the sum of PyTorch's two, is frozen if both
    are. A module in two places of the tree, or a weight that two modules share, stays one. ``training`` is
    copied; dropout draws from a new generator. PyTorch itself is not imported. The way back, as PyTorch
    loads only its own tensors::

        state = layer.state_dict()
        module.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})

    Parameters
    ----------
    module : torch.nn.Module
        A subclass is converted too, if it inherits its ``forward``. A class that defines ``forward`` is a
        program, which cannot be converted: convert its layers, and write the program for ours.

    Returns
    -------
    Module
        The layer or container with that name here. A module without parameters (``Tanh``, ``ReLU``,
        ``Sigmoid``, ``Softmax``, ``LogSoftmax``, ``Flatten``) becomes a function in a ``Sequential``.

    Raises
    ------
    ArgumentError
        A module is of another kind, has forward hooks, or uses an option that ours does not have:
        ``proj_size``, ``max_norm``, ``scale_grad_by_freq``. The message names its place in the tree.
    DTypeError
        NumPy has no such dtype, for example ``bfloat16``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> import torch  # doctest: +SKIP
    >>> lstm = tg.nn.from_torch(torch.nn.LSTM(3, 8, num_layers=2))  # doctest: +SKIP
    >>> head = tg.nn.from_torch(  # doctest: +SKIP
    ...     torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    ... )
    """
    tree = list(module.named_modules()) if _is_torch(module) else [("", module)]
    for path, each in tree:
        _check(path, each)
    converted: dict[int, Callable[[Any], Any]] = {}
    shared: dict[int, Parameter] = {}
    for _, each in reversed(tree):  # children before their parents
        converted[id(each)] = made = _CONVERTERS[_kind(each)](each, converted)
        if isinstance(made, Module):
            made.training = each.training
            _share(each, made, shared)
    return _as_module(converted[id(module)])


# --- which modules ------------------------------------------------------------------------------


def _is_torch(module: Any) -> bool:
    """Whether an object is a PyTorch module."""
    bases = [f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__]
    return "torch.nn.modules.module.Module" in bases


def _kind(module: Any) -> str:
    """The name of the PyTorch class whose ``forward`` a module has; empty if it defines its own."""
    bases: Any = [k for k in type(module).__mro__ if k.__module__.startswith("torch.nn.")]
    inherits = bases and getattr(module.forward, "__func__", None) is bases[0].forward
    return bases[0].__name__ if inherits else ""


def _check(path: str, module: Any) -> None:
    """Raise if a module has no counterpart; the message names the modules inside it that have one."""
    kind, name = type(module), type(module).__name__
    where = f", at {path}" if path else ""
    if _kind(module) not in _CONVERTERS:
        remedy = f"pass a torch.nn module whose forward is that of {', '.join(_CONVERTERS)}"
        if isinstance(module, Mapping):
            remedy = "pass a state dict to from_state_dict, or to load_state_dict of our layer"
        elif getattr(module, "parametrizations", None):
            remedy = "call torch.nn.utils.parametrize.remove_parametrizations(module, name) first"
        elif inside := _inside(module):
            parts = [f"from_torch(model.{join_path(path, each)})" for each in inside]
            remedy = f"its class defines forward, a program; convert its parts: {', '.join(parts)}"
        raise ArgumentError(
            f"from_torch: {kind.__module__}.{name}{where} has no counterpart here; {remedy}"
        )
    if module._forward_hooks or module._forward_pre_hooks:
        raise ArgumentError(
            f"from_torch: {name}{where} has forward hooks, which may change what it computes (weight_norm, "
            "spectral_norm and pruning are such hooks); remove them first"
        )
    for option, (unused, remedy) in _OPTIONS_OURS_LACK.items():
        if (value := getattr(module, option, unused)) != unused:
            raise ArgumentError(
                f"from_torch: {name}{where} has {option}={value}; ours has no such option; {remedy}"
            )


def _inside(module: Any) -> list[str]:
    """The names of the modules directly inside that can be converted by themselves."""
    return [
        name
        for name, child in (module.named_children() if _is_torch(module) else ())
        if all(_kind(each) in _CONVERTERS for each in child.modules())
    ]


_OPTIONS_OURS_LACK: dict[str, tuple[Any, str]] = {
    "proj_size": (0, "use one without it, and a Linear after it"),
    "max_norm": (None, "use one without it"),
    "scale_grad_by_freq": (False, "use one without it"),
}
"""For each option: its value when it is not used, and a remedy."""


# --- one module ---------------------------------------------------------------------------------

Converted = Mapping[int, Callable[[Any], Any]]
"""The results for the modules inside, by the ids of PyTorch's modules."""


def _layer(ours: Any, options: tuple[str, ...]) -> Callable[[Any, Converted], Module]:
    """Make the converter of a layer; ``options`` are arguments with the same names on both sides."""

    def convert(module: Any, _: Converted) -> Module:
        kind = type(module).__name__
        try:
            state = {name: p.detach().cpu().numpy() for name, p in module.state_dict().items()}
        except (TypeError, NotImplementedError) as error:  # bfloat16, or no values yet
            raise DTypeError(
                f"from_torch: the parameters of {kind} cannot be read ({error}); "
                "call module.float() first"
            ) from error
        dtype = next((value.dtype for value in state.values()), "float32")
        layer: Module = ours(**{name: _option(module, name) for name in options}, dtype=dtype)
        layer.load_state_dict(state)
        trained = {name for name, p in module.named_parameters() if p.requires_grad}
        own = dict(layer.named_parameters())
        for name, parameter in own.items():
            second = name.replace("bias_ih", "bias_hh")
            parameter.requires_grad = name in trained or (second not in own and second in trained)
        return layer

    return convert


def _option(module: Any, name: str) -> Any:
    """The constructor's argument; ``bias`` is found as a parameter or None, and becomes a bool."""
    value = getattr(module, name)
    return value is not None and value is not False if name == "bias" else value


def _share(module: Any, layer: Module, shared: dict[int, Parameter]) -> None:
    """Share our parameters between two layers, if PyTorch's two layers share theirs."""
    own = dict(layer._children())
    for name, theirs in module._parameters.items():
        ours = own.get(name)
        is_sum = name.startswith("bias_")  # of PyTorch's two biases
        if isinstance(ours, Parameter) and not is_sum:
            setattr(layer, name, shared.setdefault(id(theirs), ours))


def _as_module(step: Callable[[Any], Any]) -> Module:
    """Return a module; a function becomes a Sequential with one step."""
    return step if isinstance(step, Module) else Sequential(step)


def _over_axis(function: Callable[..., Tensor]) -> Callable[[Any, Converted], Any]:
    def convert(module: Any, _: Converted) -> Any:
        if module.dim is None:
            raise ArgumentError(
                f"from_torch: {type(module).__name__} without dim; PyTorch guesses the axis: pass dim=-1"
            )
        return partial(function, axis=module.dim)

    return convert


# fmt: off
_SEQUENCE = (
    "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
)
# fmt: on
_STEP = ("input_size", "hidden_size", "bias")

_CONVERTERS: dict[str, Callable[[Any, Converted], Callable[[Any], Any]]] = {
    "Linear": _layer(Linear, ("in_features", "out_features", "bias")),
    "RNN": _layer(RNN, (*_SEQUENCE, "nonlinearity")),
    "LSTM": _layer(LSTM, _SEQUENCE),
    "GRU": _layer(GRU, _SEQUENCE),
    "RNNCell": _layer(RNNCell, (*_STEP, "nonlinearity")),
    "LSTMCell": _layer(LSTMCell, _STEP),
    "GRUCell": _layer(GRUCell, _STEP),
    "Embedding": _layer(Embedding, ("num_embeddings", "embedding_dim", "padding_idx")),
    "LayerNorm": _layer(LayerNorm, ("normalized_shape", "eps", "elementwise_affine", "bias")),
    "Dropout": lambda m, _: Dropout(m.p),
    "Tanh": lambda *_: tanh,
    "ReLU": lambda *_: relu,
    "Sigmoid": lambda *_: sigmoid,
    "Softmax": _over_axis(softmax),
    "LogSoftmax": _over_axis(log_softmax),
    "Flatten": lambda m, _: partial(Tensor.flatten, start_dim=m.start_dim, end_dim=m.end_dim),
    "Identity": lambda *_: Sequential(),
    "Sequential": lambda m, made: Sequential({k: made[id(each)] for k, each in m._modules.items()}),
    "ModuleList": lambda m, made: ModuleList(_as_module(made[id(each)]) for each in m),
    "ModuleDict": lambda m, made: ModuleDict({k: _as_module(made[id(m[k])]) for k in m}),
}
"""The converter of each PyTorch class, by its name."""
