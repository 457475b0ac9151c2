"""PyTorch's habits: each call works here, or the error says what to write."""

from __future__ import annotations

import copy
import enum
import fractions
import inspect
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, host, leaf, needs_torch
from tinygrad182._suggestions import torch_names
from tinygrad182._suggestions.numpy_names import HINTS

X = np.arange(6.0, dtype=np.float32).reshape(2, 3)
Y = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)

Call = Callable[[tg.Tensor, tg.Tensor], Any]

# What works, and NumPy's value of it.
WORKS: dict[str, tuple[Call, Any]] = {
    "view": (lambda x, y: x.view(3, 2), X.reshape(3, 2)),
    "view(-1)": (lambda x, y: x.view(-1), X.reshape(-1)),
    "view of a shape": (lambda x, y: x.view((3, -1)), X.reshape(3, 2)),
    "view_as": (lambda x, y: x.view_as(tg.zeros((6, 1))), X.reshape(6, 1)),
    "reshape_as": (lambda x, y: x.reshape_as(tg.zeros((6, 1))), X.reshape(6, 1)),
    "permute": (lambda x, y: y.permute(2, 0, 1), Y.transpose(2, 0, 1)),
    "permute of a tuple": (lambda x, y: y.permute((2, 0, 1)), Y.transpose(2, 0, 1)),
    "unsqueeze": (lambda x, y: x.unsqueeze(1), X[:, None]),
    "unsqueeze(dim=-1)": (lambda x, y: x.unsqueeze(dim=-1), X[..., None]),
    "tg.unsqueeze": (lambda x, y: tg.unsqueeze(x, dim=0), X[None]),
    "squeeze(dim=0)": (lambda x, y: x[:1].squeeze(dim=0), X[0]),
    "flatten": (lambda x, y: y.flatten(), Y.reshape(-1)),
    "flatten(1)": (lambda x, y: y.flatten(1), Y.reshape(2, 12)),
    "flatten(0, 1)": (lambda x, y: y.flatten(0, 1), Y.reshape(6, 4)),
    "flatten(start_dim=-2)": (lambda x, y: y.flatten(start_dim=-2), Y.reshape(2, 12)),
    "flatten of a number": (lambda x, y: tg.tensor(2.0).flatten(), np.float32([2.0])),
    "t": (lambda x, y: x.t(), X.T),
    "expand": (lambda x, y: x.unsqueeze(0).expand(4, 2, 3), np.broadcast_to(X, (4, 2, 3))),
    "expand(-1)": (lambda x, y: x.expand(4, -1, -1), np.broadcast_to(X, (4, 2, 3))),
    "expand_as": (lambda x, y: x.expand_as(tg.zeros((4, 2, 3))), np.broadcast_to(X, (4, 2, 3))),
    "contiguous": (lambda x, y: x.contiguous(), X),
    "numel": (lambda x, y: x.numel(), 6),
    "dim": (lambda x, y: y.dim(), 3),
    "len": (lambda x, y: len(x), 2),
    "item": (lambda x, y: x[1, 2].item(), 5.0),
    "tolist": (lambda x, y: x.tolist(), X.tolist()),
    "cpu": (lambda x, y: x.cpu().numpy(), X),
    "detach().cpu().numpy()": (lambda x, y: x.detach().cpu().numpy(), X),
    "double": (lambda x, y: x.double(), X.astype(np.float64)),
    "float": (lambda x, y: x.double().float(), X),
    "half": (lambda x, y: x.half(), X.astype(np.float16)),
    "type_as": (lambda x, y: x.type_as(y.double()), X.astype(np.float64)),
    "to(dtype)": (lambda x, y: x.to("float64"), X.astype(np.float64)),
    "to(tg.float64)": (lambda x, y: x.to(tg.float64), X.astype(np.float64)),
    "to(dtype=)": (lambda x, y: x.to(dtype=np.float64), X.astype(np.float64)),
    "to(device, dtype)": (lambda x, y: x.to(x.device, "float64"), X.astype(np.float64)),
    "to(tensor)": (lambda x, y: x.to(y.double()), X.astype(np.float64)),
    "pow": (lambda x, y: x.pow(2), X**2),
    "clamp": (lambda x, y: x.clamp(1, 2), X.clip(1, 2)),
    "clamp(min=)": (lambda x, y: x.clamp(min=1), X.clip(1)),
    "tg.clamp": (lambda x, y: tg.clamp(x, min=1.0, max=2.0), X.clip(1, 2)),
    "matmul": (lambda x, y: x.matmul(x.T), X @ X.T),
    "mm": (lambda x, y: x.mm(x.t()), X @ X.T),
    "bmm": (lambda x, y: y.bmm(y.mT), Y @ Y.mT),
    "masked_fill": (lambda x, y: x.masked_fill(x > 2, -1.0), np.where(X > 2, np.float32(-1), X)),
    "mean(dim=)": (lambda x, y: x.mean(dim=0), X.mean(0)),
    "mean(dim=, keepdim=)": (lambda x, y: x.mean(dim=1, keepdim=True), X.mean(1, keepdims=True)),
    "sum(dim=tuple)": (lambda x, y: y.sum(dim=(0, 2)), Y.sum((0, 2))),
    "sum(-1, keepdim=)": (lambda x, y: x.sum(-1, keepdim=True), X.sum(-1, keepdims=True)),
    "tg.sum(dim=)": (lambda x, y: tg.sum(x, dim=1), X.sum(1)),
    "tg.prod(dim=)": (lambda x, y: tg.prod(x, dim=1), X.prod(1)),
    "tg.any(dim=)": (lambda x, y: tg.any(x > 3, dim=1), (X > 3).any(1)),
    "argmax(dim=)": (lambda x, y: x.argmax(dim=1), X.argmax(1)),
    "tg.argmin(dim=)": (lambda x, y: tg.argmin(x, dim=0), X.argmin(0)),
    "cumsum(dim=)": (lambda x, y: x.cumsum(dim=1), X.cumsum(1)),
    "flip(dims=)": (lambda x, y: x.flip(dims=(0,)), X[::-1]),
    "unstack(dim=)": (lambda x, y: x.unstack(dim=1)[2], X[:, 2]),
    "take(dim=)": (lambda x, y: tg.take(x, [1], dim=0), X[[1]]),
    "cat": (lambda x, y: tg.cat([x, x]), np.concatenate([X, X])),
    "cat(dim=)": (lambda x, y: tg.cat((x, x), dim=1), np.concatenate([X, X], 1)),
    "concatenate": (lambda x, y: tg.concatenate([x, x], axis=1), np.concatenate([X, X], 1)),
    "stack(dim=)": (lambda x, y: tg.stack([x, x], dim=2), np.stack([X, X], 2)),
    "softmax(dim=)": (lambda x, y: tg.softmax(x * 0, dim=-1), np.full((2, 3), 1 / 3, np.float32)),
    "x.softmax(dim=)": (lambda x, y: (x * 0).softmax(dim=0), np.full((2, 3), 0.5, np.float32)),
    "requires_grad_": (lambda x, y: tg.zeros(2).requires_grad_().requires_grad, True),
    "hasattr": (lambda x, y: hasattr(x, "size_"), False),
    "getattr with a default": (lambda x, y: getattr(x, "randn_like", 7), 7),
    "round": (lambda x, y: (x / 2).round(), np.round(X / 2)),
    "ceil": (lambda x, y: (x / 2).ceil(), np.ceil(X / 2)),
    "floor": (lambda x, y: (x / 2).floor(), np.floor(X / 2)),
    "trunc": (lambda x, y: (-x / 2).trunc(), np.trunc(-X / 2)),
    "sign": (lambda x, y: (x - 2).sign(), np.sign(X - 2)),
    "norm": (lambda x, y: x.norm(), np.linalg.norm(X)),
    "norm(dim=)": (lambda x, y: x.norm(dim=1), np.linalg.norm(X, axis=1)),
    "cumprod(dim=)": (lambda x, y: x.cumprod(dim=1), X.cumprod(1)),
    "argsort": (lambda x, y: (-x).argsort(), (-X).argsort()),
    "diagonal": (lambda x, y: x.diagonal(), X.diagonal()),
    "trace of a matrix": (lambda x, y: x[:, :2].trace(), X[:, :2].trace()),
    "tril": (lambda x, y: x.tril(), np.tril(X)),
    "triu(1)": (lambda x, y: x.triu(1), np.triu(X, 1)),
    "roll": (lambda x, y: x.roll(1, 0), np.roll(X, 1, 0)),
    "tile": (lambda x, y: x.tile((2, 1)), np.tile(X, (2, 1))),
    "dot": (lambda x, y: x[0].dot(x[1]), X[0] @ X[1]),
    "F.relu": (lambda x, y: tg.nn.functional.relu(x - 3), np.maximum(X - 3, 0)),
    "F.linear": (lambda x, y: tg.nn.functional.linear(x, x, tg.ones(2)), X @ X.T + 1),
    "F.mse_loss": (lambda x, y: tg.nn.functional.mse_loss(x, x).item(), 0.0),
    "F.mse_loss(input=)": (
        lambda x, y: tg.nn.functional.mse_loss(input=x, target=x + 1).item(),
        1.0,
    ),
    "sum(input=)": (lambda x, y: tg.sum(input=x, dim=0), X.sum(0)),
    "var(dim=, correction=)": (
        lambda x, y: x.var(dim=0, correction=1),
        X.var(0, ddof=1),
    ),
    "transpose(1, 0)": (lambda x, y: x.transpose(1, 0), X.T),
    "transpose(-1, 0)": (lambda x, y: x.transpose(-1, 0), X.T),
    "transpose of a tuple, as NumPy's": (lambda x, y: x.transpose((0, 1)), X),
    "from_numpy": (lambda x, y: tg.from_numpy(X), X),
    "uniform_(a=, b=)": (
        lambda x, y: tg.nn.init.uniform_(tg.zeros(2), a=1.0, b=1.0),
        np.ones(2, np.float32),
    ),
    "constant_(val=)": (
        lambda x, y: tg.nn.init.constant_(tg.zeros(2), val=2.0),
        np.full(2, 2.0, np.float32),
    ),
    "to(array)": (lambda x, y: x.to(np.zeros(1)), X.astype(np.float64)),
    "ModuleList + list": (lambda x, y: len(tg.nn.ModuleList([lin()]) + [lin()]), 2),  # noqa: RUF005
    "del of a ModuleList": (lambda x, y: deleted(tg.nn.ModuleList([lin(), lin()])), 1),
    "a slice of a Sequential": (lambda x, y: len(tg.nn.Sequential(lin(), tg.tanh, lin())[1:]), 2),
}


