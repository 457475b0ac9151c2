"""``from_torch``: the same outputs and gradients, from copies of the weights."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles.torch_layers import (
    assert_equal_gradients,
    assert_equal_results,
    backward,
    initial_states,
    pair,
)
from tests.support import assert_close, assert_same_bits, draw, needs_torch, write

torch = needs_torch()
nn = torch.nn
TOLERANCES = {"float32": 1e-5, "float64": 1e-12}

MODULES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "RNN": (lambda: nn.RNN(2, 3), (6, 4, 2)),
    "RNN relu": (lambda: nn.RNN(2, 3, 2, nonlinearity="relu"), (6, 4, 2)),
    "RNN batch first": (lambda: nn.RNN(2, 3, batch_first=True), (4, 6, 2)),
    "RNN without bias": (lambda: nn.RNN(2, 3, 2, bias=False), (6, 4, 2)),
    "LSTM": (lambda: nn.LSTM(2, 3), (6, 4, 2)),
    "LSTM of three layers": (lambda: nn.LSTM(2, 3, 3, batch_first=True), (4, 6, 2)),
    "LSTM without bias": (lambda: nn.LSTM(2, 3, bias=False), (6, 4, 2)),
    "GRU": (lambda: nn.GRU(2, 3), (6, 4, 2)),
    "GRU of three layers": (lambda: nn.GRU(2, 3, 3, batch_first=True), (4, 6, 2)),
    "GRU without bias": (lambda: nn.GRU(2, 3, bias=False), (6, 4, 2)),
    "RNN in both directions": (lambda: nn.RNN(2, 3, bidirectional=True), (6, 4, 2)),
    "LSTM in both directions": (lambda: nn.LSTM(2, 3, 2, bidirectional=True), (6, 4, 2)),
    "GRU in both directions": (lambda: nn.GRU(2, 3, 2, bidirectional=True), (6, 4, 2)),
    "LSTM with dropout in eval": (lambda: nn.LSTM(2, 3, 2, dropout=0.5).eval(), (6, 4, 2)),
    "GRU with dropout of all": (
        lambda: nn.GRU(2, 3, 2, dropout=1.0, bidirectional=True),
        (6, 4, 2),
    ),
    "one sequence": (lambda: nn.LSTM(2, 3, 2), (6, 2)),
    "RNNCell": (lambda: nn.RNNCell(2, 3), (4, 2)),
    "RNNCell relu": (lambda: nn.RNNCell(2, 3, bias=False, nonlinearity="relu"), (4, 2)),
    "LSTMCell": (lambda: nn.LSTMCell(2, 3), (4, 2)),
    "LSTMCell without bias": (lambda: nn.LSTMCell(2, 3, bias=False), (4, 2)),
    "GRUCell": (lambda: nn.GRUCell(2, 3), (4, 2)),
    "GRUCell without bias": (lambda: nn.GRUCell(2, 3, bias=False), (4, 2)),
    "Linear": (lambda: nn.Linear(2, 3), (5, 4, 2)),
    "Linear without bias": (lambda: nn.Linear(2, 3, bias=False), (4, 2)),
    "LayerNorm": (lambda: nn.LayerNorm((4, 2), eps=1e-3), (5, 4, 2)),
    "LayerNorm without bias": (lambda: nn.LayerNorm(2, eps=0.1, bias=False), (4, 2)),
}


def made(name: str, dtype: str = "float32") -> tuple[Any, tuple[int, ...]]:
    """PyTorch's module with the values it starts with, the same ones every time."""
    make, shape = MODULES[name]
    torch.manual_seed(5)
    return make().to(getattr(torch, dtype)), shape


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_same_outputs_and_gradients(name: str, dtype: str) -> None:
    theirs, shape = made(name, dtype)
    ours = tg.nn.from_torch(theirs)
    kind = type(theirs).__name__
    assert type(ours) is getattr(tg.nn, kind)
    assert {p.dtype for p in ours.parameters()} == {np.dtype(dtype)}
    x_1, x_2 = pair(draw(0, shape)[0].astype(dtype))
    arguments, leaves = [[x_1], [x_2]], [(x_1, x_2)]
    if kind not in ("Linear", "LayerNorm"):
        layers = [] if "Cell" in kind else [theirs.num_layers * (1 + theirs.bidirectional)]
        batch = [4] if "Cell" in kind or len(shape) == 3 else []
        state_1, state_2, more = initial_states(kind, 0, *layers, *batch, 3, dtype=dtype)
        arguments = [[x_1, state_1], [x_2, state_2]]
        leaves += more
    results = [f(*a) for f, a in zip((ours, theirs), arguments, strict=True)]
    assert_equal_results(*results, TOLERANCES[dtype])
    backward(*results, seed=2)
    assert_equal_gradients(ours, theirs, TOLERANCES[dtype], dense="of all" not in name)
    for a, b in leaves:
        assert_close(a.grad, b.grad.numpy(), TOLERANCES[dtype], "an input")
        assert a.grad.dtype == np.dtype(dtype)


