"""``from_state_dict``: names and shapes are enough to make the model again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_same_bits, needs_torch

CELLS: dict[str, Any] = {"rnn": tg.nn.RNN, "lstm": tg.nn.LSTM, "gru": tg.nn.GRU}
X = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float32")


class Net(tg.nn.Module):
    """A user's model, with nested parts."""

    def __init__(self, cell: Any, table: bool = False, head: bool = True, **options: Any) -> None:
        self.table = tg.nn.Embedding(7, 3, rng=2) if table else None
        self.encoder = tg.nn.Module()
        self.encoder.lstm = cell(3, 4, rng=0, **options)  # type: ignore[attr-defined]
        width = 4 * (2 if options.get("bidirectional") else 1)
        self.head = tg.nn.Linear(width, 2, rng=1, dtype=options.get("dtype")) if head else None

    def forward(self, x: Any) -> tg.Tensor:
        x = x if self.table is None else self.table(x)
        output: tg.Tensor = self.encoder.lstm(x)[0]  # type: ignore[attr-defined]
        return output if self.head is None else self.head(output)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"head": False}, {"dtype": "float64"}], ids=str
)
def test_the_same_outputs(
    cell: str, layers: int, bidirectional: bool, options: dict[str, Any]
) -> None:
    net = Net(CELLS[cell], num_layers=layers, bidirectional=bidirectional, **options)
    for given in (None, cell):
        model = tg.nn.from_state_dict(net.state_dict(), given)  # type: ignore[arg-type]
        x = tg.tensor(X, dtype=options.get("dtype", "float32"))
        assert_same_bits(model(x), net(x).numpy())
        assert type(model.layers[0]) is CELLS[cell]
        assert model.unused == {}
        assert model.state_dict().keys() == net.state_dict().keys()
        assert (model.head is None) == ("head" in options)
        assert len(model.notes) == (cell == "rnn")


def test_the_nonlinearity_is_an_argument() -> None:
    net = Net(tg.nn.RNN, nonlinearity="relu")
    model = tg.nn.from_state_dict(net.state_dict(), nonlinearity="relu")
    assert_same_bits(model(tg.tensor(X)), net(tg.tensor(X)).numpy())
    assert model.notes == ()
    (note,) = tg.nn.from_state_dict(net.state_dict()).notes
    assert "tanh is assumed" in note


def test_tokens_go_through_the_table_and_numbers_do_not() -> None:
    net = Net(tg.nn.GRU, table=True)
    model = tg.nn.from_state_dict(net.state_dict())
    tokens = tg.tensor([[0, 6], [3, 3]], dtype="int64")
    assert_same_bits(model(tokens), net(tokens).numpy())
    net.table = None
    assert_same_bits(model(tg.tensor(X)), net(tg.tensor(X)).numpy())


@pytest.mark.parametrize("order", [list, sorted, lambda names: sorted(names, reverse=True)])
def test_the_order_of_names_does_not_matter_where_shapes_decide(order: Any) -> None:
    """Files of safetensors are sorted by names."""
    net = Net(tg.nn.LSTM, table=True, num_layers=2)
    state = net.state_dict()
    model = tg.nn.from_state_dict({name: state[name] for name in order(state)})
    tokens = tg.tensor([[0, 6], [3, 3]], dtype="int64")
    assert_same_bits(model(tokens), net(tokens).numpy())
    assert not model.unused


@pytest.mark.parametrize("name", ["embed", "a", "z"])
def test_a_matrix_that_may_be_a_table_or_a_head(name: str) -> None:
    """A matrix without a bias, where both would fit: its name decides, or its place."""
    matrix = {f"{name}.weight": tg.ones((5, 4))}
    layer = {f"m.{own}": v for own, v in tg.nn.GRU(4, 4, rng=0).state_dict().items()}
    for state, before in (({**matrix, **layer}, True), ({**layer, **matrix}, False)):
        model = tg.nn.from_state_dict(state)
        assert (model.embedding is not None) == (before or name == "embed")
        assert (model.head is None) == (model.embedding is not None)


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_any_prefix(prefix: str) -> None:
    layer = tg.nn.LSTM(3, 4, rng=0)
    state = {prefix + name: value for name, value in layer.state_dict().items()}
    model = tg.nn.from_state_dict(state)
    assert_same_bits(model(tg.tensor(X)), layer(tg.tensor(X))[0].numpy())
    assert [name for name, _ in model.named_children()] == [prefix[:-1] or "lstm"]