def lin() -> tg.nn.Linear:
    return tg.nn.Linear(3, 3, rng=0)


def deleted(modules: tg.nn.ModuleList) -> int:
    del modules[0]
    return len(modules)


def sgd() -> tg.optim.SGD:
    w = leaf(X)
    w.grad = tg.ones_like(w)
    return tg.optim.SGD([w], 0.1)


def schedule() -> tg.optim.lr_scheduler.StepLR:
    return tg.optim.lr_scheduler.StepLR(sgd(), 1)


def written(name: str, value: Any) -> None:
    optimizer = sgd()
    optimizer.param_groups[0][name] = value
    optimizer.step()


def appended() -> None:
    optimizer = sgd()
    optimizer.param_groups[0]["params"].append(leaf(X))
    optimizer.step()


# Calls that raise an error, and what the message must hold.
EXPLAINED: dict[str, tuple[Call, str]] = {
    "size()": (lambda x, y: x.size(), r"6, as in NumPy; write x\.shape$"),
    "size(0)": (lambda x, y: x.size(0), r"write x\.shape\[0\]$"),
    "transpose(1, 2)": (lambda x, y: y.transpose(1, 2), r"transpose: 3 axes.*x\.swapaxes\(1, 2\)"),
    "transpose(0, 1)": (lambda x, y: x.transpose(0, 1), r"transpose: 0, 1 .*x\.T or x\.swapaxes"),
    "transpose(-2, -1)": (lambda x, y: x.transpose(-2, -1), r"transpose: -2, -1 .*x\.T"),
    "transpose(dim0=)": (lambda x, y: x.transpose(dim0=0, dim1=1), r"'dim0'.*x\.swapaxes"),
    "size(dim=0)": (lambda x, y: x.size(dim=0), r"write x\.shape\[0\]$"),
    **{
        f"{name}(0, 1)": (
            lambda x, y, name=name: getattr(x, name)(0, 1),
            rf"^{name}: keepdims 1 must be True or False; .*axis=\(0, 1\)",
        )
        for name in ("sum", "mean", "max", "min", "prod", "logsumexp")
    },
    "std(0, 1, 1)": (lambda x, y: tg.std(x, 0, 1, 1), "keepdims 1 must be True"),
    "var(0, True)": (lambda x, y: x.var(0, True), "var: correction True must be a number"),
    "std(1, keepdim=)": (lambda x, y: x.std(1, keepdim=True), "std: keepdim= .*correction=1"),
    "max(1, keepdim=)": (lambda x, y: x.max(1, keepdim=True), "max: keepdim= .*tg.argmax"),
    "sort(dim=)": (lambda x, y: tg.sort(x, dim=0), "sort: dim= .*axis=0, and tg.argsort"),
    "median(dim=)": (lambda x, y: tg.median(x, dim=0), "median: dim= .*no indices.*axis=0"),
    "split(dim=)": (lambda x, y: tg.split(x, 2, dim=0), "split: dim= .*number of parts.*axis=0"),
    "sin(y=)": (lambda x, y: tg.sin(y=x), "^sin: there is no argument 'y'; .*by position"),
    "relu(inplace=)": (lambda x, y: tg.relu(x, inplace=True), "relu: .*'inplace'; .*leave it out"),
    "x.relu(inplace=)": (lambda x, y: x.relu(inplace=True), "relu: .*'inplace'; .*leave it out"),
    "add(alpha=)": (lambda x, y: tg.add(x, x, alpha=2), r"add: .*'alpha'; write x \+ alpha \* y"),
    "pow(exponent=)": (lambda x, y: x.pow(exponent=2), r"'exponent'; write x \*\* exponent"),
    "argsort(descending=)": (
        lambda x, y: tg.argsort(x, descending=True),
        r"^argsort: there is no argument 'descending'; write tg\.argsort\(-x\)",
    ),
    "floor(foo=)": (lambda x, y: tg.floor(x, foo=1), "^floor: there is no argument 'foo'"),
    "equal(foo=)": (lambda x, y: tg.equal(x, x, foo=1), "^equal: there is no argument 'foo'"),
    "isnan(foo=)": (lambda x, y: tg.isnan(x, foo=1), "^isnan: there is no argument 'foo'"),
    "logical_not(foo=)": (
        lambda x, y: tg.logical_not(x > 1, foo=1),
        "^logical_not: there is no argument 'foo'",
    ),
    "argmax(foo=)": (lambda x, y: tg.argmax(x, foo=1), "^argmax: there is no argument 'foo'"),
    "to(devcie=)": (lambda x, y: x.to(devcie="cpu"), r"Tensor\.to: .*did you mean 'device'"),
    "to(non_blocking=)": (lambda x, y: x.to("cpu", non_blocking=True), "leave it out"),
    "numpy(force=)": (lambda x, y: x.numpy(force=True), r"x\.detach\(\)\.numpy"),
    "clone(memory_format=)": (lambda x, y: x.clone(memory_format=1), "leave it out"),
    "item(0)": (lambda x, y: x.item(0), r"Tensor\.item: too many .*it takes \(\)"),
    "clip_grad_norm_()": (
        lambda x, y: tg.optim.clip_grad_norm_([x]),
        "clip_grad_norm_: .*'max_norm'",
    ),
    "clip_grad_value_(clip=)": (
        lambda x, y: tg.optim.clip_grad_value_([x], clip=1.0),
        "did you mean 'clip_value'",
    ),
    "clip_grad_norm_(foreach=)": (
        lambda x, y: tg.optim.clip_grad_norm_([x], 1.0, foreach=True),
        "leave it out",
    ),
    "uniform_(hgih=)": (lambda x, y: tg.nn.init.uniform_(x, hgih=1), "did you mean 'high'"),
    "Parameter(requires_grad=)": (
        lambda x, y: tg.nn.Parameter(X, requires_grad=False),
        r"Parameter: .*\.requires_grad_\(False\)",
    ),
    "step(closure)": (lambda x, y: sgd().step(print), r"step: too many .*it takes \(\)"),
    "step(closure=)": (lambda x, y: sgd().step(closure=print), r"then call step\(\)"),
    "detect_anomaly(check_nan=)": (
        lambda x, y: tg.detect_anomaly(check_nan=True),
        "detect_anomaly: .*leave it out",
    ),
    "state_dict(prefix=)": (lambda x, y: lin().state_dict(prefix="a"), "no argument 'prefix'"),
    "train(mod=)": (lambda x, y: lin().train(mod=True), "did you mean 'mode'"),
    "schedule.step(3)": (lambda x, y: schedule().step(3), r"step: too many .*it takes \(\)"),
    "schedule.get_lr": (lambda x, y: schedule().get_lr(), r"write schedule\.get_last_lr\(\)"),
    "schedule, misspelt": (lambda x, y: schedule().last_eopch, "did you mean 'last_epoch'"),
    "cat(x, x)": (
        lambda x, y: tg.cat(x, x),
        r"^concat: axis tensor.* must be a whole number",
    ),
    "max(x, y)": (lambda x, y: tg.max(x, y), r"^max: axis tensor.* must be a whole number"),
    "a setting written as text": (lambda x, y: written("lr", "a"), "SGD: lr 'a' must be a finite"),
    "a parameter appended": (lambda x, y: appended(), r"SGD: .*optimizer\.add_param_group"),
    "ModuleList[5]": (
        lambda x, y: tg.nn.ModuleList([lin()])[5],
        "ModuleList: there is no item 5 among 1",
    ),
    "ModuleList['a']": (
        lambda x, y: tg.nn.ModuleList([lin()])["a"],
        "ModuleList: index 'a' must be a whole number",
    ),
    "ModuleList(lin)": (lambda x, y: tg.nn.ModuleList(lin()), "a Linear is not a list of modules"),  # type: ignore[arg-type]
    "Sequential[5]": (lambda x, y: tg.nn.Sequential(lin())[5], "Sequential: there is no item 5"),
    "ModuleDict['b']": (
        lambda x, y: tg.nn.ModuleDict({"a": lin()})["b"],
        r"ModuleDict: there is no 'b'; it has \['a'\]",
    ),
    "t of three axes": (lambda x, y: y.t(), r"t: shape \(2, 3, 4\).*x\.mT"),
    "max(dim=)": (lambda x, y: x.max(dim=1), r"max: .*axis=1, and tg\.argmax"),
    "min(dim=)": (lambda x, y: tg.min(x, dim=0), r"min: .*axis=0, and tg\.argmin"),
    "std(dim=)": (lambda x, y: x.std(dim=1), "std: .*axis=1, and correction=1"),
    "var(dim=)": (lambda x, y: x.var(dim=1), "var: .*axis=1, and correction=1"),
    "std(unbiased=)": (lambda x, y: x.std(unbiased=False), "std: .*'unbiased'.*correction=0"),
    "dim and axis": (lambda x, y: x.sum(axis=0, dim=0), "sum: dim= and axis= mean the same"),
    "a misspelt axis": (lambda x, y: x.sum(axes=0), "sum: .*'axes'; did you mean 'axis'"),
    "to()": (lambda x, y: x.to(), "to: pass a device such as 'cuda', a dtype"),
    "to twice": (lambda x, y: x.to("float32", "float64"), "to: two of dtype"),
    "to('gpu')": (lambda x, y: x.to("gpu"), "unknown device 'gpu'"),
    "add_": (lambda x, y: x.add_(1), r"'add_'.*use the result.*x\.assign"),
    "zero_": (lambda x, y: x.zero_(), r"'zero_'.*x\.assign"),
    "mul_": (lambda x, y: x.mul_(2), r"'mul_'.*x\.assign"),
    "copy_": (lambda x, y: x.copy_(y), r"'copy_'.*x\.assign"),
    "fill_": (lambda x, y: x.fill_(0), r"'fill_'.*x\.assign"),
    "grad.zero_": (lambda x, y: x.detach_(), r"'detach_'.*x\.assign"),
    "repeat": (lambda x, y: x.repeat(2, 1), r"'repeat'; write x\.tile.* tg\.repeat"),
    "sort": (lambda x, y: x.sort(), r"'sort'; write tg\.sort\(x\).* tg\.argsort"),
    "long": (lambda x, y: x.long(), r"x\.astype\('int64'\)"),
    "type": (lambda x, y: x.type(), r"write x\.dtype"),
    "is_cuda": (lambda x, y: x.is_cuda, r"x\.device != 'cpu'"),
    "grad_fn": (lambda x, y: x.grad_fn, r"tg\.inspect\.trace\(loss\)"),
    "register_hook": (lambda x, y: x.register_hook(print), r"tg\.inspect\.trace"),
    "maximum": (lambda x, y: x.maximum(x), r"write tg\.maximum\(x"),
    "a misspelt method": (lambda x, y: x.resahpe(6), "did you mean 'reshape'"),
    "randn": (lambda x, y: tg.randn(2, 3), r"'randn'; write tg\.tensor\(np\.random"),
    "rand": (lambda x, y: tg.rand(2, 3), r"np\.random\.default_rng\(0\)"),
    "manual_seed": (lambda x, y: tg.manual_seed(0), "no global generator: pass rng=0"),
    "FloatTensor": (lambda x, y: tg.FloatTensor([1.0]), r"write tg\.tensor\(data\)"),
    "empty": (lambda x, y: tg.empty(2), r"write tg\.zeros\(shape\)"),
    "zeros(2, 2)": (lambda x, y: tg.zeros(2, 2), "a shape is one tuple"),
    "tg.cuda": (lambda x, y: tg.cuda.is_available(), "cuda_is_available"),
    "tg.device": (lambda x, y: tg.device("cpu"), "a device is a string"),
    "tg.float16": (lambda x, y: tg.float16, "dtype='float16'"),
    "tg.sort": (lambda x, y: tg.topk(x, 2), "argsort"),
    "tg.autograd": (lambda x, y: tg.autograd.grad(x, x), r"tg\.grad"),
    "a misspelt function": (
        lambda x, y: tg.sofmax(x),
        "tg has no 'sofmax'; did you mean 'softmax'",
    ),
    "require_grad": (
        lambda x, y: tg.tensor([1.0], require_grad=True),
        "tensor: .*'require_grad'; did you mean 'requires_grad'",
    ),
    # modules
    "nn.ReLU": (lambda x, y: tg.nn.ReLU(), r"write tg\.relu.*Sequential"),
    "nn.MSELoss": (lambda x, y: tg.nn.MSELoss(), r"tg\.nn\.mse_loss"),
    "nn.CrossEntropyLoss": (lambda x, y: tg.nn.CrossEntropyLoss(), r"tg\.nn\.cross_entropy"),
    "nn.Conv2d": (lambda x, y: tg.nn.Conv2d(1, 1, 3), "no convolutions"),
    "nn.utils": (lambda x, y: tg.nn.utils.clip_grad_norm_([], 1), r"tg\.optim\.clip_grad_norm_"),
    "F.dropout": (lambda x, y: tg.nn.functional.dropout(x), r"tg\.nn\.Dropout"),
    "hidden=": (lambda x, y: tg.nn.RNN(1, hidden=8), "RNN: .*'hidden'; did you mean 'hidden_size'"),
    "no size": (lambda x, y: tg.nn.LSTM(1), "LSTM: missing .*'hidden_size'; it takes"),
    "out_feature=": (
        lambda x, y: tg.nn.Linear(3, out_feature=2),
        "Linear: .*'out_feature'; did you mean 'out_features'",
    ),
    "a misspelt argument of forward": (
        lambda x, y: tg.nn.RNN(3, 2, rng=0)(x, lenghts=[2]),
        "RNN.*'lenghts'; did you mean 'lengths'",
    ),
    "register_buffer": (
        lambda x, y: tg.nn.Linear(3, 2).register_buffer("b", x),
        "Linear has no 'register_buffer'; write module.name = value",
    ),
    "register_forward_hook": (
        lambda x, y: tg.nn.Linear(3, 2).register_forward_hook(print),
        r"tg\.inspect\.trace",
    ),
    "a misspelt parameter": (lambda x, y: tg.nn.Linear(3, 2).wieght, "did you mean 'weight'"),
    "reduction=": (
        lambda x, y: tg.nn.mse_loss(x, x, reduction="sum"),
        "mse_loss: .*'reduction'; .*losses are means",
    ),
    "ignore_index=": (
        lambda x, y: tg.nn.cross_entropy(x, [0, 1], ignore_index=0),
        "cross_entropy: .*'ignore_index'; .*select",
    ),
    "to an integer type": (
        lambda x, y: tg.nn.Linear(3, 2).to(dtype="int64"),
        "parameters of dtype int64 cannot learn",
    ),
    # optimizers
    "weight_deacy=": (
        lambda x, y: tg.optim.Adam([leaf(X)], weight_deacy=0.1),
        "Adam: .*'weight_deacy'; did you mean 'weight_decay'",
    ),
    "no lr": (lambda x, y: tg.optim.SGD([leaf(X)]), "SGD: missing .*'lr'"),
    "learning_rate=": (
        lambda x, y: tg.optim.SGD([leaf(X)], learning_rate=0.1),
        r"SGD: .*'learning_rate'; it takes \(parameters, lr",
    ),
    "RMSprop": (lambda x, y: tg.optim.RMSprop([leaf(X)]), r"write tg\.optim\.Adam"),
    "StepLR": (lambda x, y: tg.optim.StepLR, r"tg\.optim\.lr_scheduler\.StepLR"),
    "ReduceLROnPlateau": (
        lambda x, y: tg.optim.lr_scheduler.ReduceLROnPlateau,
        "set optimizer.lr yourself",
    ),
    "step_sise=": (
        lambda x, y: tg.optim.lr_scheduler.StepLR(tg.optim.SGD([leaf(X)], 0.1), step_sise=2),
        "StepLR: .*'step_sise'; did you mean 'step_size'",
    ),
    "a setting of a group": (
        lambda x, y: tg.optim.SGD([{"params": [leaf(X)], "lrr": 0.1}], 0.1),
        "SGD: a group has no setting 'lrr'; use lr, momentum, weight_decay",
    ),
    "set_to_non=": (
        lambda x, y: tg.optim.SGD([leaf(X)], 0.1).zero_grad(set_to_non=True),
        "zero_grad: .*'set_to_non'; did you mean 'set_to_none'",
    ),
    # saving, derivatives
    "save(state, path)": (
        lambda x, y: tg.save(tg.nn.Linear(1, 1).state_dict(), "x.pt"),  # type: ignore[arg-type]
        r"save: the path comes first: tg\.save\(path, model",
    ),
    "save(model, path)": (
        lambda x, y: tg.save(tg.nn.Linear(1, 1), "x.pt"),  # type: ignore[arg-type]
        "save: the path comes first",
    ),
    "load(map_location=)": (
        lambda x, y: tg.load("x", map_location="cpu"),
        "load: .*'map_location'; write device=",
    ),
    "load_state_dict of a checkpoint": (
        lambda x, y: tg.nn.Linear(1, 1).load_state_dict(tg.Checkpoint({}, None, {})),  # type: ignore[arg-type]
        r"Checkpoint is not a mapping .*; pass its \.model",
    ),
    "load_state_dict of a module": (
        lambda x, y: tg.nn.Linear(1, 1).load_state_dict(tg.nn.Linear(1, 1)),  # type: ignore[arg-type]
        r"Linear is not a mapping .*; pass its \.state_dict",
    ),
    "backward(retain=)": (
        lambda x, y: leaf(X).sum().backward(retain=True),
        "backward: .*'retain'; did you mean 'retain_graph'",
    ),
    "grad(allow_unused=)": (
        lambda x, y: tg.grad(x, x, allow_unused=True),
        "grad: .*'allow_unused'; .*unused input is None",
    ),
    "std(dim=, unbiased=)": (
        lambda x, y: x.std(dim=0, unbiased=False),
        r"^std: .*'unbiased'; write correction=1 \(unbiased\) or correction=0",
    ),
    "norm(p=)": (lambda x, y: tg.norm(x, p=1, dim=1), "^norm: .*'p'; a norm takes ord= and axis="),
    "an array as grad": (
        lambda x, y: setattr(leaf(X), "grad", X),
        r"^grad must be .* not numpy\.ndarray; write w\.grad = tg\.tensor",
    ),
    "no neighbour that differs in much": (lambda x, y: tg.roulette, "no 'roulette'$"),
    # the microscope
    "select(t=)": (
        lambda x, y: tg.inspect.trace((leaf(X) * 2).sum()).select(t=3),
        "select: .*'t'; did you mean 'time'",
    ),
    "grad_nrom": (
        lambda x, y: tg.inspect.gradient_flow(x, bakward=True),
        "gradient_flow: .*'bakward'; did you mean 'backward'",
    ),
    "a misspelt view": (lambda x, y: tg.inspect.gradientflow, "did you mean 'gradient_flow'"),
    "beam_search(width=)": (
        lambda x, y: tg.decode.beam_search(None, None, 1, width=3),
        "'width'; did you mean 'beam_width'",
    ),
}


