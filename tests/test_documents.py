"""Reading real files of every kind, good and bad, and pointing at passages on their pages."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import threading
import time
import zipfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import docx
import numpy as np
import psutil
import pypdfium2
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from fpdf import FPDF
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.documents import child, ocr
from app.documents.decoding import decode
from app.documents.document import PAGE_SEPARATOR, Document, DocumentError, Limits, Page, check_room
from app.documents.messages import Refused
from app.documents.page_text import LIGATURES, PART_CHARS, clean_page, clean_plain, cut_into_parts
from app.documents.reader import page_sizes, page_views, read_document_steps
from app.documents.scans import Line, in_reading_order
from selfextend.steps import Progress, Running, result_of
from tests.fuzz_documents import MUTANTS, outcomes
from tests.make_documents import (
    FONT,
    MAKERS,
    PLACES,
    fact,
    good_pdf,
    lines_pdf,
    make,
    many_pages_pdf,
    paragraphs,
    scan_of,
    text_file,
    unnamed_letters_pdf,
)


def read_document(path: Path, limits: Limits | None = None) -> Document:
    return result_of(read_document_steps(path, limits or Limits(), path.name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    make(folder)
    return folder


@pytest.fixture(scope="module")
def three_hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good_pdf(tmp_path_factory.mktemp("long") / "long.pdf", 300)


@pytest.fixture
def without_ocr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading as it is where the packages of `selfextend[ocr]` are not installed."""
    monkeypatch.setattr(ocr, "is_installed", lambda: False)


needs_ocr = pytest.mark.skipif(not ocr.is_installed(), reason=f"reading scans wants {' and '.join(ocr.PACKAGES)}")


def prose(number: int, **how: int) -> str:
    return "\n".join([f"Chapter {number}", *paragraphs(number, **how)])


def no_child_is_left() -> bool:
    return not any("app.documents.worker" in " ".join(child.cmdline()) for child in psutil.Process().children())


def test_a_pdf_comes_out_as_the_paragraphs_that_went_in(folder: Path) -> None:
    path = folder / "good.pdf"
    read = read_document(path)
    assert [page.text for page in read.pages] == [prose(number) for number in range(1, 5)]
    assert [page.number for page in read.pages] == [1, 2, 3, 4]
    assert (read.name, read.kind, read.page_word, read.notes, read.unreadable) == (
        "good.pdf",
        "pdf",
        "page",
        (),
        (),
    )
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_columns_are_read_one_after_the_other(folder: Path) -> None:
    read = read_document(folder / "two-columns.pdf")
    assert [page.text for page in read.pages] == [prose(number, count=11) for number in (1, 2)]


@pytest.mark.usefixtures("without_ocr")
def test_the_whole_text_holds_each_page_at_its_range(folder: Path) -> None:
    for name in ("good.pdf", "partly-scanned.pdf", "good.docx", "good.txt"):
        read = read_document(folder / name)
        assert [read.text[start:end] for start, end in read.page_ranges] == [page.text for page in read.pages]
        assert read.text == PAGE_SEPARATOR.join(page.text for page in read.pages)


def test_a_word_file_is_read_with_its_pages_and_tables(folder: Path) -> None:
    read = read_document(folder / "good.docx")
    expected = ["\n\n".join([f"Chapter {number}", *paragraphs(number)]) for number in (1, 2, 3)]
    expected[2] += "\n\nBoat | Lamps\nHeron | 12"
    assert [page.text for page in read.pages] == expected
    assert (read.kind, read.page_word) == ("docx", "page")


