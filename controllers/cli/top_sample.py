"""What `listwatch top` reads: a manager's `/statistics`, and the `/metrics` of a store's server."""

from __future__ import annotations

import asyncio
import os

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT = 2.0  # seconds: a manager on this machine answers within milliseconds
LIMIT = 16 * 1024 * 1024  # bytes of an answer: 10,000 informers are a few megabytes

# Only what is shown, all of it with defaults: the manager may be of another version.


class Durations(msgspec.Struct, frozen=True):
    """See `kvstore.histogram.Durations`."""

    counts: tuple[int, ...] = ()
    sum: float = 0.0


class Queue(msgspec.Struct, frozen=True):
    """See `QueueStatistics`."""

    depth: int = 0
    waiting: int = 0
    adds: int = 0
    retries: int = 0
    oldest_seconds: float = 0.0


class Controller(msgspec.Struct, frozen=True):
    """See `ControllerStatistics`."""

    workers: int = 0
    active: int = 0
    outcomes: dict[str, int] = {}
    reconcile_seconds: Durations = Durations()
    queue: Queue = Queue()


class Reflector(msgspec.Struct, frozen=True):
    """See `ReflectorStatistics`."""

    state: str = ""
    behind: int = 0
    relists: int = 0
    resumes: int = 0


class Cache(msgspec.Struct, frozen=True):
    """See `CacheStatistics`."""

    objects: int = 0
    revision: str = ""


class HandlerCounts(msgspec.Struct, frozen=True):
    """See `HandlerStatistics`."""

    pending: int = 0


class Informer(msgspec.Struct, frozen=True):
    """See `InformerStatistics`."""

    lag: float = 0.0
    reflector: Reflector = Reflector()
    cache: Cache = Cache()
    handlers: list[HandlerCounts] = []


class Leader(msgspec.Struct, frozen=True):
    """See `LeaderStatistics`."""

    name: str = ""
    is_leader: bool = False
    holder: str = ""


class Store(msgspec.Struct, frozen=True):
    """See `StoreReport`. watchers: by state."""

    name: str = ""
    revision: int = 0
    db_size: int = 0
    commits: int | None = None
    watchers: dict[str, int] | None = None
    error: str = ""


class Report(msgspec.Struct, frozen=True):
    """See `controllers.endpoints.Report`."""

    pid: int = 0
    lag: float = 0.0
    controllers: dict[str, Controller] = {}
    informers: dict[str, Informer] = {}
    leaders: list[Leader] = []
    stores: list[Store] = []


class Sample(msgspec.Struct, frozen=True):
    """What was told at a time of the loop's clock. error: why the manager told nothing."""

    at: float
    report: Report | None = None
    error: str = ""
    server: Store | None = None


class Source:
    """Asks a manager, a server, or both; None = not that one. What goes wrong is part of the answer."""

    def __init__(self, session: aiohttp.ClientSession, manager: str | None, server: str | None) -> None:
        self.manager = manager
        self.server = server
        self._session = session
        self._decoder = msgspec.json.Decoder(Report)

    async def sample(self) -> Sample:
        """Ask now. Takes at most `TIMEOUT`."""
        (report, error), server = await asyncio.gather(self._report(), self._store())
        return Sample(asyncio.get_running_loop().time(), report, error, server)

    async def _report(self) -> tuple[Report | None, str]:
        if self.manager is None:
            return None, ""
        try:
            return self._decoder.decode(await self._get(f"{self.manager}/statistics")), ""
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None, f"{self.manager} is no manager of this kind"
        except (aiohttp.ClientError, OSError) as error:
            return None, _told(error)

    async def _store(self) -> Store | None:
        if self.server is None:
            return None
        try:
            return store_of_metrics(self.server, (await self._get(f"{self.server}/metrics")).decode())
        except (aiohttp.ClientError, OSError) as error:
            return Store(self.server, error=_told(error))
        except (ValueError, KeyError):
            return Store(self.server, error="there are no metrics of an etcd")

    async def _get(self, url: str) -> bytes:
        async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as response:
            if response.status != 200:
                raise aiohttp.ClientError(f"{url} answered {response.status}")
            body = await response.content.read(LIMIT + 1)
            while len(body) <= LIMIT and (more := await response.content.read(LIMIT + 1)):
                body += more
            if len(body) > LIMIT:
                raise aiohttp.ClientError(f"{url} told more than {LIMIT} bytes")
            return body


def store_of_metrics(name: str, text: str) -> Store:
    """A store as its server's metrics tell it: ours, or etcd's. Raises KeyError, ValueError if they do not."""
    found: dict[str, float] = {}
    watchers: dict[str, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "listwatch_watchers":
                watchers[sample.labels["state"]] = int(sample.value)
            elif not sample.labels:
                found[sample.name] = sample.value
    revision = int(found["etcd_debugging_mvcc_current_revision"])
    total, slow = found["etcd_debugging_mvcc_watcher_total"], found["etcd_debugging_mvcc_slow_watcher_total"]
    watchers = watchers or {"synced": int(total - slow), "slow": int(slow)}
    watchers["pending_events"] = int(found.get("etcd_debugging_mvcc_pending_events_total", 0))
    commits = int(found["etcd_disk_backend_commit_duration_seconds_count"])
    return Store(name, revision, int(found["etcd_mvcc_db_total_size_in_bytes"]), commits, watchers)


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return os.strerror(number) if number and number > 0 else str(error)
    return str(error) or type(error).__name__