@pytest.mark.parametrize("name", WORKS)
def test_what_works(name: str) -> None:
    call, expected = WORKS[name]
    found = call(const(X), const(Y))
    if isinstance(found, tg.Tensor):
        assert found.dtype == np.asarray(expected).dtype
        np.testing.assert_allclose(host(found), expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_wrong_call_is_explained(name: str) -> None:
    call, message = EXPLAINED[name]
    with pytest.raises(tg.TinygradError, match=message) as caught:
        call(const(X), const(Y))
    assert isinstance(
        caught.value, (TypeError, AttributeError, ValueError, RuntimeError, LookupError)
    )


def test_pytorchs_names_pass_gradients() -> None:
    x = leaf(X.astype(np.float64))
    y = x.view(3, 2).permute(1, 0).unsqueeze(0).expand(2, -1, -1).flatten(1).pow(2)
    y.masked_fill(y > 20, 0.0).clamp(max=9.0).mean(dim=0, keepdim=True).sum().backward()
    expected = np.where(X**2 <= 9, 2.0 * X, 0.0)
    np.testing.assert_allclose(host(x.grad), expected, rtol=1e-12)


def test_what_works_is_pytorchs() -> None:
    torch = needs_torch()
    for name, (call, _) in WORKS.items():
        words = (
            "attr",
            "tg.",
            "F.",
            "_as",
            "cat",
            "stack",
            "take",
            "softmax(",
            "to(",
            "require",
            "NumPy",
        )
        if any(word in name for word in words):
            continue
        ours, theirs = call(const(X), const(Y)), call(torch.tensor(X), torch.tensor(Y))
        ours = host(ours) if isinstance(ours, tg.Tensor) else ours
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-6, err_msg=name)


