"""What can be wrong with the folder of a run."""

from __future__ import annotations

__all__ = ["RunError", "RunMismatch"]


class RunError(OSError):
    """The folder of a run cannot be used, written or read; the message is one line that says what to do."""


class RunMismatch(RunError):
    """The folder holds a run with other settings; the message names every difference, old and new."""
