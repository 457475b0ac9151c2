"""tinygrad182: a small autodiff framework for seeing how gradients flow through time.

>>> import tinygrad182 as tg
>>> x = tg.tensor([1.0, 2.0], requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad
tensor([2., 4.])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import decode, inspect, nn, optim, testing
from ._suggestions import calls as _calls
from ._suggestions import torch_names as _torch_names
from .arrays import backend, cuda
from .arrays.allocator import keep_freed_memory as _keep_freed_memory
from .arrays.backend import cuda_is_available
from .engine.autodiff import grad
from .engine.modes import detect_anomaly, enable_grad, no_grad, use_device
from .engine.recording import apply
from .errors import (
    AnomalyError,
    ArgumentError,
    CallError,
    CheckpointError,
    CheckpointNotFoundError,
    DecodingError,
    DeviceError,
    DTypeError,
    FileError,
    FreedGraphError,
    GradientCheckError,
    GraphError,
    IndexOutOfRangeError,
    InPlaceError,
    MissingDependencyError,
    NotDifferentiableError,
    ShapeError,
    StateDictError,
    TinygradError,
    UnknownNameError,
    UnknownPathError,
)
from .primitives import PRIMITIVES, Primitive, define
from .serialization import Checkpoint, load, save
from .tensors import compositions, functions
from .tensors.compositions import *  # noqa: F403 - its __all__ lists public functions
from .tensors.creation import (
    arange,
    as_tensor,
    eye,
    float32,
    float64,
    full,
    full_like,
    int32,
    int64,
    ones,
    ones_like,
    tensor,
    zeros,
    zeros_like,
)
from .tensors.functions import *  # noqa: F403 - its __all__ lists public functions
from .tensors.tensor import Tensor
from .transforms.derivatives import hessian, jacobian, jvp, vjp
from .transforms.recomputing import remat

_keep_freed_memory()  # the next backward pass reuses what this one frees
_calls.explain_calls_in(globals())  # dim= is read as axis=, and errors explain a misspelt argument

cat = concatenate = concat  # noqa: F405 - PyTorch's name, and NumPy's
clamp = clip  # noqa: F405 - PyTorch's name
from_numpy = tensor  # PyTorch's name; the memory is not shared
unsqueeze = expand_dims  # noqa: F405 - PyTorch's name

if not TYPE_CHECKING:
    __getattr__ = _calls.names_of(__name__, "tg", _torch_names.TG)

__version__ = "0.1.0"
