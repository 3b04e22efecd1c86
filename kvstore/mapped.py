"""The database file in this process's memory.

LMDB reads through a map of the file, and every page that was ever looked at counts as resident, so the process seems to
grow with the database although these pages are the system's cache. `MappedFile` lets go of them now and then: they stay
in the system's cache, and the next read of one costs a page fault, not a read from disk.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

MOST_MAPPED = 64 << 20  # bytes that may be mapped in before they are let go
PAGE = mmap.PAGESIZE
STATM = Path("/proc/self/statm")


class MappedFile:
    """The map of the database in `directory`. Does nothing where the system does not tell what is mapped."""

    def __init__(self, directory: Path) -> None:
        self._prefix = f"{directory.resolve()}{os.sep}".encode()
        self._madvise = getattr(ctypes.CDLL(None, use_errno=True), "madvise", None)
        self._advice = getattr(mmap, "MADV_DONTNEED", None)
        self._floor = _shared_bytes()  # what is mapped of other files

    def keep_small(self) -> None:
        """Let go of the map when too much of it is resident; a few microseconds otherwise. Any thread may call it."""
        if self._floor is None or self._madvise is None or self._advice is None:
            return
        shared = _shared_bytes()
        if shared is None or shared < self._floor + MOST_MAPPED:
            return
        for start, end in self._maps():
            self._madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), self._advice)
        self._floor = _shared_bytes()

    def _maps(self) -> Iterator[tuple[int, int]]:
        for line in Path("/proc/self/maps").read_bytes().splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5].startswith(self._prefix) and fields[5].endswith(b"data.mdb"):
                start, _, end = fields[0].partition(b"-")
                yield int(start, 16), int(end, 16)


def _shared_bytes() -> int | None:
    """Resident bytes of all files that are mapped."""
    try:
        with STATM.open("rb", buffering=0) as statm:
            return int(statm.read(200).split()[2]) * PAGE
    except OSError:
        return None