def test_a_number_of_elements_is_an_int() -> None:
    size = const(X).size
    assert isinstance(size, int)
    assert (size, repr(size), size + 1, range(size)[-1]) == (6, "6", 7, 5)
    assert pickle.loads(pickle.dumps(size)) == copy.deepcopy(size) == 6
    x, seven = leaf(X), tg.arange(7)
    (x.sum() / x.size).backward()
    np.testing.assert_allclose(host(x.grad), 1 / 6, rtol=1e-6)
    for y, expected in (
        (x * size, X * 6),
        (size - x, 6 - X),
        (x**size, X**6),
        (x < size, X < 6),
        (tg.maximum(size, x), np.full_like(X, 6)),
        (tg.clip(x, 0, size), X),
        (tg.where(x > 2, size, x), np.where(X > 2, np.float32(6), X)),
        (tg.full(2, size), np.float32([6, 6])),
        (tg.full_like(x, size), np.full_like(X, 6)),
        (tg.zeros(2).assign(size), np.float32([6, 6])),
        (tg.tensor([size, 1]), np.float32([6, 1])),
        (tg.tensor(size), np.float32(6)),
        (tg.arange(size), np.arange(6)),
        (x.reshape(size), X.reshape(6)),
        (tg.add(size, size), np.float32(12)),
        (seven[size], np.int64(6)),
        (seven[:size], np.arange(6)),
        (np.float32(2) * x * size, 12 * X),
    ):
        assert y.dtype == np.asarray(expected).dtype
        np.testing.assert_allclose(host(y), expected, rtol=1e-6)


