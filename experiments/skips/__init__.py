"""Gradients through depth, with skips, without, and over an LSTM's cell."""
