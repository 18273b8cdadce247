"""The app's endpoints for programs: /ask, /position_map and /suggest, over gradio_client and, with --mcp, over MCP.

Their docstrings are what API pages and MCP clients show. They use the model that the page has loaded.
"""

from __future__ import annotations

import mimetypes
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.processing_utils import save_base64_to_cache
from gradio.utils import get_upload_folder, is_in_or_equal

from selfextend.config import max_length
from selfextend.config import suggest as suggested
from selfextend.methods import Method, SelfExtend, position_method
from selfextend.position_map import MAX_LENGTH
from selfextend.position_map import position_map as cells_of
from selfextend.positions import EXACT
from selfextend.steps import EndNow, Running

from .asking import Question, answer_turn, prompt_of
from .model_shelf import LoadedModel, NoModelError
from .prompting import check_question
from .runtime import Runtime
from .sample import SAMPLE
from .server.callers import Callers
from .session import PROVES_NOTHING, Session, Turn
from .tabs.widgets import CALLING

MAX_DOCUMENTS = 20
MAX_NEW_TOKENS = 4096
"""As on the page."""
FILES_SCHEMA: dict[str, Any] = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "object"}]}}


T = TypeVar("T")


class CallerGoneError(RuntimeError):
    """Nobody listens for the answer any more."""

    def __init__(self) -> None:
        super().__init__("Who asked has left.")


@contextmanager
def _told(*expected: type[Exception]) -> Iterator[None]:
    """Sends the sentence of an expected error to who called the endpoint."""
    try:
        yield
    except expected as error:
        raise gr.Error(str(error), print_exception=False) from error


def add_endpoints(runtime: Runtime) -> None:
    """The endpoints, inside the open gr.Blocks."""
    callers = Callers()

    @_told(ValueError, RuntimeError)
    def ask(
        question: str,
        documents: list[Any] | None = None,
        group_size: int = 0,
        neighbor_window: int = 0,
        method: str = "SelfExtend",
        max_new_tokens: int = 0,
        request: gr.Request | None = None,
    ) -> dict[str, Any]:
        """Answer a question about documents with the loaded model, and cite the pages that the answer looked at.

        A caller may have three questions under way.

        Args:
            question: what to ask, at most 100,000 characters.
            documents: at most 20 PDF, TXT, MD or DOCX files, each uploaded (gradio_client: handle_file) or a URL of
                the form data:application/pdf;base64,…; the sample document where none is given.
            group_size: SelfExtend's G_s; 0 takes what is suggested for the prompt's length.
            neighbor_window: SelfExtend's w_n or ReRoPE's w, in tokens; 0 takes what suits the model.
            method: "SelfExtend", "ReRoPE" or "Vanilla".
            max_new_tokens: longest answer, in tokens: 1 to 4,096; 0 takes what suits the model.

        Returns:
            answer, citations (document, page, text, share, level, relative_position), note (why the
            teaching model cites nothing), prompt_tokens, reused_tokens, trained_window, reach, group_size,
            neighbor_window, method, model, seconds, first_token_seconds.
        """
        if not isinstance(question, str):
            raise ValueError("question must be a text.")
        check_question(question)
        chosen = _method(method, _whole("group_size", group_size), _whole("neighbor_window", neighbor_window))
        longest = _whole("max_new_tokens", max_new_tokens, 0, MAX_NEW_TOKENS)
        session, holder = Session(_visitor(request)), f"api-{secrets.token_hex(16)}"
        with callers.calling(session.visitor), runtime.sessions.guest(session):
            paths, gone = _paths(documents), _watch(runtime, request)
            loaded = _model(runtime, gone)
            longest = longest or loaded.longest_answer
            # After the wait: two threads that import transformers at once break each other's import.
            from selfextend.generation import GenerationSettings

            if chosen.symbols:
                chosen = replace(chosen, query_scaling=loaded.profile.query_scaling)
            try:
                for path in paths:
                    document = _while_wanted(runtime.library.add_steps(path, path.name, holder), gone)
                    runtime.check_room(session, document)
                    session.documents.append(document)
                generation = GenerationSettings(max_new_tokens=longest)
                asked = Question(question, tuple(session.documents), chosen, "always", generation)
                prompt = prompt_of(loaded, asked)
                steps = answer_turn(loaded, runtime.caches, session, asked, prompt)
                return _answer(loaded, _while_wanted(steps, gone))
            finally:
                runtime.library.forget(holder)  # a program asks once; its upload may be asked about again for an hour

    _connect(ask)
    # MCP clients see the functions' own names.
    gr.api(position_map, api_name="position_map")
    gr.api(suggest, api_name="suggest")


