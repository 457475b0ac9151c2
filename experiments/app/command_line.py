"""The command line: list the experiments, or run one and say where its report is."""

from __future__ import annotations

import dataclasses
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

import tinygrad182 as tg
from experiments.app.catalogue import CATALOGUE, Experiment, lettered, load
from experiments.app.options import Options
from experiments.app.result import Result
from experiments.app.run_folder import Question, Run, publish, publish_sheet, staged
from experiments.app.streams import Closed, Unheard, console_for, printing
from experiments.drawing.tables import Table
from experiments.drawing.terminal import Grid, print_table
from experiments.drawing.words import printable, typed
from tinygrad182.display import charts

PROGRAM = "python -m experiments"
ALL = "all"
CATALOGUE_ALL = "Several questions on one page, each with its answer folded away"


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say and return the exit status: 0, or 2 for an error of the user's.

    What was asked for goes to standard output; progress and errors go to standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Better a question mark than no result where ∂ and ‖ cannot be encoded.
            stream.reconfigure(errors="replace")
    sys.stdout = sys.stdout or cast(TextIO, Closed())
    out = console_for(sys.stdout)
    err = Console(file=cast(TextIO, Unheard(sys.stderr)), highlight=False)
    name, *rest = arguments or ["--help"]
    options, written = Options(), ""
    try:
        if name in {"-h", "--help"}:
            with printing():
                print_catalogue(out)
            return 0
        options = parsed(name, rest)
        runs, folder = run_all(options, err) if name == ALL else run_named(name, options, err)
        written = f"The report is {printable(folder / 'report.html')}"
        with printing(written):
            print_runs(runs, folder, out)
    except (tg.UnknownNameError, tg.CallError):  # mistakes in code: the traceback says where
        raise
    except tg.TinygradError as error:
        print_error(err, str(error))
        return 2
    except MemoryError:
        print_error(err, "There is not enough memory for a run of this size.")
        return 2
    except KeyboardInterrupt:
        print_error(err, f"Interrupted. {written or options.left}")
        return 130
    return 0


def parsed(name: str, arguments: Sequence[str]) -> Options:
    """The options of an experiment, or of all of them, as the arguments set them."""
    experiment = None if name == ALL else load(name)
    kind = experiment.options if experiment else AllOptions
    if experiment:
        description = typed(experiment.question)
    else:
        others = [name for name in CATALOGUE if name not in lettered()]
        description = f"{CATALOGUE_ALL}. By default all but {', '.join(others)}."
    with printing():  # of --help
        return tyro.cli(
            kind,
            args=arguments,
            prog=f"{PROGRAM} {name}",
            description=description,
        )


def run_named(name: str, options: Options, err: Console) -> tuple[list[Run], Path]:
    """Run an experiment and write its folder; the run, and the folder."""
    with staged(_folder(name, options)) as stage:
        run = run_one(name, load(name), options, err)
        with err.status("Writing the report ..."):
            return [run], publish(run, stage, _folder(name, options, run.started))


def run_one(name: str, experiment: Experiment, options: Options, err: Console) -> Run:
    """Run an experiment, showing its progress."""
    started = datetime.now().astimezone()
    clock = time.perf_counter()
    # A diverging run overflows; the experiments find that in the numbers and say so in words.
    with (
        tg.use_device(options.device),
        charts.unchecked(),  # each figure checks the whole of its chart
        make_progress(err) as progress,
        np.errstate(all="ignore"),
    ):
        result = experiment.run(options, progress)
    return Run(
        **dataclasses.asdict(asked(name, experiment)),
        started=started,
        seconds=time.perf_counter() - clock,
        result=result,
    )


def asked(name: str, experiment: Experiment) -> Question:
    """The question an experiment answers."""
    return Question(
        name, experiment.question, experiment.letter, experiment.predict, experiment.pictures
    )


