"""Simulated nodes: what kubelets do with the pods bound to them, without running anything.

One task stands for all nodes. It keeps a heap of what is due, so a pod costs an entry there and no task of its own.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import structlog

from controllers.conditions import new_condition
from controllers.core.events import EventBroadcaster, Reference
from controllers.core.stages import Delay, Option, Setting, Source, Stage, Stages, draw, read_stages
from controllers.core.types import Lease, Node, Pod
from controllers.manager import Manager
from informer.cache import Stored
from informer.client import ObjectClient
from informer.errors import AlreadyExists, ApiError, Conflict, NotFound
from informer.resources import OwnerReference
from informer.shared import Handler

LEASE_NAMESPACE = "kube-node-lease"
GRACE = 40.0  # seconds; kube-controller-manager's --node-monitor-grace-period, and the kubelet's lease duration
RENEWALS = 4  # in that time; the kubelet's lease is renewed each quarter of its duration
RETRY = 0.2  # seconds after a write that failed
AT_ONCE = 256  # writes in flight together

# kwok's nodes are as roomy: the simulation is about control, not about capacity.
CAPACITY = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "1000"}

AT_A_STRETCH = 16  # stages that a pod goes through in one write

log = structlog.get_logger("controllers")


class NodeOptions(msgspec.Struct, frozen=True):
    """How simulated nodes behave. A delay is in seconds, a pair is drawn from evenly, None leaves it to the stages.

    start_delay: from bound to Running. ready_delay: from Running to Ready; with 0 both are one write. delete_delay:
    from a deletion's request to the pod's end. run_time: from Ready to the end of a pod that ends by itself and does
    not say when. grace: how long a node may be silent before it counts as lost; it renews its lease four times as
    often.
    """

    start_delay: Delay | None = None
    ready_delay: Delay | None = None
    delete_delay: Delay | None = None
    run_time: Delay | None = None
    grace: float = GRACE
    capacity: dict[str, str] = msgspec.field(default_factory=lambda: dict(CAPACITY))

    def delays(self) -> dict[Option, Delay]:
        """Those that take the place of what the stages say."""
        named: dict[Option, Delay | None] = {
            "start": self.start_delay,
            "ready": self.ready_delay,
            "run": self.run_time,
            "delete": self.delete_delay,
        }
        return {option: delay for option, delay in named.items() if delay is not None}


class NodesStatistics(msgspec.Struct, frozen=True):
    """alive: nodes whose kubelet runs; pods: on them; due: stages waiting; done: how often, by stage; failed:
    writes that had to be tried again; heartbeats: leases renewed."""

    alive: int
    pods: int
    due: int
    done: dict[str, int]
    failed: int
    heartbeats: int


class _Planned(msgspec.Struct, gc=False):
    """What an object waits for: one stage of those that it fits. An entry of the heap counts only if its ticket is
    still the object's. revision: the one that was looked at."""

    node: str
    fit: tuple[Stage, ...] | None = None
    stage: Stage | None = None
    ticket: int = 0
    revision: str = ""


class _Kubelet(msgspec.Struct):
    name: str
    host_ip: str
    subnet: str
    addresses: int = 0
    alive: bool = True


