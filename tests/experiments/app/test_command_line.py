"""The command line from outside: its output, error text and exit status."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import tinygrad182 as tg
from experiments.app import command_line
from experiments.app.catalogue import CATALOGUE, Experiment, load
from experiments.app.options import Options
from experiments.app.result import Claim, Result
from experiments.app.streams import Unheard


def command(*arguments, code=""):
    return [sys.executable, *(["-c", code] if code else ["-m", "experiments", *arguments])]


def python_m_experiments(*arguments, code=""):
    return subprocess.run(
        command(*arguments, code=code), capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run the command in an empty folder; returns its exit status, output and error text."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            status = command_line.main(arguments)
        except SystemExit as stop:  # how the option parser ends
            status = stop.code
        return status, *capsys.readouterr()

    yield run
    written = [path for path in tmp_path.iterdir() if path.name.startswith(("runs", "."))]
    assert written == [], "a run that ends in an error writes nothing"


def one_line(text):
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_list_has_every_experiment_with_a_line_each(run, arguments):
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    for name, summary in CATALOGUE.items():
        assert re.search(f"{name} +{re.escape(summary)}", out)
    assert "python -m experiments NAME --help" in out


def test_the_module_lists_at_once_without_a_plotting_library():
    done = python_m_experiments()
    assert (done.returncode, done.stderr) == (0, "")
    assert "gradient-flow" in done.stdout
    code = (
        "import sys; from experiments.app.command_line import main; main([]); "
        "sys.exit('altair' in sys.modules)"
    )
    assert python_m_experiments(code=code).returncode == 0


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_experiment_can_be_loaded_and_explains_its_options(run, name):
    assert isinstance(load(name), Experiment)
    status, out, _ = run(name, "--help")
    assert status == 0
    for option in ("--device", "--out", "--seed"):
        assert option in out


@pytest.mark.parametrize("name", ["gradientflow", "gradient_flow", "gradient-flows"])
def test_a_name_misspelt_gets_a_suggestion(run, name):
    status, out, err = run(name)
    assert (status, out) == (2, "")
    assert "Did you mean gradient-flow?" in one_line(err)


def test_an_unknown_name_gets_the_way_to_the_list(run):
    status, _, err = run("weather")
    assert status == 2
    assert "'python -m experiments' lists them" in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bogus",), "--bogus"),
        (("--nonlinearity", "sine"), "sine"),
        (("--nonlinearity",), "--nonlinearity needs at least one value"),
        (("--spectral-radius", "x"), "x"),
        (("--spectral-radius", "0.5", "-1"), "--spectral-radius must be a finite number above 0"),
        (("--spectral-radius", "nan"), "--spectral-radius must be a finite number above 0"),
        (("--spectral-radius", "inf"), "--spectral-radius must be a finite number above 0"),
        (("--length", "1"), "--length must be 2 or more"),
        (("--hidden-size", "0"), "--hidden-size must be 1 or more"),
        (("--layers", "0"), "--layers must be 1 or more"),
        (("--batch", "0"), "--batch must be 1 or more"),
        (("--steps", "-1"), "--steps must be 0 or more"),
        (("--learning-rate", "0"), "--learning-rate must be a finite number above 0"),
        (("--seed", "-1"), "--seed must be 0 or more"),
        (("--cell", "gru"), "gru"),
        (("--cell", "lstm", "--nonlinearity", "relu"), "--nonlinearity is for --cell rnn"),
        (("--target", "first"), "first"),
        (("--dtype", "int32"), "int32"),
    ],
)
def test_a_bad_option_is_named(run, arguments, message):
    status, out, err = run("gradient-flow", *arguments)
    assert (status, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


@pytest.mark.skipif(tg.cuda_is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_no_cuda_is_one_line_that_says_what_is_missing(run, device):
    status, out, err = run("gradient-flow", "--device", device)
    assert (status, out) == (2, "")
    assert one_line(err).startswith("error: ")
    assert "cuda" in err.lower()


def test_an_unknown_device_is_one_line(run):
    status, _, err = run("gradient-flow", "--device", "abacus")
    assert status == 2
    assert "abacus" in one_line(err)


def test_a_bad_data_file_is_one_line_however_long_its_name(run, tmp_path):
    folder = tmp_path.joinpath(*["a-rather-long-name"] * 8)
    folder.mkdir(parents=True)
    path = folder / "data [1].csv"
    path.write_text("1,2\n3,x\n")
    status, out, err = run("gradient-flow", "--data", str(path))
    assert (status, out) == (2, "")
    assert f"error: {path}, line 2, column 2: 'x' is not a number" in err
    one_line(err.replace("\r", "\n").split("error: ")[1])


def test_an_output_that_is_a_file_is_found_at_once(run, tmp_path):
    (tmp_path / "taken").write_text("mine")
    status, _, err = run("gradient-flow", "--out", "taken")
    assert status == 2
    assert "taken is a file; --out needs a folder" in one_line(err)
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_output_nobody_can_make_is_found_before_any_work(run, monkeypatch):
    experiment = Experiment("Is it?", Options, lambda options, progress: pytest.fail("work"))
    monkeypatch.setattr(command_line, "load", lambda name: experiment)
    # /proc says that it can be written to; only trying shows that it cannot.
    for folder in ("/proc/self/new", "a" * 300):
        status, out, err = run("toy", "--out", folder)
        assert (status, out) == (2, "")
        assert f"Cannot write to {folder}" in one_line(err)


DEFAULT_SIGNALS = (
    "import os, signal, sys\n"
    "for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):\n"
    "    signal.signal(getattr(signal, name, signal.SIGTERM), signal.SIG_DFL)\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'experiments', *sys.argv[1:]])\n"
)
"""The command with the signals as a terminal leaves them: nohup, or a job of a shell, ignores some."""


@contextlib.contextmanager
def started(*arguments):
    """The command while it runs; it is gone afterwards, whatever happens."""
    code = [sys.executable, "-c", DEFAULT_SIGNALS]
    with subprocess.Popen([*code, *arguments], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_a_run_that_is_terminated_cleans_up(tmp_path, number):
    many = ("gradient-flow", "--steps", "1000000", "--out", str(tmp_path / "new" / "out"))
    before = signal.signal(number, signal.SIG_IGN)  # as after nohup
    try:
        with started(*many) as process:
            limit = time.monotonic() + 60
            while not any(tmp_path.iterdir()) and time.monotonic() < limit:
                time.sleep(0.02)
            assert process.poll() is None
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
    finally:
        signal.signal(number, before)
    assert process.returncode == 130
    assert "Interrupted. Nothing was written." in err
    assert list(tmp_path.iterdir()) == []


TOLD_IN_EXEC = (
    "import runpy, sys\n"
    "from experiments.app.catalogue import Experiment\n"
    "from experiments.app import command_line\n"
    "from experiments.app.options import Options\n"
    "told = 'import signal; signal.raise_signal(signal.SIGTERM)'\n"
    "command_line.load = lambda name: Experiment('Is it?', Options, lambda *given: exec(told))\n"
    "runpy.run_module('experiments', run_name='__main__', alter_sys=True)\n"
)
"""An experiment that gets SIGTERM inside ``exec`` of a text, which is how a dataclass is made."""


def test_a_run_that_is_terminated_in_code_made_from_a_text_cleans_up(tmp_path, monkeypatch):
    """Python would end such a process with SIGINT, although the interrupt was caught."""
    (tmp_path / "told_in_exec.py").write_text(TOLD_IN_EXEC)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    options = ("toy", "--out", str(tmp_path / "new" / "out"))
    done = subprocess.run(
        [sys.executable, "-m", "told_in_exec", *options], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 130
    assert "Interrupted. Nothing was written." in one_line(done.stderr)
    assert not (tmp_path / "new").exists()


@pytest.fixture
def toy(monkeypatch):
    """An experiment that takes no time."""
    done = Experiment("Is it?", Options, lambda options, _: Result(options, "It is.", (), ()))
    monkeypatch.setattr(command_line, "load", lambda name: done)
    return "toy"


@pytest.mark.parametrize("mistake", ["tg.tahn(1.0)", "tg.tanh(1.0, axes=1)"])
def test_a_mistake_in_code_shows_where_it_is(monkeypatch, tmp_path, mistake):
    experiment = Experiment("Is it?", Options, lambda options, progress: eval(mistake))
    monkeypatch.setattr(command_line, "load", lambda name: experiment)
    with pytest.raises((tg.UnknownNameError, tg.CallError)):
        command_line.main(["toy", "--out", str(tmp_path / "out")])
    assert not any(tmp_path.iterdir())


@pytest.fixture(params=["closed", "full", "unread"])
def broken(request):
    """A stream that cannot be written to: none, of a full disk, a pipe as after ``| head -1``."""
    if request.param == "closed":
        yield None
        return
    if request.param == "unread":
        reading, writing = os.pipe()
        os.close(reading)
        stream = os.fdopen(writing, "w")
    elif Path("/dev/full").exists():
        stream = Path("/dev/full").open("w")  # noqa: SIM115
    else:
        pytest.skip("there is no /dev/full")
    yield stream
    with contextlib.suppress(OSError):
        stream.close()


def test_standard_output_that_cannot_be_written_to(tmp_path, monkeypatch, capsys, broken, toy):
    """The report is there, and one line of standard error says where."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", broken)
        assert command_line.main([toy, "--out", str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: Standard output cannot be written to")
    assert last.endswith(f"The report is {tmp_path / 'out' / 'report.html'}")
    assert (tmp_path / "out" / "results.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of Unix")
@pytest.mark.parametrize("closed", ["0<&-", "0<&- 1>&- 2>&-"])
def test_a_run_without_standard_streams_draws_its_pictures(tmp_path, closed):
    small = "gradient-flow --steps 0 --length 3 --nonlinearity identity --spectral-radius 1 --out"
    shell = f'exec "$0" -m experiments {small} "$1" {closed}'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable, tmp_path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (2 if "1>&-" in closed else 0), done.stderr
    assert (tmp_path / "gradient_flow.png").exists()
    assert (tmp_path / "results.json").exists()


@pytest.mark.parametrize("arguments", [(), ("gradient-flow", "--help"), ("all", "--help")])
def test_help_that_cannot_be_written(monkeypatch, capsys, arguments, broken):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", broken)
        assert command_line.main(arguments) == 2
    assert "Standard output cannot be written to" in one_line(capsys.readouterr().err)


def test_a_run_needs_no_standard_error(tmp_path, monkeypatch, capsys, broken, toy):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", broken)
        assert command_line.main([toy, "--out", str(tmp_path)]) == 0
    assert "Report:" in capsys.readouterr().out


def test_much_text_for_a_standard_error_that_takes_none(broken):
    stream = Unheard(broken)
    assert stream.write("x" * 100_000) == 100_000
    stream.flush()


def test_an_interrupt_after_the_files_were_written_says_where_they_are(
    tmp_path, monkeypatch, capsys, toy
):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "print_runs", interrupted)
    assert command_line.main([toy, "--out", str(tmp_path)]) == 130
    report = tmp_path / "report.html"
    assert f"error: Interrupted. The report is {report}" in capsys.readouterr().err
    assert report.exists()


@pytest.mark.parametrize("name", ["all", "lstm", "gradient-flow", "char-lm"])
@pytest.mark.parametrize("seed", [2**53, 2**64 - 1, 2**64, 10**30])
def test_a_seed_that_charts_cannot_show_is_found_before_any_work(run, name, seed):
    status, out, err = run(name, "--seed", str(seed))
    assert (status, out) == (2, "")
    assert "--seed must be 900719925474099" in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("number", [10**9 + 1, 10**30])
@pytest.mark.parametrize(
    ("name", "option"),
    [
        *(("gradient-flow", option) for option in ("length", "hidden-size", "layers", "steps")),
        ("training", "layers"),
        ("training", "repeats"),
        ("beam-cost", "beam-width"),
        ("char-lm", "expansions"),
    ],
)
def test_numbers_of_anything_have_a_bound(run, name, option, number):
    status, out, err = run(name, f"--{option}", str(number))
    assert (status, out) == (2, "")
    assert f"--{option} must be 1000000000 or less" in " ".join(err.replace("│", " ").split())


def test_all_checks_every_experiments_options_before_any_runs(run, monkeypatch):
    monkeypatch.setattr(command_line, "run_one", lambda *given: pytest.fail("work"))
    status, _, err = run(
        "all", "--seed", str(2**53 - 1)
    )  # which leaves no seed for a second network
    assert status == 2
    assert "--seed must be 9007199254740990 or less" in one_line(err)


def test_output_that_cannot_be_encoded_gets_question_marks(monkeypatch, tmp_path):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    small = ("--steps", "0", "--length", "3", "--nonlinearity", "identity")
    assert command_line.main(["gradient-flow", *small, "--out", str(tmp_path / "∂")]) == 0
    streams[0].flush()
    printed = streams[0].buffer.getvalue().decode("cp1252")
    assert "before ? after training" in printed
    assert str(tmp_path / "?") in printed


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "Interrupted. Nothing was written."),
        (MemoryError(), 2, "not enough memory"),
        (tg.TinygradError("two\nlines"), 2, "error: two lines"),
    ],
)
def test_an_interrupted_run_says_so_and_writes_nothing(run, monkeypatch, error, status, message):
    def fail(options, progress):
        raise error

    experiment = Experiment("Is it?", Options, fail)
    monkeypatch.setattr(command_line, "load", lambda name: experiment)
    got, out, err = run("toy")
    assert (got, out) == (status, "")
    assert message in err


