"""Errors of layers and losses: our own exceptions, which name the operation and the remedy."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array

nn = tg.nn
ONES = np.ones((4, 3, 2), np.float32)
X = array(ONES)


def rnn(**options: Any) -> tg.nn.RNN:
    return nn.RNN(2, 5, 2, rng=0, **options)


def lstm(**options: Any) -> tg.nn.LSTM:
    return nn.LSTM(2, 5, 2, rng=0, **options)


def targets(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, dtype=int)


CASES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    # sizes and options
    "no hidden units": (lambda: nn.RNN(2, 0), tg.ArgumentError, "RNN: hidden_size 0.*from 1"),
    "no inputs": (lambda: nn.RNNCell(0, 2), tg.ArgumentError, "RNNCell: input_size 0"),
    "fractional size": (lambda: nn.RNN(2.0, 3), tg.ArgumentError, r"input_size 2\.0.*whole"),
    "size as text": (lambda: nn.RNN("2", 3), tg.ArgumentError, "input_size '2'"),
    "no layers": (lambda: nn.RNN(2, 3, 0), tg.ArgumentError, "num_layers 0"),
    "fractional layers": (lambda: nn.RNN(2, 3, 1.5), tg.ArgumentError, r"num_layers 1\.5"),
    "negative features": (lambda: nn.Linear(-1, 2), tg.ArgumentError, "in_features -1.*from 0"),
    "negative outputs": (lambda: nn.Linear(1, -2), tg.ArgumentError, "out_features -2"),
    "nonlinearity": (
        lambda: nn.RNN(2, 3, nonlinearity="elu"),
        tg.ArgumentError,
        r"RNN: nonlinearity 'elu'.*tanh, relu, identity",
    ),
    "nonlinearity of another shape": (
        lambda: nn.RNNCell(2, 3, nonlinearity=tg.sum),
        tg.ArgumentError,
        r"^RNNCell: nonlinearity sum returns shape \(\) and dtype float32 for shape \(2, 3\)",
    ),
    "nonlinearity that is a mask": (
        lambda: nn.ResBlock(2, lambda x: x > 0),
        tg.ArgumentError,
        r"^ResBlock: nonlinearity <lambda> returns shape \(2, 2\) and dtype bool",
    ),
    "nonlinearity that returns no Tensor": (
        lambda: nn.RNN(2, 3, nonlinearity=lambda x: x.numpy()),
        tg.ArgumentError,
        r"^RNN: nonlinearity <lambda> returns a ndarray.*Tensor",
    ),
    "nonlinearity without an argument": (
        lambda: nn.RNN(2, 3, nonlinearity=lambda: 1.0),
        tg.ArgumentError,
        r"^RNN: nonlinearity <lambda> fails on a Tensor.*\(2, 3\): TypeError: .*0 positional",
    ),
    "nonlinearity with two arguments": (
        lambda: nn.RNN(2, 3, nonlinearity=tg.PRIMITIVES["add"]),
        tg.ArgumentError,
        "^RNN: nonlinearity add fails",
    ),
    "nonlinearity as a class": (
        lambda: nn.RNN(2, 3, nonlinearity=nn.Linear),
        tg.ArgumentError,
        "use one of tanh, relu, identity, or pass a function such as tg.sin, or a tg.Primitive",
    ),
    "nonlinearity unhashable": (
        lambda: nn.RNN(2, 3, nonlinearity=["tanh"]),
        tg.ArgumentError,
        "use one of tanh",
    ),
    "integer parameters": (lambda: nn.RNN(2, 3, dtype="int64"), tg.DTypeError, "only floating"),
    "device": (lambda: nn.Linear(2, 3, device="tpu"), tg.DeviceError, "'tpu'.*'cuda:N'"),
    "step of Sequential": (lambda: nn.Sequential(nn.Linear(1, 1), 3), tg.ArgumentError, "step 1"),
    "parameter of integers": (lambda: nn.Parameter(targets(1)), tg.DTypeError, "dtype='float32'"),
    # inputs
    "one axis": (
        lambda: rnn()(X[0, 0]),
        tg.ShapeError,
        r"\(2,\).*\(T, B, I\) or \(T, I\) with I = 2",
    ),
    "four axes": (lambda: rnn()(X[None]), tg.ShapeError, r"RNN: input.*\(1, 4, 3, 2\)"),
    "features of one sequence": (lambda: rnn()(X[0, :, :1]), tg.ShapeError, r"\(3, 1\).*I = 2"),
    "other features": (lambda: rnn()(X[..., :1]), tg.ShapeError, r"RNN.*\(4, 3, 1\).*I = 2"),
    "batch first": (
        lambda: rnn(batch_first=True)(X[..., :1]),
        tg.ShapeError,
        r"must be \(B, T, I\) or \(T, I\)",
    ),
    "no steps": (lambda: rnn()(X[:0]), tg.ShapeError, "at least one step"),
    "no sequences": (lambda: rnn()(X[:, :0]), tg.ShapeError, "one sequence"),
    "whole numbers": (
        lambda: rnn()(array(ONES.astype(int))),
        tg.DTypeError,
        r"RNN.*int64.*astype\('float32'\)",
    ),
    "booleans": (lambda: rnn()(array(ONES > 0)), tg.DTypeError, "bool"),
    "a list": (lambda: rnn()([[[1.0, 2.0]]]), tg.DTypeError, r"RNN: .*input.*list"),
    "nothing": (lambda: rnn()(None), tg.DTypeError, "NoneType"),
    "packed sequences": (
        lambda: nn.LSTM(1, 2)(
            namedtuple("PackedSequence", "data batch_sizes")(np.ones((3, 1)), [2, 1])
        ),
        tg.DTypeError,
        r"LSTM: .*input.*PackedSequence, not a Tensor.*padded sequences, and lengths=",
    ),
    "what an RNN returned": (
        lambda: nn.Sequential(rnn(), nn.Linear(5, 1))(X),
        tg.DTypeError,
        r"Linear: .*input.*tuple.*output alone",
    ),
    "Linear features": (lambda: nn.Linear(2, 1)(X[..., :1]), tg.ShapeError, r"last axis.*2"),
    "Linear number": (lambda: nn.Linear(1, 1)(tg.tensor(1.0)), tg.ShapeError, r"shape \(\)"),
    "Linear whole numbers": (
        lambda: nn.Linear(2, 1)(array(ONES.astype(int))),
        tg.DTypeError,
        "int64",
    ),
    "cell input": (lambda: nn.RNNCell(2, 3)(X), tg.ShapeError, r"\(4, 3, 2\).*\(B, 2\)"),
    # states
    "h_0 without layers": (
        lambda: rnn()(X, np.zeros((3, 5), np.float32)),
        tg.ShapeError,
        r"h_0 \(layers, B, H\).*\(3, 5\).*\(2, 3, 5\)",
    ),
    "h_0 of one layer": (lambda: rnn()(X, tg.zeros((1, 3, 5))), tg.ShapeError, r"\(2, 3, 5\)"),
    "h_0 batch first": (
        lambda: rnn(batch_first=True)(X, tg.zeros((4, 2, 5))),
        tg.ShapeError,
        r"must be \(2, 4, 5\)",
    ),
    "h_0 of whole numbers": (
        lambda: rnn()(X, np.zeros((2, 3, 5), int)),
        tg.DTypeError,
        r"h_0.*int64",
    ),
    "h_0 in a tuple": (
        lambda: rnn()(X, (tg.zeros((2, 3, 5)),)),
        tg.DTypeError,
        r"RNN: .*state.*tuple.*h_0 \(layers, B, H\) alone",
    ),
    "h_0 with a batch axis": (
        lambda: rnn()(X[:, 0], tg.zeros((2, 1, 5))),
        tg.ShapeError,
        r"h_0 \(layers, H\).*\(2, 1, 5\).*\(2, 5\)",
    ),
    "h_0 without a batch axis": (
        lambda: rnn()(X, tg.zeros((2, 5))),
        tg.ShapeError,
        r"h_0 \(layers, B, H\).*\(2, 5\).*\(2, 3, 5\)",
    ),
    "state of a cell": (
        lambda: nn.RNNCell(2, 3)(X[0], tg.zeros((3, 4))),
        tg.ShapeError,
        r"RNNCell: h \(B, H\).*\(3, 4\).*\(3, 3\)",
    ),
    "batched state of one sequence": (
        lambda: nn.RNNCell(2, 3)(X[0, 0], tg.zeros((1, 3))),
        tg.ShapeError,
        r"RNNCell: h \(H,\).*\(1, 3\).*\(3,\)",
    ),
    # LSTM
    "LSTM without units": (lambda: nn.LSTM(2, 0), tg.ArgumentError, "LSTM: hidden_size 0.*from 1"),
    "LSTM without layers": (lambda: nn.LSTM(2, 3, 0), tg.ArgumentError, "LSTM: num_layers 0"),
    "LSTM on a list": (
        lambda: lstm()([[1.0, 2.0]]),
        tg.DTypeError,
        r"LSTM: .*input.*list.*tens",
    ),
    "LSTM on integers": (
        lambda: lstm()(array(ONES.astype(int))),
        tg.DTypeError,
        r"LSTM.*astype\('float32'\)",
    ),
    "LSTM features": (lambda: lstm()(X[..., :1]), tg.ShapeError, r"LSTM: .*\(4, 3, 1\).*I = 2"),
    "LSTM without steps": (lambda: lstm()(X[:0]), tg.ShapeError, "LSTM: .*at least one step"),
    "LSTMCell features": (
        lambda: nn.LSTMCell(3, 2)(X[0]),
        tg.ShapeError,
        r"LSTMCell: input.*\(3, 2\).*\(B, 3\) or \(3,\)",
    ),
    "h_0 alone": (
        lambda: lstm()(X, tg.zeros((2, 3, 5))),
        tg.ArgumentError,
        r"LSTM: .*state.*Tensor.*\(h_0, c_0\), each \(layers, B, H\)",
    ),
    "h_0 and c_0 stacked": (  # its length is 2
        lambda: lstm()(X, tg.zeros((2, 2, 3, 5))),
        tg.ArgumentError,
        r"a Tensor.*\(h_0, c_0\)",
    ),
    "three states": (
        lambda: lstm()(X, (tg.zeros((2, 3, 5)),) * 3),
        tg.ArgumentError,
        r"LSTM: .*state.*tuple of 3.*\(h_0, c_0\)",
    ),
    "one state in a list": (
        lambda: lstm()(X, [tg.zeros((2, 3, 5))]),
        tg.ArgumentError,
        "list of 1",
    ),
    "shape of h_0": (
        lambda: lstm()(X, (tg.zeros((1, 3, 5)), tg.zeros((2, 3, 5)))),
        tg.ShapeError,
        r"LSTM: h_0 \(layers, B, H\).*\(1, 3, 5\).*\(2, 3, 5\)",
    ),
    "shape of c_0": (
        lambda: lstm()(X, (tg.zeros((2, 3, 5)), tg.zeros((2, 1, 5)))),
        tg.ShapeError,
        r"LSTM: c_0 \(layers, B, H\).*\(2, 1, 5\)",
    ),
    "c_0 left out": (
        lambda: lstm()(X, (tg.zeros((2, 3, 5)), None)),
        tg.DTypeError,
        r"LSTM: c_0 \(layers, B, H\) is a NoneType",
    ),
    "c_0 of whole numbers": (
        lambda: lstm()(X, (tg.zeros((2, 3, 5)), np.zeros((2, 3, 5), int))),
        tg.DTypeError,
        "LSTM: c_0.*int64",
    ),
    "c_0 with a batch axis": (
        lambda: lstm()(X[:, 0], (tg.zeros((2, 5)), tg.zeros((2, 1, 5)))),
        tg.ShapeError,
        r"c_0 \(layers, H\).*\(2, 1, 5\)",
    ),
    "state of an LSTMCell": (
        lambda: nn.LSTMCell(2, 3)(X[0], tg.zeros((3, 3))),
        tg.ArgumentError,
        r"LSTMCell: .*state.*Tensor.*\(h, c\), each \(B, H\)",
    ),
    "c of an LSTMCell": (
        lambda: nn.LSTMCell(2, 3)(X[0], (tg.zeros((3, 3)), tg.zeros((3, 4)))),
        tg.ShapeError,
        r"LSTMCell: c \(B, H\).*\(3, 4\)",
    ),
    "forget_bias as text": (
        lambda: nn.LSTM(2, 3, forget_bias="1"),
        tg.ArgumentError,
        r"LSTM: forget_bias '1'.*finite number",
    ),
    "forget_bias of True": (lambda: nn.LSTM(2, 3, forget_bias=True), tg.ArgumentError, "bias True"),
    "forget_bias of None": (lambda: nn.LSTM(2, 3, forget_bias=None), tg.ArgumentError, "bias None"),
    "forget_bias of nan": (
        lambda: nn.LSTMCell(2, 3, forget_bias=np.nan),
        tg.ArgumentError,
        r"LSTMCell: forget_bias nan.*finite number",
    ),
    "forget_bias per unit": (
        lambda: nn.LSTM(2, 3, forget_bias=np.ones(3)),
        tg.ArgumentError,
        "must be a finite number",
    ),
    "complex forget_bias": (
        lambda: nn.LSTM(2, 3, forget_bias=np.complex64(1)),
        tg.ArgumentError,
        "must be a finite number",
    ),
    "forget_bias without bias": (
        lambda: nn.LSTM(2, 3, bias=False, forget_bias=1.0),
        tg.ArgumentError,
        "LSTM: forget_bias needs bias=True",
    ),
    # lengths
    "a length for all": (
        lambda: rnn()(X, lengths=3),
        tg.ShapeError,
        r"RNN: lengths.*\(\).*each of 3 sequences",
    ),
    "too few lengths": (
        lambda: lstm()(X, lengths=[4, 4]),
        tg.ShapeError,
        r"LSTM: lengths.*\(2,\).*each of 3",
    ),
    "no lengths": (lambda: rnn()(X, lengths=[]), tg.ShapeError, r"shape \(0,\).*each of 3"),
    "lengths by step": (lambda: rnn()(X, lengths=np.ones((3, 4), int)), tg.ShapeError, r"\(3, 4\)"),
    "lengths of steps": (
        lambda: rnn(batch_first=True)(X, lengths=[1, 2, 3]),
        tg.ShapeError,
        "each of 4 sequences",
    ),
    "lengths in a set": (
        lambda: rnn()(X, lengths={1, 2, 3}),
        tg.ShapeError,
        r"lengths.*\(\)",
    ),
    "lengths in a ragged list": (
        lambda: rnn()(X, lengths=[1, [2, 3], 4]),
        tg.DTypeError,
        "RNN: lengths cannot be read",
    ),
    "real lengths": (
        lambda: rnn()(X, lengths=[4.0, 3.0, 2.0]),
        tg.DTypeError,
        r"RNN: lengths.*float64.*whole numbers",
    ),
    "lengths in a default tensor": (  # of Python numbers it makes float32
        lambda: lstm()(X, lengths=tg.tensor([4, 3, 2])),
        tg.DTypeError,
        r"LSTM: lengths.*float32; .*dtype='int64'",
    ),
    "a mask for lengths": (lambda: rnn()(X, lengths=[True] * 3), tg.DTypeError, "dtype bool"),
    "a length of None": (lambda: rnn()(X, lengths=[None, 4, 4]), tg.DTypeError, "dtype object"),
    "negative length": (
        lambda: lstm()(X, lengths=[4, -1, 0]),
        tg.ArgumentError,
        r"LSTM: lengths from -1 to 4.*from 0 to T = 4",
    ),
    "length beyond T": (lambda: rnn()(X, lengths=[5, 2, 1]), tg.ArgumentError, "to 5; .*T = 4"),
    "length of one sequence": (
        lambda: rnn()(X[:, 0], lengths=[3]),
        tg.ArgumentError,
        r"RNN: lengths are for.*batch; cut a single sequence short: x\[:length\]",
    ),
    "lengths in the state's place": (
        lambda: lstm()(X, [4, 3, 2]),
        tg.ArgumentError,
        r"state.*list of 3.*\(h_0, c_0\)",
    ),
    # ResBlock
    "no width": (lambda: nn.ResBlock(0), tg.ArgumentError, r"ResBlock: width 0.*whole"),
    "two widths": (lambda: nn.ResBlock((2, 3)), tg.ArgumentError, r"ResBlock: width \(2, 3\)"),
    "fractional width": (lambda: nn.ResBlock(2.0), tg.ArgumentError, r"width 2\.0"),
    "a ResBlock's nonlinearity": (
        lambda: nn.ResBlock(2, "elu"),
        tg.ArgumentError,
        r"ResBlock: nonlinearity 'elu'.*tanh, relu, identity",
    ),
    "input of a ResBlock": (
        lambda: nn.ResBlock(3, rng=0)(X),
        tg.ShapeError,
        r"\(4, 3, 2\).*last axis.*3",
    ),
    "a ResBlock of width 1 does not broadcast": (
        lambda: nn.ResBlock(1, rng=0)(X),
        tg.ShapeError,
        r"last axis.*1",
    ),
    "list into a ResBlock": (lambda: nn.ResBlock(2, rng=0)([1.0, 2.0]), tg.DTypeError, "is a list"),
    # losses
    "mse shapes": (
        lambda: nn.mse_loss(tg.ones((4, 1)), tg.ones(4)),
        tg.ShapeError,
        r"mse_loss: predictions \(4, 1\) and targets \(4,\)",
    ),
    "mse of nothing": (lambda: nn.mse_loss(tg.ones(0), tg.ones(0)), tg.ShapeError, "no elements"),
    "class -1": (
        lambda: nn.cross_entropy(tg.ones((2, 3)), targets(-1, 0)),
        tg.IndexOutOfRangeError,
        r"cross_entropy: targets from -1 to 0.*\[0, 3\)",
    ),
    "class 3 of 3": (
        lambda: nn.cross_entropy(tg.ones((2, 3)), targets(0, 3)),
        tg.IndexOutOfRangeError,
        "targets from 0 to 3",
    ),
    "real classes": (
        lambda: nn.cross_entropy(tg.ones((2, 3)), tg.ones(2)),
        tg.DTypeError,
        "float32.*integers",
    ),
    "classes of another shape": (
        lambda: nn.cross_entropy(tg.ones((2, 3)), targets(0)),
        tg.ShapeError,
        r"targets \(1,\).*logits \(2, 3\)",
    ),
    "one-hot classes": (
        lambda: nn.cross_entropy(tg.ones((2, 3)), np.eye(3, dtype=int)[:2]),
        tg.ShapeError,
        "without its last axis",
    ),
    "no classes": (lambda: nn.cross_entropy(tg.tensor(1.0), targets()), tg.ShapeError, "logits"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_refused(name: str) -> None:
    call, error, message = CASES[name]
    with pytest.raises(error, match=message) as caught:
        call()
    assert isinstance(caught.value, tg.TinygradError)


def test_the_place_in_the_model_is_named() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            self.head = nn.Linear(2, 2, rng=0)

        def forward(self, x: tg.Tensor) -> tg.Tensor:
            return self.head(x) + tg.ones(3)

    with pytest.raises(tg.ShapeError, match=r"add: cannot take \(4, 2\).*and \(3,\).*in broken"):
        Broken()(tg.ones((4, 2)))


def test_what_looks_wrong_but_is_not() -> None:
    assert nn.Linear(0, 3)(tg.ones((2, 0))).shape == (2, 3)
    assert nn.Linear(2, 3, rng=0)(tg.ones(2)).shape == (3,)
    assert nn.RNN(np.int64(1), np.int32(2))(X[..., :1])[0].shape == (4, 3, 2)
    assert rnn()(X[:, 0])[0].shape == rnn(batch_first=True)(X[:, 0])[0].shape == (4, 5)
    assert nn.LSTMCell(2, 3)(X[0, :0])[0].shape == (0, 3)
    assert lstm()(X, [tg.zeros((2, 3, 5)), array(np.zeros((2, 3, 5), np.float32))])[0].shape == (
        4,
        3,
        5,
    )
    assert nn.LSTM(2, 3, bias=False, forget_bias=0)(X)[0].shape == (4, 3, 3)
    assert nn.cross_entropy(tg.ones((2, 3)), [0, 2]).item() == pytest.approx(np.log(3))
    assert nn.cross_entropy(tg.ones(3), 2).item() == pytest.approx(np.log(3))
    assert nn.cross_entropy(tg.ones((1, 3)), targets(1).astype("uint8")).ndim == 0


def test_nan_goes_through() -> None:
    """A loss that is NaN is a fact about the run, not an error of the call."""
    model = rnn()
    output, _ = model(array(np.full_like(ONES, np.nan)))
    loss = nn.mse_loss(output, tg.zeros(output.shape))
    assert np.isnan(loss.item())
    loss.backward()
    assert np.isnan(model.weight_hh_l0.grad.numpy()).all()
