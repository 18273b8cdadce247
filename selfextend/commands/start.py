"""`app`: the page in the browser. The packages that it needs come with the extra `selfextend[app]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement


def start_app(options: Sequence[str]) -> int:
    """Serve the app until it is stopped.

    Args:
        options: as `python app.py` takes them.

    Returns:
        0, or 1 where packages are missing, which are named.
    """
    missing = _missing_packages()
    if missing:
        told = f'The app needs packages that are not installed ({", ".join(missing)}): pip install "selfextend[app]"'
        print(f"error: {told}", file=sys.stderr)
        return 1
    import_module(f"{_package()}.launch").main(options, program="selfextend app")
    return 0


def _package() -> str:
    """The name of the app's package. A wheel installs `app/` beside this library under a name that is nobody else's."""
    installed = Path(__file__).parents[2] / "selfextend_app"
    return "selfextend_app" if installed.is_dir() else "app"


def _missing_packages() -> list[str]:
    """What the extra "app" asks for and is not here, or not in a version that fits.

    A checkout that was not installed lists nothing: requirements.txt is its list.
    """
    try:
        requirements = [Requirement(text) for text in requires("selfextend") or ()]
    except PackageNotFoundError:
        return []
    needed = (each for each in requirements if each.marker and each.marker.evaluate({"extra": "app"}))
    return [f"{each.name}{each.specifier}" for each in needed if not _is_installed(each)]


def _is_installed(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False
