"""A penalty on gradients that shrink or grow through time."""
