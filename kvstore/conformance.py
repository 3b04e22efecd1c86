"""What every `Client` has to do, as checks that anyone can run against one of their own.

    @asynccontextmanager
    async def make() -> AsyncIterator[Client]: ...      # a client of a store that nobody else writes to meanwhile

    async def test_it() -> None:
        await check_client(make)

A check that fails raises `Nonconforming`. The checks are those of `CHECKS`, for who would rather have a test of each:
`check_client(make, only=["..."])`. They are plain assertions: pytest shows what was compared after
`pytest.register_assert_rewrite("kvstore.conformance")` in a conftest.py.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import re
import traceback
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar

from kvstore import errors
from kvstore.api import (
    Client,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    DeleteRangeResponse,
    Event,
    EventType,
    Header,
    KeyValue,
    Op,
    Put,
    PutResponse,
    Range,
    RangeResponse,
    SortOrder,
    SortTarget,
    Txn,
    TxnResponse,
    Watch,
    WatchFilter,
    prefix_end,
)

Key: TypeAlias = Callable[[str], bytes]
"""Makes keys that no other check uses."""

Check: TypeAlias = Callable[[Client, Key], Awaitable[None]]
Make: TypeAlias = Callable[[], AbstractAsyncContextManager[Client]]
E = TypeVar("E", bound=BaseException)
T = TypeVar("T")
_Axis: TypeAlias = dict[str, dict[str, Any]]

CHECKS: Final[dict[str, Check]] = {}


class Nonconforming(AssertionError):
    """A promise of `Client` that was not kept; `check` is the name of the check that found it."""

    def __init__(self, check: str, problem: str) -> None:
        super().__init__(f"{check}: {problem}")
        self.check = check
        self.problem = problem


async def check_client(
    make: Make, *, only: Iterable[str] | None = None, prefix: str = "/conformance/", patience: float = 30.0
) -> list[str]:
    """Run the checks, each with a client of its own from `make`; gives the names of those that were run.

    The store has etcd's default limits, and nobody else writes to it, also none of these checks on another client: they
    compact it and count revisions. Keys under `prefix` are deleted. only: names of checks. patience: seconds that one
    may take. Raises `Nonconforming`. Cancelling it ends the check and closes its client.
    """
    if not __debug__:
        raise RuntimeError("the checks are assertions: run them without -O")
    names = [*CHECKS] if only is None else [*only]
    for name in names:
        base = f"{prefix}{name}/"
        async with make() as client:
            try:
                async with asyncio.timeout(patience) as deadline:
                    await client.delete(base.encode(), prefix_end(base.encode()))
                    await CHECKS[name](client, lambda each, base=base: (base + each).encode())  # type: ignore[misc]
            except TimeoutError as error:
                late = f"not done within {patience:g} s" if deadline.expired() else f"raised {error!r}"
                raise Nonconforming(name, f"{late}, at {_where(error)}") from error
            except AssertionError as error:
                raise Nonconforming(name, f"{error or 'not so'}, at {_where(error)}") from error
            except errors.KvError as error:
                raise Nonconforming(name, f"raised {error!r}, at {_where(error)}") from error
    return names


def _where(error: BaseException) -> str:
    here = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]
    return f"line {here[-1].lineno} of {__name__}: {here[-1].line}"


def _check(check: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    name = check.__name__.removeprefix("_")
    axes: list[_Axis] = getattr(check, "axes", [])
    for choice in itertools.product(*(axis.items() for axis in axes)):
        given = {argument: value for _, values in choice for argument, value in values.items()}
        label = "-".join(each for each, _ in choice)
        CHECKS[f"{name}[{label}]" if label else name] = functools.partial(check, **given)
    return check


def _each(names: str | tuple[str, ...], choices: Iterable[Any]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Make a check of each choice of these arguments."""
    axis: _Axis = {}
    for choice in choices:
        values = dict(zip(names, choice, strict=True)) if isinstance(names, tuple) else {names: choice}
        first = next(iter(values.values()))
        label = str(getattr(first, "name", getattr(first, "__name__", first)))
        axis[label if label not in axis else f"{label} {len(axis)}"] = values

    def add(check: Callable[..., T]) -> Callable[..., T]:
        check.axes = [axis, *getattr(check, "axes", [])]  # type: ignore[attr-defined]
        return check

    return add


class _raises(Generic[E]):  # noqa: N801  # it reads as a statement
    """Expect an error, as `pytest.raises`; `value` is what was raised."""

    def __init__(self, kind: type[E], *, match: str = "") -> None:
        self._kind = kind
        self._match = match

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert error is not None, f"{self._kind.__name__} was not raised"
        if not isinstance(error, self._kind):
            return False
        assert re.search(self._match, str(error)), f"{str(error)!r} instead of {self._match!r}"
        self.value = error
        return True


# ---- what the checks share ------------------------------------------------------------------------------------------


def _in_prefix(key: Key, **options: Any) -> Range:
    return Range(key(""), prefix_end(key("")), **options)


