"""Leader election and fencing, on virtual time and a real store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from controllers.core.types import ConfigMap, Lease
from controllers.errors import LeadershipLost
from controllers.leader import LeaderElection, LeaderElector
from informer import Fenced, ObjectClient
from kvstore.api import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    LeaseKeepAliveResponse,
    Put,
    Range,
    RangeResponse,
    TxnResponse,
)
from kvstore.client.embedded import EmbeddedClient
from kvstore.client.fenced import Fence, FencedClient
from kvstore.errors import Fenced as StoreFenced
from kvstore.errors import Unavailable
from kvstore.node import Node

pytestmark = pytest.mark.virtual_time

ELECTION = LeaderElection("website")
KEY = Lease.TYPE.key("default", "website")


class Unreliable(EmbeddedClient):
    """A connection that can be taken down, and can lose the reply to one transaction that took place."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.down = False
        self.hangs = False
        self.lose_replies = 0

    async def lease_keep_alive(self, lease_id: int) -> LeaseKeepAliveResponse:
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.down:
            raise Unavailable
        return await super().lease_keep_alive(lease_id)

    async def txn(self, *arguments: object, **options: object) -> TxnResponse:
        answer = await super().txn(*arguments, **options)  # type: ignore[arg-type]
        if self.lose_replies:
            self.lose_replies -= 1
            raise Unavailable
        return answer


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=asyncio.get_running_loop().time())


def candidate(client: EmbeddedClient, name: str, election: LeaderElection = ELECTION) -> LeaderElector:
    named = LeaderElection(**{**{f: getattr(election, f) for f in election.__struct_fields__}, "identity": name})
    return LeaderElector(client, named, now=now, rng=random.Random(name))


def unreliable(store: EmbeddedClient) -> Unreliable:
    return Unreliable(store._node)


@asynccontextmanager
async def leading(elector: LeaderElector) -> AsyncIterator[asyncio.Task[None]]:
    """The elector leads, and goes on renewing; it falls silent, without a release, at the end."""
    await elector.acquire()
    task = asyncio.create_task(elector.hold())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def elapsed(awaitable: asyncio.Task[Fence]) -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await awaitable
    return loop.time() - started


async def standing_by(elector: LeaderElector) -> asyncio.Task[Fence]:
    """A candidate that has seen that another one leads."""
    task = asyncio.create_task(elector.acquire())
    while not elector.holder:
        await asyncio.sleep(0.01)
    return task


async def test_a_lone_candidate_leads_and_its_lease_says_so(store: EmbeddedClient) -> None:
    elector = candidate(store, "a")
    assert not elector.statistics().is_leader
    async with leading(elector):
        lease = await ObjectClient(store).get(Lease, "website", "default")
        assert lease.spec.holder_identity == "a"
        assert lease.spec.lease_duration_seconds == 15
        assert elector.fence == Fence(KEY, int(lease.metadata.resource_version or 0))
        assert elector.statistics().is_leader
        await asyncio.sleep(100)
        assert elector.is_leader
        assert elector.statistics().renewals > 20
        found = await store.get(KEY)
        assert found is not None
        assert found.version == 1  # renewals write nothing


async def test_a_release_hands_over_at_once_with_a_higher_token(store: EmbeddedClient) -> None:
    first, second = candidate(store, "a"), candidate(store, "b")
    async with leading(first):
        waiting = await standing_by(second)
        assert second.holder == "a"
        token = first.fence
    assert token is not None
    await first.release()
    assert await elapsed(waiting) < 0.1
    assert second.fence is not None
    assert second.fence.create_revision > token.create_revision
    lease = await ObjectClient(store).get(Lease, "website", "default")
    assert (lease.spec.holder_identity, lease.spec.lease_transitions) == ("b", 1)
    await second.release()
    assert await store.get(KEY) is None
    assert (await store.leases()).leases == []


async def test_a_silent_leader_is_followed_when_its_lease_ends_and_stops_before(store: EmbeddedClient) -> None:
    first, second = candidate(store, "a"), candidate(store, "b")
    async with leading(first):
        waiting = await standing_by(second)
        await asyncio.sleep(60)
        assert not waiting.done()
    silent_since = asyncio.get_running_loop().time()
    while not second.is_leader:
        assert not (first.is_leader and second.is_leader)
        await asyncio.sleep(0.1)
    assert not first.is_leader
    taken_after = asyncio.get_running_loop().time() - silent_since
    assert ELECTION.renew_deadline < taken_after <= ELECTION.lease_seconds + 1.5  # expiry is looked for each 0.5 s
    await waiting
    await second.release()


