"""Kill a writing process at random instants and check what it left: `python -m tests.kvstore.kill --rounds 100`.

The child opens the data directory, writes, deletes and compacts as fast as it can, and reports each acknowledged
operation on its standard output; the parent kills it with SIGKILL, reopens the directory and compares.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from kvstore.api import DeleteRange, Put, Range, Txn
from kvstore.errors import Compacted
from kvstore.node import Node
from kvstore.record import decode, key_of
from kvstore.revision import main_of

WRITERS = 8
COMPACT_EVERY = 40  # acknowledged operations of one writer


async def write_forever(directory: Path, seed: int) -> None:
    """The child: every line it prints was acknowledged before."""
    async with Node.open(directory) as node:

        def report(line: str) -> None:
            os.write(1, f"{line}\n".encode())  # one write, so that a kill cannot tear a line

        async def writer(number: int) -> None:
            rng = random.Random(seed * WRITERS + number)
            for count in itertools.count(1):
                key = f"w{number}/{rng.randrange(20)}"
                value = f"{seed}.{number}.{count}" + "x" * rng.choice((0, 10, 3000))
                if rng.random() < 0.15:
                    deleted = await node.delete_range(DeleteRange(key.encode()))
                    report(f"delete {deleted.revision if deleted.deleted else 0} {key} -")
                elif rng.random() < 0.2:
                    other = f"{key}+"
                    done = await node.txn(Txn(success=(Put(key.encode(), value.encode()), Put(other.encode(), b"t"))))
                    report(f"put {done.revision} {key} {value}\nalso {done.revision} {other} t")
                else:
                    put = await node.put(Put(key.encode(), value.encode()))
                    report(f"put {put.revision} {key} {value}")
                if count % COMPACT_EVERY == 0:
                    target = node.revision - rng.randrange(30)
                    try:
                        await node.compact(target)
                    except Compacted:
                        continue
                    report(f"compact {target} - -")

        await asyncio.gather(*map(writer, range(WRITERS)))


class Acknowledged:
    """What the parent has been told, over all rounds."""

    def __init__(self) -> None:
        self.state: dict[str, tuple[int, str | None]] = {}  # key -> (revision, value; None = deleted)
        self.revisions: set[int] = set()
        self.compacted = -1
        self.count = 0

    def note(self, line: str) -> None:
        """Take one line of a child."""
        operation, number, key, value = line.split(" ")
        revision = int(number)
        self.count += 1
        if operation == "compact":
            self.compacted = max(self.compacted, revision)
        elif operation == "also":
            self.state[key] = (revision, value)
        elif revision:
            assert revision not in self.revisions, f"revision {revision} was given out twice"
            self.revisions.add(revision)
            self.state[key] = (revision, None if operation == "delete" else value)


async def check(directory: Path, acknowledged: Acknowledged, last_revision: int) -> int:
    """Compare the reopened directory with what was acknowledged; gives its revision."""
    async with Node.open(directory) as node:
        newest = max(acknowledged.revisions, default=1)
        assert node.revision >= max(newest, last_revision), "the revision went back"
        assert node.compacted >= acknowledged.compacted, "an acknowledged compaction was lost"
        # A child's last operations may have been done and not reported: never more than one a writer.
        unreported: dict[str, set[str | None]] = {}
        mains = set()
        start = max(node.compacted, 1)
        while True:
            events, reached = node._store.history(start, 1 << 20)
            for event in events:
                mains.add(event.mod_revision)
                assert key_of(event.record) == event.key
                if event.mod_revision not in acknowledged.revisions:
                    value = decode(event.record).value.decode() or None  # a tombstone has no value
                    unreported.setdefault(event.key.decode(), set()).add(value)
            if reached >= node.revision:
                break
            start = reached + 1
        missing = set(range(max(node.compacted, 1) + 1, node.revision + 1)) - mains
        assert not missing, f"history has gaps: {sorted(missing)[:5]}"
        for key, (revision, value) in acknowledged.state.items():
            rows = node.range(Range(key.encode())).rows
            got = decode(rows[0]).value.decode() if rows else None
            if got != value:
                assert got in unreported.get(key, set()), f"{key}: acknowledged {value!r} at {revision}, found {got!r}"
            elif rows and value not in unreported.get(key, set()):
                assert decode(rows[0]).mod_revision == revision
        # What was never reported is now a fact that later rounds build on.
        for row in node.range(Range(b"\x00", b"\x00")).rows:
            kv = decode(row)
            acknowledged.state[kv.key.decode()] = (kv.mod_revision, kv.value.decode())
        live = {decode(row).key.decode() for row in node.range(Range(b"\x00", b"\x00")).rows}
        for key in acknowledged.state.keys() - live:
            acknowledged.state[key] = (0, None)
        acknowledged.revisions |= mains
        node._store.index._check()
        for revision, record in node._backend.all_records():
            if main_of(revision) > node.compacted:
                assert node._store.index.holds(key_of(record), revision)
        return node.revision


def run(rounds: int, seed: int, directory: Path, max_delay: float = 0.25) -> Acknowledged:
    """Kill `rounds` children in turn on one directory. Raises AssertionError at the first thing lost."""
    rng = random.Random(seed)
    acknowledged = Acknowledged()
    revision = 1
    for number in range(rounds):
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.kvstore.kill", "--child", str(directory), "--seed", str(seed + number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        try:
            first = child.stdout.readline()  # it is writing
            assert first, f"the writer of round {number} ended by itself"
            acknowledged.note(first.strip())
            timer = rng.random() * max_delay
            with child.stdout:
                _kill_after(child, timer)
                for line in child.stdout:
                    if line.endswith("\n"):
                        acknowledged.note(line.strip())
        finally:
            child.kill()
            child.wait()
        revision = asyncio.run(check(directory, acknowledged, revision))
    return acknowledged


def _kill_after(child: subprocess.Popen[str], seconds: float) -> None:
    threading.Timer(seconds, child.send_signal, (signal.SIGKILL,)).start()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", type=Path)
    arguments = parser.parse_args()
    if arguments.child:
        asyncio.run(write_forever(arguments.child, arguments.seed))
        return
    with tempfile.TemporaryDirectory(prefix="listwatch-kill-") as directory:
        result = run(arguments.rounds, arguments.seed, Path(directory))
    print(f"{arguments.rounds} kills, {result.count} acknowledged operations, nothing lost")


if __name__ == "__main__":
    main()
