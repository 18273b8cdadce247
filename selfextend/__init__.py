"""SelfExtend (arXiv 2401.01325) for any RoPE language model in transformers: exact, and linear in memory.

Importing this package loads neither torch nor transformers; each name below loads what it needs on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from selfextend.config import SelfExtendConfig, max_length, suggest

__version__ = "0.1.0"

if TYPE_CHECKING:
    from selfextend.loading.models import load_model
    from selfextend.plugin import Support, disable, enable, self_extend, support

_LAZY = {
    "Support": "selfextend.plugin",
    "disable": "selfextend.plugin",
    "enable": "selfextend.plugin",
    "load_model": "selfextend.loading.models",
    "self_extend": "selfextend.plugin",
    "support": "selfextend.plugin",
}

__all__ = [
    "SelfExtendConfig",
    "Support",
    "disable",
    "enable",
    "load_model",
    "max_length",
    "self_extend",
    "suggest",
    "support",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
