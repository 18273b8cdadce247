"""Whether this machine can read pictures of text: with the optional packages of `selfextend[ocr]`."""

from __future__ import annotations

from importlib.util import find_spec

PACKAGES = ("rapidocr", "onnxruntime")
HOW_TO_INSTALL = f"pip install {' '.join(PACKAGES)}"


def is_installed() -> bool:
    """Whether the packages are there. Nothing is imported."""
    return all(find_spec(package) is not None for package in PACKAGES)
