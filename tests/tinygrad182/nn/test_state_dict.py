"""State dicts: PyTorch's names both ways, all or nothing, every problem named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, assert_close, assert_same_bits, const, needs_torch, write


class Model(tg.nn.Module):
    def __init__(self, rng: int = 0, hidden: int = 3) -> None:
        self.rnn = tg.nn.RNN(2, hidden, 2, rng=rng)
        self.head = tg.nn.Linear(hidden, 1, rng=rng)

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        return self.head(self.rnn(x)[0])


NAMES = [
    *(
        f"rnn.{kind}_l{k}"
        for k in (0, 1)
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ),
    "head.weight",
    "head.bias",
]


def snapshot(model: tg.nn.Module) -> list[bytes]:
    return [p.numpy().tobytes() for p in model.parameters()]


def arrays(model: tg.nn.Module) -> dict[str, Array]:
    return {name: np.array(value.numpy()) for name, value in model.state_dict().items()}


def test_names_and_order() -> None:
    assert list(Model().state_dict()) == NAMES


def test_values_are_copies_without_a_graph() -> None:
    model = Model()
    state = model.state_dict()
    before = snapshot(model)
    for value in state.values():
        assert not value.requires_grad
        write(value, 7.0)
    assert snapshot(model) == before
    state = model.state_dict()
    write(model.head.weight, 5.0)
    assert not (state["head.weight"].numpy() == 5.0).any()


def test_loading_gives_the_same_model() -> None:
    source, target = Model(1), Model(2)
    target.load_state_dict(source.state_dict())
    assert snapshot(target) == snapshot(source)
    x = tg.ones((4, 2, 2))
    assert_same_bits(target(x), source(x).numpy())
    write(source.head.weight, 0.0)  # no memory is shared
    assert (target.head.weight.numpy() != 0).all()


def test_loading_writes_into_the_same_parameters() -> None:
    """An optimizer that holds them goes on working."""
    model = Model(1)
    before = list(model.parameters())
    model.load_state_dict(Model(2).state_dict())
    assert all(a is b for a, b in zip(model.parameters(), before, strict=True))


def test_the_two_biases_are_added_up() -> None:
    cell = tg.nn.RNNCell(1, 2, rng=0)
    state = arrays(cell)
    assert_same_bits(state["bias_hh"], np.zeros(2, np.float32))
    state["bias_ih"], state["bias_hh"] = np.float32([1, 2]), np.float32([10, 20])
    cell.load_state_dict(state)
    assert_same_bits(cell.bias_ih, np.float32([11, 22]))


def test_half_a_pair_leaves_the_other_half_as_it_was() -> None:
    cell = tg.nn.RNNCell(1, 2, rng=0)
    write(cell.bias_ih, 5.0)
    cell.load_state_dict({"bias_hh": [1.0, 2.0]}, strict=False)
    assert_same_bits(cell.bias_ih, np.float32([6, 7]))
    cell.load_state_dict({"bias_ih": [1.0, 2.0]}, strict=False)
    assert_same_bits(cell.bias_ih, np.float32([1, 2]))


def test_values_are_cast_to_the_parameters_dtype() -> None:
    model = Model()
    model.load_state_dict({n: a.astype("float64") for n, a in arrays(model).items()})
    assert all(p.dtype == np.float32 for p in model.parameters())


def shared(rng: int = 0) -> tg.nn.Sequential:
    """A layer in two places, in a list and in a dict, and a weight that two layers share."""
    layer, head = tg.nn.LSTM(2, 2, rng=rng), tg.nn.Linear(2, 8, rng=rng)
    head.weight = layer.weight_ih_l0
    return tg.nn.Sequential(tg.nn.ModuleList([layer]), tg.nn.ModuleDict({"a": layer, "b": head}))


LSTM = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
SHARED = [f"{place}.{name}" for place in ("0.0", "1.a") for name in LSTM]
SHARED += ["1.b.weight", "1.b.bias"]


def test_every_place_of_a_module_and_of_a_parameter_has_a_name() -> None:
    linear = tg.nn.Linear(2, 2, rng=0)
    twice = tg.nn.Sequential(linear, linear)
    assert list(twice.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    source, target = shared(1), shared(2)
    state = source.state_dict()
    assert list(state) == SHARED
    write(state["0.0.weight_ih_l0"], 7.0)  # a copy for each name
    assert_same_bits(state["1.a.weight_ih_l0"], state["1.b.weight"].numpy())
    target.load_state_dict(source.state_dict())
    assert snapshot(target) == snapshot(source)
    assert len(list(target.parameters())) == 4
    tg.optim.SGD(target.parameters(), 0.1)  # which refuses a parameter given twice


def test_all_names_of_a_parameter_are_needed() -> None:
    model, state = shared(), shared(1).state_dict()
    del state["1.b.weight"], state["0.0.bias_hh_l0"]
    message = r"missing 0\.0\.bias_hh_l0 \(8,\); missing 1\.b\.weight \(8, 2\)$"
    with pytest.raises(tg.StateDictError, match=message):
        model.load_state_dict(state)
    model.load_state_dict(state, strict=False)
    assert snapshot(model) == snapshot(shared(1))


def test_the_last_place_counts_where_values_differ() -> None:
    """In the module's order, as in PyTorch, whatever the order of the state dict."""
    layer, tied = tg.nn.Linear(2, 2, rng=0), tg.nn.Linear(2, 2, rng=0)
    tied.weight = layer.weight
    model = tg.nn.Sequential(layer, tied, layer)
    state = {name: np.full(value.shape, i) for i, (name, value) in enumerate(arrays(model).items())}
    for given in (state, dict(reversed(state.items()))):
        model.load_state_dict(given)
        found = {name: value.ravel()[0] for name, value in arrays(model).items()}
        assert list(found.values()) == [4, 5, 4, 3, 4, 5]