def _keys_of(response: object) -> list[bytes]:
    assert isinstance(response, RangeResponse)
    return [kv.key for kv in response.kvs]


def _revision_of(response: object) -> int:
    assert isinstance(response, PutResponse | DeleteRangeResponse | RangeResponse | TxnResponse)
    return response.header.revision


async def _put_all(client: Client, key: Key, names: str) -> list[int]:
    """One put for each letter, its value the letter; the revisions."""
    return [_revision_of(await client.put(key(name), name.encode())) for name in names]


# ---- keys -----------------------------------------------------------------------------------------------------------


@_check
async def _a_put_makes_a_revision_and_counts_versions(client: Client, key: Key) -> None:
    first = _revision_of(await client.put(key("a"), b"1"))
    second = _revision_of(await client.put(key("a"), b"1"))
    assert second == first + 1
    assert await client.get(key("a")) == KeyValue(key("a"), b"1", first, second, 2)


@_check
async def _prev_kv_is_the_whole_replaced_pair(client: Client, key: Key) -> None:
    assert (await client.put(key("a"), b"1", prev_kv=True)).prev_kv is None
    lease = (await client.lease_grant(60)).id
    second = _revision_of(await client.put(key("a"), b"2", lease=lease))
    replaced = (await client.put(key("a"), b"3", prev_kv=True)).prev_kv
    assert replaced == KeyValue(key("a"), b"2", second - 1, second, 2, lease)
    now = await client.get(key("a"))
    assert now is not None
    assert now.lease == 0


@_check
async def _empty_values_and_arbitrary_bytes(client: Client, key: Key) -> None:
    name, value = key("") + b"\x00\xff\n\x80", bytes(range(256))
    await client.put(name, value)
    await client.put(key("empty"), b"")
    found = await client.range(_in_prefix(key))
    assert [(kv.key, kv.value) for kv in found.kvs] == [(name, value), (key("empty"), b"")]


@_check
async def _a_header_says_who_answered_and_when(client: Client, key: Key) -> None:
    put = await client.put(key("a"), b"1")
    read = await client.range(Range(key("a"), revision=_revision_of(put)))
    assert put.header == read.header
    assert min(put.header.cluster_id, put.header.member_id, put.header.raft_term) > 0


@_check
async def _a_missing_key(client: Client, key: Key) -> None:
    assert await client.get(key("none")) is None
    found = await client.range(Range(key("none")))
    assert (found.kvs, found.more, found.count) == ([], False, 0)


@_check
async def _reads_of_the_past_carry_the_current_revision(client: Client, key: Key) -> None:
    first, second = await _put_all(client, key, "ab")
    await client.delete(key("a"))
    then = await client.range(_in_prefix(key, revision=first))
    assert _keys_of(then) == [key("a")]
    assert _revision_of(then) == second + 1
    assert await client.get(key("a"), revision=second) == KeyValue(key("a"), b"a", first, first, 1)
    assert await client.get(key("a"), revision=-1) is None  # as 0


@_check
async def _ranges(client: Client, key: Key) -> None:
    await _put_all(client, key, "abcd")
    assert _keys_of(await client.range(Range(key("b"), key("d")))) == [key("b"), key("c")]
    assert _keys_of(await client.range(Range(key("d"), key("b")))) == []
    assert _keys_of(await client.range(Range(key("b"), key("b")))) == []
    everything = _keys_of(await client.range(Range(b"\0", b"\0")))
    assert [found for found in everything if found.startswith(key(""))] == [key(name) for name in "abcd"]
    from_c = _keys_of(await client.range(Range(key("c"), b"\0")))
    assert from_c[:2] == [key("c"), key("d")]


@_check
async def _limit_more_and_count(client: Client, key: Key) -> None:
    await _put_all(client, key, "abcd")
    cut = await client.range(_in_prefix(key, limit=2))
    assert (_keys_of(cut), cut.more, cut.count) == ([key("a"), key("b")], True, 4)
    exact = await client.range(_in_prefix(key, limit=4))
    assert (len(exact.kvs), exact.more, exact.count) == (4, False, 4)
    negative = await client.range(_in_prefix(key, limit=-1))
    assert (len(negative.kvs), negative.more) == (4, False)


@_check
async def _pages_at_one_revision(client: Client, key: Key) -> None:
    *_, last = await _put_all(client, key, "abcde")
    await client.delete(key("d"))
    seen: list[bytes] = []
    start = key("")
    while True:
        page = await client.range(Range(start, prefix_end(key("")), limit=2, revision=last))
        seen += _keys_of(page)
        assert page.count == 5 - len(seen) + len(page.kvs)
        if not page.more:
            break
        start = page.kvs[-1].key + b"\0"
    assert seen == [key(name) for name in "abcde"]


