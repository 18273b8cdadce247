"""Importing what the app needs without looking for garbage meanwhile.

Nearly all that an import makes is there to stay. Python goes through it again and again while more is imported, and now
and then while the app runs, when no word of an answer comes meanwhile. `python -m benchmarks.start` imports both ways.
"""

from __future__ import annotations

import gc


def begin() -> None:
    """Collect no garbage until `finish`."""
    gc.disable()


def finish() -> None:
    """Import what is still missing for the first model, and collect garbage from now on: what is made later."""
    try:
        import selfextend.generation
        import selfextend.loading.models  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
