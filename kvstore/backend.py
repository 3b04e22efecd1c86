"""LMDB underneath: the data directory, its lock and format, and the one writer thread.

Databases: `revisions` (revision key -> record), `leases` (id -> granted TTL), `meta` (small named numbers).
The writer runs whole jobs in order on one thread; reads run on the caller's thread and never outlive a call.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import lmdb
import structlog

from kvstore.errors import DataDirError, DataDirInUse, DataDirTooNew, KvError, NoSpace, Unavailable
from kvstore.revision import first_key, from_key, to_key, to_keys

FORMAT_VERSION = 1
MIB = 1 << 20
# Copy-on-write needs room for the pages of a running transaction and for free pages that a reader still pins.
MAP_SLACK = 256 * MIB
NO_COMPACTION = -1  # what etcd reports before the first compaction
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

T = TypeVar("T")
log = structlog.get_logger("kvstore")


class Commit:
    """What one LMDB transaction writes: records in revision order, leases, meta numbers. None deletes."""

    __slots__ = ("leases", "meta", "records")

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes]] = []
        self.leases: dict[int, int | None] = {}
        self.meta: dict[str, int] = {}


class Backend:
    """An open data directory. `close()` it; a second opener, in this process or another, gets `DataDirInUse`."""

    def __init__(self, directory: Path, *, quota_bytes: int, fsync: bool, inline: bool, rng: random.Random) -> None:
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(directory)
        except OSError as error:
            raise DataDirError(f"data directory {directory}: {error.strerror or error}") from error
        try:
            self._env = lmdb.open(
                str(directory),
                map_size=2 * quota_bytes + MAP_SLACK,
                max_dbs=3,
                sync=fsync,
                metasync=fsync,
                max_readers=126,
                subdir=True,
            )
            try:
                self._open_databases(directory, rng)
            except BaseException:
                self._env.close()
                raise
        except lmdb.Error as error:
            self._lock.close()
            raise DataDirError(f"data directory {directory}: not a usable database: {error}") from error
        except BaseException:
            self._lock.close()
            raise
        self._writer = None if inline else ThreadPoolExecutor(1, thread_name_prefix="lmdb-writer")
        self._size = self._measure()

    def _open_databases(self, directory: Path, rng: random.Random) -> None:
        fresh = self._env.stat()["entries"] == 0
        if not fresh:
            try:
                with self._env.begin() as txn:
                    meta = self._env.open_db(b"meta", txn=txn, create=False)
                    version = _number(txn.get(b"format_version", db=meta), 0)
            except lmdb.NotFoundError:
                version = 0
            if version > FORMAT_VERSION:
                raise DataDirTooNew(
                    f"data directory {directory} has format {version}; this version of listwatch reads up to "
                    f"{FORMAT_VERSION}. Use a newer listwatch; nothing was changed."
                )
            if version < 1:
                raise DataDirError(f"data directory {directory}: an LMDB database, but not one of listwatch's")
        with self._env.begin(write=True) as txn:
            self._meta = self._env.open_db(b"meta", txn=txn)
            self._revisions = self._env.open_db(b"revisions", txn=txn)
            self._leases = self._env.open_db(b"leases", txn=txn)
            if fresh:
                numbers = {
                    "format_version": FORMAT_VERSION,
                    "cluster_id": rng.getrandbits(64) | 1,
                    "member_id": rng.getrandbits(64) | 1,
                }
                for name, number in numbers.items():
                    txn.put(name.encode(), str(number).encode(), db=self._meta)

    # ---- the writer -----------------------------------------------------------------------------------------------

    async def write(self, job: Callable[[], T]) -> T:
        """Run a job on the writer thread, after those before it.

        Cancellation leaves a started job running to its end. Raises `NoSpace` or `Unavailable` when LMDB cannot write.
        """
        try:
            if self._writer is None:
                return job()
            return await asyncio.get_running_loop().run_in_executor(self._writer, job)
        except (lmdb.Error, OSError) as error:
            full = isinstance(error, lmdb.MapFullError) or _says(error, NO_SPACE)
            if full or (_says(error, (errno.EIO,)) and self._disk_is_full()):
                raise NoSpace() from error
            log.error("write_failed", error=str(error))
            raise Unavailable(f"etcdserver: the database cannot be written: {error}") from error

    def _disk_is_full(self) -> bool:
        # LMDB says "Input/output error" of a write that the disk had room for only in part.
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize < MIB

    def commit(self, batch: Commit) -> None:
        """The job that writes one batch, durably; all of it or nothing."""
        with self._env.begin(write=True) as txn:
            if batch.records:
                with txn.cursor(db=self._revisions) as cursor:
                    consumed, added = cursor.putmulti(batch.records, append=True)
                if not consumed == added == len(batch.records):
                    raise lmdb.Error("revisions out of order")
            for lease_id, ttl in batch.leases.items():
                name = str(lease_id).encode()
                if ttl is None:
                    txn.delete(name, db=self._leases)
                else:
                    txn.put(name, str(ttl).encode(), db=self._leases)
            for name_, number in batch.meta.items():
                txn.put(name_.encode(), str(number).encode(), db=self._meta)
        self._size = self._measure()

    def delete(self, revisions: Sequence[int]) -> None:
        """The job that removes the records of packed revisions, for a compaction."""
        with self._env.begin(write=True) as txn:
            for revision in revisions:
                txn.delete(to_key(revision), db=self._revisions)
        self._size = self._measure()

    # ---- reads ----------------------------------------------------------------------------------------------------

    def get(self, revision: int) -> bytes | None:
        """The record of a packed revision. Raises Unavailable."""
        try:
            with self._env.begin(db=self._revisions) as txn:
                return txn.get(to_key(revision))
        except lmdb.Error as error:
            raise _unreadable(error) from error

    def get_many(self, revisions: Sequence[int]) -> list[bytes]:
        """The records of packed revisions, in their order. Raises KvError if one is missing."""
        try:
            with self._env.begin(db=self._revisions) as txn:
                records = list(map(txn.get, to_keys(revisions)))
        except lmdb.Error as error:
            raise _unreadable(error) from error
        if None in records:
            raise KvError("etcdserver: the index refers to a revision that is not in the database")
        return records  # type: ignore[return-value]

    def scan(self, main: int, limit: int) -> tuple[list[tuple[int, bytes]], bool]:
        """Up to about `limit` bytes of (packed revision, record) pairs from main revision `main` on, in order, and
        whether the end was reached. A main revision is given whole."""
        found: list[tuple[int, bytes]] = []
        size = 0
        try:
            with self._env.begin(db=self._revisions) as txn, txn.cursor() as cursor:
                if not cursor.set_range(first_key(main)):
                    return [], True
                last = b""
                for key, record in cursor:
                    if size >= limit and key[:8] != last:
                        return found, False
                    last = key[:8]
                    size += len(record)
                    found.append((from_key(key), record))
        except lmdb.Error as error:
            raise _unreadable(error) from error
        return found, True

    def all_records(self) -> Iterator[tuple[int, bytes]]:
        """Every (packed revision, record) in order, for the rebuild at start-up."""
        with self._env.begin(db=self._revisions) as txn, txn.cursor() as cursor:
            for key, record in cursor:
                yield from_key(key), record

    def leases(self) -> dict[int, int]:
        """Lease id -> granted TTL in seconds."""
        with self._env.begin(db=self._leases) as txn, txn.cursor() as cursor:
            return {int(name): int(ttl) for name, ttl in cursor}

    def meta(self, name: str, default: int = 0) -> int:
        """A named number."""
        with self._env.begin(db=self._meta) as txn:
            return _number(txn.get(name.encode()), default)

    @property
    def size(self) -> tuple[int, int]:
        """Bytes the database takes, and bytes of them in use, as of the last commit."""
        return self._size

    def _measure(self) -> tuple[int, int]:
        info, page = self._env.info(), self._env.stat()["psize"]
        with self._env.begin() as txn:
            stats = [txn.stat(db) for db in (self._meta, self._revisions, self._leases)]
        pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        return (info["last_pgno"] + 1) * page, pages * page

    def close(self) -> None:
        """Wait for the writer and close the files."""
        if self._writer is not None:
            self._writer.shutdown()
        self._env.close()
        self._lock.close()


class _Lock:
    """An exclusive lock on the directory, held by an open file; the kernel frees it when the process dies."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


def _lock(directory: Path) -> _Lock:
    fd = os.open(directory / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        by = f" by process {holder}" if holder else ""
        raise DataDirInUse(f"data directory {directory} is in use{by}; stop it, or use its server instead") from None
    try:
        pid = f"{os.getpid()}\n".encode()
        os.pwrite(fd, pid, 0)  # before it is cut, so that a full disk has room for it
        os.ftruncate(fd, len(pid))
    except OSError:
        os.close(fd)
        raise
    return _Lock(fd)


def _number(stored: bytes | None, default: int) -> int:
    return default if stored is None else int(stored)


def _says(error: Exception, codes: Sequence[int]) -> bool:
    # LMDB gives the system's error only as text.
    return getattr(error, "errno", None) in codes or any(os.strerror(code) in str(error) for code in codes)


def _unreadable(error: lmdb.Error) -> Unavailable:
    log.error("read_failed", error=str(error))
    return Unavailable(f"etcdserver: the database cannot be read: {error}")
