"""Experiments: each file beside this one puts a question to the framework and measures the answer.

``python -m experiments`` lists them. ``common`` holds what all of them share: options, the run
folder, the report, charts, numbers and words. ``regression`` makes, measures and trains the recurrent
regressors that most questions are about. Each other package is what one question is measured and
drawn with. Imports run one way: question, its package, ``regression``, ``common``.
"""
