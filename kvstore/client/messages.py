"""Between `kvstore.api` values and protobuf messages, as a client needs them."""

from __future__ import annotations

from collections.abc import Iterable

from kvstore import api
from kvstore.proto import messages as pb


def range_request(request: api.Range) -> pb.RangeRequest:
    """A Range as a message."""
    return pb.RangeRequest(
        key=request.key,
        range_end=request.range_end,
        limit=request.limit,
        revision=request.revision,
        sort_order=request.sort_order,
        sort_target=request.sort_target,
        serializable=request.serializable,
        keys_only=request.keys_only,
        count_only=request.count_only,
        min_mod_revision=request.min_mod_revision,
        max_mod_revision=request.max_mod_revision,
        min_create_revision=request.min_create_revision,
        max_create_revision=request.max_create_revision,
    )


def put_request(request: api.Put) -> pb.PutRequest:
    """A Put as a message."""
    return pb.PutRequest(
        key=request.key,
        value=request.value,
        lease=request.lease,
        prev_kv=request.prev_kv,
        ignore_value=request.ignore_value,
        ignore_lease=request.ignore_lease,
    )


def delete_request(request: api.DeleteRange) -> pb.DeleteRangeRequest:
    """A DeleteRange as a message."""
    return pb.DeleteRangeRequest(key=request.key, range_end=request.range_end, prev_kv=request.prev_kv)


def txn_request(compare: Iterable[api.Compare], success: Iterable[api.Op], failure: Iterable[api.Op]) -> pb.TxnRequest:
    """A Txn as a message."""
    return pb.TxnRequest(compare=map(_compare, compare), success=map(_op, success), failure=map(_op, failure))


def _op(op: api.Op) -> pb.RequestOp:
    match op:
        case api.Range():
            return pb.RequestOp(request_range=range_request(op))
        case api.Put():
            return pb.RequestOp(request_put=put_request(op))
        case api.DeleteRange():
            return pb.RequestOp(request_delete_range=delete_request(op))
        case api.Txn():
            return pb.RequestOp(request_txn=txn_request(op.compare, op.success, op.failure))


def _compare(compare: api.Compare) -> pb.Compare:
    message = pb.Compare(key=compare.key, range_end=compare.range_end, result=compare.result, target=compare.target)
    value = compare.value
    if isinstance(value, bytes):
        message.value = value
    elif compare.target == api.CompareTarget.CREATE:
        message.create_revision = value
    elif compare.target == api.CompareTarget.MOD:
        message.mod_revision = value
    elif compare.target == api.CompareTarget.LEASE:
        message.lease = value
    else:
        message.version = value
    return message


def header(message: pb.ResponseHeader) -> api.Header:
    """Who answered."""
    return api.Header(message.cluster_id, message.member_id, message.revision, message.raft_term)


def key_value(kv: pb.KeyValue) -> api.KeyValue:
    """One key."""
    return api.KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def range_response(message: pb.RangeResponse) -> api.RangeResponse:
    """A RangeResponse as a value."""
    return api.RangeResponse(header(message.header), [key_value(kv) for kv in message.kvs], message.more, message.count)


def put_response(message: pb.PutResponse) -> api.PutResponse:
    """A PutResponse as a value."""
    prev_kv = key_value(message.prev_kv) if message.HasField("prev_kv") else None
    return api.PutResponse(header(message.header), prev_kv)


def delete_response(message: pb.DeleteRangeResponse) -> api.DeleteRangeResponse:
    """A DeleteRangeResponse as a value."""
    return api.DeleteRangeResponse(header(message.header), message.deleted, [key_value(kv) for kv in message.prev_kvs])


def txn_response(message: pb.TxnResponse) -> api.TxnResponse:
    """A TxnResponse as a value."""
    return api.TxnResponse(
        header(message.header), message.succeeded, [_op_response(each) for each in message.responses]
    )


def _op_response(message: pb.ResponseOp) -> api.OpResponse:
    match message.WhichOneof("response"):
        case "response_range":
            return range_response(message.response_range)
        case "response_put":
            return put_response(message.response_put)
        case "response_delete_range":
            return delete_response(message.response_delete_range)
        case "response_txn":
            return txn_response(message.response_txn)
        case None:
            raise ValueError("the server answered an operation with nothing")


def watch_response(message: pb.WatchResponse) -> api.WatchResponse:
    """A WatchResponse as a value."""
    return api.WatchResponse(header(message.header), message.watch_id, [_event(event) for event in message.events])


def _event(event: pb.Event) -> api.Event:
    prev_kv = key_value(event.prev_kv) if event.HasField("prev_kv") else None
    return api.Event(api.EventType(event.type), key_value(event.kv), prev_kv)
