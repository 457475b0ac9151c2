"""Experiments: each file beside this one puts a question to the framework and measures the answer.

``python -m experiments`` lists them. ``common`` holds what they share: options, the run folder, the
report, charts, data and measurements.
"""
