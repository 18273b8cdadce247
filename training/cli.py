"""The commands of `python -m training`. Without a command it does everything, in order; what is done is not redone.

Knows the order of the stages and where their results go; the stages themselves live in their own modules.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "training" / "runs" / "main"
ASSETS = ROOT / "assets"


def _prepare() -> None:
    # Freed memory is kept rather than given back: page faults otherwise take a good part of a training step.
    # glibc reads these at start, so they only help what is started from here; README.md sets them for this process.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def tokenizer(run: Path, _: Path) -> None:
    """Trains the tokenizer, unless the run has one."""
    from training import tokenizer as module

    folder = run / "tokenizer"
    if (folder / "tokenizer.json").exists():
        print(f"tokenizer: kept, {folder}")
        return
    module.train().save_pretrained(str(folder))
    print(f"tokenizer: trained, {folder}")


def train(run: Path, _: Path) -> None:
    """Trains the model, or goes on where a run stopped."""
    from training import tokenizer as module
    from training.train import Trainer

    tokenizer(run, _)
    trainer = Trainer(module.load(run / "tokenizer").backend_tokenizer, run)
    print(f"training on {trainer.device}, from step {trainer.step}")
    trainer.run()


def export(run: Path, assets: Path) -> None:
    """Writes the run's model to assets/model."""
    from training.export import export as write

    write(run, assets / "model")
    print(f"model: {assets / 'model'}")


def sample(_: Path, assets: Path) -> None:
    """Writes the sample document and its first questions, which are ones that the exported model answers."""
    from training import documents
    from training.evaluate import answered

    pdf = assets / "sample.pdf"
    documents.sample(pdf, assets / "sample_questions.json", lambda asked: answered(assets / "model", pdf, asked))
    print(f"sample: {assets / 'sample.pdf'}")


def heldout(run: Path, _: Path) -> None:
    """Writes the held-out document and its questions into the run's folder."""
    from training import documents

    run.mkdir(parents=True, exist_ok=True)
    documents.held_out(run / "heldout.pdf", run / "heldout_questions.json")
    print(f"held out: {run / 'heldout.pdf'}")


def card(run: Path, assets: Path) -> None:
    """Measures the exported model and writes the table into its card. Takes minutes."""
    from training.card import write

    heldout(run, assets)
    write(assets / "model", run)
    print(f"card: {assets / 'model' / 'README.md'}")


def lesson(_: Path, assets: Path) -> None:
    """Records the answers that the lesson shows. Takes minutes."""
    from training.lesson import write

    write(assets / "model", assets / "lesson" / "runs.json")
    print(f"lesson: {assets / 'lesson' / 'runs.json'}")


STAGES = {
    "tokenizer": tokenizer, "train": train, "export": export, "sample": sample, "heldout": heldout, "card": card,
    "lesson": lesson,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one stage, or all of them. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Makes the bundled model from nothing.")
    parser.add_argument("stage", nargs="?", choices=[*STAGES, "all"], default="all", help="default: all, in this order")
    parser.add_argument(
        "--run", type=Path, default=RUN, help="checkpoint, log, held-out document (default: %(default)s)"
    )
    parser.add_argument("--assets", type=Path, default=ASSETS, help="what ships (default: %(default)s)")
    options = parser.parse_args(arguments)
    _prepare()
    chosen = list(STAGES.values()) if options.stage == "all" else [STAGES[options.stage]]
    for stage in chosen:
        stage(options.run, options.assets)
    return 0
