"""The pods behind Services: which they are, found without looking at others, and what of them an address tells.

As long as no Service selects anything this costs nothing: the index of pods and the handler of their events come with
the first Service that has a selector.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from controllers.core.types import Pod, Service
from controllers.manager import Manager
from controllers.reconcile import Request
from controllers.workqueue import WorkQueue
from informer.cache import Stored
from informer.shared import Handler

LABELS_INDEX = "label pairs"
SELECTOR_INDEX = "selector"
# Seconds between two runs for a Service, for each pod behind it: what kube-controller-manager's client, at 20 requests
# a second, takes for slices of a hundred.
PACE = 0.0005

Raw = dict[str, Any]


# ---- what of a pod concerns its Services ----------------------------------------------------------------------------


class _Port(msgspec.Struct, gc=False, rename="camel"):
    container_port: int = 0
    name: str = ""
    protocol: str = "TCP"


class _Container(msgspec.Struct, gc=False, rename="camel"):
    ports: list[_Port] | None = None
    restart_policy: str | None = None


class _Spec(msgspec.Struct, gc=False, rename="camel"):
    node_name: str = ""
    hostname: str = ""
    subdomain: str = ""
    containers: list[_Container] = []
    init_containers: list[_Container] | None = None


class _Condition(msgspec.Struct, gc=False):
    type: str = ""
    status: str = ""


class _Address(msgspec.Struct, gc=False):
    ip: str = ""


class _Status(msgspec.Struct, gc=False):
    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: list[_Address] | None = msgspec.field(name="podIPs", default=None)
    conditions: list[_Condition] | None = None


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    name: str = ""
    uid: str = ""
    deletion_timestamp: str | None = None


class _Pod(msgspec.Struct, gc=False):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


_decode = msgspec.json.Decoder(_Pod).decode


class Backend(msgspec.Struct, frozen=True, gc=False):
    """A pod that has an address and has not ended. ports: (name, protocol, number) of those that have names."""

    name: str
    uid: str
    node: str
    addresses: tuple[str, ...]
    ready: bool
    terminating: bool
    hostname: str
    subdomain: str
    ports: tuple[tuple[str, str, int], ...]

    def address(self, family: str) -> str | None:
        """Its address of that family, `IPv4` or `IPv6`."""
        return next((each for each in self.addresses if family_of(each) == family), None)

    def port(self, wanted: Mapping[str, Any]) -> int | None:
        """The number of the port that a Service's port means, None if the pod has none of that name."""
        target = wanted.get("targetPort") or wanted["port"]
        if isinstance(target, int):
            return target
        protocol = wanted.get("protocol", "TCP")
        return next((port for name, kind, port in self.ports if name == target and kind == protocol), None)


def backend_of(stored: Stored) -> Backend | None:
    """The pod as its Services see it; None if it has ended or has no address. Raises msgspec.ValidationError."""
    pod = _decode(stored.data)
    status, spec = pod.status, pod.spec
    if status.phase in ("Succeeded", "Failed"):
        return None
    addresses = tuple(each.ip for each in status.pod_ips or () if each.ip) or (
        (status.pod_ip,) if status.pod_ip else ()
    )
    if not addresses:
        return None
    # Init containers that go on running beside the others serve as well.
    containers = [*spec.containers, *(each for each in spec.init_containers or () if each.restart_policy == "Always")]
    return Backend(
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        node=spec.node_name,
        addresses=addresses,
        ready=any(each.type == "Ready" and each.status == "True" for each in status.conditions or ()),
        terminating=pod.metadata.deletion_timestamp is not None,
        hostname=spec.hostname,
        subdomain=spec.subdomain,
        ports=tuple(
            (port.name, port.protocol, port.container_port)
            for container in containers
            for port in container.ports or ()
            if port.name
        ),
    )


def family_of(address: str) -> str:
    """IPv4 or IPv6."""
    return "IPv6" if ":" in address else "IPv4"


def target_of(backend: Backend, namespace: str) -> Raw:
    """The reference to the pod. Without its version: a change of the pod alone is no change here."""
    return {"kind": "Pod", "namespace": namespace, "name": backend.name, "uid": backend.uid}


def hostname_of(backend: Backend, service: str) -> str:
    """The name by which the pod is found below the Service's, "" if it has none."""
    return backend.hostname if backend.subdomain == service else ""


# ---- who is behind whom ---------------------------------------------------------------------------------------------

_LABELS: Final = msgspec.json.Decoder(dict[str, str] | None)


class _ServiceSpec(msgspec.Struct, gc=False):
    selector: dict[str, str] | None = None
    type: str = "ClusterIP"


class _Service(msgspec.Struct, gc=False):
    spec: _ServiceSpec | None = None


_decode_service = msgspec.json.Decoder(_Service).decode


@lru_cache(maxsize=4096)  # the pods of one template have the same labels
def _pairs(namespace: str, labels: bytes) -> tuple[str, ...]:
    try:
        found = _LABELS.decode(labels) or {}
    except msgspec.MsgspecError:
        return ()
    return tuple(f"{namespace}/{key}={value}" for key, value in found.items())


