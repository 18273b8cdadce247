"""Sizes in words."""


def readable(size: float) -> str:
    """Bytes as people say them: "1.42 GB", "98 MB", "1.23 MB"."""
    if size >= 1e9:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
