"""The main job from the command line to its files, on small networks."""

import csv
import json
import re
from collections import Counter

import numpy as np
import pytest

import tinygrad182 as tg
from experiments.app import command_line
from experiments.regressors.data import RandomSequences
from experiments.regressors.flow import loss_of, measure_flow
from experiments.regressors.networks import Network


def run(tmp_path, *arguments):
    """Run gradient-flow and return its record and its rows by time step."""
    out = tmp_path / "out"
    assert command_line.main(["gradient-flow", "--out", str(out), *map(str, arguments)]) == 0
    with (out / "flow.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return json.loads((out / "results.json").read_text()), rows


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    """All that the default run compares, but small and short."""
    folder = tmp_path_factory.mktemp("default")
    sizes = ("--hidden-size", 8, "--length", 20, "--batch", 4, "--steps", 10, "--seed", 3)
    return folder / "out", *run(folder, *sizes)


def test_every_combination_is_there_before_and_after_at_every_step(default):
    _, _, rows = default
    assert len(rows) == 3 * 3 * 2 * 2 * 20
    keys = ("nonlinearity", "spectral_radius", "target", "moment")
    counts = Counter(tuple(row[key] for key in keys) for row in rows)
    assert set(counts.values()) == {20}
    assert {key[0] for key in counts} == {"identity", "tanh", "relu"}
    assert {key[1] for key in counts} == {"0.5", "1.0", "2.0"}


def test_the_files_are_there_and_named_in_the_record(default):
    out, record, _ = default
    figures = {"gradient_flow", "gradient_flow_after", "gradient_before_after"}
    figures |= {"hidden_states", "loss"}
    expected = {f"{name}.png" for name in figures}
    expected |= {f"{name}.csv" for name in ("verdicts", "summary", "flow", "loss")}
    assert set(record["files"]) == expected
    assert {path.name for path in out.iterdir()} == expected | {"report.html", "results.json"}
    assert all((out / name).stat().st_size > 0 for name in expected)


def test_the_record_has_the_configuration_with_what_was_left_open(default):
    _, record, _ = default
    assert record["configuration"]["length"] == 20
    assert record["configuration"]["seed"] == 3
    assert record["configuration"]["spectral_radius"] == [0.5, 1.0, 2.0]
    assert record["configuration"]["nonlinearity"] == ["identity", "tanh", "relu"]


def test_both_claims_hold(default):
    _, record, _ = default
    assert [claim["holds"] for claim in record["claims"]] == [True, True]
    assert all(claim["threshold"] == 1e-12 for claim in record["claims"])
    assert record["claims"][0]["measured"] > 0


def test_the_gradient_vanishes_and_explodes_as_the_eigenvalue_says(default):
    _, record, _ = default
    found = {
        (row["nonlinearity"], row["spectral_radius"], row["target"]): row
        for row in record["tables"]["summary"]
        if row["moment"] == "before"
    }
    assert found["identity", 0.5, "last"]["verdict"] == "vanishes"
    assert found["identity", 1.0, "last"]["verdict"] == "is stable"
    assert found["identity", 2.0, "last"]["verdict"] == "explodes"
    assert found["identity", 0.5, "all"]["verdict"] == "is stable"
    for (nonlinearity, radius, target), row in found.items():
        assert row["eigenvalue"] == pytest.approx(radius, rel=1e-9)
        assert row["predicted_decades_per_step"] == pytest.approx(np.log10(radius), abs=1e-9)
        if (nonlinearity, target) == ("identity", "last"):
            assert row["decades_per_step"] == pytest.approx(np.log10(radius), abs=1e-9)
        assert (row["closed_form_error"] is None) == (nonlinearity != "identity")


def test_references_have_the_slope_of_the_eigenvalue_and_end_at_the_gradient(default):
    _, _, rows = default
    lines = {}
    for row in rows:
        if row["moment"] == "before":
            key = (row["nonlinearity"], float(row["spectral_radius"]), row["target"])
            lines.setdefault(key, []).append(row)
    for (_, radius, _), line in lines.items():
        reference = np.array([float(row["eigenvalue_reference_log10"]) for row in line])
        np.testing.assert_allclose(-np.diff(reference), np.log10(radius), atol=1e-9)
        assert reference[-1] == pytest.approx(float(line[-1]["gradient_log10"]))


def test_the_terminal_gets_the_verdicts_and_the_place_of_the_report(tmp_path, capsys):
    folder = tmp_path / ("long" * 30) / ("longer" * 20)
    out = folder / "out"
    run(folder, "--nonlinearity", "identity", "--spectral-radius", 0.5, "--steps", 0)
    printed = capsys.readouterr().out
    assert "vanishes ×" in printed
    assert "holds (measured" in printed
    assert f"Report: {out / 'report.html'}" in printed


def test_one_seed_gives_one_result(tmp_path):
    small = ("--nonlinearity", "tanh", "--spectral-radius", 1, "--target", "last", "--steps", 3)
    small += ("--hidden-size", 4, "--length", 5, "--batch", 2)
    first = run(tmp_path / "a", *small)[1]
    assert run(tmp_path / "b", *small)[1] == first
    assert run(tmp_path / "c", *small, "--seed", 1)[1] != first


def test_own_sequences_with_two_features_and_two_layers(tmp_path):
    values = np.random.default_rng(0).normal(size=(6, 9, 2)) * [1.0, 1e5] + [0.0, 3e5]
    np.save(tmp_path / "own.npy", values)
    record, rows = run(
        tmp_path, "--data", tmp_path / "own.npy", "--layers", 2, "--hidden-size", 4,
        "--nonlinearity", "identity", "--spectral-radius", 0.9, "--steps", 2,
    )  # fmt: skip
    assert record["configuration"]["length"] == 9
    assert record["configuration"]["data"] == str(tmp_path / "own.npy")
    assert len(rows) == 2 * 2 * 2 * 9  # targets, moments, layers, steps
    assert all(claim["holds"] for claim in record["claims"])
    assert all(row["loss"] < 100 for row in record["tables"]["summary"])  # standardized


def test_an_lstm_is_measured_in_the_place_of_the_rnn(tmp_path):
    record, rows = run(
        tmp_path, "--cell", "lstm", "--layers", 2, "--hidden-size", 4, "--length", 12,
        "--spectral-radius", 0.5, 2.0, "--target", "last", "--steps", 1,
    )  # fmt: skip
    assert {row["nonlinearity"] for row in rows} == {"lstm"}
    assert len(rows) == 2 * 2 * 2 * 2 * 12  # radii, moments, layers, states, steps
    assert [row["state"] for row in rows[:24]] == ["h"] * 12 + ["c"] * 12
    page = (tmp_path / "out" / "report.html").read_text()
    for absent in ("Dashed", "Circles", "slope of |λ|max", "closed form", "<th>$|λ|", "λ</mi>"):
        assert absent not in page
    assert "LSTM, c" in page
    assert record["claims"] == []  # no closed form
    summary = record["tables"]["summary"]
    assert {row["spectral_radius"] for row in summary} == {0.5, 2.0}
    assert re.search(r"spectral radius</th>.*>0\.5</td>.*>2</td>", page, re.DOTALL)
    network = Network("lstm", 2.0, "last", hidden_size=4, layers=2)
    model = network.build(1, seed=0)
    for block in np.split(model.rnn.weight_hh_l1.numpy(), 4):
        assert abs(tg.nn.init.spectral_radius(block) - 2) < 1e-12
    assert float(rows[0]["gradient_log10"]) < float(rows[11]["gradient_log10"])  # it vanishes


def test_the_gradient_by_an_lstms_cell_state_is_measured():
    network = Network("lstm", 1.0, "last", hidden_size=3)
    batch = RandomSequences(2, 5).draw(np.random.default_rng(0))
    flows, _ = measure_flow(network.build(1, seed=0), "lstm", *batch, "last")
    loss, _ = loss_of(network.build(1, seed=0), batch, "last")
    states = tg.inspect.gradient_flow(loss)["rnn.l0"]
    for flow, name in zip(flows, ("h", "c"), strict=True):
        assert flow.name == name
        np.testing.assert_allclose(10**flow.gradient, states[name].grad_norm, rtol=1e-12)


def test_a_relu_network_that_dies_is_drawn_and_said(tmp_path):
    record, rows = run(
        tmp_path, "--nonlinearity", "relu", "--spectral-radius", 0.3, "--hidden-size", 2,
        "--length", 200, "--target", "last", "--steps", 1, "--seed", 3,
    )  # fmt: skip
    assert record["tables"]["summary"][0]["verdict"] == "dies"
    assert record["tables"]["summary"][0]["gradient_first_log10"] == "-inf"
    assert rows[0]["gradient_log10"] == "-inf"
    assert any("exactly zero" in sentence for sentence in record["reading"])


def test_an_explosion_out_of_range_is_recorded_and_said(tmp_path):
    record, _ = run(
        tmp_path, "--nonlinearity", "identity", "tanh", "--spectral-radius", 1e30,
        "--length", 30, "--target", "last", "--steps", 3,
    )  # fmt: skip
    verdicts = {row["nonlinearity"]: row["verdict"] for row in record["tables"]["summary"]}
    assert verdicts["identity"] == "overflows"
    assert record["claims"] == []  # there is no number to decide them
    said = " ".join(record["reading"])
    assert "Training ended early for identity" in said
    assert "not a finite number: identity" in said
    json.dumps(record, allow_nan=False)
