"""Run capsules: one HTML file with a question, its answer, citations, settings, versions and the pooled figures.

It opens in any browser without a network, and this app reads it back: what the figures are drawn from stands in it.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from importlib import metadata
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from selfextend.lab.records import harmless

from .conversation import Entry, Reply, from_json, measures, settings_words, typed
from .evidence import PageShare, page_shares
from .figures.answers import Columns, Group, attention_heatmap, page_bars
from .figures.style import offline_html
from .session import Turn

FORMAT = "selfextend-capsule"
VERSION = 2
"""2: a reply has the settings of its method, whichever those are."""
MAX_BYTES = 30_000_000
PACKAGES = ("selfextend", "torch", "transformers", "gradio", "plotly", "pypdfium2")
_DATA = re.compile(r'<script type="application/json" id="capsule">(.*?)</script>', re.DOTALL)
MOST_PAGES = 24


class CapsuleError(ValueError):
    """A file that is no run capsule; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Pooled:
    """Attention of the answer's tokens, pooled: what the capsule's picture is drawn from.

    Attributes:
        tokens: the text of each answer token, one a row.
        edges: (bins + 1,) prompt tokens; bin b covers edges[b] ... edges[b + 1] - 1.
        shares: (rows, bins) largest weight in the bin under any layer and head, 0 to 1.
        pages: each page's label and its first prompt token, in order; empty in capsules of earlier versions.
    """

    tokens: tuple[str, ...]
    edges: npt.NDArray[np.int64]
    shares: npt.NDArray[np.float32]
    pages: tuple[tuple[str, int], ...] = ()

    @property
    def columns(self) -> Columns:
        """The bins as a heatmap's columns, each page's together."""
        firsts = [max(0, int(np.searchsorted(self.edges, first, side="right")) - 1) for _, first in self.pages]
        runs = zip(self.pages, pairwise([*firsts, len(self.edges) - 1]), strict=True)
        # Of pages that share a bin, the last one names it.
        groups = (Group(label, first, stop) for (label, _), (first, stop) in runs if first < stop)
        title = "page" if self.pages else "token of the prompt"
        return Columns(self.edges[:-1], self.edges[1:], tuple(groups), title=title)


@dataclass(frozen=True, eq=False)
class Capsule:
    """A question and its answer, by one method, as they are kept in a file.

    Attributes:
        entry: the question, with just this reply.
        trained_window: of the model, in tokens.
        documents: name, checksum and number of pages of each.
        pages: every page's share of the answer's attention, most first.
        pooled: attention, or None where none was recorded.
        versions: of Python and of the packages that took part.
        made: when, as an ISO date and time.
    """

    entry: Entry
    trained_window: int
    documents: tuple[dict[str, Any], ...]
    pages: tuple[PageShare, ...]
    pooled: Pooled | None
    versions: dict[str, str]
    made: str

    @property
    def reply(self) -> Reply:
        """The answer."""
        return self.entry.replies[0]


