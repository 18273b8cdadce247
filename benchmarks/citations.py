"""Whether an answer's top citation is on the right page, over the held-out questions of a document.

`python -m benchmarks.citations` writes the document and its hundred questions with the generator that training holds
out, asks each through the app's own path, and prints a table. With `--tests N` it also blanks out, for N right
answers, the top citation and the fifth, and says how often the answer changes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.asking import Question, answer_turn
from app.cache_store import CacheStore
from app.documents.document import Limits
from app.documents.library import StoredDocument
from app.documents.reader import read_document_steps
from app.model_shelf import BUNDLED, LoadedModel, ModelShelf
from app.session import Session, Turn
from app.whatif import Answered, passage_test_steps
from selfextend.generation import GenerationSettings
from selfextend.methods import SelfExtend
from selfextend.steps import result_of

NEW_TOKENS = 64


@dataclass(frozen=True)
class Asked:
    """One question: whether the answer holds the value, and where the citations stand.

    Attributes:
        pages: of the citations, the top one first.
        right_page: on which the answer stands.
        first_token_seconds: until the answer's first token, of `seconds` in all.
    """

    question: str
    answer: str
    is_right: bool
    pages: tuple[int, ...]
    right_page: int
    first_token_seconds: float
    seconds: float

    @property
    def top_is_right(self) -> bool:
        return bool(self.pages) and self.pages[0] == self.right_page


def ask(
    loaded: LoadedModel,
    caches: CacheStore,
    session: Session,
    stored: StoredDocument,
    record: dict[str, Any],
    length: int,
) -> tuple[Turn, Asked]:
    """Ask one of the held-out questions as the app does with its defaults."""
    question = Question(
        text=record["question"],
        documents=(stored,),
        method=SelfExtend.of(loaded.advice(length)),
        extend="always",
        generation=GenerationSettings(max_new_tokens=NEW_TOKENS),
    )
    began = time.perf_counter()
    turn: Turn = result_of(answer_turn(loaded, caches, session, question))
    asked = Asked(
        question=record["question"],
        answer=turn.answer.text.strip(),
        is_right=record["value"] in turn.answer.text,
        pages=tuple(citation.page for citation in turn.citations),
        right_page=record["page"],
        first_token_seconds=turn.answer.prefill_seconds,
        seconds=time.perf_counter() - began,
    )
    return turn, asked


def blanked_change(loaded: LoadedModel, turn: Turn, place: int) -> tuple[float, bool]:
    """Blank out the citation at `place`: the change of the answer's log-probability, and whether the answer changes."""
    answered = Answered(loaded.ready, turn.prompt.ids, turn.answer, turn.generation, turn.prefix)
    done = result_of(passage_test_steps(answered, turn.citations[place]))
    return done.change, not done.same_answer


def table(asked: Sequence[Asked]) -> str:
    """How often the top citation, and any, is on the right page, as a Markdown table."""
    right = [one for one in asked if one.is_right]
    among = {"all questions": asked, "answered right": right, "answered wrong": [a for a in asked if not a.is_right]}
    lines = ["| questions | n | top citation on the right page | right page among the five |", "|---|---|---|---|"]
    for name, part in among.items():
        top = sum(one.top_is_right for one in part)
        any_of = sum(one.right_page in one.pages for one in part)
        lines.append(f"| {name} | {len(part)} | {top} | {any_of} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--document", type=Path, help="a PDF; the held-out document unless given")
    parser.add_argument("--questions", type=Path, help="its questions, as training/documents.py writes them")
    parser.add_argument("--limit", type=int, default=100, help="questions to ask, spread evenly")
    parser.add_argument("--tests", type=int, default=0, help="right answers to test by blanking out passages")
    parser.add_argument("--json", type=Path, help="where to write every question's result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        document, questions = arguments.document, arguments.questions
        if document is None:
            from training.documents import held_out

            document, questions = Path(folder) / "heldout.pdf", Path(folder) / "questions.json"
            held_out(document, questions)
        measure(arguments, document, json.loads(questions.read_text(encoding="utf-8")))


def measure(arguments: argparse.Namespace, document: Path, records: list[dict[str, Any]]) -> None:
    """Ask, print as it goes, and print the table."""
    chosen = [records[len(records) * n // arguments.limit] for n in range(min(arguments.limit, len(records)))]
    loaded: LoadedModel = result_of(ModelShelf().load_steps(arguments.model))
    stored = StoredDocument(result_of(read_document_steps(document, Limits(), document.name)), document)
    caches, session = CacheStore(2**32), Session("benchmark")
    length = len(loaded.tokenizer(stored.document.text)["input_ids"]) + 2 * NEW_TOKENS
    print(f"{stored.document.name}: {len(stored.document.pages)} pages, {length:,} tokens; {loaded.advice(length)}")
    results: list[Asked] = []
    turns: list[Turn] = []
    for record in chosen:
        turn, asked = ask(loaded, caches, session, stored, record, length)
        results.append(asked)
        if asked.is_right and len(turns) < arguments.tests:
            turns.append(turn)
        print(
            f"{'right' if asked.is_right else 'WRONG'} {'page' if asked.top_is_right else 'OTHER PAGE'} "
            f"{asked.right_page}: {asked.pages} {asked.seconds:.1f} s | {asked.question} | {asked.answer}",
            flush=True,
        )
    print(table(results))
    if len(results) > 1:
        first, later = results[0].first_token_seconds, [one.first_token_seconds for one in results[1:]]
        middle = statistics.median(later)
        print(f"first token: {first:.2f} s for the first question, then {middle:.2f} s ({middle / first:.1%}), median")
    changes = [(blanked_change(loaded, turn, 0), blanked_change(loaded, turn, -1)) for turn in turns]
    for name, part in (("top", [first for first, _ in changes]), ("last", [last for _, last in changes])):
        if part:
            print(
                f"blanking out the {name} citation: answer changed {sum(c for _, c in part)} of {len(part)} times, "
                f"median change of its log-probability {statistics.median(d for d, _ in part):+.2f}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps([vars(one) for one in results], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
