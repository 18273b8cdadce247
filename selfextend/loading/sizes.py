"""Sizes in words."""


def readable(size: float) -> str:
    """Bytes as people say them: "1.42 GB", "98.36 MB"."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
