"""Durable puts in one process with 64 in flight, against bare LMDB writing the same records in the same batches.

The goal is 40,000 puts a second, or a quarter of what bare LMDB does.

    python -m benchmarks.embedded_puts
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import lmdb

from benchmarks.table import Row, show
from kvstore.api import Put
from kvstore.backend import Commit
from kvstore.node import Node
from kvstore.revision import to_keys

PUTS = 30_000
IN_FLIGHT = 64
VALUE = b"x" * 512
ROUNDS = 3


async def store_puts(directory: Path) -> tuple[float, list[list[tuple[bytes, bytes]]]]:
    """Puts a second, and the batches that went to disk."""
    batches: list[list[tuple[bytes, bytes]]] = []
    async with Node.open(directory) as node:
        commit = node._backend.commit

        def noted(batch: Commit) -> None:
            batches.append([*zip(to_keys(batch.revisions), batch.records, strict=True)])
            commit(batch)

        node._backend.commit = noted  # type: ignore[method-assign]
        numbers = iter(range(PUTS))

        async def writer() -> None:
            for number in numbers:
                await node.put(Put(b"/registry/pods/%08d" % number, VALUE))

        start = time.perf_counter()
        await asyncio.gather(*(writer() for _ in range(IN_FLIGHT)))
        took = time.perf_counter() - start
    return PUTS / took, batches


def lmdb_puts(directory: Path, batches: list[list[tuple[bytes, bytes]]]) -> float:
    """The same records in the same batches, each batch one durable transaction."""
    with lmdb.open(str(directory), map_size=1 << 30, max_dbs=1) as env:
        revisions = env.open_db(b"revisions")
        start = time.perf_counter()
        for batch in batches:
            if batch:
                with env.begin(write=True) as txn, txn.cursor(db=revisions) as cursor:
                    cursor.putmulti(batch, append=True)
        return sum(map(len, batches)) / (time.perf_counter() - start)


def main() -> None:
    """Rounds of both, in turn; the medians count."""
    ours, bare, ratios, size = [], [], [], 0.0
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="listwatch-bench-") as name:
            rate, batches = asyncio.run(store_puts(Path(name) / "ours"))
            baseline = lmdb_puts(Path(name) / "bare", batches)
        ours.append(rate)
        bare.append(baseline)
        ratios.append(rate / baseline)
        size = statistics.mean(len(batch) for batch in batches if batch)
    show(
        f"durable puts of 512 B, embedded, {IN_FLIGHT} in flight ({size:.0f} a commit on average)",
        [
            Row("bare LMDB, same batches", statistics.median(bare), "puts/s"),
            Row(
                "kvstore",
                statistics.median(ours),
                "puts/s",
                "bare LMDB",
                statistics.median(ratios),
                ">= 40,000/s or >= 0.25",
            ),
        ],
    )


if __name__ == "__main__":
    main()
