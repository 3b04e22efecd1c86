"""Protobuf's wire form by hand: joining what is already encoded costs less than building messages and serializing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from kvstore.errors import Code, KvError
from kvstore.node import Node
from kvstore.record import varint

T = TypeVar("T")

KEPT_LENGTHS = 4096
"""Prefixes are remembered for records shorter than this: a list of objects has few distinct lengths."""


class Prefixes(dict[int, bytes]):
    """For one field: length -> its tag and that length, ready to stand before a record."""

    def __init__(self, tag: bytes) -> None:
        super().__init__()
        self._tag = tag

    def __missing__(self, length: int) -> bytes:
        prefix = self._tag + varint(length)
        if length < KEPT_LENGTHS:
            self[length] = prefix
        return prefix

    def join(self, records: Sequence[bytes]) -> bytes:
        """The records as a repeated field. O(n) in the number of records and their bytes."""
        parts = [b""] * (2 * len(records))
        parts[0::2] = map(self.__getitem__, map(len, records))
        parts[1::2] = records
        return b"".join(parts)


def nested(tag: bytes, payload: bytes) -> bytes:
    """A message, string or bytes field."""
    return tag + varint(len(payload)) + payload


def integer(tag: bytes, number: int) -> bytes:
    """An integer field; nothing when it is zero."""
    return tag + varint(number) if number else b""


async def first(requests: AsyncIterator[T]) -> T:
    """The one request of a method that streams only its answers."""
    async for request in requests:
        return request
    raise KvError("grpc: no request was received", code=Code.INTERNAL)


class Headers:
    """Encodes field 1 of every response, its `ResponseHeader`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._identity = integer(b"\x08", node.cluster_id) + integer(b"\x10", node.member_id)
        self._term = integer(b"\x20", node.raft_term)
        self._last = (-1, b"")

    def at(self, revision: int) -> bytes:
        """The header with this revision (0 leaves it out)."""
        known, encoded = self._last
        if known != revision:
            encoded = nested(b"\x0a", self._identity + integer(b"\x18", revision) + self._term)
            self._last = (revision, encoded)
        return encoded

    def now(self) -> bytes:
        """The header with the store's revision."""
        return self.at(self._node.revision)
