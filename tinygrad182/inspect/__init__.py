"""``tg.inspect``: look at a graph node by node, and at gradients through time.

It reads the graph; nothing in the framework depends on it. To add a figure of one state over time, add a
property to ``StateFlow`` (flow.py); any other view begins with ``ViewedRecurrence.of`` (viewed.py).
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
from .microscope.looking import Microscope, look
from .sliders.live import live_sliders
from .sliders.playground import Playground, playground
from .views.fixed_points import FixedPoint, FixedPoints, fixed_points
from .views.flow import GradientFlow, StackFlow, StateFlow, gradient_flow
from .views.hops import HopSplit, grad_by_hops
from .views.interventions import intervene
from .views.jacobians import StepJacobians, step_jacobians
from .views.matrices import input_grad_matrix, state_grad_matrix
from .views.operations import StepEdge, StepFlow, StepOperation, StepVectors, step_flow
from .views.paths import GainSplit, PathSplit, PathSplits, gain_split, path_split
from .views.recorded import RecordedStateFlow
from .views.through import Through
from .views.weights import weight_grad_by_time
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
