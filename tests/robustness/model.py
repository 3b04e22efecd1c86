"""What each operation does, told as simply as can be: the state as a dict, a change as a value.

Nothing of the engine is used here, so that the engine is held against something else than itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from kvstore.api import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    DeleteRangeResponse,
    KeyValue,
    Op,
    OpResponse,
    Put,
    PutResponse,
    Range,
    RangeResponse,
    Txn,
)
from tests.kvstore.validators import Change

State: TypeAlias = dict[bytes, KeyValue]


class LeaseRevoke:
    """A revocation: deletes the keys of the lease."""

    def __init__(self, lease_id: int) -> None:
        self.lease_id = lease_id

    def __repr__(self) -> str:
        return f"LeaseRevoke({self.lease_id})"


Write: TypeAlias = Op | LeaseRevoke


def selected(key: bytes, range_end: bytes, keys: Sequence[bytes]) -> list[bytes]:
    """The keys in [key, range_end), sorted."""
    if not range_end:
        return [each for each in keys if each == key]
    return sorted(each for each in keys if each >= key and (range_end == b"\0" or each < range_end))


def run(operation: Write, state: State, revision: int) -> tuple[object, list[Change], State]:
    """The answer without its header, the changes, and the state after it, if it gets `revision`."""
    after = dict(state)
    changes: list[Change] = []
    answer = _do(operation, after, changes, revision)
    return answer, changes, after


def _do(operation: Write, state: State, changes: list[Change], revision: int) -> object:
    match operation:
        case Range():
            kvs = [state[key] for key in selected(operation.key, operation.range_end, list(state))]
            return len(kvs), kvs
        case Put():
            prev = state.get(operation.key)
            create, version = (prev.create_revision, prev.version + 1) if prev else (revision, 1)
            kv = KeyValue(operation.key, operation.value, create, revision, version, operation.lease)
            state[operation.key] = kv
            changes.append(Change(revision, operation.key, operation.value, prev))
            return prev if operation.prev_kv else None
        case DeleteRange():
            gone = selected(operation.key, operation.range_end, list(state))
            prevs = _delete(gone, state, changes, revision)
            return len(gone), prevs if operation.prev_kv else []
        case LeaseRevoke():
            _delete(
                sorted(key for key, kv in state.items() if kv.lease == operation.lease_id), state, changes, revision
            )
            return None
        case Txn():
            succeeded = all(holds(compare, state.get(compare.key)) for compare in operation.compare)
            branch = operation.success if succeeded else operation.failure
            return succeeded, [_do(op, state, changes, revision) for op in branch]


def _delete(keys: Sequence[bytes], state: State, changes: list[Change], revision: int) -> list[KeyValue]:
    prevs = [state.pop(key) for key in keys]
    changes += [Change(revision, kv.key, None, kv) for kv in prevs]
    return prevs


def holds(compare: Compare, kv: KeyValue | None) -> bool:
    """Whether a compare of one key holds; a key that is not there has zeros, and no value to compare."""
    has: int | bytes
    if compare.target == CompareTarget.VALUE:
        if kv is None:
            return False
        has = kv.value
    else:
        numbers = (kv.version, kv.create_revision, kv.mod_revision) if kv else (0, 0, 0)
        has = numbers[compare.target]
    equal, less = has == compare.value, has < compare.value  # type: ignore[operator]
    return {
        CompareResult.EQUAL: equal,
        CompareResult.GREATER: not (equal or less),
        CompareResult.LESS: less,
        CompareResult.NOT_EQUAL: not equal,
    }[CompareResult(compare.result)]


def answered(response: OpResponse | None) -> object:
    """A response in the form of `run`'s answers."""
    match response:
        case None:
            return None
        case RangeResponse():
            return response.count, response.kvs
        case PutResponse():
            return response.prev_kv
        case DeleteRangeResponse():
            return response.deleted, response.prev_kvs
        case _:
            return response.succeeded, [answered(each) for each in response.responses]
