"""Importing what the app needs without looking for garbage meanwhile.

Nearly all that an import makes is there to stay. Python goes through it again and again while more is imported, which
is an eighth of the time from the start to the model; and now and then while the app runs, for a quarter of a second in
which no word of an answer comes.
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
        import selfextend.loading.models
        import selfextend.plugin  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
