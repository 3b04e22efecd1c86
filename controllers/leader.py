"""Leader election: of several processes that could act, one does; the others are ready to.

The office is a coordination.k8s.io Lease, attached to a lease of the store. Its holder renews the store's lease, which
writes nothing. When the holder ends or falls silent the store deletes the key, and the candidates, who watch it, hear
of it at once. The revision at which the Lease was created is the fencing token: every write of the leader's
controllers is made under the condition that the Lease still is that one (`FencedClient`).

client-go's elector renews by writing and is judged by clocks, so two leaders may overlap for a moment and both write.
Here they may overlap in what they believe, not in what they write.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import structlog

from controllers.core.types import Lease
from controllers.errors import LeadershipLost
from informer.codecs import format_time
from kvstore.api import (
    Client,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    KeyValue,
    Put,
    Range,
    RangeResponse,
)
from kvstore.client.fenced import Fence
from kvstore.errors import Compacted, KvError, LeaseNotFound

LEASE_SECONDS = 15  # client-go's LeaseDuration
RENEW_DEADLINE = 10.0  # client-go's RenewDeadline
RETRY_PERIOD = 2.0  # client-go's RetryPeriod
JITTER = 1.2  # client-go's JitterFactor: a wait is stretched by up to this times itself

log = structlog.get_logger("controllers.leader")


class LeaderElection(msgspec.Struct, frozen=True):
    """Which office to run for, and how; the numbers are client-go's.

    name, namespace: of the Lease. Candidates with the same ones are rivals.
    identity: who holds it, for people to read; host, process and a random part unless given. It need not be unique:
        a candidate knows its own Lease by the store's lease it is attached to.
    lease_seconds: for how long the office stays with a leader that fell silent.
    renew_deadline: seconds without a renewal, on the leader's own clock, after which it stops by itself.
    retry_period: seconds between renewals, and between attempts that failed.
    """

    name: str
    namespace: str = "default"
    identity: str = ""
    lease_seconds: int = LEASE_SECONDS
    renew_deadline: float = RENEW_DEADLINE
    retry_period: float = RETRY_PERIOD

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("leader election needs a name: candidates with the same one are rivals")
        if not self.lease_seconds > self.renew_deadline > JITTER * self.retry_period > 0:
            raise ValueError(
                f"leader election needs lease_seconds > renew_deadline > {JITTER} * retry_period > 0, "
                f"got {self.lease_seconds}, {self.renew_deadline:g} and {self.retry_period:g}"
            )


class LeaderStatistics(msgspec.Struct, frozen=True):
    """holder: the identity last seen in the office, "" if none was. renewals counts those of this leadership."""

    name: str
    identity: str
    is_leader: bool
    holder: str
    fencing_token: int | None
    renewals: int
    failed_renewals: int
    seconds_since_renewal: float | None


class LeaderElector:
    """One candidate. `await acquire()`, then `await hold()` beside the work, then `await release()`.

    now: the wall clock, for the times in the Lease. rng: for jitter and the default identity.
    """

    def __init__(
        self, client: Client, election: LeaderElection, *, now: Callable[[], datetime], rng: random.Random
    ) -> None:
        self._client = client
        self.election = election
        self._now = now
        self._rng = rng
        self.identity = election.identity or f"{socket.gethostname()}_{os.getpid()}_{rng.getrandbits(32):08x}"
        self._key = Lease.TYPE.key(election.namespace, election.name)
        self._lease_id = 0
        self._renewed_at = 0.0  # on the loop's clock: when the last renewal that succeeded was sent
        self._fence: Fence | None = None
        self._holder = ""
        self._transitions = 0
        self._renewals = self._failed = 0
        self._doubt = asyncio.Event()

    @property
    def is_leader(self) -> bool:
        """Whether it holds the office, as far as it knows, and may act."""
        return self.fence is not None

    @property
    def holder(self) -> str:
        """Who was last seen in the office; "" if nobody was."""
        return self._holder

    @property
    def fence(self) -> Fence | None:
        """What its writes are to be conditional on; None when it does not lead, or has not renewed in time."""
        if self._fence is None or self._left() <= 0:
            return None
        return self._fence

    def statistics(self) -> LeaderStatistics:
        """The candidate at this moment."""
        fence = self.fence
        return LeaderStatistics(
            name=f"{self.election.namespace}/{self.election.name}",
            identity=self.identity,
            is_leader=fence is not None,
            holder=self._holder,
            fencing_token=None if fence is None else fence.create_revision,
            renewals=self._renewals,
            failed_renewals=self._failed,
            seconds_since_renewal=(
                None if self._fence is None else asyncio.get_running_loop().time() - self._renewed_at
            ),
        )

    async def acquire(self) -> Fence:
        """Wait until it leads. The store may be away meanwhile. Cancelling it withdraws the candidacy."""
        try:
            while True:
                try:
                    rival = await self._stand()
                    if self._fence is not None:
                        self._log("leader_elected", fencing_token=self._fence.create_revision)
                        return self._fence
                    if rival is not None:
                        await self._wait_vacant(*rival)
                except KvError as error:
                    log.info("leader_election_failed", lease=self.election.name, error=str(error))
                    await self._pause()
        except BaseException:
            await self._withdraw()
            raise

    async def hold(self) -> None:
        """Renew for as long as it leads; ends only by raising LeadershipLost. Cancelling it does not release.

        The reasons: no renewal succeeded in `renew_deadline`, the store's lease expired, or somebody deleted the Lease.
        """
        fence = self._fence
        if fence is None:
            raise LeadershipLost(f"{self._name} was not acquired")
        while True:
            await self._pause(jitter=0.0, limit=self._left())  # as in client-go: only candidates spread
            if self._left() <= 0:
                raise self._lost(f"no renewal for {self.election.renew_deadline:g} s")
            try:
                # Half, as in client-go: one call that hangs must leave time for another.
                async with asyncio.timeout(min(self._left(), self.election.renew_deadline / 2)):
                    alive = await self._renew()
                    found = await self._client.get(self._key)
                    if found is not None and found.lease != self._lease_id:
                        await self._attach(found)
            except TimeoutError:
                self._failed += 1
                continue
            except KvError as error:
                self._failed += 1
                log.info("leader_renewal_failed", lease=self.election.name, error=str(error))
                continue
            if not alive:
                raise self._lost("its lease expired")
            if found is None or found.create_revision != fence.create_revision:
                raise self._lost("the Lease was deleted")
            self._renewals += 1

    def doubt(self) -> None:
        """Make `hold` look at once whether this is still the leader: a write has been refused."""
        self._doubt.set()

    async def release(self) -> None:
        """Leave the office, so that the next one need not wait for the lease to expire. Idempotent.

        A store that does not answer within `retry_period` is left to let it expire.
        """
        leading, self._fence = self._fence is not None, None
        await self._withdraw()
        if leading:
            self._log("leadership_released")

    # ---- standing for the office -----------------------------------------------------------------------------------

    async def _stand(self) -> tuple[KeyValue, int] | None:
        """Take the office if it is vacant; sets `_fence` on success, else gives who is there, and the revision at which
        that was so (None: try again)."""
        present = await self._client.range(Range(self._key))
        found, revision = present.kvs[0] if present.kvs else None, present.header.revision
        if found is None:
            if not self._lease_id:
                await self._grant()
            compare = Compare(self._key, CompareTarget.CREATE, CompareResult.EQUAL, 0)
            put = Put(self._key, self._record(), lease=self._lease_id)
            try:
                answer = await self._client.txn((compare,), (put,), (Range(self._key),))
            except LeaseNotFound:  # it expired while the store was away
                self._lease_id = 0
                return None
            if answer.succeeded:
                self._take(answer.header.revision)
                return None
            (others,) = answer.responses
            assert isinstance(others, RangeResponse)
            if not others.kvs:
                return None
            found, revision = others.kvs[0], answer.header.revision
        if self._lease_id and found.lease == self._lease_id:
            # An earlier attempt whose answer was lost had succeeded.
            if await self._renew():
                self._take(found.create_revision)
            else:
                self._lease_id = 0
            return None
        if self._lease_id:
            await self._withdraw()
        return found, revision

    async def _grant(self) -> None:
        sent = asyncio.get_running_loop().time()
        self._lease_id = (await self._client.lease_grant(self.election.lease_seconds)).id
        self._renewed_at = sent

    async def _renew(self) -> bool:
        """Whether the store's lease is still there. Counted from before the call: the store counts from later."""
        sent = asyncio.get_running_loop().time()
        alive = (await self._client.lease_keep_alive(self._lease_id)).ttl > 0
        if alive:
            self._renewed_at = sent
        return alive

    async def _attach(self, found: KeyValue) -> None:
        """Somebody edited the Lease, which took it from the store's lease: put it back, or it would outlive us."""
        unchanged = Compare(self._key, CompareTarget.MOD, CompareResult.EQUAL, found.mod_revision)
        await self._client.txn((unchanged,), (Put(self._key, found.value, lease=self._lease_id),))

    def _take(self, create_revision: int) -> None:
        self._fence = Fence(self._key, create_revision)
        self._holder = self.identity
        self._renewals = self._failed = 0
        if self._left() <= 0:
            # It took too long to be sure that the lease has not expired meanwhile: stand again.
            self._fence = None

    async def _wait_vacant(self, found: KeyValue, revision: int) -> None:
        """Until the Lease is deleted. One without a lease of the store's, say from a manifest, is deleted when it did
        not change for its duration: by our clock, as client-go does, since those of two machines need not agree."""
        while True:
            record = self._read(found)
            if self._holder != record[0]:
                self._holder = record[0]
                self._log("leader_is_another", holder=self._holder)
            self._transitions = record[2]
            limit = None if found.lease else max(record[1], self.election.lease_seconds)
            try:
                async with asyncio.timeout(limit), self._client.watch(self._key, start_revision=revision + 1) as watch:
                    async for response in watch:
                        for event in response.events:
                            if event.type.name == "DELETE":
                                return
                            found = event.kv
                        if response.events:
                            break
            except Compacted:
                return
            except TimeoutError:
                unchanged = Compare(self._key, CompareTarget.MOD, CompareResult.EQUAL, found.mod_revision)
                await self._client.txn((unchanged,), (DeleteRange(self._key),))
                return
            revision = found.mod_revision

    def _record(self) -> bytes:
        now = self._now()
        lease = Lease(name=self.election.name, namespace=self.election.namespace)
        lease.spec.holder_identity = self.identity
        lease.spec.lease_duration_seconds = self.election.lease_seconds
        lease.spec.acquire_time = lease.spec.renew_time = now
        lease.spec.lease_transitions = self._transitions + 1 if self._holder else 0
        metadata = lease.raw["metadata"]
        metadata["uid"] = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        metadata["creationTimestamp"] = format_time(now.replace(microsecond=0))
        metadata["generation"] = 1
        return lease.encode()

    @staticmethod
    def _read(found: KeyValue) -> tuple[str, int, int]:
        """Holder, seconds, transitions; what somebody else wrote there need not be a Lease."""
        try:
            spec = msgspec.json.decode(found.value)["spec"]
            return (
                str(spec.get("holderIdentity") or ""),
                int(spec.get("leaseDurationSeconds") or 0),
                int(spec.get("leaseTransitions") or 0),
            )
        except (msgspec.DecodeError, TypeError, KeyError, ValueError, AttributeError):
            return "", 0, 0

    async def _withdraw(self) -> None:
        """Give the store's lease back, and the Lease with it."""
        lease_id, self._lease_id = self._lease_id, 0
        if not lease_id:
            return
        try:
            async with asyncio.timeout(self.election.retry_period):
                await self._client.lease_revoke(lease_id)
        except LeaseNotFound:
            return
        except (TimeoutError, KvError) as error:
            log.info("leader_lease_left_to_expire", lease=self.election.name, error=str(error) or "no answer")

    # ---- small parts -----------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"the leadership of {self.election.namespace}/{self.election.name}"

    def _left(self) -> float:
        """Seconds for which it may still lead without another renewal."""
        return self._renewed_at + self.election.renew_deadline - asyncio.get_running_loop().time()

    def _lost(self, why: str) -> LeadershipLost:
        self._fence = None
        return LeadershipLost(f"{self._name} was lost: {why}")

    async def _pause(self, jitter: float = JITTER, limit: float | None = None) -> None:
        seconds = self.election.retry_period * (1 + jitter * self._rng.random())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds if limit is None else max(0.0, min(seconds, limit))):
                await self._doubt.wait()
        self._doubt.clear()

    def _log(self, event: str, **fields: Any) -> None:
        log.info(event, lease=f"{self.election.namespace}/{self.election.name}", identity=self.identity, **fields)
