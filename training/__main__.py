"""python -m training: makes the bundled model from nothing. See training/README.md."""

from .cli import main

raise SystemExit(main())
