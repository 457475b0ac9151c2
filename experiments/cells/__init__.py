"""LSTMs beside vanilla RNNs of the same sizes."""