def test_word_text_that_python_docx_leaves_out_is_read(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph("Before. ")
    paragraph = document.paragraphs[0]._p
    for xml in (
        "<w:ins {}><w:r><w:t>Inserted. </w:t></w:r></w:ins>",
        "<w:del {}><w:r><w:delText>Deleted. </w:delText></w:r></w:del>",
        "<w:sdt {}><w:sdtContent><w:r><w:t>Controlled.</w:t></w:r></w:sdtContent></w:sdt>",
    ):
        paragraph.append(parse_xml(xml.format(nsdecls("w"))))
    block = "<w:sdt {}><w:sdtContent><w:p><w:r><w:t>A block.</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    document.element.body.insert(1, parse_xml(block.format(nsdecls("w"))))
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    document.add_picture(io.BytesIO(picture.getvalue()))
    document.save(str(tmp_path / "word.docx"))
    read = read_document(tmp_path / "word.docx")
    assert read.text == "Before. Inserted. Controlled.\n\nA block."
    assert read.page_word == "part"
    assert any("Not read: pictures" in note for note in read.notes)


def test_a_table_in_a_table_is_read_once(tmp_path: Path) -> None:
    document = docx.Document()
    cell = document.add_table(rows=1, cols=2).rows[0].cells[0]
    for depth in range(10):
        cell.paragraphs[0].text = f"level {depth}"
        cell = cell.add_table(rows=1, cols=2).rows[0].cells[1]
    cell.text = "the innermost"
    document.save(str(tmp_path / "nested.docx"))
    text = read_document(tmp_path / "nested.docx").text
    assert [text.count(f"level {depth}") for depth in range(10)] == [1] * 10
    assert text.count("the innermost") == 1


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "cp1251"]
)
def test_text_is_read_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    text = "Der Leuchtturmwärter schrieb jeden Abend: „Größe, Öl und Boote“. " * 6
    if encoding == "cp1251":
        text = "Смотритель маяка каждый вечер записывал в книгу, сколько ламп горело. " * 6
    path = tmp_path / "notes.txt"
    path.write_bytes(text.encode(encoding))
    read = read_document(path)
    assert read.text == text.strip()
    guessed = encoding in ("cp1252", "cp1251", "utf-16-le", "utf-16-be")
    assert any("most likely encoding" in note for note in read.notes) == guessed


JAPANESE = [
    "灯台守は毎晩、長い帳簿にランプの数を書いた。",
    "こんにちは",
    "本日の会議は午後三時から始まります。資料を持参してください。",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 400,
]


@pytest.mark.parametrize("encoding", ["shift_jis", "cp932", "euc_jp", "iso2022_jp"])
@pytest.mark.parametrize("text", JAPANESE, ids=["sentence", "word", "notice", "book"])
def test_japanese_is_read_in_its_own_encodings(text: str, encoding: str) -> None:
    read, notes = decode(text.encode(encoding))
    assert read == text
    assert "the most likely encoding: where they look wrong, save it as UTF-8" in notes[0]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Größe", "cp1252"),
        ("Noël à la forêt, garçon", "cp1252"),
        ("Preis: 5 € – „gut“", "cp1252"),
        ("Grüße und schöne Tage am Leuchtturm. " * 400 + "„Öl“", "cp1252"),
        ("Łódź", "cp1250"),
        ("Latarnik każdego wieczoru zapisywał, ile lamp się pali. Żółć, gęś.", "iso8859_2"),
        ("Привет, мир", "cp1251"),
        ("Привет, мир", "koi8_r"),
        ("Καλημέρα", "cp1253"),
        ("看守人每天晚上都在账簿上写下有多少盏灯亮着。", "gb18030"),
        ("今天的會議下午三點開始，請帶上資料。", "big5"),
        ("안녕하세요", "cp949"),
    ],
)
def test_a_few_words_are_enough_to_tell_an_encoding(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding))[0] == text


def test_damaged_characters_are_counted_and_the_rest_stays_what_it_is() -> None:
    data = ("Der Leuchtturmwärter schrieb jeden Abend. " * 50).encode()
    read, notes = decode(data[:15] + b"\xff" + data[15:])
    assert read.count("wärter") == 50 - 1
    assert notes == ["Damaged characters, which stand as \ufffd: 1."]


def test_bytes_that_make_no_words_in_any_encoding_are_refused() -> None:
    noise = np.random.default_rng(0).integers(0x80, 0x100, 4000, dtype=np.uint8).tobytes()
    with pytest.raises(Refused, match=r"is in an encoding that cannot be told: .* save it as UTF-8"):
        decode(noise)


def test_a_page_of_blanks_is_cleaned_in_linear_time() -> None:
    begun = time.process_time()
    assert clean_plain("word" + " " * 200_000 + "word \t\n" + "\t" * 200_000) == "word" + " " * 200_000 + "word\n"
    assert time.process_time() - begun < 2


