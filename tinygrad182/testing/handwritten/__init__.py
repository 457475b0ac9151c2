"""``check_backward``: a derivative written by hand in NumPy, against numerical ones."""
