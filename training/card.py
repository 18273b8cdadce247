"""Measures the exported model and writes the figures into its card, between two markers. Never by hand.

Passkeys and perplexity are measured by the project's own commands, as anybody can run them; the questions about the
held-out document by evaluate.py. Every command's answer is kept, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from training.documents import Question
from training.evaluate import MAX_NEW_TOKENS, ask, document_text, prompt, read_questions

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
ROOT = Path(__file__).resolve().parent.parent
ALL = "vanilla,vanilla+logn,selfextend,selfextend+logn"
RECOMMENDED = "selfextend+logn"
OTHERS = "vanilla,vanilla+logn,selfextend"
# Lengths, methods, cases at each of eleven depths: fewer where each case costs more.
PASSKEYS = (
    ("1x,2x", ALL, 20),
    ("4x", RECOMMENDED, 20),
    ("8x", RECOMMENDED, 20),
    ("16x", RECOMMENDED, 20),
    ("32x", RECOMMENDED, 10),
    ("4x", OTHERS, 5),
    ("8x", OTHERS, 1),
)
LABELS = {
    "vanilla": "vanilla", "vanilla+logn": "vanilla, log-n alone", "selfextend": "SelfExtend alone",
    "selfextend+logn": "SelfExtend with log-n",
}  # fmt: skip


def command(*arguments: str) -> dict[str, Any]:
    """Runs `python -m selfextend` with ``arguments`` and --json, and returns what it prints.

    Raises RuntimeError with the command's last words when it fails.
    """
    run = subprocess.run(
        [sys.executable, "-m", "selfextend", *arguments, "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"selfextend {' '.join(arguments)} failed: {run.stderr.strip()[-800:]}")
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def _kept(path: Path, measure: Callable[[], Any]) -> Any:
    """What is in ``path``; measured and written there first where it is missing."""
    if not path.exists():
        started = time.perf_counter()
        result = measure()
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"  {path.name}: {time.perf_counter() - started:.0f} s", flush=True)
    return json.loads(path.read_text())


def _questions(model: str, run: Path) -> dict[str, dict[str, float]]:
    from selfextend import SelfExtendConfig, load_model, suggest

    loaded, tokenizer = load_model(model)
    pdf = run / "heldout.pdf"
    questions: list[Question] = read_questions(run / "heldout_questions.json")
    length = max(len(prompt(tokenizer, document_text(pdf), q.question)) for q in questions) + MAX_NEW_TOKENS
    settings: dict[str, SelfExtendConfig | None] = {
        "vanilla": None,
        "selfextend": suggest(512, length),
        "selfextend+logn": suggest(512, length, query_scaling="logn"),
    }
    figures = {}
    for name, config in settings.items():
        asked = ask(loaded, tokenizer, pdf, questions, config)
        figures[name] = {
            "exact": sum(one.exact for one in asked) / len(asked),
            "found": sum(one.found for one in asked) / len(asked),
            "questions": len(asked),
            "tokens": length,
        }
    return figures


def _cold_start(model: str, run: Path) -> dict[str, Any]:
    """Seconds of a fresh process from its start to the answer over the held-out document."""
    question = read_questions(run / "heldout_questions.json")[60]
    text = run / "heldout.txt"
    text.write_text(document_text(run / "heldout.pdf"))
    started = time.perf_counter()
    answer = subprocess.run(
        [sys.executable, "-m", "selfextend", "ask", "--model", model, "--text", str(text), "--json", question.question],
        capture_output=True, text=True, cwd=ROOT, check=True,
    ).stdout  # fmt: skip
    return {"seconds": time.perf_counter() - started, "answer": answer.strip(), "expected": question.answer}


def _passkey(model: str, lengths: str, methods: str, trials: int, *more: str) -> dict[str, Any]:
    grid = ("--lengths", lengths, "--methods", methods, "--trials", str(trials))
    return command("passkey", "--model", model, *grid, *more)


def measure(model: str, run: Path) -> dict[str, Any]:
    """All figures of ``model``, a name or folder for --model. The held-out document must lie in ``run``."""
    folder = run / "measured"
    folder.mkdir(parents=True, exist_ok=True)
    prose = folder / "prose.txt"
    prose.write_text((ROOT / "README.md").read_text() + "\n\n" + (ROOT / "LICENSE").read_text())
    generated = folder / "generated.txt"
    generated.write_text(heldout_prose())
    figures: dict[str, Any] = {}
    figures["questions"] = _kept(folder / "questions.json", lambda: _questions(model, run))
    figures["perplexity"] = _kept(
        folder / "perplexity.json",
        lambda: command("perplexity", "--model", model, "--methods", ALL, "--length", "8192", "--text", str(generated)),
    )
    figures["prose"] = _kept(
        folder / "prose.json", partial(_passkey, model, "8x", RECOMMENDED, 2, "--text", str(prose))
    )
    for number, (lengths, methods, trials) in enumerate(PASSKEYS):
        name = f"passkey_{number}"
        figures[name] = _kept(folder / f"{name}.json", partial(_passkey, model, lengths, methods, trials))
    figures["cold_start"] = _kept(folder / "cold_start.json", lambda: _cold_start(model, run))
    return figures


def heldout_prose(seed: int = 21, characters: int = 60_000) -> str:
    """Held-out text for perplexity: the kind of text of training, from the other side of the split."""
    import random

    from training.facts import Facts
    from training.filler import Filler
    from training.names import Names

    names = Names(random.Random(seed), "held_out")
    facts, filler = Facts(names), Filler(names)
    parts: list[str] = []
    while sum(map(len, parts)) < characters:
        parts.append(filler.sentence())
        if names.rng.random() < 0.15:
            parts.append("".join(facts.statement(facts.draw(names.entity()))))
    return " ".join(parts)


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["Passkey, five digits, exact match over eleven depths (n cases in a cell):", ""]
    lengths: list[int] = []
    cells: dict[tuple[str, int], str] = {}
    for name, answer in figures.items():
        if not name.startswith("passkey"):
            continue
        for row in answer["by_length"]:
            if row["length"] not in lengths:
                lengths.append(row["length"])
            cells[row["method"], row["length"]] = f"{row['accuracy']:.1%} (n={row['trials']})"
    lines.append("| tokens | " + " | ".join(f"{length:,}" for length in lengths) + " |")
    lines.append("|---" * (len(lengths) + 1) + "|")
    for method, label in LABELS.items():
        lines.append(f"| {label} | " + " | ".join(cells.get((method, length), "–") for length in lengths) + " |")
    lines += ["", "Everything else:", "", "| | " + " | ".join(LABELS.values()) + " |", "|---" * 5 + "|"]
    prose = {row["method"]: f"{row['accuracy']:.1%} (n={row['trials']})" for row in figures["prose"]["by_length"]}
    lines.append(_line("passkeys in this project's README and licence, 8x", prose))
    ends = figures["perplexity"]["ends"]
    named = {LAB_LABELS[label]: end for label, end in ends.items()}
    lines.append(
        _line(
            "perplexity over 8,192 held-out tokens: first 512 → last quarter (ratio)",
            {m: f"{e['first_bin']:.1f} → {e['last_quarter']:.1f} ({e['ratio']:.2f})" for m, e in named.items()},
        )
    )
    asked = figures["questions"]
    count = next(iter(asked.values()))
    lines.append(
        _line(
            f"{count['questions']} questions about a held-out PDF of {count['tokens']:,} tokens, whole answer exact",
            {method: f"{figure['exact']:.0%}" for method, figure in asked.items()},
        )
    )
    cold = figures["cold_start"]
    lines += ["", f"From a cold start to the answer over that document: {cold['seconds']:.1f} s on two cores."]
    return "\n".join(lines)


LAB_LABELS = {
    "Vanilla": "vanilla", "Vanilla with log-n": "vanilla+logn", "SelfExtend": "selfextend",
    "SelfExtend with log-n": "selfextend+logn",
}  # fmt: skip


def _line(title: str, cells: dict[str, str]) -> str:
    return f"| {title} | " + " | ".join(cells.get(method, "–") for method in LABELS) + " |"


def write(folder: Path, run: Path) -> None:
    """Measures the model in ``folder`` and writes the table into its README.md.

    Raises ValueError when the card lacks its two markers.
    """
    card = folder / "README.md"
    if not {BEGIN, END} <= set(card.read_text().splitlines()):
        raise ValueError(f"{card} needs the lines {BEGIN} and {END}, between which the table goes")
    measured = table(measure(str(folder), run))
    # Read again: measuring takes minutes, in which somebody may have edited the card.
    before, rest = card.read_text().split(BEGIN)
    after = rest.split(END)[1]
    card.write_text(f"{before}{BEGIN}\n{measured}\n{END}{after}")