def _connect(ask: Callable[..., dict[str, Any]]) -> None:
    """The endpoint /ask, with a component for each of its parameters."""
    # Of gr.File's schema for a list, Gradio's MCP server makes one that no call fits; gr.JSON has none. Set on the
    # component itself: for a class of our own, Gradio would write a stub file beside this one.
    files = gr.JSON(visible=False, label="documents")
    files.api_info = lambda: FILES_SCHEMA  # type: ignore[method-assign]
    inputs = [
        gr.Textbox(visible=False, label="question"),
        files,
        gr.Number(0, precision=0, visible=False, label="group_size"),
        gr.Number(0, precision=0, visible=False, label="neighbor_window"),
        gr.Textbox("SelfExtend", visible=False, label="method"),
        gr.Number(0, precision=0, visible=False, label="max_new_tokens"),
    ]
    gr.Button(visible=False).click(
        ask,
        inputs,
        gr.JSON(visible=False, label="result"),
        api_name="ask",
        show_progress="hidden",
        **CALLING,
    )


def _answer(loaded: LoadedModel, turn: Turn) -> dict[str, Any]:
    answer, settled = turn.answer, turn.method
    return {
        "answer": answer.text.strip(),
        "citations": [citation.as_json() for citation in turn.citations],
        "note": PROVES_NOTHING if turn.proves_nothing else "",
        "prompt_tokens": answer.prompt_tokens,
        "reused_tokens": answer.reused_tokens,
        "new_tokens": len(answer.token_ids),
        "trained_window": loaded.trained_window,
        "reach": settled.reach(loaded.trained_window),
        "group_size": settled.settings().get("group_size", 1),
        "neighbor_window": settled.settings().get("neighbor_window", loaded.profile.neighbors),
        "query_scaling": settled.query_scaling,
        "method": settled.kind,
        "model": loaded.name,
        "seconds": round(answer.prefill_seconds + answer.decode_seconds, 3),
        "first_token_seconds": round(answer.prefill_seconds, 3),
    }


def _method(name: str, group_size: int, neighbor_window: int) -> Method:
    """A method by its heading or kind, with those of the numbers that it takes; a 0 among them stays open.

    Raises:
        ValueError: there is none of that name, or a number is out of range.
    """
    method = position_method(str(name))
    return method.with_numbers(group_size=group_size or None, neighbor_window=neighbor_window or None)


def _visitor(request: gr.Request | None) -> str:
    """Who asks: the account, or the machine. Programs have no session that outlives a call."""
    client = getattr(request, "client", None)
    return f"api:{getattr(request, 'username', None) or getattr(client, 'host', '')}"


def _watch(runtime: Runtime, request: gr.Request | None) -> Callable[[], bool]:
    """Tells whether the caller has left."""
    key, since = getattr(request, "session_hash", None), time.monotonic()
    return (lambda: False) if key is None else (lambda: runtime.listeners.gone(key, since))


def _while_wanted(steps: Generator[Any, Any, T], gone: Callable[[], bool]) -> T:
    """The result of the steps.

    Raises:
        CallerGoneError: the caller left, between two steps or within a long one; the steps are closed by then.
    """
    try:
        with Running(steps, gone) as running:
            for _ in running:
                if gone():
                    raise CallerGoneError
            return running.result
    except EndNow:
        raise CallerGoneError from None


