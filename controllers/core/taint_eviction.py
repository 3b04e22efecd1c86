"""Pods leave nodes that have a NoExecute taint which they do not tolerate, as Kubernetes' taint eviction controller."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

import msgspec
import structlog

from controllers.core.disrupting import ENDED, disrupt
from controllers.core.events import EventBroadcaster, Reference
from controllers.core.taints import Taint, Toleration
from controllers.core.types import Node, Pod
from controllers.manager import Manager
from informer.cache import Stored
from informer.errors import ApiError, NotFound
from informer.shared import Handler, Registration

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
NO_EXECUTE = "NoExecute"
RETRY = 0.5  # seconds after writes that failed

log = structlog.get_logger("controllers")


class _Timed(Taint, frozen=True, gc=False, rename="camel"):
    time_added: datetime | None = None


class _Toleration(Toleration, frozen=True, gc=False, rename="camel"):
    toleration_seconds: int | None = None


class _NodeSpec(msgspec.Struct, gc=False):
    taints: list[_Timed] | None = None


class _Node(msgspec.Struct, gc=False):
    spec: _NodeSpec = msgspec.field(default_factory=_NodeSpec)


class _PodMetadata(msgspec.Struct, gc=False, rename="camel"):
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None


class _PodSpec(msgspec.Struct, gc=False, rename="camel"):
    node_name: str = ""
    tolerations: list[_Toleration] | None = None


class _PodStatus(msgspec.Struct, gc=False):
    phase: str = ""


class _Pod(msgspec.Struct, gc=False):
    metadata: _PodMetadata
    spec: _PodSpec
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


_decode_node: Final = msgspec.json.Decoder(_Node).decode
_decode_pod: Final = msgspec.json.Decoder(_Pod).decode


class _Leaving(msgspec.Struct):
    """A pod that will be evicted at `due`, on the loop's clock."""

    due: float
    uid: str


