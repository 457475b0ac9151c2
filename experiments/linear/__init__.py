"""Linear RNNs: their gradients, and what the spectrum of W_h says of them."""
