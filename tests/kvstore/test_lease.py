"""Leases on virtual time: minimum, expiry, renewal, attachment, restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import lmdb
import pytest

from kvstore.api import DeleteRange, EventType, Put, Range
from kvstore.client.embedded import EmbeddedClient
from kvstore.errors import LeaseExists, LeaseNotFound, LeaseTTLTooLarge, NoSpace
from kvstore.lease import EXPIRED_ENTRIES_KEPT, MAX_TTL, MIN_TTL
from kvstore.node import Node, NodeOptions

OPTIONS = NodeOptions(fsync=False, inline_commits=True)


pytestmark = pytest.mark.virtual_time


async def test_grant_raises_the_ttl_to_the_minimum_and_knows_its_bounds(tmp_path: Path) -> None:
    async with Node.open(tmp_path, OPTIONS) as node:
        revision = node.revision
        assert [(await node.lease_grant(ttl))[1] for ttl in (-5, 0, 1, 2, 60)] == [MIN_TTL] * 4 + [60]
        assert await node.lease_grant(60, -7) == (-7, 60)
        with pytest.raises(LeaseExists):
            await node.lease_grant(60, -7)
        with pytest.raises(LeaseTTLTooLarge):
            await node.lease_grant(MAX_TTL + 1)
        assert node.revision == revision, "leases take no revision"


async def test_keys_go_with_their_lease_in_one_revision_and_in_byte_order(tmp_path: Path) -> None:
    async with Node.open(tmp_path, OPTIONS) as node:
        client = EmbeddedClient(node)
        lease, _ = await node.lease_grant(5)
        other, _ = await node.lease_grant(500)
        for key in (b"c", b"a", b"b", b"moved", b"freed", b"deleted"):
            await node.put(Put(key, b"v", lease=lease))
        await node.put(Put(b"moved", b"v", lease=other))
        await node.put(Put(b"freed", b"v"))
        await node.delete_range(DeleteRange(b"deleted"))
        assert node.lease_time_to_live(lease, keys=True)[2] == [b"a", b"b", b"c"]
        before = node.revision
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with client.watch(b"\x00", b"\x00") as watch:
            response = await watch.__anext__()
        assert loop.time() - start == pytest.approx(5, abs=0.01)
        assert [(event.type, event.kv.key) for event in response.events] == [
            (EventType.DELETE, b"a"),
            (EventType.DELETE, b"b"),
            (EventType.DELETE, b"c"),
        ]
        assert node.revision == before + 1
        assert node.lease_time_to_live(lease) == (-1, 0, [])
        assert node.leases() == [other]
        with pytest.raises(LeaseNotFound):
            await node.put(Put(b"x", b"", lease=lease))
        assert await node.lease_keep_alive(lease) == 0


async def test_renewal_moves_the_end(tmp_path: Path) -> None:
    async with Node.open(tmp_path, OPTIONS) as node:
        lease, _ = await node.lease_grant(4)
        await node.put(Put(b"k", b"v", lease=lease))
        for _ in range(5):
            await asyncio.sleep(3)
            assert await node.lease_keep_alive(lease) == 4
        assert node.range(Range(b"k")).count == 1
        await asyncio.sleep(3.5)
        assert node.lease_time_to_live(lease)[0] == 0
        await asyncio.sleep(1)
        assert node.range(Range(b"k")).count == 0


async def test_revoking_needs_a_lease_and_takes_a_revision_only_with_keys(tmp_path: Path) -> None:
    async with Node.open(tmp_path, OPTIONS) as node:
        with pytest.raises(LeaseNotFound):
            await node.lease_revoke(99)
        lease, _ = await node.lease_grant(60)
        before = node.revision
        await node.lease_revoke(lease)
        assert node.revision == before


async def test_a_restart_gives_every_lease_its_full_time_again(tmp_path: Path) -> None:
    async with Node.open(tmp_path, OPTIONS) as node:
        lease, _ = await node.lease_grant(10)
        await node.put(Put(b"k", b"v", lease=lease))
        await asyncio.sleep(8)
    async with Node.open(tmp_path, OPTIONS) as node:
        ttl, granted, keys = node.lease_time_to_live(lease, keys=True)
        assert (granted, keys) == (10, [b"k"])
        assert ttl in (10, 11)
        await asyncio.sleep(12)
        assert node.range(Range(b"k")).count == 0
        assert node.leases() == []


async def test_many_leases_expire_each_in_a_revision_of_its_own(tmp_path: Path) -> None:
    async with Node.open(tmp_path, OPTIONS) as node:
        for number in range(1200):
            lease, _ = await node.lease_grant(5)
            await node.put(Put(b"%04d" % number, b"", lease=lease))
        before = node.revision
        await asyncio.sleep(6)
        assert node.range(Range(b"\x00", b"\x00")).count == 0
        assert node.revision == before + 1200


async def test_a_revocation_that_cannot_be_stored_is_tried_again_now_and_then(tmp_path: Path) -> None:
    async with Node.open(tmp_path, OPTIONS) as node:
        lease, _ = await node.lease_grant(5)
        other, _ = await node.lease_grant(60)
        await node.put(Put(b"k", b"v", lease=lease))
        tries = 0
        real = node._backend.commit

        def full(batch: object) -> None:
            nonlocal tries
            tries += 1
            raise lmdb.MapFullError("full")

        node._backend.commit = full  # type: ignore[method-assign]
        await asyncio.sleep(5 + 9.5)
        assert tries == 4, "at the end of the lease and every three seconds"
        with pytest.raises(NoSpace):
            await node.lease_revoke(other)
        assert set(node.leases()) == {lease, other}
        assert node.lease_time_to_live(lease, keys=True)[2] == [b"k"]
        node._backend.commit = real  # type: ignore[method-assign]
        await asyncio.sleep(3)
        assert node.leases() == [other]
        assert node.range(Range(b"k")).count == 0
        await asyncio.sleep(60)
        assert node.leases() == [], "a revocation that failed leaves the lease its end"


async def test_leases_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    async with Node.open(tmp_path, OPTIONS) as node:
        for _ in range(5000):
            lease, _ = await node.lease_grant(3600)
            await node.lease_keep_alive(lease)
            await node.lease_revoke(lease)
        assert len(node._lessor._expiries) <= 2 * EXPIRED_ENTRIES_KEPT
