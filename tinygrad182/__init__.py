"""tinygrad182: a small autodiff framework for seeing how gradients flow through time.

>>> import tinygrad182 as tg
>>> x = tg.tensor([1.0, 2.0], requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad
tensor([2., 4.])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _calls, _habits, compositions, decode, functions, inspect, nn, optim, testing
from ._tensor import Tensor
from .allocator import keep_freed_memory
from .autodiff import grad
from .backend import cuda_is_available
from .compositions import *  # noqa: F403 - its __all__ lists public functions
from .creation import (
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
from .functions import *  # noqa: F403 - its __all__ lists public functions
from .modes import detect_anomaly, enable_grad, no_grad, use_device
from .primitives import PRIMITIVES, Primitive, define
from .recomputing import remat
from .recording import apply
from .serialization import Checkpoint, load, save
from .transforms import hessian, jacobian, jvp, vjp

keep_freed_memory()  # the next backward pass reuses what this one frees
_calls.tell_in(globals())  # dim= is read as axis=, and errors explain a misspelt argument

cat = concatenate = concat  # noqa: F405 - PyTorch's name, and NumPy's
clamp = clip  # noqa: F405 - PyTorch's name
from_numpy = tensor  # PyTorch's name; the memory is not shared
unsqueeze = expand_dims  # noqa: F405 - PyTorch's name

if not TYPE_CHECKING:
    __getattr__ = _calls.names_of(__name__, "tg", _habits.TG)

__version__ = "0.1.0"
