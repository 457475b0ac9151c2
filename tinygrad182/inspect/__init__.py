"""``tg.inspect``: look at a graph node by node, and at gradients through time.

It reads the graph; nothing in the framework depends on it. To add a view, see :mod:`.views`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._suggestions import calls as _calls
from ..engine.marks import mark
from .charts.pictures import draw_matrix
from .differences.diff import TraceDiff, diff
from .graph.anomaly import Anomaly, first_anomaly
from .graph.graph import Edge, Graph, GraphNode, trace
from .graph.traces import Trace, load_trace
from .microscope.look import Microscope, look
from .sliders.live import live_sliders
from .sliders.playground import Playground, playground
from .views.fixed_points import FixedPoint, FixedPoints, fixed_points
from .views.gain_split import GainSplit, gain_split
from .views.grad_by_hops import HopSplit, grad_by_hops
from .views.grad_matrices import input_grad_matrix, state_grad_matrix
from .views.gradient_flow import GradientFlow, StackFlow, StateFlow, gradient_flow
from .views.intervene import intervene
from .views.path_split import PathSplit, PathSplits, path_split
from .views.recorded_flow import RecordedStateFlow
from .views.step_flow import StepEdge, StepFlow, StepOperation, StepVectors, step_flow
from .views.step_jacobians import StepJacobians, step_jacobians
from .views.through import Through
from .views.weight_grad import weight_grad_by_time
from .watching.watch import Watch, watch
from .watching.watched import Watched, WatchedState, load_watch

__all__ = [
    "Anomaly",
    "Edge",
    "FixedPoint",
    "FixedPoints",
    "GainSplit",
    "GradientFlow",
    "Graph",
    "GraphNode",
    "HopSplit",
    "Microscope",
    "PathSplit",
    "PathSplits",
    "Playground",
    "RecordedStateFlow",
    "StackFlow",
    "StateFlow",
    "StepEdge",
    "StepFlow",
    "StepJacobians",
    "StepOperation",
    "StepVectors",
    "Through",
    "Trace",
    "TraceDiff",
    "Watch",
    "Watched",
    "WatchedState",
    "diff",
    "draw_matrix",
    "first_anomaly",
    "fixed_points",
    "gain_split",
    "grad_by_hops",
    "gradient_flow",
    "input_grad_matrix",
    "intervene",
    "live_sliders",
    "load_trace",
    "load_watch",
    "look",
    "mark",
    "path_split",
    "playground",
    "state_grad_matrix",
    "step_flow",
    "step_jacobians",
    "trace",
    "watch",
    "weight_grad_by_time",
]

_calls.explain_calls_in(globals())

if not TYPE_CHECKING:
    __getattr__ = _calls.names_of(__name__, "tg.inspect", {})
