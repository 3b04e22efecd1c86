"""Snapshots of a store as files, and carrying what is in one store to another.

A snapshot is the database, compacted, with the SHA-256 of it behind: what the Maintenance service streams, and what
`etcdctl snapshot save` writes. Only this package reads ours; between us and etcd, `carry` goes through the API.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import google_crc32c
import lmdb

from kvstore.api import Client, KeyValue, Op, Put, Range
from kvstore.backend import FORMAT_VERSION
from kvstore.errors import DataDirError, LeaseExists
from kvstore.revision import from_key, main_of
from kvstore.store import SCHEDULED_COMPACTION

BLOB_BYTES = 32 << 10  # as etcd sends them
SUM_BYTES = hashlib.sha256().digest_size
PAGE_KEYS = 1000
# Well inside the limits that every etcd has by default: 128 operations, 1.5 MiB.
TXN_OPS, TXN_BYTES = 100, 512 << 10


class SnapshotError(DataDirError):
    """A file is no whole snapshot of ours, or a store is not one to carry data into. Nothing was changed."""


class Status(NamedTuple):
    """What is in a snapshot. `records` counts every version of every key; `size` is in bytes."""

    hash: int
    revision: int
    records: int
    size: int


class Carried(NamedTuple):
    """What was carried, and the two stores' revisions: of what was read, and after the last write."""

    keys: int
    leases: int
    source_revision: int
    target_revision: int


# ---- files ----------------------------------------------------------------------------------------------------------