@pytest.mark.parametrize("fault", ["down", "hangs"])
async def test_a_leader_that_cannot_renew_stops_by_itself(store: EmbeddedClient, fault: str) -> None:
    client = unreliable(store)
    elector = candidate(client, "a")
    async with leading(elector) as holding:
        await asyncio.sleep(30)
        setattr(client, fault, True)
        since = asyncio.get_running_loop().time()
        with pytest.raises(LeadershipLost, match="no renewal for 10 s"):
            await holding
        assert asyncio.get_running_loop().time() - since <= ELECTION.renew_deadline
        assert elector.fence is None
    setattr(client, fault, False)
    await elector.release()


async def test_a_short_absence_of_the_store_is_survived(store: EmbeddedClient) -> None:
    client = unreliable(store)
    elector = candidate(client, "a")
    async with leading(elector):
        for _ in range(5):
            client.down = True
            await asyncio.sleep(5)
            client.down = False
            await asyncio.sleep(10)
        assert elector.is_leader
        assert elector.statistics().failed_renewals > 0
    await elector.release()


async def test_a_store_that_hangs_for_six_of_the_ten_seconds_costs_no_office(store: EmbeddedClient) -> None:
    for begin in range(8):
        client = unreliable(store)
        elector = candidate(client, f"leader-{begin}")
        async with leading(elector) as holding:
            await asyncio.sleep(20 + begin / 4)
            client.hangs = True
            await asyncio.sleep(6)
            client.hangs = False
            await asyncio.sleep(10)
            assert not holding.done(), begin
        await elector.release()


async def test_deleting_the_lease_ends_the_leadership(store: EmbeddedClient) -> None:
    elector = candidate(store, "a")
    async with leading(elector) as holding:
        await ObjectClient(store).delete(Lease, "website", "default")
        with pytest.raises(LeadershipLost, match="was deleted"):
            await holding
    await elector.release()


async def test_a_lost_reply_to_the_election_is_no_lost_election(store: EmbeddedClient) -> None:
    client = unreliable(store)
    client.lose_replies = 1
    elector = candidate(client, "a")
    fence = await elector.acquire()
    found = await store.get(KEY)
    assert found is not None
    assert (found.version, found.create_revision) == (1, fence.create_revision)
    await elector.release()


async def test_a_lease_that_somebody_edits_still_ends_with_its_leader(store: EmbeddedClient) -> None:
    objects = ObjectClient(store)
    elector = candidate(store, "a")
    async with leading(elector):
        token = elector.fence
        lease = await objects.get(Lease, "website", "default")
        lease.metadata.labels["looked-at"] = "yes"
        await objects.update(lease)  # a plain put, which takes the key from the store's lease
        await asyncio.sleep(10)
        assert elector.fence == token
    waiting = asyncio.create_task(candidate(store, "b").acquire())
    assert await elapsed(waiting) <= ELECTION.lease_seconds + 1.5


async def test_a_lease_without_a_lease_of_the_store_is_taken_when_nobody_renews_it(store: EmbeddedClient) -> None:
    objects = ObjectClient(store, now=now)
    lease = Lease(name="website", namespace="default", spec={"holderIdentity": "z", "leaseDurationSeconds": 20})
    lease = await objects.create(lease)
    elector = candidate(store, "a")
    waiting = await standing_by(elector)
    for _ in range(5):
        await asyncio.sleep(15)
        lease.spec.renew_time = now()
        lease = await objects.update(lease)
    assert not waiting.done()
    assert elector.holder == "z"
    assert 15 < await elapsed(waiting) <= 20.5
    await elector.release()


async def test_a_candidate_outlives_the_compaction_of_what_it_waits_on(store: EmbeddedClient) -> None:
    first, second = candidate(store, "a"), candidate(store, "b")
    async with leading(first):
        for n in range(10):
            await store.put(b"other", b"%d" % n)
        await store.compact((await store.put(b"other", b"last")).header.revision)
        waiting = await standing_by(second)
        await asyncio.sleep(60)
        assert not waiting.done()
    await first.release()
    assert await elapsed(waiting) < 0.1
    await second.release()