def test_text_without_pages_is_cut_at_paragraphs_and_says_so(folder: Path) -> None:
    read = read_document(folder / "good.txt")
    assert len(read.pages) > 1
    assert read.page_word == "part"
    assert "cut into parts" in read.notes[0]
    assert all(len(page.text) <= PART_CHARS for page in read.pages)
    assert PAGE_SEPARATOR.join(page.text for page in read.pages) == (folder / "good.txt").read_text()


def test_form_feeds_are_pages(tmp_path: Path) -> None:
    path = tmp_path / "paged.md"
    path.write_text("# One\n\n- a\n- b\n\fTwo\f\n\fFour\n", "utf-8")
    read = read_document(path)
    assert (read.kind, read.page_word) == ("md", "page")
    assert [page.text for page in read.pages] == ["# One\n\n- a\n- b", "Two", "", "Four"]
    assert read.unreadable == (Page(3, "", "blank: no text on it"),)


@pytest.mark.usefixtures("without_ocr")
def test_pages_without_text_are_listed(folder: Path) -> None:
    read = read_document(folder / "partly-scanned.pdf")
    assert [page.text for page in read.pages] == [fact(1), "", "", fact(4)]
    assert [(page.number, page.unreadable) for page in read.unreadable] == [
        (2, "only a picture, no text: needs OCR (pip install rapidocr onnxruntime)"),
        (3, "blank: no text on it"),
    ]


SCANNED = [
    "The keeper wrote every evening into the long ledger how many",
    "lamps were burning and which of the old boats had come home be-",
    "fore the tide turned over the grey stones beside the water.",
]


@needs_ocr
@pytest.mark.slow
def test_a_scanned_page_is_read_with_the_place_of_each_word(tmp_path: Path) -> None:
    printed = lines_pdf(tmp_path / "printed.pdf", SCANNED)
    path = scan_of(tmp_path / "scan.pdf", printed)
    with Running(read_document_steps(path, Limits(), path.name)) as steps:
        said = [step.words for step in steps]
        read = steps.result
    assert said[-1] == "reading scan.pdf by OCR: 1 of 1 pages"
    assert read.text == read_document(printed).text == " ".join(SCANNED).replace("be- fore", "before")
    assert read.notes == ("Read from a picture by OCR, which may misread: page 1.",)
    text = read.pages[0].text
    (view,) = page_views(printed, [1], 100)
    for found, real in zip(read.pages[0].words, view.words, strict=True):
        assert found[:2] == real[:2], text[real.start : real.end]
        assert found[2:] == pytest.approx(real[2:], abs=0.02)


@needs_ocr
def test_only_so_many_pages_of_a_file_are_read_by_ocr(folder: Path) -> None:
    read = read_document(folder / "partly-scanned.pdf", Limits(scanned_pages=0))
    assert read.unreadable[0] == Page(2, "", "only a picture, no text: OCR reads no more than 0 pages of a file")


@pytest.mark.usefixtures("without_ocr")
def test_a_picture_with_a_stamp_on_it_is_not_passed_off_as_read(tmp_path: Path) -> None:
    pdf = FPDF(unit="pt", format="A4")
    pdf.add_page()
    pdf.set_font("Helvetica", size=11)
    pdf.image(Image.new("L", (620, 877), "grey"), 0, 0, 595)
    pdf.text(72, 800, "RECEIVED 12 MAY")
    (tmp_path / "stamped.pdf").write_bytes(bytes(pdf.output()))
    read = read_document(tmp_path / "stamped.pdf")
    assert read.text == "RECEIVED 12 MAY"
    assert read.notes == ("Mostly a picture, whose text is not read: page 1.",)