def test_halves_of_a_pair_may_come_from_two_places() -> None:
    cell = tg.nn.RNNCell(1, 2, rng=0)
    model = tg.nn.ModuleList([cell, cell])
    write(cell.bias_ih, 5.0)
    model.load_state_dict({"0.bias_hh": [1.0, 2.0], "1.bias_hh": [1.0, 2.0]}, strict=False)
    assert_same_bits(cell.bias_ih, np.float32([6, 7]))
    model.load_state_dict({"0.bias_hh": [1.0, 2.0], "1.bias_ih": [1.0, 1.0]}, strict=False)
    assert_same_bits(cell.bias_ih, np.float32([2, 3]))


BROKEN: dict[str, tuple[Any, list[str]]] = {
    "missing": (lambda s: s.pop("head.bias"), ["missing head.bias (1,)"]),
    "unexpected": (lambda s: s.update(extra=np.ones(1)), ["unexpected extra"]),
    "shape": (
        lambda s: s.update({"head.weight": np.ones((1, 4))}),
        ["head.weight has shape (1, 4), the module (1, 3)"],
    ),
    "first and last": (
        lambda s: (s.update({"rnn.bias_hh_l0": np.ones(9)}), s.pop("head.bias"), s.update(a=0)),
        ["rnn.bias_hh_l0 has shape (9,)", "missing head.bias", "unexpected a"],
    ),
    "text": (lambda s: s.update({"head.bias": ["a"]}), ["head.bias cannot be read"]),
    "ragged": (
        lambda s: s.update({"head.bias": [[1.0], [1.0, 2.0]]}),
        ["head.bias cannot be read"],
    ),
    "complex": (lambda s: s.update({"head.bias": np.ones(1) + 1j}), ["head.bias", "complex"]),
    "nothing": (lambda s: s.update({"head.bias": None}), ["head.bias"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_nothing_is_written_if_anything_is_wrong(name: str) -> None:
    breaks, messages = BROKEN[name]
    model = Model(1)
    before = snapshot(model)
    state = {n: a + 1 for n, a in arrays(Model(2)).items()}
    breaks(state)
    with pytest.raises(tg.StateDictError) as caught:
        model.load_state_dict(state)
    assert isinstance(caught.value, KeyError)
    for message in ["load_state_dict of Model", *messages]:
        assert message in str(caught.value)
    assert snapshot(model) == before


def test_not_strict_loads_the_names_on_both_sides() -> None:
    model, other = Model(1), arrays(Model(2))
    kept = arrays(model)
    partial = {n: a for n, a in other.items() if n.startswith("rnn")} | {"extra": np.ones(3)}
    model.load_state_dict(partial, strict=False)
    loaded = arrays(model)
    for name in NAMES:
        assert_same_bits(loaded[name], (other if name.startswith("rnn") else kept)[name], name)


def test_shapes_are_checked_when_not_strict() -> None:
    model = Model(1)
    before = snapshot(model)
    with pytest.raises(tg.StateDictError, match=r"head\.weight has shape"):
        model.load_state_dict({**arrays(model), "head.weight": np.ones((2, 2))}, strict=False)
    assert snapshot(model) == before


def test_something_else_than_a_mapping() -> None:
    with pytest.raises(tg.StateDictError, match="list is not a mapping"):
        Model().load_state_dict([1, 2])  # type: ignore[arg-type]


def test_a_graph_recorded_before_loading_refuses_backward() -> None:
    model = Model()
    loss = model(tg.ones((3, 1, 2))).sum()
    model.load_state_dict(Model(5).state_dict())
    with pytest.raises(tg.InPlaceError, match="changed in place"):
        loss.backward()


def test_to_and_from_pytorch() -> None:
    torch = needs_torch()

    class Theirs(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.rnn = torch.nn.RNN(2, 3, 2)
            self.head = torch.nn.Linear(3, 1)

        def forward(self, x: Any) -> Any:
            return self.head(self.rnn(x)[0])

    x = np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32)
    theirs, ours = Theirs(), Model()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_close(ours(const(x)), theirs(torch.tensor(x)).detach().numpy(), 1e-6)
    back = Theirs()
    back.load_state_dict({n: torch.tensor(a) for n, a in arrays(ours).items()}, strict=True)
    assert_close(back(torch.tensor(x)).detach().numpy(), ours(const(x)).numpy(), 1e-6)
    assert list(theirs.state_dict()) == NAMES


def test_pytorch_parameters_that_require_grad_are_refused_by_name() -> None:
    torch = needs_torch()
    theirs = torch.nn.Linear(2, 1)
    ours = tg.nn.Linear(2, 1, rng=0)
    before = snapshot(ours)
    with pytest.raises(
        tg.StateDictError, match=r"weight cannot be read.*detach\(\).*; bias cannot"
    ):
        ours.load_state_dict(dict(theirs.named_parameters()))
    assert snapshot(ours) == before


def test_pytorch_weights_keep_their_bits_where_one_bias_is_zero() -> None:
    torch = needs_torch()
    theirs = torch.nn.RNN(2, 3)
    with torch.no_grad():
        theirs.bias_hh_l0.zero_()
    ours = tg.nn.RNN(2, 3)
    ours.load_state_dict(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert_same_bits(ours.state_dict()[name], value.numpy(), name)
