"""`python -m selfextend`: settings, answers and the lab on the command line. Each command takes `--json`.

Results go to standard output, progress and errors to standard error. Knows how to read arguments and to print; what
is computed is in the library. Bad arguments are refused before a model is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from selfextend.commands import lab, models, settings, sweeps

Command = Callable[[argparse.Namespace], dict[str, Any]]


def parser() -> argparse.ArgumentParser:
    """The command line's arguments. Every command sets `run`, its function, and `show`, which prints its result."""
    top = argparse.ArgumentParser(
        prog="selfextend", description="SelfExtend (arXiv 2401.01325) on any RoPE model of transformers."
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (settings, models, lab, sweeps):
        module.add_commands(commands)
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 1: it could not be done, for the reason printed; 130: stopped by Ctrl-C."""
    chosen = parser().parse_args(arguments)
    try:
        result = chosen.run(chosen)
    except (ValueError, RuntimeError, OSError) as error:
        if not _is_plain(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    if int(os.environ.get("RANK", "0")):
        return 0  # of processes that run one model together, the first speaks
    if chosen.json:
        json.dump(result, sys.stdout, ensure_ascii=False, indent=2)
        print()
    else:
        chosen.show(result)
    return 0


def _is_plain(error: BaseException) -> bool:
    """Whether an error is one of ours, whose message says what to do; any other keeps its traceback."""
    module = type(error).__module__
    if module.startswith("selfextend") or isinstance(error, OSError):
        return True
    frames, traceback = [], error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next
    return type(error) is ValueError and bool(frames) and frames[-1].startswith("selfextend")
