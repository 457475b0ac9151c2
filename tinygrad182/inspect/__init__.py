"""The microscope: look at a graph node by node, and at gradients through time.

Reads the graph; nothing in the framework depends on it.
"""

from __future__ import annotations

from ..marks import mark
from .anomaly import Anomaly, first_anomaly
from .flow import GradientFlow, StackFlow, StateFlow, gradient_flow
from .graph import Edge, Graph, GraphNode, trace

__all__ = [
    "Anomaly",
    "Edge",
    "GradientFlow",
    "Graph",
    "GraphNode",
    "StackFlow",
    "StateFlow",
    "first_anomaly",
    "gradient_flow",
    "mark",
    "trace",
]
