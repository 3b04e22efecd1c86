"""The file format of bbolt, etcd's database: written from sorted rows in one pass, and read with every page checked.

A file is pages of one size. The first two are meta pages, which say where the root is; a page of `overflow` n goes on
over the n pages behind it. Buckets are B+ trees of leaf and branch pages, and the root bucket has the others as its
rows. Numbers are little-endian. Neither side holds more in memory than a few pages of each level, and a row.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

PAGE_SIZE = 4096
MAGIC, VERSION = 0xED0CDAED, 2
BRANCH, LEAF, META, FREELIST = 0x01, 0x02, 0x04, 0x10
BUCKET = 0x01  # the flag of a row in a leaf
# Where the second meta page may be: pages have the size of the machine's that made the file.
META_PAGES = (0, *(1024 << shift for shift in range(11)))
MIN_ROWS = 2  # of a page beside others: bbolt cannot delete from a branch page that has a single child
MAX_DEPTH = 64  # no real tree comes near; a page that leads to itself does

_PAGE = struct.Struct("<QHHI")  # id, flags, rows, overflow
_META = struct.Struct("<IIIIQQQQQ")  # magic, version, page size, flags, root, sequence, freelist, pages, transaction
_BUCKET = struct.Struct("<QQ")  # root, sequence; the page itself follows if the root is 0
_NUMBER = struct.Struct("<Q")
# A row of a leaf: flags, where its key is from here, bytes of key, bytes of value. A row of a branch: where its key
# is from here, bytes of key, page (as two halves).
_ROW_SIZE = 16


class BoltError(Exception):
    """The file is not a whole bbolt database; the text says why."""


# ---- writing --------------------------------------------------------------------------------------------------------


class Writer:
    """Writes a database bucket by bucket, in the order of their names, into an empty file; `finish()` completes it.

    The first pages are written last, so what is unfinished is no database. Keys may have any size, values 4 GiB.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._pages = 3  # two of meta, and an empty list of free pages
        self._buckets: list[tuple[bytes, bytes]] = []
        file.write(bytes(3 * PAGE_SIZE))

    def bucket(self, name: bytes, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Write a bucket of (key, value) rows. Raises ValueError unless the keys and the names ascend."""
        if self._buckets and name <= self._buckets[-1][0]:
            raise ValueError(f"bucket {name!r} is out of order")
        self._buckets.append((name, _BUCKET.pack(self._tree(rows, 0), 0)))

    def finish(self) -> None:
        """Write the root bucket and the first pages."""
        root = self._tree(self._buckets, BUCKET)
        self._file.seek(0)
        for page in (0, 1):
            # The page's number is its transaction's, too: bbolt takes the later of the two, and they say the same.
            meta = _META.pack(MAGIC, VERSION, PAGE_SIZE, 0, root, 0, 2, self._pages, page)
            content = _PAGE.pack(page, META, 0, 0) + meta + _NUMBER.pack(_fnv(meta))
            self._file.write(content.ljust(PAGE_SIZE, b"\0"))
        self._file.write(_PAGE.pack(2, FREELIST, 0, 0))
        self._file.flush()

    def _tree(self, rows: Iterable[tuple[bytes, bytes]], flags: int) -> int:
        """Write a tree; the id of its root page."""
        levels = [_Level()]
        leaves = levels[0]
        last: bytes | None = None
        for key, value in rows:
            if last is not None and key <= last:
                raise ValueError(f"key {key!r} is out of order")
            last = key
            leaves.add(_ROW_SIZE + len(key) + len(value), key, value)
            # Twice what a page takes, so that there is something to fill it from.
            if leaves.exceeds(2 * PAGE_SIZE):
                self._close_page(levels, 0, flags)
        depth = 0
        while True:
            while levels[depth].exceeds(PAGE_SIZE - _PAGE.size):
                self._close_page(levels, depth, flags)
            left = levels[depth].rows
            page = self._write(left, flags) if depth == 0 else self._write_branch(left)
            depth += 1
            if depth == len(levels):
                return page
            self._add_child(levels, depth, left[0][1], page)

    def _close_page(self, levels: list[_Level], depth: int, flags: int) -> None:
        rows = levels[depth].take_page()
        page = self._write(rows, flags) if depth == 0 else self._write_branch(rows)
        if depth + 1 == len(levels):
            levels.append(_Level())
        self._add_child(levels, depth + 1, rows[0][1], page)

    def _add_child(self, levels: list[_Level], depth: int, key: bytes, page: int) -> None:
        levels[depth].add(_ROW_SIZE + len(key), key, _NUMBER.pack(page))
        if levels[depth].exceeds(2 * PAGE_SIZE):
            self._close_page(levels, depth, 0)

    def _write(self, rows: list[tuple[int, bytes, bytes]], flags: int) -> int:
        numbers: list[int] = []
        content: list[bytes] = []
        at = len(rows) * _ROW_SIZE
        for size, key, value in rows:
            numbers += (flags, at, len(key), len(value))
            content += (key, value)
            at += size - 2 * _ROW_SIZE
        return self._write_page(LEAF, len(rows), numbers, content)

    def _write_branch(self, rows: list[tuple[int, bytes, bytes]]) -> int:
        numbers: list[int] = []
        at = len(rows) * _ROW_SIZE
        for _, key, page in rows:
            numbers += (at, len(key), *struct.unpack("<II", page))
            at += len(key) - _ROW_SIZE
        return self._write_page(BRANCH, len(rows), numbers, [key for _, key, _ in rows])

    def _write_page(self, flags: int, count: int, numbers: list[int], content: list[bytes]) -> int:
        page = self._pages
        body = struct.pack(f"<{len(numbers)}I", *numbers) + b"".join(content)
        taken = -(-(_PAGE.size + len(body)) // PAGE_SIZE)
        self._file.write(_PAGE.pack(page, flags, count, taken - 1))
        self._file.write(body.ljust(taken * PAGE_SIZE - _PAGE.size, b"\0"))
        self._pages += taken
        return page


class _Level:
    """The rows of one level of a tree that are in no page yet: (bytes in the page, key, value or page id)."""

    __slots__ = ("rows", "size")

    def __init__(self) -> None:
        self.rows: list[tuple[int, bytes, bytes]] = []
        self.size = 0

    def add(self, size: int, key: bytes, value: bytes) -> None:
        self.rows.append((size, key, value))
        self.size += size

    def exceeds(self, size: int) -> bool:
        """Whether there is more than that, and enough rows for two pages."""
        return self.size > size and len(self.rows) >= 2 * MIN_ROWS

    def take_page(self) -> list[tuple[int, bytes, bytes]]:
        """The rows of the next page: as many as it has room for, but neither it nor what is left is too short."""
        room = PAGE_SIZE - _PAGE.size
        count = 0
        while count < MIN_ROWS or (count < len(self.rows) - MIN_ROWS and self.rows[count][0] <= room):
            room -= self.rows[count][0]
            count += 1
        taken = self.rows[:count]
        del self.rows[:count]
        self.size -= PAGE_SIZE - _PAGE.size - room
        return taken


# ---- reading --------------------------------------------------------------------------------------------------------


class _Bucket(NamedTuple):
    root: int
    inline: bytes  # its one page, if the root is 0


class Reader:
    """Reads a database in the first `size` bytes of a file. Everything raises BoltError for what cannot be right."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._fd = file.fileno()
        self._size = size
        found = [meta for at in META_PAGES if (meta := self._meta(at)) is not None]
        if not found:
            raise BoltError("not a bbolt database")
        _, self._page_size, self._pages, root = max(found)
        if self._pages * self._page_size > size:
            raise BoltError(f"a bbolt database of {self._pages * self._page_size} bytes, of which {size} are there")
        self._buckets: dict[bytes, _Bucket] = {}
        for flags, name, value in self._rows(_Bucket(root, b"")):
            if not flags & BUCKET or len(value) < _BUCKET.size:
                raise BoltError("a bbolt database with damaged buckets")
            self._buckets[name] = _Bucket(_BUCKET.unpack_from(value)[0], value[_BUCKET.size :])

    @property
    def size(self) -> int:
        """Bytes of the database itself."""
        return self._pages * self._page_size

    def names(self) -> list[bytes]:
        """The buckets, in order."""
        return list(self._buckets)

    def bucket(self, name: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The (key, value) rows of a bucket in order; none if there is no such bucket."""
        bucket = self._buckets.get(name)
        if bucket is not None:
            for flags, key, value in self._rows(bucket):
                if flags:
                    raise BoltError(f"bucket {name.decode(errors='replace')} has a bucket in it")
                yield key, value

    def _meta(self, at: int) -> tuple[int, int, int, int] | None:
        """(transaction, page size, pages, root) of the meta page at a position, if there is one."""
        data = self._read(at, _PAGE.size + _META.size + _NUMBER.size)
        if len(data) < _PAGE.size + _META.size + _NUMBER.size:
            return None
        meta = data[_PAGE.size : -_NUMBER.size]
        magic, version, page_size, _, root, _, _, pages, transaction = _META.unpack(meta)
        if (magic, version, _NUMBER.unpack(data[-_NUMBER.size :])[0]) != (MAGIC, VERSION, _fnv(meta)):
            return None
        if at not in (0, page_size) or page_size not in META_PAGES or not page_size:
            return None
        return transaction, page_size, pages, root

    def _rows(self, bucket: _Bucket) -> Iterator[tuple[int, bytes, bytes]]:
        last: bytes | None = None
        for page in self._leaves(bucket):
            for row in _rows_of(page):
                if last is not None and row[1] <= last:
                    raise BoltError("a bbolt database whose keys are out of order")
                last = row[1]
                yield row

    def _leaves(self, bucket: _Bucket) -> Iterator[bytes]:
        if not bucket.root:
            yield bucket.inline
            return
        seen = 0
        path = [iter([bucket.root])]
        while path:
            page = next(path[-1], None)
            if page is None:
                path.pop()
                continue
            seen += 1
            if seen > self._pages or len(path) > MAX_DEPTH:
                raise BoltError("a bbolt database whose pages lead back to themselves")
            data, flags = self._page(page)
            if flags & LEAF:
                yield data
            else:
                path.append(iter(_children_of(data)))

    def _page(self, page: int) -> tuple[bytes, int]:
        """A page with all that it goes on over, and its flags."""
        if 1 < page < self._pages:
            data = self._read(page * self._page_size, self._page_size)
            if len(data) == self._page_size:
                number, flags, _, overflow = _PAGE.unpack_from(data)
                if number == page and flags in (LEAF, BRANCH) and page + overflow < self._pages:
                    if overflow:
                        data = self._read(page * self._page_size, (overflow + 1) * self._page_size)
                    return data, flags
        raise BoltError(f"page {page} of the bbolt database is damaged")

    def _read(self, at: int, size: int) -> bytes:
        return os.pread(self._fd, max(0, min(size, self._size - at)), at)


def _numbers_of(page: bytes) -> tuple[int, ...]:
    if len(page) < _PAGE.size:
        raise BoltError("a page of the bbolt database is too short")
    count = _PAGE.unpack_from(page)[2]
    if _PAGE.size + count * _ROW_SIZE > len(page):
        raise BoltError("a page of the bbolt database has more rows than it can hold")
    return struct.unpack_from(f"<{count * 4}I", page, _PAGE.size)


def _rows_of(page: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(flags, key, value) of a leaf."""
    numbers = _numbers_of(page)
    row = _PAGE.size
    end = len(page)
    for flags, at, key_size, value_size in zip(*[iter(numbers)] * 4, strict=True):
        start = row + at
        middle = start + key_size
        if middle + value_size > end:
            raise BoltError("a row of the bbolt database lies outside of its page")
        yield flags, page[start:middle], page[middle : middle + value_size]
        row += _ROW_SIZE


def _children_of(page: bytes) -> list[int]:
    numbers = _numbers_of(page)
    return [low | high << 32 for low, high in zip(numbers[2::4], numbers[3::4], strict=True)]


def _fnv(data: bytes) -> int:
    """FNV-1a of 64 bits."""
    digest = 0xCBF29CE484222325
    for byte in data:
        digest = (digest ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return digest