class TaintEviction:
    """Evicts by taints.

    default_seconds: how long a pod stays on a node that is not ready or unreachable if it says nothing of that; of
    another taint it has to say something, or it goes at once. Pods are watched only while a node has such a taint.

    A pod of an unreachable node is deleted by force, for nothing runs it; Kubernetes cannot know, and leaves it
    Terminating until the node is back or deleted.
    """

    def __init__(self, manager: Manager, events: EventBroadcaster, default_seconds: float) -> None:
        self._manager = manager
        self._recorder = events.recorder("taint-eviction-controller")
        self._default_seconds = default_seconds
        # By node: its NoExecute taints, and since when on the loop's clock.
        self._tainted: dict[str, dict[Taint, float]] = {}
        self._leaving: dict[str, _Leaving] = {}
        self._pods: Registration | None = None
        self._wakeup = asyncio.Event()
        self.evicted = 0

    async def run(self) -> None:
        """Evict until cancelled."""
        nodes = self._manager.informer(Node).add_handler(_Nodes(self), name="taint eviction")
        try:
            await nodes.wait_synced()
            while True:
                await self._work()
        finally:
            nodes.remove()
            if self._pods is not None:
                self._pods.remove()
                self._pods = None

    def node_seen(self, stored: Stored) -> None:
        """A node is there, or changed."""
        before = self._tainted.get(stored.name, {})
        now, wall = asyncio.get_running_loop().time(), self._manager.now()
        found: dict[Taint, float] = {}
        for each in _decode_node(stored.data).spec.taints or ():
            if each.effect == NO_EXECUTE:
                taint = Taint(each.key, each.value, each.effect)
                # Its time is in whole seconds, and nobody is to lose one by that.
                age = 0.0 if each.time_added is None else (wall - each.time_added).total_seconds() - 1
                found[taint] = before.get(taint, now - max(0.0, age))
        if found == before:
            return
        if found:
            self._tainted[stored.name] = found
        else:
            self._tainted.pop(stored.name, None)
        for pod in self._manager.informer(Pod).cache.list() if self._pods is not None else ():
            if _decode_pod(pod.data).spec.node_name == stored.name:
                self.pod_seen(pod)
        self._wakeup.set()

    def node_gone(self, name: str) -> None:
        """A node is gone: its pods are no longer for taints to evict."""
        self._tainted.pop(name, None)
        self._wakeup.set()

    def pod_seen(self, stored: Stored) -> None:
        """A pod is there, or changed, while a node has such a taint."""
        pod = _decode_pod(stored.data)
        taints = self._tainted.get(pod.spec.node_name)
        due = None if taints is None else self._due(pod, taints)
        leaving = self._leaving.get(stored.key)
        if due is None:
            if leaving is not None:
                del self._leaving[stored.key]
                if pod.metadata.deletion_timestamp is None:
                    self._tell(stored, f"Cancelling deletion of Pod {stored.key}")
            return
        uid = stored.meta.uid or ""
        if leaving is None or leaving.due != due or leaving.uid != uid:
            self._leaving[stored.key] = _Leaving(due, uid)
            self._wakeup.set()

    def pod_gone(self, key: str) -> None:
        """A pod is gone."""
        self._leaving.pop(key, None)

    def _due(self, pod: _Pod, taints: dict[Taint, float]) -> float | None:
        """When the pod has to go; None if it may stay. Of several tolerations of a taint the shortest counts."""
        dues: list[float] = []
        if pod.metadata.deletion_timestamp is not None:
            # On its way; but nothing ends it where nothing runs.
            lost = any(taint.key == UNREACHABLE for taint in taints)
            if not lost or (pod.status.phase in ENDED and not pod.metadata.deletion_grace_period_seconds):
                return None
        for taint, since in taints.items():
            covering = [each for each in pod.spec.tolerations or () if each.covers(taint)]
            if not covering:
                dues.append(since + (self._default_seconds if taint.key in (NOT_READY, UNREACHABLE) else 0.0))
                continue
            seconds = [each.toleration_seconds for each in covering if each.toleration_seconds is not None]
            if seconds:
                dues.append(since + max(0, min(seconds)))
        return min(dues, default=None)

    async def _work(self) -> None:
        self._wakeup.clear()
        self._watch_pods()
        now = asyncio.get_running_loop().time()
        due = [(key, leaving) for key, leaving in self._leaving.items() if leaving.due <= now]
        await asyncio.gather(*(self._evict(key, leaving) for key, leaving in due))
        try:
            async with asyncio.timeout_at(min((each.due for each in self._leaving.values()), default=None)):
                await self._wakeup.wait()
        except TimeoutError:
            return

    def _watch_pods(self) -> None:
        if self._tainted and self._pods is None:
            self._pods = self._manager.informer(Pod).add_handler(_Pods(self), name="taint eviction")
        elif not self._tainted and self._pods is not None:
            self._pods.remove()
            self._pods = None
            for key in list(self._leaving):
                if (stored := self._manager.informer(Pod).cache.get(key)) is not None:
                    self.pod_seen(stored)
            self._leaving.clear()

    async def _evict(self, key: str, leaving: _Leaving) -> None:
        stored = self._manager.informer(Pod).cache.get(key)
        if stored is None or stored.meta.uid != leaving.uid:
            self._leaving.pop(key, None)
            return
        pod = _decode_pod(stored.data)
        taints = self._tainted.get(pod.spec.node_name)
        if taints is None:
            self._leaving.pop(key, None)
            return
        client, now = self._manager.client.with_field_manager("taint-eviction"), self._manager.now()
        by_force = any(taint.key == UNREACHABLE for taint in taints)
        message = "Taint manager: deleting due to NoExecute taint"
        self._tell(stored, f"Marking for deletion Pod {key}")
        try:
            await disrupt(client, stored, "DeletionByTaintManager", message, now, by_force=by_force, may_return=True)
        except NotFound:
            self._leaving.pop(key, None)
        except ApiError as error:
            log.info("pod_not_evicted", pod=key, error=str(error))
            leaving.due = asyncio.get_running_loop().time() + RETRY
        else:
            self.evicted += 1
            self._leaving.pop(key, None)

    def _tell(self, stored: Stored, message: str) -> None:
        reference = Reference(Pod.TYPE.api_version, Pod.TYPE.kind, stored.namespace, stored.name, stored.meta.uid or "")
        self._recorder.event(reference, "Normal", "TaintManagerEviction", message)


class _Nodes(Handler):
    def __init__(self, eviction: TaintEviction) -> None:
        self._eviction = eviction

    def on_add(self, new: Stored, initial: bool) -> None:
        self._eviction.node_seen(new)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._eviction.node_seen(new)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._eviction.node_gone(old.name)


class _Pods(Handler):
    def __init__(self, eviction: TaintEviction) -> None:
        self._eviction = eviction

    def on_add(self, new: Stored, initial: bool) -> None:
        self._eviction.pod_seen(new)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._eviction.pod_seen(new)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._eviction.pod_gone(old.key)
