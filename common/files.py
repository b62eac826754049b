"""Files that are either whole or not there, and folders that one process has for itself."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import RunError


def write_atomic(path: Path, content: bytes | str, *, mode: int = 0o644) -> None:
    """Write a file through a temporary one beside it, so that no reader ever sees half of it.

    The content reaches the disk before the name does: after a power cut the old file or the new one
    is there. On an error nothing is left behind.

    Args:
        path: The file.
        content: All of it.
        mode: Its permissions; a secret is never readable by others, not even for a moment.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep a second process out of a folder; the system lets go when this one ends.

    Raises:
        RunError: another process runs it.
    """
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"folder {str(folder)!r} is being run by another process",
                remedy="wait for it to end, or use another folder",
            ) from None
        yield
