"""`python -m selfextend`: settings, answers and the lab on the command line. Each command takes `--json`; only `app`
has the options of `python app.py` instead.

Results go to standard output, progress and errors to standard error. What a command imports is imported when it is
run: see `selfextend.commands.parser`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pkgutil import resolve_name
from traceback import walk_tb

from selfextend.commands.parser import APP, make_parser
from selfextend.commands.start import start_app
from selfextend.freed_memory import give_back_freed_memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 1: it could not be done, for the reason printed; 130: stopped by Ctrl-C."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == [APP]:
        return start_app(given[1:])
    chosen = make_parser().parse_args(given)
    give_back_freed_memory()
    try:
        result = resolve_name(f"selfextend.commands.{chosen.run}")(chosen)
    except (ValueError, RuntimeError, OSError) as error:
        if not _is_expected(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    if int(os.environ.get("RANK", "0")):
        return 0  # of processes that run one model together, only the first prints
    if chosen.json:
        json.dump(result, sys.stdout, ensure_ascii=False, indent=2)
        print()
    else:
        resolve_name(f"selfextend.commands.{chosen.show}")(result)
    return 0


def _is_expected(error: BaseException) -> bool:
    """Whether an error's message says what to do, since it was raised by this package. Others keep their traceback."""
    if type(error).__module__.startswith("selfextend") or isinstance(error, OSError):
        return True
    modules = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    return type(error) is ValueError and modules[-1].startswith("selfextend")
