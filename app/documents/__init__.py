"""A visitor's documents: read in a child process, cut into pages and passages, indexed by token, kept on disk."""
