"""Where the files are that come with the code: the bundled model, the sample document, the app's styles and scripts."""

from pathlib import Path


def assets_folder() -> Path:
    """`assets`: inside this package where it was installed from a wheel, beside it in a checkout of the project."""
    package = Path(__file__).parent
    installed = package / "assets"
    return installed if installed.is_dir() else package.parent / "assets"
