"""Benchmarks against peers. Each prints a table and writes JSON; none is a timed test."""
