"""What is filled into the form fields of a PDF page, with pypdfium2. Runs in the child process."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pypdfium2.raw as pdfium_c

from .page_text import Rectangle, clean_plain

_HIDDEN = pdfium_c.FPDF_ANNOT_FLAG_HIDDEN | pdfium_c.FPDF_ANNOT_FLAG_NOVIEW
_PASSWORD = 1 << 13
"""The flag of a text field that shows dots instead of its letters (PDF 32000, table 228)."""
_ON = {"", "on", "yes", "true", "1", "checked"}
"""Values of a ticked box that say nothing but that it is ticked."""


_INDEX = re.compile(r"_?(\[\d+\])+$")
"""What programs append to the names of fields, as in `city[0]`."""


class FilledField(NamedTuple):
    """A field's name for programs and its label for people, what is filled in, and where it is, in PDF units."""

    name: str
    label: str
    value: str
    box: Rectangle


def filled_fields(form: Any, page: Any) -> Iterator[FilledField]:
    """The fields of a page that hold something, in the form's own order, without those that the page does not show.

    Args:
        form: the document's form environment, made before the page was loaded.
    """
    seen = set()
    for index in range(pdfium_c.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium_c.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        try:
            field = _field(form, annotation)
        finally:
            pdfium_c.FPDFPage_CloseAnnot(annotation)
        # A field may have several boxes on a page that all show its value.
        if field is not None and (field.name, field.value) not in seen:
            seen.add((field.name, field.value))
            yield field


def _field(form: Any, annotation: Any) -> FilledField | None:
    if pdfium_c.FPDFAnnot_GetSubtype(annotation) != pdfium_c.FPDF_ANNOT_WIDGET:
        return None
    if pdfium_c.FPDFAnnot_GetFlags(annotation) & _HIDDEN:
        return None
    value = clean_plain(_value(form, annotation)).strip()
    bounds = pdfium_c.FS_RECTF()
    if not value or not pdfium_c.FPDFAnnot_GetRect(annotation, bounds):
        return None
    box = (
        min(bounds.left, bounds.right),
        min(bounds.bottom, bounds.top),
        max(bounds.left, bounds.right),
        max(bounds.bottom, bounds.top),
    )
    name = _text(pdfium_c.FPDFAnnot_GetFormFieldName, form, annotation)
    shown = _text(pdfium_c.FPDFAnnot_GetFormFieldAlternateName, form, annotation)
    return FilledField(
        name, _in_a_line(shown) or _in_a_line(_INDEX.sub("", name.rpartition(".")[2])) or "field", value, box
    )


def _value(form: Any, annotation: Any) -> str:
    """What a field shows; "" where it is empty or holds no text."""
    kind = pdfium_c.FPDFAnnot_GetFormFieldType(form, annotation)
    if kind == pdfium_c.FPDF_FORMFIELD_TEXTFIELD:
        if pdfium_c.FPDFAnnot_GetFormFieldFlags(form, annotation) & _PASSWORD:
            return ""
        return _text(pdfium_c.FPDFAnnot_GetFormFieldValue, form, annotation)
    if kind in (pdfium_c.FPDF_FORMFIELD_COMBOBOX, pdfium_c.FPDF_FORMFIELD_LISTBOX):
        count = max(pdfium_c.FPDFAnnot_GetOptionCount(form, annotation), 0)
        chosen = [
            _text(pdfium_c.FPDFAnnot_GetOptionLabel, form, annotation, option)
            for option in range(count)
            if pdfium_c.FPDFAnnot_IsOptionSelected(form, annotation, option)
        ]
        # What was typed into an editable list is none of its options.
        return ", ".join(chosen) or _text(pdfium_c.FPDFAnnot_GetFormFieldValue, form, annotation)
    if kind in (pdfium_c.FPDF_FORMFIELD_CHECKBOX, pdfium_c.FPDF_FORMFIELD_RADIOBUTTON):
        if not pdfium_c.FPDFAnnot_IsChecked(form, annotation):
            return ""
        value = _text(pdfium_c.FPDFAnnot_GetFormFieldExportValue, form, annotation)
        return "checked" if value.strip().lower() in _ON else value
    return ""


def _in_a_line(text: str) -> str:
    return " ".join(clean_plain(text).split())


def _text(getter: Callable[..., int], form: Any, annotation: Any, *more: int) -> str:
    """Calls one of PDFium's functions that fill a buffer with UTF-16 and tell its bytes."""
    size = getter(form, annotation, *more, None, 0)
    if size <= 2:  # no more than the end mark
        return ""
    buffer = ctypes.create_string_buffer(size)
    getter(form, annotation, *more, ctypes.cast(buffer, ctypes.POINTER(pdfium_c.FPDF_WCHAR)), size)
    return buffer.raw[: size - 2].decode("utf-16-le", errors="replace")
