"""beam-cost: both ways find the same beams, as does a search in two stages; steps are counted right."""

import numpy as np
import pytest
from rich.progress import Progress

import tinygrad182 as tg
from experiments.app.command_line import main
from experiments.questions import beam_cost
from experiments.questions.beam_cost import measure as cost
from tests.support import device

SMALL = {
    "length": (2, 4, 8),
    "beam_width": (1, 3),
    "vocabulary": (4, 9),
    "at_length": 4,
    "at_beam_width": 3,
    "hidden_size": 3,
    "repeats": 1,
}


@pytest.mark.parametrize(("length", "width", "size"), [(5, 1, 4), (6, 3, 4), (4, 20, 3)])
def test_model_steps_are_counted(length, width, size):
    """Beams at each step, by hand: stored one step each, run again as many as there are tokens."""
    found = cost.time_both(cost.Decoder(size, 3, 0), length, width, 2, lambda: None)
    beams_at = [min(width, size**t) for t in range(length)]
    assert found.stored_steps == sum(beams_at)
    assert found.again_steps == sum(t * n for t, n in enumerate(beams_at, 1))


def test_running_again_gives_the_same_hypotheses():
    found = cost.time_both(cost.Decoder(6, 4, 1), 7, 3, 1, lambda: None)
    assert found.difference < 1e-12
    assert found.stored > 0
    assert found.again > 0


def test_a_state_that_is_not_stored_right_is_found():
    a = [((1, 2), -1.0), ((2, 1), -2.0)]
    assert cost.apart(a, [((1, 2), -1.5), ((2, 1), -2.0)]) == 0.5
    assert cost.apart(a, [((2, 1), -1.0), ((1, 2), -2.0)]) == np.inf


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_search_in_two_stages_is_the_best_of_all(width):
    decoder = cost.Decoder(7, 4, 2, device())
    stored, _ = decoder.steps()
    result = tg.decode.beam_search(stored, decoder.zero_state(), 0, width, 5, state_axis=1)
    theirs = cost.two_stage_beams(stored, decoder.zero_state(), 5, width)
    assert cost.apart(cost.beams(result), theirs) < 1e-12


def values(chart):
    rows = chart.to_dict()["data"]["values"]
    return {(row["what"], row["x"], row["ms"]) for row in rows if not row["guide"]}


def test_each_point_is_measured_once_and_drawn_as_it_stands_in_the_table(monkeypatch):
    """Lines over T, K and M share one measurement at the point where they cross."""
    measured, time_both = [], beam_cost.time_both

    def counted(decoder, length, width, repeats, advance):
        measured.append((length, width, decoder.vocabulary))
        return time_both(decoder, length, width, repeats, advance)

    monkeypatch.setattr(beam_cost, "time_both", counted)
    with Progress(disable=True) as progress:
        found = beam_cost.run(beam_cost.BeamCostOptions(**SMALL), progress)
        assert all(task.finished for task in progress.tasks)
    assert (
        len(set(measured)) == len(measured) == 2 * 3 + 1
    )  # T for two M; K = 1 (3 is at_beam_width)
    rows = found.tables[0].rows
    assert [(row["length"], row["width"], row["vocabulary"]) for row in rows] == measured
    assert f"in all {len(rows)} searches" in found.claims[0].statement
    times = {row[way] for row in rows for way in ("stored_ms", "again_ms")}
    for figure in found.figures:
        assert {ms for _, _, ms in values(figure.chart)} <= times


def test_a_run_from_the_command_line(tmp_path):
    options = [
        word
        for name, value in SMALL.items()
        for word in (
            f"--{name.replace('_', '-')}",
            *map(str, value if isinstance(value, tuple) else [value]),
        )
    ]
    assert main(["beam-cost", *options, "--out", str(tmp_path / "run")]) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"report.html", "results.json", "searches.csv", "over_length.png"} <= names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["beam-cost", "--length", "8"], "--length needs two"),
        (["beam-cost", "--repeats", "0"], "--repeats must be 1 or more"),
    ],
)
def test_options_are_checked(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_slopes_are_taken_over_the_longest():
    costs = [cost.Cost(T, 1, 2, T * 1e-3, T * T * 1e-3, T, T * T, 0.0) for T in (1, 2, 4, 8)]
    assert beam_cost.slopes(costs, "stored") == pytest.approx(1.0)
    assert beam_cost.slopes(costs, "again") == pytest.approx(2.0)
