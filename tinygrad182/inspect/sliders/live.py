"""``live_sliders``: the playground's sliders for your own model, in a notebook."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ..._suggestions import calls
from ...display import charts
from ...display.charts import Row
from ...engine.recording import is_tensor
from ...errors import ArgumentError, brief
from ...nn import GRU, GRUCell, Module
from ...nn.init import spectral_radius
from ...nn.recurrent import Recurrent
from ...tensors.tensor import Tensor
from ..microscope.live import live_type
from ..microscope.look import default_loss
from .charts import DRAWN, chart_spec
from .measuring import Measured, measure
from .rows import Names, coded_row, loss_row, values_row
from .sentences import WHY, sentences_about

START: Row = {"weights": 1.0, "biases": 1.0, "forget_bias": 0.0, "reads": "last"}
"""The initial position of the sliders: the unchanged model."""


@calls.explains_calls
def live_sliders(
    model: Module,
    *inputs: Any,
    loss: Callable[[Any], Tensor] | None = None,
    path: str | None = None,
    dark: bool = False,
) -> Any:
    """Show a model in a notebook, with sliders for its recurrent weights, its biases and the length.

    Python computes what is drawn whenever a slider is moved. The model itself stays as it is: a copy of
    it, made at every move, is changed and run. |λ|max and the means of gates are those of the first
    sequence of the batch.

    Parameters
    ----------
    model : Module
        With recurrent layers or cells.
    *inputs
        The arguments of the model. The length cuts the first one, ``(T, B, I)``, or ``(B, T, I)`` for
        layers with ``batch_first``.
    loss : callable, optional
        Makes a loss of what the model returns. By default it is the sum of the output; of a sequence,
        that at its last step or at every step, which is then a control.
    path : str, optional
        The module whose states are drawn, as in :func:`gradient_flow`; by default the first.
    dark : bool
        Whether the notebook is dark.

    Returns
    -------
    altair.JupyterChart
        A widget. It draws without a network. Its controls are ``weights`` and ``biases``, by which those
        of every recurrent layer are multiplied, ``forget_bias``, which is added, ``steps`` and ``reads``.

    Raises
    ------
    ArgumentError
        A model without recurrent layers, an input that is not a sequence, or a loss that is not one.
    GraphError
        The loss does not lead to states.
    MissingDependencyError
        Without altair, vl-convert or anywidget.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> lstm = tg.nn.LSTM(1, 16, rng=0)
    >>> tg.inspect.live_sliders(lstm, tg.ones((50, 1, 1)))  # doctest: +SKIP
    """
    own = _OwnModel(model, inputs, loss, path)
    alt, controls, spec = charts.altair(), own.controls(), own.spec()
    # Altair would check the whole chart for seconds; the widget needs only its parameters.
    stub = alt.Chart(alt.InlineData(values=[])).mark_point()
    stub.params = [alt.VariableParameter(**each) for each in spec["params"]]
    widget = live_type()(stub, embed_options={"renderer": "svg", "actions": False})
    widget.spec = spec | {"config": charts.theme(dark)}
    names = [each["name"] for each in controls]

    def moved(_: Any) -> None:
        at = own.start | {name: getattr(widget.params, name) for name in names}
        setattr(widget.params, DRAWN, own.row(at))

    widget.params.observe(moved, names=names)
    return widget


class _OwnModel:
    """A model and its arguments, run at any stop of the sliders."""

    def __init__(
        self,
        model: Module,
        inputs: tuple[Any, ...],
        loss: Callable[[Any], Tensor] | None,
        path: str | None,
    ) -> None:
        if not _recurrent(model):
            raise ArgumentError(
                f"live_sliders: {brief(model)} has no recurrent layers; pass a model with an RNN, an "
                "LSTM, a GRU or a layer of your own"
            )
        if loss is not None and not callable(loss):
            raise ArgumentError(
                f"live_sliders: loss = {brief(loss)} must be a function of what the model returns"
            )
        shape = getattr(inputs[0], "shape", ()) if inputs else ()
        self.axis = int(any(getattr(m, "batch_first", False) for m in _recurrent(model)))
        if len(shape) <= self.axis or shape[self.axis] < 2:
            raise ArgumentError(
                "live_sliders: the first input must be a sequence of two steps or more, an array "
                f"(T, B, I); it has shape {tuple(shape)}"
            )
        self.model, self.inputs, self.loss, self.path = model, inputs, loss, path
        self.forgets = any("f" in layer.scan.gates for layer in _recurrent(model))
        only_gru = all(isinstance(layer, GRU | GRUCell) for layer in _recurrent(model))
        self.gate = "z" if only_gru else None
        self.start = START | {"steps": shape[self.axis]}
        first = self.measure(self.start)
        parts = tuple(part for part in first.shares if part != "direct")
        self.names = Names(tuple(first.gradients), parts)

    def measure(self, at: Row) -> Measured:
        """Measure a copy of the model in which the sliders are applied."""
        model = copy.deepcopy(self.model)
        for layer in _recurrent(model):
            _apply(layer, at)
        steps = (slice(None),) * self.axis + (slice(int(at["steps"])),)
        output = model(self.inputs[0][steps], *self.inputs[1:])
        if self.loss:
            loss = self.loss(output)
        else:
            loss = default_loss("live_sliders", output, self.axis, at["reads"] == "last")
        if not is_tensor(loss) or loss.size != 1:
            raise ArgumentError(
                f"live_sliders: loss= must return a Tensor of a single element, not {brief(loss)}"
            )
        return measure(loss, self.path, self.gate)

    def row(self, at: Row) -> Row:
        """Return what the charts draw."""
        found = self.measure(at)
        cell = "LSTM" if self.forgets else "GRU" if self.gate else ""
        sentences = sentences_about(found, at["reads"], WHY.get(cell, ""))
        shown = loss_row(found, self.names, sentences, at["reads"] == "last")
        return coded_row(values_row(found, self.names) | shown)

    def spec(self) -> dict[str, Any]:
        """Return the charts, their controls, and what they show at first."""
        spec = chart_spec(self.row(self.start), self.names)
        spec["params"] += self.controls()
        return spec

    def controls(self) -> list[Row]:
        """Return the sliders that the model has, as parameters of the chart."""
        layers = _recurrent(self.model)
        (weight, *_), units = _named(layers[0], "weight_hh"), layers[0].hidden_size
        radius = max(map(spectral_radius, weight.numpy().reshape(-1, units, units)))
        own = f"recurrent weights, × (|λ|max of a gate's is {radius:.2g} at × 1)"
        sliders = {
            "weights": {"min": 0, "max": 4, "step": 0.05, "name": own},
            "biases": {"min": 0, "max": 4, "step": 0.05, "name": "biases, ×"},
            "forget_bias": {"min": -5, "max": 5, "step": 0.25, "name": "forget bias, added"},
            "steps": {"min": 2, "max": self.start["steps"], "step": 1, "name": "length"},
        }
        bound: dict[str, Row] = {name: {"input": "range"} | each for name, each in sliders.items()}
        if not self.forgets:
            del bound["forget_bias"]
        if self.loss is None:
            choices = {"labels": ["the last step", "every step"], "name": "loss reads"}
            bound["reads"] = {"input": "select", "options": ["last", "all"]} | choices
        return [{"name": n, "value": self.start[n], "bind": each} for n, each in bound.items()]


def _recurrent(model: Any) -> list[Recurrent]:
    modules = model.modules() if isinstance(model, Module) else ()
    return [module for module in modules if isinstance(module, Recurrent)]


def _named(layer: Recurrent, start: str) -> list[Any]:
    return [p for name, p in layer.named_parameters() if name.startswith(start)]


def _apply(layer: Recurrent, at: Row) -> None:
    """Change a layer as the sliders say."""
    for weight in _named(layer, "weight_hh"):
        weight.assign(weight.detach() * at["weights"])
    for bias in _named(layer, "bias"):
        bias.assign(bias.detach() * at["biases"])
    gates, units = layer.scan.gates, layer.hidden_size
    if "f" in gates:
        for bias in _named(layer, "bias_ih"):
            start = gates.index("f") * units
            bias.data[start : start + units] += at["forget_bias"]
