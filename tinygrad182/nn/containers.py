"""Modules that hold other modules: Sequential calls them one after the other; a list and a dict hold them.

The names and methods are PyTorch's. :mod:`.module` says how modules inside an attribute are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..errors import ArgumentError, IndexOutOfRangeError, UnknownPathError, brief
from .module import Module, Parameter


class Sequential(Module):
    """Modules and functions of tensors, applied one after the other.

    Parameters
    ----------
    *steps : Module or callable
        Such as ``tg.nn.Linear(2, 4)`` and ``tg.tanh``. Their names are 0, 1, 2 …; pass one dict instead
        to choose the names.

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
                raise ArgumentError(f"Sequential: a step cannot have the name {name!r}; rename it")
            setattr(self, str(name), step)
            self._order += (str(name),)

    def _steps(self) -> list[Callable[[Any], Any]]:
        return [vars(self)[name] for name in self._order]

    def __len__(self) -> int:
        return len(self._steps())

    def __getitem__(self, i: Any) -> Any:
        """Return one step, or a Sequential of the steps in a slice."""
        found = _item_at("Sequential", self._steps(), i)
        return Sequential(*found) if isinstance(i, slice) else found

    def forward(self, x: Any) -> Any:
        """Apply the steps in order."""
        for step in self._steps():
            x = step(x)
        return x

    def extra_repr(self) -> str:
        """Return the functions; the modules have lines of their own in the repr."""
        steps = zip(self._order, self._steps(), strict=True)
        functions = [(name, f) for name, f in steps if not isinstance(f, Module)]
        return ", ".join(f"{name}: {getattr(f, '__name__', repr(f))}" for name, f in functions)


class ModuleList(Module):
    """Modules in a list, which the ``forward`` of a model loops over.

    A plain list of modules as an attribute works as well; this class has PyTorch's name and methods.

    Parameters
    ----------
    modules : iterable of Module

    Raises
    ------
    ArgumentError
        Something that is not a Module.
    IndexOutOfRangeError
        An index beyond the list.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> layers = tg.nn.ModuleList(tg.nn.Linear(2, 2, rng=i) for i in range(3))
    >>> len(layers), [name for name, _ in layers.named_parameters()][:2]
    (3, ['0.weight', '0.bias'])
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self._items: list[Module] = []
        self.extend(modules)

    def __add__(self, others: Iterable[Module]) -> ModuleList:
        """Return a new list with others at the end."""
        return ModuleList(self).extend(others)

    def _children(self) -> list[tuple[str, Parameter | Module]]:
        return [(str(i), module) for i, module in enumerate(self._items)]

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end."""
        self._items.append(_checked("ModuleList", module))
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Add several modules at the end."""
        if not isinstance(modules, Iterable):
            raise ArgumentError(
                f"ModuleList: a {type(modules).__name__} is not a list of modules; pass [module, ...]"
            )
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> None:
        """Put a module before the one at ``index``."""
        self._items.insert(index, _checked("ModuleList", module))

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._items)

    def __getitem__(self, index: Any) -> Any:
        """Return one module, or a ModuleList of the modules in a slice."""
        found = _item_at("ModuleList", self._items, index)
        return ModuleList(found) if isinstance(index, slice) else found

    def __setitem__(self, index: int, module: Module) -> None:
        _item_at("ModuleList", self._items, index)
        self._items[index] = _checked("ModuleList", module)

    def __delitem__(self, index: Any) -> None:
        _item_at("ModuleList", self._items, index)
        del self._items[index]


class ModuleDict(Module):
    """Modules by name, in the order in which they were added.

    Parameters
    ----------
    modules : mapping or iterable of (str, Module)

    Raises
    ------
    ArgumentError
        A name is not a string, is empty or has a dot, or an item is not a Module.
    UnknownPathError
        A name that is read or deleted does not exist; the message lists those that do.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> heads = tg.nn.ModuleDict({"mean": tg.nn.Linear(2, 1, rng=0)})
    >>> heads["mean"](tg.ones((3, 2))).shape
    (3, 1)
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        self._items: dict[str, Module] = {}
        for name, module in dict(modules).items():
            self[name] = module

    def _children(self) -> list[tuple[str, Parameter | Module]]:
        return list(self._items.items())

    def __getitem__(self, name: str) -> Module:
        if name not in self:
            raise UnknownPathError(f"ModuleDict: there is no {name!r}; it has {list(self)}")
        return self._items[name]

    def __setitem__(self, name: Any, module: Module) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError(f"ModuleDict: the name {name!r} must be a string without a dot")
        self._items[name] = _checked("ModuleDict", module)

    def __delitem__(self, name: str) -> None:
        self[name]
        del self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._items.keys()

    def values(self) -> Iterable[Module]:
        """The modules."""
        return self._items.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """The names and the modules."""
        return self._items.items()


def _checked(kind: str, module: Any) -> Module:
    if not isinstance(module, Module):
        raise ArgumentError(
            f"{kind}: a {type(module).__name__} is not a Module; "
            "tg.nn.Sequential takes functions of tensors too"
        )
    return module


def _item_at(kind: str, items: list[Any], index: Any) -> Any:
    """Return the item at an index, or the items in a slice, of a container."""
    try:
        return items[index]
    except IndexError:
        raise IndexOutOfRangeError(f"{kind}: there is no item {index} among {len(items)}") from None
    except TypeError:
        raise ArgumentError(
            f"{kind}: index {brief(index)} must be a whole number or a slice"
        ) from None
