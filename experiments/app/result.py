"""The result of an experiment: words, claims, figures and tables.

``run_folder`` turns it into ``results.json``, CSV files, PNG files and the report, and ``command_line``
prints it. So an experiment writes no file and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.app.options import Options
from experiments.drawing.numbers import ROUNDING
from experiments.drawing.tables import Figure, Table


@dataclass(frozen=True)
class Attachment:
    """A file of its own kind in the run's folder, such as a trained model.

    Parameters
    ----------
    name : str
        Of the file.
    title : str
        What it holds.
    write : callable
        Writes it to the path it is given.
    """

    name: str
    title: str
    write: Callable[[Path], object]


@dataclass(frozen=True)
class Claim:
    """A statement that a number decides, with a threshold chosen before the number was seen.

    Parameters
    ----------
    statement : str
        What is claimed, in one line.
    measured, threshold : float
        The claim holds where ``measured`` is ``relation`` ``threshold``; NaN never holds.
    relation : {"at most", "at least"}
    how : str
        What the measured number is, with its unit: "largest relative error of any step".
    why : str
        Where the threshold comes from.
    about : {"question", "computation"}
        Claims that only check the computation stand together behind one fold of the report.
    """

    statement: str
    measured: float
    threshold: float
    relation: Literal["at most", "at least"] = "at most"
    how: str = ""
    why: str = ""
    about: Literal["question", "computation"] = "question"

    @property
    def holds(self) -> bool:
        """Whether the measured number is on the claimed side of the threshold."""
        if self.relation == "at most":
            return self.measured <= self.threshold
        return self.measured >= self.threshold

    @property
    def verdict(self) -> str:
        """Whether it holds, in words."""
        return "holds" if self.holds else "does not hold"

    @property
    def numbers(self) -> str:
        """The number and the threshold in words.

        >>> Claim("it is small", 0.5, 1.0).numbers
        'measured 0.5, at most 1'
        """
        return f"measured {self.measured:.3g}, {self.relation} {self.threshold:.3g}"


def identity(statement: str, error: float, how: str) -> Claim:
    """Return the claim that two computations of the same numbers agree, up to rounding."""
    why = "The two are equal by the chain rule: the threshold is rounding in float64."
    return Claim(statement, error, ROUNDING, how=how, why=why, about="computation")


@dataclass(frozen=True)
class Result:
    """Everything one run found.

    Parameters
    ----------
    options : Options
        What was asked for, with what was left open filled in.
    headline : str
        The answer in one sentence, made from the numbers of this run.
    reading : tuple of str
        More sentences, each made from numbers too.
    figures, tables, claims, attachments : tuples
        In the order of the report; the first figure is its first screen.
    """

    options: Options
    headline: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    reading: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    attachments: tuple[Attachment, ...] = ()

    @property
    def checks(self) -> list[Claim]:
        """The claims that only check the computation."""
        return [claim for claim in self.claims if claim.about == "computation"]

    @property
    def checks_summary(self) -> str:
        """The number of checks that hold, in a sentence."""
        holding = sum(claim.holds for claim in self.checks)
        return f"Checks of the computation: {holding} of {len(self.checks)} hold"
