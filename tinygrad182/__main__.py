"""``python -m tinygrad182``: commands for a terminal."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
