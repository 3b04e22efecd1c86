"""Requests of the KV service: from protobuf messages to `kvstore.api` values."""

from __future__ import annotations

from kvstore import api
from kvstore.proto import messages as pb


def to_range(request: pb.RangeRequest) -> api.Range:
    """A RangeRequest as a value."""
    return api.Range(
        request.key,
        request.range_end,
        request.limit,
        request.revision,
        request.sort_order,
        request.sort_target,
        request.serializable,
        request.keys_only,
        request.count_only,
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    )


def to_put(request: pb.PutRequest) -> api.Put:
    """A PutRequest as a value."""
    return api.Put(
        request.key, request.value, request.lease, request.prev_kv, request.ignore_value, request.ignore_lease
    )


def to_delete(request: pb.DeleteRangeRequest) -> api.DeleteRange:
    """A DeleteRangeRequest as a value."""
    return api.DeleteRange(request.key, request.range_end, request.prev_kv)


def to_txn(request: pb.TxnRequest) -> api.Txn:
    """A TxnRequest as a value."""
    return api.Txn(
        tuple(map(_to_compare, request.compare)),
        tuple(map(_to_op, request.success)),
        tuple(map(_to_op, request.failure)),
    )


def _to_op(op: pb.RequestOp) -> api.Op:
    match op.WhichOneof("request"):
        case "request_range":
            return to_range(op.request_range)
        case "request_put":
            return to_put(op.request_put)
        case "request_delete_range":
            return to_delete(op.request_delete_range)
        case "request_txn":
            return to_txn(op.request_txn)
        case None:
            return None  # type: ignore[return-value]  # the node refuses it, when its turn among the checks has come


def _to_compare(compare: pb.Compare) -> api.Compare:
    # As etcd reads it: the value of the target's own arm, or that arm's zero when another one (or none) was set.
    value: int | bytes
    match compare.target:
        case api.CompareTarget.VALUE:
            value = compare.value
        case api.CompareTarget.CREATE:
            value = compare.create_revision
        case api.CompareTarget.MOD:
            value = compare.mod_revision
        case api.CompareTarget.LEASE:
            value = compare.lease
        case _:
            value = compare.version
    return api.Compare(compare.key, compare.target, compare.result, value, compare.range_end)
