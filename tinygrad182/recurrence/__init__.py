"""Recurrences over time: from a cell's step to one fused operation, and back to single steps."""