def test_columns_are_read_one_after_the_other_and_tables_row_by_row() -> None:
    def line(text: str, left: float, top: float, width: float) -> Line:
        return Line(text, (left, top - 10, left + width, top))

    title = line("title", 100, 800, 300)
    left = [line(f"left {k}", 50, 760 - 14 * k, 220) for k in range(5)]
    right = [line(f"right {k}", 300, 761 - 14 * k, 220) for k in range(5)]
    cells = [line(f"cell {k}", 50 + 150 * (k % 3), 600 - 20 * (k // 3) - k % 2, 40) for k in range(12)]
    mixed = [*cells, *right, title, *left]
    assert in_reading_order(mixed[::-1]) == [title, *left, *right, *cells]


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("The keeper wrote every evening into the long ledger.", True),
        ("7KH NHHSHU ZURWH HYHUB HYHQLQJ LQWR WKH ORQJ OHGJHU", False),  # letters by their place in the font
        ("!\"#$%&' ()* +,#- ./01", False),  # numbered in the order in which they came up
    ],
)
def test_letters_that_a_font_does_not_name_are_judged_by_what_they_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, readable: bool
) -> None:
    path = unnamed_letters_pdf(tmp_path / "drawn.pdf", text)
    if readable:
        read = read_document(path)
        assert read.text == text
        assert "The fonts on page 1 do not say which letters they show" in read.notes[0]
        assert len(page_views(path, [1], 100)[0].words) == len(text.split())
    else:
        monkeypatch.setattr(ocr, "is_installed", lambda: False)
        with pytest.raises(DocumentError, match=r"drawn\.pdf has text that cannot be read"):
            read_document(path)


def test_what_is_filled_into_a_form_stands_at_the_end_of_its_page(folder: Path) -> None:
    read = read_document(folder / "form.pdf")
    assert [page.text for page in read.pages] == [
        f"{fact(number)}\nForm fields filled in:\nKeeper's name: Ada {PLACES[number]}\nLamp lit: checked\n"
        f"wind{number}: west"
        for number in (1, 2)
    ]


def test_a_filled_in_word_lies_in_its_field(folder: Path) -> None:
    text = read_document(folder / "form.pdf").pages[0].text
    (view,) = page_views(folder / "form.pdf", [1], 200)
    (word,) = (word for word in view.words if text[word.start : word.end] == "Ada")
    ((width, height),) = page_sizes(folder / "form.pdf")[:1]
    assert (word.left * width, (1 - word.bottom) * height) == pytest.approx((72, 700), abs=1)
    labels = {text[word.start : word.end] for word in view.words}
    assert "Keeper's" not in labels, "a label that the page does not show has no place on it"


def test_a_pdf_named_txt_is_read_as_a_pdf(folder: Path) -> None:
    assert read_document(folder / "really-a-pdf.txt").kind == "pdf"


WORKS = {"good.pdf", "two-columns.pdf", "partly-scanned.pdf", "really-a-pdf.txt", "form.pdf", "good.docx", "good.txt"}
REFUSED = {
    "encrypted.pdf": "encrypted.pdf is locked with a password: save a copy without one",
    "scanned.pdf": "scanned.pdf is a scan: .* To read it here: pip install rapidocr onnxruntime. Or run it through OCR",
    "truncated.pdf": "truncated.pdf is cut off: .* Download or copy it again",
    "blank.pdf": "blank.pdf is empty: there is no text on any of its pages",
    "unmapped.pdf": "unmapped.pdf has text that cannot be read: .* OCR",
    "zero.pdf": r"zero.pdf is empty \(0 bytes\)",
    "picture.pdf": "picture.pdf is a PNG picture, .* Use a PDF, TXT, MD or DOCX",
    "five-thousand.pdf": "five-thousand.pdf has 5,000 pages, and the limit is 2,000: split it",
    "bomb.pdf": "bomb.pdf (cannot be read|needs more than)",
}


def test_every_kind_of_test_file_is_tested() -> None:
    assert set(MAKERS) == WORKS | set(REFUSED)


@pytest.mark.usefixtures("without_ocr")
@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_is_refused_in_plain_words(folder: Path, name: str) -> None:
    with pytest.raises(DocumentError, match=REFUSED[name]):
        read_document(folder / name, Limits(memory_bytes=300_000_000))
    assert no_child_is_left()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("page.pdf", b"<!DOCTYPE html><html><body>Log in</body></html>", "is no PDF: it holds a web page"),
        ("page.pdf", b"just words", "is no PDF: it holds something else"),
        ("broken.pdf", b"%PDF-1.7\nnothing of use\n%%EOF\n", "is a damaged PDF"),
        ("old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "is an old Word file"),
        ("table.xlsx", b"PK\x03\x04" + b"\0" * 60, "is damaged or cut off"),
        ("code.bin.txt", bytes(range(256)) * 40, "is not a text file: it holds binary data"),
        ("table.csv", b"a,b\n1,2\n", r"is of a kind not read here \(\.csv\)"),
        ("blank.txt", b" \n\t\n", "is empty: there is no text in it"),
    ],
)
def test_other_contents_are_refused_by_what_they_are(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DocumentError, match=f"^{re.escape(name)} {words}"):
        read_document(tmp_path / name)


