"""Snapshots as files: etcd's database with its SHA-256 behind, as the Maintenance service streams it.

Ours and etcd's are alike: etcdctl and etcdutl read ours, and `status` and `restore` read either.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import google_crc32c
import lmdb

from kvstore import schema
from kvstore.backend import Backend, sync_directory
from kvstore.bolt import BoltError, Reader
from kvstore.errors import DataDirError

BLOB_BYTES = 32 << 10  # as etcd sends them
SUM_BYTES = hashlib.sha256().digest_size
# A database is whole sectors; what is over is the checksum. So etcd tells whether there is one.
SECTOR = 512
ROOM = 4  # how much larger than a snapshot a data directory may be: records fill LMDB's pages less well


class SnapshotError(DataDirError):
    """A file is no whole snapshot, or a store is not one to carry data into. Nothing was changed."""


class Status(NamedTuple):
    """What is in a snapshot, as `etcdctl snapshot status` tells it.

    `hash` is the CRC-32C of all rows and `records` their number: every version of every key, and whatever else etcd
    keeps, such as users and leases. `size` is that of the database, in bytes.
    """

    hash: int
    revision: int
    records: int
    size: int


def blobs(database: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """A database in pieces, each with the number of bytes that follow it, and then its SHA-256."""
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
    """What is in a snapshot of ours or of etcd's, or in an etcd's database. Raises SnapshotError."""
    with _opened(path, needs_sum=False) as database:
        crc = records = 0
        last = b""
        for name in database.names():
            crc = int(google_crc32c.extend(crc, name))
            for key, value in database.bucket(name):
                crc = int(google_crc32c.extend(crc, key + value))
                records += 1
                if name == schema.HISTORY:
                    last = key
        return Status(crc, schema.revision_of(database, last), records, database.size)


def restore(
    path: Path,
    directory: Path,
    *,
    rng: random.Random | None = None,
    verify: bool = True,
    bump_revision: int = 0,
) -> None:
    """Make a data directory of a snapshot of ours or of etcd's; it appears only when it is whole.

    It is a new cluster with new ids, so that no old client takes it for the one it knew; keys, history, revision,
    leases, users and alarms are those of the snapshot. `verify=False` takes a file without its checksum, such as the
    `member/snap/db` of a stopped etcd. `bump_revision` raises the revision by so much and compacts all before it: who
    watched what has been lost since the snapshot is told to list again. Raises SnapshotError.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise SnapshotError(f"{directory} is not an empty directory; a snapshot is restored into a new one")
    with _opened(path, needs_sum=verify) as database:
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=directory.parent))
            try:
                _fill(partial, database, rng or random.SystemRandom(), bump_revision)
                partial.rename(directory)
            except BaseException:
                shutil.rmtree(partial)
                raise
            sync_directory(directory.parent)
        except OSError as error:
            raise SnapshotError(f"{directory} cannot be written: {error.strerror or error}") from error
        except lmdb.Error as error:
            raise SnapshotError(f"{directory} cannot be written: {error}") from error


def _fill(directory: Path, database: Reader, rng: random.Random, bump_revision: int) -> None:
    backend = Backend(directory, quota_bytes=ROOM * database.size, fsync=True, inline=True, rng=rng)
    try:
        for commit in schema.read(database, bump=bump_revision):
            backend.commit(commit)
    except lmdb.Error as error:
        if backend.disk_is_full():  # which LMDB has other words for
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
    finally:
        backend.close()


@contextmanager
def _opened(path: Path, *, needs_sum: bool) -> Iterator[Reader]:
    """The database of a snapshot. Whatever cannot be read in it is a SnapshotError that names the file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size % SECTOR == SUM_BYTES:
                size -= SUM_BYTES
                if not _sum_is_right(file, size):
                    raise BoltError("damaged: its checksum is wrong")
            elif needs_sum:
                raise BoltError("there is no checksum behind it: not a snapshot, or cut off")
            database = Reader(file, size)
            if not {schema.HISTORY, schema.META} <= set(database.names()):
                raise BoltError("a bbolt database, but not of an etcd's keys")
            yield database
    except (BoltError, ValueError, struct.error) as error:
        raise SnapshotError(f"{path}: {error}") from None


def _sum_is_right(file: IO[bytes], size: int) -> bool:
    digest = hashlib.sha256()
    while size and (piece := file.read(min(size, 1 << 20))):
        digest.update(piece)
        size -= len(piece)
    return file.read() == digest.digest()
