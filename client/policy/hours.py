"""A span of the day, in local time, that may go past midnight."""

from __future__ import annotations

import re
from datetime import datetime, time

_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def parse_hours(text: str) -> tuple[time, time]:
    """Return begin and end of a span of the day.

    Raises:
        ValueError: the text is no span, or an empty one.

    >>> parse_hours("20:00-06:00")[1].hour
    6
    """
    match = _SPAN.fullmatch(text)
    if match is None or match.group(1, 2) == match.group(3, 4):
        raise ValueError(f"it is {text!r}; give begin and end as '20:00-06:00'")
    a, b, c, d = (int(part) for part in match.groups())
    return time(a, b), time(c, d)


def within_hours(text: str, now: datetime) -> bool:
    """Tell whether a local time is in a span.

    >>> within_hours("20:00-06:00", datetime(2026, 1, 1, 23))
    True
    >>> within_hours("08:00-18:00", datetime(2026, 1, 1, 18))
    False
    """
    (begin, end), moment = parse_hours(text), now.time()
    if begin < end:
        return begin <= moment < end
    return moment >= begin or moment < end
