"""Module and Parameter: models as ordered trees of named parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from .. import backend
from .._calls import Told, explain_call, told, unknown_name
from .._dtypes import read_target
from .._habits import MODULE
from .._tensor import Tensor
from ..autodiff import set_grads
from ..backend import Array
from ..creation import tensor, zeros_like
from ..errors import (
    ArgumentError,
    DTypeError,
    GraphError,
    IndexOutOfRangeError,
    StateDictError,
    TinygradError,
    brief,
)
from ..host import convert
from ..memory import Memory
from ..modes import MODES, scope
from ..recording import Leaf, node_of, wrap
from .notebook import module_html


class Parameter(Tensor):
    """A tensor that a module learns: requires grad, and is found by ``Module.parameters()``.

    Parameters
    ----------
    data : array, Tensor or nested sequence
        Copied. Data of the host goes to the device of :func:`use_device`, or to ``device``.
    dtype, device
        As for :func:`tinygrad182.tensor`.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> tg.nn.Parameter([1.0, 2.0]).requires_grad
    True
    """

    __slots__ = ()

    @told
    def __init__(self, data: Any, dtype: Any = None, device: str | None = None) -> None:
        source = tensor(data, dtype=dtype, device=device, requires_grad=True)
        self._data = source._data
        self._node = source._node


_OPTIONS = frozenset((bool, int, float, str, type(None)))
"""Types of attributes that most modules have many of, and in which there is nothing to find."""


class Module(Told):
    """A part of a model: holds parameters and other modules as attributes, and a ``forward``.

    Attributes that are a Parameter or a Module, or lists, tuples or dicts of them, are found by
    themselves, in the order they were assigned; their dotted path is their name. Calling the module
    calls ``forward`` and records its path on every node made inside.

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
    """Whether the module is being trained, see :meth:`train`."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; subclasses define it."""
        raise TinygradError(f"{type(self).__name__} has no forward: define it in the class")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call ``forward``, recording this module's path on every node made inside."""
        modes = MODES.get()
        outer = modes.scope
        path, names = outer.names.get(id(self)), outer.names
        if path is None:  # the outermost module, or one that those outside do not hold
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
        except BaseException:  # as modes_kept does, but quicker
            MODES.set(modes)
            raise

    def _names(self, prefix: str) -> dict[int, str]:
        """Path of every submodule, for the nodes recorded inside; parameters learn their names too."""
        children, named = self._children(), set[int]()
        if not any([isinstance(child, Module) for _, child in children]):  # noqa: C419 - faster
            _name("", children, named)
            return {}
        names: dict[int, str] = {}
        for path, module, children in self._tree():
            if path:
                names[id(module)] = prefix + path
            _name(path, children, named)
        return names

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a Parameter gives way to another or to None only, never to a plain tensor."""
        old = vars(self).get(name)
        if isinstance(old, Parameter) and not (value is None or isinstance(value, Parameter)):
            raise ArgumentError(
                f"{type(self).__name__}.{name} is a Parameter and {type(value).__name__} is none; "
                f"write its values with .{name}.assign(values), or .{name}.data = values"
            )
        super().__setattr__(name, value)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property, which raises its own error again
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
                found += _found(name, value)
        return found

    def _tree(
        self, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module, list[tuple[str, Parameter | Module]]]]:
        """Yield every module with its dotted path and its children: once, or in every place it stands in.

        A module that is inside itself is not entered again.
        """
        pending: list[tuple[str, Module | None]] = [("", self)]
        seen: set[int] = set()
        around: list[int] = []
        while pending:
            path, module = pending.pop(0)
            if module is None:  # all of a module has been passed: it may stand elsewhere too
                seen.discard(around.pop())
                continue
            if id(module) in seen:
                continue
            seen.add(id(module))
            children = module._children()
            yield path, module, children
            inside: list[tuple[str, Module | None]] = [
                (f"{path}.{name}" if path else name, m)
                for name, m in children
                if isinstance(m, Module)
            ]
            if not remove_duplicate:
                around.append(id(module))
                inside.append((path, None))
            if inside:
                pending[:0] = inside

    def named_modules(self, remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """Yield the module itself (named ``""``) and every one inside it, with dotted paths.

        Parameters
        ----------
        remove_duplicate : bool
            Whether a module that stands in several places comes once, under the first of its paths;
            otherwise it comes under each.
        """
        for path, module, _ in self._tree(remove_duplicate):
            yield path, module

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, with its dotted path, in the order of assignment."""
        seen: set[int] = set()
        for path, _, children in self._tree():
            for name, p in children:
                if isinstance(p, Parameter) and id(p) not in seen:
                    seen.add(id(p))
                    yield (f"{path}.{name}" if path else name), p

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter once."""
        for _, parameter in self.named_parameters():
            yield parameter

    # --- state ----------------------------------------------------------------------------------

    def _own_state(self) -> dict[str, Any]:
        """Arrays of this module alone by the name they are saved under."""
        return {name: p._data for name, p in self._children() if isinstance(p, Parameter)}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        own = dict(self._children())
        for name, array in state.items():
            parameter = own[name]
            assert isinstance(parameter, Parameter)
            parameter.assign(array)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all parameters by their dotted path, under PyTorch's names.

        A module or parameter that stands in several places has a name, and a copy, for each.
        PyTorch's modules load ``{name: torch.as_tensor(v) for name, v in state_dict().items()}``.
        """
        return {
            f"{path}.{name}" if path else name: wrap(backend.copy(array))
            for path, module in self.named_modules(remove_duplicate=False)
            for name, array in module._own_state().items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Overwrite the parameters with those of a state dict; nothing is written if anything is wrong.

        Parameters
        ----------
        state_dict : mapping
            Name → Tensor, array or anything NumPy can convert, on any device: values go to the device
            of their parameter. A parameter that stands in several places has a name in each; if their
            values differ, that of the last place counts.
        strict : bool
            Whether names must be the same on both sides; otherwise only those on both are loaded. Files
            that hold each parameter once (``safetensors.torch.save_model``) need ``strict=False``.

        Raises
        ------
        StateDictError
            Names that are missing or too many, shapes that differ, values that are no real
            numbers; all are listed.
        """
        if not isinstance(state_dict, Mapping):
            raise StateDictError(
                f"load_state_dict of {type(self).__name__}: {_no_mapping(state_dict)}"
            )
        problems: list[str] = []
        plan: dict[int, tuple[Module, dict[str, Any]]] = {}  # the last place of each module counts
        known: set[str] = set()
        for path, module in self.named_modules(remove_duplicate=False):
            _, loaded = plan.pop(id(module), (module, {}))
            for name, current in module._own_state().items():
                full = f"{path}.{name}" if path else name
                known.add(full)
                if full not in state_dict:
                    problems += [f"missing {full} {tuple(current.shape)}"] if strict else []
                    continue
                try:
                    array = convert(state_dict[full], current, move=True)
                except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
                    problems.append(f"{full} cannot be read: {error}")
                    continue
                if array.shape != current.shape:
                    problems.append(
                        f"{full} has shape {tuple(array.shape)}, the module {tuple(current.shape)}"
                    )
                loaded[name] = array
            plan[id(module)] = module, loaded
        if strict:
            problems += [f"unexpected {name}" for name in state_dict if name not in known]
        if problems:
            raise StateDictError(
                f"load_state_dict of {type(self).__name__}: " + "; ".join(problems)
            )
        before = [(p, backend.copy(p._data)) for p in self.parameters()]
        try:
            for module, loaded in plan.values():
                module._load_own_state(loaded)
        except BaseException:  # also an interrupt
            for parameter, old in before:
                with suppress(GraphError):  # what cannot be written to was not
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
        """Call a function with every module inside and with the module itself, which comes last.

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
        """Freeze all parameters (False), or let them learn."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters; with ``set_to_none=False`` they become zeros."""
        clear_gradients(self.parameters(), set_to_none)

    def train(self, mode: bool = True) -> Self:
        """Set ``training`` of this module and every one inside."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """The opposite of :meth:`train`."""
        return self.train(False)

    def to(self, *target: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Move all parameters and their gradients to a device, or make them of a dtype, in place.

        Parameters
        ----------
        *target : str, dtype, Tensor or array
            A device such as ``"cuda"``, a floating dtype, both, or what has a device and a dtype to take
            over. PyTorch's dtypes and devices are read by their names.
        device, dtype
            The same by name.

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
            leaf.memory = Memory(array)  # graphs recorded before see a change
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
        """The arguments shown in the module's line of the repr."""
        return ""

    def __repr__(self) -> str:
        lines = []
        depths = {"": 0}
        for path, parent, module, own in self._placed():
            depth = depths[path] = depths[parent] + 1 if path else 0
            label = f"({path[len(parent) :].lstrip('.')}): " if path else ""
            lines.append(f"{'  ' * depth}{label}{type(module).__name__}({module.extra_repr()})")
            lines += [f"{'  ' * (depth + 1)}{n} {p.shape}" for n, p in own]
        total = sum(p.size for p in self.parameters())
        return "\n".join([f"{lines[0]}  # {total:,} parameters", *lines[1:]])

    def _placed(self) -> Iterator[tuple[str, str, Module, list[tuple[str, Parameter]]]]:
        """Yield every module with its path, that of the module it is in, and its own parameters."""
        paths = set()
        for path, module, children in self._tree():
            paths.add(path)
            parent = path
            while parent and (parent == path or parent not in paths):
                parent = parent.rpartition(".")[0]  # of "layers.0" it is "": a list is not a module
            own = [(name, p) for name, p in children if isinstance(p, Parameter)]
            yield path, parent, module, own

    def _repr_html_(self) -> str:
        """The module in a notebook: a tree that unfolds."""
        return module_html(self._placed())


def _name(path: str, children: list[tuple[str, Parameter | Module]], named: set[int]) -> None:
    """Tell parameters their names, those aside that have been told."""
    for name, parameter in children:
        if not isinstance(parameter, Parameter) or id(parameter) in named:
            continue
        named.add(id(parameter))
        name, leaf = f"{path}.{name}" if path else name, parameter._node
        # "rnn.weight_hh_l0" stays so when model.rnn is called by itself
        if isinstance(leaf, Leaf) and leaf.name != name and not leaf.name.endswith(f".{name}"):
            leaf.name = name


def _no_mapping(given: Any) -> str:
    """What is wrong with a state dict that is none."""
    parts = [name for name in ("model", "state_dict") if hasattr(given, name)]
    remedy = f"; pass its .{parts[0]}" if parts else ""
    return f"{type(given).__name__} is not a mapping from names to arrays{remedy}"


def clear_gradients(parameters: Iterable[Tensor], set_to_none: bool) -> None:
    """Drop gradients, or make those that are there zeros."""
    if set_to_none:
        set_grads((node_of(p), None) for p in parameters)
        return
    for p in parameters:
        p.grad = None if p.grad is None else zeros_like(p.grad)


def _array_to(array: Array, device: str | None, dtype: Any) -> Array:
    """An array on a device and in a floating dtype; itself where it is so already."""
    if device is not None and backend.namespace(array).device(array) != device:
        array = backend.move(array, device)
    if dtype is None:
        return array
    with backend.on(array):
        cast = backend.namespace(array).astype(array, dtype)
    if not backend.namespace(cast).is_floating(cast):
        raise DTypeError(f"to: parameters of dtype {cast.dtype} cannot learn; pass a floating one")
    return cast


def _found(name: str, value: Any) -> list[tuple[str, Parameter | Module]]:
    """What is in an attribute, under dotted names."""
    if isinstance(value, (Parameter, Module)):
        return [(name, value)]
    if isinstance(value, (list, tuple)):
        items: Iterable[tuple[Any, Any]] = enumerate(value)
    elif isinstance(value, dict):
        items = value.items()
    else:
        return []
    return [child for key, item in items for child in _found(f"{name}.{key}", item)]


def item_at(kind: str, items: list[Any], index: Any) -> Any:
    """What is at a place, or in a slice, of the list that a container keeps.

    Raises
    ------
    IndexOutOfRangeError, ArgumentError
    """
    try:
        return items[index]
    except IndexError:
        raise IndexOutOfRangeError(f"{kind}: there is no {index} among {len(items)}") from None
    except TypeError:
        raise ArgumentError(
            f"{kind}: {brief(index)} is not a place, which is a whole number"
        ) from None


class Sequential(Module):
    """Modules, and functions of tensors, applied one after the other.

    Parameters
    ----------
    *steps : Module or callable
        Such as ``tg.nn.Linear(2, 4)`` and ``tg.tanh``. They are called 0, 1, 2 …; a dict alone gives
        them names.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> model = tg.nn.Sequential(tg.nn.Linear(2, 4, rng=0), tg.tanh, tg.nn.Linear(4, 1, rng=1))
    >>> model(tg.ones((3, 2))).shape
    (3, 1)
    >>> tg.nn.Sequential({"first": tg.nn.Linear(2, 1, rng=0)}).first.weight.shape
    (1, 2)
    """

    _order: tuple[str, ...] = ()

    def __init__(self, *steps: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]]) -> None:
        first, *others = steps or ({},)
        named = first if isinstance(first, Mapping) and not others else enumerate(steps)
        for name, step in dict(named).items():
            if not callable(step):
                raise ArgumentError(
                    f"Sequential: step {name} is a {type(step).__name__}; pass modules and functions"
                )
            if hasattr(type(self), str(name)) or "." in str(name):
                raise ArgumentError(f"Sequential: a step cannot be called {name!r}; rename it")
            setattr(self, str(name), step)
            self._order += (str(name),)

    def _steps(self) -> list[Callable[[Any], Any]]:
        return [vars(self)[name] for name in self._order]

    def __len__(self) -> int:
        return len(self._steps())

    def __getitem__(self, i: Any) -> Any:
        """One step, or a Sequential of those in a slice."""
        found = item_at("Sequential", self._steps(), i)
        return Sequential(*found) if isinstance(i, slice) else found

    def forward(self, x: Any) -> Any:
        """Apply the steps in order."""
        for step in self._steps():
            x = step(x)
        return x

    def extra_repr(self) -> str:
        """The functions; the modules have lines of their own."""
        steps = zip(self._order, self._steps(), strict=True)
        functions = [(name, f) for name, f in steps if not isinstance(f, Module)]
        return ", ".join(f"{name}: {getattr(f, '__name__', repr(f))}" for name, f in functions)
