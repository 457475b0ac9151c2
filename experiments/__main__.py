"""Run an experiment: ``python -m experiments [NAME [OPTIONS]]``."""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec

NEEDED = ("altair", "jinja2", "rich", "tyro", "vl_convert")

if __name__ == "__main__":
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        sys.exit(
            f"The experiments need what is not installed here: {', '.join(missing)}. "
            "Install it with: pip install -e '.[experiments]'"
        )
    from experiments.common.cli import main

    # A run that is told to end cleans up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