@_check
async def _count_only_and_keys_only(client: Client, key: Key) -> None:
    await _put_all(client, key, "abc")
    counted = await client.range(_in_prefix(key, count_only=True, limit=1))
    assert (counted.kvs, counted.more, counted.count) == ([], False, 3)
    plain = await client.range(_in_prefix(key))
    named = await client.range(_in_prefix(key, keys_only=True))
    assert [kv.value for kv in named.kvs] == [b"", b"", b""]
    assert [(kv.key, kv.mod_revision, kv.version) for kv in named.kvs] == [
        (kv.key, kv.mod_revision, kv.version) for kv in plain.kvs
    ]


@_check
@_each("target", SortTarget)
@_each("order", SortOrder)
async def _sorting(client: Client, key: Key, target: SortTarget, order: SortOrder) -> None:
    # Every target puts these in a different order.
    for put in ["b5", "a4", "c3", "a9", "b1", "a2", "d3"]:
        await client.put(key(put[0]), put[1].encode())
    found = await client.range(_in_prefix(key, sort_target=target, sort_order=order))
    measure: Callable[[KeyValue], int | bytes] = {
        SortTarget.KEY: lambda kv: kv.key,
        SortTarget.VERSION: lambda kv: kv.version,
        SortTarget.CREATE: lambda kv: kv.create_revision,
        SortTarget.MOD: lambda kv: kv.mod_revision,
        SortTarget.VALUE: lambda kv: kv.value,
    }[target]
    measured = [measure(kv) for kv in found.kvs]
    assert measured == sorted(measured, reverse=order == SortOrder.DESCEND)
    assert sorted(_keys_of(found)) == [key(name) for name in "abcd"]


@_check
async def _a_limit_is_applied_after_an_explicit_order(client: Client, key: Key) -> None:
    await _put_all(client, key, "cab")
    found = await client.range(_in_prefix(key, sort_target=SortTarget.MOD, sort_order=SortOrder.DESCEND, limit=1))
    assert (_keys_of(found), found.more, found.count) == ([key("b")], True, 3)


@_check
async def _without_an_order_the_limit_comes_before_the_sort(client: Client, key: Key) -> None:
    await _put_all(client, key, "dcba")
    found = await client.range(_in_prefix(key, sort_target=SortTarget.MOD, limit=2))
    assert found.more
    # etcd fetches limit + 1 by key (a, b, c), and sorts only those by mod_revision.
    assert _keys_of(found) == [key("c"), key("b")]


@_check
async def _revision_bounds_are_inclusive_and_leave_the_count(client: Client, key: Key) -> None:
    a, b, c, d = await _put_all(client, key, "abcd")
    newest = _revision_of(await client.put(key("a"), b"again"))
    by_mod = await client.range(_in_prefix(key, min_mod_revision=c, max_mod_revision=d))
    assert (_keys_of(by_mod), by_mod.count, by_mod.more) == ([key("c"), key("d")], 4, False)
    by_create = await client.range(_in_prefix(key, min_create_revision=a, max_create_revision=b))
    assert _keys_of(by_create) == [key("a"), key("b")]
    both = await client.range(_in_prefix(key, max_create_revision=b, min_mod_revision=newest, limit=1))
    assert (_keys_of(both), both.more) == ([key("a")], False)


@_check
async def _serializable_reads(client: Client, key: Key) -> None:
    await _put_all(client, key, "ab")
    assert _keys_of(await client.range(_in_prefix(key, serializable=True))) == [key("a"), key("b")]


@_check
async def _delete(client: Client, key: Key) -> None:
    *_, last = await _put_all(client, key, "abcd")
    one = await client.delete(key("a"))
    assert (one.deleted, one.prev_kvs, _revision_of(one)) == (1, [], last + 1)
    some = await client.delete(key(""), prefix_end(key("")), prev_kv=True)
    assert (some.deleted, [kv.key for kv in some.prev_kvs]) == (3, [key(name) for name in "bcd"])
    assert _revision_of(some) == last + 2
    nothing = await client.delete(key("a"), prev_kv=True)
    assert (nothing.deleted, nothing.prev_kvs, _revision_of(nothing)) == (0, [], last + 2)


@_check
async def _a_key_made_again_starts_over(client: Client, key: Key) -> None:
    await _put_all(client, key, "aa")
    await client.delete(key("a"))
    made = _revision_of(await client.put(key("a"), b"new"))
    assert await client.get(key("a")) == KeyValue(key("a"), b"new", made, made, 1)


# ---- transactions ---------------------------------------------------------------------------------------------------


@_check
@_each(
    ("result", "less", "equal", "greater"),
    [
        (CompareResult.EQUAL, False, True, False),
        (CompareResult.NOT_EQUAL, True, False, True),
        (CompareResult.LESS, True, False, False),
        (CompareResult.GREATER, False, False, True),
    ],
)
@_each("target", CompareTarget)
async def _compares(
    client: Client, key: Key, target: CompareTarget, result: CompareResult, less: bool, equal: bool, greater: bool
) -> None:
    lease = (await client.lease_grant(60)).id
    await client.put(key("a"), b"m")
    await client.put(key("a"), b"m", lease=lease)
    kv = await client.get(key("a"))
    assert kv is not None
    values: dict[CompareTarget, int | bytes] = {
        CompareTarget.VERSION: kv.version,
        CompareTarget.CREATE: kv.create_revision,
        CompareTarget.MOD: kv.mod_revision,
        CompareTarget.VALUE: kv.value,
        CompareTarget.LEASE: kv.lease,
    }
    value = values[target]
    bigger: int | bytes = value + b"0" if isinstance(value, bytes) else value + 1
    smaller: int | bytes = value[:-1] if isinstance(value, bytes) else value - 1
    for given, expected in ((bigger, less), (value, equal), (smaller, greater)):
        txn = await client.txn([Compare(key("a"), target, result, given)])
        assert txn.succeeded is expected


