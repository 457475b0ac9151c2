"""PyTorch's modules as ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .._calls import told
from .._tensor import Tensor
from ..errors import ArgumentError, DTypeError
from ..functions import log_softmax, relu, sigmoid, softmax, tanh
from .containers import ModuleDict, ModuleList, Sequential
from .dropout import Dropout
from .embedding import Embedding
from .gru import GRU, GRUCell
from .layer_norm import LayerNorm
from .linear import Linear
from .lstm import LSTM, LSTMCell
from .module import Module, Parameter
from .rnn import RNN, RNNCell


@told
def from_torch(module: Any) -> Module:
    """Turn a PyTorch layer, or a tree of them, into ours: those named, in ``Sequential``, lists and dicts.

    The result has copies of its parameters, in its dtype, on the default device, and gives the same
    outputs and gradients; frozen parameters stay frozen (a bias, PyTorch's sum of two, if both are). A
    module that stands in two places of the tree does so in the result, and a weight that two modules share
    stays one. Each is in training or not as the module is; what its dropout leaves out is drawn by a
    generator of its own. PyTorch itself is not imported. The way back, as PyTorch loads its own tensors
    only::

        state = layer.state_dict()
        module.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})

    Parameters
    ----------
    module : torch.nn.Module
        A subclass of these may be given, if its ``forward`` is the one it inherits. One with a ``forward``
        of its own is a program, which cannot be converted: convert its layers, and write the program for
        ours.

    Returns
    -------
    Module
        The layer or container of the same name. What has no parameters (``Tanh``, ``ReLU``, ``Sigmoid``,
        ``Softmax``, ``LogSoftmax``, ``Flatten``) becomes a function in a ``Sequential``.

    Raises
    ------
    ArgumentError
        Another kind of module, one with forward hooks, or one with an option that ours does not have:
        ``proj_size``, ``max_norm``, ``scale_grad_by_freq``. The message names its place in the tree.
    DTypeError
        Parameters that NumPy cannot hold, such as ``bfloat16``.

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
    for _, each in reversed(tree):  # what is inside comes before what it is in
        converted[id(each)] = made = _CONVERTERS[_kind(each)](each, converted)
        if isinstance(made, Module):
            made.training = each.training
            _share(each, made, shared)
    return _as_module(converted[id(module)])


# --- which modules ------------------------------------------------------------------------------


def _is_torch(module: Any) -> bool:
    """Whether something is a module of PyTorch's, or of a class derived from one."""
    bases = [f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__]
    return "torch.nn.modules.module.Module" in bases


def _kind(module: Any) -> str:
    """The name of PyTorch's class whose ``forward`` a module has; empty if that is its own."""
    bases: Any = [k for k in type(module).__mro__ if k.__module__.startswith("torch.nn.")]
    inherits = bases and getattr(module.forward, "__func__", None) is bases[0].forward
    return bases[0].__name__ if inherits else ""


def _check(path: str, module: Any) -> None:
    """Raise for a module that has no counterpart, and say which of those inside it have."""
    kind, name = type(module), type(module).__name__
    where = f", at {path}" if path else ""
    if _kind(module) not in _CONVERTERS:
        remedy = f"pass a torch.nn module whose forward is that of {', '.join(_CONVERTERS)}"
        if isinstance(module, Mapping):
            remedy = (
                "a state dict goes to from_state_dict, or to load_state_dict of a layer of ours"
            )
        elif getattr(module, "parametrizations", None):
            remedy = "call torch.nn.utils.parametrize.remove_parametrizations(module, name) first"
        elif inside := _inside(module):
            remedy = "its forward is a program of its own; convert its parts: " + ", ".join(
                f"from_torch(model.{path}{'.' if path else ''}{each})" for each in inside
            )
        raise ArgumentError(
            f"from_torch: {kind.__module__}.{name}{where} has no counterpart here; {remedy}"
        )
    if module._forward_hooks or module._forward_pre_hooks:
        raise ArgumentError(
            f"from_torch: {name}{where} has forward hooks, which may change what it computes (weight_norm, "
            "spectral_norm and pruning are such hooks); remove them first"
        )
    for option, (without, remedy) in _OPTIONS_OURS_LACK.items():
        if getattr(module, option, without) != without:
            value = getattr(module, option)
            raise ArgumentError(
                f"from_torch: {name}{where} with {option}={value}; ours has none{remedy}"
            )


def _inside(module: Any) -> list[str]:
    """The names of the modules directly inside that can be converted by themselves."""
    found = []
    for name, child in module.named_children() if _is_torch(module) else ():
        if all(_kind(each) in _CONVERTERS for each in child.modules()):
            found.append(name)
    return found


_OPTIONS_OURS_LACK: dict[str, tuple[Any, str]] = {
    "proj_size": (0, "; use one without it, and a Linear after it"),
    "max_norm": (None, ""),
    "scale_grad_by_freq": (False, ""),
}
"""Their values where they are not used, and what to do about them."""


# --- one module ---------------------------------------------------------------------------------

Converted = Mapping[int, Callable[[Any], Any]]
"""What was made of the modules inside, by their ids."""


def _layer(ours: Any, options: tuple[str, ...]) -> Callable[[Any, Converted], Module]:
    """Make the function that converts one kind of layer, whose constructors have the same names here."""

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
    """What a module was made with; of a bias it keeps the parameter, or None."""
    value = getattr(module, name)
    return value is not None and value is not False if name == "bias" else value


def _share(module: Any, layer: Module, shared: dict[int, Parameter]) -> None:
    """Give a layer the weights that another has already, where PyTorch's two have the same."""
    own = dict(layer._children())
    for name, theirs in module._parameters.items():
        ours = own.get(name)
        if isinstance(ours, Parameter) and not name.startswith(
            "bias_"
        ):  # which may be a sum of two
            setattr(layer, name, shared.setdefault(id(theirs), ours))


def _sequential(module: Any, converted: Converted) -> Module:
    return Sequential({name: converted[id(each)] for name, each in module._modules.items()})


def _list(module: Any, converted: Converted) -> Module:
    return ModuleList(_as_module(converted[id(each)]) for each in module)


def _dict(module: Any, converted: Converted) -> Module:
    return ModuleDict({name: _as_module(converted[id(each)]) for name, each in module.items()})


def _as_module(step: Callable[[Any], Any]) -> Module:
    """Return a module; a function becomes a Sequential of it alone."""
    return step if isinstance(step, Module) else Sequential(step)


def _over_axis(function: Callable[..., Tensor]) -> Callable[[Any, Converted], Any]:
    def convert(module: Any, _: Converted) -> Any:
        if module.dim is None:
            raise ArgumentError(
                f"from_torch: {type(module).__name__} without dim; PyTorch guesses the axis: pass dim=-1"
            )
        return partial(function, axis=module.dim)

    return convert


def _flat(module: Any, _: Converted) -> Any:
    return partial(Tensor.flatten, start_dim=module.start_dim, end_dim=module.end_dim)


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
    "Dropout": lambda module, _: Dropout(module.p),
    "Tanh": lambda *_: tanh,
    "ReLU": lambda *_: relu,
    "Sigmoid": lambda *_: sigmoid,
    "Softmax": _over_axis(softmax),
    "LogSoftmax": _over_axis(log_softmax),
    "Flatten": _flat,
    "Identity": lambda *_: Sequential(),
    "Sequential": _sequential,
    "ModuleList": _list,
    "ModuleDict": _dict,
}
"""What makes ours of a module of PyTorch's, by the name of its class."""
