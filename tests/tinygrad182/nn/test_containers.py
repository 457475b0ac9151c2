"""ModuleList and ModuleDict: lists and dicts of modules, saved under PyTorch's names."""

from __future__ import annotations

from typing import Any

import pytest

import tinygrad182 as tg
from tests.support import assert_same_bits, host, needs_torch

nn = tg.nn


def layers(n: int = 3) -> list[Any]:
    return [nn.Linear(2, 2, rng=i) for i in range(n)]


def test_a_list_of_modules() -> None:
    items = layers()
    found = nn.ModuleList(items[:1]).append(items[1]).extend(items[2:])
    assert list(found) == items
    assert found[-1] is items[2]
    assert len(found) == 3
    assert list(found[1:]) == items[1:]
    found[0] = items[2]
    found.insert(0, items[0])
    assert list(found) == [items[0], items[2], items[1], items[2]]
    names = [name for name, _ in nn.Sequential(found, *layers(1)).named_parameters()]
    assert names[:2] == ["0.0.weight", "0.0.bias"]
    assert len(names) == 8  # a layer that is there twice is named once
    with pytest.raises(tg.ArgumentError, match="ModuleList: a function is not a Module"):
        found.append(tg.tanh)  # type: ignore[arg-type]


def test_a_dict_of_modules() -> None:
    a, b = layers(2)
    found = nn.ModuleDict({"a": a})
    found["b"] = b
    assert found["b"] is b
    assert list(found) == list(found.keys()) == ["a", "b"]
    assert list(found.values()) == [a, b]
    assert list(found.items()) == [("a", a), ("b", b)]
    assert "a" in found
    assert [name for name, _ in found.named_parameters()][::2] == ["a.weight", "b.weight"]
    del found["a"]
    assert len(found) == 1
    for name in ("", "a.b", 3):
        with pytest.raises(tg.ArgumentError, match=r"ModuleDict: the name .* without a dot"):
            found[name] = a


def test_containers_save_as_pytorchs() -> None:
    torch = needs_torch()

    class Both:
        def __init__(self, library: Any) -> None:
            self.items = library.ModuleList(
                [library.Linear(2, 2), library.LayerNorm(2), library.Dropout()]
            )
            self.named = library.ModuleDict({"head": library.Linear(2, 1)})

    class Ours(Both, nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            Both.__init__(self, nn)

    class Theirs(Both, torch.nn.Module):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            Both.__init__(self, torch.nn)

    ours, theirs = Ours(), Theirs()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert_same_bits(ours.items[0].weight, theirs.items[0].weight.detach().numpy())
    theirs.load_state_dict({k: torch.tensor(host(v)) for k, v in ours.state_dict().items()})
