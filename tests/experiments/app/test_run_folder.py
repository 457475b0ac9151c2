"""The run folder: complete or absent, and saying everything needed to repeat the run."""

import csv
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

import tinygrad182 as tg
from experiments.app import report, run_folder
from experiments.app.errors import OutputError
from experiments.app.options import Options
from experiments.app.result import Claim, Result
from experiments.app.run_folder import Run, publish, publish_sheet, staged, write_csv
from experiments.drawing import charts, curves
from experiments.drawing.tables import Column, Figure, Table

EVIL = "</script><script>alert('x')</script>"


@dataclass(frozen=True, kw_only=True)
class ToyOptions(Options):
    """Options of a made-up experiment."""

    sizes: tuple[int, ...] = (1, 2)
    data: Path | None = None


class BrokenChart:
    """A chart that cannot be drawn."""

    def __init__(self, error):
        self.error = error

    def to_dict(self):
        raise self.error


def a_chart():
    rows = [
        {"column": "a", "row": EVIL, "nonlinearity": "tanh", "step": i, "value": -60.0 * i}
        for i in range(3)
    ]
    rows.append({**rows[0], "step": 3, "value": None})
    line = charts.alt.Chart().mark_line()
    line = line.encode(x=charts.steps(4), y=charts.decades("value", "v", (-120.0, 0.0)))
    return charts.panels([line], rows, title=EVIL, subtitle="toy")


def a_run(chart=None, *, out=None, headline="It is 1e-60."):
    table = Table(
        "numbers",
        "Numbers",
        [
            {"name": EVIL, "value": 1e-60, "log10": -1234.5, "missing": None},
            {"name": "b", "value": float("nan"), "log10": float("-inf"), "missing": None},
        ],
        (
            Column("name", "name"),
            Column("value", "v", ".2e"),
            Column("log10", "w"),
            Column("missing"),
        ),
    )
    long = Table("long", "Many rows", [{"step": i, "x": i / 3} for i in range(7)])
    figures = (Figure("picture", "A picture", "caption", chart),) if chart else ()
    claim = Claim("small", measured=float("inf"), threshold=1.0)
    check = Claim("$W_h^T$ is it", 0.5, 1.0, how="largest of $h_{t−1}$", about="computation")
    options = ToyOptions(out=out, data=Path("some/data.csv"), seed=7)
    result = Result(
        options, headline, figures, (table, long), reading=("one",), claims=(claim, check)
    )
    return Run(
        "toy",
        "Is it?",
        "Q9",
        "Will it?",
        started=datetime(2026, 1, 2, tzinfo=UTC),
        seconds=1.25,
        result=result,
    )


def publish_in(folder, run):
    with staged(folder) as stage:
        return publish(run, stage, folder)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return publish_in(tmp_path_factory.mktemp("runs") / "toy" / "first", a_run(a_chart()))