def test_a_number_of_a_class_of_its_own_is_a_number() -> None:
    class Level(enum.IntEnum):
        HIGH = 3

    class Rate(float):
        pass

    found = const(X) * Level.HIGH + Rate(0.5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(host(found), X * 3 + 0.5)
    assert tg.full(1, Level.HIGH).dtype == np.float32
    assert (const(X) == True).dtype == (const(X > 0) & True).dtype == bool  # noqa: E712


def test_functions_stay_what_they_are() -> None:
    for f in (tg.sum, tg.exp, tg.tensor, tg.inspect.trace, tg.decode.beam_search):
        assert pickle.loads(pickle.dumps(f)) is f
    assert "axis" in str(__import__("inspect").signature(tg.sum))


def test_an_error_inside_a_function_is_not_changed() -> None:
    class Model(tg.nn.Module):
        def __init__(self, size: int) -> None:
            self.size = len(size)  # type: ignore[arg-type]

        def forward(self, x: Any) -> Any:
            return x + len(3)  # type: ignore[arg-type]

        @property
        def weight(self) -> Any:
            return self.bias

    with pytest.raises(TypeError, match="object of type 'int' has no len") as caught:
        Model(3)
    assert not isinstance(caught.value, tg.TinygradError)
    model = Model([3])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="object of type 'int' has no len"):
        model(1)
    with pytest.raises(AttributeError, match="'bias'"):  # not: has no 'weight'
        model.weight  # noqa: B018 - a property that raises

    class Largest(tg.nn.Module):
        forward = staticmethod(max)  # of which Python knows no signature

    with pytest.raises(TypeError, match="max expected at least 1 argument"):
        Largest()()
    with pytest.raises(tg.CallError, match="Model: missing a required argument: 'size'"):
        Model()  # type: ignore[call-arg]


