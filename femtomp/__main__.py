"""`python -m femtomp`: the same as the command `femtomp`."""

import sys

from femtomp.cli import main

if __name__ == "__main__":
    sys.exit(main())
