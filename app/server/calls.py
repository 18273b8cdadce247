"""What every call of a handler has in common: a sentence where it fails, and the number of its request in the log."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .request_log import log_unexpected, request_id

LOOK_SECONDS = 0.01
"""Between two looks of Gradio's queue for an event to handle."""


class SafeBlocks(gr.Blocks):
    """gr.Blocks whose calls end in a sentence, and whose queue leaves the processor to who computes.

    Gradio by itself tells a caller of an unforeseen error only "error: null", or, told to show errors, its words, which
    may name files of this machine or quote a document. Its queue looks a thousand times a second for an event and a
    hundred times for progress, and each look takes Python from a model that answers meanwhile.
    """

    def queue(self, *given: Any, **more: Any) -> Any:
        """As Gradio's own, but for how often it looks."""
        super().queue(*given, **more)
        self._queue.sleep_when_free = LOOK_SECONDS
        self._queue.progress_update_sleep_when_free = 1.0  # no handler here has Gradio's own progress
        return self

    async def process_api(self, block_fn: Any, inputs: list[Any], *given: Any, **more: Any) -> dict[str, Any]:
        """As Gradio's own, but for what it raises.

        Raises:
            gr.Error: with a sentence.
        """
        headers = getattr(more.get("request"), "headers", None)
        if headers is not None:
            request_id.set(headers.get("x-request-id", "-"))
        try:
            return await super().process_api(block_fn, inputs, *given, **more)
        except gr.Error as error:
            error.print_exception = False  # it is told, and its words may quote what came in
            raise
        except Exception as error:
            log_unexpected(error, f"handler {getattr(block_fn, 'name', block_fn)}")
            raise gr.Error(
                "This did not work: a value that came with it does not fit, or something unexpected happened "
                f"(request {request_id.get()}). Reload the page and try again.",
                print_exception=False,
            ) from error
