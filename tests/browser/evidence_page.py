"""The Evidence, Attention and Compare tabs on a page of their own, over real answers of the bundled model.

`python tests/browser/evidence_page.py PORT` serves it: a few pages of the sample and a Markdown file, so that
it is up in seconds.
"""

import json
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pypdfium2

from app.answering import reply_by
from app.asking import Question, answer_turn
from app.cache_store import CacheStore
from app.conversation import Entry
from app.documents.document import Limits
from app.documents.library import StoredDocument
from app.documents.reader import read_document_steps
from app.evidence import Citation
from app.model_shelf import LoadedModel, ModelShelf
from app.sample import SAMPLE, SAMPLE_QUESTIONS
from app.session import Session, Turn
from app.tabs.attention import build_attention_tab
from app.tabs.compare import build_heatmaps
from app.tabs.evidence import build_evidence_tab, passage_news
from app.theme import ASSETS, app_css, gradio_theme
from app.whatif import Answered, PassageTest, passage_tests_steps
from selfextend.generation import GenerationSettings
from selfextend.loading.sources import bundled_folder
from selfextend.methods import Method, SelfExtend, Vanilla
from selfextend.steps import result_of

PAGES_BEFORE, PAGES, MANY = 1, 5, 12
NOTES = """# Notes

The gate is old and painted green. Nobody has counted its bars, and nobody means to begin.

The access code of the Orchard gate is 48213. Everybody who works here knows it.

Rain is expected in the evening. The lanterns are lit at seven, and the keeper walks round once more.
"""


def bundled() -> LoadedModel:
    """Loaded as anybody's model: as the bundled one it would show no evidence about parts of the sample."""
    return result_of(ModelShelf().load_steps(str(bundled_folder())))


def ask(loaded: LoadedModel, session: Session, text: str, path: Path, method: Method | None = None) -> Turn:
    """A real answer, with everything that the tabs look into; by SelfExtend unless told otherwise."""
    stored = StoredDocument(result_of(read_document_steps(path, Limits(), path.name)), path)
    question = Question(
        text,
        (stored,),
        method=method or SelfExtend.of(loaded.advice(4000)),
        extend="always",
        generation=GenerationSettings(max_new_tokens=48),
    )
    return result_of(answer_turn(loaded, CacheStore(2**30), session, question))


def part_of_the_sample(path: Path, page: int, pages: int = PAGES) -> Path:
    """The pages around one page of the sample document, as a PDF of their own."""
    with pypdfium2.PdfDocument(SAMPLE) as sample, pypdfium2.PdfDocument.new() as part:
        first = page - 1 - PAGES_BEFORE
        part.import_pages(sample, list(range(first, first + pages)))
        part.save(path)
    return path


def right_answer(loaded: LoadedModel, session: Session, path: Path) -> Turn:
    """The first of the sample's questions that is answered right over the pages around it: the tabs are what is
    tested here, and how often the model is right is measured elsewhere."""
    for record in json.loads(SAMPLE_QUESTIONS.read_text(encoding="utf-8")):
        turn = ask(loaded, session, record["question"], part_of_the_sample(path, record["page"]))
        if record["value"] in turn.answer.text:
            return turn
    raise RuntimeError("The bundled model answers none of the sample's questions.")


def asked_page(question: str) -> int:
    """The page of the sample that answers one of its questions."""
    records = json.loads(SAMPLE_QUESTIONS.read_text(encoding="utf-8"))
    return next(int(record["page"]) for record in records if record["question"] == question)


def compared(turns: Sequence[Turn]) -> list[Entry]:
    """A conversation of one comparison."""
    replies = (reply_by(turn.method, turn=turn.id, text=turn.answer.text) for turn in turns)
    return [Entry(turns[0].question, tuple(replies), turns[0].model_name)]


def build(folder: Path) -> gr.Blocks:
    loaded, session = bundled(), Session("visitor")
    notes = folder / "notes.md"
    notes.write_text(NOTES, encoding="utf-8")
    turns = {
        "PDF": right_answer(loaded, session, folder / "part.pdf"),
        "Markdown": ask(loaded, session, "What is the access code of the Orchard gate?", notes),
        "Nothing": None,
    }
    question = turns["PDF"].question
    long = part_of_the_sample(folder / "long.pdf", asked_page(question), MANY)
    turns |= {"Vanilla": ask(loaded, session, question, long, Vanilla()), "Long": ask(loaded, session, question, long)}

    hold_at = 0  # the passage under test that is held, so that it can be stopped on any machine; 0: none

    def test(visitor: str, turn: Turn, citations: Sequence[Citation]) -> Generator[Any, None, None]:
        answered = Answered(loaded.ready, turn.prompt.ids, turn.answer, turn.generation, turn.prefix, chunk_tokens=64)
        done = 0
        for step in passage_tests_steps(answered, citations):
            yield step
            if isinstance(step, PassageTest):
                done += 1
                continue
            while 0 < hold_at <= done + 1:
                time.sleep(0.05)
                yield step

    def hold_tests(passage: int) -> str:
        nonlocal hold_at
        hold_at = passage
        return f"holds at {passage}"

    with gr.Blocks(title="Evidence", analytics_enabled=False) as page:
        turn, entries = gr.State(None), gr.State([])
        gr.HTML(js_on_load=(ASSETS / "selection.js").read_text(encoding="utf-8"), visible="hidden")
        rank = gr.Number(1, label="Passage to open", precision=0)
        with gr.Row():
            buttons = {name: gr.Button(name) for name in turns}
        hold = gr.Number(0, label="Hold at passage", precision=0)
        hold.change(hold_tests, [hold], [gr.HTML(elem_id="held")])
        news = passage_news()
        with gr.Tab("Evidence"):
            build_evidence_tab(turn, gr.State("visitor"), test, lambda visitor: session, news)
        with gr.Tab("Attention"):
            build_attention_tab(turn)
        with gr.Tab("Compare"):
            build_heatmaps(lambda visitor: session, gr.State("visitor"), entries)
        gr.Button("Compared").click(lambda: compared([turns["Vanilla"], turns["Long"]]), None, [entries])
        for name, button in buttons.items():
            button.click(lambda rank, name=name: turns[name] and replace(turns[name], opens_at=rank), [rank], [turn])
    return page


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder)).launch(
            server_name="127.0.0.1",
            server_port=int(sys.argv[1]),
            theme=gradio_theme(),
            css=app_css(),
            run_history=None,
            quiet=True,
        )
