"""The page of similar cases: whole, fetching nothing, escaped, marked."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.report.retrieval_page import retrieval_html
from tests.page_reader import Reader

HOSTILE = "<script>alert('x')</script> & \x00"
ROW = {"rank": 1, "record": 7, "patient": HOSTILE, "class": HOSTILE, "distance": 0.25}


def values(queries: int) -> dict[str, Any]:
    query = {"votes": {HOSTILE: 1.0}, "neighbours": [ROW | {"part": "train"}]}
    return {
        "study": HOSTILE,
        "run": "run-1",
        "use": "does not leave the hospital",
        "about": [HOSTILE, "second"],
        "notes": ["a note"],
        "shares": {HOSTILE: 0.4},
        "queries": [query | {"record": n + 1, "patient": HOSTILE} for n in range(queries)],
    }


def test_it_is_whole_fetches_nothing_and_is_marked() -> None:
    grey, colour = np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4, 3), np.uint8)
    page = retrieval_html(values(3), [[grey, colour], [colour, grey]], command="DIR IMAGE")
    read = Reader(page)
    assert not read.open
    assert "script" not in read.tags
    assert [link[:22] for link in read.links] == ["data:image/png;base64,"] * 4
    assert len(read.ids) == len(set(read.ids))
    assert "100% (of all cases here 40%)" in page
    assert "does not leave the hospital" in page
    assert "do not pass on" in page
    assert "1 more cases are in the table alone" in page
    assert "grandrounds site retrieve DIR IMAGE --pictures FILE" in page
    assert page == retrieval_html(
        values(3), [[grey, colour], [colour, grey]], command="DIR IMAGE"
    )  # equal values, equal text