def test_names_that_modules_have_themselves() -> None:
    """A layer may be called ``head`` or ``forward``: its name is not an attribute."""
    lstm, linear = tg.nn.LSTM(3, 4, rng=0), tg.nn.Linear(4, 1, rng=1)
    state = {f"head.{name}": value for name, value in lstm.state_dict().items()}
    state |= {f"forward.{name}": value for name, value in linear.state_dict().items()}
    model = tg.nn.from_state_dict(state)
    assert_same_bits(model(tg.tensor(X)), linear(lstm(tg.tensor(X))[0]).numpy())
    assert model.state_dict().keys() == state.keys()


def test_a_cell_is_a_layer_run_by_hand() -> None:
    cell = tg.nn.GRUCell(3, 4, rng=0)
    state = {f"cell.{name}": value for name, value in cell.state_dict().items()}
    output = tg.nn.from_state_dict(state)(tg.tensor(X))
    h = cell(tg.tensor(X[0]))
    for t in range(1, 5):
        h = cell(tg.tensor(X[t]), h)
    np.testing.assert_allclose(output[-1].numpy(), h.numpy(), rtol=1e-6)


def test_layers_of_several_names_run_one_after_the_other() -> None:
    first, second = tg.nn.GRU(3, 4, bidirectional=True, rng=0), tg.nn.LSTM(8, 2, rng=1)
    state = tg.nn.ModuleDict({"a": first, "b": second}).state_dict()
    model = tg.nn.from_state_dict(state)
    assert_same_bits(model(tg.tensor(X)), second(first(tg.tensor(X))[0])[0].numpy())


def heads(*names: str) -> dict[str, Any]:
    state = dict(Net(tg.nn.LSTM, head=False).state_dict())
    for i, name in enumerate(names):
        layer = tg.nn.Linear(4, 4 - i, rng=i)
        state |= {f"{name}.{own}": value for own, value in layer.state_dict().items()}
    return state


def test_of_several_linear_layers_the_first_or_the_one_asked_for() -> None:
    model = tg.nn.from_state_dict(heads("fc1", "fc2"))
    assert model.head is not None
    assert model.head.out_features == 4
    assert model.unused == {"fc2.weight": (3, 4), "fc2.bias": (3,)}
    (note,) = model.notes
    assert note.startswith("There are 2 linear layers; fc1 is taken for the head, the first")
    model = tg.nn.from_state_dict(heads("fc1", "fc2"), head="fc2")
    assert model.head is not None
    assert model.head.out_features == 3
    assert model.notes == ()
    model = tg.nn.from_state_dict(heads("fc1", "fc2"), head="none")
    assert model.head is None
    assert len(model.unused) == 4


def chain(**sizes: tuple[int, int]) -> dict[str, Any]:
    """A state dict in the order of the names given: linear layers, and an LSTM called ``lstm``."""
    state: dict[str, Any] = {}
    for name, (inputs, outputs) in sizes.items():
        kind = tg.nn.LSTM if name == "lstm" else tg.nn.Linear
        layer = kind(inputs, outputs, rng=len(state))
        state |= {f"{name}.{own}": value for own, value in layer.state_dict().items()}
    return state


@pytest.mark.parametrize("sizes", [(3, 5), (5, 5), (7, 5)])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_linear_layer_in_front_is_run(sizes: tuple[int, int], by_name: bool) -> None:
    """In files of safetensors names are sorted, so a place says nothing there."""
    state = chain(up=sizes, lstm=(5, 4), down=(4, 2))
    up, lstm, down = tg.nn.Linear(*sizes), tg.nn.LSTM(5, 4), tg.nn.Linear(4, 2)
    tg.nn.ModuleDict({"up": up, "lstm": lstm, "down": down}).load_state_dict(state)
    x = tg.tensor(np.random.default_rng(1).normal(size=(6, 2, sizes[0])), dtype="float32")
    expected = down(lstm(up(x))[0])
    state = dict(sorted(state.items())) if by_name else state
    asked = "up" if by_name and sizes == (5, 5) else None
    model = tg.nn.from_state_dict(state, front=asked)
    assert_same_bits(model(x), expected.numpy())
    assert model.front is not None
    assert model.front.in_features == sizes[0]
    assert model.head is not None
    assert not model.unused
    assert ["up is taken" in note for note in model.notes] == [True] * (not asked)
    bare = tg.nn.from_state_dict(state, front="none")
    assert bare.front is None
    assert bare.head is not None
    assert list(bare.unused) == [name for name in state if name.startswith("up")]


