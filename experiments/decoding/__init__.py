"""What the questions about decoding are measured and drawn with."""
