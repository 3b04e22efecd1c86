"""Collects the pods of nodes that are not there, and pods that ended long ago, as kube-controller-manager's PodGC."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from controllers.core.disrupting import disrupt
from controllers.core.pods import decode_pod
from controllers.core.scheduling.pod import Brief, decode_brief
from controllers.core.types import Node, Pod
from controllers.manager import Manager
from informer.cache import Stored
from informer.errors import ApiError, NotFound
from informer.shared import Handler

QUARANTINE = 40.0  # seconds; kube-controller-manager's, for a node may be made anew
PERIOD = 20.0  # seconds between looks at all pods; kube-controller-manager's
THRESHOLD = 12_500  # ended pods that are kept; kube-controller-manager's --terminated-pod-gc-threshold
BURST = 500  # ended pods that are deleted in one look
RETRY = 0.5  # seconds after writes that failed

log = structlog.get_logger("controllers")


class PodGC:
    """Looks at the pods of a node a while after it has gone, or was found not to be there; of ended pods the oldest go
    when there are more than `threshold`. All pods are looked at each 20 s, for a microsecond or two each."""

    def __init__(self, manager: Manager, *, threshold: int = THRESHOLD) -> None:
        self.threshold = threshold
        self._manager = manager
        self._next_look = 0.0
        self._due: dict[str, float] = {}
        self._wakeup = asyncio.Event()
        self.collected = 0

    async def run(self) -> None:
        """Collect until cancelled."""
        nodes, pods = self._manager.informer(Node), self._manager.informer(Pod)
        registration = nodes.add_handler(_Nodes(self), name="pod gc")
        try:
            await registration.wait_synced()
            await pods.wait_synced()
            while True:
                if asyncio.get_running_loop().time() >= self._next_look:
                    await self._look()
                await self._work()
        finally:
            registration.remove()

    def gone(self, name: str) -> None:
        """A node is gone."""
        self._due[name] = asyncio.get_running_loop().time() + QUARANTINE
        self._wakeup.set()

    async def _look(self) -> None:
        """At all pods there are."""
        nodes = self._manager.informer(Node).cache
        ended: list[Stored] = []
        for stored in self._manager.informer(Pod).cache.list():
            pod = _brief(stored)
            if pod.finished:
                ended.append(stored)
            name = pod.spec.node_name
            if name and name not in self._due and nodes.get(name) is None:
                self.gone(name)
        excess = len(ended) - self.threshold
        if excess > 0:
            ended.sort(key=_created)
            await asyncio.gather(*(self._forget(stored) for stored in ended[: min(excess, BURST)]))
        self._next_look = asyncio.get_running_loop().time() + PERIOD

    async def _forget(self, stored: Stored) -> None:
        client = self._manager.client.with_field_manager("pod-garbage-collector")
        try:
            await client.delete(Pod, stored.name, stored.namespace, uid=stored.meta.uid, grace_seconds=0)
        except NotFound:
            return
        except ApiError as error:
            log.info("ended_pod_not_collected", pod=stored.key, error=str(error))  # the next look finds it again
            return
        self.collected += 1

    async def _work(self) -> None:
        now = asyncio.get_running_loop().time()
        for name in [name for name, due in self._due.items() if due <= now]:
            try:
                await self._collect(name)
            except ApiError as error:
                log.info("pods_not_collected", node=name, error=str(error))
                self._due[name] = now + RETRY
        self._wakeup.clear()
        try:
            async with asyncio.timeout_at(min([self._next_look, *self._due.values()])):
                await self._wakeup.wait()
        except TimeoutError:
            return

    async def _collect(self, name: str) -> None:
        client = self._manager.client.with_field_manager("pod-garbage-collector")
        pods = [each for each in self._manager.informer(Pod).cache.list() if _brief(each).spec.node_name == name]
        if pods:
            try:
                await client.get(Node, name)
            except NotFound:
                results = await asyncio.gather(*(self._delete(stored) for stored in pods), return_exceptions=True)
                for result in results:
                    if isinstance(result, BaseException):
                        raise result from None
        del self._due[name]

    async def _delete(self, stored: Stored) -> None:
        client = self._manager.client.with_field_manager("pod-garbage-collector")
        message = "PodGC: node no longer exists"
        try:
            await disrupt(client, stored, "DeletionByPodGC", message, self._manager.now(), by_force=True)
        except NotFound:
            return
        self.collected += 1


def _brief(stored: Stored) -> Brief:
    try:
        return decode_brief(stored.data)
    except msgspec.ValidationError:
        return Brief()  # somebody wrote what is no pod; that must not keep the others


def _created(stored: Stored) -> tuple[str, str]:
    since = decode_pod(stored).metadata.creation_timestamp
    return (since.isoformat() if since is not None else "", stored.key)


class _Nodes(Handler):
    def __init__(self, collector: PodGC) -> None:
        self._collector = collector

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._collector.gone(old.name)
