"""The tests: a package, so that they share ``support`` and the table of operations."""
