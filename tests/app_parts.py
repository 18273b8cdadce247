"""What the tests of the app share: documents from text, a tiny model with its tokenizer, one loaded model."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from starlette.requests import Request
from tiny_models import save_folder, tiny_model

from app.documents.document import Document, Page
from app.documents.library import StoredDocument
from app.model_shelf import LoadedModel, ModelShelf
from selfextend.steps import result_of

WORDS = "The quick brown fox jumps over the lazy dog near the old mill. "


def document(name: str = "notes.txt", pages: int = 3, sentences: int = 4, mark: str = "") -> Document:
    """A document of so many pages; `mark` makes its text, and so its checksum, another."""
    texts = [f"Page {n} {mark}. " + WORDS * sentences for n in range(1, pages + 1)]
    checksum = hashlib.sha256(repr((name, texts)).encode()).hexdigest()
    return Document(name, checksum, "txt", tuple(map(Page, range(1, pages + 1), texts)))


def stored(name: str = "notes.txt", **numbers: Any) -> StoredDocument:
    return StoredDocument(document(name, **numbers), Path(name))


def unpacked(value: str) -> Any:
    """The figure in what a plot pane was given, as plain JSON."""
    return json.loads(zlib.decompress(base64.b64decode(value)))


def request_from(client: str, host: str, user: str | None = None, **headers: str) -> gr.Request:
    """A request, as Gradio hands it to a handler.

    Args:
        client: the address that it comes from.
        host: the name that it asks for.
        user: the account.
        headers: more of them, with _ for -.
    """
    given = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw, "client": (client, 5)}
    return gr.Request(Request(scope), username=user)


def load(name: str) -> LoadedModel:
    return result_of(ModelShelf().load_steps(name))


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random Llama with a trained window of 256 tokens, as a folder."""
    return save_folder(tmp_path_factory.mktemp("tiny"), tiny_model())


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> LoadedModel:
    return load(str(tiny_folder))