def label_pairs(stored: Stored) -> tuple[str, ...]:
    """An indexer: `namespace/key=value` for each label."""
    raw = stored.meta.raw_labels
    return _pairs(stored.namespace, bytes(raw)) if raw else ()


def _selected(stored: Stored) -> tuple[str, ...]:
    try:
        spec = _decode_service(stored.data).spec
    except msgspec.MsgspecError:
        return ()
    if spec is None or not spec.selector or spec.type == "ExternalName":
        return ()
    return tuple(sorted(f"{stored.namespace}/{key}={value}" for key, value in spec.selector.items()))


def selector_pair(stored: Stored) -> tuple[str, ...]:
    """An indexer of Services: one of the pairs that each of its pods has."""
    return _selected(stored)[:1]


class PacedQueue(WorkQueue[Request]):
    """A queue that lets a key rest: what is added meanwhile is added at the end of its rest, however often."""

    def __init__(self) -> None:
        super().__init__()
        self._rests: dict[Request, float] = {}

    def rest(self, key: Request, seconds: float) -> None:
        """The key's next run begins that much later than now, at the earliest."""
        if seconds > 0:
            self._rests[key] = asyncio.get_running_loop().time() + seconds

    def add(self, key: Request, priority: int | None = None) -> None:
        """As `WorkQueue.add`, but for a key that rests."""
        until = self._rests.get(key)
        if until is not None:
            left = until - asyncio.get_running_loop().time()
            if left > 0:
                self.add_after(key, left, priority)
                return
            del self._rests[key]
        super().add(key, priority)

    def forget_rest(self, key: Request) -> None:
        """The key is gone."""
        self._rests.pop(key, None)


class Backends:
    """The pods behind every Service, shared by all who ask for them. Not before the manager runs."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._queues: list[PacedQueue] = []
        self._wanted = asyncio.Event()
        self._known: dict[str, tuple[str, Backend | None]] = {}

    def register(self) -> None:
        """Add the handler of pod events to the manager; it is idle until a Service selects pods."""
        self._manager.add_index(Service, SELECTOR_INDEX, selector_pair)
        self._manager.add_runnable(self.run, "pods of services")

    def queue(self) -> PacedQueue:
        """A work queue of Services, to which a Service is added when its pods change."""
        queue = PacedQueue()
        self._queues.append(queue)
        return queue

    async def run(self) -> None:
        """Hear of pods until cancelled."""
        await self._wanted.wait()
        registration = self._manager.informer(Pod).add_handler(_Pods(self), name="pods of services")
        try:
            await asyncio.Event().wait()
        finally:
            registration.remove()

    def of(self, namespace: str, selector: Mapping[str, str]) -> list[Backend]:
        """The pods of a namespace with these labels that have an address. O(pods with the first of these labels)."""
        found = []
        for stored in self.selected(namespace, selector):
            known = self._known.get(stored.key)
            if known is None or known[0] != stored.revision:
                try:
                    known = (stored.revision, backend_of(stored))
                except msgspec.ValidationError:
                    known = (stored.revision, None)
                self._known[stored.key] = known
            if known[1] is not None:
                found.append(known[1])
        return found

    def selected(self, namespace: str, selector: Mapping[str, str]) -> Sequence[Stored]:
        """The pods of a namespace with these labels, with or without an address."""
        self._want()
        first, *others = sorted(f"{namespace}/{key}={value}" for key, value in selector.items())
        pods = self._manager.informer(Pod).cache.by_index(LABELS_INDEX, first)
        if not others:
            return pods
        return [stored for stored in pods if all(pair in label_pairs(stored) for pair in others)]

    def services_of(self, stored: Stored) -> Iterable[Stored]:
        """The Services that select a pod. O(its labels + the Services that share one with it)."""
        services = self._manager.informer(Service).cache
        pairs = label_pairs(stored)
        for pair in pairs:
            for service in services.by_index(SELECTOR_INDEX, pair):
                if all(wanted in pairs for wanted in _selected(service)):
                    yield service

    def _want(self) -> None:
        if not self._wanted.is_set():
            self._manager.add_index(Pod, LABELS_INDEX, label_pairs)
            self._wanted.set()

    def changed(self, *pods: Stored) -> None:
        """A pod came, changed or went: old and new."""
        for pod in pods:
            for service in self.services_of(pod):
                for queue in self._queues:
                    queue.add(Request(service.namespace, service.name))

    def gone(self, pod: Stored) -> None:
        """A pod is gone."""
        self._known.pop(pod.key, None)
        self.changed(pod)


class _Pods(Handler):
    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    def on_add(self, new: Stored, initial: bool) -> None:
        self._backends.changed(new)

    def on_update(self, old: Stored, new: Stored) -> None:
        if bytes(old.meta.raw_labels) == bytes(new.meta.raw_labels):
            self._backends.changed(new)
        else:
            self._backends.changed(old, new)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._backends.gone(old)
