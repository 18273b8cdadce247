"""What can be wrong with what the lab is asked to do. Each message says what to do about it."""

from __future__ import annotations


class LabError(ValueError):
    """Something asked of the lab cannot be done. Nothing was computed."""


class TestSetError(LabError):
    """A file of test cases cannot be read or has another form."""

    __test__ = False  # not a test class, whatever pytest makes of its name


class RecordError(LabError):
    """A record file cannot be read, is none of ours, or belongs to another run."""