def test_a_run_is_its_files_and_nothing_else(published):
    expected = ["long.csv", "numbers.csv", "picture.png", "report.html", "results.json"]
    assert names(published) == expected
    assert names(published.parent) == ["first"]
    assert (published / "picture.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_results_record_the_run(published):
    record = json.loads((published / "results.json").read_text(), parse_constant=pytest.fail)
    assert record["experiment"] == "toy"
    assert record["started"] == "2026-01-02T00:00:00+00:00"
    assert record["seconds"] == 1.25
    assert record["configuration"] == {
        "device": "cpu",
        "out": None,
        "seed": 7,
        "sizes": [1, 2],
        "data": "some/data.csv",
    }
    assert {"python", "numpy", "altair", "vl-convert-python"} <= set(record["environment"])
    assert record["environment"]["tinygrad182"] == tg.__version__
    assert record["tables"]["numbers"][0] == {
        "name": EVIL,
        "value": 1e-60,
        "log10": -1234.5,
        "missing": None,
    }
    assert record["tables"]["numbers"][1]["value"] == "nan"
    assert record["tables"]["numbers"][1]["log10"] == "-inf"
    assert record["claims"][0]["measured"] == "inf"
    assert record["claims"][0]["holds"] is False
    assert "long" not in record["tables"]
    assert set(record["files"]) == {"numbers.csv", "long.csv", "picture.png"}


def test_csv_holds_every_row_at_full_precision(published):
    with (published / "long.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["x"]) for row in rows] == [i / 3 for i in range(7)]
    with (published / "numbers.csv").open(newline="") as file:
        second = list(csv.DictReader(file))[1]
    assert second == {"name": "b", "value": "nan", "log10": "-inf", "missing": ""}


class Page(HTMLParser):
    """A parsed page: the resources that it requests, its policy, its text and its scripts."""

    def __init__(self, text):
        super().__init__()
        self.asked, self.policy, self.text, self.scripts, self._tag = [], "", "", [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._tag = tag
        found = dict(attributes)
        self.asked += [found[key] for key in ("src", "href", "data", "action") if key in found]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self._tag == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    def handle_endtag(self, tag):
        self._tag = ""


def test_the_report_asks_the_network_for_nothing(published):
    page = Page((published / "report.html").read_text())
    assert page.asked == []
    # The browser itself refuses every request, whatever a script may try.
    assert page.policy.startswith("default-src 'none';")
    assert "connect-src" not in page.policy
    assert "http" not in page.policy
    assert not re.search(r"@import|url\(", (published / "report.html").read_text()[:5000])


def test_the_report_holds_the_drawing_library_the_charts_and_the_data(published):
    page = Page((published / "report.html").read_text())
    library, charts_script = page.scripts
    assert len(library) > 500_000
    assert "vegaEmbed" in library
    specs = json.loads(re.search(r"const specs = (.*);\n", charts_script).group(1))
    assert [spec["title"]["text"] for spec in specs] == [EVIL]
    assert [row["value"] for row in specs[0]["data"]["values"]] == [0.0, -60.0, -120.0, None]


def test_what_comes_from_data_cannot_become_markup(published):
    text = (published / "report.html").read_text()
    assert EVIL not in text
    page = Page(text)
    assert len(page.scripts) == 2
    assert EVIL in page.text  # shown as it is, in the table


def test_the_report_shows_numbers_as_people_read_them(published):
    page = Page((published / "report.html").read_text())
    assert "It is 1e\N{NON-BREAKING HYPHEN}60." in page.text
    for shown in (
        "1.00e-60",
        "3.2e-1235",
        "small: does not hold",
        "measured inf, at most 1",
        "1, 2",
    ):
        assert shown in page.text


def test_what_only_checks_the_computation_is_behind_one_fold(published):
    page = (published / "report.html").read_text()
    answers, checks = page.split("<summary>Checks of the computation: 1 of 1 hold</summary>")
    assert "small: " in answers
    assert "is it: " not in answers
    assert "is it: " in checks


def test_formulas_are_set_in_pages_and_typed_in_files(published):
    page = (published / "report.html").read_text()
    scripts = "<mrow><mi>h</mi></mrow><mrow><mi>T</mi></mrow>"
    assert f"<math><msubsup><mi>W</mi>{scripts}</msubsup></math> is it" in page
    assert "$" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    claim = json.loads((published / "results.json").read_text())["claims"][1]
    assert (claim["statement"], claim["how"]) == ("W_hᵀ is it", "largest of h_(t−1)")


def test_unbroken_leaves_words_alone():
    assert report.unbroken("step-by-step 3e-4 e-mail") == "step-by-step 3e‑4 e-mail"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError("disk full")])
def test_a_run_that_cannot_be_written_leaves_nothing(tmp_path, error):
    folder = tmp_path / "toy" / "first"
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        publish_in(folder, a_run(BrokenChart(error)))
    assert names(tmp_path) == []


BAD = "\x00\x0b\x0c\x1b\ufffe\uffff\udc80"
"""Characters that no picture can hold: drawing them would end the process."""


def texts(data):
    if isinstance(data, str):
        yield data
    elif isinstance(data, (dict, list)):
        for part in [*data, *data.values()] if isinstance(data, dict) else data:
            yield from texts(part)


def test_pictures_get_no_text_that_ends_the_process(tmp_path, monkeypatch):
    drawn = []

    def draw(spec, **options):
        drawn.append(spec)
        return b"picture"

    monkeypatch.setattr(run_folder.vl_convert, "vegalite_to_png", draw)
    line = curves.Line(BAD, [1.0], BAD, f"b{BAD}")
    look = {BAD: curves.Look(charts.BLUE)}
    chart = curves.curves([line], look, x=charts.steps(2), y=BAD, title=BAD, subtitle=BAD)
    publish_in(tmp_path / "out", a_run(chart))
    found = set("".join(texts(drawn)))
    assert not found & set(BAD)
    assert {"␀", "␋", "␌", "␛", "\ufffd"} <= found


def test_a_picture_that_cannot_be_drawn_costs_no_run(tmp_path, monkeypatch):
    def draw(spec, **options):
        raise ValueError("no")

    monkeypatch.setattr(run_folder.vl_convert, "vegalite_to_png", draw)
    with pytest.warns(RuntimeWarning, match=r"picture\.png cannot be drawn: no"):
        publish_in(tmp_path / "out", a_run(a_chart()))
    assert names(tmp_path / "out") == ["long.csv", "numbers.csv", "report.html", "results.json"]
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(record["files"]) == {"numbers.csv", "long.csv"}


def test_a_failed_run_leaves_an_earlier_one_as_it_was(tmp_path):
    folder = tmp_path / "mine"
    publish_in(folder, a_run(out=folder, headline="the first"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RuntimeError):
        publish_in(folder, a_run(BrokenChart(RuntimeError()), out=folder, headline="the second"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_named_by_the_user_keeps_its_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    assert publish_in(tmp_path, a_run(out=tmp_path)) == tmp_path
    assert publish_in(tmp_path, a_run(out=tmp_path, headline="again")) == tmp_path
    assert (tmp_path / "mine.txt").read_text() == "keep me"
    assert names(tmp_path) == ["long.csv", "mine.txt", "numbers.csv", "report.html", "results.json"]
    assert json.loads((tmp_path / "results.json").read_text())["headline"] == "again"


def contents(folder):
    return {
        str(path.relative_to(folder)): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


def calls_of_replace(monkeypatch, fail_at=None, error=None):
    """Count the files that are moved; the one with a number fails, once."""
    replace, calls = Path.replace, []

    def counted(self, target):
        calls.append(target)
        if len(calls) == fail_at:
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", counted)
    return calls


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
@pytest.mark.parametrize("fail_at", range(1, 10))
def test_files_are_moved_into_a_folder_all_or_none(tmp_path, monkeypatch, error, fail_at):
    """Stopped at any file: three old ones put aside and four new ones put in their place."""
    folder = tmp_path / "mine"
    publish_in(folder, a_run(out=folder, headline="the first"))
    (folder / "report.html").unlink()  # a file that the second run adds
    before = contents(folder)
    with monkeypatch.context() as patch:
        calls = calls_of_replace(patch, fail_at, error)
        if fail_at > 7:
            publish_in(folder, a_run(out=folder, headline="the second"))
            assert len(calls) == 7
            return
        with pytest.raises((KeyboardInterrupt, OutputError)):
            publish_in(folder, a_run(out=folder, headline="the second"))
    assert contents(folder) == before


def sheet_in(folder, headline):
    with staged(folder) as stage:
        return publish_sheet([], [a_run(out=folder, headline=headline)], stage, folder, True)


@pytest.mark.parametrize("fail_at", range(1, 6))
def test_folders_in_a_folder_too(tmp_path, monkeypatch, fail_at):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "report.html").write_text("mine")
    before = contents(folder)
    with monkeypatch.context() as patch:
        calls_of_replace(patch, fail_at, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            sheet_in(folder, "the second")
    assert contents(folder) == before
    sheet_in(folder, "the third")
    assert "the third" in (folder / "toy" / "results.json").read_text()


def test_a_folder_with_the_name_of_a_file_is_not_touched(tmp_path):
    (tmp_path / "long.csv").mkdir()
    (tmp_path / "long.csv" / "mine").write_text("keep me")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"folder has the name of a file.*long\.csv"):
        publish_in(tmp_path, a_run(out=tmp_path))
    assert contents(tmp_path) == before


def test_no_signal_comes_while_files_are_moved(tmp_path, monkeypatch):
    replace, came = Path.replace, []
    handler = signal.signal(signal.SIGINT, lambda *given: came.append(given))
    own = signal.getsignal(signal.SIGINT)

    def interrupted(self, target):
        signal.raise_signal(signal.SIGINT)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    try:
        publish_in(tmp_path, a_run(out=tmp_path))
        assert signal.getsignal(signal.SIGINT) == own
    finally:
        signal.signal(signal.SIGINT, handler)
    assert came == []
    assert names(tmp_path) == ["long.csv", "numbers.csv", "report.html", "results.json"]


def killed_while_moving(folder, after):
    """Publish in a process that is killed when it has moved some files."""
    replace, left = Path.replace, iter(range(after))

    def replaced(self, target):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    child = os.fork()
    if child == 0:
        Path.replace = replaced
        publish_in(folder, a_run(out=folder, headline="the second"))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("after", [0, 4, 7])
def test_what_a_killed_run_had_begun_a_later_one_ends(tmp_path, after):
    """Before the first file was moved the stage is complete, too: it is moved all the same."""
    folder = tmp_path / "mine"
    publish_in(folder, a_run(out=folder, headline="the first"))
    assert killed_while_moving(folder, after) == -signal.SIGKILL
    assert [name for name in names(folder) if name.startswith(".partial-")]
    with staged(folder) as stage:  # of a run that does not come to its end
        assert [name for name in names(folder) if name.startswith(".")] == [stage.name]
    assert names(folder) == ["long.csv", "numbers.csv", "report.html", "results.json"]
    for name in ("results.json", "report.html"):
        assert "the second" in (folder / name).read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends a process there")
def test_only_stages_of_processes_that_ended_are_removed(tmp_path, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = platform.node()
    others = [
        f".partial-{host}-{os.getpid()}-abcdefgh",
        f".partial-{host}-1-abcdefgh",
        f".partial-elsewhere-{ended.pid}-abcdefgh",
        f".partial-{host}-{ended.pid}-7-abcdefgh",  # of the machine host-<number>
        ".partial-abcdefgh",
    ]
    for name in (*others, f".partial-{host}-{ended.pid}-abcdefgh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flow.csv").write_text("")
    monkeypatch.chdir(tmp_path)
    with staged(tmp_path / "runs" / "toy" / "now"):
        pass
    assert names(tmp_path) == sorted(others)


def test_words_that_a_spreadsheet_would_compute(tmp_path):
    rows = [{"text": text, "x": -1.5} for text in ("=SUM(1)", "+1", "-1", "@x", "\tx", "a=1", "")]
    write_csv(Table("t", "T", rows), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["text"] for row in found] == ["'=SUM(1)", "'+1", "'-1", "'@x", "'\tx", "a=1", ""]
    assert {row["x"] for row in found} == {"-1.5"}


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
def test_a_folder_whose_name_is_not_utf_8(tmp_path):
    folder = tmp_path / "f\udcfcr"
    run = a_run(out=folder)
    publish_in(folder, run)
    assert json.loads((folder / "results.json").read_text())["configuration"]["out"] == str(
        tmp_path / r"f\udcfcr"
    )
    assert r"f\udcfcr" in (folder / "report.html").read_text()


def test_two_runs_in_one_second_get_a_folder_each(tmp_path):
    first, second, third = (publish_in(tmp_path / "now", a_run()) for _ in range(3))
    assert [first.name, second.name, third.name] == ["now", "now-2", "now-3"]
    assert names(tmp_path) == ["now", "now-2", "now-3"]


def test_others_may_read_a_run(tmp_path):
    folder = publish_in(tmp_path / "run", a_run())
    plain = tmp_path / "plain"
    plain.mkdir()
    assert folder.stat().st_mode == plain.stat().st_mode


def test_a_stage_is_beside_what_is_there_and_gone_afterwards(tmp_path):
    for folder in (tmp_path, tmp_path / "new" / "deeper"):
        with staged(folder) as stage:
            assert stage.parent == tmp_path
            assert names(tmp_path) == [stage.name]
        assert names(tmp_path) == []


def test_two_runs_at_once_get_a_folder_each(tmp_path):
    folder = tmp_path / "toy" / "now"
    with staged(folder) as one, staged(folder) as other:
        assert publish(a_run(), one, folder) == folder
        assert publish(a_run(), other, folder) == folder.with_name("now-2")
    assert names(tmp_path) == ["toy"]


def test_a_file_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="is a file; --out needs a folder"), staged(folder):
            pytest.fail("there is nowhere to write")
    assert names(tmp_path) == ["file"]


def test_a_protected_folder_is_refused(tmp_path, monkeypatch):
    # Tests may run as root, who may write anywhere, so the system's answer is given here.
    def refuse(**where):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    refused = r"Cannot write to .*new \(Permission denied\)"
    with pytest.raises(OutputError, match=refused), staged(tmp_path / "new"):
        pytest.fail("there is nowhere to write")


def test_output_errors_are_the_frameworks():
    assert issubclass(OutputError, tg.TinygradError)
