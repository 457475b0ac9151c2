"""Experiments: each puts a question to the framework and measures the answer.

``python -m experiments`` lists them. Every question is a package in ``questions/``, with the name of
its command, and has four files: ``__init__`` (options, run and claims), ``measure``, ``figures`` (charts
and tables) and ``words``. The packages they share, from the top down: ``regressors`` makes, measures and
trains recurrent networks; ``app`` is the command, its options, the run's folder and its report;
``drawing`` is charts, tables, numbers and words. Each imports only from those below it.
"""
