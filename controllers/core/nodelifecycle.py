"""The node lifecycle controller: a node that is not heard of is lost, and so are, after a while, its pods."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from controllers.conditions import new_condition
from controllers.core.events import EventBroadcaster
from controllers.core.nodes import GRACE, LEASE_NAMESPACE
from controllers.core.pods import PodView, decode_pod
from controllers.core.stages import set_condition
from controllers.core.types import Lease, Node, Pod
from controllers.manager import Manager
from informer.cache import Stored
from informer.client import ObjectClient
from informer.codecs import format_time
from informer.errors import ApiError, Conflict, NotFound
from informer.shared import Handler

EVICTION_AFTER = 300.0  # seconds; the toleration of not-ready and unreachable that Kubernetes gives every pod
UNREACHABLE = "node.kubernetes.io/unreachable"
RETRY = 0.5  # seconds after writes that failed

log = structlog.get_logger("controllers")


class NodeStatistics(msgspec.Struct, frozen=True):
    """lost: nodes not heard of now; evicted: pods deleted by force since the start."""

    lost: int
    evicted: int


class _Watched(msgspec.Struct):
    """heard: when, on the loop's clock, the lease was last seen to change: two machines' clocks need not agree."""

    heard: float
    marked: bool = False


class NodeLifecycle:
    """Watches the leases of nodes.

    grace: seconds without a renewal after which a node is marked NotReady (Unknown) and tainted, and its pods not
    ready. eviction_after: seconds after that until its pods are deleted by force, so that their controllers replace
    them elsewhere. Kubernetes' pods stay Terminating, for the machine may still run them; a simulated one does not.
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
        self._eviction_after = eviction_after
        self._nodes: dict[str, _Watched] = {}
        self._wakeup = asyncio.Event()
        self._evicted = 0

    @property
    def _client(self) -> ObjectClient:
        return self._manager.client.with_field_manager("node-lifecycle")

    def register(self) -> None:
        """Add it to the manager."""
        self._manager.add_runnable(self.run, "node lifecycle")

    def statistics(self) -> NodeStatistics:
        """The controller at this moment."""
        return NodeStatistics(lost=sum(node.marked for node in self._nodes.values()), evicted=self._evicted)

    async def run(self) -> None:
        """Watch until cancelled."""
        registrations = [
            self._manager.informer(Lease).add_handler(_Leases(self), name="node lifecycle"),
            self._manager.informer(Node).add_handler(_Nodes(self), name="node lifecycle"),
        ]
        try:
            for registration in registrations:
                await registration.wait_synced()
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

    def appeared(self, name: str) -> None:
        """A node is there: it has the grace period to say something."""
        if name not in self._nodes:
            self.heard(name)

    async def _check(self) -> None:
        """Treat every node by how long it has been silent, then sleep until the next could be lost."""
        now = asyncio.get_running_loop().time()
        due: list[float] = []
        for name, watched in list(self._nodes.items()):
            lost_at = watched.heard + self._grace
            evict_at = lost_at + self._eviction_after
            try:
                if now < lost_at:
                    if watched.marked:
                        await self._welcome(name)
                        watched.marked = False
                    due.append(lost_at)
                    continue
                if not watched.marked:
                    watched.marked = await self._mark(name)
                    if not watched.marked:
                        del self._nodes[name]
                        continue
                if now >= evict_at:
                    await self._evict(name)
                    # A pod that was being bound to it just then is found the next time.
                    due.append(now + self._grace)
                else:
                    due.append(evict_at)
            except ApiError as error:
                log.info("node_not_handled", node=name, error=str(error))
                due.append(now + RETRY)
        self._wakeup.clear()
        try:
            async with asyncio.timeout_at(min(due, default=None)):
                await self._wakeup.wait()
        except TimeoutError:
            return

    async def _mark(self, name: str) -> bool:
        """The node is lost: say so of it and of its pods. False if there is no such node and it has no pods."""
        try:
            node = await self._client.get(Node, name)
        except NotFound:
            return bool(self._pods_of(name))
        now = self._manager.now()
        if node.ready:
            self._recorder.event(node, "Normal", "NodeNotReady", f"Node {name} status is now: NodeNotReady")
        conditions = node.raw["status"].get("conditions") or []
        for condition in conditions:
            if condition["status"] != "Unknown":
                told = new_condition(
                    condition["type"], "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.", now
                )
                condition.update(told)
        node = await self._client.update_status(node)
        taints = node.raw.setdefault("spec", {}).get("taints") or []
        if not any(taint["key"] == UNREACHABLE for taint in taints):
            added = [{"key": UNREACHABLE, "effect": effect} for effect in ("NoSchedule", "NoExecute")]
            node.raw["spec"]["taints"] = [*taints, *added]
            await self._client.update(node)
        await asyncio.gather(*(self._lose(stored) for stored in self._pods_of(name)))
        return True

    async def _welcome(self, name: str) -> None:
        """The node is heard of again: its kubelet says so of itself, here only the taints go."""
        try:
            node = await self._client.get(Node, name)
        except NotFound:
            return
        taints = node.raw.setdefault("spec", {}).get("taints") or []
        kept = [taint for taint in taints if taint["key"] != UNREACHABLE]
        if len(kept) != len(taints):
            node.raw["spec"]["taints"] = kept
            await self._client.update(node)

    async def _lose(self, stored: Stored) -> None:
        if not decode_pod(stored).ready:
            return
        pod = Pod.decode(stored.data, stored.revision)
        stamp = format_time(self._manager.now().replace(microsecond=0))
        set_condition(pod.raw["status"], "Ready", False, stamp, "NodeNotReady")
        try:
            await self._client.update_status(pod)
        except (Conflict, NotFound) as error:
            log.info("pod_not_marked", pod=stored.key, error=str(error))

    async def _evict(self, name: str) -> None:
        """Delete its pods by force. Raises the first error, after all were tried."""
        pods = [(stored, decode_pod(stored)) for stored in self._pods_of(name)]
        results = await asyncio.gather(*(self._delete(stored, pod) for stored, pod in pods), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _delete(self, stored: Stored, pod: PodView) -> None:
        try:
            await self._client.delete(Pod, pod.name, stored.namespace, uid=pod.uid, grace_seconds=0)
        except NotFound:
            return
        self._evicted += 1

    def _pods_of(self, name: str) -> list[Stored]:
        # Nodes are lost so seldom that looking at every pod then costs less than an index of all of them always.
        return [stored for stored in self._manager.informer(Pod).cache.list() if decode_pod(stored).node == name]


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
        self._lifecycle.appeared(new.name)
