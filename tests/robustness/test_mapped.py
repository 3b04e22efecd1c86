"""The database file does not stay in the process's memory for having been read."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from kvstore import mapped
from kvstore.backend import Backend, Commit
from kvstore.revision import main_of, pack

MIB = 1 << 20
RECORD = bytes(1000)


def resident(directory: Path) -> int:
    """Bytes of the database file that are mapped in."""
    inside, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            inside = line.endswith(f"{directory.resolve()}/data.mdb")
        elif inside and first == "Rss:":
            total += int(line.split()[1]) << 10
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
@pytest.mark.parametrize("most", [2 * MIB, 1 << 40])
def test_what_was_read_of_the_file_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(mapped, "MOST_MAPPED", most)
    backend = Backend(tmp_path, quota_bytes=64 * MIB, fsync=False, inline=True, rng=random.Random(1))
    try:
        for first in range(2, 20_002, 1000):
            batch = Commit()
            batch.revisions = [pack(main, 0) for main in range(first, first + 1000)]
            batch.records = [RECORD] * 1000
            backend.commit(batch)
        main, seen, largest = 1, 0, 0
        while True:
            found, ended = backend.scan(main, MIB)
            seen += len(found)
            largest = max(largest, resident(tmp_path))
            if ended:
                break
            main = main_of(found[-1][0]) + 1
        assert seen == 20_000
        assert (largest < 8 * MIB) == (most == 2 * MIB), "without it, all of the file would be resident"
        assert backend.get_many([pack(main, 0) for main in range(2, 100)]) == [RECORD] * 98
    finally:
        backend.close()
