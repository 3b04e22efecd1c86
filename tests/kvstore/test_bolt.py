"""The bbolt file format: what is written is read again, in the shape that bbolt needs; what is damaged is refused."""

from __future__ import annotations

import os
import struct
import tempfile
import tracemalloc
from collections.abc import Iterator, Mapping
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.bolt import PAGE_SIZE, BoltError, Reader, Writer

Rows = list[tuple[bytes, bytes]]


def written(file: IO[bytes], buckets: Mapping[bytes, Rows]) -> Reader:
    writer = Writer(file)
    for name, rows in buckets.items():
        writer.bucket(name, rows)
    writer.finish()
    return Reader(file, os.fstat(file.fileno()).st_size)


def keys(*sizes: int) -> Rows:
    """A row for each size of a value."""
    return [(b"%08d" % number, bytes([number % 256]) * size) for number, size in enumerate(sizes)]


def check_tree(file: IO[bytes]) -> None:
    """Every page is in exactly one place, with two children or more in each branch page, and keys in order."""
    data = os.pread(file.fileno(), 1 << 30, 0)
    root, pages = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<Q", data, 56)[0]
    assert len(data) == pages * PAGE_SIZE
    free = set(range(3, pages))

    def walk(page: int, low: bytes, is_root: bool) -> None:
        at = page * PAGE_SIZE
        number, flags, count, overflow = struct.unpack_from("<QHHI", data, at)
        assert number == page
        for each in range(page, page + overflow + 1):
            free.remove(each)
        for row in range(count):
            here = at + 16 + 16 * row
            if flags == 1:
                assert count > 1
                position, size, child = struct.unpack_from("<IIQ", data, here)
                key = data[here + position : here + position + size]
                walk(child, key, False)
            else:
                kind, position, size, _ = struct.unpack_from("<IIII", data, here)
                key = data[here + position : here + position + size]
                if kind:
                    walk(struct.unpack_from("<Q", data, here + position + size)[0], b"", True)
            assert key >= low if row == 0 else key > low
            low = key
        assert count or is_root

    walk(root, b"", True)
    assert not free


@pytest.mark.parametrize(
    "rows",
    [
        [],
        keys(0),
        keys(1_500_000),
        keys(*[200] * 30_000),
        keys(*[0] * 5000),
        keys(*[3000] * 9),
        keys(*[9000, 1] * 40),
        keys(1, 1, 1, 900_000, 1, 900_000, 900_000, 1, 1),
        [(b"%030000d" % number, b"v") for number in range(40)],
        [(b"", b"the empty key"), (b"a" * 5000, b"")],
    ],
    ids=["none", "one", "huge", "many", "tiny", "big", "mixed", "few", "long keys", "odd"],
)
def test_rows_are_read_as_they_were_written(rows: Rows) -> None:
    with tempfile.TemporaryFile() as file:
        reader = written(file, {b"a": rows, b"b": [(b"k", b"v")], b"c": []})
        assert reader.names() == [b"a", b"b", b"c"]
        assert list(reader.bucket(b"a")) == rows
        assert list(reader.bucket(b"b")) == [(b"k", b"v")]
        assert list(reader.bucket(b"c")) == list(reader.bucket(b"nothing")) == []
        check_tree(file)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3000), st.sampled_from([0, 1, 50, 700, 2000, 4090, 4096, 20_000])), max_size=60),
    st.integers(1, 300),
)
def test_any_sizes(sizes: list[tuple[int, int]], repeat: int) -> None:
    pairs = [(key, value) for key, value in sizes for _ in range(repeat if value < 100 else 1)]
    rows = [(b"%08d" % number + b"k" * key, bytes(value)) for number, (key, value) in enumerate(pairs[:2000])]
    with tempfile.TemporaryFile() as file:
        assert list(written(file, {b"x": rows}).bucket(b"x")) == rows
        check_tree(file)


def test_many_buckets() -> None:
    buckets = {b"%05d" % number: [(b"key", b"%d" % number)] for number in range(500)}
    with tempfile.TemporaryFile() as file:
        reader = written(file, buckets)
        assert {name: list(reader.bucket(name)) for name in reader.names()} == buckets
        check_tree(file)


def test_what_is_out_of_order_is_refused() -> None:
    for rows in ([(b"b", b""), (b"a", b"")], [(b"a", b""), (b"a", b"")]):
        with tempfile.TemporaryFile() as file, pytest.raises(ValueError, match="out of order"):
            Writer(file).bucket(b"x", rows)
    with tempfile.TemporaryFile() as file:
        writer = Writer(file)
        writer.bucket(b"x", [])
        with pytest.raises(ValueError, match="out of order"):
            writer.bucket(b"x", [])


