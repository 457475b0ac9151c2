"""``compare_cells``: a student's cell against a right one, and the mistake that explains a difference."""
