"""Module and Parameter: a model is an ordered tree of modules, whose leaves are named parameters.

Every layer is a subclass of :class:`Module`; read :mod:`.linear` next, the simplest one, and
:mod:`.containers` for modules in lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from .._suggestions.calls import ExplainsCalls, explain_call, explains_calls, unknown_name
from .._suggestions.torch_names import MODULE
from ..arrays import backend
from ..arrays.namespaces import Array
from ..engine.autodiff import set_grads
from ..engine.host import convert
from ..engine.memory import Memory
from ..engine.modes import MODES, scope
from ..engine.recording import Leaf, node_of, wrap
from ..errors import ArgumentError, DTypeError, GraphError, StateDictError, TinygradError
from ..tensors.creation import tensor, zeros_like
from ..tensors.methods import read_target
from ..tensors.tensor import Tensor
from .notebook import module_html


class Parameter(Tensor):
    """A tensor that is learned: it requires grad, and ``Module.parameters()`` finds it.

    Parameters
    ----------
    data : array, Tensor or nested sequence
        It is copied. Data of the host goes to the device of :func:`use_device`, or to ``device``.
    dtype, device
        As for :func:`tinygrad182.tensor`.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.nn.Parameter([1.0, 2.0]).requires_grad
    True
    """

    __slots__ = ()

    @explains_calls
    def __init__(self, data: Any, dtype: Any = None, device: str | None = None) -> None:
        source = tensor(data, dtype=dtype, device=device, requires_grad=True)
        self._data = source._data
        self._node = source._node


_OPTIONS = frozenset((bool, int, float, str, type(None)))
"""Types of common attributes that hold neither parameters nor modules; they are skipped at once."""


class Branch(NamedTuple):
    """A module at its place in the tree of a model, with the parameters and modules directly inside."""

    path: str  # dotted; "" for the root
    parent: str  # the path of the module that it is in
    module: Module
    children: list[tuple[str, Parameter | Module]]

    @property
    def label(self) -> str:
        """The name of the module inside its parent."""
        return self.path[len(self.parent) :].lstrip(".")

    @property
    def parameters(self) -> list[tuple[str, Parameter]]:
        """The parameters directly inside, with their names."""
        return [(name, p) for name, p in self.children if isinstance(p, Parameter)]


class Module(ExplainsCalls):
    """A part of a model: it has a ``forward``, and its attributes are parameters and other modules.

    An attribute that is a Parameter or a Module, or a list, tuple or dict of them, is found without
    being registered. Attributes are found in the order in which they were assigned, and their dotted path
    is their name. A call of the module calls ``forward`` and records the module's path on every node that
    is made inside.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> class Twice(tg.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.linear = tg.nn.Linear(3, 3, rng=0)
    ...     def forward(self, x):
    ...         return self.linear(self.linear(x))
    >>> [name for name, _ in Twice().named_parameters()]
    ['linear.weight', 'linear.bias']
    """

    training = True
    """Whether the module is being trained; :meth:`train` sets it."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output. Every subclass defines its own."""
        raise TinygradError(f"{type(self).__name__} has no forward; define it in the class")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call ``forward``, and record this module's path on every node that is made inside."""
        modes = MODES.get()
        outer = modes.scope
        path, names = outer.names.get(id(self)), outer.names
        if path is None:  # the outermost module, or one that no module outside has as an attribute
            path, prefix = type(self).__name__.lower(), ""
            if outer.module:
                path = f"{outer.module}.{path}"
                prefix = f"{path}."
            names = {**names, **self._names(prefix)}
        try:
            with scope(path, names):
                return self.forward(*args, **kwargs)
        except TypeError as error:
            explain_call(self.forward, args, kwargs, error)
            raise
        except BaseException:  # restores the modes as modes_kept does, but quicker
            MODES.set(modes)
            raise

    def _names(self, prefix: str) -> dict[int, str]:
        """Return the path of every module inside by its id, and give the parameters their names."""
        children, named = self._children(), set[int]()
        if not any([isinstance(child, Module) for _, child in children]):  # noqa: C419 - faster
            _name_parameters("", children, named)
            return {}
        names: dict[int, str] = {}
        for path, _, module, children in self._tree():
            if path:
                names[id(module)] = prefix + path
            _name_parameters(path, children, named)
        return names

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a Parameter may be replaced only by another Parameter or by None."""
        old = vars(self).get(name)
        if isinstance(old, Parameter) and not (value is None or isinstance(value, Parameter)):
            raise ArgumentError(
                f"{type(self).__name__}.{name} is a Parameter, {type(value).__name__} is not; "
                f"write its values with .{name}.assign(values), or .{name}.data = values"
            )
        super().__setattr__(name, value)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property that failed: its own error is raised again
                return object.__getattribute__(self, name)
            return unknown_name(self, name, MODULE, type(self).__name__)

    # --- the tree -------------------------------------------------------------------------------

    def _children(self) -> list[tuple[str, Parameter | Module]]:
        found: list[tuple[str, Parameter | Module]] = []
        for name, value in vars(self).items():
            if type(value) in _OPTIONS:
                continue
            if isinstance(value, (Parameter, Module)):
                found.append((name, value))
            elif isinstance(value, (list, tuple, dict)):
                found += _nested(name, value)
        return found

    def _tree(self, remove_duplicate: bool = True) -> Iterator[Branch]:
        """Yield every module at its place: at its first one only, or at all of them.

        A module that is inside itself is not entered again.
        """
        pending: list[tuple[str, str, Module | None]] = [("", "", self)]
        seen: set[int] = set()
        around: list[int] = []  # the modules that the current one is inside
        while pending:
            path, parent, module = pending.pop(0)
            if module is None:  # the end of a module, which may be in another place too
                seen.discard(around.pop())
                continue
            if id(module) in seen:
                continue
            seen.add(id(module))
            children = module._children()
            yield Branch(path, parent, module, children)
            inside: list[tuple[str, str, Module | None]] = [
                (join_path(path, name), path, m) for name, m in children if isinstance(m, Module)
            ]
            if not remove_duplicate:
                around.append(id(module))
                inside.append((path, path, None))
            if inside:
                pending[:0] = inside

    def named_modules(self, remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """Yield the module itself (named ``""``) and every one inside it, with dotted paths.

        Parameters
        ----------
        remove_duplicate : bool
            Whether a module that is in several places comes once, under the first of its paths; otherwise
            it comes under each.
        """
        for branch in self._tree(remove_duplicate):
            yield branch.path, branch.module

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield every parameter once, with its dotted path, in the order of assignment."""
        seen: set[int] = set()
        for branch in self._tree():
            for name, p in branch.parameters:
                if id(p) not in seen:
                    seen.add(id(p))
                    yield join_path(branch.path, name), p

    def parameters(self) -> Iterator[Parameter]:
        """Yield every parameter once."""
        for _, parameter in self.named_parameters():
            yield parameter

    # --- state ----------------------------------------------------------------------------------

    def _own_state(self) -> dict[str, Any]:
        """Arrays of this module alone, by the names under which they are saved."""
        return {name: p._data for name, p in self._children() if isinstance(p, Parameter)}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        own = dict(self._children())
        for name, array in state.items():
            parameter = own[name]
            assert isinstance(parameter, Parameter)
            parameter.assign(array)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all parameters by their dotted path, under PyTorch's names.

        A module or parameter that is in several places has a name, and a copy, for each.
        PyTorch's modules load ``{name: torch.as_tensor(v) for name, v in state_dict().items()}``.
        """
        return {
            join_path(path, name): wrap(backend.copy(array))
            for path, module in self.named_modules(remove_duplicate=False)
            for name, array in module._own_state().items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Overwrite the parameters with a state dict; nothing is written if anything is wrong.

        Parameters
        ----------
        state_dict : mapping
            Name → Tensor, array or anything that NumPy can convert, on any device: values go to the device
            of their parameter. A parameter that is in several places has a name for each; if the values
            differ, that of the last place counts.
        strict : bool
            Whether both sides must have the same names; otherwise only names on both sides are loaded.
            Files with each parameter once (``safetensors.torch.save_model``) need ``strict=False``.

        Raises
        ------
        StateDictError
            Names are missing or unexpected, shapes differ, or values are not real numbers. The message
            lists all of them.
        """
        where = f"load_state_dict of {type(self).__name__}"
        if not isinstance(state_dict, Mapping):
            raise StateDictError(f"{where}: {_not_a_mapping(state_dict)}")
        problems: list[str] = []
        new: dict[int, tuple[Module, dict[str, Any]]] = {}  # the last place of each module counts
        known: set[str] = set()
        for path, module in self.named_modules(remove_duplicate=False):
            _, arrays = new.pop(id(module), (module, {}))
            for name, current in module._own_state().items():
                full = join_path(path, name)
                known.add(full)
                if full in state_dict:
                    arrays[name] = _read_array(full, state_dict[full], current, problems)
                elif strict:
                    problems.append(f"missing {full} {tuple(current.shape)}")
            new[id(module)] = module, arrays
        if strict:
            problems += [f"unexpected {name}" for name in state_dict if name not in known]
        if problems:
            raise StateDictError(f"{where}: " + "; ".join(problems))
        before = [(p, backend.copy(p._data)) for p in self.parameters()]
        try:
            for module, arrays in new.values():
                module._load_own_state(arrays)
        except BaseException:  # also an interrupt
            for parameter, old in before:
                with suppress(GraphError):  # a parameter that cannot be written to was not changed
                    parameter.assign(old)
            raise

    def modules(self) -> Iterator[Module]:
        """Yield the module itself and every one inside it, each once."""
        for _, module in self.named_modules():
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the modules directly inside, with their names."""
        for name, child in self._children():
            if isinstance(child, Module):
                yield name, child

    def children(self) -> Iterator[Module]:
        """Yield the modules directly inside."""
        for _, child in self.named_children():
            yield child

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Call a function with every module inside, and last with the module itself.

        Examples
        --------
        >>> import tinygrad182 as tg
        >>> def start_at_zero(module):
        ...     if isinstance(module, tg.nn.Linear):
        ...         tg.nn.init.constant_(module.bias, 0.0)
        >>> model = tg.nn.Sequential(tg.nn.Linear(2, 2, rng=0)).apply(start_at_zero)
        >>> model[0].bias
        tensor([0., 0.], requires_grad=True)
        """
        for module in reversed(list(self.modules())):
            function(module)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let all parameters learn; with False, freeze them."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters; with ``set_to_none=False`` they become zeros."""
        clear_gradients(self.parameters(), set_to_none)

    def train(self, mode: bool = True) -> Self:
        """Set ``training`` of this module and of every one inside."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set ``training`` to False here and in every module inside: the opposite of :meth:`train`."""
        return self.train(False)

    def to(self, *target: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Move all parameters and their gradients to a device, or convert them to a dtype, in place.

        Parameters
        ----------
        *target : str, dtype, Tensor or array
            A device such as ``"cuda"``, a floating dtype, or both; or a Tensor or array, whose device and
            dtype are taken. PyTorch's dtypes and devices are read by their names.
        device, dtype
            The device and the dtype as keyword arguments.

        Examples
        --------
        >>> import tinygrad182 as tg
        >>> tg.nn.Linear(2, 1, rng=0).to(dtype="float64").weight.dtype
        dtype('float64')
        """
        device, dtype = read_target(target, device, dtype)
        for parameter in self.parameters():
            leaf = parameter._node
            assert isinstance(leaf, Leaf)
            array = _array_to(parameter._data, device, dtype)
            if array is parameter._data:
                continue
            parameter._data = leaf.value = array
            leaf.memory = Memory(array)  # so that graphs recorded before notice the change
            if leaf.grad is not None:
                leaf.grad = wrap(_array_to(leaf.grad._data, device, dtype))
        return self

    def cpu(self) -> Self:
        """Move the model to the CPU."""
        return self.to("cpu")

    def cuda(self, ordinal: int = 0) -> Self:
        """Move the model to a CUDA device, by default the first."""
        return self.to(f"cuda:{ordinal}")

    def float(self) -> Self:
        """Make all parameters ``float32``."""
        return self.to(dtype="float32")

    def double(self) -> Self:
        """Make all parameters ``float64``."""
        return self.to(dtype="float64")

    def half(self) -> Self:
        """Make all parameters ``float16``."""
        return self.to(dtype="float16")

    # --- text -----------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return the arguments that the repr shows in the module's line."""
        return ""

    def __repr__(self) -> str:
        lines = []
        depths = {"": 0}
        for branch in self._tree():
            path, parent, module, _ = branch
            depth = depths[path] = depths[parent] + 1 if path else 0
            label = f"({branch.label}): " if path else ""
            lines.append(f"{'  ' * depth}{label}{type(module).__name__}({module.extra_repr()})")
            lines += [f"{'  ' * (depth + 1)}{n} {p.shape}" for n, p in branch.parameters]
        total = sum(p.size for p in self.parameters())
        return "\n".join([f"{lines[0]}  # {total:,} parameters", *lines[1:]])

    def _repr_html_(self) -> str:
        """Show the module in a notebook as a tree that unfolds."""
        return module_html(self._tree())


def join_path(path: str, name: str) -> str:
    """The dotted path of something inside a module."""
    return f"{path}.{name}" if path else name


def _name_parameters(
    path: str, children: list[tuple[str, Parameter | Module]], named: set[int]
) -> None:
    """Write the path of each parameter into its leaf, except for those whose ids are in ``named``."""
    for name, parameter in children:
        if not isinstance(parameter, Parameter) or id(parameter) in named:
            continue
        named.add(id(parameter))
        name, leaf = join_path(path, name), parameter._node
        # "rnn.weight_hh_l0" keeps its whole name when model.rnn is called by itself
        if isinstance(leaf, Leaf) and leaf.name != name and not leaf.name.endswith(f".{name}"):
            leaf.name = name


def _read_array(name: str, value: Any, current: Array, problems: list[str]) -> Any:
    """A value of a state dict as an array like the current one; what is wrong goes to ``problems``."""
    try:
        array = convert(value, current, move=True)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        problems.append(f"{name} cannot be read: {error}")
        return None
    if array.shape != current.shape:
        problems.append(f"{name} has shape {tuple(array.shape)}, the module {tuple(current.shape)}")
    return array


def _not_a_mapping(given: Any) -> str:
    """Say what is wrong with a state dict that is not a mapping."""
    parts = [name for name in ("model", "state_dict") if hasattr(given, name)]
    remedy = f"; pass its .{parts[0]}" if parts else ""
    return f"{type(given).__name__} is not a mapping from names to arrays{remedy}"


def clear_gradients(parameters: Iterable[Tensor], set_to_none: bool) -> None:
    """Drop all gradients, or turn those that exist into zeros."""
    if set_to_none:
        set_grads((node_of(p), None) for p in parameters)
        return
    for p in parameters:
        p.grad = None if p.grad is None else zeros_like(p.grad)


def _array_to(array: Array, device: str | None, dtype: Any) -> Array:
    """An array on a device and in a floating dtype; the array itself if it is already."""
    if device is not None and backend.namespace(array).device(array) != device:
        array = backend.move(array, device)
    if dtype is None:
        return array
    with backend.on(array):
        cast = backend.namespace(array).astype(array, dtype)
    if not backend.namespace(cast).is_floating(cast):
        raise DTypeError(f"to: parameters of dtype {cast.dtype} cannot learn; pass a floating one")
    return cast


def _nested(name: str, value: Any) -> list[tuple[str, Parameter | Module]]:
    """Parameters and modules in an attribute and its nested lists and dicts, under dotted names."""
    if isinstance(value, (Parameter, Module)):
        return [(name, value)]
    if isinstance(value, (list, tuple)):
        items: Iterable[tuple[Any, Any]] = enumerate(value)
    elif isinstance(value, dict):
        items = value.items()
    else:
        return []
    return [child for key, item in items for child in _nested(f"{name}.{key}", item)]
