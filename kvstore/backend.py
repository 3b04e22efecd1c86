"""LMDB underneath: the data directory, its lock and format, and the one writer thread.

Databases: `revisions` (revision key -> record), `leases` (id -> granted TTL), `meta` (small named numbers), and the
tables of `TABLES`. The writer runs whole jobs in order on one thread; short reads run on the caller's thread and never
outlive a call; what reads everything (a snapshot, a hash, the copy of a defragmentation) has threads of its own.

A defragmentation copies the database while it is in use, lets the copy catch up, and puts it in the place of the old
file in one job of the writer. Readers that had begun keep the old file, which has no name any more, until they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import os
import random
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

import google_crc32c
import lmdb
import structlog

from kvstore.errors import DataDirError, DataDirInUse, DataDirTooNew, KvError, NoSpace, Stopped, Unavailable
from kvstore.mapped import MappedFile
from kvstore.revision import first_key, from_key, to_key, to_keys

FORMAT_VERSION = 1
TABLES = ("alarms", "members", "auth")
"""Small tables, named in the order in which they came: a row is bytes -> bytes, and its owner says what they mean."""
MIB = 1 << 20
# Copy-on-write needs room for the pages of a running transaction and for free pages that a reader still pins.
MAP_SLACK = 256 * MIB
NO_COMPACTION = -1  # what etcd reports before the first compaction
DEFRAGMENT_PREFIX = "defragment-"  # of the directories that hold the copies; what a crash left is removed at the start
FOLLOW_BYTES = 4 * MIB  # how much of what was written meanwhile a copy takes over in one transaction
# A copy that has this little to catch up with takes the old file's place; that is what writers then wait for.
CLOSE_ENOUGH = MIB
# A thread that computes keeps the event loop from Python's lock for 5 ms at a time; this one rests as often as this.
COPY_BYTES, COPY_REST = 64 << 10, 0.0002
ROW_COST = 100  # bytes that could be copied in the time that a row takes beside its own
MANY = 32  # records of one read that are worth a look at how much of the file is mapped
MAX_FOLLOWS = 50  # writers faster than the copy: it takes the place anyway, and they wait longer
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

T = TypeVar("T")
Table: TypeAlias = Callable[[str], Iterator[tuple[bytes, bytes]]]
log = structlog.get_logger("kvstore")


class Commit:
    """What one LMDB transaction writes: records, leases, meta numbers, rows. None deletes.

    `records` are those of `revisions`, packed and ascending.
    """

    __slots__ = ("leases", "meta", "records", "revisions", "rows")

    def __init__(self) -> None:
        self.revisions: list[int] = []
        self.records: list[bytes] = []
        self.leases: dict[int, int | None] = {}
        self.meta: dict[str, int] = {}
        self.rows: dict[tuple[str, bytes], bytes | None] = {}  # by table and key


class _Database:
    """An open LMDB environment with its databases. A defragmentation replaces it whole.

    `readers` counts the long readers on threads, `retired` tells that another one has taken its place; both belong to
    the event loop.
    """

    def __init__(self, path: Path, map_size: int, fsync: bool) -> None:
        self.env = lmdb.open(
            str(path),
            map_size=map_size,
            max_dbs=3 + len(TABLES),
            sync=fsync,
            metasync=fsync,
            max_readers=126,
            subdir=True,
        )
        self.readers = 0
        self.retired = False
        self._file: int | None = None
        self.meta: Any = None
        self.revisions: Any = None
        self.leases: Any = None
        self.tables: dict[str, Any] = {}

    def open_databases(self, txn: Any) -> None:
        """Open each, making it if need be."""
        self.meta = self.env.open_db(b"meta", txn=txn)
        self.revisions = self.env.open_db(b"revisions", txn=txn)
        self.leases = self.env.open_db(b"leases", txn=txn)
        self.tables = {name: self.env.open_db(name.encode(), txn=txn) for name in TABLES}

    def hold(self, file: Path) -> None:
        """Keep the file of a database that loses its name, until `close` is through with the rest.

        LMDB closes with Python's lock held; freeing a large file takes long and must be done without it.
        """
        if self._file is None:
            self._file = os.open(file, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the environment and free what nobody can open any more."""
        self.env.close()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def named(self, name: str) -> Any:
        """The database of that name."""
        return {"meta": self.meta, "revisions": self.revisions, "leases": self.leases, **self.tables}[name]

    @property
    def small(self) -> list[Any]:
        """All but the revisions."""
        return [self.meta, self.leases, *self.tables.values()]

    def follow(self, source: _Database, removed: Sequence[int], limit: int) -> tuple[int, bool]:
        """Drop the `removed` records and take over those that `source` has beyond the last one here.

        Gives about how many bytes were taken over, up to about `limit`, and whether these were all.
        """
        with source.env.begin() as old, self.env.begin(write=True) as new:
            return self._follow(old, source, new, removed, limit)

    def finish(self, source: _Database, removed: Sequence[int]) -> None:
        """Take over everything that `source` still has beyond this copy. The writer runs it, so nothing changes."""
        with source.env.begin() as old, self.env.begin(write=True) as new:
            self._follow(old, source, new, removed, 1 << 62)
            for theirs, ours in zip(source.small, self.small, strict=True):
                _make_equal(old, theirs, new, ours)

    def _follow(self, old: Any, source: _Database, new: Any, removed: Sequence[int], limit: int) -> tuple[int, bool]:
        for revision in removed:
            new.delete(to_key(revision), db=self.revisions)
        found: list[tuple[bytes, bytes]] = []
        size = 0
        ended = True
        with old.cursor(db=source.revisions) as reading, new.cursor(db=self.revisions) as writing:
            if reading.set_range(writing.key() + b"\0" if writing.last() else b"\0"):
                for item in reading:
                    if size >= limit:
                        ended = False
                        break
                    found.append(item)
                    size += len(item[1])
            writing.putmulti(found, append=True)
        return size, ended