@_check
@_each("target", CompareTarget)
async def _compares_of_a_missing_key(client: Client, key: Key, target: CompareTarget) -> None:
    zero: int | bytes = b"" if target == CompareTarget.VALUE else 0
    for result in CompareResult:
        txn = await client.txn([Compare(key("none"), target, result, zero)])
        assert txn.succeeded is (result == CompareResult.EQUAL and target != CompareTarget.VALUE)


@_check
async def _compares_of_a_range_hold_for_every_key(client: Client, key: Key) -> None:
    first, _ = await _put_all(client, key, "ab")
    end = prefix_end(key(""))
    created = Compare(key(""), CompareTarget.CREATE, CompareResult.GREATER, first - 1, end)
    assert (await client.txn([created])).succeeded
    later = Compare(key(""), CompareTarget.CREATE, CompareResult.GREATER, first, end)
    assert not (await client.txn([later])).succeeded
    nobody = Compare(key("x"), CompareTarget.VERSION, CompareResult.EQUAL, 0, key("z"))
    assert (await client.txn([nobody])).succeeded


@_check
async def _a_txn_is_one_revision_and_reads_its_own_writes(client: Client, key: Key) -> None:
    before = _revision_of(await client.put(key("a"), b"1"))
    txn = await client.txn(
        [Compare(key("a"), CompareTarget.VALUE, CompareResult.EQUAL, b"1")],
        [
            Put(key("b"), b"2", prev_kv=True),
            Range(key("b")),
            DeleteRange(key("a"), prev_kv=True),
            Put(key("c"), b"3"),
            Range(key(""), prefix_end(key(""))),
        ],
        [Put(key("a"), b"not this")],
    )
    assert txn.succeeded
    assert _revision_of(txn) == before + 1
    put, read, deleted, _, everything = txn.responses
    assert put == PutResponse(Header(0, 0, before + 1, 0))
    assert read == RangeResponse(
        Header(0, 0, before + 1, 0), [KeyValue(key("b"), b"2", before + 1, before + 1, 1)], False, 1
    )
    assert isinstance(deleted, DeleteRangeResponse)
    assert (deleted.deleted, [kv.value for kv in deleted.prev_kvs]) == (1, [b"1"])
    assert _keys_of(everything) == [key("b"), key("c")]


@_check
async def _the_failure_branch(client: Client, key: Key) -> None:
    txn = await client.txn(
        [Compare(key("a"), CompareTarget.VERSION, CompareResult.GREATER, 0)],
        [Put(key("a"), b"yes")],
        [Put(key("a"), b"no"), Range(key("a"))],
    )
    assert not txn.succeeded
    assert isinstance(txn.responses[1], RangeResponse)
    assert [kv.value for kv in txn.responses[1].kvs] == [b"no"]


@_check
async def _reads_change_no_revision(client: Client, key: Key) -> None:
    (last,) = await _put_all(client, key, "a")
    empty = await client.txn()
    assert (empty.succeeded, empty.responses, _revision_of(empty)) == (True, [], last)
    reads = await client.txn((), [Range(key("a")), Txn((), (Range(key("a")),))])
    assert _revision_of(reads) == last
    deletes_nothing = await client.txn((), [DeleteRange(key("none"))])
    assert _revision_of(deletes_nothing) == last


@_check
async def _nested_txns(client: Client, key: Key) -> None:
    before = _revision_of(await client.put(key("a"), b"1"))
    inner = Txn(
        # Compares see the state before the whole transaction: a is still 1.
        (Compare(key("a"), CompareTarget.VALUE, CompareResult.EQUAL, b"1"),),
        (Put(key("b"), b"then"), Txn((), (Range(key("a")),))),
        (Put(key("b"), b"else"),),
    )
    txn = await client.txn((), [Put(key("a"), b"2"), inner])
    assert _revision_of(txn) == before + 1
    nested = txn.responses[1]
    assert isinstance(nested, TxnResponse)
    assert nested.succeeded
    assert nested.header == Header(0, 0, 0, 0)
    assert nested.responses[0] == PutResponse(Header(0, 0, before + 1, 0))
    deepest = nested.responses[1]
    assert isinstance(deepest, TxnResponse)
    assert isinstance(deepest.responses[0], RangeResponse)
    assert [kv.value for kv in deepest.responses[0].kvs] == [b"2"]


