"""Events: what `describe` tells of an object's story. Kept few, written beside the work, gone after an hour.

As client-go's recorder: repetitions are counted in one Event, many similar ones are combined, one object's stream is
throttled, and what cannot be written is dropped rather than waited for.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
import structlog

from controllers.core.types import Event
from informer import patch
from informer.client import DEFAULT_NAMESPACE
from informer.codecs import format_time
from informer.errors import ApiError, Unreachable
from informer.resources import Resource
from kvstore.api import Client, Compare, Put
from kvstore.errors import KvError, LeaseNotFound, Unavailable

TTL = 3600.0  # seconds; kube-apiserver's --event-ttl
CACHE = 4096  # client-go: how many events and objects are remembered for counting
QUEUE = 1000  # client-go: events waiting to be written
SIMILAR = 10  # client-go: different messages of one reason before they are combined ...
SIMILAR_WINDOW = 600.0  # ... within this time
OBJECT_BURST, OBJECT_RATE = 25, 1 / 300  # client-go's spam filter, for each source and object
# Of all events of one component: what bounds their number in the store, to burst + rate x ttl.
BURST, RATE = 100, 2.0
CONCURRENT_WRITES = 32
TRIES, RETRY_AFTER = 12, 10.0  # client-go's

_COMBINED = "(combined from similar events): "

log = structlog.get_logger("controllers")

EventType = Literal["Normal", "Warning"]


class Reference(msgspec.Struct, frozen=True):
    """The object that an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, obj: Resource) -> Reference:
        """Of an object at hand."""
        metadata = obj.metadata
        return cls(obj.TYPE.api_version, obj.TYPE.kind, metadata.namespace or "", metadata.name, metadata.uid or "")


class EventStatistics(msgspec.Struct, frozen=True):
    """recorded: asked for; throttled, dropped: of those never written; written: puts; pending: waiting now."""

    recorded: int
    throttled: int
    dropped: int
    written: int
    pending: int


class _Bucket:
    """A token bucket that says no instead of making anyone wait."""

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst, self._rate = burst, rate
        self._tokens, self._at = burst, now

    def take(self, now: float) -> bool:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _Similar(msgspec.Struct):
    since: float
    messages: set[str]