def test_an_unknown_name_can_be_pickled_and_makes_its_message_late() -> None:
    with pytest.raises(tg.UnknownNameError) as caught:
        tg.nn.Linear(1, 1, rng=0).wieght  # noqa: B018 - the wrong call in question
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) == "Linear has no 'wieght'; did you mean 'weight'?"
    assert again.name == "wieght"


# --- the tables ----------------------------------------------------------------------------------

OWNERS: dict[str, Callable[[], Any]] = {
    "TENSOR": lambda: const(X),
    "MODULE": lambda: tg.nn.Linear(1, 1),
    "OPTIMIZER": lambda: tg.optim.SGD([leaf(X)], 0.1),
    "SCHEDULE": lambda: tg.optim.lr_scheduler.StepLR(tg.optim.SGD([leaf(X)], 0.1), 1),
    "TG": lambda: tg,
    "NN": lambda: tg.nn,
    "FUNCTIONAL": lambda: tg.nn.functional,
    "OPTIM": lambda: tg.optim,
    "LR_SCHEDULER": lambda: tg.optim.lr_scheduler,
    "INIT": lambda: tg.nn.init,
    "CUDA": lambda: tg.cuda,
}
REMEDIES = [(table, *row) for table in OWNERS for row in getattr(torch_names, table).items()]
NOT_RUN = re.compile("cupy|to_empty|'cuda")