@_check
async def _ignore_value_and_ignore_lease(client: Client, key: Key) -> None:
    lease = (await client.lease_grant(60)).id
    await client.put(key("a"), b"1", lease=lease)
    await client.txn((), [Put(key("a"), b"2", ignore_lease=True)])
    kv = await client.get(key("a"))
    assert kv is not None
    assert (kv.value, kv.lease) == (b"2", lease)
    await client.txn((), [Put(key("a"), ignore_value=True)])
    kv = await client.get(key("a"))
    assert kv is not None
    assert (kv.value, kv.lease) == (b"2", 0)


@_check
async def _a_refused_txn_changes_nothing(client: Client, key: Key) -> None:
    (last,) = await _put_all(client, key, "a")
    with _raises(errors.LeaseNotFound):
        await client.txn((), [Put(key("b"), b"1"), DeleteRange(key("a")), Put(key("c"), b"1", lease=404)])
    found = await client.range(_in_prefix(key))
    assert (_keys_of(found), _revision_of(found)) == ([key("a")], last)


# ---- errors ---------------------------------------------------------------------------------------------------------

TOO_LARGE = 1_700_000

REFUSED: list[tuple[type[errors.KvError], Callable[[Client, Key], object]]] = [
    (errors.EmptyKey, lambda client, key: client.get(b"")),
    (errors.EmptyKey, lambda client, key: client.put(b"", b"1")),
    (errors.EmptyKey, lambda client, key: client.delete(b"", b"\0")),
    (errors.EmptyKey, lambda client, key: client.txn([Compare(b"", CompareTarget.MOD, CompareResult.EQUAL, 0)])),
    (errors.EmptyKey, lambda client, key: client.txn((), [], [Put(b"")])),
    (errors.EmptyKey, lambda client, key: client.txn((), [Txn((), (Range(b""),))])),
    (errors.KeyNotFound, lambda client, key: client.txn((), [Put(key("none"), ignore_value=True)])),
    (errors.KeyNotFound, lambda client, key: client.txn((), [Put(key("none"), ignore_lease=True)])),
    (errors.ValueProvided, lambda client, key: client.txn((), [Put(key("a"), b"1", ignore_value=True)])),
    (errors.LeaseProvided, lambda client, key: client.txn((), [Put(key("a"), lease=5, ignore_lease=True)])),
    (errors.TooManyOps, lambda client, key: client.txn((), [Range(key("a"))] * 129)),
    (
        errors.TooManyOps,
        lambda client, key: client.txn((), [Range(key("a"))] * 99 + [Txn((), (Range(key("a")),) * 29)]),
    ),
    (errors.DuplicateKey, lambda client, key: client.txn((), [Put(key("a")), Put(key("a"))])),
    (errors.DuplicateKey, lambda client, key: client.txn((), [], [DeleteRange(key("a"), key("c")), Put(key("b"))])),
    (
        errors.DuplicateKey,
        lambda client, key: client.txn((), [Txn((), (DeleteRange(key("a")),)), Txn((), (Put(key("a")),))]),
    ),
    (errors.FutureRevision, lambda client, key: client.get(key("a"), revision=1 << 40)),
    (errors.FutureRevision, lambda client, key: client.txn((), [Put(key("a")), Range(key("a"), revision=1 << 40)])),
    (errors.FutureRevision, lambda client, key: client.compact(1 << 40)),
    (errors.Compacted, lambda client, key: client.compact(-1)),
    (errors.RequestTooLarge, lambda client, key: client.put(key("a"), bytes(TOO_LARGE))),
    (errors.RequestTooLarge, lambda client, key: client.txn((), [Put(key("a"), bytes(TOO_LARGE))])),
    (errors.LeaseNotFound, lambda client, key: client.put(key("a"), b"1", lease=404)),
    (errors.LeaseNotFound, lambda client, key: client.lease_revoke(404)),
    (errors.LeaseTTLTooLarge, lambda client, key: client.lease_grant(9_000_000_001)),
]


@_check
@_each(("kind", "call"), REFUSED)
async def _refusals_have_etcds_status_and_text(
    client: Client, key: Key, kind: type[errors.KvError], call: Callable[[Client, Key], Client]
) -> None:
    await client.compact(_revision_of(await client.put(key("other"), b"1")))  # so that compacting below is refused
    with _raises(errors.KvError) as caught:
        await call(client, key)  # type: ignore[misc]
    assert type(caught.value) is kind
    assert (caught.value.code, str(caught.value)) == (kind.code, kind.message)
    assert await client.get(key("a")) is None


@_check
async def _limits_are_met_exactly(client: Client, key: Key) -> None:
    assert (await client.txn((), [Range(key("a"))] * 128)).succeeded
    assert (await client.txn((), [Range(key("a"))] * 99 + [Txn((), (Range(key("a")),) * 28)])).succeeded
    # Siblings are judged in their order: this one is legal, the other way round is not.
    txn = await client.txn((), [Txn((), (Put(key("a")),)), Txn((), (DeleteRange(key("a")),))])
    deleted = txn.responses[1]
    assert isinstance(deleted, TxnResponse)
    assert isinstance(deleted.responses[0], DeleteRangeResponse)
    assert deleted.responses[0].deleted == 1


