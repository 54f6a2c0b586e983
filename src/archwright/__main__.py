"""`python -P -m archwright`. Without -P, Python imports modules of the working folder before this file runs."""

import sys

from archwright.cli import main

if __name__ == "__main__":
    sys.exit(main())