class Backend:
    """An open data directory. `close()` it; a second opener, in this process or another, gets `DataDirInUse`."""

    def __init__(self, directory: Path, *, quota_bytes: int, fsync: bool, inline: bool, rng: random.Random) -> None:
        self._inline = inline
        self._directory = directory
        self._fsync = fsync
        self._map_size = 2 * quota_bytes + MAP_SLACK
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(directory)
        except OSError as error:
            raise DataDirError(f"data directory {directory}: {error.strerror or error}") from error
        try:
            for abandoned in directory.glob(f"{DEFRAGMENT_PREFIX}*"):
                shutil.rmtree(abandoned)
            self._mapped = MappedFile(directory)
            self._db = _Database(directory, self._map_size, fsync)
            try:
                self._open_databases(directory, rng)
            except BaseException:
                self._db.env.close()
                raise
        except (lmdb.Error, OSError) as error:
            self._lock.close()
            if isinstance(error, OSError):
                raise DataDirError(f"data directory {directory}: {error.strerror or error}") from error
            raise DataDirError(f"data directory {directory}: not a usable database: {error}") from error
        except BaseException:
            self._lock.close()
            raise
        self._writer = None if inline else ThreadPoolExecutor(1, thread_name_prefix="lmdb-writer")
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="lmdb-reader")
        self._closing = False
        self._retired: list[_Database] = []
        self._copies = itertools.count()
        self._removed: deque[int] | None = None  # what compactions removed since the copy under way began
        self._size = self._measure()

    def _open_databases(self, directory: Path, rng: random.Random) -> None:
        env = self._db.env
        fresh = env.stat()["entries"] == 0
        if not fresh:
            try:
                with env.begin() as txn:
                    meta = env.open_db(b"meta", txn=txn, create=False)
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
        with env.begin(write=True) as txn:
            self._db.open_databases(txn)
            if fresh:
                numbers = {
                    "format_version": FORMAT_VERSION,
                    "cluster_id": rng.getrandbits(64) | 1,
                    "member_id": rng.getrandbits(64) | 1,
                }
                for name, number in numbers.items():
                    txn.put(name.encode(), str(number).encode(), db=self._db.meta)

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
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> KvError:
        full = isinstance(error, lmdb.MapFullError) or _says(error, NO_SPACE)
        if full or (_says(error, (errno.EIO,)) and self.disk_is_full()):
            return NoSpace()
        log.error("write_failed", error=str(error))
        return Unavailable(f"etcdserver: the database cannot be written: {error}")

    def disk_is_full(self) -> bool:
        """Whether the disk has hardly a megabyte left."""
        # LMDB says "Input/output error" of a write that the disk had room for only in part.
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize < MIB

    def commit(self, batch: Commit) -> None:
        """The job that writes one batch, durably; all of it or nothing."""
        db = self._db
        with db.env.begin(write=True) as txn:
            if batch.revisions:
                rows = zip(to_keys(batch.revisions), batch.records, strict=True)
                with txn.cursor(db=db.revisions) as cursor:
                    consumed, added = cursor.putmulti(rows, append=True)
                if not consumed == added == len(batch.records):
                    raise lmdb.Error("revisions out of order")
            for lease_id, ttl in batch.leases.items():
                name = str(lease_id).encode()
                if ttl is None:
                    txn.delete(name, db=db.leases)
                else:
                    txn.put(name, str(ttl).encode(), db=db.leases)
            for name_, number in batch.meta.items():
                txn.put(name_.encode(), str(number).encode(), db=db.meta)
            for (table, key), row in batch.rows.items():
                if row is None:
                    txn.delete(key, db=db.tables[table])
                else:
                    txn.put(key, row, db=db.tables[table])
        self._size = self._measure()
        self._mapped.keep_small()

    def delete(self, revisions: Sequence[int]) -> None:
        """The job that removes the records of packed revisions, for a compaction."""
        db = self._db
        with db.env.begin(write=True) as txn:
            for revision in revisions:
                txn.delete(to_key(revision), db=db.revisions)
        removed = self._removed
        if removed is not None:
            removed.extend(revisions)
        self._size = self._measure()
        self._mapped.keep_small()

    # ---- reads ----------------------------------------------------------------------------------------------------

    def find(self, revisions: Sequence[int]) -> list[bytes | None]:
        """The records of packed revisions, in their order; None for one that is not there. Raises Unavailable."""
        if not revisions:
            return []
        if len(revisions) >= MANY:
            self._mapped.keep_small()
        db = self._db
        try:
            with db.env.begin(db=db.revisions) as txn:
                return list(map(txn.get, to_keys(revisions)))
        except lmdb.Error as error:
            raise _unreadable(error) from error

    def get_many(self, revisions: Sequence[int]) -> list[bytes]:
        """The records of packed revisions, in their order. Raises KvError if one is missing."""
        records = self.find(revisions)
        if None in records:
            raise KvError("etcdserver: the index refers to a revision that is not in the database")
        return records  # type: ignore[return-value]

    def scan(self, main: int, limit: int) -> tuple[list[tuple[int, bytes]], bool]:
        """Up to about `limit` bytes of (packed revision, record) pairs from main revision `main` on, in order, and
        whether the end was reached. A main revision is given whole."""
        self._mapped.keep_small()
        db = self._db
        found: list[tuple[int, bytes]] = []
        size = 0
        try:
            with db.env.begin(db=db.revisions) as txn, txn.cursor() as cursor:
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
        db = self._db
        with db.env.begin(db=db.revisions) as txn, txn.cursor() as cursor:
            for key, record in cursor:
                yield from_key(key), record

    def leases(self) -> dict[int, int]:
        """Lease id -> granted TTL in seconds."""
        db = self._db
        with db.env.begin(db=db.leases) as txn, txn.cursor() as cursor:
            return {int(name): int(ttl) for name, ttl in cursor}

    def rows(self, table: str) -> dict[bytes, bytes]:
        """All rows of a small table."""
        db = self._db
        with db.env.begin(db=db.tables[table]) as txn, txn.cursor() as cursor:
            return dict(cursor)

    def meta(self, name: str, default: int = 0) -> int:
        """A named number."""
        db = self._db
        with db.env.begin(db=db.meta) as txn:
            return _number(txn.get(name.encode()), default)

    @property
    def size(self) -> tuple[int, int]:
        """Bytes the database takes, and bytes of them in use, as of the last commit."""
        return self._size

    def _measure(self) -> tuple[int, int]:
        db = self._db
        info, page = db.env.info(), db.env.stat()["psize"]
        with db.env.begin() as txn:
            stats = [txn.stat(each) for each in (db.revisions, *db.small)]
        pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        return (info["last_pgno"] + 1) * page, pages * page

    # ---- reading everything, beside readers and the writer --------------------------------------------------------

    async def copy(self, write: Callable[[IO[bytes], Table], None]) -> IO[bytes]:
        """What `write` makes of the database as it is now, in a file without a name. Close it.

        `write` runs on a thread and is given the empty file, and the rows of each database by its name, all of one
        commit. Raises NoSpace, Unavailable or Stopped. Cancelling stops it at its next rows.
        """
        file = tempfile.TemporaryFile(dir=self._directory, buffering=COPY_BYTES)  # noqa: SIM115 - the caller's

        def job(db: _Database, given_up: threading.Event) -> None:
            with db.env.begin() as txn:
                write(file, lambda name: self._table(txn, db.named(name), given_up))

        try:
            await self._beside(job)
        except BaseException:
            with contextlib.suppress(OSError):  # what the disk had no room for, and what closing would write
                file.close()
            raise
        return file

    def _table(self, txn: Any, database: Any, given_up: threading.Event) -> Iterator[tuple[bytes, bytes]]:
        size = 0
        with txn.cursor(db=database) as cursor:
            for row in cursor:
                yield row
                size += ROW_COST + len(row[1])
                if size >= COPY_BYTES:
                    size = 0
                    self._mapped.keep_small()
                    if given_up.wait(COPY_REST) or self._closing:
                        raise Stopped()

    async def hash(self) -> int:
        """CRC-32C of all that is in the database. Raises Unavailable."""
        return await self._beside(_hash)

    async def defragment(self) -> None:
        """Rewrite the database without the room that is free in it; reads and writes go on.

        One at a time, and never cancelled: a step that has begun cannot be given up. Raises NoSpace or Unavailable;
        then the old file is still in use. Raises Stopped when the backend was told to close.
        """
        path = self._directory / f"{DEFRAGMENT_PREFIX}{next(self._copies)}"
        copy: _Database | None = None
        removed: deque[int] = deque()
        self._removed = removed
        try:
            copy = await self._beside(lambda db, _: self._copy_to(path, db))
            for _ in range(MAX_FOLLOWS):
                size, ended = await self._beside(self._catch_up(copy, removed))
                if ended and size < CLOSE_ENOUGH:
                    break
            if self._closing:
                raise Stopped()
            old = self._db
            await self.write(lambda: self._take_place(copy, path, removed))
            self._retire(old)
        finally:
            self._removed = None
            if copy is not None and copy is not self._db:
                copy.env.close()
            if path.is_dir():
                shutil.rmtree(path)

    def _copy_to(self, path: Path, db: _Database) -> _Database:
        path.mkdir(mode=0o700)
        db.env.copy(str(path), compact=True)
        copy = _Database(path, self._map_size, self._fsync)
        try:
            with copy.env.begin(write=True) as txn:
                copy.open_databases(txn)
        except BaseException:
            copy.env.close()
            raise
        return copy

    def _catch_up(
        self, copy: _Database, removed: deque[int]
    ) -> Callable[[_Database, threading.Event], tuple[int, bool]]:
        # Taken before the step begins to read, so none of these can be copied again.
        gone = [removed.popleft() for _ in range(len(removed))]
        return lambda db, _: copy.follow(db, gone, FOLLOW_BYTES)

    def _take_place(self, copy: _Database, path: Path, removed: Sequence[int]) -> None:
        """The writer's job: from here on the copy is the database."""
        copy.finish(self._db, removed)
        copy.env.sync(True)
        self._db.hold(self._directory / "data.mdb")
        for name in ("lock.mdb", "data.mdb"):
            (path / name).replace(self._directory / name)
        self._db = copy
        self._size = self._measure()
        sync_directory(self._directory)

    def _retire(self, db: _Database) -> None:
        """Close it once its last reader has left, on a thread."""
        db.retired = True
        if db.readers:
            self._retired.append(db)
        else:
            self._threads.submit(db.close)

    async def _beside(self, job: Callable[[_Database, threading.Event], T]) -> T:
        """Run a long job on a thread. The event it is given is set when nobody wants its result any more.

        Cancelling sets the event and waits: a job uses files that its caller closes.
        """
        if self._closing:
            raise Stopped()
        db = self._db
        given_up = threading.Event()
        if self._inline:
            return job(db, given_up)
        db.readers += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, job, db, given_up)
        cancelled: asyncio.CancelledError | None = None
        try:
            while not running.done():
                try:
                    await asyncio.wait([running])
                except asyncio.CancelledError as error:
                    cancelled = error
                    given_up.set()
            if cancelled is not None:
                running.exception()
                raise cancelled
            return running.result()
        except (lmdb.Error, OSError) as error:
            raise self._failed(error) from error
        finally:
            db.readers -= 1
            if db.retired and not db.readers and not self._closing:
                self._retired.remove(db)
                self._retire(db)

    def stop(self) -> None:
        """Start nothing long any more."""
        self._closing = True

    def close(self) -> None:
        """Wait for what runs on threads and close the files."""
        self.stop()
        if self._writer is not None:
            self._writer.shutdown()
        self._threads.shutdown()
        for db in (*self._retired, self._db):
            db.close()
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


def _make_equal(old: Any, theirs: Any, new: Any, ours: Any) -> None:
    """Make the small database `ours` of one transaction hold what `theirs` of another one does."""
    with old.cursor(db=theirs) as cursor:
        wanted = dict(cursor)
    with new.cursor(db=ours) as cursor:
        held = dict(cursor)
    for key in held.keys() - wanted.keys():
        new.delete(key, db=ours)
    for key, value in wanted.items():
        if held.get(key) != value:
            new.put(key, value, db=ours)


def _hash(db: _Database, given_up: threading.Event) -> int:
    crc: int = 0
    with db.env.begin() as txn:
        for each in (db.revisions, *db.small):
            with txn.cursor(db=each) as cursor:
                for key, value in cursor:
                    crc = int(google_crc32c.extend(crc, key + value))
                    if given_up.is_set():
                        return crc
    return crc


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unreadable(error: lmdb.Error) -> Unavailable:
    log.error("read_failed", error=str(error))
    return Unavailable(f"etcdserver: the database cannot be read: {error}")
