"""Errors a user can act on: each names the field, the value and the remedy."""

from __future__ import annotations

import errno
from typing import Any


class GrandroundsError(Exception):
    """A mistake or a mishap that the command line prints as one message, without a traceback.

    Args:
        message: What is wrong, naming the field and the value.
        remedy: What to do about it.

    >>> print(GrandroundsError("rounds.count is 0", remedy="use at least 1"))
    rounds.count is 0
      remedy: use at least 1
    """

    exit_code = 2

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  remedy: {self.remedy}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the trip between processes (the default would lose the keyword argument)."""
        return (_rebuild, (type(self), self.message, self.remedy))


def _rebuild(cls: type[GrandroundsError], message: str, remedy: str) -> GrandroundsError:
    return cls(message, remedy=remedy)


class StudyError(GrandroundsError):
    """A study file that is missing, malformed, contradictory or impossible."""


class DataError(GrandroundsError):
    """A cohort that is missing or does not fit the study's schema."""


class SiteError(GrandroundsError):
    """A site's folder that is missing or malformed."""


class WireError(GrandroundsError):
    """A message that is malformed or does not belong where it arrived."""


class RunError(GrandroundsError):
    """A run that cannot start, cannot go on, or cannot be read."""

    exit_code = 3


class EngineError(GrandroundsError):
    """The engine that carries messages (in process, or Flower) failed."""

    exit_code = 4


_DISK_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error, of the system or of SQLite, means that nothing more can be written.

    >>> is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    >>> is_disk_full(ValueError("no"))
    False
    """
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return True
    return "database or disk is full" in str(error)