def test_a_cut_off_word_file_and_another_archive_are_refused(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "good.docx").read_bytes()
    (tmp_path / "cut.docx").write_bytes(whole[:-2000])
    with pytest.raises(DocumentError, match=r"cut\.docx is damaged or cut off"):
        read_document(tmp_path / "cut.docx")
    with zipfile.ZipFile(tmp_path / "deck.docx", "w") as archive:
        archive.writestr("ppt/presentation.xml", "<p/>")
    with pytest.raises(DocumentError, match=r"deck\.docx is a PowerPoint presentation, not a Word document"):
        read_document(tmp_path / "deck.docx")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="is not there"):
        read_document(tmp_path / "none.pdf")
    with pytest.raises(DocumentError, match="cannot be opened"):
        read_document(tmp_path)


def test_each_limit_is_kept(folder: Path, three_hundred: Path) -> None:
    path = folder / "good.pdf"
    with pytest.raises(DocumentError, match=r"good\.pdf has .* bytes, and the limit is 100 bytes: split it"):
        read_document(path, Limits(max_bytes=100))
    with pytest.raises(DocumentError, match="has 4 pages, and the limit is 3"):
        read_document(path, Limits(max_pages=3))
    with pytest.raises(DocumentError, match="has more than 2,000 characters"):
        read_document(path, Limits(max_characters=2000))
    with pytest.raises(DocumentError, match="has 3 parts of 3,000 characters, and the limit is 2"):
        read_document(folder / "good.txt", Limits(max_pages=2))
    with pytest.raises(DocumentError, match=r"long\.pdf took longer than 0 seconds"):
        read_document(three_hundred, Limits(seconds=0.2))
    assert no_child_is_left()


def test_a_document_that_does_not_go_with_the_others_is_refused_in_a_sentence() -> None:
    read = Document("long.txt", "0" * 64, "txt", (Page(1, "x" * 60), Page(2, "y" * 40)))
    limits = Limits(max_characters=1000, all_characters=5000)
    check_room(read, 900, 4900, limits)
    with pytest.raises(DocumentError, match=r"^long\.txt has 100 characters, and your documents may have 1,000 to"):
        check_room(read, 901, 901, limits)
    with pytest.raises(DocumentError, match=r"^long\.txt does not fit into the memory .* larger --max-all-characters"):
        check_room(read, 0, 4901, limits)


def test_memory_is_watched_where_the_kernel_does_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_KERNEL_LIMITS_MEMORY", False)
    with pytest.raises(DocumentError, match=r"bomb\.pdf needs more than 300 MB of memory"):
        read_document(folder / "bomb.pdf", Limits(memory_bytes=300_000_000))
    assert no_child_is_left()


def test_progress_counts_the_pages_and_the_document_is_the_result(three_hundred: Path) -> None:
    with Running(read_document_steps(three_hundred, Limits(), "long.pdf")) as reading:
        first, *steps = reading
        read = reading.result
    assert first == Progress("reading long.pdf")
    counts = [(step.fraction or 0.0) * 300 for step in steps]
    assert counts == sorted(counts)
    assert {round(count) for count in counts} == set(range(301))
    assert steps[-1] == Progress("reading long.pdf: 300 of 300 pages", 1.0)
    assert read.pages[299].text == prose(300)


def test_closing_the_steps_kills_the_child(tmp_path: Path) -> None:
    steps = read_document_steps(many_pages_pdf(tmp_path / "many.pdf", 1500), Limits(), "many.pdf")
    while (next(steps).fraction or 0.0) < 3 / 1500:
        pass
    assert not no_child_is_left()
    steps.close()
    assert no_child_is_left()


def test_ligatures_hyphens_and_invisible_characters_are_cleaned(tmp_path: Path) -> None:
    lines = [
        "The ﬁrst ofﬁcer kept the light\u00adhouse and wrote eve-",
        "rything down, even the ﬂags of Anglo-",
        "Saxon boats\u00a0and  the   well-known storms of that year.",
    ]
    read = read_document(lines_pdf(tmp_path / "lines.pdf", lines, FONT))
    assert read.text == (
        "The first officer kept the lighthouse and wrote everything down, even the flags of Anglo-Saxon "
        "boats and the well-known storms of that year."
    )


