"""Errors of the lab. Each message says what to do."""

from __future__ import annotations


class LabError(ValueError):
    """The lab cannot do what it was asked for. Nothing was computed."""


class TestSetError(LabError):
    """A file of test cases cannot be read or has another format."""

    __test__ = False  # for pytest, which takes every class named Test... for tests


class RecordError(LabError):
    """A record file cannot be read, was not written by this program, or belongs to another run."""