# ---- compaction -----------------------------------------------------------------------------------------------------


@_check
@_each("physical", [False, True])
async def _compaction(client: Client, key: Key, physical: bool) -> None:
    a, b, c, _ = await _put_all(client, key, "abca")
    await client.delete(key("b"))
    answer = await client.compact(c, physical=physical)
    assert answer.header.revision == c + 2
    with _raises(errors.Compacted):
        await client.get(key("a"), revision=b)
    assert await client.get(key("a"), revision=c) == KeyValue(key("a"), b"a", a, a, 1)
    assert _keys_of(await client.range(_in_prefix(key, revision=c))) == [key("a"), key("b"), key("c")]
    with _raises(errors.Compacted):
        await client.compact(c)
    with _raises(errors.Compacted):
        await client.txn((), [Put(key("a")), Range(key("a"), revision=a)])


@_check
async def _compacting_the_current_revision_keeps_what_lives(client: Client, key: Key) -> None:
    await _put_all(client, key, "ab")
    last = _revision_of(await client.delete(key("a")))
    assert (await client.compact(last)).header.revision == last
    assert _keys_of(await client.range(_in_prefix(key))) == [key("b")]


# ---- leases ---------------------------------------------------------------------------------------------------------


@_check
async def _a_lease_from_grant_to_revoke(client: Client, key: Key) -> None:
    (before,) = await _put_all(client, key, "x")
    grant = await client.lease_grant(60)
    assert (grant.id > 0, grant.ttl, grant.header.revision) == (True, 60, before)
    await client.put(key("b"), b"1", lease=grant.id)
    await client.put(key("a"), b"1", lease=grant.id)
    left = await client.lease_time_to_live(grant.id, keys=True)
    assert (left.id, left.granted_ttl, sorted(left.keys)) == (grant.id, 60, [key("a"), key("b")])
    assert 55 <= left.ttl <= 60
    assert (await client.lease_time_to_live(grant.id)).keys == []
    assert grant.id in (await client.leases()).leases
    renewed = await client.lease_keep_alive(grant.id)
    assert (renewed.id, renewed.ttl) == (grant.id, 60)
    await client.lease_revoke(grant.id)
    found = await client.range(_in_prefix(key))
    assert (_keys_of(found), _revision_of(found)) == ([key("x")], before + 3)
    assert grant.id not in (await client.leases()).leases


@_check
async def _a_lease_by_id(client: Client, key: Key) -> None:
    for lease_id in (7_000_001, -7_000_001):
        granted = await client.lease_grant(60, lease_id)
        assert granted.id == lease_id
        with _raises(errors.LeaseExists, match=r"^etcdserver: lease already exists$"):
            await client.lease_grant(60, lease_id)
        await client.lease_revoke(lease_id)


@_check
async def _an_unknown_lease(client: Client, key: Key) -> None:
    assert (await client.lease_keep_alive(404)).ttl == 0
    left = await client.lease_time_to_live(404, keys=True)
    assert (left.id, left.ttl, left.granted_ttl, left.keys) == (404, -1, 0, [])
    assert left.header.revision > 0


@_check
async def _a_key_follows_its_last_lease(client: Client, key: Key) -> None:
    first, second = [(await client.lease_grant(60)).id for _ in range(2)]
    await client.put(key("a"), b"1", lease=first)
    await client.put(key("a"), b"2", lease=second)
    await client.lease_revoke(first)
    assert await client.get(key("a")) is not None
    await client.put(key("a"), b"3")
    await client.lease_revoke(second)
    assert await client.get(key("a")) is not None


@_check
async def _an_expired_lease_deletes_its_keys_in_one_revision(client: Client, key: Key) -> None:
    lease = (await client.lease_grant(2)).id
    await client.put(key("a"), b"1", lease=lease)
    last = _revision_of(await client.put(key("b"), b"1", lease=lease))
    async with client.watch(key(""), prefix_end(key("")), start_revision=last + 1) as watch:
        gone = await anext(watch)
    assert [(event.type, event.kv.key) for event in gone.events] == [
        (EventType.DELETE, key("a")),
        (EventType.DELETE, key("b")),
    ]
    assert len({event.kv.mod_revision for event in gone.events}) == 1
    assert (await client.lease_keep_alive(lease)).ttl == 0
    assert lease not in (await client.leases()).leases


# ---- watches --------------------------------------------------------------------------------------------------------


async def _collect(watch: Watch, count: int) -> list[Event]:
    """The next `count` events; a response must have whole revisions and they must ascend."""
    events: list[Event] = []
    while len(events) < count:
        response = await anext(watch)
        if events and response.events:
            assert response.events[0].kv.mod_revision > events[-1].kv.mod_revision
        events += response.events
    assert len(events) == count
    return events


