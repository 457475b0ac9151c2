"""Benchmarks beside other frameworks. Each prints a table and writes JSON; none is a timed test."""
