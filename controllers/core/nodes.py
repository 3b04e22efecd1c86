"""Simulated nodes: what kubelets do with the pods bound to them, without running anything.

One task stands for all nodes. It keeps a heap of what is due, so a pod costs an entry there and no task of its own.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from datetime import datetime
from typing import Any

import msgspec
import structlog

from controllers.conditions import new_condition
from controllers.core import stages
from controllers.core.events import EventBroadcaster, Reference
from controllers.core.stages import Seen, Stage
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

Delay = float | tuple[float, float]
RUN_TIME: Delay = (1.0, 3.0)  # seconds

log = structlog.get_logger("controllers")


class NodeOptions(msgspec.Struct, frozen=True):
    """How simulated nodes behave. A delay is in seconds; a pair is drawn from evenly.

    start_delay: from bound to Running. ready_delay: from Running to Ready; with 0 both are one write. delete_delay:
    from a deletion's request to the pod's end. run_time: from Ready to the end of a pod that ends by itself and does
    not say when. grace: how long a node may be silent before it counts as lost; it renews its lease four times as
    often.
    """

    start_delay: Delay = (0.1, 0.3)
    ready_delay: Delay = (0.3, 1.0)
    delete_delay: Delay = (0.1, 0.4)
    run_time: Delay = RUN_TIME
    grace: float = GRACE
    capacity: dict[str, str] = msgspec.field(default_factory=lambda: dict(CAPACITY))


class NodesStatistics(msgspec.Struct, frozen=True):
    """alive: nodes whose kubelet runs; pods: on them; due: transitions waiting; done: transitions by stage; failed:
    writes that had to be tried again; heartbeats: leases renewed."""

    alive: int
    pods: int
    due: int
    done: dict[str, int]
    failed: int
    heartbeats: int


class _Planned(msgspec.Struct):
    """What a pod waits for. An entry of the heap counts only if its ticket is still the pod's."""

    node: str
    stage: Stage | None
    ticket: int = 0


class _Kubelet(msgspec.Struct):
    name: str
    host_ip: str
    subnet: str
    addresses: int = 0
    alive: bool = True