@pytest.mark.parametrize("name", MODULES)
def test_weights_are_copies(name: str) -> None:
    theirs, _ = made(name)
    before = {n: p.detach().numpy().copy() for n, p in theirs.named_parameters()}
    ours = tg.nn.from_torch(theirs)
    for n, p in theirs.named_parameters():  # it is left as it was
        assert_same_bits(p.detach().numpy(), before[n], n)
        assert p.requires_grad
        assert p.grad is None
    kept = [p.numpy().copy() for p in ours.parameters()]
    with torch.no_grad():
        for p in theirs.parameters():
            p.fill_(7.0)
    for p, values in zip(ours.parameters(), kept, strict=True):
        assert_same_bits(p, values)
        write(p, 3.0)
    assert all(bool((p == 7.0).all()) for p in theirs.parameters())


def test_the_sum_of_two_biases() -> None:
    theirs, _ = made("LSTM")
    ours = tg.nn.from_torch(theirs)
    first, second = theirs.bias_ih_l0.detach().numpy(), theirs.bias_hh_l0.detach().numpy()
    assert (first != 0).all()
    assert (second != 0).all()
    assert_same_bits(ours.bias_ih_l0, first + second)


def test_frozen_weights_and_half_precision() -> None:
    theirs = nn.Linear(2, 3).half().requires_grad_(False)
    ours = tg.nn.from_torch(theirs)
    assert_same_bits(ours.weight, theirs.weight.numpy())
    assert not any(p.requires_grad for p in ours.parameters())


@pytest.mark.parametrize("name", MODULES)
def test_frozen_parameters_stay_frozen(name: str) -> None:
    """Each one stays frozen; our sum of two biases is frozen if both are."""
    theirs, _ = made(name)
    for frozen in dict(theirs.named_parameters()):
        for n, p in theirs.named_parameters():
            p.requires_grad_(n != frozen)
        ours = dict(tg.nn.from_torch(theirs).named_parameters())
        still = {n for n, p in ours.items() if not p.requires_grad}
        assert still == (
            {frozen}
            if "bias" not in frozen or name.startswith(("Linear", "LayerNorm", "GRU"))
            else set()
        )
    for n, p in theirs.named_parameters():
        p.requires_grad_("bias" not in n)
    for n, p in tg.nn.from_torch(theirs).named_parameters():
        assert p.requires_grad == ("bias" not in n)


@pytest.mark.parametrize("name", MODULES)
def test_the_way_back(name: str) -> None:
    theirs, shape = made(name, "float64")
    (x,) = draw(0, shape)
    expected = theirs(torch.tensor(x))
    state = tg.nn.from_torch(theirs).state_dict()
    with torch.no_grad():
        for p in theirs.parameters():
            p.zero_()
    theirs.load_state_dict({n: torch.as_tensor(value) for n, value in state.items()})
    assert_equal_results(tg.nn.from_torch(theirs)(tg.tensor(x)), expected)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2)])