def test_a_fault_of_ours_keeps_its_traceback(run, monkeypatch):
    def fail(options, progress):
        raise ZeroDivisionError

    monkeypatch.setattr(command_line, "load", lambda name: Experiment("Is it?", Options, fail))
    with pytest.raises(ZeroDivisionError):
        run("toy")


WITHOUT_ALTAIR = (
    "import importlib.util as u, pathlib, runpy, sys\n"
    "found = u.find_spec\n"
    "u.find_spec = lambda name, *more: None if name == 'altair' else found(name, *more)\n"
    "there = pathlib.Path.exists\n"
    "pathlib.Path.exists = lambda path, **more: {} if path.parts[-3:] == ('.venv', 'bin', 'python')"
    " else there(path, **more)\n"
    "sys.prefix = '/usr'\n"
    "sys.argv = ['experiments']\n"
    "runpy.run_module('experiments', run_name='__main__')\n"
)


@pytest.mark.parametrize(
    ("made", "remedy"),
    [(True, ".venv/bin/python -m experiments"), (False, "pip install -e '.[experiments]'")],
)
def test_a_missing_package_is_named_with_the_command_that_helps(made, remedy):
    """With the environment that make run made beside it, and without."""
    done = python_m_experiments(code=WITHOUT_ALTAIR.format(made))
    assert done.returncode == 1
    assert "altair" in one_line(done.stderr)
    assert done.stderr.strip().endswith(remedy)


def test_of_the_computations_checks_only_those_that_fail_are_printed(capsys):
    checks = [Claim(f"$c_{i}$ is", i, 1.0, about="computation") for i in range(4)]
    result = Result(Options(), "", (), (), claims=(Claim("yes", 0.0, 1.0), *checks))
    command_line.print_claims(result, Console(width=100))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "- yes: holds (measured 0, at most 1)"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "- c_2 is",
        "- c_3 is",
        "- Checks of the computation",
    ]
    assert lines[-1].endswith("2 of 4 hold")
