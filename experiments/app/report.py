"""The report: one page that needs no network, with charts that answer to the pointer."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from tinygrad182.display import charts
from tinygrad182.display.pages import in_script, prose

if TYPE_CHECKING:  # the run folder writes the report, so only the type comes from there
    from experiments.app.run_folder import Question, Run


@functools.cache
def _template(name: str) -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["palette"] = charts
    environment.filters["prose"] = lambda line: Markup(prose(unbroken(line)))
    environment.filters["in_script"] = lambda data: Markup(in_script(data))
    return environment.get_template(name)


def unbroken(text: str) -> str:
    """Keep numbers such as 1e-12 on one line: browsers break lines after a hyphen."""
    return re.sub(r"(?<=\de)-(?=\d)", "\N{NON-BREAKING HYPHEN}", text)


def render_report(run: Run, record: dict[str, Any]) -> str:
    """Page for a finished run.

    Parameters
    ----------
    run : Run
        The run.
    record : dict
        What its ``results.json`` holds.

    Returns
    -------
    str
        HTML with the drawing library, the charts and their data inside. The page's own security
        policy forbids it every request.
    """
    return _template("report.html").render(
        run=run,
        record=record,
        specs=[figure.spec for figure in run.result.figures],
        tables=[table for table in run.result.tables if table.columns],
        library=charts.library(),
    )


def render_sheet(questions: Sequence[Question], runs: Sequence[Run]) -> str:
    """Page with every question, and the answers of the runs folded away.

    Parameters
    ----------
    questions : sequence of Question
        In the order of the page.
    runs : sequence of Run
        The answers, in the same order; or none, for a page without answers.

    Returns
    -------
    str
        HTML that needs no network; each answer links to the report in the folder of its run.
    """
    return _template("sheet.html").render(
        runs=runs or questions,
        answers=bool(runs),
        specs=[figure.spec for run in runs for figure in run.answer],
        library=charts.library() if runs else "",
    )
