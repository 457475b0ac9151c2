"""Pictures of single views, sized for a slide; pages, which open in a browser."""

from __future__ import annotations

import tempfile
import webbrowser
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..._files import checked_path, write_file
from ...display import charts
from ...errors import ArgumentError, ShapeError
from ..passes.scaling import HostArray, log10
from ..table import as_array
from .curves import curves_chart
from .drawn_steps import spread
from .view_arrays import Matrix
from .view_charts import matrix_chart

SLIDE = 640, 360
"""Width and height of a picture; an image has three pixels for each of these, 1920 × 1080."""

STEPS = 1000
"""Largest number of steps of a curve on a slide."""

CELLS = 100
"""Largest number of rows, and of columns, of a matrix on a slide."""


class Drawn:
    """A result with a picture: ``.save_png(path)`` and ``.save_svg(path)``, without a browser."""

    __slots__ = ()

    @abstractmethod
    def chart(self) -> Any:
        """Return the Altair chart, to change and show it; without the project's look."""

    def save_png(self, path: str | Path, *, dark: bool = False) -> None:
        """Write the picture as an image of about 1920 × 1080 pixels.

        Parameters
        ----------
        path : str or Path
        dark : bool
            On a dark background.

        Raises
        ------
        FileError
            The file cannot be written.
        MissingDependencyError
            Altair or vl-convert is not installed.
        """
        with charts.unchecked():
            charts.save_png("save_png", self.chart(), path, dark, scale=3)

    def save_svg(self, path: str | Path, *, dark: bool = False) -> None:
        """Write the picture as a drawing that can be scaled; see :meth:`save_png`."""
        with charts.unchecked():
            charts.save_svg("save_svg", self.chart(), path, dark)


class Paged:
    """A result with a page: ``.save_html(path)`` and ``.open()``."""

    __slots__ = ()

    @abstractmethod
    def page(self) -> str:
        """The whole page, one HTML file that needs no network."""

    def save_html(self, path: str | Path) -> None:
        """Write the page: one file that opens in any browser and needs no network.

        Raises
        ------
        FileError
            The file cannot be written.
        MissingDependencyError
            Altair or vl-convert is not installed.
        """
        write_file("save_html", checked_path("save_html", path), self.page().encode())

    def open(self) -> Path:
        """Write the page into a temporary file, open it in a browser, and return its path."""
        folder = Path(tempfile.mkdtemp(prefix="tinygrad182-"))
        path = folder / f"{type(self).__name__.lower()}.html"
        self.save_html(path)
        webbrowser.open(path.as_uri())
        return path


class Viewed(Paged):
    """A page of several views, each of which has a picture."""

    @abstractmethod
    def _spec(self, view: str | None = None, **chosen: Any) -> dict[str, Any]:
        """The specification of a view, or of all of them as on the page."""

    def save_png(
        self, path: str | Path, view: str | None = None, *, dark: bool = False, **chosen: Any
    ) -> None:
        """Write a view, or all of them, as an image, on white or on dark.

        ``chosen`` are the other arguments of a microscope's ``chart``, or of a playground's ``spec``.
        """
        scale = 2 if view is None else 3  # one view fills a slide
        charts.save_png("save_png", self._spec(view, **chosen), path, dark, scale)

    def save_svg(
        self, path: str | Path, view: str | None = None, *, dark: bool = False, **chosen: Any
    ) -> None:
        """Write a view, or all of them, as a drawing that can be scaled; see :meth:`save_png`."""
        charts.save_svg("save_svg", self._spec(view, **chosen), path, dark)


def slide(chart: Any) -> Any:
    """Return the chart of a view in the size of a slide, with the signals that it refers to."""
    alt = charts.altair()
    width, height = SLIDE
    fit = alt.AutoSizeParams(type="fit", contains="padding")
    return signalled(chart).properties(width=width, height=height, autosize=fit, padding=12)


def signalled(chart: Any, *, block: int = 0, step: int = -1, **values: Any) -> Any:
    """Return a chart with the signals that a page would give it: its only block, and no step."""
    alt = charts.altair()
    values = {"block": block, "loop": block, "step": step, "loop_step": step} | values
    return chart.add_params(*[alt.param(name=name, value=value) for name, value in values.items()])


