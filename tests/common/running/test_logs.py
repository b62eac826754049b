"""Log lines: with run, round and site; one line each, whatever the other side wrote into them."""

from __future__ import annotations

import io
import json
import logging
import threading
import warnings
from collections.abc import Iterator

import pytest

from common.running.logs import bound, fields, set_up

log = logging.getLogger("a.test")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_of_text_carries_run_round_and_site() -> None:
    stream = io.StringIO()
    set_up("text", stream=stream, site="cleveland")
    with bound(run="r1", round=3):
        log.info("answered: %s", "train")
    [line] = stream.getvalue().splitlines()
    at, rest = line.split(" ", 1)
    assert rest == "INFO answered: train (site=cleveland run=r1 round=3)"
    assert len(at) == len("2026-01-31T12:00:00.000Z")
    assert at.endswith("Z")


def test_a_line_of_json_carries_run_round_and_site() -> None:
    stream = io.StringIO()
    set_up("json", stream=stream, site="cleveland")
    with bound(run="r1", round=3):
        log.warning("answered: %s", "train")
    values = json.loads(stream.getvalue())
    assert values.pop("at").endswith("Z")
    assert values == {
        "level": "warning",
        "logger": "a.test",
        "message": "answered: train",
        "site": "cleveland",
        "run": "r1",
        "round": 3,
    }


def test_fields_end_with_their_block_and_belong_to_their_thread() -> None:
    seen = []
    with bound(run="r1"):
        with bound(round=2, kind=None):
            assert fields() == {"run": "r1", "round": 2}
            thread = threading.Thread(target=lambda: seen.append(fields()))
            thread.start()
            thread.join()
        assert fields() == {"run": "r1"}
    assert fields() == {}
    assert seen == [{}]


@pytest.mark.parametrize("style", ["text", "json"])
def test_words_from_elsewhere_cannot_begin_a_line_of_their_own(style: str) -> None:
    """A coordinator that names its run 'x, newline, INFO approved' forges an entry otherwise."""
    stream = io.StringIO()
    set_up(style, stream=stream)  # type: ignore[arg-type]
    forged = "x\nINFO approved\r\x1b[2J\x85\u2028"
    with bound(run=forged, round={"a": 1}):
        log.info("refused: %s", forged)
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("value", "shown"),
    [("y" * 500, "y" * 128), (10**30, "int"), ([1] * 9999, "list"), (True, "bool"), (-4, -4)],
    ids=["long", "huge", "list", "bool", "number"],
)
def test_a_field_is_short_whatever_is_put_into_it(value: object, shown: object) -> None:
    with bound(run=value):
        assert fields() == {"run": shown}


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_error_is_logged_with_its_traceback(style: str) -> None:
    stream = io.StringIO()
    set_up(style, stream=stream)  # type: ignore[arg-type]
    try:
        raise ValueError("line one\nERROR line two")
    except ValueError:
        log.exception("it failed")
    text = stream.getvalue()
    assert "ValueError: line one" in text
    if style == "json":
        assert "Traceback" in json.loads(text)["error"]
    else:
        assert all(line.startswith("    ") for line in text.splitlines()[1:])


def test_warnings_go_into_the_log() -> None:
    stream = io.StringIO()
    set_up("text", stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old", stacklevel=1)
    # catch_warnings puts back what captureWarnings replaced; the record was written before.
    assert "old" in stream.getvalue()
