"""The commands of `python -m selfextend`: their arguments in `parser`, what they do in one module for each kind."""
