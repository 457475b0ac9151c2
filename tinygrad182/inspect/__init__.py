"""The microscope: look at a graph node by node, and at gradients through time.

Reads the graph; nothing in the framework depends on it.
"""

from __future__ import annotations

from ..recording import mark
from .flow import GradientFlow, StackFlow, StateFlow, gradient_flow
from .graph import Edge, Graph, GraphNode, trace

__all__ = [
    "Edge",
    "GradientFlow",
    "Graph",
    "GraphNode",
    "StackFlow",
    "StateFlow",
    "gradient_flow",
    "mark",
    "trace",
]
