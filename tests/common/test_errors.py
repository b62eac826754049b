"""Errors: two lines a user can act on, which survive the trip between processes."""

import errno
import pickle
import sqlite3

import pytest

from common import errors
from common.errors import GrandroundsError, is_disk_full

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, GrandroundsError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives_pickling_with_its_kind_message_and_remedy(kind):
    # Broken once: without __reduce__ unpickling raises TypeError, for the keyword-only remedy.
    again = pickle.loads(pickle.dumps(kind("count is 0", remedy="use 1")))  # noqa: S301
    assert type(again) is kind
    assert (again.message, again.remedy, str(again)) == (
        "count is 0",
        "use 1",
        "count is 0\n  remedy: use 1",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_ends_a_command_with_a_code_of_its_own_family(kind):
    assert kind.exit_code in {2, 3, 4}


def test_an_error_cannot_be_made_without_a_remedy():
    with pytest.raises(TypeError, match="remedy"):
        GrandroundsError("count is 0")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_a_spent_quota_and_a_size_limit_all_mean_disk_full(number):
    assert is_disk_full(OSError(number, "no"))


def test_sqlite_says_disk_full_in_words():
    assert is_disk_full(sqlite3.OperationalError("database or disk is full"))
    assert not is_disk_full(sqlite3.OperationalError("database is locked"))
    assert not is_disk_full(PermissionError(errno.EACCES, "no"))
