"""One suite for every client: embedded, remote on our server, remote on a real etcd."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

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
from kvstore.client import EmbeddedClient, RemoteClient
from kvstore.node import Node

PREFIXES = itertools.count()


@pytest.fixture
async def embedded_client(node: Node) -> AsyncIterator[Client]:
    client = EmbeddedClient(node)
    yield client
    await client.close()


@pytest.fixture
async def remote_client(endpoint: str) -> AsyncIterator[Client]:
    async with RemoteClient([endpoint]) as client:
        yield client


@pytest.fixture
async def etcd_client(etcd: str) -> AsyncIterator[Client]:
    async with RemoteClient([etcd]) as client:
        yield client


@pytest.fixture(params=["embedded", "remote", "etcd"])
def client(request: pytest.FixtureRequest) -> Client:
    client: Client = request.getfixturevalue(f"{request.param}_client")
    return client


@pytest.fixture
def key() -> Callable[[str], bytes]:
    """Makes keys that no other test of this process uses."""
    prefix = f"/suite/{next(PREFIXES):06}/"
    return lambda name: (prefix + name).encode()


Key = Callable[[str], bytes]


def in_prefix(key: Key, **options: Any) -> Range:
    return Range(key(""), prefix_end(key("")), **options)


def keys_of(response: object) -> list[bytes]:
    assert isinstance(response, RangeResponse)
    return [kv.key for kv in response.kvs]


def revision_of(response: object) -> int:
    assert isinstance(response, PutResponse | DeleteRangeResponse | RangeResponse | TxnResponse)
    return response.header.revision


async def put_all(client: Client, key: Key, names: str) -> list[int]:
    """One put for each letter, its value the letter; the revisions."""
    return [revision_of(await client.put(key(name), name.encode())) for name in names]


# ---- keys -----------------------------------------------------------------------------------------------------------


async def test_a_put_makes_a_revision_and_counts_versions(client: Client, key: Key) -> None:
    first = revision_of(await client.put(key("a"), b"1"))
    second = revision_of(await client.put(key("a"), b"1"))
    assert second == first + 1
    assert await client.get(key("a")) == KeyValue(key("a"), b"1", first, second, 2)


async def test_prev_kv_is_the_whole_replaced_pair(client: Client, key: Key) -> None:
    assert (await client.put(key("a"), b"1", prev_kv=True)).prev_kv is None
    lease = (await client.lease_grant(60)).id
    second = revision_of(await client.put(key("a"), b"2", lease=lease))
    replaced = (await client.put(key("a"), b"3", prev_kv=True)).prev_kv
    assert replaced == KeyValue(key("a"), b"2", second - 1, second, 2, lease)
    now = await client.get(key("a"))
    assert now is not None
    assert now.lease == 0


async def test_empty_values_and_arbitrary_bytes(client: Client, key: Key) -> None:
    name, value = key("") + b"\x00\xff\n\x80", bytes(range(256))
    await client.put(name, value)
    await client.put(key("empty"), b"")
    found = await client.range(in_prefix(key))
    assert [(kv.key, kv.value) for kv in found.kvs] == [(name, value), (key("empty"), b"")]


async def test_a_header_says_who_answered_and_when(client: Client, key: Key) -> None:
    put = await client.put(key("a"), b"1")
    read = await client.range(Range(key("a"), revision=revision_of(put)))
    assert put.header == read.header
    assert min(put.header.cluster_id, put.header.member_id, put.header.raft_term) > 0


async def test_a_missing_key(client: Client, key: Key) -> None:
    assert await client.get(key("none")) is None
    found = await client.range(Range(key("none")))
    assert (found.kvs, found.more, found.count) == ([], False, 0)


async def test_reads_of_the_past_carry_the_current_revision(client: Client, key: Key) -> None:
    first, second = await put_all(client, key, "ab")
    await client.delete(key("a"))
    then = await client.range(in_prefix(key, revision=first))
    assert keys_of(then) == [key("a")]
    assert revision_of(then) == second + 1
    assert await client.get(key("a"), revision=second) == KeyValue(key("a"), b"a", first, first, 1)
    assert await client.get(key("a"), revision=-1) is None  # as 0


async def test_ranges(client: Client, key: Key) -> None:
    await put_all(client, key, "abcd")
    assert keys_of(await client.range(Range(key("b"), key("d")))) == [key("b"), key("c")]
    assert keys_of(await client.range(Range(key("d"), key("b")))) == []
    assert keys_of(await client.range(Range(key("b"), key("b")))) == []
    everything = keys_of(await client.range(Range(b"\0", b"\0")))
    assert [found for found in everything if found.startswith(key(""))] == [key(name) for name in "abcd"]
    from_c = keys_of(await client.range(Range(key("c"), b"\0")))
    assert from_c[:2] == [key("c"), key("d")]


async def test_limit_more_and_count(client: Client, key: Key) -> None:
    await put_all(client, key, "abcd")
    cut = await client.range(in_prefix(key, limit=2))
    assert (keys_of(cut), cut.more, cut.count) == ([key("a"), key("b")], True, 4)
    exact = await client.range(in_prefix(key, limit=4))
    assert (len(exact.kvs), exact.more, exact.count) == (4, False, 4)
    negative = await client.range(in_prefix(key, limit=-1))
    assert (len(negative.kvs), negative.more) == (4, False)


async def test_pages_at_one_revision(client: Client, key: Key) -> None:
    *_, last = await put_all(client, key, "abcde")
    await client.delete(key("d"))
    seen: list[bytes] = []
    start = key("")
    while True:
        page = await client.range(Range(start, prefix_end(key("")), limit=2, revision=last))
        seen += keys_of(page)
        assert page.count == 5 - len(seen) + len(page.kvs)
        if not page.more:
            break
        start = page.kvs[-1].key + b"\0"
    assert seen == [key(name) for name in "abcde"]


async def test_count_only_and_keys_only(client: Client, key: Key) -> None:
    await put_all(client, key, "abc")
    counted = await client.range(in_prefix(key, count_only=True, limit=1))
    assert (counted.kvs, counted.more, counted.count) == ([], False, 3)
    plain = await client.range(in_prefix(key))
    named = await client.range(in_prefix(key, keys_only=True))
    assert [kv.value for kv in named.kvs] == [b"", b"", b""]
    assert [(kv.key, kv.mod_revision, kv.version) for kv in named.kvs] == [
        (kv.key, kv.mod_revision, kv.version) for kv in plain.kvs
    ]


@pytest.mark.parametrize("target", SortTarget)
@pytest.mark.parametrize("order", SortOrder)
async def test_sorting(client: Client, key: Key, target: SortTarget, order: SortOrder) -> None:
    # Every target puts these in a different order.
    for put in ["b5", "a4", "c3", "a9", "b1", "a2", "d3"]:
        await client.put(key(put[0]), put[1].encode())
    found = await client.range(in_prefix(key, sort_target=target, sort_order=order))
    measure: Callable[[KeyValue], int | bytes] = {
        SortTarget.KEY: lambda kv: kv.key,
        SortTarget.VERSION: lambda kv: kv.version,
        SortTarget.CREATE: lambda kv: kv.create_revision,
        SortTarget.MOD: lambda kv: kv.mod_revision,
        SortTarget.VALUE: lambda kv: kv.value,
    }[target]
    measured = [measure(kv) for kv in found.kvs]
    assert measured == sorted(measured, reverse=order == SortOrder.DESCEND)
    assert sorted(keys_of(found)) == [key(name) for name in "abcd"]


async def test_a_limit_is_applied_after_an_explicit_order(client: Client, key: Key) -> None:
    await put_all(client, key, "cab")
    found = await client.range(in_prefix(key, sort_target=SortTarget.MOD, sort_order=SortOrder.DESCEND, limit=1))
    assert (keys_of(found), found.more, found.count) == ([key("b")], True, 3)


async def test_without_an_order_the_limit_comes_before_the_sort(client: Client, key: Key) -> None:
    await put_all(client, key, "dcba")
    found = await client.range(in_prefix(key, sort_target=SortTarget.MOD, limit=2))
    assert found.more
    # etcd fetches limit + 1 by key (a, b, c), and sorts only those by mod_revision.
    assert keys_of(found) == [key("c"), key("b")]


async def test_revision_bounds_are_inclusive_and_leave_the_count(client: Client, key: Key) -> None:
    a, b, c, d = await put_all(client, key, "abcd")
    newest = revision_of(await client.put(key("a"), b"again"))
    by_mod = await client.range(in_prefix(key, min_mod_revision=c, max_mod_revision=d))
    assert (keys_of(by_mod), by_mod.count, by_mod.more) == ([key("c"), key("d")], 4, False)
    by_create = await client.range(in_prefix(key, min_create_revision=a, max_create_revision=b))
    assert keys_of(by_create) == [key("a"), key("b")]
    both = await client.range(in_prefix(key, max_create_revision=b, min_mod_revision=newest, limit=1))
    assert (keys_of(both), both.more) == ([key("a")], False)


async def test_serializable_reads(client: Client, key: Key) -> None:
    await put_all(client, key, "ab")
    assert keys_of(await client.range(in_prefix(key, serializable=True))) == [key("a"), key("b")]


async def test_delete(client: Client, key: Key) -> None:
    *_, last = await put_all(client, key, "abcd")
    one = await client.delete(key("a"))
    assert (one.deleted, one.prev_kvs, revision_of(one)) == (1, [], last + 1)
    some = await client.delete(key(""), prefix_end(key("")), prev_kv=True)
    assert (some.deleted, [kv.key for kv in some.prev_kvs]) == (3, [key(name) for name in "bcd"])
    assert revision_of(some) == last + 2
    nothing = await client.delete(key("a"), prev_kv=True)
    assert (nothing.deleted, nothing.prev_kvs, revision_of(nothing)) == (0, [], last + 2)


async def test_a_key_made_again_starts_over(client: Client, key: Key) -> None:
    await put_all(client, key, "aa")
    await client.delete(key("a"))
    made = revision_of(await client.put(key("a"), b"new"))
    assert await client.get(key("a")) == KeyValue(key("a"), b"new", made, made, 1)


# ---- transactions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "less", "equal", "greater"),
    [
        (CompareResult.EQUAL, False, True, False),
        (CompareResult.NOT_EQUAL, True, False, True),
        (CompareResult.LESS, True, False, False),
        (CompareResult.GREATER, False, False, True),
    ],
)
@pytest.mark.parametrize("target", CompareTarget)
async def test_compares(
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


@pytest.mark.parametrize("target", CompareTarget)
async def test_compares_of_a_missing_key(client: Client, key: Key, target: CompareTarget) -> None:
    zero: int | bytes = b"" if target == CompareTarget.VALUE else 0
    for result in CompareResult:
        txn = await client.txn([Compare(key("none"), target, result, zero)])
        assert txn.succeeded is (result == CompareResult.EQUAL and target != CompareTarget.VALUE)


async def test_compares_of_a_range_hold_for_every_key(client: Client, key: Key) -> None:
    first, _ = await put_all(client, key, "ab")
    end = prefix_end(key(""))
    created = Compare(key(""), CompareTarget.CREATE, CompareResult.GREATER, first - 1, end)
    assert (await client.txn([created])).succeeded
    later = Compare(key(""), CompareTarget.CREATE, CompareResult.GREATER, first, end)
    assert not (await client.txn([later])).succeeded
    nobody = Compare(key("x"), CompareTarget.VERSION, CompareResult.EQUAL, 0, key("z"))
    assert (await client.txn([nobody])).succeeded


async def test_a_txn_is_one_revision_and_reads_its_own_writes(client: Client, key: Key) -> None:
    before = revision_of(await client.put(key("a"), b"1"))
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
    assert revision_of(txn) == before + 1
    put, read, deleted, _, everything = txn.responses
    assert put == PutResponse(Header(0, 0, before + 1, 0))
    assert read == RangeResponse(
        Header(0, 0, before + 1, 0), [KeyValue(key("b"), b"2", before + 1, before + 1, 1)], False, 1
    )
    assert isinstance(deleted, DeleteRangeResponse)
    assert (deleted.deleted, [kv.value for kv in deleted.prev_kvs]) == (1, [b"1"])
    assert keys_of(everything) == [key("b"), key("c")]


async def test_the_failure_branch(client: Client, key: Key) -> None:
    txn = await client.txn(
        [Compare(key("a"), CompareTarget.VERSION, CompareResult.GREATER, 0)],
        [Put(key("a"), b"yes")],
        [Put(key("a"), b"no"), Range(key("a"))],
    )
    assert not txn.succeeded
    assert isinstance(txn.responses[1], RangeResponse)
    assert [kv.value for kv in txn.responses[1].kvs] == [b"no"]


async def test_reads_change_no_revision(client: Client, key: Key) -> None:
    (last,) = await put_all(client, key, "a")
    empty = await client.txn()
    assert (empty.succeeded, empty.responses, revision_of(empty)) == (True, [], last)
    reads = await client.txn((), [Range(key("a")), Txn((), (Range(key("a")),))])
    assert revision_of(reads) == last
    deletes_nothing = await client.txn((), [DeleteRange(key("none"))])
    assert revision_of(deletes_nothing) == last


async def test_nested_txns(client: Client, key: Key) -> None:
    before = revision_of(await client.put(key("a"), b"1"))
    inner = Txn(
        # Compares see the state before the whole transaction: a is still 1.
        (Compare(key("a"), CompareTarget.VALUE, CompareResult.EQUAL, b"1"),),
        (Put(key("b"), b"then"), Txn((), (Range(key("a")),))),
        (Put(key("b"), b"else"),),
    )
    txn = await client.txn((), [Put(key("a"), b"2"), inner])
    assert revision_of(txn) == before + 1
    nested = txn.responses[1]
    assert isinstance(nested, TxnResponse)
    assert nested.succeeded
    assert nested.header == Header(0, 0, 0, 0)
    assert nested.responses[0] == PutResponse(Header(0, 0, before + 1, 0))
    deepest = nested.responses[1]
    assert isinstance(deepest, TxnResponse)
    assert isinstance(deepest.responses[0], RangeResponse)
    assert [kv.value for kv in deepest.responses[0].kvs] == [b"2"]


async def test_ignore_value_and_ignore_lease(client: Client, key: Key) -> None:
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


async def test_a_refused_txn_changes_nothing(client: Client, key: Key) -> None:
    (last,) = await put_all(client, key, "a")
    with pytest.raises(errors.LeaseNotFound):
        await client.txn((), [Put(key("b"), b"1"), DeleteRange(key("a")), Put(key("c"), b"1", lease=404)])
    found = await client.range(in_prefix(key))
    assert (keys_of(found), revision_of(found)) == ([key("a")], last)


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


@pytest.mark.parametrize(("kind", "call"), REFUSED)
async def test_refusals_have_etcds_status_and_text(
    client: Client, key: Key, kind: type[errors.KvError], call: Callable[[Client, Key], Client]
) -> None:
    await client.compact(revision_of(await client.put(key("other"), b"1")))  # so that compacting below is refused
    with pytest.raises(errors.KvError) as caught:
        await call(client, key)  # type: ignore[misc]
    assert type(caught.value) is kind
    assert (caught.value.code, str(caught.value)) == (kind.code, kind.message)
    assert await client.get(key("a")) is None


@pytest.mark.parametrize("client", ["embedded", "remote"], indirect=True)  # etcd 3.5.1 dies of it
async def test_unknown_sort_options_are_refused(client: Client, key: Key) -> None:
    for request in (Range(key("a"), sort_order=7), Range(key("a"), sort_target=7)):
        with pytest.raises(errors.InvalidSortOption, match=r"^etcdserver: invalid sort option$"):
            await client.range(request)
        with pytest.raises(errors.InvalidSortOption):
            await client.txn((), [request])


async def test_limits_are_met_exactly(client: Client, key: Key) -> None:
    assert (await client.txn((), [Range(key("a"))] * 128)).succeeded
    assert (await client.txn((), [Range(key("a"))] * 99 + [Txn((), (Range(key("a")),) * 28)])).succeeded
    # Siblings are judged in their order: this one is legal, the other way round is not.
    txn = await client.txn((), [Txn((), (Put(key("a")),)), Txn((), (DeleteRange(key("a")),))])
    deleted = txn.responses[1]
    assert isinstance(deleted, TxnResponse)
    assert isinstance(deleted.responses[0], DeleteRangeResponse)
    assert deleted.responses[0].deleted == 1


# ---- compaction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("physical", [False, True])
async def test_compaction(client: Client, key: Key, physical: bool) -> None:
    a, b, c, _ = await put_all(client, key, "abca")
    await client.delete(key("b"))
    answer = await client.compact(c, physical=physical)
    assert answer.header.revision == c + 2
    with pytest.raises(errors.Compacted):
        await client.get(key("a"), revision=b)
    assert await client.get(key("a"), revision=c) == KeyValue(key("a"), b"a", a, a, 1)
    assert keys_of(await client.range(in_prefix(key, revision=c))) == [key("a"), key("b"), key("c")]
    with pytest.raises(errors.Compacted):
        await client.compact(c)
    with pytest.raises(errors.Compacted):
        await client.txn((), [Put(key("a")), Range(key("a"), revision=a)])


async def test_compacting_the_current_revision_keeps_what_lives(client: Client, key: Key) -> None:
    await put_all(client, key, "ab")
    last = revision_of(await client.delete(key("a")))
    assert (await client.compact(last)).header.revision == last
    assert keys_of(await client.range(in_prefix(key))) == [key("b")]


# ---- leases ---------------------------------------------------------------------------------------------------------


async def test_a_lease_from_grant_to_revoke(client: Client, key: Key) -> None:
    (before,) = await put_all(client, key, "x")
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
    found = await client.range(in_prefix(key))
    assert (keys_of(found), revision_of(found)) == ([key("x")], before + 3)
    assert grant.id not in (await client.leases()).leases


async def test_a_lease_by_id(client: Client) -> None:
    for lease_id in (7_000_001, -7_000_001):
        granted = await client.lease_grant(60, lease_id)
        assert granted.id == lease_id
        with pytest.raises(errors.LeaseExists, match=r"^etcdserver: lease already exists$"):
            await client.lease_grant(60, lease_id)
        await client.lease_revoke(lease_id)


@pytest.mark.parametrize("ttl", [-5, 0, 1, 2])
async def test_the_smallest_ttl_is_two_seconds(client: Client, ttl: int) -> None:
    assert (await client.lease_grant(ttl)).ttl == 2


async def test_an_unknown_lease(client: Client) -> None:
    assert (await client.lease_keep_alive(404)).ttl == 0
    left = await client.lease_time_to_live(404, keys=True)
    assert (left.id, left.ttl, left.granted_ttl, left.keys) == (404, -1, 0, [])
    assert left.header.revision > 0


async def test_a_key_follows_its_last_lease(client: Client, key: Key) -> None:
    first, second = [(await client.lease_grant(60)).id for _ in range(2)]
    await client.put(key("a"), b"1", lease=first)
    await client.put(key("a"), b"2", lease=second)
    await client.lease_revoke(first)
    assert await client.get(key("a")) is not None
    await client.put(key("a"), b"3")
    await client.lease_revoke(second)
    assert await client.get(key("a")) is not None


async def test_an_expired_lease_deletes_its_keys_in_one_revision(client: Client, key: Key) -> None:
    lease = (await client.lease_grant(2)).id
    await client.put(key("a"), b"1", lease=lease)
    last = revision_of(await client.put(key("b"), b"1", lease=lease))
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


async def collect(watch: Watch, count: int) -> list[Event]:
    """The next `count` events; a response must have whole revisions and they must ascend."""
    events: list[Event] = []
    while len(events) < count:
        response = await anext(watch)
        if events and response.events:
            assert response.events[0].kv.mod_revision > events[-1].kv.mod_revision
        events += response.events
    assert len(events) == count
    return events


def seen(events: Sequence[Event]) -> list[tuple[EventType, bytes, int]]:
    return [(event.type, event.kv.key, event.kv.mod_revision) for event in events]


async def test_a_watch_from_now(client: Client, key: Key) -> None:
    (before,) = await put_all(client, key, "a")
    async with client.watch(key(""), prefix_end(key(""))) as watch:
        assert watch.created_revision == before
        made, other = await put_all(client, key, "bc")
        assert seen(await collect(watch, 2)) == [
            (EventType.PUT, key("b"), made),
            (EventType.PUT, key("c"), other),
        ]


async def test_a_live_event_carries_its_revision_in_the_header(client: Client, key: Key) -> None:
    async with client.watch(key("a")) as watch:
        (revision,) = await put_all(client, key, "a")
        response = await anext(watch)
        assert response.header.revision == revision
        assert response.events == [Event(EventType.PUT, KeyValue(key("a"), b"a", revision, revision, 1))]


async def test_a_watch_of_the_past(client: Client, key: Key) -> None:
    revisions = await put_all(client, key, "abab")
    deleted = revision_of(await client.delete(key(""), prefix_end(key(""))))
    async with client.watch(key("a"), start_revision=revisions[0]) as watch:
        assert seen(await collect(watch, 3)) == [
            (EventType.PUT, key("a"), revisions[0]),
            (EventType.PUT, key("a"), revisions[2]),
            (EventType.DELETE, key("a"), deleted),
        ]
    async with client.watch(key(""), prefix_end(key("")), start_revision=revisions[3]) as watch:
        assert seen(await collect(watch, 3)) == [
            (EventType.PUT, key("b"), revisions[3]),
            (EventType.DELETE, key("a"), deleted),
            (EventType.DELETE, key("b"), deleted),
        ]


async def test_past_and_present_join_without_a_gap(client: Client, key: Key) -> None:
    first, *_ = await put_all(client, key, "aaa")
    async with client.watch(key("a"), start_revision=first) as watch:
        await put_all(client, key, "aaa")
        versions = [event.kv.version for event in await collect(watch, 6)]
        assert versions == [1, 2, 3, 4, 5, 6]


async def test_a_watch_of_the_future(client: Client, key: Key) -> None:
    (now,) = await put_all(client, key, "a")
    async with client.watch(key("a"), start_revision=now + 3) as watch:
        assert watch.created_revision == now
        await put_all(client, key, "aaa")
        assert seen(await collect(watch, 1)) == [(EventType.PUT, key("a"), now + 3)]


async def test_a_delete_event_has_only_key_and_revision(client: Client, key: Key) -> None:
    (made,) = await put_all(client, key, "a")
    async with client.watch(key("a"), prev_kv=True) as watch:
        deleted = revision_of(await client.delete(key("a")))
        (event,) = await collect(watch, 1)
    assert event == Event(
        EventType.DELETE,
        KeyValue(key("a"), b"", 0, deleted, 0),
        KeyValue(key("a"), b"a", made, made, 1),
    )


async def test_prev_kv_live_and_from_history(client: Client, key: Key) -> None:
    first, _ = await put_all(client, key, "aa")
    async with client.watch(key("a"), start_revision=first, prev_kv=True) as watch:
        await client.put(key("a"), b"live")
        before = [event.prev_kv.version if event.prev_kv else None for event in await collect(watch, 3)]
        assert before == [None, 1, 2]
    async with client.watch(key("a"), start_revision=first) as watch:
        assert [event.prev_kv for event in await collect(watch, 3)] == [None, None, None]


@pytest.mark.parametrize("start", ["past", "now"])
async def test_filters(client: Client, key: Key, start: str) -> None:
    async def change() -> tuple[int, int]:
        (made,) = await put_all(client, key, "a")
        return made, revision_of(await client.delete(key("a")))

    start_revision = 0
    if start == "past":
        made, deleted = await change()
        start_revision = made
    deletes = client.watch(key("a"), start_revision=start_revision, filters=[WatchFilter.NOPUT])
    puts = client.watch(key("a"), start_revision=start_revision, filters=[WatchFilter.NODELETE])
    async with deletes, puts:
        if start == "now":
            made, deleted = await change()
        assert seen(await collect(deletes, 1)) == [(EventType.DELETE, key("a"), deleted)]
        assert seen(await collect(puts, 1)) == [(EventType.PUT, key("a"), made)]


async def test_all_events_of_a_revision_come_together(client: Client, key: Key) -> None:
    puts: list[Op] = [Put(key(f"{number:03}"), b"1") for number in range(100)]
    async with client.watch(key(""), prefix_end(key(""))) as watch:
        await client.txn((), puts)
        response = await anext(watch)
    assert [event.kv.key for event in response.events] == [key(f"{number:03}") for number in range(100)]


async def test_a_watch_below_the_compaction_ends(client: Client, key: Key) -> None:
    first, second, third = await put_all(client, key, "aaa")
    await client.compact(third)
    async with client.watch(key("a"), start_revision=second) as watch:
        with pytest.raises(errors.Compacted) as caught:
            await anext(watch)
    assert caught.value.compact_revision == third
    async with client.watch(key("a"), start_revision=third) as watch:
        assert seen(await collect(watch, 1)) == [(EventType.PUT, key("a"), third)]
    assert first < second


async def test_an_empty_range_is_refused(client: Client, key: Key) -> None:
    with pytest.raises(errors.WatchCanceled, match=r"^mvcc: watcher range is empty$"):
        async with client.watch(key("b"), key("a")):
            pass


@pytest.mark.parametrize("client", ["embedded", "remote"], indirect=True)  # etcd 3.5.1 does not refuse it yet
async def test_a_negative_start_is_refused(client: Client, key: Key) -> None:
    with pytest.raises(errors.Compacted):
        async with client.watch(key("a"), start_revision=-1):
            pass


async def test_no_key_is_the_smallest_key(client: Client, key: Key) -> None:
    async with client.watch(b"", b"\0") as everything:
        (made,) = await put_all(client, key, "a")
        assert seen(await collect(everything, 1)) == [(EventType.PUT, key("a"), made)]


async def test_progress_on_request(client: Client, key: Key) -> None:
    async with client.watch(key("a")) as watch:
        (elsewhere,) = await put_all(client, key, "b")
        await watch.request_progress()
        progress = await anext(watch)
        assert (progress.events, progress.header.revision) == ([], elsewhere)
        (made,) = await put_all(client, key, "a")
        assert seen(await collect(watch, 1)) == [(EventType.PUT, key("a"), made)]


async def test_periodic_progress(client: Client, key: Key) -> None:
    async with client.watch(key("a"), progress_notify=True) as watch:
        (elsewhere,) = await put_all(client, key, "b")
        while (progress := await anext(watch)).header.revision < elsewhere:
            assert progress.events == []
        assert (progress.events, progress.header.revision) == ([], elsewhere)


async def test_cancelling_a_pending_read_loses_nothing(client: Client, key: Key) -> None:
    async with client.watch(key("a")) as watch:
        for _ in range(5):
            reading = asyncio.create_task(anext(watch))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        await put_all(client, key, "aaa")
        assert [event.kv.version for event in await collect(watch, 3)] == [1, 2, 3]


async def test_watches_are_independent(client: Client, key: Key) -> None:
    async with client.watch(key("a")) as one:
        async with client.watch(key(""), prefix_end(key(""))) as other:
            await put_all(client, key, "a")
            assert len(await collect(other, 1)) == 1
        (second,) = await put_all(client, key, "a")
        assert [event.kv.mod_revision for event in await collect(one, 2)][1] == second


async def test_closing_the_client_ends_its_watches(client: Client, key: Key) -> None:
    async with client.watch(key("a")) as waiting, client.watch(key("a")) as idle:
        reading = asyncio.create_task(anext(waiting))
        await asyncio.sleep(0)
        await client.close()
        await client.close()
        with pytest.raises(errors.Unavailable):
            await reading
        with pytest.raises(errors.Unavailable):
            await anext(idle)
    with pytest.raises(errors.Unavailable):
        await client.get(key("a"))


# ---- the member -----------------------------------------------------------------------------------------------------


async def test_status(client: Client, key: Key) -> None:
    (revision,) = await put_all(client, key, "a")
    status = await client.status()
    assert status.header.revision == revision
    assert status.leader == status.header.member_id
    assert status.version.startswith("3.5.")
    assert 0 < status.db_size_in_use <= status.db_size
    assert min(status.raft_term, status.raft_index, status.raft_applied_index) > 0
    assert (status.errors, status.is_learner) == ([], False)


async def test_member_list(client: Client) -> None:
    answer = await client.member_list()
    (member,) = answer.members
    assert (member.id, member.name, member.is_learner) == (answer.header.member_id, "default", False)
    assert answer.header.revision == 0


async def test_both_clients_see_one_store(node: Node, endpoint: str, key: Key) -> None:
    embedded = EmbeddedClient(node)
    async with RemoteClient([endpoint]) as remote:
        async with remote.watch(key("a")) as watch:
            (made,) = await put_all(embedded, key, "a")
            assert seen(await collect(watch, 1)) == [(EventType.PUT, key("a"), made)]
        assert await remote.get(key("a")) == await embedded.get(key("a"))
        assert (await remote.status()).header == (await embedded.status()).header
