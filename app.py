"""The app: `python app.py` opens it in the browser, `python app.py --help` says what can be set."""

import os

# No request leaves this machine unless somebody asks for a model from the hub.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from app.settings import read_settings


def main() -> None:
    """Read the settings and serve until stopped."""
    settings = read_settings()
    from app.launch import serve

    serve(settings)


if __name__ == "__main__":
    main()
