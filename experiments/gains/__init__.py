"""Saturation × weight: what a step back does to the gradient, and how that is shown."""