def test_lists_and_short_lines_keep_their_breaks(tmp_path: Path) -> None:
    lines = [
        "1. Light every lamp before the tide turns over the stones,",
        "2. write it down.",
        "Lamps: 12",
        "Boats: 7",
    ]
    assert read_document(lines_pdf(tmp_path / "list.pdf", lines)).text == "\n".join(lines)


UNITS = st.one_of(
    st.integers(0, 0xFFFF),
    st.sampled_from([10, 13, 32, 45, 2, 0xAD, 0xFB01, 0xD83D, 0xDE80, 0x200D, 0x4E2D, 97]),
)


@given(units=st.lists(UNITS, max_size=60), seed=st.integers(0, 999))
def test_every_character_of_a_clean_page_knows_where_it_came_from(units: list[int], seed: int) -> None:
    places = np.random.default_rng(seed).uniform(0, 800, (len(units), 2))

    def box_of(index: int) -> tuple[float, float, float, float] | None:
        x, y = places[index].tolist()
        return None if index % 7 == 3 else (x, y, x + 6, y + 11)

    clean = clean_page(units, box_of)
    assert len(clean.source) == len(clean.text)
    assert clean.source == sorted(clean.source)
    assert clean.text == clean.text.strip(" ")
    assert "  " not in clean.text
    clean.text.encode()
    joined = bytes(byte for unit in units for byte in unit.to_bytes(2, "little"))
    for character, index in zip(clean.text, clean.source, strict=True):
        if character in " \n-":
            continue
        original = joined[2 * index : 2 * index + 4].decode("utf-16-le", "ignore")[:1]
        assert character in LIGATURES.get(units[index], original)


@given(text=st.text(max_size=300).map(lambda text: text * 30))
def test_parts_lose_nothing_but_blank_lines(text: str) -> None:
    clean = clean_plain(text)
    sheets, _ = cut_into_parts(clean)
    assert re.sub(r"\s", "", "".join(sheets)) == re.sub(r"\s", "", clean)
    assert all(len(sheet) <= 4 * PART_CHARS for sheet in sheets)


@pytest.mark.parametrize("name", ["good.pdf", "two-columns.pdf"])
def test_a_words_box_holds_that_word_and_no_other(folder: Path, name: str) -> None:
    path = folder / name
    text = read_document(path).pages[0].text
    pdf = pypdfium2.PdfDocument(path)
    width, height = pdf[0].get_size()
    textpage = pdf[0].get_textpage()
    (view,) = page_views(path, [1], 200)
    assert {(word.start, word.end) for word in view.words} == {match.span() for match in re.finditer(r"\S+", text)}
    hyphenated = Counter(word.start for word in view.words)
    for word in view.words[::15]:
        if hyphenated[word.start] > 1:
            continue
        # Asked of PDFium by place, not by character: what stands inside the box, a little smaller.
        left, right = word.left * width + 0.5, word.right * width - 0.5
        found = textpage.get_text_bounded(
            left, height - word.bottom * height + 2, right, height - word.top * height - 2
        )
        assert found.strip() == text[word.start : word.end]


def test_words_in_two_columns_lie_in_one_of_them_each(folder: Path) -> None:
    (view,) = page_views(folder / "two-columns.pdf", [1], 200)
    assert all(word.right < 0.5 or word.left > 0.5 for word in view.words)
    assert {word.left > 0.5 for word in view.words} == {True, False}


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_word_stands_where_its_ink_is(tmp_path: Path, rotation: int) -> None:
    lines = [
        "The keeper wrote every evening into the long ledger,",
        "and how many of the lamps were burning there.",
    ]
    path = lines_pdf(tmp_path / "turned.pdf", lines, rotation=rotation)
    text = read_document(path).pages[0].text
    (view,) = page_views(path, [1], 1000)
    picture = Image.open(io.BytesIO(base64.b64decode(view.picture)))
    ((width, height),) = page_sizes(path)
    assert picture.width == 1000
    assert picture.height == pytest.approx(1000 * height / width, abs=1)
    ink = np.asarray(picture.convert("L")) < 128
    rest = ink.copy()
    for word in view.words:
        # A pixel more on each side, where the edge of a letter is grey.
        rows = slice(int(word.top * picture.height) - 1, int(word.bottom * picture.height) + 2)
        columns = slice(int(word.left * picture.width) - 1, int(word.right * picture.width) + 2)
        assert ink[rows, columns].any(), text[word.start : word.end]
        rest[rows, columns] = False
    assert not rest.any(), "all ink lies in the boxes"
    lamps = next(word for word in view.words if text[word.start : word.end] == "lamps")
    long_side = (lamps.right - lamps.left) * width if rotation % 180 == 0 else (lamps.bottom - lamps.top) * height
    assert long_side == pytest.approx(31, abs=5)