@pytest.mark.parametrize("convert", ["tensor", "as_tensor", "asarray", "from_dlpack"])
def test_our_tensors_as_theirs(shape: tuple[int, ...], convert: str) -> None:
    ours = tg.tensor(np.arange(6.0)[: int(np.prod(shape))].reshape(shape))
    theirs = getattr(torch, convert)(ours)
    assert theirs.dtype == torch.float64
    assert_same_bits(theirs.numpy(), ours.numpy())
    theirs.fill_(7.0)  # a copy: results are read-only, and graphs keep what they read
    assert 7.0 not in ours.numpy()
    assert_same_bits(np.from_dlpack(ours), ours.numpy())
    with pytest.raises(tg.GraphError, match=r"graph.*x\.detach"):
        getattr(torch, convert)(tg.ones(shape, requires_grad=True))


class Named(nn.LSTM):  # type: ignore[misc, name-defined]
    """PyTorch's layer with a name and an attribute of its own."""

    unit = "seconds"


def test_a_subclass_that_inherits_its_forward() -> None:
    theirs = Named(2, 3, 2).double()
    ours = tg.nn.from_torch(theirs)
    assert type(ours) is tg.nn.LSTM
    (x,) = draw(1, (5, 4, 2))
    assert_equal_results(ours(tg.tensor(x)), theirs(torch.tensor(x)))


class Subclass(nn.LSTM):  # type: ignore[misc, name-defined]
    """Its forward may do anything."""

    def forward(self, x: Any) -> Any:
        return super().forward(x * 2)


class Grandchild(Subclass):
    """It inherits a forward, but not PyTorch's."""


def patched() -> Any:
    module = nn.Linear(2, 3)
    module.forward = lambda x: x
    return module


def pruned() -> Any:
    prune = importlib.import_module("torch.nn.utils.prune")
    return prune.identity(nn.Linear(2, 3), "weight")


def hooked() -> Any:
    """A layer with a hook that doubles its outputs."""
    layer = nn.Linear(2, 3)
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return nn.Sequential(nn.Tanh(), layer)


class Net(nn.Module):  # type: ignore[misc, name-defined]
    """A program of its own, with layers that can be converted and one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3)
        self.convolution = nn.Conv1d(1, 1, 1)
        self.heads = nn.ModuleList([nn.Linear(3, 1)])

    def forward(self, x: Any) -> Any:
        return self.heads[0](self.lstm(x)[0])


class GRU(tg.nn.Module):
    """A name of PyTorch's, but not its module."""


