"""What stands before the pages and their handlers: who may ask for what, with which values, and the log of it."""
