"""Results of the KV service: from the store's encoded records to encoded responses."""

from __future__ import annotations

from kvstore.services.wire import Prefixes, integer, nested
from kvstore.store import DeleteResult, PutResult, RangeResult, TxnResult

_KVS = Prefixes(b"\x12")
_PREV_KVS = Prefixes(b"\x1a")
_EMPTY_HEADER = b"\x0a\x00"

OpResult = RangeResult | PutResult | DeleteResult | TxnResult


def from_range(header: bytes, result: RangeResult) -> bytes:
    """A RangeResponse behind an encoded header."""
    more = b"\x18\x01" if result.more else b""
    return header + _KVS.join(result.rows) + more + integer(b"\x20", result.count)


def from_put(header: bytes, result: PutResult) -> bytes:
    """A PutResponse behind an encoded header."""
    return header if result.prev is None else header + nested(b"\x12", result.prev)


def from_delete(header: bytes, result: DeleteResult) -> bytes:
    """A DeleteRangeResponse behind an encoded header."""
    return header + integer(b"\x10", result.deleted) + _PREV_KVS.join(result.prevs)


def from_txn(header: bytes, result: TxnResult) -> bytes:
    """A TxnResponse behind an encoded header.

    As etcd fills them, the header of an operation inside has only the revision, that of a nested transaction nothing.
    """
    parts = [header]
    if result.succeeded:
        parts.append(b"\x10\x01")
    parts += (nested(b"\x1a", _from_op(each)) for each in result.results)
    return b"".join(parts)


def _from_op(result: OpResult) -> bytes:
    if isinstance(result, TxnResult):
        return nested(b"\x22", from_txn(_EMPTY_HEADER, result))
    header = nested(b"\x0a", integer(b"\x18", result.revision))
    if isinstance(result, RangeResult):
        return nested(b"\x0a", from_range(header, result))
    if isinstance(result, PutResult):
        return nested(b"\x12", from_put(header, result))
    return nested(b"\x1a", from_delete(header, result))
