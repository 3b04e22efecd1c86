"""One suite for every client: embedded, remote on our server, remote on a real etcd. The checks are the public ones."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, TypeAlias, cast

import msgspec
import pytest

from kvstore import errors
from kvstore.api import (
    Client,
    CompactResponse,
    EventType,
    KeyValue,
    PutResponse,
    Range,
    RangeResponse,
    Watch,
    WatchResponse,
)
from kvstore.client import EmbeddedClient, RemoteClient
from kvstore.conformance import CHECKS, Nonconforming, check_client
from kvstore.node import Node

Key: TypeAlias = Callable[[str], bytes]
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


@pytest.mark.parametrize("check", CHECKS)
async def test_our_clients_conform(client: Client, check: str) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[Client]:
        yield client

    assert await check_client(make, only=[check]) == [check]


# ---- what only these servers promise --------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["embedded", "remote"], indirect=True)  # etcd 3.5.1 dies of it
async def test_unknown_sort_options_are_refused(client: Client, key: Key) -> None:
    for request in (Range(key("a"), sort_order=7), Range(key("a"), sort_target=7)):
        with pytest.raises(errors.InvalidSortOption, match=r"^etcdserver: invalid sort option$"):
            await client.range(request)
        with pytest.raises(errors.InvalidSortOption):
            await client.txn((), [request])


@pytest.mark.parametrize("ttl", [-5, 0, 1, 2])
async def test_the_smallest_ttl_is_two_seconds(client: Client, ttl: int) -> None:
    assert (await client.lease_grant(ttl)).ttl == 2


@pytest.mark.parametrize("client", ["embedded", "remote"], indirect=True)  # etcd 3.5.1 does not refuse it yet
async def test_a_negative_start_is_refused(client: Client, key: Key) -> None:
    with pytest.raises(errors.Compacted):
        async with client.watch(key("a"), start_revision=-1):
            pass


async def test_periodic_progress(client: Client, key: Key) -> None:
    async with client.watch(key("a"), progress_notify=True) as watch:
        (elsewhere,) = [(await client.put(key("b"), b"")).header.revision]
        while (progress := await anext(watch)).header.revision < elsewhere:
            assert progress.events == []
        assert (progress.events, progress.header.revision) == ([], elsewhere)


async def test_status(client: Client, key: Key) -> None:
    (revision,) = [(await client.put(key("a"), b"")).header.revision]
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
            made = (await embedded.put(key("a"), b"a")).header.revision
            assert [event.kv.mod_revision for event in (await anext(watch)).events] == [made]
        assert await remote.get(key("a")) == await embedded.get(key("a"))
        assert (await remote.status()).header == (await embedded.status()).header


# ---- the conformance checks find what they are there for ------------------------------------------------------------


class Broken:
    """An embedded client with one fault. What it does not define is the client's own."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)


class ForgetsLeases(Broken):
    async def put(self, key: bytes, value: bytes, *, lease: int = 0, prev_kv: bool = False) -> PutResponse:
        return await self.client.put(key, value, prev_kv=prev_kv)


class ReadsThePresent(Broken):
    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        return await self.client.get(key)


class IgnoresLimits(Broken):
    async def range(self, request: Range) -> RangeResponse:
        return await self.client.range(msgspec.structs.replace(request, limit=0))


class OwnErrors(Broken):
    async def compact(self, revision: int, *, physical: bool = False) -> CompactResponse:
        try:
            return await self.client.compact(revision, physical=physical)
        except errors.KvError as error:
            raise errors.KvError(str(error), code=error.code) from None


class StaysOpen(Broken):
    async def close(self) -> None:
        return


class BrokenWatch(Broken):
    """A client whose watches pass through `given`."""

    def watch(self, *args: Any, **options: Any) -> Watch:
        return FilteredWatch(self.client.watch(*args, **options), self.given)

    def given(self, response: WatchResponse) -> list[WatchResponse]:
        return [response]


class FilteredWatch:
    def __init__(self, watch: Watch, given: Callable[[WatchResponse], list[WatchResponse]]) -> None:
        self._watch = watch
        self._given = given
        self._ready: list[WatchResponse] = []

    @property
    def created_revision(self) -> int:
        return self._watch.created_revision

    async def __aenter__(self) -> Self:
        await self._watch.__aenter__()
        return self

    async def __aexit__(self, *reason: Any) -> None:
        await self._watch.__aexit__(*reason)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchResponse:
        while not self._ready:
            self._ready += self._given(await self._watch.__anext__())
        return self._ready.pop(0)

    async def request_progress(self) -> None:
        await self._watch.request_progress()


class TellsTwice(BrokenWatch):
    def given(self, response: WatchResponse) -> list[WatchResponse]:
        return [response, response]


class PartsRevisions(BrokenWatch):
    def given(self, response: WatchResponse) -> list[WatchResponse]:
        return [msgspec.structs.replace(response, events=[event]) for event in response.events] or [response]


class DropsDeletes(BrokenWatch):
    def given(self, response: WatchResponse) -> list[WatchResponse]:
        left = [event for event in response.events if event.type is EventType.PUT]
        return [msgspec.structs.replace(response, events=left)] if left or not response.events else []


class NoProgress(BrokenWatch):
    def given(self, response: WatchResponse) -> list[WatchResponse]:
        return [response] if response.events else []


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (ForgetsLeases, "a_lease_from_grant_to_revoke"),
        (ReadsThePresent, "reads_of_the_past_carry_the_current_revision"),
        (IgnoresLimits, "limit_more_and_count"),
        (OwnErrors, "compaction[False]"),
        (StaysOpen, "closing_the_client_ends_its_watches"),
        (TellsTwice, "past_and_present_join_without_a_gap"),
        (PartsRevisions, "all_events_of_a_revision_come_together"),
        (DropsDeletes, "a_watch_of_the_past"),
        (NoProgress, "progress_on_request"),
    ],
)
async def test_a_broken_client_is_found(node: Node, broken: type[Broken], check: str) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[Client]:
        client = EmbeddedClient(node)
        try:
            yield cast(Client, broken(client))
        finally:
            await client.close()

    with pytest.raises(Nonconforming) as caught:
        await check_client(make, only=[check], patience=0.5)
    assert caught.value.check == check
    assert " at line " in str(caught.value)


async def test_all_checks_in_one_call_and_again(node: Node) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[Client]:
        yield EmbeddedClient(node)

    some = [name for name in CHECKS if "expired" not in name]
    assert await check_client(make, only=some) == some
    assert await check_client(make, only=some, prefix="/conformance/") == some
