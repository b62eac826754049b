"""What glibc's allocator does with the memory of large tensors, where that is the C library."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_LARGE_BLOCK = 2**17  # bytes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def return_large_blocks() -> None:
    """Have a large tensor's memory given back when it is freed: a service's, that waits.

    It would come to keep such blocks, for each thread of its own: several times a large model.
    """
    _tell(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def keep_blocks() -> None:
    """Have all memory kept for the next tensor: a simulation's, that works until it ends.

    A block that is given back is cleared by the system before it comes again. A step of a small
    convolutional network spends a third of its time on that.
    """
    _tell(_M_MMAP_MAX, 0)
    _tell(_M_TRIM_THRESHOLD, 2**31 - 1)


def _tell(option: int, value: int) -> None:
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(option, value)
