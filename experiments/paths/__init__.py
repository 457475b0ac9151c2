"""Paths through a shared weight: one number followed by hand, and matrices by time step."""
