"""Writes the real files that the tests of the app read: good ones, and one for each way of being bad.

`python -m tests.make_documents FOLDER` writes them all. Their text is made up here and says where it stands,
so that a test knows what each page must hold.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import docx
import pypdfium2
import reportlab
from docx.enum.text import WD_BREAK
from fpdf import FPDF
from PIL import Image, ImageDraw
from reportlab.lib.enums import TA_JUSTIFY
from reportlab.lib.pagesizes import A4
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import BaseDocTemplate, Frame, PageBreak, PageTemplate, Paragraph

PLACES = ("harbour", "orchard", "library", "foundry", "lighthouse", "granary", "chapel", "mill")
FONT = str(Path(reportlab.__file__).with_name("fonts") / "Vera.ttf")
PROSE = (
    "keeper wrote every evening into the long ledger how many lamps were burning and which of the old boats "
    "had come home before the tide turned over the grey stones beside the quiet water"
)
WORDS = PROSE.split()


def fact(number: int) -> str:
    """The sentence that only page `number` holds."""
    return f"The {PLACES[number % len(PLACES)]} on page {number} opens with code {number * 7919 % 100_000:05d}."


def paragraphs(number: int, count: int = 6, sentences: int = 5) -> list[str]:
    """Plain prose for page `number`, its fact in the middle; the same on every call."""
    texts = []
    for which in range(count):
        lines = []
        for k in range(sentences):
            start = (number * 11 + which * 5 + k * 3) % len(WORDS)
            words = [WORDS[(start + step) % len(WORDS)] for step in range(9 + (number + k) % 7)]
            lines.append(" ".join(words).capitalize() + ".")
        if which == count // 2:
            lines.insert(1, fact(number))
        texts.append(" ".join(lines))
    return texts


BODY = ParagraphStyle("body", fontName="Times-Roman", fontSize=11, leading=14, spaceAfter=9, alignment=TA_JUSTIFY)
HEAD = ParagraphStyle("head", fontName="Helvetica-Bold", fontSize=15, leading=19, spaceAfter=10)


def _flow(path: Path, pages: int, frames: Sequence[Frame], style: ParagraphStyle, **prose: int) -> Path:
    story = []
    for number in range(1, pages + 1):
        story.append(Paragraph(f"Chapter {number}", HEAD))
        story += [Paragraph(text, style) for text in paragraphs(number, **prose)]
        story.append(PageBreak())
    template = BaseDocTemplate(str(path), pagesize=A4, title=path.stem)
    template.addPageTemplates(PageTemplate(frames=list(frames)))
    template.build(story)
    return path


def good_pdf(path: Path, pages: int = 4) -> Path:
    """One column of justified prose, a heading a page."""
    return _flow(path, pages, [Frame(72, 72, A4[0] - 144, A4[1] - 144)], BODY)


def two_column_pdf(path: Path, pages: int = 2) -> Path:
    """Two narrow columns of justified prose, the second after the first."""
    width = (A4[0] - 144 - 24) / 2
    frames = [Frame(72, 72, width, A4[1] - 144), Frame(96 + width, 72, width, A4[1] - 144)]
    style = ParagraphStyle("narrow", BODY, fontSize=10, leading=12)
    return _flow(path, pages, frames, style, count=11)


def lines_pdf(path: Path, lines: Sequence[str], font: str | None = None, rotation: int = 0) -> Path:
    """One page with exactly these lines, 14 points apart; `font` is a TrueType file."""
    pdf = FPDF(unit="pt", format="A4")
    pdf.set_auto_page_break(False)
    pdf.add_page()
    if font:
        pdf.add_font("given", fname=font)
    pdf.set_font("given" if font else "Helvetica", size=11)
    for row, line in enumerate(lines):
        pdf.text(72, 100 + 14 * row, line)
    path.write_bytes(bytes(pdf.output()))
    if rotation:
        # Same length, so that the cross-reference table stays right.
        data = path.read_bytes().replace(b"/Type /Page\n", b"/Rotate %03d/Type/Page\n" % rotation, 1)
        path.write_bytes(data)
    return path


def encrypted_pdf(path: Path) -> Path:
    canvas = Canvas(str(path), pagesize=A4, encrypt=StandardEncryption("secret", ownerPassword="owner"))
    canvas.drawString(72, 700, fact(1))
    canvas.save()
    return path


def _scan(number: int) -> Image.Image:
    image = Image.new("L", (620, 877), "white")
    ImageDraw.Draw(image).text((60, 100), fact(number), fill="black")
    return image


def scanned_pdf(path: Path, pages: int = 3) -> Path:
    """Pictures of text, no text."""
    first, *others = [_scan(number) for number in range(1, pages + 1)]
    first.save(path, "PDF", save_all=True, append_images=others)
    return path


def scan_of(path: Path, pdf: Path) -> Path:
    """The pages of a PDF as pictures of 150 dots an inch, and nothing else."""
    with pypdfium2.PdfDocument(pdf) as printed:
        first, *others = [page.render(scale=150 / 72).to_pil().convert("L") for page in printed]
    first.save(path, "PDF", save_all=True, append_images=others, resolution=150)
    return path


def partly_scanned_pdf(path: Path) -> Path:
    """Page 1 is text, page 2 a picture, page 3 blank, page 4 text."""
    pdf = FPDF(unit="pt", format="A4")
    for number in range(1, 5):
        pdf.add_page()
        pdf.set_font("Helvetica", size=11)
        if number == 2:
            pdf.image(_scan(2), 0, 0, 595)
        elif number != 3:
            pdf.multi_cell(450, 14, fact(number))
    path.write_bytes(bytes(pdf.output()))
    return path


def unmapped_pdf(path: Path) -> Path:
    """Looks like text, but its font does not say which letters it shows."""
    data = lines_pdf(path, [fact(1)], FONT).read_bytes()
    path.write_bytes(re.sub(rb"/ToUnicode \d+ 0 R", lambda match: b" " * len(match[0]), data))
    return path


def _pdf_of(objects: Sequence[bytes]) -> bytes:
    """A PDF of these objects, numbered from 1; the first is the catalog."""
    data = b"%PDF-1.7\n"
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n%b" % (len(objects) + 1, table)
    return data + head + b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(data))


def unnamed_letters_pdf(path: Path, text: str) -> Path:
    """A page in a font whose letters are drawings with names of its own, so that only their codes say what they are."""
    codes = range(32, 127)
    names = b" ".join(b"/drawing%d" % code for code in codes)
    drawing = b"600 0 0 0 500 700 d1 0 0 500 700 re f"
    content = b"BT /F 12 Tf 72 700 Td <%b> Tj ET" % text.encode("ascii").hex().encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%b\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type3/FontBBox[0 0 600 800]/FontMatrix[.001 0 0 .001 0 0]/FirstChar 32/LastChar 126"
        b"/Widths[%b]/Encoding<</Differences[32 %b]>>/CharProcs<<%b>>>>"
        % (b"600 " * len(codes), names, b"".join(b"/drawing%d 6 0 R" % code for code in codes)),
        b"<</Length %d>>stream\n%b\nendstream" % (len(drawing), drawing),
    ]
    path.write_bytes(_pdf_of(objects))
    return path


def form_pdf(path: Path, pages: int = 2) -> Path:
    """A filled-in form. On each page: a text field, a ticked box, an empty one, a choice, a password, a hidden name."""
    canvas = Canvas(str(path), pagesize=A4)
    for number in range(1, pages + 1):
        canvas.drawString(72, 760, fact(number))
        form = canvas.acroForm
        form.textfield(name=f"keeper{number}", tooltip="Keeper's name", value=f"Ada {PLACES[number]}", x=72, y=700)
        form.checkbox(name=f"lit{number}", tooltip="Lamp lit", checked=True, x=72, y=660)
        form.checkbox(name=f"boats{number}", tooltip="Boats home", checked=False, x=72, y=630)
        form.choice(name=f"wind{number}", value="west", options=["north", "west"], x=72, y=590)
        form.textfield(name=f"secret{number}", value="swordfish", fieldFlags="password", x=72, y=550)
        form.textfield(name=f"unseen{number}", value="ghost", annotationFlags="hidden", x=72, y=510)
        canvas.showPage()
    canvas.save()
    return path


def blank_pdf(path: Path) -> Path:
    canvas = Canvas(str(path), pagesize=A4)
    canvas.showPage()
    canvas.showPage()
    canvas.save()
    return path


def truncated_pdf(path: Path) -> Path:
    data = good_pdf(path).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


def many_pages_pdf(path: Path, pages: int = 5000) -> Path:
    canvas = Canvas(str(path), pagesize=A4)
    for number in range(1, pages + 1):
        canvas.drawString(72, 700, fact(number))
        canvas.showPage()
    canvas.save()
    return path


def bomb_pdf(path: Path, unpacked: int = 300_000_000) -> Path:
    """A small file whose one page unpacks to far more than any reader wants to hold."""
    pack = zlib.compressobj(4)
    line = b"(The keeper wrote every evening) Tj T* " * 25_000
    stream = b"".join(pack.compress(line) for _ in range(unpacked // len(line))) + pack.flush()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<<>>>>>>",
        b"<</Length %d/Filter/FlateDecode>>stream\n%b\nendstream" % (len(stream), stream),
    ]
    path.write_bytes(_pdf_of(objects))
    return path


def zero_bytes(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def picture_named_pdf(path: Path) -> Path:
    _scan(1).save(path, "PNG")
    return path


def word_file(path: Path, pages: int = 3) -> Path:
    """Prose with page breaks, and a table on the last page."""
    document = docx.Document()
    for number in range(1, pages + 1):
        document.add_heading(f"Chapter {number}", 1)
        for text in paragraphs(number):
            document.add_paragraph(text)
        if number < pages:
            document.paragraphs[-1].add_run().add_break(WD_BREAK.PAGE)
    table = document.add_table(rows=2, cols=2)
    for row, texts in zip(table.rows, (("Boat", "Lamps"), ("Heron", "12")), strict=True):
        for cell, text in zip(row.cells, texts, strict=True):
            cell.text = text
    document.save(str(path))
    return path


def text_file(path: Path, encoding: str = "utf-8") -> Path:
    text = "\n\n".join(text for number in range(1, 5) for text in paragraphs(number))
    path.write_bytes(text.encode(encoding))
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "good.pdf": good_pdf,
    "two-columns.pdf": two_column_pdf,
    "encrypted.pdf": encrypted_pdf,
    "scanned.pdf": scanned_pdf,
    "partly-scanned.pdf": partly_scanned_pdf,
    "truncated.pdf": truncated_pdf,
    "blank.pdf": blank_pdf,
    "unmapped.pdf": unmapped_pdf,
    "form.pdf": form_pdf,
    "bomb.pdf": bomb_pdf,
    "zero.pdf": zero_bytes,
    "picture.pdf": picture_named_pdf,
    "really-a-pdf.txt": good_pdf,
    "five-thousand.pdf": many_pages_pdf,
    "good.docx": word_file,
    "good.txt": text_file,
}


def make(folder: Path, *names: str) -> list[Path]:
    """Writes the named files, all of them by default, and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [MAKERS[name](folder / name) for name in names or MAKERS]


if __name__ == "__main__":
    for written in make(Path(sys.argv[1])):
        print(f"{written} {written.stat().st_size:,} bytes")