def test_memory_does_not_grow_with_the_rows() -> None:
    def rows() -> Iterator[tuple[bytes, bytes]]:
        for number in range(100_000):
            yield b"%020d" % number, bytes(200)

    with tempfile.TemporaryFile() as file:
        tracemalloc.start()
        try:
            writer = Writer(file)
            writer.bucket(b"x", rows())
            writer.finish()
            size = file.seek(0, os.SEEK_END)
            assert sum(1 for _ in Reader(file, size).bucket(b"x")) == 100_000
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert size > 20_000_000
    assert most < 500_000


def test_an_unfinished_file_is_no_database() -> None:
    with tempfile.TemporaryFile() as file:
        Writer(file).bucket(b"x", keys(*[10] * 1000))
        file.flush()
        with pytest.raises(BoltError, match="not a bbolt database"):
            Reader(file, 1 << 20)


def patched(file: IO[bytes], at: int, data: bytes) -> Reader:
    """The database of `file` with some bytes replaced."""
    os.pwrite(file.fileno(), data, at)
    return Reader(file, os.fstat(file.fileno()).st_size)


def test_one_meta_page_is_enough() -> None:
    for page in (0, 1):
        with tempfile.TemporaryFile() as file:
            written(file, {b"x": keys(1, 2)})
            reader = patched(file, page * PAGE_SIZE + 40, b"\xff")
            assert list(reader.bucket(b"x")) == keys(1, 2)


def test_what_is_damaged_is_refused() -> None:
    rows = keys(*[1000] * 30)

    def broken(at: int, data: bytes) -> None:
        with tempfile.TemporaryFile() as file:
            written(file, {b"x": rows})
            reader = patched(file, at, data)
            with pytest.raises(BoltError):
                list(reader.bucket(b"x"))

    page = 3 * PAGE_SIZE
    broken(page, b"\x07")  # another page's number
    broken(page + 8, b"\x10")  # another kind of page
    broken(page + 10, b"\xff\xff")  # more rows than there is room for
    broken(page + 12, b"\xff\xff")  # going on behind the end
    broken(page + 16 + 4, b"\xff\xff\xff\xff")  # a key outside
    broken(page + 16 + 12, b"\xff\xff\xff\x7f")  # a value outside
    broken(page + 16, b"\x01")  # a bucket in a bucket
    broken(page + 16 + 16 * 3, b"z")  # a first key that is larger than the second
    with tempfile.TemporaryFile() as file:
        written(file, {b"x": rows})
        with pytest.raises(BoltError, match="of which 8192 are there"):
            Reader(file, 2 * PAGE_SIZE)


def test_pages_that_lead_back_to_themselves() -> None:
    with tempfile.TemporaryFile() as file:
        reader = written(file, {b"x": keys(*[1000] * 30)})
        data = os.pread(file.fileno(), 1 << 20, 0)
        branch = next(at for at in range(0, len(data), PAGE_SIZE) if data[at + 8] == 1)
        os.pwrite(file.fileno(), struct.pack("<Q", branch // PAGE_SIZE), branch + 16 + 8)
        with pytest.raises(BoltError, match="lead back"):
            list(reader.bucket(b"x"))


def fnv(data: bytes) -> int:
    digest = 0xCBF29CE484222325
    for byte in data:
        digest = (digest ^ byte) * 0x100000001B3 % (1 << 64)
    return digest


@pytest.mark.parametrize("page_size", [1024, 16384, 65536])
def test_the_pages_of_other_machines(page_size: int) -> None:
    """By hand: three pages of another size, without a list of free pages, and a small bucket inside its own row."""
    inline = struct.pack("<QHHI", 0, 2, 1, 0) + struct.pack("<IIII", 0, 16, 3, 5) + b"keyvalue"
    value = struct.pack("<QQ", 0, 0) + inline
    leaf = struct.pack("<QHHI", 2, 2, 1, 0) + struct.pack("<IIII", 1, 16, 1, len(value)) + b"x" + value
    metas = []
    for page in (0, 1):
        meta = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, page_size, 0, 2, 0, (1 << 64) - 1, 3, 7 + page)
        metas.append(struct.pack("<QHHI", page, 4, 0, 0) + meta + struct.pack("<Q", fnv(meta)))
    for damaged in (None, 0, 1):
        pages = [b"" if page == damaged else meta for page, meta in enumerate(metas)] + [leaf]
        with tempfile.TemporaryFile() as file:
            file.write(b"".join(page.ljust(page_size, b"\0") for page in pages))
            file.flush()
            reader = Reader(file, 3 * page_size)
            assert reader.size == 3 * page_size
            assert list(reader.bucket(b"x")) == [(b"key", b"value")]
