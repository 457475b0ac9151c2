"""``check_gradients``: every derivative of a function against numerical ones."""
