"""Your own cell or nonlinearity, named on the command line as MODULE:NAME."""

import json
import sys

import numpy as np
import pytest

import tinygrad182 as tg
from experiments.app import command_line
from experiments.regressors.networks import Network

MODULE = """
import tinygrad182 as tg

class MGU(tg.nn.RecurrentLayer):
    gates = ("forget", "new")
    state = ("h",)

    @staticmethod
    def step(xp, x, h, state):
        n = x.shape[-1] // 2
        forget = xp.sigmoid(x[..., :n] + h[..., :n])
        new = xp.tanh(x[..., n:] + forget * h[..., n:])
        return (state[0] + forget * (new - state[0]),)

class TwoStates(tg.nn.RecurrentLayer):
    gates = 1
    state = ("h", "slow")

    @staticmethod
    def step(xp, x, h, state):
        return xp.tanh(x + h), 0.9 * state[1] + 0.1 * x

class NotALayer:
    pass

NUMBER = 3

def double_tanh(x):
    return tg.tanh(2 * x)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an experiment in a folder that has ``own_kinds.py``; returns the status and results."""
    (tmp_path / "own_kinds.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "exiting.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            status = command_line.main([*arguments, "--out", "out"])
        except SystemExit as stop:  # tyro's, for options that cannot be
            status = stop.code
        results = tmp_path / "out" / "results.json"
        return status, json.loads(results.read_text()) if results.exists() else None

    yield run
    for name in ("own_kinds", "broken", "exiting"):
        sys.modules.pop(name, None)


SMALL = ("--length", "5", "--hidden-size", "3", "--steps", "2", "--spectral-radius", "1.2")


def test_a_cell_is_measured_as_it_was_written(run, draw_only):
    draw_only()
    status, results = run("gradient-flow", "--cell", "own_kinds:MGU", *SMALL, "--target", "last")
    assert status == 0
    assert results["configuration"]["cell"] == "own_kinds:MGU"
    assert {row["nonlinearity"] for row in results["tables"]["summary"]} == {"own_kinds:MGU"}
    model = Network("own_kinds:MGU", 1.2, "last", hidden_size=3).build(1, seed=0)
    assert type(model.rnn).__name__ == "MGU"
    for block in np.split(model.rnn.weight_hh_l0.numpy(), 2):
        assert tg.nn.init.spectral_radius(block) == pytest.approx(1.2)


def test_every_state_of_a_cell_is_drawn(run, draw_only):
    draw_only()
    status, results = run("gradient-flow", "--cell", "own_kinds:TwoStates", *SMALL)
    assert status == 0
    assert {row["state"] for row in results["tables"]["summary"]} == {"h", "slow"}


def test_a_cell_is_trained_beside_an_rnn(run, draw_only):
    draw_only()
    arguments = ("--cell", "rnn", "own_kinds:MGU", "--steps", "2", "--repeats", "1")
    status, results = run("training", *arguments, "--layers", "1", "--hidden-size", "3")
    assert status == 0
    networks = {row["network"] for row in results["tables"]["networks"]}
    assert networks == {"RNN, 1 layer", "MGU, 1 layer"}


@pytest.mark.parametrize("name", ["weight-paths", "nonlinearity", "target"])
def test_a_nonlinearity_is_that_of_the_networks(run, draw_only, name):
    draw_only()
    more = {"nonlinearity": ["--draws", "1"]}.get(name, [])
    status, results = run(
        *(name, "--nonlinearity", "own_kinds:double_tanh", "--length", "5", "--hidden-size", "8"),
        *("--repeats", "1", *more),
    )
    assert status == 0
    assert all(claim["holds"] for claim in results["claims"] if claim["about"] == "computation")
    model = Network("own_kinds:double_tanh", 1.0, "last", hidden_size=3).build(1, seed=0)
    x = tg.ones((1, 1, 1), dtype="float64")
    twice = Network("tanh", 1.0, "last", hidden_size=3).build(1, seed=0)
    for parameter in (twice.rnn.weight_ih_l0, twice.rnn.bias_ih_l0):
        parameter.assign(2 * parameter.numpy())
    assert np.allclose(model(x)[0].numpy(), twice(x)[0].numpy())


def test_a_constant_factor_of_a_function_is_not_said_to_be_that_of_the_weights(run, draw_only):
    draw_only()
    arguments = ("--nonlinearity", "own_kinds:double_tanh", "--length", "5", "--hidden-size", "3")
    _, results = run("nonlinearity", *arguments, "--repeats", "1", "--draws", "1")
    assert "W_h, with any constant factor inside it, by 4." in results["reading"][0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cell", "gru"], ["--cell gru", "rnn, lstm", "my_module:NAME"]),
        (["--cell", "no_such:MGU"], ["no_such:MGU", "no_such.py"]),
        (["--cell", "own_kinds:MGX"], ["own_kinds has no MGX"]),
        (["--cell", "broken:MGU"], ["broken", "ZeroDivisionError"]),
        (["--cell", "exiting:MGU"], ["exiting", "SystemExit(3)"]),
        (["--nonlinearity", "own_kinds:NUMBER"], ["own_kinds:NUMBER", "not a function"]),
        (["--cell", "own_kinds:NotALayer"], ["own_kinds:NotALayer", "tg.nn.RecurrentLayer"]),
        (["--cell", "own_kinds:double_tanh"], ["not a subclass", "tg.nn.RecurrentLayer"]),
        (["--nonlinearity", "own_kinds:MGU"], ["own_kinds:MGU", "not a function"]),
        (["--nonlinearity", "own_kinds:NotALayer"], ["nonlinearity", "NotALayer"]),
        (["--cell", "own_kinds:MGU", "--nonlinearity", "tanh"], ["--nonlinearity", "--cell rnn"]),
    ],
)
def test_what_cannot_be_used_is_said_plainly(run, capsys, arguments, words):
    status, results = run("gradient-flow", *arguments, *SMALL)
    assert (status, results) == (2, None)
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    for word in words:
        assert word in error
