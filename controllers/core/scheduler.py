"""The scheduler: gives each pod without a node one that takes it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import structlog

from controllers.conditions import find_condition, new_condition
from controllers.core.events import EventBroadcaster, Reference
from controllers.core.placement import Cluster, Needs, Unschedulable, needs_of
from controllers.core.types import Node, Pod
from controllers.manager import Manager
from informer.cache import Stored
from informer.client import ObjectClient
from informer.errors import ApiError, Invalid, NotFound
from informer.shared import Handler

NAME = "default-scheduler"
# kube-scheduler's podInitialBackoffSeconds and podMaxBackoffSeconds, of a pod that could not be placed or bound.
FIRST_BACKOFF, LAST_BACKOFF = 1.0, 10.0
AT_ONCE = 256  # bindings in flight together: enough to fill the store's commits

log = structlog.get_logger("controllers")


class SchedulerStatistics(msgspec.Struct, frozen=True):
    """bound: bindings written; refused: attempts that found no node; failed: bindings that could not be written;
    waiting: pods without a node now, of which `unschedulable` found none at the last attempt."""

    bound: int
    refused: int
    failed: int
    waiting: int
    unschedulable: int


class _Waiting(msgspec.Struct):
    """A pod without a node. parked: no node took it, so nothing is tried until something changes."""

    not_before: float = 0.0
    failures: int = 0
    parked: bool = False

    def back_off(self, now: float) -> None:
        self.not_before = now + min(LAST_BACKOFF, FIRST_BACKOFF * 2**self.failures)
        self.failures += 1


class Scheduler:
    """Spreads pods over the nodes: of those that take one the emptiest gets it.

    A pod that is being bound counts as being on its node at once, so many can be placed before one is written.
    """

    def __init__(self, manager: Manager, events: EventBroadcaster) -> None:
        self._manager = manager
        self._recorder = events.recorder(NAME)
        self._cluster = Cluster()
        self._waiting: dict[str, _Waiting] = {}
        self._binding: set[str] = set()
        self._wakeup = asyncio.Event()
        self._bound = self._refused = self._failed = 0

    @property
    def _client(self) -> ObjectClient:
        return self._manager.client.with_field_manager("scheduler")

    def register(self) -> None:
        """Add it to the manager."""
        self._manager.add_runnable(self.run, "scheduler")

    def statistics(self) -> SchedulerStatistics:
        """The scheduler at this moment."""
        return SchedulerStatistics(
            bound=self._bound,
            refused=self._refused,
            failed=self._failed,
            waiting=len(self._waiting),
            unschedulable=sum(each.parked for each in self._waiting.values()),
        )

    async def run(self) -> None:
        """Schedule until cancelled. A binding under way when it is cancelled may or may not be written."""
        nodes, pods = self._manager.informer(Node), self._manager.informer(Pod)
        registrations = [
            nodes.add_handler(_Nodes(self), name="scheduler"),
            pods.add_handler(_Pods(self), name="scheduler"),
        ]
        try:
            # Without all nodes and all pods on them the first choices would be blind.
            for registration in registrations:
                await registration.wait_synced()
            while True:
                await self._schedule()
        finally:
            for registration in registrations:
                registration.remove()

    async def _schedule(self) -> None:
        """Try the pods whose time has come, or wait for one."""
        now = asyncio.get_running_loop().time()
        due = []
        earliest: float | None = None
        for key, waiting in self._waiting.items():
            if waiting.parked or key in self._binding:
                continue
            if waiting.not_before <= now:
                due.append(key)
                if len(due) == AT_ONCE:
                    break
            elif earliest is None or waiting.not_before < earliest:
                earliest = waiting.not_before
        if due:
            await asyncio.gather(*(self._try(key, now) for key in due))
            return
        self._wakeup.clear()
        try:
            async with asyncio.timeout_at(earliest):
                await self._wakeup.wait()
        except TimeoutError:
            return

    async def _try(self, key: str, now: float) -> None:
        waiting = self._waiting.get(key)
        stored = self._manager.informer(Pod).cache.get(key)
        if waiting is None or stored is None:
            return
        try:
            needs = needs_of(stored.data)
            if needs.node:
                return
            node = self._cluster.place(needs)
        except (Unschedulable, Invalid, msgspec.ValidationError) as error:
            self._refused += 1
            waiting.parked = True
            waiting.back_off(now)
            await self._tell(stored, str(error))
            return
        self._binding.add(key)
        self._cluster.note(key, node, needs)
        try:
            await self._bind(stored, node)
        except ApiError as error:
            self._failed += 1
            # The informer tells what became of it: another try sees that, and the version keeps it from doing harm.
            if key in self._waiting:
                self._cluster.forget(key)
                waiting.back_off(now)
            log.info("binding_failed", pod=key, node=node, error=str(error))
        else:
            self._bound += 1
            self._waiting.pop(key, None)
        finally:
            self._binding.discard(key)

    async def _bind(self, stored: Stored, node: str) -> None:
        pod = Pod.decode(stored.data, stored.revision)
        pod.raw["spec"]["nodeName"] = node
        # As kube-apiserver's binding: the node and the condition in one write.
        self._set_scheduled(pod, "True", "", "")
        await self._client.replace(pod)
        name = f"{stored.namespace}/{stored.name}"
        self._recorder.event(_reference(stored), "Normal", "Scheduled", f"Successfully assigned {name} to {node}")

    async def _tell(self, stored: Stored, why: str) -> None:
        """Let the pod say that no node takes it, unless it says so already."""
        pod = Pod.decode(stored.data, stored.revision)
        condition = find_condition((pod.raw.get("status") or {}).get("conditions") or [], "PodScheduled")
        if condition is not None and condition.get("message") == why:
            return
        self._recorder.event(_reference(stored), "Warning", "FailedScheduling", why)
        self._set_scheduled(pod, "False", "Unschedulable", why)
        try:
            await self._client.update_status(pod)
        except NotFound:
            return
        except ApiError as error:
            log.info("status_not_written", pod=stored.key, error=str(error))

    def _set_scheduled(self, pod: Pod, status: str, reason: str, message: str) -> None:
        condition: dict[str, Any] = new_condition("PodScheduled", status, reason, message, self._manager.now())
        condition = {key: value for key, value in condition.items() if value}
        told = pod.raw.setdefault("status", {})
        others = [each for each in told.get("conditions") or [] if each["type"] != "PodScheduled"]
        before = find_condition(told.get("conditions") or [], "PodScheduled")
        if before is not None and before["status"] == status:
            condition["lastTransitionTime"] = before.get("lastTransitionTime", condition["lastTransitionTime"])
        told["conditions"] = [*others, condition]

    # ---- what the informers tell -----------------------------------------------------------------------------------

    def pod_seen(self, stored: Stored, *, changed: bool) -> None:
        """A pod is there. changed: in what it asks for."""
        key = stored.key
        try:
            needs = needs_of(stored.data)
        except (Invalid, msgspec.ValidationError) as error:
            needs = Needs("", 0, 0, {}, (), NAME, finished=False)
            log.info("pod_not_understood", pod=key, error=str(error))
        if needs.finished:
            self.pod_gone(key)
        elif needs.node:
            self._waiting.pop(key, None)
            self._cluster.note(key, needs.node, needs)
        elif stored.meta.deletion_timestamp:
            self._waiting.pop(key, None)
        elif needs.scheduler in ("", NAME) and key not in self._cluster:
            waiting = self._waiting.get(key)
            if waiting is None:
                self._waiting[key] = _Waiting()
            elif changed:
                waiting.parked = False
            else:
                return
            self._wakeup.set()

    def pod_gone(self, key: str) -> None:
        """A pod uses nothing any more."""
        self._waiting.pop(key, None)
        if self._cluster.forget(key):
            self._retry()

    def node_seen(self, stored: Stored) -> None:
        """A node is there, or changed."""
        try:
            self._cluster.set_node(stored.name, stored.data)
        except (Invalid, msgspec.ValidationError) as error:
            log.warning("node_not_understood", node=stored.name, error=str(error))
            return
        self._retry()

    def node_gone(self, stored: Stored) -> None:
        """A node takes no more pods."""
        self._cluster.remove_node(stored.name)

    def _retry(self) -> None:
        """Something changed: pods that no node took may try again, each after its backoff."""
        for waiting in self._waiting.values():
            waiting.parked = False
        self._wakeup.set()


class _Pods(Handler):
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def on_add(self, new: Stored, initial: bool) -> None:
        self._scheduler.pod_seen(new, changed=False)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._scheduler.pod_seen(new, changed=old.meta.generation != new.meta.generation)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._scheduler.pod_gone(old.key)


class _Nodes(Handler):
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def on_add(self, new: Stored, initial: bool) -> None:
        self._scheduler.node_seen(new)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._scheduler.node_seen(new)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._scheduler.node_gone(old)


def _reference(stored: Stored) -> Reference:
    return Reference(Pod.TYPE.api_version, Pod.TYPE.kind, stored.namespace, stored.name, stored.meta.uid or "")