class _Norms(NamedTuple):
    """The arrays that are drawn for a state. A recorded state has Tensors."""

    time: HostArray
    log10_grad_norm: HostArray
    value_norm: HostArray

    @classmethod
    def of(cls, state: Any) -> _Norms:
        return cls(state.time, as_array(state.log10_grad_norm), as_array(state.value_norm))


class _Stack(dict[str, _Norms]):
    """The drawn arrays of the states of one path."""

    def __init__(self, path: str, states: Mapping[str, Any]) -> None:
        super().__init__({name: _Norms.of(state) for name, state in states.items()})
        self.path = path


def curves(flow: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return the norms of the states of each path over time as a chart, one below the other."""
    alt, rows = charts.altair(), []
    for path, states in flow.items():
        stack: Any = _Stack(path, states)
        times = np.unique(np.concatenate([state.time for state in stack.values()])).tolist()
        chart = curves_chart({0: stack}, {0: spread(times, STEPS)})
        rows.append(chart.properties(width=SLIDE[0] - 90, title=path))
    return signalled(alt.vconcat(*rows) if len(rows) > 1 else rows[0]).properties(padding=12)


def draw_matrix(
    matrix: Any,
    path: str | Path,
    *,
    times: Sequence[int] | None = None,
    losses: Sequence[int] | None = None,
    log: bool = False,
    of: str = "h",
    dark: bool = False,
) -> None:
    """Write a matrix of norms, as of :func:`state_grad_matrix`, as a picture in decades.

    A norm of exactly 0 has a colour of its own: the loss does not depend on that step.

    Parameters
    ----------
    matrix : array ``(K, T)``
        ‖∂L_k/∂h_t‖. Of more than 100 rows or columns, 100 are drawn.
    path : str or Path
        Ends in ``.png`` or ``.svg``.
    times : sequence of int, optional
        t of each column; by default 0 to T − 1.
    losses : sequence of int, optional
        k of each row; by default 0 to K − 1.
    log : bool
        The matrix holds natural logarithms, as from ``log=True``.
    of : str
        The symbol of the derivatives' variable: ``"x"`` for :func:`input_grad_matrix`.
    dark : bool
        On a dark background.

    Raises
    ------
    ShapeError
        The matrix does not have two axes, or not as many rows and columns as ``losses`` and ``times``.
    ArgumentError
        The file's name has another ending.
    FileError, MissingDependencyError
        As for the ``save_png`` of a view.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 8, rng=0)
    >>> output, _ = rnn(tg.ones((10, 1, 1)))
    >>> matrix = tg.inspect.state_grad_matrix((output**2).mean(axis=(1, 2)), log=True)
    >>> tg.inspect.draw_matrix(matrix, "matrix.png", log=True)  # doctest: +SKIP
    """
    what, host = "draw_matrix", np.asarray(matrix, dtype=np.float64)
    ending = Path(path).suffix.lower()
    if ending not in (".png", ".svg"):
        raise ArgumentError(f"{what}: {str(path)!r} must end in .png or .svg")
    if host.ndim != 2 or not host.size:
        raise ShapeError(f"{what}: the matrix has shape {host.shape}; it needs rows and columns")
    rows = _numbers(losses, len(host), "losses")
    columns = _numbers(times, host.shape[1], "times")
    i, j = (spread(range(n), CELLS) for n in host.shape)
    logs = host[np.ix_(i, j)] / np.log(10) if log else log10(host[np.ix_(i, j)])
    with charts.unchecked():
        chart = slide(matrix_chart({0: Matrix(rows[i], columns[j], of, logs)}))
        if ending == ".png":
            charts.save_png(what, chart, path, dark, scale=3)
        else:
            charts.save_svg(what, chart, path, dark)


def _numbers(given: Sequence[int] | None, count: int, name: str) -> HostArray:
    numbers = np.arange(count) if given is None else np.asarray(given)
    if numbers.shape != (count,):
        raise ShapeError(
            f"draw_matrix: {name} has shape {numbers.shape}; the matrix needs {count} numbers there"
        )
    return numbers
