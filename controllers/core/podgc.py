"""Collects the pods of nodes that are no more, as kube-controller-manager's PodGC."""

from __future__ import annotations

import asyncio

import structlog

from controllers.core.disrupting import disrupt
from controllers.core.pods import decode_pod
from controllers.core.types import Node, Pod
from controllers.manager import Manager
from informer.cache import Stored
from informer.errors import ApiError, NotFound
from informer.shared import Handler

QUARANTINE = 40.0  # seconds; kube-controller-manager's, for a node may be made anew
RETRY = 0.5  # seconds after writes that failed

log = structlog.get_logger("controllers")


class PodGC:
    """Looks at the pods of a node a while after it has gone, and at the start at those of nodes that are not there.

    Pods that somebody binds to a node that never was stay until then; Kubernetes looks at all pods each 20 s.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
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
            bound = {decode_pod(stored).node for stored in pods.cache.list()}
            for name in bound:
                if name and nodes.cache.get(name) is None:
                    self.gone(name)
            while True:
                await self._work()
        finally:
            registration.remove()

    def gone(self, name: str) -> None:
        """A node is gone."""
        self._due[name] = asyncio.get_running_loop().time() + QUARANTINE
        self._wakeup.set()

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
            async with asyncio.timeout_at(min(self._due.values(), default=None)):
                await self._wakeup.wait()
        except TimeoutError:
            return

    async def _collect(self, name: str) -> None:
        client = self._manager.client.with_field_manager("pod-garbage-collector")
        pods = [each for each in self._manager.informer(Pod).cache.list() if decode_pod(each).node == name]
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


class _Nodes(Handler):
    def __init__(self, collector: PodGC) -> None:
        self._collector = collector

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._collector.gone(old.name)
