"""Half of `import gradio` is work for those who write components: in every process Gradio (6.31) parses the source of
each of its components again, to bring the type stubs beside them up to date."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_WRITES_STUBS = "gradio.component_meta"


def leave_stubs_alone() -> None:
    """Make Gradio leave its type stubs as they are, which takes a second or two off its import.

    Does nothing where Gradio is there already.
    """
    if _WRITES_STUBS not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(PathFinder):
    """Finds the module that writes them, and takes the function that does so out of it."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _WRITES_STUBS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_replace(module: ModuleType) -> None:
                run(module)
                vars(module)["create_or_modify_pyi"] = lambda *_: None

            vars(spec.loader)["exec_module"] = run_and_replace
        return spec
