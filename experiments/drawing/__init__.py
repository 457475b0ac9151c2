"""Charts, tables, numbers and words: what a question shows its answer with."""