@pytest.mark.parametrize(("table", "name", "text"), REMEDIES, ids=lambda value: str(value)[:20])
def test_every_unknown_name_is_explained_and_its_remedy_runs(
    table: str, name: str, text: str
) -> None:
    with pytest.raises(tg.UnknownNameError) as caught:
        getattr(OWNERS[table](), name)
    assert str(caught.value).endswith(text)
    assert not hasattr(OWNERS[table](), name)
    if (found := code_of(text)) and not NOT_RUN.search(text):
        with tg.use_device(tg.ones(1).device), np.errstate(all="ignore"):
            exec(compile(found, name, "exec"), environment())


@pytest.mark.parametrize(("table", "name", "text"), REMEDIES, ids=lambda value: str(value)[:20])
def test_a_remedy_names_our_function_of_the_same_name(table: str, name: str, text: str) -> None:
    if table in ("TENSOR", "TG", "FUNCTIONAL") and name in tg.functions.__all__:
        assert f"tg.{name}" in text
    assert not hasattr(tg, name) or table != "TG"


def test_hints_are_of_functions_that_we_do_not_have() -> None:
    assert not HINTS.keys() & set(tg.functions.__all__)


def code_of(text: str) -> str:
    """The code after "write", up to prose: with the names that it says "with" of set before."""
    said = re.match(r"write (.*?)(?:$|; |, or | with (.*= .*))", text)
    if said is None:
        return ""
    code, given = said.groups()
    return f"{given}\n{code}" if given else code


def environment() -> dict[str, Any]:
    """The names that the remedies use."""
    model = tg.nn.Sequential()
    model.layer = layer = tg.nn.Linear(3, 3, rng=0)
    return {
        "tg": tg, "np": np, "copy": copy, "x": leaf(X[[0, 1, 0]]), "y": const(X[[0, 1, 0]]),
        "v": const(X[0]), "n": 1, "k": const(X),
        "start": 0, "length": 1, "step": 1, "a": const(X[[0, 1, 0]]), "b": const(X[[0, 1, 0]]),
        "i": 0, "q": const(X),
        "d": 3, "mask": const(X[[0, 1, 0]] > 2), "shape": (2, 2), "data": [1.0], "array": X, "low": 0,
        "high": 3, "f": tg.tanh, "loss": (leaf(X) * 2).sum(), "indices": [0, 1], "model": model,
        "module": tg.nn.Sequential(), "layer": tg.nn.Linear(1, 1), "values": const(X), "value": 1.0,
        "device": "cpu", "parameters": list(model.parameters()), "pred": const(X), "target": const(X),
        "p": const(np.array([0.2, 0.3, 0.5])), "logits": const(X), "targets": [0, 1],
        "sizes": 3, "classes": 3,
        "weight": layer.weight, "optimizer": (optimizer := tg.optim.SGD(model.parameters(), 0.1)),
        "schedule": tg.optim.lr_scheduler.StepLR(optimizer, 1),
        "generator": np.random.default_rng(0),
    }  # fmt: skip


def test_remedies_are_found() -> None:
    assert code_of("write x + a @ b") == "x + a @ b"
    assert code_of("write tg.take(v, i) with i = [1]") == "i = [1]\ntg.take(v, i)"
    assert code_of("write module.name = layer; assigned modules are found") == "module.name = layer"
    assert code_of("there is none") == ""
    assert sum(bool(code_of(text)) for _, _, text in REMEDIES) >= 120


def test_functions_of_two_names_are_one_and_can_be_pickled() -> None:
    public = {name: f for name, f in vars(tg).items() if callable(f) and name[0] != "_"}
    for name, f in public.items():
        if f.__module__ == "tinygrad182":
            assert pickle.loads(pickle.dumps(f)) is f, name
    assert tg.arccosh is tg.acosh
    assert tg.pow is tg.power


def test_methods_of_your_own_class_are_left_as_they_are() -> None:
    class Own(tg.nn.Module):
        def encode(self, x: Any) -> Any:
            return x

    assert not hasattr(Own.encode, "__wrapped__")
    assert hasattr(tg.nn.Module.train, "__wrapped__")