def _seen(events: Sequence[Event]) -> list[tuple[EventType, bytes, int]]:
    return [(event.type, event.kv.key, event.kv.mod_revision) for event in events]


@_check
async def _a_watch_from_now(client: Client, key: Key) -> None:
    (before,) = await _put_all(client, key, "a")
    async with client.watch(key(""), prefix_end(key(""))) as watch:
        assert watch.created_revision == before
        made, other = await _put_all(client, key, "bc")
        assert _seen(await _collect(watch, 2)) == [
            (EventType.PUT, key("b"), made),
            (EventType.PUT, key("c"), other),
        ]


@_check
async def _a_live_event_carries_its_revision_in_the_header(client: Client, key: Key) -> None:
    async with client.watch(key("a")) as watch:
        (revision,) = await _put_all(client, key, "a")
        response = await anext(watch)
        assert response.header.revision == revision
        assert response.events == [Event(EventType.PUT, KeyValue(key("a"), b"a", revision, revision, 1))]


@_check
async def _a_watch_of_the_past(client: Client, key: Key) -> None:
    revisions = await _put_all(client, key, "abab")
    deleted = _revision_of(await client.delete(key(""), prefix_end(key(""))))
    async with client.watch(key("a"), start_revision=revisions[0]) as watch:
        assert _seen(await _collect(watch, 3)) == [
            (EventType.PUT, key("a"), revisions[0]),
            (EventType.PUT, key("a"), revisions[2]),
            (EventType.DELETE, key("a"), deleted),
        ]
    async with client.watch(key(""), prefix_end(key("")), start_revision=revisions[3]) as watch:
        assert _seen(await _collect(watch, 3)) == [
            (EventType.PUT, key("b"), revisions[3]),
            (EventType.DELETE, key("a"), deleted),
            (EventType.DELETE, key("b"), deleted),
        ]


@_check
async def _past_and_present_join_without_a_gap(client: Client, key: Key) -> None:
    first, *_ = await _put_all(client, key, "aaa")
    async with client.watch(key("a"), start_revision=first) as watch:
        await _put_all(client, key, "aaa")
        versions = [event.kv.version for event in await _collect(watch, 6)]
        assert versions == [1, 2, 3, 4, 5, 6]
        await _put_all(client, key, "a")
        assert [event.kv.version for event in await _collect(watch, 1)] == [7], "an event came twice"


@_check
async def _a_watch_of_the_future(client: Client, key: Key) -> None:
    (now,) = await _put_all(client, key, "a")
    async with client.watch(key("a"), start_revision=now + 3) as watch:
        assert watch.created_revision == now
        await _put_all(client, key, "aaa")
        assert _seen(await _collect(watch, 1)) == [(EventType.PUT, key("a"), now + 3)]


@_check
async def _a_delete_event_has_only_key_and_revision(client: Client, key: Key) -> None:
    (made,) = await _put_all(client, key, "a")
    async with client.watch(key("a"), prev_kv=True) as watch:
        deleted = _revision_of(await client.delete(key("a")))
        (event,) = await _collect(watch, 1)
    assert event == Event(
        EventType.DELETE,
        KeyValue(key("a"), b"", 0, deleted, 0),
        KeyValue(key("a"), b"a", made, made, 1),
    )


@_check
async def _prev_kv_live_and_from_history(client: Client, key: Key) -> None:
    first, _ = await _put_all(client, key, "aa")
    async with client.watch(key("a"), start_revision=first, prev_kv=True) as watch:
        await client.put(key("a"), b"live")
        before = [event.prev_kv.version if event.prev_kv else None for event in await _collect(watch, 3)]
        assert before == [None, 1, 2]
    async with client.watch(key("a"), start_revision=first) as watch:
        assert [event.prev_kv for event in await _collect(watch, 3)] == [None, None, None]


@_check
@_each("start", ["past", "now"])
async def _filters(client: Client, key: Key, start: str) -> None:
    async def change() -> tuple[int, int]:
        (made,) = await _put_all(client, key, "a")
        return made, _revision_of(await client.delete(key("a")))

    start_revision = 0
    if start == "past":
        made, deleted = await change()
        start_revision = made
    deletes = client.watch(key("a"), start_revision=start_revision, filters=[WatchFilter.NOPUT])
    puts = client.watch(key("a"), start_revision=start_revision, filters=[WatchFilter.NODELETE])
    async with deletes, puts:
        if start == "now":
            made, deleted = await change()
        assert _seen(await _collect(deletes, 1)) == [(EventType.DELETE, key("a"), deleted)]
        assert _seen(await _collect(puts, 1)) == [(EventType.PUT, key("a"), made)]


@_check
async def _all_events_of_a_revision_come_together(client: Client, key: Key) -> None:
    puts: list[Op] = [Put(key(f"{number:03}"), b"1") for number in range(100)]
    async with client.watch(key(""), prefix_end(key(""))) as watch:
        await client.txn((), puts)
        response = await anext(watch)
    assert [event.kv.key for event in response.events] == [key(f"{number:03}") for number in range(100)]


