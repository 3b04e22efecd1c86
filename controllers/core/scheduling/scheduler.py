"""The scheduler: gives each pod without a node one that takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import structlog

from controllers.conditions import find_condition, new_condition, set_status_condition
from controllers.core.events import EventBroadcaster, Reference
from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.framework import Change, Plugin
from controllers.core.scheduling.placing import Placer, Unschedulable
from controllers.core.scheduling.plugins import default_plugins
from controllers.core.scheduling.pod import Brief, Needs, PodInfo, Traits, decode_brief, pod_info
from controllers.core.scheduling.preemption import (
    VICTIMS_LEAVING,
    Budget,
    Candidate,
    Unpreemptable,
    budget_of,
    preempt,
)
from controllers.core.scheduling.priorities import NO_PRIORITY, resolve_priority
from controllers.core.scheduling.queue import SchedulingQueue
from controllers.core.scheduling.types import PriorityClass
from controllers.core.types import Namespace, Node, PersistentVolumeClaim, Pod
from controllers.manager import Manager
from controllers.policy.types import PodDisruptionBudget
from controllers.storage.types import PersistentVolume, StorageClass
from informer.cache import Stored
from informer.client import ObjectClient
from informer.errors import ApiError, Conflict, Invalid, NotFound
from informer.resources import Resource
from informer.shared import Handler

NAME = "default-scheduler"
AT_ONCE = 256  # bindings in flight together: enough to fill the store's commits
VOLUME_KINDS: Final = (StorageClass, PersistentVolume, PersistentVolumeClaim)
MARK_TRIES = 3  # of a victim's condition, against others who write its status

log = structlog.get_logger("controllers")


class SchedulerStatistics(msgspec.Struct, frozen=True):
    """bound: bindings written; refused: attempts that found no node; failed: bindings that could not be written;
    preempted: pods pushed out for others; waiting: pods without a node now, of which `unschedulable` found none at the
    last attempt."""

    bound: int
    refused: int
    failed: int
    preempted: int
    waiting: int
    unschedulable: int


class _StatusTimes(msgspec.Struct, gc=False, rename="camel"):
    start_time: str = ""


class _PodTimes(msgspec.Struct, gc=False):
    status: _StatusTimes = msgspec.field(default_factory=_StatusTimes)


_decode_times: Final = msgspec.json.Decoder(_PodTimes).decode


class Scheduler:
    """Tries the pods that wait, by priority and age, and lets its plug-ins decide (see `framework`).

    A pod that is being bound counts as being on its node at once, so many can be placed before one is written. One
    that fits nowhere may push out others; room is kept for it until they have gone.
    """

    def __init__(self, manager: Manager, events: EventBroadcaster, plugins: Sequence[Plugin] | None = None) -> None:
        self._manager = manager
        self._recorder = events.recorder(NAME)
        self._cluster = Cluster(lambda cls, key: manager.informer(cls).cache.get(key))
        self._placer = Placer(self._cluster, default_plugins() if plugins is None else plugins)
        self._queue = SchedulingQueue()
        self._classes: dict[str, PriorityClass] = {}
        self._budgets: dict[str, Budget] = {}
        self._unsure: set[str] = set()
        self._wakeup = asyncio.Event()
        self._last_refusal: _Refused | None = None
        self._bound = self._refused = self._failed = self._preempted = 0

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
            preempted=self._preempted,
            waiting=len(self._queue),
            unschedulable=self._queue.parked,
        )

    async def run(self) -> None:
        """Schedule until cancelled. A binding under way when it is cancelled may or may not be written."""
        # What pods are judged by comes before the pods.
        kinds: list[tuple[type[Resource], Handler]] = [
            (PriorityClass, _Each(self._class_seen, self._class_gone)),
            (Namespace, _Each(self._namespace_seen, self._namespace_gone)),
            (PodDisruptionBudget, _Each(self._budget_seen, self._budget_gone)),
            *((cls, _Each(self._volumes_changed, self._volumes_changed)) for cls in VOLUME_KINDS),
            (Node, _Each(self.node_seen, self.node_gone)),
            (Pod, _Pods(self)),
        ]
        registrations = []
        try:
            for cls, handler in kinds:
                registration = self._manager.informer(cls).add_handler(handler, name="scheduler")
                registrations.append(registration)
                # Without all nodes and all pods on them the first choices would be blind.
                await registration.wait_synced()
            while True:
                await self._schedule()
        finally:
            for registration in registrations:
                registration.remove()

    async def _schedule(self) -> None:
        """Try the pods whose time has come, or wait for one."""
        now = asyncio.get_running_loop().time()
        due: list[str] = []
        while len(due) < AT_ONCE and (key := self._queue.pop(now)) is not None:
            due.append(key)
        if due:
            await asyncio.gather(*(self._try(key, now) for key in due))
            return
        self._wakeup.clear()
        try:
            async with asyncio.timeout_at(self._queue.next_time()):
                await self._wakeup.wait()
        except TimeoutError:
            return

    async def _try(self, key: str, now: float) -> None:
        """Decide without awaiting anything in between, then write."""
        if key in self._unsure and not await self._make_sure(key):
            self._queue.retry(key, now)
            return
        stored = self._manager.informer(Pod).cache.get(key)
        if stored is None or stored.meta.deletion_timestamp:
            self._queue.forget(key)
            return
        try:
            pod = self._read(stored)
        except (Invalid, msgspec.ValidationError) as error:
            self._queue.park(key, now, ())
            await self._tell(stored, str(error), "")
            return
        if pod.node or pod.finished or pod.needs.gated:
            self._queue.forget(key)
            return
        try:
            node = self._place(pod)
        except Unschedulable as refused:
            self._refused += 1
            await self._make_room(pod, stored, refused, now)
            return
        except Exception as error:
            # A user's plug-in, most likely; the other pods are not to suffer from it.
            log.exception("placing_failed", pod=key)
            self._queue.retry(key, now)
            await self._tell(stored, f"a plug-in failed: {error!r}", self._cluster.nomination(key))
            return
        self._cluster.note(pod, node)
        self._wake(Change.POD_PLACED)
        try:
            await self._bind(stored, node)
        except ApiError as error:
            self._failed += 1
            if key in self._queue:
                if isinstance(error, Conflict):
                    self._free(key)
                else:
                    # It may have been written: the room is taken until that is known.
                    self._unsure.add(key)
                self._queue.retry(key, now)
            log.info("binding_failed", pod=key, node=node, error=str(error))
        else:
            self._bound += 1
            self._queue.forget(key)

    def _free(self, key: str) -> None:
        self._cluster.forget(key)
        self._wake(Change.POD_GONE)

    async def _make_sure(self, key: str) -> bool:
        """What became of a binding whose answer was lost; whether there is none, so that the pod can be tried again."""
        namespace, _, name = key.rpartition("/")
        try:
            pod = await self._client.get(Pod, name, namespace)
        except NotFound:
            return False  # the informer tells that it has gone
        except ApiError as error:
            log.info("binding_unknown", pod=key, error=str(error))
            return False
        if key not in self._unsure:
            return False
        self._unsure.discard(key)
        if pod.spec.node_name:
            self._queue.forget(key)
            return False
        self._free(key)
        return True

    def _read(self, stored: Stored) -> PodInfo:
        return pod_info(stored, self._priority)

    def _priority(self, needs: Needs) -> tuple[int, bool]:
        if needs.priority is not None:
            return needs.priority, needs.preemption_policy != "Never"
        found = resolve_priority(needs.priority_class, self._classes.values()) or NO_PRIORITY
        return found.value, (needs.preemption_policy or found.preemption_policy) != "Never"

    def _place(self, pod: PodInfo) -> str:
        """The node for a pod. Raises Unschedulable, at once if a pod like it was refused and nothing changed."""
        last = self._last_refusal
        if last is not None and last.is_about(pod, self._cluster):
            raise last.refused.with_traceback(None)
        return self._placer.place(pod)

    async def _bind(self, stored: Stored, node: str) -> None:
        pod = Pod.decode(stored.data, stored.revision)
        pod.raw["spec"]["nodeName"] = node
        # As kube-apiserver's binding: the node and the condition in one write.
        self._set_scheduled(pod, "True", "", "")
        pod.raw["status"].pop("nominatedNodeName", None)
        await self._client.replace(pod)
        name = f"{stored.namespace}/{stored.name}"
        self._recorder.event(_reference(stored), "Normal", "Scheduled", f"Successfully assigned {name} to {node}")

    async def _tell(self, stored: Stored, why: str, nominated: str) -> bool:
        """Let the pod say that no node takes it, unless it says so already; whether it does."""
        pod = Pod.decode(stored.data, stored.revision)
        status = pod.raw.setdefault("status", {})
        condition = find_condition(status.get("conditions") or [], "PodScheduled")
        told = condition is not None and condition.get("message") == why
        if told and status.get("nominatedNodeName", "") == nominated:
            return True
        if not told:
            self._recorder.event(_reference(stored), "Warning", "FailedScheduling", why)
        self._set_scheduled(pod, "False", "Unschedulable", why)
        if nominated:
            status["nominatedNodeName"] = nominated
        else:
            status.pop("nominatedNodeName", None)
        try:
            await self._client.update_status(pod)
        except NotFound:
            return False
        except ApiError as error:
            log.info("status_not_written", pod=stored.key, error=str(error))
            return False
        return True

    def _set_scheduled(self, pod: Pod, status: str, reason: str, message: str) -> None:
        condition: dict[str, Any] = new_condition("PodScheduled", status, reason, message, self._manager.now())
        condition = {key: value for key, value in condition.items() if value}
        told = pod.raw.setdefault("status", {})
        others = [each for each in told.get("conditions") or [] if each["type"] != "PodScheduled"]
        before = find_condition(told.get("conditions") or [], "PodScheduled")
        if before is not None and before["status"] == status:
            condition["lastTransitionTime"] = before.get("lastTransitionTime", condition["lastTransitionTime"])
        told["conditions"] = [*others, condition]

    # ---- preemption -------------------------------------------------------------------------------------------------

    async def _make_room(self, pod: PodInfo, stored: Stored, refused: Unschedulable, now: float) -> None:
        """Push out pods of lower priority if that helps, else say that nothing does."""
        last, candidate = self._last_refusal, None
        if last is not None and last.refused is refused:
            message, keeps = last.message, last.keeps
        else:
            try:
                candidate = preempt(
                    pod, self._cluster, self._placer, refused, list(self._budgets.values()), self._started
                )
            except Unpreemptable as error:
                message = f"{refused} preemption: {error}" if str(error) else str(refused)
                keeps = str(error) == VICTIMS_LEAVING
        if candidate is not None:
            await self._push_out(pod, stored, refused, candidate, now)
            return
        if not keeps and self._cluster.nomination(pod.key):
            self._cluster.withdraw(pod.key)
            self._wake(Change.POD_GONE)
        if not self._cluster.nomination(pod.key):
            self._last_refusal = _Refused(self._cluster.version, pod, refused, message, keeps)
        self._queue.park(pod.key, now, refused.woken_by)
        await self._tell(stored, message, self._cluster.nomination(pod.key))

    async def _push_out(
        self, pod: PodInfo, stored: Stored, refused: Unschedulable, candidate: Candidate, now: float
    ) -> None:
        """Keep the room, say so, then delete the victims: whoever goes on after a crash finds it reserved."""
        key, node = pod.key, candidate.node
        for other in list(self._cluster.nominated.get(node, {}).values()):
            # They waited for the room that this pod takes now, and have to look for another.
            if other.priority < pod.priority and other.key != key:
                self._cluster.withdraw(other.key)
                self._queue.add(other.key, other.priority, other.created)
        self._cluster.nominate(pod, node)
        self._queue.park(key, now, refused.woken_by | {Change.POD_GONE})
        done = await self._tell(stored, str(refused), node)
        if done:
            victims = [each for each in candidate.victims if not each.deleting]
            done = all(await asyncio.gather(*(self._delete(each, pod, node) for each in victims)))
        else:
            self._cluster.withdraw(key)
        if not done:
            self._queue.retry(key, now)

    async def _delete(self, victim: PodInfo, pod: PodInfo, node: str) -> bool:
        """Delete a victim, gracefully; whether it goes."""
        namespace, _, name = victim.key.rpartition("/")
        try:
            await self._mark(name, namespace, victim.uid)
            await self._client.delete(Pod, name, namespace, uid=victim.uid)
        except NotFound:
            return True
        except ApiError as error:
            log.info("victim_not_deleted", pod=victim.key, error=str(error))
            return False
        self._preempted += 1
        about = Reference(Pod.TYPE.api_version, Pod.TYPE.kind, namespace, name, victim.uid)
        self._recorder.event(about, "Normal", "Preempted", f"Preempted by pod {pod.uid} on node {node}")
        return True

    async def _mark(self, name: str, namespace: str, uid: str) -> None:
        """Let the victim say why it goes. Raises NotFound if it has gone, another ApiError if it cannot be written."""
        for attempt in range(MARK_TRIES):
            victim = await self._client.get(Pod, name, namespace)
            if victim.metadata.uid != uid:
                raise NotFound(f'pods "{name}" is another one by now')
            conditions = victim.raw.setdefault("status", {}).setdefault("conditions", [])
            message = f"{NAME}: preempting to accommodate a higher priority pod"
            if not set_status_condition(
                conditions, "DisruptionTarget", True, "PreemptionByScheduler", message, now=self._manager.now()
            ):
                return
            try:
                await self._client.update_status(victim)
            except Conflict:
                if attempt == MARK_TRIES - 1:
                    raise
            else:
                return

    def _started(self, pod: PodInfo) -> str:
        stored = self._manager.informer(Pod).cache.get(pod.key)
        return _decode_times(stored.data).status.start_time if stored is not None else ""

    # ---- what the informers tell -----------------------------------------------------------------------------------

    def pod_seen(self, stored: Stored, old: Stored | None = None) -> None:
        """A pod is there. old: what it was before."""
        if self._is_as_noted(stored):
            return
        key = stored.key
        try:
            pod = self._read(stored)
        except (Invalid, msgspec.ValidationError) as error:
            log.info("pod_not_understood", pod=key, error=str(error))
            pod = _not_understood(stored)
        if pod.finished or (pod.deleting and not pod.node):
            self.pod_gone(key, pod.uid)
        elif pod.node:
            self._queue.forget(key)
            self._unsure.discard(key)
            another = self._cluster.pod(key) is not None
            self._cluster.note(pod, pod.node)
            self._wake(Change.POD_PLACED)
            if another:
                # It is not what it was: of other labels, or on its way out.
                self._wake(Change.POD_GONE)
        elif pod.needs.gated:
            self._queue.forget(key)
        elif pod.needs.scheduler in ("", NAME) and key not in self._cluster:
            if key not in self._queue:
                if pod.nominated:
                    self._cluster.nominate(pod, pod.nominated)
            elif old is not None and not _asks_otherwise(old, stored):
                return
            self._queue.add(key, pod.priority, pod.created)
            self._wakeup.set()

    def _is_as_noted(self, stored: Stored) -> bool:
        """Whether a pod that has a node is there as it was: nearly all that happens to pods is such news."""
        noted, meta = self._cluster.pod(stored.key), stored.meta
        if (
            noted is None
            or noted.generation != meta.generation
            or noted.uid != meta.uid
            or noted.deleting != bool(meta.deletion_timestamp)
            or noted.raw_labels != bytes(meta.raw_labels)
        ):
            return False
        try:
            brief = decode_brief(stored.data)
        except msgspec.ValidationError:
            return False
        if brief.finished:
            return False
        if brief.spec.node_name != self._cluster.node_of(stored.key):
            return not brief.spec.node_name  # it is being bound
        self._queue.forget(stored.key)
        self._unsure.discard(stored.key)
        return True

    def pod_gone(self, key: str, uid: str | None) -> None:
        """A pod uses nothing any more. uid: which, for by now there may be another of its name."""
        noted = self._cluster.pod(key)
        if noted is not None and noted.uid != (uid or ""):
            return
        self._queue.forget(key)
        self._unsure.discard(key)
        waited = self._cluster.nomination(key)
        self._cluster.withdraw(key)
        if self._cluster.forget(key) or waited:
            self._wake(Change.POD_GONE)

    def node_seen(self, stored: Stored) -> None:
        """A node is there, or changed."""
        try:
            news = self._cluster.set_node(stored.name, stored.data)
        except (Invalid, msgspec.ValidationError) as error:
            log.warning("node_not_understood", node=stored.name, error=str(error))
            return
        if news:
            self._wake(Change.NODE)

    def node_gone(self, stored: Stored) -> None:
        """A node takes no more pods."""
        self._cluster.remove_node(stored.name)
        self._wake(Change.NODE)

    def _namespace_seen(self, stored: Stored) -> None:
        self._cluster.set_namespace(stored.name, stored.meta.labels)
        self._wake(Change.NAMESPACE)

    def _namespace_gone(self, stored: Stored) -> None:
        self._cluster.set_namespace(stored.name, None)

    def _class_seen(self, stored: Stored) -> None:
        self._classes[stored.name] = PriorityClass.decode(stored.data, stored.revision)

    def _class_gone(self, stored: Stored) -> None:
        self._classes.pop(stored.name, None)

    def _volumes_changed(self, stored: Stored) -> None:
        self._cluster.volumes_changed()
        self._wake(Change.VOLUME)

    def _budget_seen(self, stored: Stored) -> None:
        try:
            self._budgets[stored.key] = budget_of(stored.data)
        except (Invalid, msgspec.ValidationError) as error:
            log.warning("budget_not_understood", budget=stored.key, error=str(error))

    def _budget_gone(self, stored: Stored) -> None:
        self._budgets.pop(stored.key, None)

    def _wake(self, change: Change) -> None:
        """Pods that no node took may try again, each after its back-off, if this may help them."""
        if self._queue.wake(change):
            self._wakeup.set()


class _Refused(msgspec.Struct, frozen=True):
    """The last pod that nothing helped. The next one like it would be told the same, as long as nothing changed."""

    version: int
    pod: PodInfo
    refused: Unschedulable
    message: str
    keeps: bool

    def is_about(self, pod: PodInfo, cluster: Cluster) -> bool:
        """Whether this pod would be judged by the same things."""
        last = self.pod
        return (
            self.version == cluster.version
            and pod.needs is last.needs
            and pod.traits is last.traits
            and pod.owner == last.owner
            and (pod.priority, pod.preempts) == (last.priority, last.preempts)
            and not cluster.nomination(pod.key)
        )


class _Pods(Handler):
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def on_add(self, new: Stored, initial: bool) -> None:
        self._scheduler.pod_seen(new)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._scheduler.pod_seen(new, old)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._scheduler.pod_gone(old.key, old.meta.uid)


class _Each(Handler):
    def __init__(self, seen: Callable[[Stored], None], gone: Callable[[Stored], None]) -> None:
        self._seen = seen
        self._gone = gone

    def on_add(self, new: Stored, initial: bool) -> None:
        self._seen(new)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._seen(new)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._gone(old)


def _reference(stored: Stored) -> Reference:
    return Reference(Pod.TYPE.api_version, Pod.TYPE.kind, stored.namespace, stored.name, stored.meta.uid or "")


def _asks_otherwise(old: Stored, new: Stored) -> bool:
    return old.meta.generation != new.meta.generation or bytes(old.meta.raw_labels) != bytes(new.meta.raw_labels)


def _not_understood(stored: Stored) -> PodInfo:
    """A pod of which only its place is known: on a node it counts as one, without one the attempt tells it why."""
    try:
        brief = decode_brief(stored.data)
    except msgspec.ValidationError:
        brief = Brief()
    return PodInfo(
        key=stored.key,
        uid=stored.meta.uid or "",
        traits=Traits(stored.namespace, stored.meta.labels, b""),
        needs=Needs(),
        node=brief.spec.node_name,
        finished=brief.finished,
        deleting=bool(stored.meta.deletion_timestamp),
        generation=stored.meta.generation,
        raw_labels=bytes(stored.meta.raw_labels),
    )
