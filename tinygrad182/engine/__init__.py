"""Automatic differentiation: modes, recorded nodes, the backward pass."""
