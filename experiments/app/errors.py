"""Errors that a user can do something about. The command line prints each as one line."""

from __future__ import annotations

import tinygrad182 as tg


class OptionError(tg.TinygradError, ValueError):
    """An option outside the values it may take, or options that do not fit together."""


class DataError(tg.TinygradError, ValueError):
    """A data file that cannot be used; the message names the file, the place and the remedy."""


class OutputError(tg.TinygradError, OSError):
    """A folder that results cannot be written to."""


class UnknownExperimentError(tg.TinygradError, LookupError):
    """A name that is not an experiment's."""
