"""Progress on standard error, where somebody is looking."""

from __future__ import annotations

import sys

from selfextend.steps import Progress


def show_progress(step: Progress) -> None:
    """Say how far some work is, on the line where it was said before."""
    if sys.stderr.isatty():
        share = "    " if step.fraction is None else f"{step.fraction:4.0%}"
        left = "" if step.seconds_left is None else f", {step.seconds_left:,.0f} s left"
        print(f"\r\x1b[K{share}  {step.words}{left}", end="", file=sys.stderr, flush=True)


def end_progress() -> None:
    """Leave that line."""
    if sys.stderr.isatty():
        print(file=sys.stderr)
