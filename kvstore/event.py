"""A change as the store keeps it: what the commit pipeline publishes and what history gives back."""

from __future__ import annotations

import msgspec

from kvstore.api import Event, EventType
from kvstore.record import decode, varint
from kvstore.revision import TOMBSTONE, main_of

_EVENTS_FIELD = b"\x5a"  # field 11 of etcdserverpb.WatchResponse, length-delimited
_DELETE_TYPE = b"\x08\x01"


class StoredEvent(msgspec.Struct, eq=False, gc=False):  # one delete makes hundreds of thousands: not for the collector
    """One change: its packed revision, its record, and the packed revision that it replaced (0 = none).

    `prev` is the replaced record; the watch hub fills it in when a watcher asks for it.
    """

    revision: int
    key: bytes
    record: bytes
    prev_revision: int
    prev: bytes | None = None
    _value: Event | None = None
    _wire: bytes | None = None
    _wire_prev: bytes | None = None

    @property
    def type(self) -> EventType:
        """PUT or DELETE."""
        return EventType.DELETE if self.revision & TOMBSTONE else EventType.PUT

    @property
    def mod_revision(self) -> int:
        """The main revision it happened at."""
        return main_of(self.revision)

    def wire(self, prev_kv: bool) -> bytes:
        """The event as field 11 of a WatchResponse, encoded once for all watchers."""
        if prev_kv and self.prev is not None:
            if self._wire_prev is None:
                self._wire_prev = self._encode(b"\x1a" + varint(len(self.prev)) + self.prev)
            return self._wire_prev
        if self._wire is None:
            self._wire = self._encode(b"")
        return self._wire

    def _encode(self, prev_field: bytes) -> bytes:
        record = self.record
        kind = _DELETE_TYPE if self.revision & TOMBSTONE else b""
        length = varint(len(record))
        size = len(kind) + 1 + len(length) + len(record) + len(prev_field)
        return b"".join((_EVENTS_FIELD, varint(size), kind, b"\x12", length, record, prev_field))

    def value(self, prev_kv: bool) -> Event:
        """The event for a reader in this process, decoded once for all of them."""
        if prev_kv and self.prev is not None:
            return Event(self.type, decode(self.record), decode(self.prev))
        if self._value is None:
            self._value = Event(self.type, decode(self.record))
        return self._value
