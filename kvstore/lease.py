"""Leases: keys that live as long as somebody keeps renewing them, with etcd's rules and numbers."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable, Mapping, Sequence, Set

import structlog

from kvstore.errors import KvError, LeaseExists, LeaseNotFound, LeaseTTLTooLarge
from kvstore.store import Store, WriteTxn

MIN_TTL = 2  # seconds; etcd: one and a half election timeouts, rounded up
MAX_TTL = 9_000_000_000
# etcd extends every lease by its election timeout after a restart, so that clients can find the server again.
RESTART_EXTENSION = 1.0
MAX_EXPIRIES_A_TURN = 500  # etcd's bound on leases revoked in one go
# And ours on their keys: some ten milliseconds. One lease is revoked as a whole, however many it has.
MAX_KEYS_A_TURN = 10_000
RETRY_AFTER = 3.0  # seconds until a failed revocation of an expired lease is tried again, as in etcd
EXPIRED_ENTRIES_KEPT = 1000  # outdated entries that the heap may have beyond one a lease before it is built anew

log = structlog.get_logger("kvstore")


class Lease:
    """One lease. `expires_at` and `check_at`, when expiry looks at it next, are loop time."""

    __slots__ = ("check_at", "expires_at", "id", "keys", "ttl")

    def __init__(self, lease_id: int, ttl: int, expires_at: float) -> None:
        self.id = lease_id
        self.ttl = ttl
        self.expires_at = expires_at
        self.check_at = expires_at
        # A set that remembers its order: keys mostly come in theirs, and hundreds of thousands are sorted at once then.
        self.keys: dict[bytes, None] = {}


class Lessor:
    """All leases of a store. Grants and revocations are durable; renewals, as in etcd, are not.

    After a restart each lease starts again with its full TTL.
    """

    def __init__(self, store: Store, *, now: Callable[[], float], rng: random.Random) -> None:
        self._store = store
        self._now = now
        self._rng = rng
        self._leases: dict[int, Lease] = {}
        self._lease_of: dict[bytes, int] = {}
        # A heap of (check_at, id): each lease has the entry of its `check_at`; any other is outdated.
        self._expiries: list[tuple[float, int]] = []
        self._wake = asyncio.Event()

    def restore(self, leases: dict[int, int]) -> None:
        """Take over the leases found on disk, before the keys that are attached to them."""
        for lease_id, ttl in leases.items():
            self._add(Lease(lease_id, ttl, self._now() + ttl + RESTART_EXTENSION))

    # ---- what the store asks --------------------------------------------------------------------------------------

    def exists(self, lease_id: int) -> bool:
        """Whether keys can be attached to it."""
        return lease_id in self._leases

    def attach(self, key: bytes, lease_id: int) -> int:
        """Move a key to a lease (0 = none); gives the lease it had."""
        before = self._lease_of.get(key, 0)
        if before == lease_id:
            return before
        if before and before in self._leases:
            self._leases[before].keys.pop(key, None)
        if lease_id:
            self._lease_of[key] = lease_id
            if lease_id in self._leases:
                self._leases[lease_id].keys[key] = None
        else:
            del self._lease_of[key]
        return before

    def detach(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Take keys from their leases; gives the leases of those that had one."""
        lease_of, leases = self._lease_of, self._leases
        if not lease_of:
            return {}
        before = {key: lease_id for key in keys if (lease_id := lease_of.pop(key, 0))}
        for key, lease_id in before.items():
            if lease_id in leases:
                leases[lease_id].keys.pop(key, None)
        return before

    def attach_again(self, leases: Mapping[bytes, int]) -> None:
        """Undo `detach`."""
        for key, lease_id in leases.items():
            self.attach(key, lease_id)

    # ---- the API --------------------------------------------------------------------------------------------------

    async def grant(self, ttl: int, lease_id: int = 0) -> tuple[int, int]:
        """A lease of at least MIN_TTL seconds: (id, ttl). Id 0 lets the server choose. Raises LeaseExists."""
        if ttl > MAX_TTL:
            raise LeaseTTLTooLarge()
        while not lease_id:
            chosen = self._rng.getrandbits(63)
            lease_id = 0 if chosen in self._leases else chosen
        ttl = max(ttl, MIN_TTL)

        def stage(txn: WriteTxn) -> None:
            if lease_id in self._leases:
                raise LeaseExists()
            self._add(Lease(lease_id, ttl, self._now() + ttl))
            txn.lease(lease_id, ttl, undo=lambda: self._leases.pop(lease_id))

        await self._store.write(stage, cost=64)
        return lease_id, ttl

    async def revoke(self, lease_id: int, guard: Callable[[], None] | None = None) -> None:
        """End a lease and delete its keys, all in one revision. Raises LeaseNotFound, and what `guard` raises."""

        def stage(txn: WriteTxn) -> None:
            if guard is not None:
                guard()
            lease = self._leases.get(lease_id)
            if lease is None:
                raise LeaseNotFound()
            txn.delete_keys(sorted(lease.keys))
            del self._leases[lease_id]
            txn.lease(lease_id, None, undo=lambda: self._give_back(lease))

        await self._store.write(stage)

    async def keep_alive(self, lease_id: int) -> int:
        """Renew; gives the TTL in seconds, or 0 if the lease is gone or has just run out."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return 0
        if lease.expires_at <= self._now():  # its revocation is on its way: answer when it is done
            await self._expire(lease_id)
            return 0
        lease.expires_at = self._now() + lease.ttl
        return lease.ttl

    def keys_of(self, lease_id: int) -> Set[bytes]:
        """The keys attached to a lease."""
        lease = self._leases.get(lease_id)
        return frozenset() if lease is None else lease.keys.keys()

    def time_to_live(self, lease_id: int, keys: bool = False) -> tuple[int, int, list[bytes]]:
        """(whole seconds left, granted seconds, attached keys if asked for); -1 left if there is no such lease."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return -1, 0, []
        return int(lease.expires_at - self._now()), lease.ttl, sorted(lease.keys) if keys else []

    def __len__(self) -> int:
        return len(self._leases)

    def ids(self) -> list[int]:
        """All leases, the soonest to expire first."""
        return [lease.id for lease in sorted(self._leases.values(), key=lambda lease: lease.expires_at)]

    # ---- expiry ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Revoke leases as they run out, each in a revision of its own, until cancelled."""
        while True:
            due = self._due()
            if due:
                await asyncio.gather(*(self._expire(lease_id) for lease_id in due))
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout_at(self._expiries[0][0] if self._expiries else None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _due(self) -> list[int]:
        due: list[int] = []
        keys = 0
        heap = self._expiries
        now = self._now()
        while heap and heap[0][0] <= now and len(due) < MAX_EXPIRIES_A_TURN and keys < MAX_KEYS_A_TURN:
            when, lease_id = heapq.heappop(heap)
            lease = self._leases.get(lease_id)
            if lease is None or lease.check_at != when:
                continue
            if lease.expires_at > now:
                self._check_at(lease, lease.expires_at)
            else:
                self._check_at(lease, now + RETRY_AFTER)  # outdated as soon as it is revoked
                due.append(lease_id)
                keys += len(lease.keys)
        return due

    async def _expire(self, lease_id: int) -> None:
        try:
            await self.revoke(lease_id)
        except LeaseNotFound:
            return  # revoked by somebody meanwhile
        except KvError as error:
            log.warning("lease_expiry_failed", lease=lease_id, error=str(error), retry_after=RETRY_AFTER)

    def _add(self, lease: Lease) -> None:
        self._leases[lease.id] = lease
        self._check_at(lease, lease.expires_at)

    def _give_back(self, lease: Lease) -> None:
        # Not at once if it has run out: what failed to revoke it would most likely fail again.
        self._leases[lease.id] = lease
        self._check_at(lease, max(lease.expires_at, self._now() + RETRY_AFTER))

    def _check_at(self, lease: Lease, when: float) -> None:
        lease.check_at = when
        heapq.heappush(self._expiries, (when, lease.id))
        if len(self._expiries) > 2 * len(self._leases) + EXPIRED_ENTRIES_KEPT:
            self._expiries[:] = [(each.check_at, each.id) for each in self._leases.values()]
            heapq.heapify(self._expiries)
        if self._expiries[0][1] == lease.id:
            self._wake.set()  # the time to wait for has changed
