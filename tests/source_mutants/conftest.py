"""Nothing here is a test, and mutmut need not be installed."""

collect_ignore_glob = ["*.py"]