class EventBroadcaster:
    """Takes events from recorders and writes them. `run` has to run; until then they wait.

    client: gives the store once there is one. now, rng: the wall clock, and randomness for uids.
    """

    def __init__(
        self,
        client: Callable[[], Client],
        *,
        now: Callable[[], datetime],
        rng: random.Random,
        ttl: float = TTL,
        burst: float = BURST,
        rate: float = RATE,
    ) -> None:
        self._client = client
        self._now = now
        self._rng = rng
        self._ttl = ttl
        self._burst, self._rate = burst, rate
        self._buckets: dict[str, _Bucket] = {}
        self._wakeup = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        # name of an Event -> its JSON, to be written; a later state takes the place of an earlier one.
        self._pending: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._events: OrderedDict[tuple[object, ...], Any] = OrderedDict()
        self._similar: OrderedDict[tuple[object, ...], _Similar] = OrderedDict()
        self._spam: OrderedDict[tuple[object, ...], _Bucket] = OrderedDict()
        self._granting = asyncio.Lock()
        self._lease = 0
        self._lease_until = 0.0
        self._recorded = self._throttled = self._dropped = self._written = 0
        self.conditions: Callable[[str, bool], Awaitable[Sequence[Compare]]] | None = None
        """Asked with the namespace, and with True if its last answer did not hold: what has to hold in the store for an
        Event to be written there. Raises `ApiError` if none is to be."""

    def recorder(self, component: str) -> Recorder:
        """Records events in the name of a component."""
        return Recorder(self, component)

    def statistics(self) -> EventStatistics:
        """Counts since the start."""
        return EventStatistics(
            recorded=self._recorded,
            throttled=self._throttled,
            dropped=self._dropped,
            written=self._written,
            pending=len(self._pending),
        )

    def record(self, component: str, about: Reference, kind: str, reason: str, message: str) -> None:
        """Take an event; never waits. On the loop's thread."""
        self._recorded += 1
        # What cannot be written must not come to light in the task that writes: exceptions, file names.
        kind, reason, message = _text(kind), _text(reason), _text(message)
        moment = asyncio.get_running_loop().time()
        source = (component, about)
        similar = (*source, kind, reason)
        if self._too_many_similar(similar, message, moment):
            key: tuple[object, ...] = similar
            message = _COMBINED + message
        else:
            key = (*similar, message)
        spam = _remembered(self._spam, source, lambda: _Bucket(OBJECT_BURST, OBJECT_RATE, moment))
        bucket = self._buckets.get(component)
        if bucket is None:
            bucket = self._buckets[component] = _Bucket(self._burst, self._rate, moment)
        if not spam.take(moment) or not bucket.take(moment):
            self._throttled += 1
            return
        stamp = format_time(self._now().replace(microsecond=0))
        known = self._events.get(key)
        if known is not None:
            raw = {**known, "count": known["count"] + 1, "lastTimestamp": stamp, "message": message}
        else:
            raw = self._new(component, about, kind, reason, message, stamp)
        self._events[key] = raw
        self._events.move_to_end(key)
        _trim(self._events)
        self._queue(raw)

    def _too_many_similar(self, key: tuple[object, ...], message: str, moment: float) -> bool:
        seen = _remembered(self._similar, key, lambda: _Similar(moment, set()))
        if moment - seen.since > SIMILAR_WINDOW:
            seen.since, seen.messages = moment, set()
        if len(seen.messages) <= SIMILAR:
            seen.messages.add(message)
        return len(seen.messages) > SIMILAR

    def _new(self, component: str, about: Reference, kind: str, reason: str, message: str, stamp: str) -> Any:
        return {
            "apiVersion": Event.TYPE.api_version,
            "kind": Event.TYPE.kind,
            "metadata": {
                "name": f"{about.name}.{self._rng.getrandbits(64):016x}",
                "namespace": about.namespace or DEFAULT_NAMESPACE,
                "uid": str(uuid.UUID(int=self._rng.getrandbits(128), version=4)),
                "creationTimestamp": stamp,
            },
            "involvedObject": {
                "apiVersion": about.api_version,
                "kind": about.kind,
                "name": about.name,
                "uid": about.uid,
                **({"namespace": about.namespace} if about.namespace else {}),
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": component},
            "reportingComponent": component,
            "count": 1,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
        }

    def _queue(self, raw: Any) -> None:
        key = (raw["metadata"]["namespace"], raw["metadata"]["name"])
        if key not in self._pending and len(self._pending) >= QUEUE:
            self._dropped += 1
            return
        self._pending[key] = raw
        self._idle.clear()
        self._wakeup.set()

    # ---- writing ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write what is recorded, until cancelled; what then waits is lost."""
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            while self._pending:
                count = min(CONCURRENT_WRITES, len(self._pending))
                batch = [self._pending.popitem(last=False) for _ in range(count)]
                await asyncio.gather(*(self._write(namespace, name, raw) for (namespace, name), raw in batch))
            self._idle.set()

    async def flush(self) -> None:
        """Wait until all that was recorded is written, or given up. Needs `run`; sets no limit in time."""
        await self._idle.wait()

    async def _write(self, namespace: str, name: str, raw: Any) -> None:
        # Straight to the store: an Event has one writer, its repetitions replace it, and the lease ends it.
        key, data = Event.TYPE.key(namespace, name), patch.encode(raw)
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(RETRY_AFTER * self._rng.random())
            try:
                if not await self._put(namespace, key, data):
                    break
            except LeaseNotFound:
                self._lease = 0
            except KvError as error:
                log.info("event_not_written", name=name, error=str(error), attempt=attempt + 1)
            else:
                self._written += 1
                return
        self._dropped += 1

    async def _put(self, namespace: str, key: bytes, data: bytes) -> bool:
        """Write it; False if its namespace takes nothing any more."""
        if self.conditions is None:
            await self._client().put(key, data, lease=await self._current_lease())
            return True
        for live in (False, True):
            try:
                conditions = await self.conditions(namespace, live)
            except Unreachable as error:
                raise Unavailable from error
            except ApiError:
                return False
            lease = await self._current_lease()
            if not conditions:
                await self._client().put(key, data, lease=lease)
                return True
            if (await self._client().txn(conditions, (Put(key, data, lease),))).succeeded:
                return True
        return False

    async def _current_lease(self) -> int:
        # Events of some minutes share one lease, as in kube-apiserver: they go a little later than they must.
        async with self._granting:
            moment = asyncio.get_running_loop().time()
            if not self._lease or moment >= self._lease_until:
                share = self._ttl / 10
                self._lease = (await self._client().lease_grant(max(1, round(self._ttl + share)))).id
                self._lease_until = moment + share
            return self._lease


class Recorder:
    """Records events in the name of one component."""

    def __init__(self, broadcaster: EventBroadcaster, component: str) -> None:
        self._broadcaster = broadcaster
        self._component = component

    def event(self, about: Resource | Reference, kind: EventType, reason: str, message: str) -> None:
        """Tell something about an object. Never waits and never fails; too much of it is dropped."""
        reference = about if isinstance(about, Reference) else Reference.of(about)
        self._broadcaster.record(self._component, reference, kind, reason, message)


def _text(value: object) -> str:
    return str(value).encode(errors="replace").decode()


def _remembered(cache: OrderedDict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    found = cache.get(key)
    if found is None:
        found = cache[key] = make()
        _trim(cache)
    else:
        cache.move_to_end(key)
    return found


def _trim(cache: OrderedDict[Any, Any]) -> None:
    while len(cache) > CACHE:
        cache.popitem(last=False)
