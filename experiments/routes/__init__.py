"""The ways that an LSTM's gradient takes back through time, measured and by hand."""
