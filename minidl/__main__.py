"""`python -m minidl` prints the state of the installation."""

import sys

from minidl._installation import main

if __name__ == "__main__":
    sys.exit(main())