def _whole(name: str, value: Any, least: int = 0, most: int = MAX_LENGTH) -> int:
    """A whole number within its bounds; nothing given counts as 0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    value = 0 if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least:,} to {most:,}.")
    return value


def _model(runtime: Runtime, gone: Callable[[], bool]) -> LoadedModel:
    """The loaded model; waits for the one that the app was started with.

    Raises:
        NoModelError: there is none.
        CallerGoneError: the caller left meanwhile.
    """
    while not runtime.first_load.done.wait(0.3):
        if gone():
            raise CallerGoneError
    try:
        return runtime.models.need()
    except NoModelError as error:
        raise NoModelError(runtime.first_load.error or str(error)) from error


def _paths(documents: list[Any] | None) -> list[Path]:
    if not documents:
        return [SAMPLE] if SAMPLE.is_file() else []
    if not isinstance(documents, list):
        raise ValueError("documents must be a list of files.")
    if len(documents) > MAX_DOCUMENTS:
        raise ValueError(f"documents must be at most {MAX_DOCUMENTS} files, not {len(documents):,}.")
    return [_path(given) for given in documents]


def _path(given: Any) -> Path:
    """Where an uploaded file lies. Nothing outside the upload folder is read, whatever path is named."""
    folder = Path(get_upload_folder())
    if isinstance(given, str) and given.startswith("data:") and ";base64," in given[:200]:
        kind = given[5:].partition(";")[0]
        name = f"document{mimetypes.guess_extension(kind) or '.txt'}"
        try:
            return Path(save_base64_to_cache(given, str(folder), name))
        except ValueError as error:
            raise ValueError("A data: URL is cut off or damaged: its base64 cannot be read.") from error
    path = Path(str(given.get("path", ""))) if isinstance(given, dict) else Path()
    if not is_in_or_equal(path, folder) or not path.is_file():
        raise ValueError("Each document must be an uploaded file (gradio_client: handle_file) or a data: URL.")
    return path


@_told(ValueError, TypeError)
def position_map(
    trained_window: int,
    length: int,
    group_size: int,
    neighbor_window: int,
    query_from: int = 0,
    query_to: int = 0,
    key_from: int = 0,
    key_to: int = 0,
    method: str = "selfextend",
) -> dict[str, Any]:
    """The relative position at which each query sees each key, on at most 512 x 512 cells. Needs no model.

    Args:
        trained_window: tokens that the model was trained on (the paper's L).
        length: tokens of the text (N).
        group_size: the paper's G_s.
        neighbor_window: the paper's w_n, tokens.
        query_from: first query.
        query_to: one past the last query; 0 is the length.
        key_from: first key.
        key_to: one past the last key; 0 is the length.
        method: "vanilla", "selfextend", "rerope", or "difference": by how much nearer SelfExtend puts each key.

    Returns:
        query and key: positions; relative: rows of relative positions, -1 where the key comes after the query.
    """
    difference = method == "difference"
    numbers = _whole("group_size", group_size), _whole("neighbor_window", neighbor_window)
    shown = _method(SelfExtend.kind if difference else method, *numbers)
    queries = _whole("query_from", query_from), _whole("query_to", query_to) or None
    keys = _whole("key_from", key_from), _whole("key_to", key_to) or None
    window, tokens = _whole("trained_window", trained_window), _whole("length", length)
    cells = cells_of(window, tokens, shown.positions or EXACT, queries, keys, difference=difference)
    return {"query": cells.query.tolist(), "key": cells.key.tolist(), "relative": cells.relative.tolist()}


@_told(ValueError, TypeError)
def suggest(trained_window: int, length: int) -> dict[str, Any]:
    """The smallest group size that the paper's empirical rule allows for a text of this length. Needs no model.

    Args:
        trained_window: tokens that the model was trained on (the paper's L).
        length: tokens of prompt and answer together (N).

    Returns:
        group_size, neighbor_window, reach.
    """
    window = _whole("trained_window", trained_window)
    config = suggested(window, _whole("length", length))
    reach = max_length(window, config)
    return {"group_size": config.group_size, "neighbor_window": config.neighbor_window, "reach": reach}
