"""The views of a loss or a graph: a file for each, with the name of its function.

A figure of one state over time, such as ‖h_t − h_{t−1}‖, is a property of ``StateFlow`` (gradient_flow.py).
Any other view is a function in a new file: ``ViewedRecurrence.of`` (viewed_recurrence.py) finds the states,
the function computes figures of them, and a small class holds these and prints them.
"""
