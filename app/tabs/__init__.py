"""The app's tabs: one module each, with its components and their handlers."""
