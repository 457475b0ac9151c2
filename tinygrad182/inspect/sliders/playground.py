"""``playground``: a page on which sliders set a network, and its gradients move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ..._files import checked_path, write_file
from ..._numbers import check_whole
from ..._suggestions import calls
from ...display import charts
from ...display.charts import Row
from ...display.reprs import shown
from ...errors import ArgumentError, MissingDependencyError, UnknownPathError, brief
from ...nn import RecurrentLayer
from ..charts.pictures import Viewed
from .charts import VIEWS, chart_spec
from .measuring import Measured, measure, network_of
from .page import NAMES, page
from .rows import coded_row, loss_row, values_row
from .sentences import WHY, sentences_about
from .settings import INPUTS, STOPS, Draws, PlaygroundSetting, closed_form_of, settings

Rows = dict[str, Row]
Track = Callable[[Sequence[Any]], Iterable[Any]]

_GATES = {"GRU": "z"}
"""The gate that passes a state straight on, where that is not a block of the Jacobian."""


class Playground(Viewed):
    """Networks at every stop of some sliders, and the page that shows them; see :func:`playground`.

    Attributes
    ----------
    hidden_size, seed : int
    stops : dict of str to tuple
        The stops of each control.
    settings : list of PlaygroundSetting
        Every combination of stops: the contents of the page.
    """

    def __init__(
        self, hidden_size: int, seed: int, stops: Mapping[str, Sequence[Any]] | None
    ) -> None:
        self.hidden_size = check_whole(self, "hidden_size", hidden_size, 1)
        self.seed = check_whole(self, "seed", seed, 0)
        self.stops = STOPS | _checked({} if stops is None else stops)
        self.settings = list(settings(self.stops))
        self._draws = Draws(self.hidden_size, self.seed)

    def measure(self, setting: PlaygroundSetting) -> Measured:
        """Measure the gradients of one setting.

        Raises
        ------
        ArgumentError
            It is not a setting.
        """
        if not isinstance(setting, PlaygroundSetting):
            raise ArgumentError(f"playground: measure takes one of .settings, not {brief(setting)}")
        loss = self._draws.loss(self._draws.layer(setting), setting)
        return measure(loss, gate=_GATES.get(setting.cell))

    def _loss_row(self, layer: RecurrentLayer, setting: PlaygroundSetting, found: Measured) -> Row:
        sentences = sentences_about(found, setting.loss, WHY.get(setting.cell, ""), setting.unit)
        exact, form = self._draws.closed_form(layer, setting), closed_form_of(setting)
        slope = setting.loss == "last"
        return loss_row(found, NAMES, sentences, slope, setting.unit, exact, form)

    def rows(self, some: Sequence[PlaygroundSetting], track: Track = iter) -> tuple[Rows, Rows]:
        """Return the page's data: a row for each setting by its key, and one for each network's states."""
        losses: Rows = {}
        values: Rows = {}
        networks = [list(each) for _, each in groupby(some, key=lambda s: s.network)]
        for network in track(networks):
            layer, gate = self._draws.layer(network[0]), _GATES.get(network[0].cell)
            read = {setting: self._draws.loss(layer, setting) for setting in network}
            longest = max(network, key=lambda setting: setting.length)
            whole = network_of(read[longest], gate=gate)
            found = {
                setting: measure(loss, network=whole, last=setting.loss == "last")
                for setting, loss in read.items()
            }
            losses |= {each.key: self._loss_row(layer, each, found[each]) for each in network}
            values[longest.network] = values_row(found[longest], NAMES)
        return losses, values

    def row(self, setting: PlaygroundSetting) -> Row:
        """Return what the charts draw of one setting, as JSON."""
        losses, values = self.rows([setting])
        return coded_row(losses[setting.key] | values[setting.network])

    def page(self, track: Track = iter) -> str:
        """Return the whole page, one HTML file that needs no network.

        Parameters
        ----------
        track : callable
            Gets the list of networks and yields each, to show how far the work is.
        """
        charts.library()  # raises before the work if a library is missing
        losses, values = self.rows(self.settings, track)
        return page(losses, values, self.row(self._start), self.stops, self._start, self._notes())

    @property
    def _start(self) -> PlaygroundSetting:
        usual = PlaygroundSetting()
        return usual if usual in self.settings else self.settings[0]

    def _notes(self) -> list[str]:
        size = self.hidden_size
        return [
            f"Every cell has {size} hidden units and computes in float64. Its initial weights are the "
            f"library's for seed {self.seed}, uniform in ±1/√{size}; the slider then scales the recurrent "
            "weights to a spectral radius. The input weights stay.",
            f"The input is one sequence of {INPUTS} standard normal numbers a step; a shorter one is its "
            "beginning. The initial states are 0. The ResNet reads one vector of norm 1 before its first "
            "block.",
            "The biases are standard normal numbers times the bias scale; the forget bias is added to "
            "those of the LSTM's forget gates.",
            "The loss is $L = v · h_{T−1}$ at the last step, or the sum of $v · h_t$ over all steps, with"
            " one random direction $v$ of norm 1. So the gradient of a loss at the last step starts with "
            "norm 1.",
            "The library computed every number at every stop (gradient_flow, path_split, gain_split, "
            "step_jacobians). The page computes only the direct share: 1 minus the others.",
        ]

    def save_html(self, path: str | Path, track: Track = iter) -> None:
        """Write the page: one file that opens in any browser and needs no network.

        Raises
        ------
        FileError
            The file cannot be written.
        MissingDependencyError
            Altair or vl-convert is not installed.
        """
        target = checked_path("save_html", path)
        write_file("save_html", target, self.page(track).encode())

    def spec(self, view: str | None = None, **stops: Any) -> dict[str, Any]:
        """Return one view of a setting, or all of them, as a Vega-Lite specification.

        Parameters
        ----------
        view : str, optional
            ``"words"``, ``"gradients"``, ``"states"`` or ``"shares"``.
        **stops
            The setting, see :class:`PlaygroundSetting`.

        Raises
        ------
        UnknownPathError
            No such view.
        ArgumentError
            No such stop.
        """
        if view is not None and view not in VIEWS:
            raise UnknownPathError(
                f"playground: no view {view!r}; there are {brief(list(VIEWS))[1:-1]}"
            )
        unknown = [name for name in stops if name not in STOPS]
        if unknown:
            raise _no_control(unknown[0])
        setting = PlaygroundSetting(**stops)
        return chart_spec(self.row(setting), NAMES, view)

    def _spec(self, view: str | None = None, **chosen: Any) -> dict[str, Any]:
        return self.spec(view, **chosen)

    def _repr_html_(self) -> str:
        try:
            return shown(charts.inline("playground", self.spec()))
        except MissingDependencyError:
            return shown()

    def __repr__(self) -> str:
        return f"<Playground of {len(self.settings):,} settings, hidden size {self.hidden_size}>"


def _checked(stops: Any) -> dict[str, tuple[Any, ...]]:
    """Fewer stops of some controls, in the order of the sliders."""
    if not isinstance(stops, Mapping):
        raise ArgumentError(
            f"playground: stops = {brief(stops)} must be a dict of lists, such as {{'length': [30, 200]}}"
        )
    found = {}
    for name, some in stops.items():
        if name not in STOPS:
            raise _no_control(name)
        chosen = list(some) if isinstance(some, Iterable) and not isinstance(some, str) else [some]
        found[name] = tuple(stop for stop in STOPS[name] if stop in chosen)
        if not chosen or not all(each in STOPS[name] for each in chosen):
            raise ArgumentError(
                f"playground: {name} {brief(some)}; choose among its stops {STOPS[name]}"
            )
    return found


def _no_control(name: Any) -> ArgumentError:
    return ArgumentError(f"playground: no control {brief(name)}; there are {', '.join(STOPS)}")


@calls.explains_calls
def playground(
    hidden_size: int = 16, seed: int = 0, stops: Mapping[str, Sequence[Any]] | None = None
) -> Playground:
    """Make the page on which sliders set a network, and its gradients move.

    Cell, nonlinearity, spectral radius, biases, length and loss are controls; states, gradients, the closed
    form of the linear network and the shares by path follow at once. The library computes what is drawn
    at every stop of the sliders, which takes about half a minute when the page is written.

    Parameters
    ----------
    hidden_size : int
        Hidden units of every cell.
    seed : int
        The seed of weights, biases, input and the loss's direction.
    stops : mapping of str to sequence, optional
        Fewer stops of some controls, for a smaller page: ``{"length": [30, 200], "bias": [0]}``.

    Raises
    ------
    ArgumentError
        A size below 1, a seed that is not a whole number from 0, or a stop that is not there.

    Returns
    -------
    Playground
        ``.save_html(path)`` and ``.open()`` give the page; ``.measure(setting)`` the numbers of one
        setting; ``.save_png(path, view, **stops)`` a picture of it.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> play = tg.inspect.playground(hidden_size=8)
    >>> play
    <Playground of 2,904 settings, hidden size 8>
    >>> play.stops["length"]
    (10, 30, 100, 200)
    >>> play.save_html("playground.html")  # doctest: +SKIP
    """
    return Playground(hidden_size, seed, stops)