@_check
async def _a_watch_below_the_compaction_ends(client: Client, key: Key) -> None:
    first, second, third = await _put_all(client, key, "aaa")
    await client.compact(third)
    async with client.watch(key("a"), start_revision=second) as watch:
        with _raises(errors.Compacted) as caught:
            await anext(watch)
    assert caught.value.compact_revision == third
    async with client.watch(key("a"), start_revision=third) as watch:
        assert _seen(await _collect(watch, 1)) == [(EventType.PUT, key("a"), third)]
    assert first < second


@_check
async def _an_empty_range_is_refused(client: Client, key: Key) -> None:
    with _raises(errors.WatchCanceled, match=r"^mvcc: watcher range is empty$"):
        async with client.watch(key("b"), key("a")):
            pass


@_check
async def _no_key_is_the_smallest_key(client: Client, key: Key) -> None:
    async with client.watch(b"", b"\0") as everything:
        (made,) = await _put_all(client, key, "a")
        assert _seen(await _collect(everything, 1)) == [(EventType.PUT, key("a"), made)]


@_check
async def _progress_on_request(client: Client, key: Key) -> None:
    async with client.watch(key("a")) as watch:
        (elsewhere,) = await _put_all(client, key, "b")
        await watch.request_progress()
        progress = await anext(watch)
        assert (progress.events, progress.header.revision) == ([], elsewhere)
        (made,) = await _put_all(client, key, "a")
        assert _seen(await _collect(watch, 1)) == [(EventType.PUT, key("a"), made)]


@_check
async def _cancelling_a_pending_read_loses_nothing(client: Client, key: Key) -> None:
    async with client.watch(key("a")) as watch:
        for _ in range(5):
            reading = asyncio.create_task(anext(watch))
            await asyncio.sleep(0)
            reading.cancel()
            with _raises(asyncio.CancelledError):
                await reading
        await _put_all(client, key, "aaa")
        assert [event.kv.version for event in await _collect(watch, 3)] == [1, 2, 3]


@_check
async def _watches_are_independent(client: Client, key: Key) -> None:
    async with client.watch(key("a")) as one:
        async with client.watch(key(""), prefix_end(key(""))) as other:
            await _put_all(client, key, "a")
            assert len(await _collect(other, 1)) == 1
        (second,) = await _put_all(client, key, "a")
        assert [event.kv.mod_revision for event in await _collect(one, 2)][1] == second


@_check
async def _closing_the_client_ends_its_watches(client: Client, key: Key) -> None:
    async with client.watch(key("a")) as waiting, client.watch(key("a")) as idle:
        reading = asyncio.create_task(anext(waiting))
        await asyncio.sleep(0)
        await client.close()
        await client.close()
        with _raises(errors.Unavailable):
            await reading
        with _raises(errors.Unavailable):
            await anext(idle)
    with _raises(errors.Unavailable):
        await client.get(key("a"))


@_check
async def _a_watch_that_is_not_read_holds_up_no_other(client: Client, key: Key) -> None:
    async with client.watch(key("a")) as slow, client.watch(key("a")) as fast:
        for _ in range(30):
            made = _revision_of(await client.put(key("a"), bytes(100_000)))
            assert _seen(await _collect(fast, 1)) == [(EventType.PUT, key("a"), made)]
        assert [event.kv.version for event in await _collect(slow, 30)] == list(range(1, 31))


@_check
async def _many_watches_at_once(client: Client, key: Key) -> None:
    watches = [client.watch(key(f"{number % 10}")) for number in range(300)]
    await asyncio.gather(*(watch.__aenter__() for watch in watches))
    try:
        for digit in range(10):
            made = _revision_of(await client.put(key(f"{digit}"), b""))
            for watch in watches[digit::10]:
                assert _seen(await _collect(watch, 1)) == [(EventType.PUT, key(f"{digit}"), made)]
    finally:
        for watch in watches:
            await watch.__aexit__(None, None, None)


@_check
async def _a_watch_that_resumes_is_a_watch(client: Client, key: Key) -> None:
    first, second = await _put_all(client, key, "aa")
    async with client.watch(key("a"), start_revision=first, resume=True) as watch:
        assert [event.kv.mod_revision for event in await _collect(watch, 2)] == [first, second]
    await client.compact(second)
    with _raises(errors.Compacted):
        async with client.watch(key("a"), start_revision=first, resume=True) as watch:
            await anext(watch)


# ---- the member -----------------------------------------------------------------------------------------------------


@_check
async def _status(client: Client, key: Key) -> None:
    (revision,) = await _put_all(client, key, "a")
    status = await client.status()
    assert status.header.revision == revision
    assert min(status.leader, status.raft_term, status.raft_index, status.raft_applied_index) > 0
    assert 0 < status.db_size_in_use <= status.db_size
    assert status.version


@_check
async def _member_list(client: Client, key: Key) -> None:
    answer = await client.member_list()
    assert answer.header.member_id in [member.id for member in answer.members]