@dataclass(frozen=True, kw_only=True)
class AllOptions(Options):
    """Options of a run of several experiments; each keeps its own defaults otherwise."""

    questions: tuple[str, ...] | None = None
    """Names of experiments. By default those that have a letter."""

    length: int | None = None
    """Time steps T of every question that takes one length. By default each keeps its own."""

    answers: bool = True
    """Whether to measure and show the answers, folded away. With --no-answers the page holds the
    questions alone, to be handed out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_or_more("questions")
        self.at_least(1, "length")

    def of(self, experiment: Experiment) -> Options:
        """The options of one of the experiments."""
        shared: dict[str, Any] = {"device": self.device, "seed": self.seed, "out": self.out}
        takes_one_length = not isinstance(getattr(experiment.options, "length", ()), tuple)
        if self.length is not None and takes_one_length:
            shared["length"] = self.length
        return experiment.options(**shared)


def run_all(options: Options, err: Console) -> tuple[list[Run], Path]:
    """Run several experiments, and write one page with all of them."""
    assert isinstance(options, AllOptions)
    experiments = {name: load(name) for name in options.questions or lettered()}
    # All options are made before any experiment runs, so what cannot be is found at once.
    own = {name: options.of(experiment) for name, experiment in experiments.items()}
    questions = [asked(name, experiment) for name, experiment in experiments.items()]
    started = datetime.now().astimezone()
    runs = []
    with staged(_folder(ALL, options)) as stage:
        for count, (name, experiment) in enumerate(experiments.items(), start=1):
            if options.answers:
                err.print(f"[bold]{count} of {len(experiments)}: {name}[/]")
                runs.append(run_one(name, experiment, own[name], err))
        with err.status("Writing the reports ..."):
            folder = _folder(ALL, options, started)
            return runs, publish_sheet(questions, runs, stage, folder, options.out is not None)


def _folder(name: str, options: Options, started: datetime | None = None) -> Path:
    """The folder of a run's files."""
    moment = started or datetime.now().astimezone()
    return options.out or Path("runs") / name / moment.strftime("%Y-%m-%dT%H-%M-%S")


def make_progress(console: Console) -> Progress:
    """Progress bars with what is being done, how far it is and how long it took."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def print_catalogue(console: Console) -> None:
    """Print how to use the command, and the experiments with a line each."""
    table = RichTable("experiment", "what it shows", box=None, header_style="bold", pad_edge=False)
    for name, summary in {**CATALOGUE, ALL: CATALOGUE_ALL}.items():
        table.add_row(name, summary)
    console.print(f"usage: {PROGRAM} NAME [OPTIONS]\n", markup=False)
    console.print(table)
    console.print(f"\n{PROGRAM} NAME --help lists an experiment's options.", markup=False)


def print_runs(runs: Sequence[Run], folder: Path, console: Console) -> None:
    """Print what one run found in full, what several found in short, and where the report is."""
    for run in runs:
        if len(runs) == 1:
            print_result(run.result, console)
        else:
            name = f"{run.letter} {run.name}".strip()
            console.print(f"\n[bold]{name}:[/] {escape(typed(run.result.headline))}")
            print_claims(run.result, console)
    place = escape(printable(folder / "report.html"))
    console.print(f"\n[bold]Report:[/] {place}", soft_wrap=True)


def print_result(result: Result, console: Console) -> None:
    """Print the tables that people read, the claims and the sentences."""
    for table in result.tables:
        if table.printed:
            print_table(console, typed(table.title), as_text(table), typed(table.note))
    console.print(f"\n[bold]{escape(typed(result.headline))}[/]")
    for sentence in result.reading:
        console.print(f"- {escape(typed(sentence))}")
    print_claims(result, console)


def print_claims(result: Result, console: Console) -> None:
    """Print what was claimed, and whether it held; of the computation's checks those that failed."""
    for claim in (each for each in result.claims if each.about == "question" or not each.holds):
        verdict = f"[{'green' if claim.holds else 'red'}]{claim.verdict}[/] ({claim.numbers})"
        console.print(f"- {escape(typed(claim.statement))}: {verdict}")
    if result.checks:
        console.print(f"- {result.checks_summary}")


def as_text(table: Table) -> Grid:
    """Table as the terminal shows it."""
    return Grid(
        [typed(column.heading) for column in table.shown],
        [[column.text(row) for column in table.shown] for row in table.rows],
        [column.is_text(table) for column in table.shown],
    )


def print_error(console: Console, message: str) -> None:
    """Print an error as one line, however long."""
    console.print(f"[bold red]error:[/] {escape(' '.join(message.split()))}", soft_wrap=True)
