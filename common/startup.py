"""Starting fast: the modules behind a command are many, and the garbage collector need not care."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import within this block without collecting, and keep what it made out of later collections.

    Thousands of modules' objects live as long as the program. Looking through them again and again
    while they load, and once more at exit, takes a second or two of a command of ten.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
