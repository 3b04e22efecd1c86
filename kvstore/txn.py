"""Checking requests, and deciding transactions: etcd's rules, in etcd's order. Nothing here changes the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from kvstore.api import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    KeyValue,
    Op,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
)
from kvstore.errors import (
    DuplicateKey,
    EmptyKey,
    InvalidSortOption,
    KeyNotFound,
    LeaseProvided,
    TooManyOps,
    ValueProvided,
)

# ---- the shape of a request ---------------------------------------------------------------------------------------


def check_range(request: Range) -> None:
    """Raises EmptyKey or InvalidSortOption."""
    if not request.key:
        raise EmptyKey()
    if not (0 <= request.sort_order <= SortOrder.DESCEND and 0 <= request.sort_target <= SortTarget.VALUE):
        raise InvalidSortOption()


def check_put(request: Put) -> None:
    """Raises EmptyKey, ValueProvided or LeaseProvided."""
    if not request.key:
        raise EmptyKey()
    if request.ignore_value and request.value:
        raise ValueProvided()
    if request.ignore_lease and request.lease:
        raise LeaseProvided()


def check_delete(request: DeleteRange) -> None:
    """Raises EmptyKey."""
    if not request.key:
        raise EmptyKey()


def check_txn(request: Txn, max_ops: int) -> None:
    """Raises what the checks of its operations raise, TooManyOps, or DuplicateKey for overlapping writes."""
    _check_ops(request, max_ops)
    _writes(request.success)
    _writes(request.failure)


def _check_ops(request: Txn, budget: int) -> None:
    count = max(len(request.compare), len(request.success), len(request.failure))
    if count > budget:
        raise TooManyOps()
    for compare in request.compare:
        if not compare.key:
            raise EmptyKey()
    for op in (*request.success, *request.failure):
        if isinstance(op, Range):
            check_range(op)
        elif isinstance(op, Put):
            check_put(op)
        elif isinstance(op, DeleteRange):
            check_delete(op)
        elif isinstance(op, Txn):
            _check_ops(op, budget - count)
        else:  # a RequestOp of the wire with no request in it
            raise KeyNotFound()


_Interval: TypeAlias = tuple[bytes, bytes]


def _writes(ops: Sequence[Op]) -> tuple[set[bytes], list[_Interval]]:
    """The keys put and the intervals deleted by one branch. Raises DuplicateKey.

    The order of the steps is etcd's, quirk included: a nested deletion after a nested put of the same key passes, the
    other way round does not.
    """
    deletes = [(op.key, op.range_end) for op in ops if isinstance(op, DeleteRange)]
    puts: set[bytes] = set()
    for op in ops:
        if not isinstance(op, Txn):
            continue
        then_puts, then_deletes = _writes(op.success)
        else_puts, else_deletes = _writes(op.failure)
        for key in then_puts | else_puts:
            if key in puts or _covered(key, deletes):
                raise DuplicateKey()
        puts |= then_puts | else_puts
        deletes += then_deletes + else_deletes
    for op in ops:
        if isinstance(op, Put):
            if op.key in puts or _covered(op.key, deletes):
                raise DuplicateKey()
            puts.add(op.key)
    return puts, deletes


def _covered(key: bytes, intervals: Sequence[_Interval]) -> bool:
    # Compared as plain strings, as etcd does here: a deletion without an upper end (range_end "\\0") covers nothing.
    return any(start <= key < end if end else key == start for start, end in intervals)


def in_range(key: bytes, start: bytes, end: bytes) -> bool:
    """Whether `key` lies in [start, end), with Range's meaning of `end`."""
    if not end:
        return key == start
    return key >= start and (end == b"\x00" or key < end)


# ---- what a transaction does --------------------------------------------------------------------------------------


def is_write(request: Txn) -> bool:
    """Whether either branch holds anything but ranges."""
    return not all(isinstance(op, Range) for op in (*request.success, *request.failure))


def size_of(op: Op) -> int:
    """About how many bytes the request takes encoded."""
    if isinstance(op, Put):
        return len(op.key) + len(op.value) + 16
    if isinstance(op, Txn):
        compares = sum(
            len(c.key) + len(c.range_end) + (len(c.value) if isinstance(c.value, bytes) else 8) + 12 for c in op.compare
        )
        return compares + sum(size_of(each) + 4 for each in (*op.success, *op.failure))
    return len(op.key) + len(op.range_end) + 16


def cost_of(op: Op) -> int:
    """What the operation is charged against the quota, as etcd counts it."""
    if isinstance(op, Put):
        return 256 + len(op.key) + len(op.value)
    if isinstance(op, Txn):
        return max(sum(map(cost_of, op.success)), sum(map(cost_of, op.failure)))
    return 0


def has_put(op: Op) -> bool:
    """Whether the operation could store something new."""
    if isinstance(op, Txn):
        return any(map(has_put, (*op.success, *op.failure)))
    return isinstance(op, Put)


class Path:
    """Which way a transaction and its nested ones go, decided before anything is done."""

    __slots__ = ("nested", "succeeded")

    def __init__(self, succeeded: bool, nested: list[Path]) -> None:
        self.succeeded = succeeded
        self.nested = nested  # one for each nested transaction of the branch taken, in order

    def branch(self, request: Txn) -> tuple[Op, ...]:
        """The operations to run."""
        return request.success if self.succeeded else request.failure


Reader: TypeAlias = Callable[[Compare], Sequence[KeyValue]]
_MISSING = KeyValue(b"", b"", 0, 0, 0)


def decide(request: Txn, read: Reader) -> Path:
    """Evaluate the compares of the whole tree against the keys that `read(compare)` finds for each."""
    succeeded = all(_holds(compare, read) for compare in request.compare)
    ops = request.success if succeeded else request.failure
    return Path(succeeded, [decide(op, read) for op in ops if isinstance(op, Txn)])


def _holds(compare: Compare, read: Reader) -> bool:
    found = read(compare)
    if not found:
        if compare.target == CompareTarget.VALUE:
            return False  # a missing key has no value to compare, not even an empty one
        found = (_MISSING,)
    return all(_compare(compare.result, *_operands(compare, kv)) for kv in found)


def _operands(compare: Compare, kv: KeyValue) -> tuple[int, int] | tuple[bytes, bytes]:
    """What the key has and what is asked of it; an operand of the wrong kind counts as unset, as on the wire."""
    value, target = compare.value, compare.target
    if target == CompareTarget.VALUE:
        return kv.value, value if isinstance(value, bytes) else b""
    number = value if isinstance(value, int) else 0
    if target == CompareTarget.MOD:
        return kv.mod_revision, number
    if target == CompareTarget.CREATE:
        return kv.create_revision, number
    if target == CompareTarget.VERSION:
        return kv.version, number
    if target == CompareTarget.LEASE:
        return kv.lease, number
    return 0, 0


def _compare(result: int, actual: int | bytes, expected: int | bytes) -> bool:
    order = (actual > expected) - (actual < expected)  # type: ignore[operator]  # both int or both bytes
    if result == CompareResult.EQUAL:
        return order == 0
    if result == CompareResult.NOT_EQUAL:
        return order != 0
    if result == CompareResult.GREATER:
        return order > 0
    return result != CompareResult.LESS or order < 0  # an unknown result holds, as in etcd
