"""Reads pages that are pictures of text, with RapidOCR. Runs in the child process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import pypdfium2

from .page_text import Rectangle, clean_page
from .pdf_text import PageText

LONG_SIDE = 2000
"""Pixels of a page's longer side in the picture that is read: the engine makes larger ones smaller again."""
MAX_SCALE = 300 / 72
"""Pixels for each PDF unit, at most: for small pages."""
MAX_THREADS = 2

_COLUMN_LINES = 3
_COLUMN_HEIGHTS = 8
"""Columns of prose have at least so many lines, which are at least so many times as wide as high: others are tables."""


class Line(NamedTuple):
    """A line of text and its box, in pixels, the origin at the bottom left."""

    text: str
    box: Rectangle


class ScanReader:
    """RapidOCR with the weights that are in its wheel: it asks no network. Loaded for the first page that needs it."""

    @cached_property
    def _engine(self) -> Any:
        import cv2
        from rapidocr import RapidOCR

        cv2.setNumThreads(1)
        threads = min(os.cpu_count() or 1, MAX_THREADS)
        return RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,  # pages stand upright
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def read(self, page: Any) -> PageText:
        """The text of a page as it is shown, column after column; boxes are in PDF units."""
        width, height = max(page.get_width(), 1.0), max(page.get_height(), 1.0)
        picture = page.render(scale=min(LONG_SIDE / max(width, height), MAX_SCALE)).to_numpy()
        rows, columns = picture.shape[:2]
        found = self._engine(picture)
        if found.txts is None:
            return PageText("", lambda place: None)
        lines = [
            Line(text, _upright(corners, rows))
            for text, corners in zip(found.txts, found.boxes.tolist(), strict=True)
            if text.strip()
        ]
        lines = in_reading_order(_evened(lines))
        characters = [(character, line) for line in lines for character in f"{line.text}\n"]
        places = [_character_box(line, index) for line in lines for index in range(len(line.text) + 1)]
        clean = clean_page([ord(character) for character, _ in characters], places.__getitem__)
        to_page = pypdfium2.PdfPosConv(page, (0, 0, columns, rows, 0)).to_page

        def box_of(place: int) -> Rectangle:
            left, bottom, right, top = places[clean.source[place]]
            corners = (to_page(round(left), round(rows - bottom)), to_page(round(right), round(rows - top)))
            (left, right), (bottom, top) = (sorted(sides) for sides in zip(*corners, strict=True))
            return left, bottom, right, top

        return PageText(clean.text, box_of)


def _evened(lines: Sequence[Line]) -> list[Line]:
    """Lines about as high as most made exactly so: their boxes end with the ink, and paragraphs are told by heights."""
    usual = max(median([line.box[3] - line.box[1] for line in lines] or [1.0]), 1.0)
    evened = []
    for line in lines:
        left, bottom, right, top = line.box
        if 0.75 < (top - bottom) / usual < 1.3:
            middle = (bottom + top) / 2
            line = Line(line.text, (left, middle - usual / 2, right, middle + usual / 2))
        evened.append(line)
    return evened


def _upright(corners: Sequence[Sequence[float]], rows: int) -> Rectangle:
    """The box around four corners in pixels, whose origin is at the top left."""
    across, down = [corner[0] for corner in corners], [corner[1] for corner in corners]
    return min(across), rows - max(down), max(across), rows - min(down)


def _character_box(line: Line, index: int) -> Rectangle:
    """Where a character of a line is, all being equally wide; of the line end, the last character's."""
    left, bottom, right, top = line.box
    step = (right - left) / len(line.text)
    index = min(index, len(line.text) - 1)
    return left + index * step, bottom, left + (index + 1) * step, top


def in_reading_order(lines: Sequence[Line]) -> list[Line]:
    """Lines from top to bottom, columns of prose one after the other; the cells of a table row by row.

    The page is cut along the widest gap between columns where there is one, else along the widest one between lines,
    and so on in the parts.
    """
    if len(lines) < 2 * _COLUMN_LINES:
        return _row_by_row(lines)
    by_side = _cut(lines, low=0, high=2)
    if by_side is not None and all(map(_is_prose, by_side)):
        left, right = by_side
        return [*in_reading_order(left), *in_reading_order(right)]
    by_height = _cut(lines, low=1, high=3)
    if by_height is None:
        return _row_by_row(lines)
    below, above = by_height
    return [*in_reading_order(above), *in_reading_order(below)]


def _cut(lines: Sequence[Line], low: int, high: int) -> tuple[list[Line], list[Line]] | None:
    """The lines on either side of the widest gap that none of them crosses; None where there is no gap."""
    ordered = sorted(lines, key=lambda line: line.box[low])
    reach = ordered[0].box[high]
    widest, at = 0.0, 0
    for index, line in enumerate(ordered):
        if line.box[low] - reach > widest:
            widest, at = line.box[low] - reach, index
        reach = max(reach, line.box[high])
    return (ordered[:at], ordered[at:]) if at else None


def _is_prose(lines: Sequence[Line]) -> bool:
    wide = median((line.box[2] - line.box[0]) / max(line.box[3] - line.box[1], 1.0) for line in lines)
    return len(lines) >= _COLUMN_LINES and wide >= _COLUMN_HEIGHTS


def _row_by_row(lines: Sequence[Line]) -> list[Line]:
    """From top to bottom; lines at about the same height from left to right."""
    ordered = sorted(lines, key=lambda line: -(line.box[1] + line.box[3]))
    rows: list[list[Line]] = [ordered[:1]]
    for above, line in pairwise(ordered):
        drop = (above.box[1] + above.box[3] - line.box[1] - line.box[3]) / 2
        if drop > 0.5 * (line.box[3] - line.box[1]):
            rows.append([])
        rows[-1].append(line)
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0])]