def blobs(database: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """A copy of the database in pieces, each with the number of bytes that follow it, and then its SHA-256."""
    digest = hashlib.sha256()
    remaining = database.seek(0, os.SEEK_END)
    database.seek(0)
    while remaining:
        blob = database.read(BLOB_BYTES)
        remaining -= len(blob)
        digest.update(blob)
        yield blob, remaining
    yield digest.digest(), 0


async def save(pieces: AsyncIterator[bytes], path: Path) -> int:
    """Write what `pieces` gives to a file, which appears only when it is whole; its size in bytes."""
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            async for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return size


def status(path: Path) -> Status:
    """What is in a snapshot. Raises SnapshotError for a file that is damaged or not a snapshot of ours."""
    _verify(path)
    env = _open(path, readonly=True)
    try:
        with env.begin() as txn:
            meta = _check(env, txn, path)
            revisions = env.open_db(b"revisions", txn=txn, create=False)
            crc = 0
            newest = 1
            with txn.cursor(db=revisions) as cursor:
                for key, record in cursor:
                    crc = int(google_crc32c.extend(crc, key + record))
                if cursor.last():
                    newest = main_of(from_key(cursor.key()))
            compacted = int(txn.get(SCHEDULED_COMPACTION.encode(), b"-1", db=meta))
            records = txn.stat(revisions)["entries"]
    finally:
        env.close()
    return Status(crc, max(newest, compacted), records, path.stat().st_size)


def restore(path: Path, directory: Path, *, rng: random.Random | None = None, verify: bool = True) -> None:
    """Make a data directory of a snapshot. It is a new cluster with new ids, so that no old client takes it for the
    one it knew; keys, history, revision, leases, users and alarms are those of the snapshot.

    `verify=False` takes a file without its checksum, as a copied `data.mdb`. Raises SnapshotError.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise SnapshotError(f"{directory} is not an empty directory; a snapshot is restored into a new one")
    if verify:
        _verify(path)
    rng = rng or random.SystemRandom()
    partial = directory.with_name(directory.name + ".part")
    partial.mkdir(mode=0o700, parents=True)
    try:
        shutil.copyfile(path, partial / "data.mdb")
        if verify:
            os.truncate(partial / "data.mdb", path.stat().st_size - SUM_BYTES)
        env = _open(partial / "data.mdb", readonly=False)
        try:
            with env.begin(write=True) as txn:
                meta = _check(env, txn, path)
                for name in (b"cluster_id", b"member_id"):
                    txn.put(name, str(rng.getrandbits(64) | 1).encode(), db=meta)
            env.sync(True)
        finally:
            env.close()
        (partial / "data.mdb-lock").unlink()
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial)
        raise


def _verify(path: Path) -> None:
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = size - SUM_BYTES
        while left > 0 and (piece := file.read(min(left, 1 << 20))):
            digest.update(piece)
            left -= len(piece)
        if size <= SUM_BYTES or file.read() != digest.digest():
            raise SnapshotError(f"{path}: not a snapshot, or damaged: its checksum is wrong")


def _open(path: Path, *, readonly: bool) -> Any:
    try:
        room = path.stat().st_size + (16 << 20)  # for the few pages that a restore rewrites
        return lmdb.open(str(path), map_size=room, subdir=False, readonly=readonly, lock=not readonly, max_dbs=16)
    except lmdb.Error as error:
        raise SnapshotError(
            f"{path}: not a snapshot of listwatch's ({error}); for etcd's own there is etcdutl"
        ) from None


def _check(env: Any, txn: Any, path: Path) -> Any:
    """The `meta` database of a snapshot of ours."""
    try:
        meta = env.open_db(b"meta", txn=txn, create=False)
        version = int(txn.get(b"format_version", b"0", db=meta))
    except lmdb.Error:
        version = 0
    if not version:
        raise SnapshotError(f"{path}: a database, but not one of listwatch's")
    if version > FORMAT_VERSION:
        raise SnapshotError(f"{path}: has format {version}; this version of listwatch reads up to {FORMAT_VERSION}")
    return meta


# ---- from store to store --------------------------------------------------------------------------------------------


async def carry(source: Client, target: Client, *, merge: bool = False) -> Carried:
    """Write every key of one store, as it is now, and every lease into another; either may be an etcd.

    History is not carried, and the keys get revisions of the target's. Leases keep their ids and start with their full
    TTL. The target must be empty unless `merge`, which overwrites what both have. What was written stays if it fails
    half-way. Raises SnapshotError, or what the clients raise: Compacted if the source is compacted meanwhile.
    """
    if not merge and (await target.range(Range(b"\0", b"\0", count_only=True))).count:
        raise SnapshotError("the store to write to is not empty")
    leases = await _carry_leases(source, target)
    writer = _Writer(target)
    page = await source.range(Range(b"\0", b"\0", limit=PAGE_KEYS))
    revision = page.header.revision
    keys = 0
    while True:
        for kv in page.kvs:
            if kv.lease and kv.lease not in leases:
                continue  # its lease has just ended: the key is about to go
            await writer.put(kv)
            keys += 1
        if not page.more:
            break
        start = page.kvs[-1].key + b"\0"
        page = await source.range(Range(start, b"\0", limit=PAGE_KEYS, revision=revision))
    return Carried(keys, len(leases), revision, await writer.finish())


async def _carry_leases(source: Client, target: Client) -> set[int]:
    carried = set()
    for lease in (await source.leases()).leases:
        granted = (await source.lease_time_to_live(lease)).granted_ttl
        if granted:  # else it has ended meanwhile
            with contextlib.suppress(LeaseExists):
                await target.lease_grant(granted, lease)
            carried.add(lease)
    return carried


class _Writer:
    """Gathers puts into transactions."""

    def __init__(self, target: Client) -> None:
        self._target = target
        self._puts: list[Op] = []
        self._size = 0

    async def put(self, kv: KeyValue) -> None:
        size = len(kv.key) + len(kv.value)
        if self._puts and (len(self._puts) >= TXN_OPS or self._size + size > TXN_BYTES):
            await self.finish()
        self._puts.append(Put(kv.key, kv.value, lease=kv.lease))
        self._size += size

    async def finish(self) -> int:
        """Write what is left; the target's revision."""
        puts, self._puts, self._size = self._puts, [], 0
        return (await self._target.txn(success=puts)).header.revision