class SimulatedNodes:
    """`count` nodes named node-1, node-2, ...; `kill` and `revive` any of them.

    stages: how pods behave on them; `read_stages([])` if None. Raises StageError for stages that make no sense.
    """

    def __init__(
        self,
        manager: Manager,
        events: EventBroadcaster,
        count: int,
        options: NodeOptions | None = None,
        stages: Sequence[Source] | None = None,
    ) -> None:
        self._manager = manager
        self._recorder = events.recorder("kubelet")
        self.options = options or NodeOptions()
        self._kubelets = {name: _kubelet(name, number) for number, name in _names(count)}
        sources = read_stages([]) if stages is None else stages
        delays = self.options.delays()
        self._pod_stages, self._node_stages = Stages(sources, "Pod", delays), Stages(sources, "Node", delays)
        # By key: that of a pod has a namespace, that of a node has none.
        self._planned: dict[str, _Planned] = {}
        self._addresses: dict[str, str] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._tickets = itertools.count(1)
        self._wakeup = asyncio.Event()
        self._done = dict.fromkeys((each.name for each in (*self._pod_stages.all, *self._node_stages.all)), 0)
        self._failed = self._heartbeats = 0

    @property
    def _client(self) -> ObjectClient:
        return self._manager.client.with_field_manager("kubelet")

    def register(self) -> None:
        """Add them to the manager."""
        self._manager.add_runnable(self.run, "simulated nodes")

    @property
    def names(self) -> list[str]:
        """Their names."""
        return list(self._kubelets)

    def statistics(self) -> NodesStatistics:
        """The nodes at this moment."""
        return NodesStatistics(
            alive=sum(kubelet.alive for kubelet in self._kubelets.values()),
            pods=sum("/" in key for key in self._planned),
            due=sum(planned.stage is not None for planned in self._planned.values()),
            done=dict(self._done),
            failed=self._failed,
            heartbeats=self._heartbeats,
        )

    def kill(self, name: str) -> None:
        """The machine stops at once: no heartbeat, and nothing happens to its pods. Raises KeyError."""
        self._kubelets[name].alive = False

    def revive(self, name: str) -> None:
        """The machine is back, and goes on with the pods that are still bound to it. Raises KeyError."""
        kubelet = self._kubelets[name]
        if kubelet.alive:
            return
        kubelet.alive = True
        for pod in self._manager.informer(Pod).cache.list():
            self.seen(self._pod_stages, pod)
        if self._node_stages.all and (node := self._manager.informer(Node).cache.get(name)) is not None:
            self.seen(self._node_stages, node)
        self._wakeup.set()

    # ---- running ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be the nodes until cancelled."""
        pods = self._manager.informer(Pod)
        await pods.wait_synced()
        async with asyncio.TaskGroup() as group:
            for kubelet in self._kubelets.values():
                await self._register(kubelet)
            registrations = [pods.add_handler(_Objects(self, self._pod_stages), name="simulated nodes")]
            if self._node_stages.all:
                handler = _Objects(self, self._node_stages)
                registrations.append(self._manager.informer(Node).add_handler(handler, name="simulated nodes"))
            try:
                group.create_task(self._beat(), name="node heartbeats")
                while True:
                    await self._work()
            finally:
                for registration in registrations:
                    registration.remove()

    async def _work(self) -> None:
        """Do what is due, or wait until something is."""
        now = asyncio.get_running_loop().time()
        due: list[str] = []
        while self._heap and self._heap[0][0] <= now and len(due) < AT_ONCE:
            _, ticket, key = heapq.heappop(self._heap)
            planned = self._planned.get(key)
            if planned is not None and planned.ticket == ticket:
                due.append(key)
        if due:
            await asyncio.gather(*(self._advance(key) for key in due))
            return
        self._wakeup.clear()
        try:
            async with asyncio.timeout_at(self._heap[0][0] if self._heap else None):
                await self._wakeup.wait()
        except TimeoutError:
            return

    def _plan(self, key: str, planned: _Planned, delay: float) -> None:
        planned.ticket = next(self._tickets)
        heapq.heappush(self._heap, (asyncio.get_running_loop().time() + delay, planned.ticket, key))
        self._wakeup.set()

    # ---- stages ----------------------------------------------------------------------------------------------------

    def seen(self, stages: Stages, stored: Stored) -> None:
        """An object is there, or changed."""
        key = stored.key
        try:
            document = stages.decode(stored.data)
        except msgspec.ValidationError as error:
            log.info("object_not_understood", key=key, error=str(error))
            return
        name = key if stages is self._node_stages else (document.get("spec") or {}).get("nodeName", "")
        kubelet = self._kubelets.get(name)
        if kubelet is None or not kubelet.alive:
            return
        planned = self._planned.get(key)
        if planned is None:
            planned = self._planned[key] = _Planned(name)
        if (address := (document.get("status") or {}).get("podIP")) is not None:
            self._addresses.setdefault(address, key)
        planned.revision = stored.revision
        fit = stages.fit(document)
        # What it waits for goes on as long as it could wait for the same.
        if fit != planned.fit:
            self._choose(stages, key, planned, fit, document)

    def _choose(self, stages: Stages, key: str, planned: _Planned, fit: tuple[Stage, ...], document: Any) -> None:
        planned.fit, planned.stage, planned.ticket = fit, None, 0
        if not fit:
            return
        stage = stages.choose(fit, document, self._manager.rng)
        delay = draw(stage.delay_of(document, self._manager.now()), self._manager.rng)
        if delay < math.inf:
            planned.stage = stage
            self._plan(key, planned, delay)

    def gone(self, stored: Stored) -> None:
        """An object is gone."""
        if self._planned.pop(stored.key, None) is not None:
            address = (self._pod_stages.decode(stored.data).get("status") or {}).get("podIP", "")
            if self._addresses.get(address) == stored.key:
                del self._addresses[address]

    async def _advance(self, key: str) -> None:
        """Take the object one stage on, from the state in the cache."""
        cls: type[Pod] | type[Node] = Pod if "/" in key else Node
        stages = self._pod_stages if cls is Pod else self._node_stages
        planned = self._planned.get(key)
        stored = self._manager.informer(cls).cache.get(key)
        if planned is None or stored is None:
            return
        kubelet = self._kubelets[planned.node]
        if not kubelet.alive:
            del self._planned[key]
            return
        if stored.revision != planned.revision:
            # The cache is ahead of what was told: look at that first.
            ticket = planned.ticket
            self.seen(stages, stored)
            if planned.ticket != ticket:
                return
        stage, ticket = planned.stage, planned.ticket
        if stage is None:
            return
        try:
            written = await self._perform(kubelet, stored, stage, stages)
        except NotFound:
            return
        except ApiError as error:
            # Somebody changed it meanwhile, or nobody knows what became of the write: look again.
            self._failed += 1
            if not isinstance(error, Conflict):
                log.info("stage_failed", key=key, stage=stage.name, error=str(error))
            if self._planned.get(key) is planned and planned.ticket == ticket:
                self._plan(key, planned, RETRY)
            return
        if written and self._planned.get(key) is planned and planned.ticket == ticket:
            # What came of it is looked at anew, even if it is the same once more.
            planned.fit = None
            if int(planned.revision) >= written and (stored := self._manager.informer(cls).cache.get(key)) is not None:
                self.seen(stages, stored)

    async def _perform(self, kubelet: _Kubelet, stored: Stored, stage: Stage, stages: Stages) -> int:
        """Go through a stage, and through those that follow at once, in one write; its revision, 0 for a deletion."""
        client, rng, key = self._client, self._manager.rng, stored.key
        cls: type[Pod] | type[Node] = Pod if stages is self._pod_stages else Node
        setting = Setting(self._manager.now(), kubelet.host_ip, kubelet.name, lambda: self._address(kubelet, key), rng)
        name, namespace, uid = stored.name, stored.namespace, stored.meta.uid or ""
        obj = cls.decode(stored.data, stored.revision)
        raw, done = obj.raw, [stage]
        # Whoever keeps a pod by a finalizer has to see how it ended; of another one nothing is left to be seen.
        if stage.effect.delete and not _kept(raw):
            await client.delete(cls, name, namespace, uid=uid, grace_seconds=0)
            self._done[stage.name] += 1
            return 0
        events = stage.effect.apply(raw, setting)
        while stage.immediate and not stage.effect.delete and len(done) < AT_A_STRETCH:
            fit = stages.fit(raw)
            if not fit:
                break
            following = stages.choose(fit, raw, rng)
            delay = following.delay_of(raw, setting.now)
            if delay not in (0, (0, 0)) or following.effect.delete:
                break
            stage = following
            done.append(stage)
            events += stage.effect.apply(raw, setting)
        written = int((await client.replace(obj, subresource="status")).metadata.resource_version or 0)
        if stage.effect.delete:
            written = 0
            await client.delete(cls, name, namespace, uid=uid, grace_seconds=0)
        for each in done:
            self._done[each.name] += 1
        reference = Reference(cls.TYPE.api_version, cls.TYPE.kind, namespace, name, uid)
        for event in events:
            self._recorder.event(reference, event.type, event.reason, event.message)
        return written

    def _address(self, kubelet: _Kubelet, key: str) -> str:
        """An address of the node's subnet that no pod has. O(1) as long as few are taken."""
        for _ in range(1 << 16):
            kubelet.addresses = kubelet.addresses % 65_000 + 1
            address = f"{kubelet.subnet}.{kubelet.addresses >> 8}.{kubelet.addresses & 255}"
            if self._addresses.setdefault(address, key) == key:
                return address
        raise AssertionError("more pods on a node than it has addresses")

    # ---- nodes -----------------------------------------------------------------------------------------------------

    async def _register(self, kubelet: _Kubelet) -> None:
        while True:
            try:
                await self._join(kubelet)
            except ApiError as error:
                log.info("node_not_registered", node=kubelet.name, error=str(error))
                await asyncio.sleep(RETRY)
            else:
                return

    async def _join(self, kubelet: _Kubelet) -> None:
        """Register the node, or say that one that was here before is back; and its first heartbeat."""
        client = self._client
        fresh = Node(name=kubelet.name, labels=_labels(kubelet.name))
        fresh.raw["spec"] = {"podCIDR": f"{kubelet.subnet}.0.0/16"}
        try:
            node = await client.create(fresh)
        except AlreadyExists:
            node = await client.get(Node, kubelet.name)
        await self._post(node, kubelet)
        await self._renew(kubelet, node)

    async def _post(self, node: Node, kubelet: _Kubelet) -> None:
        raw: dict[str, Any] = {
            "capacity": dict(self.options.capacity),
            "allocatable": dict(self.options.capacity),
            "addresses": [
                {"type": "InternalIP", "address": kubelet.host_ip},
                {"type": "Hostname", "address": kubelet.name},
            ],
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "kubeletVersion": "listwatch",
                "osImage": "simulated",
                "containerRuntimeVersion": "simulated",
            },
            "conditions": self._conditions(node, self._manager.now()),
        }
        node.raw["status"] = {**(node.raw.get("status") or {}), **raw}
        await self._client.update_status(node)

    @staticmethod
    def _conditions(node: Node, now: datetime) -> list[dict[str, Any]]:
        told = [
            new_condition(
                "MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available", now
            ),
            new_condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure", now),
            new_condition(
                "PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available", now
            ),
            new_condition("Ready", "True", "KubeletReady", "kubelet is posting ready status", now),
        ]
        before = {each["type"]: each for each in (node.raw.get("status") or {}).get("conditions") or []}
        for condition in told:
            condition["lastHeartbeatTime"] = condition["lastTransitionTime"]
            known = before.get(condition["type"])
            if known is not None and known["status"] == condition["status"]:
                condition["lastTransitionTime"] = known["lastTransitionTime"]
        return told

    async def _beat(self) -> None:
        """Renew every node's lease, and let a node that was taken for lost say that it is not."""
        while True:
            await asyncio.sleep(self.options.grace / RENEWALS)
            for kubelet in [each for each in self._kubelets.values() if each.alive]:
                try:
                    node = await self._client.get(Node, kubelet.name)
                    await self._renew(kubelet, node)
                    ready = node.condition("Ready")
                    # What a stage says of it stays; only that nobody heard of it is wrong now.
                    if ready is None or ready.status == "Unknown":
                        await self._post(node, kubelet)
                        self._recorder.event(
                            node, "Normal", "NodeReady", f"Node {kubelet.name} status is now: NodeReady"
                        )
                except NotFound:
                    # Somebody deleted the node: as in Kubernetes it comes back only with its kubelet.
                    kubelet.alive = False
                except ApiError as error:
                    log.info("heartbeat_failed", node=kubelet.name, error=str(error))

    async def _renew(self, kubelet: _Kubelet, node: Node) -> None:
        client, now = self._client, self._manager.now()
        try:
            lease = await client.get(Lease, kubelet.name, LEASE_NAMESPACE)
        except NotFound:
            lease = Lease(name=kubelet.name, namespace=LEASE_NAMESPACE)
            lease.spec.holder_identity = kubelet.name
            lease.spec.lease_duration_seconds = max(1, round(self.options.grace))
            lease.spec.renew_time = now
            reference = OwnerReference(
                api_version=Node.TYPE.api_version, kind=Node.TYPE.kind, name=node.name, uid=node.metadata.uid
            )
            lease.metadata.owner_references = [reference]
            await client.create(lease)
        else:
            lease.spec.renew_time = now
            await client.update(lease)
        self._heartbeats += 1


class _Objects(Handler):
    def __init__(self, nodes: SimulatedNodes, stages: Stages) -> None:
        self._nodes = nodes
        self._stages = stages

    def on_add(self, new: Stored, initial: bool) -> None:
        self._nodes.seen(self._stages, new)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._nodes.seen(self._stages, new)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._nodes.gone(old)


def _kept(raw: dict[str, Any]) -> bool:
    """Whether a finalizer keeps a pod that has not ended."""
    ended = (raw.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return bool(raw["metadata"].get("finalizers")) and not ended


def _names(count: int) -> list[tuple[int, str]]:
    return [(number, f"node-{number}") for number in range(1, count + 1)]


def _kubelet(name: str, number: int) -> _Kubelet:
    # A /16 of its own for each of up to 250 nodes of 10.0.0.0/8; beyond that they repeat, and nothing routes anyway.
    return _Kubelet(name, host_ip=f"172.18.{number >> 8}.{number & 255}", subnet=f"10.{(number - 1) % 250 + 1}")


def _labels(name: str) -> dict[str, str]:
    return {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "type": "simulated",
    }
