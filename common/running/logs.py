"""Log lines with the run, the round and the site they are about, as text or as JSON.

Words that came from elsewhere cannot begin a line of their own: control characters are written
out.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

Format = Literal["text", "json"]

_FIELDS: ContextVar[Mapping[str, str | int]] = ContextVar("log_fields")
_LONGEST_FIELD = 128
_ESCAPES = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160), 0x2028, 0x2029)}


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    r"""Add fields to every line logged within this block; what is None is left out.

    >>> with bound(run="r1", round=3), bound(site="a\nb"):
    ...     fields()
    {'run': 'r1', 'round': 3, 'site': 'a\\x0ab'}
    """
    new = {name: _plain(value) for name, value in fields.items() if value is not None}
    token = _FIELDS.set({**_FIELDS.get({}), **new})
    try:
        yield
    finally:
        _FIELDS.reset(token)


def fields() -> dict[str, str | int]:
    """Return the fields that lines logged here carry."""
    return dict(_FIELDS.get({}))


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO answered: train (run=r1 round=3 site=cleveland)`.

    Args:
        common: Fields of every line.
    """

    def __init__(self, common: Mapping[str, str | int] | None = None) -> None:
        super().__init__()
        self._common = dict(common or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return a line; the traceback of an error follows it, indented."""
        named = {**self._common, **fields()}
        about = " ".join(f"{name}={value}" for name, value in named.items())
        line = f"{_at(record)} {record.levelname} {record.getMessage().translate(_ESCAPES)}"
        lines = [f"{line} ({about})" if about else line]
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            lines += [f"    {words.translate(_ESCAPES)}" for words in trace]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, logger, message, the fields, and error where there is one.

    Args:
        common: Fields of every line.
    """

    def __init__(self, common: Mapping[str, str | int] | None = None) -> None:
        super().__init__()
        self._common = dict(common or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return a line."""
        values: dict[str, str | int] = {
            "at": _at(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._common,
            **fields(),
        }
        if record.exc_info:
            values["error"] = self.formatException(record.exc_info)
        return json.dumps(values)


def set_up(style: Format, *, stream: TextIO | None = None, **common: str | int) -> None:
    """Send this process's log to a stream, and nowhere else.

    Args:
        style: How lines are written.
        stream: Where to; standard error by default.
        common: Fields of every line.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter({"text": TextFormatter, "json": JsonFormatter}[style](common))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)


def _plain(value: Any) -> str | int:
    """Return a value of a field: a number, or a short text on one line."""
    if type(value) is int and abs(value) < 2**63:
        return value
    text = value if isinstance(value, str) else type(value).__name__
    return text[:_LONGEST_FIELD].translate(_ESCAPES)


def _at(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
