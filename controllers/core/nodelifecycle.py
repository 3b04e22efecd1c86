"""The node lifecycle controller: it watches what nodes say of themselves, and taints those that pods should avoid."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from controllers.conditions import new_condition
from controllers.core.events import EventBroadcaster
from controllers.core.nodes import GRACE, LEASE_NAMESPACE
from controllers.core.podgc import PodGC
from controllers.core.pods import decode_pod
from controllers.core.stages import set_condition
from controllers.core.taint_eviction import NO_EXECUTE, NOT_READY, UNREACHABLE, TaintEviction
from controllers.core.types import Lease, Node, Pod
from controllers.manager import Manager
from informer.cache import Stored
from informer.client import ObjectClient
from informer.codecs import format_time
from informer.errors import ApiError, NotFound
from informer.shared import Handler

EVICTION_AFTER = 300.0  # seconds; the toleration of not-ready and unreachable that Kubernetes gives every pod
NO_SCHEDULE = "NoSchedule"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
# By what a condition of the node says: type and status.
CONDITION_TAINTS = {
    ("Ready", "False"): ((NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)),
    ("Ready", "Unknown"): ((UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)),
    ("MemoryPressure", "True"): (("node.kubernetes.io/memory-pressure", NO_SCHEDULE),),
    ("DiskPressure", "True"): (("node.kubernetes.io/disk-pressure", NO_SCHEDULE),),
    ("PIDPressure", "True"): (("node.kubernetes.io/pid-pressure", NO_SCHEDULE),),
    ("NetworkUnavailable", "True"): (("node.kubernetes.io/network-unavailable", NO_SCHEDULE),),
}
_OURS = {(UNSCHEDULABLE, NO_SCHEDULE), *(taint for taints in CONDITION_TAINTS.values() for taint in taints)}
RETRY = 0.5  # seconds after writes that failed

log = structlog.get_logger("controllers")


class NodeStatistics(msgspec.Struct, frozen=True):
    """lost: nodes not heard of now; evicted: pods deleted since the start, by taints or because their node had gone."""

    lost: int
    evicted: int


class _Watched(msgspec.Struct):
    """heard: when, on the loop's clock, the lease was last seen to change: two machines' clocks need not agree."""

    heard: float
    marked: bool = False


class NodeLifecycle:
    """Watches nodes and their leases.

    grace: seconds without a renewal after which a node is marked NotReady (Unknown), and its pods not ready. Taints
    follow the conditions of a node. eviction_after: how long a pod that says nothing of it stays on a node that is not
    ready or unreachable.
    """

    def __init__(
        self,
        manager: Manager,
        events: EventBroadcaster,
        *,
        grace: float = GRACE,
        eviction_after: float = EVICTION_AFTER,
    ) -> None:
        self._manager = manager
        self._recorder = events.recorder("node-controller")
        self._grace = grace
        self._eviction = TaintEviction(manager, events, eviction_after)
        self.collector = PodGC(manager)
        self._nodes: dict[str, _Watched] = {}
        self._changed: set[str] = set()
        self._wakeup = asyncio.Event()

    @property
    def _client(self) -> ObjectClient:
        return self._manager.client.with_field_manager("node-lifecycle")

    def register(self) -> None:
        """Add it to the manager."""
        self._manager.add_runnable(self.run, "node lifecycle")

    def statistics(self) -> NodeStatistics:
        """The controller at this moment."""
        lost = sum(node.marked for node in self._nodes.values())
        return NodeStatistics(lost=lost, evicted=self._eviction.evicted + self.collector.collected)

    async def run(self) -> None:
        """Watch until cancelled."""
        registrations = [
            self._manager.informer(Lease).add_handler(_Leases(self), name="node lifecycle"),
            self._manager.informer(Node).add_handler(_Nodes(self), name="node lifecycle"),
        ]
        try:
            for registration in registrations:
                await registration.wait_synced()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._eviction.run(), name="taint eviction")
                group.create_task(self.collector.run(), name="pod gc")
                while True:
                    await self._check()
        finally:
            for registration in registrations:
                registration.remove()

    def heard(self, name: str) -> None:
        """A node gave a sign."""
        now = asyncio.get_running_loop().time()
        watched = self._nodes.get(name)
        if watched is None:
            self._nodes[name] = _Watched(now)
            self._wakeup.set()
            return
        watched.heard = now
        if watched.marked:
            self._wakeup.set()

    def seen(self, name: str) -> None:
        """A node is there, or changed. One that is new has the grace period to say something."""
        if name not in self._nodes:
            self.heard(name)
        self._changed.add(name)
        self._wakeup.set()

    def gone(self, name: str) -> None:
        """A node is gone."""
        self._nodes.pop(name, None)
        self._changed.discard(name)

    async def _check(self) -> None:
        """Treat every node by how long it has been silent and by what it says, then sleep until one could be lost."""
        self._wakeup.clear()
        now = asyncio.get_running_loop().time()
        due: list[float] = []
        for name, watched in list(self._nodes.items()):
            try:
                if now < watched.heard + self._grace:
                    watched.marked = False
                    due.append(watched.heard + self._grace)
                elif not watched.marked:
                    watched.marked = await self._mark(name)
            except ApiError as error:
                log.info("node_not_marked", node=name, error=str(error))
                due.append(now + RETRY)
        for name in sorted(self._changed):
            self._changed.discard(name)
            try:
                await self._follow(name)
            except ApiError as error:
                log.info("node_not_tainted", node=name, error=str(error))
                self._changed.add(name)
                due.append(now + RETRY)
        try:
            async with asyncio.timeout_at(min(due, default=None)):
                await self._wakeup.wait()
        except TimeoutError:
            return

    async def _mark(self, name: str) -> bool:
        """Nobody hears of the node: say so of it. False if there is no such node."""
        try:
            node = await self._client.get(Node, name)
        except NotFound:
            self._nodes.pop(name, None)
            return False
        now = self._manager.now()
        if node.ready:
            self._recorder.event(node, "Normal", "NodeNotReady", f"Node {name} status is now: NodeNotReady")
        conditions = node.raw.setdefault("status", {}).get("conditions") or []
        for condition in conditions:
            if condition["status"] != "Unknown":
                told = new_condition(
                    condition["type"], "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.", now
                )
                condition.update(told)
        await self._client.update_status(node)
        return True

    async def _follow(self, name: str) -> None:
        """Bring a node's taints in line with its conditions, and its pods, if it is not ready."""
        try:
            node = await self._client.get(Node, name)
        except NotFound:
            return
        spec = node.raw.setdefault("spec", {})
        conditions = (node.raw.get("status") or {}).get("conditions") or []
        wanted = [taint for each in conditions for taint in CONDITION_TAINTS.get((each["type"], each["status"]), ())]
        if spec.get("unschedulable"):
            wanted.append((UNSCHEDULABLE, NO_SCHEDULE))
        taints = spec.get("taints") or []
        there = {(taint["key"], taint["effect"]) for taint in taints}
        kept = [each for each in taints if (each["key"], each["effect"]) in {*wanted, *(there - _OURS)}]
        stamp = format_time(self._manager.now().replace(microsecond=0))
        added = [
            {"key": key, "effect": effect, "timeAdded": stamp} for key, effect in wanted if (key, effect) not in there
        ]
        if added or len(kept) != len(taints):
            spec["taints"] = [*kept, *added]
            if not spec["taints"]:
                del spec["taints"]
            await self._client.update(node)
        if any(key in (NOT_READY, UNREACHABLE) for key, _ in wanted):
            # Nodes are lost so seldom that looking at every pod then costs less than an index of all of them always.
            pods = self._manager.informer(Pod).cache.list()
            losses = (self._lose(stored) for stored in pods if decode_pod(stored).node == name)
            for result in await asyncio.gather(*losses, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result

    async def _lose(self, stored: Stored) -> None:
        if not decode_pod(stored).ready:
            return
        pod = Pod.decode(stored.data, stored.revision)
        stamp = format_time(self._manager.now().replace(microsecond=0))
        set_condition(pod.raw["status"], "Ready", False, stamp, "NodeNotReady")
        try:
            await self._client.update_status(pod)
        except NotFound:
            return


class _Leases(Handler):
    def __init__(self, lifecycle: NodeLifecycle) -> None:
        self._lifecycle = lifecycle

    def on_add(self, new: Stored, initial: bool) -> None:
        if new.namespace == LEASE_NAMESPACE:
            self._lifecycle.heard(new.name)

    def on_update(self, old: Stored, new: Stored) -> None:
        if new.namespace == LEASE_NAMESPACE:
            self._lifecycle.heard(new.name)


class _Nodes(Handler):
    def __init__(self, lifecycle: NodeLifecycle) -> None:
        self._lifecycle = lifecycle

    def on_add(self, new: Stored, initial: bool) -> None:
        self._lifecycle.seen(new.name)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._lifecycle.seen(new.name)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._lifecycle.gone(old.name)
