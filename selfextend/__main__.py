"""`python -m selfextend`: see `selfextend.cli`."""

import sys

from selfextend.cli import main

sys.exit(main())
