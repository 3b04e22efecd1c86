"""What simulated pods use, as data that users write; nothing is measured and nothing written here.

A pod, or the template it is made of, says in the annotation `listwatch.dev/usage` what it uses:

    cpu=120m, memory=64Mi               all of its containers together, shared evenly
    cpu=80m..160m                       something in between, another amount every 15 s
    web/cpu=100m, sidecar/cpu=20m       by container
    requests-per-second=40              any other metric of pods

A Service says in `listwatch.dev/load` what comes in through it: `cpu=3000m` is shared evenly by its ready pods, so
with more pods each has less, and traffic rises by changing the annotation. Any object, a Service as well, says what its
own metrics are in `listwatch.dev/metrics`: `requests-per-second=2k`. A running pod that says nothing uses no cpu and no
memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache

import msgspec
import structlog

from controllers.core.quantities import scaled
from controllers.core.types import Pod, Service
from controllers.discovery.backends import Backends
from controllers.manager import Manager
from informer.cache import Stored
from informer.errors import Invalid
from informer.resources import Resource

USAGE = "listwatch.dev/usage"
LOAD = "listwatch.dev/load"
METRICS = "listwatch.dev/metrics"

PERIOD = 15.0  # seconds; metrics-server's --metric-resolution
RESOURCES = ("cpu", "memory")  # what every running pod has some of

log = structlog.get_logger("controllers")

Amounts = Mapping[str, tuple[int, int]]  # name or container/name -> the bounds, in thousandths


class _Metadata(msgspec.Struct, gc=False):
    uid: str = ""
    annotations: dict[str, str] | None = None


class _Container(msgspec.Struct, gc=False):
    name: str = ""


class _Spec(msgspec.Struct, gc=False):
    containers: list[_Container] = []


class _Condition(msgspec.Struct, gc=False):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct, gc=False):
    phase: str = ""
    conditions: list[_Condition] | None = None


class _Object(msgspec.Struct, gc=False):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


_decode = msgspec.json.Decoder(_Object).decode


@lru_cache(maxsize=1024)
def parse(text: str) -> Amounts:
    """The amounts of an annotation; what makes no sense in it is left out, and told in the log once.

    >>> dict(parse("cpu=120m, web/memory=1k..2k"))
    {'cpu': (120, 120), 'web/memory': (1000000, 2000000)}
    """
    amounts: dict[str, tuple[int, int]] = {}
    for entry in text.split(","):
        name, given, value = entry.partition("=")
        low, _, high = value.strip().partition("..")
        try:
            bounds = sorted((scaled(low, 1000), scaled(high or low, 1000)))
        except Invalid:
            bounds = []
        if bounds and given and name.strip():
            amounts[name.strip()] = (max(0, bounds[0]), max(0, bounds[1]))
        elif entry.strip():
            log.warning("usage_not_understood", entry=entry.strip(), text=text, expected="cpu=100m, cpu=80m..120m")
    return amounts


def draw(bounds: tuple[int, int], *of: object) -> int:
    """An amount between the bounds, always the same one for the same things."""
    low, high = bounds
    if low == high:
        return low
    return low + zlib.crc32("/".join(map(str, of)).encode()) % (high - low + 1)


class PodUsage:
    """What pods use at a moment, from caches. Costs nothing until it is asked."""

    def __init__(self, manager: Manager, backends: Backends) -> None:
        self._manager = manager
        self._backends = backends
        # At a revision of the pods' cache: how many pods of a Service, at its own revision, were ready.
        self._sharing: dict[tuple[str, str], int] = {}
        self._shared_at = ""

    def of(self, pod: Stored, now: datetime, container: str = "") -> dict[str, int]:
        """What a pod, or one container of it, uses: name -> thousandths. None of it if the pod does not run.

        O(the Services that select it, and their pods where these have a load).
        """
        seen = _look(pod)
        containers = [each.name for each in seen.spec.containers]
        if seen.status.phase != "Running" or (container and container not in containers):
            return {}
        used = dict.fromkeys(RESOURCES, 0)
        slot = int(now.timestamp() // PERIOD)
        for name, bounds in parse((seen.metadata.annotations or {}).get(USAGE, "")).items():
            where, _, metric = name.rpartition("/")
            amount = draw(bounds, seen.metadata.uid, name, slot)
            if where and container and where != container:
                continue
            used[metric] = used.get(metric, 0) + (amount // len(containers) if container and not where else amount)
        if _ready(seen):
            for metric, amount in self._load(pod, slot):
                used[metric] = used.get(metric, 0) + (amount // len(containers) if container else amount)
        return used

    def _load(self, pod: Stored, slot: int) -> Iterable[tuple[str, int]]:
        for service in self._backends.services_of(pod):
            seen = _look(service)
            if text := (seen.metadata.annotations or {}).get(LOAD):
                sharing = max(self._ready(service), 1)
                for metric, bounds in parse(text).items():
                    yield metric, draw(bounds, seen.metadata.uid, metric, slot) // sharing

    def _ready(self, service: Stored) -> int:
        revision = self._manager.informer(Pod).cache.revision
        if self._shared_at != revision:
            self._sharing.clear()
            self._shared_at = revision
        known = self._sharing.get((service.key, service.revision))
        if known is None:
            selector = Service.decode(service.data, service.revision).spec.selector
            pods = self._backends.selected(service.namespace, selector)
            known = sum(_ready(_look(each)) for each in pods)
            self._sharing[service.key, service.revision] = known
        return known


def metrics_of(obj: Resource, now: datetime) -> dict[str, int]:
    """What an object says of its own metrics, in thousandths."""
    annotated = parse((obj.metadata.annotations or {}).get(METRICS, ""))
    slot = int(now.timestamp() // PERIOD)
    return {name: draw(bounds, obj.metadata.uid, name, slot) for name, bounds in annotated.items()}


def _look(stored: Stored) -> _Object:
    try:
        return _decode(stored.data)
    except msgspec.ValidationError:
        return _Object(_Metadata())


def _ready(seen: _Object) -> bool:
    return seen.status.phase == "Running" and any(
        each.type == "Ready" and each.status == "True" for each in seen.status.conditions or ()
    )