def is_open(f: Any) -> bool:
    """Whether any name may be passed, such as to ``tg.save``."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(f).parameters.values())


NAMESPACES = {
    "": tg,
    "nn": tg.nn,
    "nn.functional": tg.nn.functional,
    "nn.init": tg.nn.init,
    "optim": tg.optim,
    "decode": tg.decode,
    "inspect": tg.inspect,
}
PUBLIC = [
    (f"{space}.{name}".lstrip("."), f)
    for space, module in NAMESPACES.items()
    for name, f in vars(module).items()
    if inspect.isfunction(f) and not name.startswith("_") and not is_open(f)
    if name in getattr(module, "__all__", [name]) and (space != "nn.init" or name.endswith("_"))
]
OBJECTS: dict[str, Callable[[], Any]] = {
    "Tensor": lambda: const(X),
    "Parameter": lambda: tg.nn.Parameter(X),
    "Linear": lin,
    "LSTM": lambda: tg.nn.LSTM(2, 2),
    "Sequential": tg.nn.Sequential,
    "ModuleList": tg.nn.ModuleList,
    "ModuleDict": tg.nn.ModuleDict,
    "Adam": lambda: tg.optim.Adam([leaf(X)]),
    "StepLR": schedule,
}


@pytest.mark.parametrize(("name", "f"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_every_function_tells_an_unknown_argument(name: str, f: Any) -> None:
    with pytest.raises(tg.CallError, match="no argument 'bogus'"):
        f(bogus=1)


@pytest.mark.parametrize("name", OBJECTS)
def test_every_method_tells_an_unknown_argument(name: str) -> None:
    owner = OBJECTS[name]()
    for method in dir(type(owner)):
        function = getattr(type(owner), method)
        told = not method.startswith("_") and method not in ("forward", "step")
        if told and inspect.isfunction(function):
            with pytest.raises(tg.CallError, match="no argument 'bogus'"):
                getattr(owner, method)(bogus=1)
    with pytest.raises(tg.CallError, match="no argument 'bogus'"):
        type(owner)(bogus=1) if name != "Tensor" else tg.tensor(bogus=1)


class Named:
    """A dtype or a device of another library: what it is, its text says."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


Dtype = type("dtype", (Named,), {})


def check_dtypes_and_devices(double: Any, cpu: Any) -> None:
    model = tg.nn.Linear(2, 2, rng=0, dtype=double, device=cpu)
    assert model.weight.dtype == np.float64
    for given in (
        tg.nn.Linear(2, 2, rng=0).to(dtype=double).weight,
        tg.nn.Linear(2, 2, rng=0).to(double).weight,
        tg.nn.Linear(2, 2, rng=0).to(cpu, double).weight,
        tg.ones(2, device=cpu).to(double),
        tg.ones(2, device=cpu).to(device=cpu, dtype=double),
        tg.ones(2, dtype=double, device=cpu),
        tg.tensor([1], dtype=double, device=cpu),
        tg.ones(2, device=cpu).astype(double),
        tg.arange(3, dtype=double, device=cpu),
    ):
        assert given.dtype == np.float64
    with tg.use_device(cpu):
        assert tg.zeros(1).device == "cpu"


def test_dtypes_and_devices_are_read_by_name() -> None:
    check_dtypes_and_devices(Dtype("torch.float64"), Named("cpu"))
    with pytest.raises(tg.DTypeError, match="not a numeric dtype"):
        tg.ones(2, dtype=Dtype("torch.bfloat16"))
    with pytest.raises(tg.DeviceError, match="unknown device"):
        tg.ones(2, device=Named("mps"))  # type: ignore[arg-type]


def test_dtypes_and_devices_of_pytorch_are_taken() -> None:
    torch = needs_torch()
    check_dtypes_and_devices(torch.float64, torch.device("cpu"))
    theirs = torch.ones(1, dtype=torch.float64)
    assert tg.ones(2, device="cpu").to(theirs).dtype == np.float64
    assert tg.ones(2, device="cpu").to(torch.float).dtype == np.float32


NUMBERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda n: tg.optim.SGD([leaf(X)], n).lr,
    "betas": lambda n: tg.optim.Adam([leaf(X)], betas=(n, n)).betas[0],
    "LayerNorm": lambda n: tg.nn.LayerNorm(3, eps=n).eps,
    "Dropout": lambda n: tg.nn.Dropout(n).p,
    "gamma": lambda n: tg.optim.lr_scheduler.ExponentialLR(sgd(), n).gamma,
    "start_factor": lambda n: tg.optim.lr_scheduler.LinearLR(sgd(), n).start_factor,
    "eta_min": lambda n: tg.optim.lr_scheduler.CosineAnnealingLR(sgd(), 3, n).eta_min,
    "max_norm": lambda n: tg.optim.clip_grad_norm_(sgd().parameters, n) * 0 + 0.5,
    "clip_value": lambda n: clipped(n),
}


def clipped(value: Any) -> float:
    optimizer = sgd()
    tg.optim.clip_grad_value_(optimizer.parameters, value)
    grad = optimizer.parameters[0].grad
    assert grad is not None
    return float(grad[0, 0])


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "number", [np.float32(0.5), np.float64(0.5), np.float16(0.5), fractions.Fraction(1, 2)]
)
def test_a_number_may_be_numpys(name: str, number: Any) -> None:
    found = NUMBERS[name](number)
    assert type(found) is float
    assert found == 0.5


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("wrong", ["0.5", True, None, math.nan, -0.5, [0.5]])
def test_what_is_not_a_number_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(tg.ArgumentError, match="must be"):
        NUMBERS[name](wrong)


def test_a_number_beyond_float_is_refused() -> None:
    with pytest.raises(tg.ArgumentError, match="SGD: lr 1"):
        tg.optim.SGD([leaf(X)], 10**400)
