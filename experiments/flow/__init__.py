"""Gradient flow before and after training, as charts, rows and sentences."""
