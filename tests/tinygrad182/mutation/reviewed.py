"""Mutants reviewed by hand that are not faults, and cases that do not apply to a primitive."""

from __future__ import annotations

from collections.abc import Callable

from tinygrad182.primitives import Primitive
from tinygrad182.recurrence.scans import Scan

from .sites import Site

EQUIVALENT = {
    "logsumexp, input 0: output for input": "of one element it is that element",
    "logsumexp, input 0: input for output": "of one element it is that element",
    "logsumexp, tangent: output for input": "of one element it is that element",
    "logsumexp, tangent: input for output": "of one element it is that element",
    "matmul, input 1: first input twice": "of b only the rank is looked at, to save a sum",
    "remainder, input 1: inputs off by 1e-9": "a whole number, which stays",
    "tanh, value: clipped": "no value is beyond 1, or a step's imaginary part is lost there anyhow",
    "sigmoid, value: clipped": "no value is beyond 1, or a step's imaginary part is lost there anyhow",
    "multiply, value: inputs swapped": "commutative",
    "multiply, value: inputs rotated": "commutative",
    "maximum, value: inputs swapped": "commutative",
    "maximum, value: inputs rotated": "commutative",
    "minimum, value: inputs swapped": "commutative",
    "minimum, value: inputs rotated": "commutative",
    "lstm_scan, cotangents: recorded twice": "what is recorded is the definition",
    "gru_scan, cotangents: recorded twice": "what is recorded is the definition",
    "rnn_scan, cotangents: recorded twice": "what is recorded is the definition",
    "cumulative_prod, input 0: recorded twice": "what is recorded is the definition",
    "cumulative_prod, definition: shifted by 1e-6": "only derivatives of the definition are used",
    "cumulative_prod, definition: shifted by 1e-12": "only derivatives of the definition are used",
    "lstm_scan, residuals: lengths longer by one": "past an end, cotangents are 0",
    "lstm_scan, residuals: lengths shorter by one": "past an end, cotangents are 0",
    "lstm_scan, residuals: lengths overlooked": "past an end, cotangents are 0",
    "gru_scan, residuals: lengths longer by one": "past an end, cotangents are 0",
    "gru_scan, residuals: lengths shorter by one": "past an end, cotangents are 0",
    "gru_scan, residuals: lengths overlooked": "past an end, cotangents are 0",
    "rnn_scan, residuals: an axis in front": "the numbers in their order",
    "lstm_scan, definition: biases swapped": "they are added up",
    "rnn_scan, definition: biases swapped": "they are added up",
}
"""Mutants whose answers differ in the last bit, or in no way that counts."""


Never = Callable[[Primitive, Site], bool]


def _one_input(primitive: Primitive, _: Site) -> bool:
    return not callable(primitive.vjp) and len(primitive.vjp) == 1


def _takes_no_number(primitive: Primitive, site: Site) -> bool:
    return (primitive.jvp != "elementwise" and primitive.definition is None) or _one_input(
        primitive, site
    )


def _is(*names: str) -> Never:
    return lambda primitive, _: primitive.name in names


def _scans(*kinds: str) -> Never:
    return lambda primitive, site: isinstance(primitive, Scan) and site.kind in kinds


def _any_scan(primitive: Primitive, _: Site) -> bool:
    return isinstance(primitive, Scan)


CANNOT_HAPPEN: dict[str, list[Never]] = {
    # there the definition is what runs
    "leading axes, recorded": [_scans("vjp"), _is("cumulative_prod")],
    "inputs of one shape": [_one_input, _any_scan],
    "inputs of two shapes": [_one_input, _is("stack")],
    "the same input twice": [_one_input, _is("index", "scatter_add")],
    "one tangent of several": [_one_input],
    "numbers beside": [_takes_no_number],
    "0-d inputs": [
        _is("concat", "cumulative_sum", "matmul", "scatter_add"),
        _any_scan,
        _is("prod", "product_of_others", "cumulative_prod"),
    ],
    "large inputs": [_is("asin", "acos")],
    "whole numbers": [_is("asin", "acos")],
    "ones": [_is("asin", "acos")],  # a pole
    "negative inputs": [_is("log", "log2", "log10", "sqrt")],
    "an output shaped like the input": [_is("stack", "lstm_scan", "prod")],
    "zeros": [
        _is("log", "log2", "log10", "sqrt"),
        _is("abs"),
    ],  # a pole; a kink, see test_conventions.py
}
"""Cases that do not apply to some primitives. In other cases that no check asks for, mutants survive."""