def capsule_of(turn: Turn, reply: Reply, pooled: Pooled | None) -> Capsule:
    """The capsule of an answer.

    Args:
        reply: the turn's, as the conversation has it.
        pooled: the attention to show, or None where none was recorded.
    """
    record = turn.answer.attention
    pages: list[PageShare] = []
    if record is not None and turn.prompt.index.passages:
        pages = page_shares(record, turn.prompt.index, len(turn.answer.token_ids))
    documents = [stored.document for stored in turn.documents]
    return Capsule(
        entry=Entry(turn.question, (reply,), turn.model_name),
        trained_window=turn.profile.trained_window,
        documents=tuple({"name": kept.name, "sha256": kept.sha256, "pages": len(kept.pages)} for kept in documents),
        pages=tuple(pages),
        pooled=pooled,
        versions=_versions(),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # the app runs from a checkout too, where selfextend is not installed
            continue
    return found


def as_json(capsule: Capsule) -> dict[str, Any]:
    """The capsule as JSON holds it."""
    pooled = None
    if capsule.pooled is not None:
        # Half precision tells shares apart to a thousandth of their size, in a quarter of the room.
        shares = capsule.pooled.shares.astype(np.float16)
        pooled = {
            "tokens": list(capsule.pooled.tokens),
            "edges": capsule.pooled.edges.tolist(),
            "shares": base64.b64encode(shares.tobytes()).decode(),
            "pages": [*map(list, capsule.pooled.pages)],
        }
    return {
        "format": FORMAT,
        "version": VERSION,
        "made": capsule.made,
        "entry": asdict(capsule.entry),
        "trained_window": capsule.trained_window,
        "documents": list(capsule.documents),
        "pages": [asdict(page) for page in capsule.pages],
        "attention": pooled,
        "versions": capsule.versions,
    }


def from_dict(record: Any) -> Capsule:
    """What `as_json` made, read back and checked.

    Raises:
        CapsuleError: it is something else, or of a later version.
    """
    try:
        if record["format"] != FORMAT:
            raise KeyError("format")
        if record["version"] > VERSION:
            raise CapsuleError("This run capsule was made by a later version of this app: update the app to open it.")
        (entry,) = from_json([record["entry"]])
        pooled = None
        if record["attention"] is not None:
            kept = record["attention"]
            tokens, edges = tuple(map(str, kept["tokens"])), np.asarray(kept["edges"], dtype=np.int64)
            shares = np.frombuffer(base64.b64decode(kept["shares"]), dtype=np.float16).astype(np.float32)
            pages = tuple((str(label), int(first)) for label, first in kept.get("pages", []))
            pooled = Pooled(tokens, edges, shares.reshape(len(tokens), len(edges) - 1), pages)
        capsule = Capsule(
            entry=entry,
            trained_window=int(record["trained_window"]),
            documents=tuple(
                {"name": str(kept["name"]), "sha256": str(kept["sha256"]), "pages": int(kept["pages"])}
                for kept in record["documents"]
            ),
            pages=tuple(typed(PageShare, kept) for kept in record["pages"]),
            pooled=pooled,
            versions={str(name): str(version) for name, version in record["versions"].items()},
            made=str(record["made"]),
        )
        assert len(capsule.entry.replies) == 1
    except CapsuleError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise CapsuleError(
            "This is no run capsule of this app, or it was changed: save the run again, or open another file."
        ) from error
    return capsule


def read_capsule(html: str) -> Capsule:
    """The capsule in an HTML file that `as_html` wrote. Nothing in the file is run or shown as it is.

    Raises:
        CapsuleError: there is none in it.
    """
    found = _DATA.search(html)
    if found is None:
        raise CapsuleError("This file holds no run capsule. Choose an HTML file that was saved with this app.")
    try:
        record = json.loads(found[1])
    except ValueError as error:
        raise CapsuleError("The run capsule in this file is damaged: save the run again.") from error
    return from_dict(record)


def figures_of(capsule: Capsule) -> list[Any]:
    """The capsule's figures as plotly figures: attention by page, and answer tokens by document."""
    figures = []
    cited = {(source.document, source.page) for source in capsule.reply.sources}
    shown = [page for page in capsule.pages[:MOST_PAGES] if page.share > 0]
    if shown:
        many = len(capsule.documents) > 1
        figures.append(
            page_bars(
                [f"{page.document + 1}: {page.page}" if many else str(page.page) for page in shown],
                [page.share for page in shown],
                cited=[number for number, page in enumerate(shown) if (page.name, page.page) in cited],
            )
        )
    if capsule.pooled is not None and capsule.pooled.shares.size:
        figures.append(
            attention_heatmap(
                capsule.pooled.shares,
                [text.strip() or "␣" for text in capsule.pooled.tokens],
                capsule.pooled.columns,
                title="Where each word of the answer looked: the largest weight of all layers and heads",
                unit="largest weight",
            )
        )
    return figures


def as_html(capsule: Capsule) -> str:
    """The whole file. It loads nothing from anywhere."""
    # No tag inside a string may end or begin a script element.
    data = json.dumps(as_json(capsule), ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{escape(capsule.entry.question)}</title><style>{_STYLE}</style></head>'
        f"<body><main>{body_html(capsule)}{offline_html(figures_of(capsule))}</main>"
        f'<script type="application/json" id="capsule">{data}</script></body></html>\n'
    )


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff; margin: 0; }
main { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
blockquote { margin: 0.3rem 0 1rem; padding-left: 0.8rem; border-left: 4px solid #0072b2; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.2rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
.answer { font-size: 1.15rem; white-space: pre-wrap; }
"""


def body_html(capsule: Capsule) -> str:
    """Question, answer, citations, settings and versions as HTML, every text in it escaped."""
    reply = capsule.reply
    sources = "".join(
        f"<li><b>{escape(source.document)}, {escape(source.page_word)} {source.page}</b>, {source.share:.0%} of the "
        f"attention on the documents; {_level(source)}<blockquote>{escape(source.text)}</blockquote></li>"
        for source in reply.sources
    )
    facts = {
        "Model": f"{capsule.entry.model}, trained on {capsule.trained_window:,} tokens",
        "Method": f"{reply.made_by.title}: {settings_words(reply)}",
        "Measured": measures(reply),
        "Documents": "; ".join(
            f"{document['name']} ({document['pages']} pages, sha256 {document['sha256']})"
            for document in capsule.documents
        ),
        "Versions": ", ".join(f"{name} {version}" for name, version in capsule.versions.items()),
        "Made": capsule.made,
    }  # fmt: skip
    listing = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return (
        f"<h1>{escape(capsule.entry.question)}</h1><p class='answer'>{escape(reply.text)}</p>"
        f"<h2>Passages that the answer looked at</h2><p>Found in the attention, not written by the model. Attention is "
        f"not proof.</p><ol>{sources}</ol><h2>Settings</h2><dl>{listing}</dl>"
    )


def _level(source: Any) -> str:
    if source.level == "neighbor":
        return f"neighbor: exact position, {source.relative_position:,}"
    return f"grouped: ±{source.plus_minus:,} tokens, seen at relative position {source.relative_position:,}"


def as_csv(capsule: Capsule) -> str:
    """Pages and cited passages as CSV: one row each, told apart by the first column."""
    rows: list[Sequence[Any]] = [("kind", "document", "page", "share", "level", "relative_position", "text")]
    rows += [("page", page.name, page.page, f"{page.share:.6f}", "", "", "") for page in capsule.pages]
    rows += [
        ("passage", kept.document, kept.page, f"{kept.share:.6f}", kept.level, kept.relative_position, kept.text)
        for kept in capsule.reply.sources
    ]
    return _csv(rows)


def attention_csv(pooled: Pooled) -> str:
    """The pooled attention as CSV: a row for each answer token, a column for each stretch of the prompt."""
    spans = [f"{a}-{b - 1}" for a, b in pairwise(pooled.edges)]
    shares = zip(pooled.tokens, pooled.shares, strict=True)
    return _csv([("token", *spans), *((text, *(f"{value:.6g}" for value in row)) for text, row in shares)])


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV, no text of which a spreadsheet takes for a formula."""
    table = io.StringIO()
    csv.writer(table).writerows(map(harmless, row) for row in rows)
    return table.getvalue()