class SimulatedNodes:
    """`count` nodes named node-1, node-2, ...; `kill` and `revive` any of them."""

    def __init__(
        self, manager: Manager, events: EventBroadcaster, count: int, options: NodeOptions | None = None
    ) -> None:
        self._manager = manager
        self._recorder = events.recorder("kubelet")
        self.options = options or NodeOptions()
        self._kubelets = {name: _kubelet(name, number) for number, name in _names(count)}
        self._pods: dict[str, _Planned] = {}
        self._addresses: dict[str, str] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._tickets = itertools.count(1)
        self._wakeup = asyncio.Event()
        self._done = dict.fromkeys(Stage, 0)
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
            pods=len(self._pods),
            due=sum(planned.stage is not None for planned in self._pods.values()),
            done={stage.value: count for stage, count in self._done.items()},
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
        for stored in self._manager.informer(Pod).cache.list():
            self.pod_seen(stored)
        self._wakeup.set()

    # ---- running ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be the nodes until cancelled."""
        pods = self._manager.informer(Pod)
        await pods.wait_synced()
        async with asyncio.TaskGroup() as group:
            for kubelet in self._kubelets.values():
                await self._register(kubelet)
            registration = pods.add_handler(_Pods(self), name="simulated nodes")
            try:
                group.create_task(self._beat(), name="node heartbeats")
                while True:
                    await self._work()
            finally:
                registration.remove()

    async def _work(self) -> None:
        """Do what is due, or wait until something is."""
        now = asyncio.get_running_loop().time()
        due: list[str] = []
        while self._heap and self._heap[0][0] <= now and len(due) < AT_ONCE:
            _, ticket, key = heapq.heappop(self._heap)
            planned = self._pods.get(key)
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

    def _delay(self, seen: Seen) -> float:
        if seen.seconds is not None:
            return draw(seen.seconds, self._manager.rng)
        options = self.options
        match seen.next:
            case Stage.READYING:
                delay = options.ready_delay
            case Stage.FINISHING:
                delay = options.run_time
            case Stage.ENDING:
                delay = options.delete_delay
            case _:
                delay = options.start_delay
        return draw(delay, self._manager.rng)

    # ---- pods ------------------------------------------------------------------------------------------------------

    def pod_seen(self, stored: Stored) -> None:
        """A pod is there, or changed."""
        key = stored.key
        try:
            seen = stages.look(stored.data)
        except msgspec.ValidationError as error:
            log.info("pod_not_understood", pod=key, error=str(error))
            return
        kubelet = self._kubelets.get(seen.node)
        if kubelet is None or not kubelet.alive:
            return
        planned = self._pods.get(key)
        if planned is None:
            planned = self._pods[key] = _Planned(seen.node, None)
        if seen.pod_ip:
            self._addresses.setdefault(seen.pod_ip, key)
        if seen.next is planned.stage:
            return
        planned.stage = seen.next
        planned.ticket = 0
        if seen.next is not None:
            self._plan(key, planned, self._delay(seen))

    def pod_gone(self, stored: Stored) -> None:
        """A pod is gone."""
        if self._pods.pop(stored.key, None) is not None:
            seen = stages.look(stored.data)
            if self._addresses.get(seen.pod_ip) == stored.key:
                del self._addresses[seen.pod_ip]

    async def _advance(self, key: str) -> None:
        """Take the pod one stage on, from the state in the cache."""
        planned = self._pods.get(key)
        stored = self._manager.informer(Pod).cache.get(key)
        if planned is None or stored is None:
            return
        kubelet = self._kubelets[planned.node]
        seen = stages.look(stored.data)
        if not kubelet.alive or seen.node != planned.node:
            del self._pods[key]
            return
        planned.stage = seen.next
        if seen.next is None:
            return
        ticket = planned.ticket
        try:
            await self._write(kubelet, stored, seen.next, kept=seen.kept)
        except NotFound:
            return
        except ApiError as error:
            # Somebody changed the pod meanwhile, or nobody knows what became of the write: look again.
            self._failed += 1
            if not isinstance(error, Conflict):
                log.info("pod_not_written", pod=key, stage=seen.next.value, error=str(error))
            if self._pods.get(key) is planned and planned.ticket == ticket:
                self._plan(key, planned, RETRY)
            return
        self._done[seen.next] += 1

    async def _write(self, kubelet: _Kubelet, stored: Stored, stage: Stage, *, kept: bool) -> None:
        client, now = self._client, self._manager.now()
        name, namespace, uid = stored.name, stored.namespace, stored.meta.uid or ""
        if stage is Stage.ENDING:
            if kept:
                # Somebody waits for the pod's end before it may go: they have to see how it ended.
                pod = Pod.decode(stored.data, stored.revision)
                stages.terminate(pod.raw, now)
                await client.replace(pod, subresource="status")
            await client.delete(Pod, name, namespace, uid=uid, grace_seconds=0)
            return
        pod = Pod.decode(stored.data, stored.revision)
        raw = pod.raw
        reference = Reference(Pod.TYPE.api_version, Pod.TYPE.kind, namespace, name, uid)
        ended = False
        if stage is Stage.PULLING:
            stages.fail_to_pull(raw, now, host_ip=kubelet.host_ip, uid=uid)
        elif stage is Stage.STARTING:
            address = self._address(kubelet, stored.key)
            stages.start(raw, now, host_ip=kubelet.host_ip, pod_ip=address, uid=uid)
            if self.options.ready_delay == 0:
                stages.make_ready(raw, now)
        elif stage is Stage.FINISHING:
            ended = stages.finish(raw, now, stages.exit_codes(raw, self._manager.rng))
        elif stage is Stage.RESTARTING:
            stages.restart(raw, now)
        else:
            stages.make_ready(raw, now)
        await client.replace(pod, subresource="status")
        for container in raw["spec"]["containers"]:
            if stage in (Stage.STARTING, Stage.RESTARTING):
                self._recorder.event(reference, "Normal", "Started", f"Started container {container['name']}")
            elif stage is Stage.FINISHING and not ended:
                message = f"Back-off restarting failed container {container['name']} in pod {name}"
                self._recorder.event(reference, "Warning", "BackOff", message)
            elif stage is Stage.PULLING:
                message = f'Failed to pull image "{container["image"]}": not found'
                self._recorder.event(reference, "Warning", "Failed", message)

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
                    if not node.ready:
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


class _Pods(Handler):
    def __init__(self, nodes: SimulatedNodes) -> None:
        self._nodes = nodes

    def on_add(self, new: Stored, initial: bool) -> None:
        self._nodes.pod_seen(new)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._nodes.pod_seen(new)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._nodes.pod_gone(old)


def draw(delay: Delay, rng: random.Random) -> float:
    """The delay, or one drawn from the pair."""
    return rng.uniform(*delay) if isinstance(delay, tuple) else delay


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