NOT_IN_FRONT: dict[str, dict[str, tuple[int, int]]] = {
    "the head stands first": {"fc": (4, 5), "lstm": (5, 4)},
    "the only one is the head of a single series": {"fc": (4, 1), "lstm": (1, 4)},
    "a head of two": {"lstm": (1, 4), "head_0": (4, 8), "head_1": (8, 1)},
}


@pytest.mark.parametrize("name", NOT_IN_FRONT)
@pytest.mark.parametrize("by_name", [False, True])
def test_heads_are_not_taken_for_a_front(name: str, by_name: bool) -> None:
    state = chain(**NOT_IN_FRONT[name])
    model = tg.nn.from_state_dict(dict(sorted(state.items())) if by_name else state)
    assert model.front is None
    assert model.head is not None
    assert model.head.in_features == 4


def test_a_linear_layer_behind_is_the_head_rather_than_one_before() -> None:
    model = tg.nn.from_state_dict(chain(aside=(4, 7), lstm=(3, 4), out=(4, 2)))
    assert model.head is not None
    assert model.head.out_features == 2
    assert list(model.unused) == ["aside.weight", "aside.bias"]


def test_a_small_layer_without_a_bias_behind_is_not_a_table_of_tokens() -> None:
    state = chain(lstm=(3, 4), fc1=(4, 3), fc2=(3, 1))
    model = tg.nn.from_state_dict(
        {n: v for n, v in state.items() if n not in ("fc1.bias", "fc2.bias")}
    )
    assert model.embedding is None
    assert list(model.unused) == ["fc2.weight"]


