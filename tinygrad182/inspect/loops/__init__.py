"""The loops of a graph: recurrences and their steps, the step of an operation, steps recorded again."""