async def test_a_candidate_that_gives_up_leaves_nothing(store: EmbeddedClient) -> None:
    first, second = candidate(store, "a"), candidate(store, "b")
    async with leading(first):
        waiting = await standing_by(second)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert len((await store.leases()).leases) == 1
    await first.release()


async def test_of_many_candidates_one_leads_at_a_time(store: EmbeddedClient) -> None:
    candidates = [candidate(store, f"c{n}") for n in range(10)]
    led: list[int] = []

    async def run(elector: LeaderElector) -> None:
        fence = await elector.acquire()
        assert [each for each in candidates if each.is_leader] == [elector]
        led.append(fence.create_revision)
        await asyncio.sleep(3)
        await elector.release()

    async with asyncio.TaskGroup() as group:
        for elector in candidates:
            group.create_task(run(elector))
    assert len(led) == 10
    assert led == sorted(set(led))


@pytest.mark.parametrize(
    "numbers", [(15, 15.0, 2.0), (15, 2.0, 2.0), (15, 10.0, 0.0), (10, 12.0, 2.0)], ids=lambda n: str(n)
)
def test_numbers_that_cannot_work_are_refused(numbers: tuple[int, float, float]) -> None:
    seconds, deadline, period = numbers
    with pytest.raises(ValueError, match="lease_seconds > renew_deadline"):
        LeaderElection("x", lease_seconds=seconds, renew_deadline=deadline, retry_period=period)
    with pytest.raises(ValueError, match="needs a name"):
        LeaderElection("")


# ---- fencing -------------------------------------------------------------------------------------------------------


async def test_a_deposed_leader_writes_nothing_whatever_it_believes(store: EmbeddedClient) -> None:
    elector = candidate(store, "a")
    await elector.acquire()
    fenced = FencedClient(store, lambda: elector.fence)
    objects = ObjectClient(fenced)
    kept = await objects.create(ConfigMap(name="kept", namespace="default", data={"a": "1"}))

    # Somebody else takes the office while this one, as far as its own clock says, still leads.
    await store.delete(KEY)
    rival = candidate(store, "b")
    await rival.acquire()
    assert elector.is_leader
    before = (await store.status()).header.revision

    kept.data["a"] = "2"
    with pytest.raises(Fenced, match="no longer the leader"):
        await objects.update(kept)
    with pytest.raises(Fenced):
        await objects.delete(ConfigMap, "kept", "default")
    with pytest.raises(Fenced):
        await objects.create(ConfigMap(name="new", namespace="default"))
    with pytest.raises(StoreFenced):
        await fenced.put(b"k", b"v")
    with pytest.raises(StoreFenced):
        await fenced.delete(b"k")
    assert (await store.status()).header.revision == before
    assert (await objects.get(ConfigMap, "kept", "default")).data["a"] == "1"  # reads are free

    await ObjectClient(FencedClient(store, lambda: rival.fence)).update(kept)
    await rival.release()
    await elector.release()


async def test_without_the_office_nothing_is_even_tried(store: EmbeddedClient) -> None:
    fenced = FencedClient(store, lambda: None)
    with pytest.raises(StoreFenced, match="not the leader"):
        await fenced.put(b"k", b"v")
    assert await fenced.get(b"k") is None


async def test_a_fenced_client_answers_as_the_one_inside(store: EmbeddedClient) -> None:
    office = (await store.put(b"office", b"me")).header.revision
    fenced = FencedClient(store, lambda: Fence(b"office", office))

    put = await fenced.put(b"k", b"1")
    assert put.header.revision == office + 1
    put = await fenced.put(b"k", b"2", prev_kv=True)
    assert put.prev_kv is not None
    assert put.prev_kv.value == b"1"
    absent = Compare(b"k", CompareTarget.CREATE, CompareResult.EQUAL, 0)
    refused = await fenced.txn((absent,), (Put(b"k", b"3"),), (Range(b"k"),))
    assert not refused.succeeded
    (found,) = refused.responses
    assert isinstance(found, RangeResponse)
    assert found.kvs[0].value == b"2"
    done = await fenced.txn((), (DeleteRange(b"k"),))
    assert done.succeeded
    assert done.header.revision == office + 3
    await fenced.put(b"k", b"4")
    deleted = await fenced.delete(b"k", prev_kv=True)
    assert deleted.deleted == 1
    assert deleted.prev_kvs[0].value == b"4"
    assert (await fenced.range(Range(b"a", b"z"))).count == 1
