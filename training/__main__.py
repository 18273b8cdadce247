"""python -m training: makes the bundled model from nothing. See training/README.md."""

from training.cli import main

raise SystemExit(main())
