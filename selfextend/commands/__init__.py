"""The commands of `python -m selfextend`, a file for each kind."""
