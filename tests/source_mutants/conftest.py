"""This folder has no tests, and mutmut need not be installed."""

collect_ignore_glob = ["*.py"]
