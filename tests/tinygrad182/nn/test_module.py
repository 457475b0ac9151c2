"""Module: the tree of parameters, its names, its text, its modes, and how it is copied."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import (
    assert_same_bits,
    const,
    host_only,
    write,
)


class Block(tg.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.second = tg.nn.Linear(2, 2, rng=0)
        self.first = tg.nn.Linear(2, 2, rng=1)

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        return self.second(tg.tanh(self.first(x)))


class Tree(tg.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = tg.nn.Parameter([2.0, 3.0])
        self.blocks = [Block(), Block()]
        self.named = {"left": tg.nn.Linear(2, 1, rng=2), "right": (tg.nn.Parameter([4.0]), 7)}
        self.size = 2
        self.note = "not a parameter"
        self.constant = tg.ones(3)

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.named["left"](x * self.scale) + self.named["right"][0]


TREE_NAMES = [
    "scale",
    "named.right.0",
    "blocks.0.second.weight",
    "blocks.0.second.bias",
    "blocks.0.first.weight",
    "blocks.0.first.bias",
    "blocks.1.second.weight",
    "blocks.1.second.bias",
    "blocks.1.first.weight",
    "blocks.1.first.bias",
    "named.left.weight",
    "named.left.bias",
]


def test_parameters_are_found_in_lists_tuples_and_dicts_in_order() -> None:
    tree = Tree()
    assert [name for name, _ in tree.named_parameters()] == TREE_NAMES
    assert len(list(tree.parameters())) == len(TREE_NAMES)
    assert list(tree.state_dict()) == TREE_NAMES
    assert [name for name, _ in tree.named_modules()] == [
        "",
        "blocks.0",
        "blocks.0.second",
        "blocks.0.first",
        "blocks.1",
        "blocks.1.second",
        "blocks.1.first",
        "named.left",
    ]


def test_every_parameter_gets_a_gradient() -> None:
    tree = Tree()
    tree(tg.ones((3, 2))).sum().backward()
    assert all(p.grad is not None for p in tree.parameters())
    tree.zero_grad()
    assert all(p.grad is None for p in tree.parameters())


def test_parameters_are_named_in_graphs() -> None:
    tree = Tree()
    graph = tg.inspect.trace(tree(tg.ones((3, 2))).sum())
    for name, p in tree.named_parameters():
        (node,) = graph.select(name=name, op="leaf")
        assert node.value.tobytes() == p.numpy().tobytes()


def test_calling_a_part_by_itself_keeps_the_whole_name() -> None:
    tree = Tree()
    tree(tg.ones((3, 2)))
    graph = tg.inspect.trace(tree.blocks[0](tg.ones((3, 2))).sum())
    assert [n.name for n in graph.select(op="leaf") if n.name] == [  # oldest first
        "blocks.0.second.weight",
        "blocks.0.second.bias",
        "blocks.0.first.weight",
        "blocks.0.first.bias",
    ]


def test_nodes_carry_the_path_of_the_module() -> None:
    tree = Tree()
    graph = tg.inspect.trace(tree(tg.ones((3, 2))).sum())
    paths = [n.module for n in graph.nodes if n.op == "matmul"]
    assert paths == [
        "blocks.0.first",
        "blocks.0.second",
        "blocks.1.first",
        "blocks.1.second",
        "named.left",
    ]
    assert {n.module for n in graph.select(op="tanh")} == {"blocks.0", "blocks.1"}
    assert [n.module for n in graph.select(op="sum")] == [""]
    assert {n.module for n in graph.select(module="blocks.1")} == {
        "blocks.1",
        "blocks.1.first",
        "blocks.1.second",
    }
    graph = tg.inspect.trace(tg.nn.Linear(2, 1, rng=0)(tg.ones((3, 2))).sum())
    assert graph.select(op="matmul")[0].module == "linear"


def test_a_module_made_inside_forward_has_a_path_below() -> None:
    class Maker(tg.nn.Module):
        def forward(self, x: tg.Tensor) -> tg.Tensor:
            return Block()(x)

    class Outer(tg.nn.Module):
        def __init__(self) -> None:
            self.maker = Maker()

        def forward(self, x: tg.Tensor) -> tg.Tensor:
            return self.maker(x)

    graph = tg.inspect.trace(Outer()(tg.ones((3, 2))).sum())
    assert [n.module for n in graph.nodes if n.op == "matmul"] == [
        "maker.block.first",
        "maker.block.second",
    ]


def test_paths_are_restored_when_an_exception_flies_through() -> None:
    with pytest.raises(tg.ShapeError, match="Linear"):
        Tree()(tg.ones((3, 5)))
    w = tg.ones(2, requires_grad=True)
    assert tg.inspect.trace((w * w).sum()).select(op="multiply")[0].module == ""


def test_shared_parameters_and_modules_are_named_once() -> None:
    class Tied(tg.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = tg.nn.Linear(2, 2, rng=0)
            self.b = tg.nn.Linear(2, 2, rng=1)
            self.b.weight = self.a.weight
            self.again = self.a

        def forward(self, x: tg.Tensor) -> tg.Tensor:
            return self.again(self.b(self.a(x)))

    tied = Tied()
    assert [n for n, _ in tied.named_parameters()] == ["a.weight", "a.bias", "b.bias"]
    assert [n for n, _ in tied.named_modules()] == ["", "a", "b"]
    assert [n for n, _ in tied.named_modules(remove_duplicate=False)] == ["", "a", "b", "again"]
    x = tg.ones((1, 2))
    tied(x).sum().backward()
    total = tied.a.weight.grad.numpy().copy()
    tied.zero_grad()
    w = [tg.tensor(tied.a.weight.numpy(), requires_grad=True) for _ in range(3)]
    h = x
    for weight, bias in zip(w, (tied.a.bias, tied.b.bias, tied.a.bias), strict=True):
        h = h @ weight.T + bias
    h.sum().backward()
    np.testing.assert_allclose(total, sum(v.grad.numpy() for v in w), rtol=1e-6)
    tg.optim.SGD(tied.parameters(), 0.1)  # which refuses a parameter given twice


def test_a_cycle_of_modules_ends() -> None:
    parent, child = tg.nn.Linear(1, 1), tg.nn.Linear(1, 1)
    parent.child, child.parent = child, parent
    assert [n for n, _ in parent.named_modules()] == ["", "child"]
    assert "child" in repr(parent)
    assert list(parent.state_dict()) == ["weight", "bias", "child.weight", "child.bias"]
    parent.load_state_dict(parent.state_dict())


def test_a_deep_tree_needs_no_recursion() -> None:
    module = tg.nn.Linear(1, 1)
    for _ in range(3000):
        outer = tg.nn.Module()
        outer.inner = module
        module = outer
    assert len(list(module.parameters())) == 2
    assert len(module.state_dict()) == 2


def test_text_shows_shapes_and_counts() -> None:
    assert repr(Tree()) == (
        "Tree()  # 30 parameters\n"
        "  scale (2,)\n"
        "  named.right.0 (1,)\n"
        + "".join(
            f"  (blocks.{i}): Block()\n"
            "    (second): Linear(2, 2)\n"
            "      weight (2, 2)\n"
            "      bias (2,)\n"
            "    (first): Linear(2, 2)\n"
            "      weight (2, 2)\n"
            "      bias (2,)\n"
            for i in range(2)
        )
        + "  (named.left): Linear(2, 1)\n"
        "    weight (1, 2)\n"
        "    bias (1,)"
    )
    rnn = tg.nn.RNN(40, 30, 2, "relu", bias=False, batch_first=True, return_states=True)
    assert repr(rnn).splitlines()[0] == (
        "RNN(40, 30, num_layers=2, nonlinearity='relu', bias=False, batch_first=True, "
        "return_states=True)  # 3,900 parameters"
    )
    assert "bias=False" in repr(tg.nn.RNNCell(1, 2, bias=False))
    assert "bias=False" in repr(tg.nn.Linear(1, 2, bias=False))
    assert "1: tanh" in repr(tg.nn.Sequential(tg.nn.Linear(1, 1), tg.tanh))


def test_training_is_a_mode_of_the_whole_tree() -> None:
    tree = Tree()
    modules = [m for _, m in tree.named_modules()]
    assert all(m.training for m in modules)
    assert tree.eval() is tree
    assert not any(m.training for m in modules)
    assert tree.train() is tree
    assert all(m.training for m in modules)


def test_a_subclass_need_not_call_the_base() -> None:
    class Careless(tg.nn.Module):
        def __init__(self) -> None:
            self.linear = tg.nn.Linear(1, 1, rng=0)

        def forward(self, x: tg.Tensor) -> tg.Tensor:
            return self.linear(x) if self.training else x

    model = Careless()
    assert [n for n, _ in model.named_parameters()] == ["linear.weight", "linear.bias"]
    assert model(tg.ones((1, 1))).requires_grad
    assert not model.eval()(tg.ones((1, 1))).requires_grad


def test_a_copy_shares_nothing() -> None:
    tree = Tree()
    tree(tg.ones((3, 2))).sum().backward()
    twin = copy.deepcopy(tree)
    for (name, p), (name_2, q) in zip(
        tree.named_parameters(), twin.named_parameters(), strict=True
    ):
        assert name == name_2
        assert type(q) is tg.nn.Parameter
        assert q is not p
        assert q.requires_grad
        assert_same_bits(q, p.numpy())
        assert_same_bits(q.grad, p.grad.numpy())
    before = tree.scale.numpy().copy()
    write(twin.scale, 0.0)
    assert_same_bits(tree.scale, before)


def test_tied_weights_stay_tied_in_a_copy() -> None:
    linear = tg.nn.Linear(1, 1)
    linear.other = linear.weight
    twin = copy.deepcopy(linear)
    assert twin.other is twin.weight
    assert twin.other is not linear.weight


@host_only("CuPy's arrays do not take lists")
def test_data_takes_lists() -> None:
    linear = tg.nn.Linear(2, 2, rng=0)
    linear.weight.data[...] = [[1.0, 2.0], [3.0, 4.0]]
    assert linear.weight.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_values_are_written_through_data() -> None:
    rnn = tg.nn.RNN(1, 2, rng=0)
    write(rnn.weight_hh_l0, [[1.0, 2.0], [3.0, 4.0]])
    write(rnn.weight_ih_l0, 9.0, at=0)
    rnn.bias_ih_l0.data = np.array([5.0, 6.0])
    x = const(np.float32([[[1.0]], [[0.0]]]))
    rnn.nonlinearity = "identity"
    output, _ = rnn(x)
    w = float(rnn.weight_ih_l0.numpy()[1, 0])
    h_1 = np.float32([14.0, w + 6.0])
    np.testing.assert_allclose(output.numpy()[0, 0], h_1, rtol=1e-6)
    expected = np.array([[1.0, 2.0], [3.0, 4.0]]) @ h_1 + [5.0, 6.0]
    np.testing.assert_allclose(output.numpy()[1, 0], expected, rtol=1e-6)


def test_a_parameter_is_not_replaced_by_a_plain_tensor() -> None:
    """Otherwise it would silently stop being trained."""
    linear = tg.nn.Linear(2, 2, rng=0)
    for value in (tg.ones((2, 2)), np.ones((2, 2)), 1.0):
        with pytest.raises(tg.ArgumentError, match=r"\.weight\.assign\(values\)"):
            linear.weight = value  # type: ignore[assignment]
    linear.weight = tg.nn.Parameter(np.ones((2, 2), np.float32))
    linear.bias = None
    assert [n for n, _ in linear.named_parameters()] == ["weight"]
    assert_same_bits(linear(tg.ones(2)), np.float32([2.0, 2.0]))


def test_moving_to_the_same_device_changes_nothing() -> None:
    rnn = tg.nn.RNN(1, 2, rng=0)
    loss = rnn(tg.ones((3, 1, 1)))[0].sum()
    assert rnn.to(loss.device) is rnn
    loss.backward()
    before = rnn.weight_hh_l0.grad.numpy().copy()
    rnn.to(loss.device)
    assert_same_bits(rnn.weight_hh_l0.grad, before)
    with pytest.raises(tg.DeviceError):
        rnn.to("nowhere")


def test_sequential_runs_modules_and_functions() -> None:
    linear = tg.nn.Linear(2, 2, rng=0)
    model = tg.nn.Sequential(linear, tg.tanh, linear)
    x = tg.ones((3, 2))
    assert_same_bits(model(x), linear(tg.tanh(linear(x))).numpy())
    assert len(model) == 3
    assert list(model) == [linear, tg.tanh, linear]
    assert model[-1] is linear
    assert [n for n, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    assert_same_bits(tg.nn.Sequential()(x), x.numpy())


def test_a_module_without_forward_says_so() -> None:
    class Empty(tg.nn.Module):
        pass

    with pytest.raises(tg.TinygradError, match="Empty has no forward"):
        Empty()(1)


@pytest.mark.parametrize("kind", [tg.nn.RNN, tg.nn.RNNCell, tg.nn.Linear])
def test_one_seed_gives_one_model(kind: Any) -> None:
    def bits(rng: Any, dtype: str = "float32") -> list[bytes]:
        return [p.numpy().tobytes() for p in kind(3, 4, rng=rng, dtype=dtype).parameters()]

    assert bits(7) == bits(7) == bits(np.random.default_rng(7))
    assert bits(7) != bits(8)
    assert bits(None) != bits(None)
    generator = np.random.default_rng(7)
    assert bits(generator) != bits(generator)  # it goes on, it is not seeded again
    for single, double in zip(
        kind(3, 4, rng=1).parameters(), kind(3, 4, rng=1, dtype="float64").parameters(), strict=True
    ):
        assert_same_bits(single, double.numpy().astype(np.float32))


nn = tg.nn


X = np.random.default_rng(0).normal(size=(4, 3, 5))


def layers(n: int = 3) -> list[Any]:
    return [nn.Linear(2, 2, rng=i) for i in range(n)]


def test_walks_over_modules() -> None:
    inner, last = nn.Sequential(*layers(1)), nn.Linear(2, 1, rng=0)
    model = nn.Sequential(inner, last)
    assert [name for name, _ in model.named_modules()] == ["", "0", "0.0", "1"]
    assert list(model.modules()) == [model, inner, inner[0], last]
    assert list(model.children()) == [inner, last]
    assert [name for name, _ in model.named_children()] == ["0", "1"]
    seen: list[Any] = []
    assert model.apply(seen.append) is model
    assert seen == [last, inner[0], inner, model]


def test_freezing_and_thawing() -> None:
    model = nn.Sequential(*layers(2))
    assert model[0].requires_grad_(False) is model[0]  # type: ignore[attr-defined]
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    model.requires_grad_()
    assert all(p.requires_grad for p in model.parameters())


def test_functional_computes_what_the_layers_do() -> None:
    f, x = nn.functional, const(X)
    layer = nn.Linear(5, 2, rng=0, dtype="float64")
    assert_same_bits(f.linear(x, layer.weight, layer.bias), layer(x))
    assert_same_bits(f.linear(x, layer.weight), x @ layer.weight.T)
    for name in ("relu", "tanh", "sigmoid", "softmax", "log_softmax"):
        assert_same_bits(getattr(f, name)(x), getattr(tg, name)(x))
    assert f.cross_entropy is nn.cross_entropy
    assert f.mse_loss is nn.mse_loss
