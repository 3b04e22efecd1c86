"""Revisions: (main, sub), packed into one integer in memory and into etcd's 17-byte key on disk.

A write transaction takes the next main revision; its changes count sub from 0. An empty store is at main 1.
In memory a revision is `main << 33 | sub << 1 | tombstone`, so that integers order as revisions do.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

SUB_BITS = 32
_MAIN_SHIFT = SUB_BITS + 1
_SUB_MASK = (1 << SUB_BITS) - 1

_KEY = struct.Struct(">QcQ")
KEY_SIZE = _KEY.size
TOMBSTONE = 1


def pack(main: int, sub: int, tombstone: bool = False) -> int:
    """The integer that stands for a revision; `tombstone` marks a deletion."""
    return main << _MAIN_SHIFT | sub << 1 | tombstone


def main_of(packed: int) -> int:
    """The main revision."""
    return packed >> _MAIN_SHIFT


def sub_of(packed: int) -> int:
    """Which change of its main revision it is, from 0."""
    return packed >> 1 & _SUB_MASK


def is_tombstone(packed: int) -> bool:
    """Whether the revision is a deletion."""
    return bool(packed & TOMBSTONE)


def ceiling(main: int) -> int:
    """The smallest packed revision above every revision of `main`."""
    return (main + 1) << _MAIN_SHIFT


def tombstones(main: int, sub: int, count: int) -> range:
    """The packed revisions of `count` deletions in a row, the first of which is change `sub` of `main`."""
    return range(pack(main, sub, tombstone=True), pack(main, sub + count, tombstone=True), 2)


def to_key(packed: int) -> bytes:
    """The database key: 8 bytes main, `_`, 8 bytes sub, big-endian, and `t` for a tombstone (etcd's layout)."""
    key = _KEY.pack(packed >> _MAIN_SHIFT, b"_", packed >> 1 & _SUB_MASK)
    return key + b"t" if packed & TOMBSTONE else key


def to_keys(packed: Sequence[int]) -> list[bytes]:
    """`to_key` of each; written out, since a large read asks for thousands."""
    pack_key = _KEY.pack
    return [
        pack_key(each >> _MAIN_SHIFT, b"_", each >> 1 & _SUB_MASK)
        if not each & TOMBSTONE
        else pack_key(each >> _MAIN_SHIFT, b"_", each >> 1 & _SUB_MASK) + b"t"
        for each in packed
    ]


def first_key(main: int) -> bytes:
    """The smallest database key of a main revision."""
    return _KEY.pack(main, b"_", 0)


def from_key(key: bytes) -> int:
    """The packed revision of a database key."""
    main, _, sub = _KEY.unpack_from(key)
    return pack(main, sub, len(key) > KEY_SIZE)
