"""``python -m deconfound``."""

import sys

from deconfound.cli import main

if __name__ == "__main__":
    sys.exit(main())