DOUBTFUL: dict[str, tuple[dict[str, Any], str]] = {
    "two before": (
        chain(enc0=(3, 8), enc2=(8, 5), lstm=(5, 4), out=(4, 1)),
        "enc0, enc2 may.*'enc2'",
    ),
    "two before, by names": (
        dict(sorted(chain(e0=(3, 8), e2=(8, 5), lstm=(5, 4), out=(4, 1)).items())),
        "e0, e2 may",
    ),
    "a square one, by names": (
        dict(sorted(chain(up=(5, 5), lstm=(5, 4), down=(4, 2)).items())),
        "up may; pass front='up'; or pass front='none'",
    ),
    "a square one that may be a table": (
        {"up.weight": tg.ones((5, 5)), **chain(lstm=(5, 4), out=(4, 1))},
        "up may",
    ),
    "a head that is as well a front": (chain(fc=(4, 4), lstm=(4, 4)), "fc may"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_a_front_that_nothing_decides_is_asked_for(name: str) -> None:
    state, message = DOUBTFUL[name]
    with pytest.raises(tg.ArgumentError, match=message):
        tg.nn.from_state_dict(state)
    assert tg.nn.from_state_dict(state, front="none").front is None
    with pytest.raises(tg.ArgumentError, match=r"'lstm' is not the prefix.*returns the . numbers"):
        tg.nn.from_state_dict(state, front="lstm")


def test_tokens_then_a_front() -> None:
    table, rest = {"emb.weight": tg.ones((9, 3))}, chain(up=(3, 5), lstm=(5, 4))
    model = tg.nn.from_state_dict({**table, **rest})
    assert model.embedding is not None
    assert model.front is not None
    assert model(tg.tensor([[1], [8]], dtype="int64")).shape == (2, 1, 4)


def test_a_layer_before_that_is_not_run_is_named() -> None:
    state = {"conv.weight": tg.ones((3, 2, 5)), **chain(lstm=(3, 4))}
    (note,) = tg.nn.from_state_dict(state).notes
    assert note.startswith(
        "Not run, though it comes before the recurrent layers in the file: conv.weight."
    )


def test_what_is_not_known_is_listed() -> None:
    state = {**heads("fc"), "scale.mean": tg.ones(3), "conv.weight": tg.ones((1, 2, 3))}
    model = tg.nn.from_state_dict({"seen": tg.tensor(3), **state})
    assert model.unused == {"seen": (), "scale.mean": (3,), "conv.weight": (1, 2, 3)}


STATE = dict(tg.nn.LSTM(3, 4, 2, bidirectional=True, rng=0).state_dict())


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in STATE.items() if key != name}


ERRORS: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "another kind": (
        STATE,
        {"cell": "gru"},
        tg.ArgumentError,
        r"'gru'.*weight_hh_l0.*\(16, 4\): 4·4 rows",
    ),
    "no kind": (STATE, {"cell": "LSTM"}, tg.ArgumentError, "'LSTM' is not one of rnn, gru, lstm"),
    "no names": ({}, {}, tg.StateDictError, "no recurrent layer.*no names at all"),
    "no layer": ({"fc.weight": tg.ones((2, 2))}, {}, tg.StateDictError, r"there are fc\.weight$"),
    "no mapping": (3, {}, tg.StateDictError, r"3 is not a mapping.*tg\.load\(path\)\.model"),
    "a bias is missing": (without("bias_hh_l1"), {}, tg.StateDictError, "missing bias_hh_l1"),
    "W_hh is missing": (without("weight_hh_l0"), {}, tg.StateDictError, "no weight_hh_l0$"),
    "W_ih is missing": (without("weight_ih_l0"), {}, tg.StateDictError, "no weight_ih_l0$"),
    "a direction is missing": (
        without("weight_ih_l0_reverse"),
        {},
        tg.StateDictError,
        "missing weight_ih_l0_reverse",
    ),
    "a layer between": (
        {**STATE, "weight_ih_l3": tg.ones((16, 4))},
        {},
        tg.StateDictError,
        "no weight_hh_l2",
    ),
    "a layer far above": (
        {**STATE, "weight_ih_l999999": tg.ones((16, 4))},
        {},
        tg.StateDictError,
        "no weight_hh_l2",
    ),
    "a shape": (
        {**STATE, "bias_ih_l0": tg.ones(15)},
        {},
        tg.StateDictError,
        r"bias_ih_l0 has shape \(15,\)",
    ),
    "a vector": ({**STATE, "weight_hh_l0": tg.ones(16)}, {}, tg.StateDictError, "must be a matrix"),
    "five gates": (
        {"a.weight_hh_l0": tg.ones((10, 2)), "a.weight_ih_l0": tg.ones((10, 1))},
        {},
        tg.StateDictError,
        r"a\.weight_hh_l0 has shape \(10, 2\); it must be \(4H, H\) of an LSTM",
    ),
    "a weight in parts": (
        {**without("weight_hh_l0"), "weight_hh_l0_g": tg.ones(3), "weight_hh_l0_v": tg.ones(3)},
        {},
        tg.StateDictError,
        "no weight_hh_l0; weight_hh_l0_g, weight_hh_l0_v are parts of it: remove weight_norm",
    ),
    "names that steer a terminal": ({"\x1b[31m": tg.ones(2)}, {}, tg.StateDictError, r"\\x1b\[31m"),
    "a projection": (
        {**STATE, "weight_hr_l0": tg.ones((2, 4))},
        {},
        tg.StateDictError,
        "weight_hr_l0 belongs to an LSTM with proj_size",
    ),
    "two that do not fit": (
        tg.nn.ModuleDict({"a": tg.nn.GRU(3, 4, rng=0), "b": tg.nn.GRU(3, 4, rng=0)}).state_dict(),
        {},
        tg.StateDictError,
        "b reads 3 numbers a step, but a before it returns 4.*startswith",
    ),
    "no such head": (
        heads("fc"),
        {"head": "out"},
        tg.ArgumentError,
        "'out' is not the prefix.*'fc'",
    ),
    "a head that does not fit": (
        {**STATE, "fc.weight": tg.ones((1, 4))},
        {"head": "fc"},
        tg.ArgumentError,
        "reads the 8 numbers of the last layer; there are 'fc'",
    ),
    "a text": ({**STATE, "extra": "x"}, {}, tg.StateDictError, "extra cannot be read: tensor: "),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_key(name: str) -> None:
    state, options, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        tg.nn.from_state_dict(state, **options)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_state_dicts_of_pytorch(kind: str) -> None:
    torch = needs_torch()
    module = getattr(torch.nn, kind)(3, 4, 2, bidirectional=True).double()
    model = tg.nn.from_state_dict(module.state_dict())
    x = X.astype("float64")
    expected = module(torch.tensor(x))[0].detach().numpy()
    np.testing.assert_allclose(model(tg.tensor(x)).numpy(), expected, rtol=0, atol=1e-12)
