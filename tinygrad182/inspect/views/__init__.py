"""What users ask of a loss or a graph: one file for each view."""