def test_pages_are_drawn_in_the_order_asked_for_and_a_damaged_one_is_empty(folder: Path) -> None:
    views = page_views(folder / "good.pdf", [3, 1], 120)
    assert [view.number for view in views] == [3, 1]
    assert all(view.picture and view.words for view in views)
    assert len(page_sizes(folder / "good.pdf")) == 4


def test_pictures_of_pages_are_small_and_exact_where_they_can_be(folder: Path, tmp_path: Path) -> None:
    def shown(path: Path) -> tuple[Image.Image, int, Image.Image]:
        (view,) = page_views(path, [1], 800)
        picture = base64.b64decode(view.picture)
        with closing(pypdfium2.PdfDocument(path)) as pdf:
            drawn = pdf[0].render(scale=800 / pdf[0].get_width()).to_pil().convert("RGB")
        return Image.open(io.BytesIO(picture)).convert("RGB"), len(picture), drawn

    def as_png(picture: Image.Image) -> int:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return len(buffer.getvalue())

    text, size, drawn = shown(folder / "good.pdf")
    assert text.tobytes() == drawn.tobytes()
    assert size < as_png(drawn) / 2
    noise = np.random.default_rng(0).integers(0, 255, (60, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((800, 1200), Image.Resampling.BICUBIC).save(tmp_path / "photograph.pdf")
    photograph, size, drawn = shown(tmp_path / "photograph.pdf")
    assert np.abs(np.asarray(photograph, float) - np.asarray(drawn, float)).mean() < 6
    assert size < as_png(drawn) / 5


@pytest.mark.parametrize("size", [(595, 11_000), (11_000, 595)], ids=["long", "wide"])
def test_a_page_longer_than_a_picture_can_be_comes_out_smaller_and_takes_no_other_along(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "banner.pdf"
    with closing(pypdfium2.PdfDocument.new()) as pdf:
        for page_size in (size, (595, 842)):
            pdf.new_page(*page_size)
        pdf.save(path)
    banner, page = page_views(path, [1, 2], 17_000 if size[0] > size[1] else 1000)
    picture = Image.open(io.BytesIO(base64.b64decode(banner.picture)))
    assert max(picture.size) <= 16_383
    assert picture.width / picture.height == pytest.approx(size[0] / size[1], rel=0.01)
    assert page.picture


def test_a_page_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(DocumentError, match=r"good\.pdf has no page 5: it has 4"):
        page_views(folder / "good.pdf", [1, 5], 100)
    with pytest.raises(DocumentError, match=r"good\.txt is not a PDF"):
        page_views(text_file(folder / "good.txt"), [1], 100)


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    # An eleventh of what `python -m tests.fuzz_documents` tries; eleven, so that each kind of file has its turn.
    seen = {what for _, what, _ in outcomes(tmp_path, range(0, MUTANTS, 11))}
    assert seen == {"read", "refused"}


def test_so_many_files_are_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits sees it, can leave, and gets a place as soon as there is one."""
    monkeypatch.setattr(child, "_reading", threading.Semaphore(1))
    path = tmp_path / "notes.txt"
    path.write_text("The fox jumps.")
    request = {"task": "read", "kind": "txt", "max_pages": 9, "max_characters": 999}
    first, second, third = (child.answers(path, path.name, request, Limits()) for _ in range(3))
    next(first)
    assert (next(second), next(third)) == ({}, {})
    second.close()
    assert next(third) == {}
    assert len(page_views(good_pdf(tmp_path / "book.pdf", 1), [1], 90)) == 1  # pages do not wait for that
    first.close()
    third.close()
    assert read_document(path).text == "The fox jumps."
