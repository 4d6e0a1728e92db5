"""``python -m xclass``: the command line."""

import sys

from xclass.cli import main

sys.exit(main())
