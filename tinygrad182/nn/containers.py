"""Lists and dicts of modules, under PyTorch's names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import ArgumentError, UnknownPathError
from .module import Module, Parameter, item_at


class ModuleList(Module):
    """Modules in a list, which a model's own ``forward`` goes through.

    An attribute that is a plain list of modules is found as well; this one has PyTorch's name.

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
        """Return a new list, with others at the end."""
        return ModuleList(self).extend(others)

    def _children(self) -> list[tuple[str, Parameter | Module]]:
        return [(str(i), module) for i, module in enumerate(self._items)]

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end."""
        self._items.append(_checked("ModuleList", module))
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Add several at the end."""
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
        """One module, or a ModuleList of those in a slice."""
        found = item_at("ModuleList", self._items, index)
        return ModuleList(found) if isinstance(index, slice) else found

    def __setitem__(self, index: int, module: Module) -> None:
        item_at("ModuleList", self._items, index)
        self._items[index] = _checked("ModuleList", module)

    def __delitem__(self, index: Any) -> None:
        item_at("ModuleList", self._items, index)
        del self._items[index]


class ModuleDict(Module):
    """Modules by name, in the order they were put in.

    Parameters
    ----------
    modules : mapping or iterable of (str, Module)

    Raises
    ------
    ArgumentError
        A name that is not a text, is empty or has a dot; something that is not a Module.
    UnknownPathError
        A name that is read or deleted, and is not there; the message lists those that are.

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
            raise UnknownPathError(f"ModuleDict: there is no {name!r}; it holds {list(self)}")
        return self._items[name]

    def __setitem__(self, name: Any, module: Module) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError(f"ModuleDict: the name {name!r} must be a text without a dot")
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
