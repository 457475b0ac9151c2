"""An LSTM whose gradient through the hidden state is blocked, at some steps or at all."""