OURS = "that of Linear, RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell, Embedding"
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "proj_size": (
        lambda: nn.LSTM(2, 3, proj_size=1),
        tg.ArgumentError,
        "LSTM has proj_size=1; .*; use one without it, and a Linear after it",
    ),
    "max_norm": (
        lambda: nn.Embedding(2, 3, max_norm=0.0),
        tg.ArgumentError,
        r"Embedding has max_norm=0\.0; ours has no such option",
    ),
    "scale_grad_by_freq": (
        lambda: nn.Embedding(2, 3, scale_grad_by_freq=True),
        tg.ArgumentError,
        "Embedding has scale_grad_by_freq=True",
    ),
    "a convolution": (
        lambda: nn.Conv1d(1, 1, 1),
        tg.ArgumentError,
        rf"Conv1d has no counterpart here; pass a torch.nn module whose forward is {OURS}",
    ),
    "a convolution in a list": (
        lambda: nn.Sequential(nn.Linear(1, 1), nn.ModuleList([nn.Conv1d(1, 1, 1)])),
        tg.ArgumentError,
        r"Conv1d, at 1\.0 has no counterpart here",
    ),
    "proj_size in a dict": (
        lambda: nn.ModuleDict({"a": nn.LSTM(2, 3, proj_size=1)}),
        tg.ArgumentError,
        "LSTM, at a has proj_size=1",
    ),
    "a program": (
        lambda: nn.Sequential(nn.Tanh(), Net()),
        tg.ArgumentError,
        r"Net, at 1 has no counterpart here; its class defines forward, .*; convert its parts: "
        r"from_torch\(model\.1\.lstm\), from_torch\(model\.1\.heads\)$",
    ),
    "an axis that is guessed": (lambda: nn.Softmax(), tg.ArgumentError, "Softmax without dim"),
    "not yet made": (lambda: nn.LazyLinear(3), tg.ArgumentError, "LazyLinear"),
    "a subclass": (lambda: Subclass(2, 3), tg.ArgumentError, f"Subclass.*{OURS}"),
    "its child": (lambda: Grandchild(2, 3), tg.ArgumentError, f"Grandchild.*{OURS}"),
    "a forward put in": (patched, tg.ArgumentError, f"Linear.*whose forward is {OURS}"),
    "the class": (lambda: nn.LSTM, tg.ArgumentError, OURS),
    "ours": (lambda: tg.nn.LSTM(2, 3, rng=0), tg.ArgumentError, r"tinygrad182.*LSTM has no count"),
    "a name alone": (GRU, tg.ArgumentError, OURS),
    "a number": (lambda: 3, tg.ArgumentError, "int has no counterpart"),
    "nothing": (lambda: None, tg.ArgumentError, "NoneType"),
    "a state dict": (
        lambda: nn.Linear(1, 1).state_dict(),
        tg.ArgumentError,
        "pass a state dict to from_state_dict",
    ),
    "a hook": (hooked, tg.ArgumentError, "Linear, at 1 has forward hooks, which may change"),
    "pruning": (
        pruned,
        tg.ArgumentError,
        r"Linear has forward hooks.*pruning are such hooks\); remove them first",
    ),
    "a parametrization": (
        lambda: nn.utils.parametrizations.weight_norm(nn.LSTM(2, 3), "weight_hh_l0"),
        tg.ArgumentError,
        "ParametrizedLSTM has no counterpart here; call .*remove_parametrizations",
    ),
    "bfloat16": (
        lambda: nn.Linear(2, 3).bfloat16(),
        tg.DTypeError,
        r"Linear cannot be read \(.*BFloat16\); call module\.float\(\)",
    ),
    "no values": (lambda: nn.LSTM(2, 3, device="meta"), tg.DTypeError, r"LSTM cannot be.*meta"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as caught:
        tg.nn.from_torch(make())
    assert isinstance(caught.value, tg.TinygradError)
    assert str(caught.value).startswith("from_torch: ")


@pytest.mark.parametrize("padding", [None, 0, -1])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_embeddings(padding: int | None, dtype: str) -> None:
    """Their inputs are integers, which have no gradients: so they have a test of their own."""
    torch.manual_seed(5)
    theirs = nn.Embedding(4, 3, padding_idx=padding).to(getattr(torch, dtype))
    ours = tg.nn.from_torch(theirs)
    assert type(ours) is tg.nn.Embedding
    assert_same_bits(ours.weight, theirs.weight.detach().numpy())
    assert ours.padding_idx == theirs.padding_idx
    tokens = np.array([[0, 3, 3], [2, 0, 3]])
    results = ours(tokens), theirs(torch.tensor(tokens))
    assert_equal_results(*results, TOLERANCES[dtype])
    backward(*results, seed=2)
    assert_equal_gradients(ours, theirs, TOLERANCES[dtype])
    assert ours.weight.requires_grad
    assert not tg.nn.from_torch(theirs.requires_grad_(False)).weight.requires_grad


def test_the_rate_of_dropout_is_kept_and_whether_it_acts() -> None:
    theirs = nn.LSTM(2, 3, 2, dropout=0.25, bidirectional=True)
    ours = tg.nn.from_torch(theirs)
    assert (ours.dropout, ours.bidirectional, ours.training) == (0.25, True, True)
    assert not tg.nn.from_torch(theirs.eval()).training
    x = tg.ones((5, 4, 2))
    assert (ours(x)[0].numpy() != ours(x)[0].numpy()).any()


# --- trees of modules -----------------------------------------------------------------------------


def sequence() -> Any:
    """Everything that a Sequential may hold, nested and by name."""
    shared = nn.Linear(4, 4)
    inner = nn.Sequential(OrderedDict(first=shared, bend=nn.Tanh(), out=nn.LayerNorm(4)))
    return nn.Sequential(
        *(nn.Linear(2, 4), nn.ReLU(), inner, nn.Identity(), shared, nn.Sigmoid()),
        *(nn.Dropout(0.5), nn.Sequential()),
        *(nn.Flatten(1), nn.LogSoftmax(dim=-1), nn.Softmax(-1), nn.Linear(20, 3, bias=False)),
    ).eval()


def test_a_sequential_gives_the_same_outputs_and_gradients() -> None:
    torch.manual_seed(1)
    theirs = sequence().double()
    ours = tg.nn.from_torch(theirs)
    x_1, x_2 = pair(draw(0, (6, 5, 2))[0])
    results = ours(x_1), theirs(x_2)
    assert_equal_results(*results, 1e-12)
    backward(*results, seed=2)
    assert_close(x_1.grad, x_2.grad.numpy(), 1e-12, "the input")
    found = {name: p.grad for name, p in ours.named_parameters()}
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        assert_close(found[name], gradient.numpy(), 1e-12, name)
        assert gradient.abs().max() > 0, name
    state = {name: torch.as_tensor(value) for name, value in ours.state_dict().items()}
    assert list(state) == list(theirs.state_dict())  # the shared module is in two places
    theirs.load_state_dict(state)
    ours.load_state_dict(theirs.state_dict())


def test_a_module_in_two_places_stays_one() -> None:
    ours = tg.nn.from_torch(sequence())
    assert ours[2].first is ours[4]
    assert len(list(ours.parameters())) == 7
    twice = tg.nn.from_torch(nn.Sequential(*[nn.Linear(2, 2)] * 3))
    assert twice[0] is twice[1] is twice[2]


def test_a_weight_of_two_modules_stays_one() -> None:
    theirs = nn.ModuleDict({"table": nn.Embedding(5, 3), "out": nn.Linear(3, 5)})
    theirs["out"].weight = theirs["table"].weight
    ours = tg.nn.from_torch(theirs)
    assert ours["table"].weight is ours["out"].weight
    assert [name for name, _ in ours.named_parameters()] == ["table.weight", "out.bias"]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert ours["table"].weight is ours["out"].weight


def test_lists_and_dicts() -> None:
    theirs = nn.ModuleDict(
        {"layers": nn.ModuleList([nn.GRU(2, 3), nn.Sequential(nn.Tanh())]), "bend": nn.Tanh()}
    )
    theirs["layers"][0].eval().requires_grad_(False)
    ours = tg.nn.from_torch(theirs)
    assert type(ours) is tg.nn.ModuleDict
    assert type(ours["layers"]) is tg.nn.ModuleList
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [m.training for m in (ours, ours["layers"], ours["layers"][0])] == [True, True, False]
    assert not any(p.requires_grad for p in ours.parameters())
    x = np.array([0.5, -2.0])
    assert_close(ours["bend"](tg.tensor(x)), np.tanh(x), 1e-15)
    assert_close(ours["layers"][1](tg.tensor(x)), np.tanh(x), 1e-15)


def test_a_layer_whose_state_goes_on_stops_where_pytorch_does() -> None:
    """A recurrent layer returns a tuple, which the next Linear does not take, there as here."""
    theirs = nn.Sequential(nn.LSTM(2, 3), nn.Linear(3, 1))
    with pytest.raises(TypeError):
        theirs(torch.ones(4, 1, 2))
    with pytest.raises(tg.DTypeError, match="the output alone"):
        tg.nn.from_torch(theirs)(tg.ones((4, 1, 2)))


def test_the_rate_of_a_dropout_is_kept() -> None:
    ours = tg.nn.from_torch(nn.Sequential(nn.Dropout(0.25), nn.Dropout(0.5).eval()))
    assert [(layer.p, layer.training) for layer in ours] == [(0.25, True), (0.5, False)]
