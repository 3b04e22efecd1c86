"""Random users, tainted nodes, nodes that die and come back, stages that go wrong, a random network and a manager that
ends after any write: pods live as kubelets let them, and leave nodes only for a reason.

1. A pod keeps its node, its address and its start; one that has ended stays so; restarts are never taken back.
2. A pod is told to go for a taint only if its node has one that it does not put up with, for as long as it does.
3. A node has both taints of a loss or none.
4. In the end taints are what conditions and users say, nobody is where he may not stay, and all else is as in an
   undisturbed life.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from controllers.core.taint_eviction import UNREACHABLE
from controllers.core.types import Node, Pod
from informer.errors import Conflict, NotFound
from kvstore.api import Client
from tests.controllers.cluster import Revision, history, nginx
from tests.simulation.invariants import check_owned
from tests.simulation.life import Life, User, live, seeds, undisturbed

pytestmark = pytest.mark.virtual_time

LEAVE = {"key": "example.com/leave", "effect": "NoExecute"}
REPLICAS = {"hurried": 4, "patient": 4, "faithful": 2, "flaky": 2}
TOLERATIONS: dict[str, list[dict[str, Any]]] = {
    "hurried": [],
    "patient": [{"key": "example.com/leave", "operator": "Exists", "tolerationSeconds": 5, "effect": "NoExecute"}],
    "faithful": [{"key": "example.com/leave", "operator": "Exists"}],
    "flaky": [],
}
ENDED = ("Succeeded", "Failed")
# Seconds until all know of a taint that is gone: watches are up to 3 s late, and a write that was on its way takes 2.
LATE = 6.0

Raw = dict[str, Any]


class Nodes(User):
    """Four Deployments that differ in what they put up with. actions: what happens besides tainting."""

    options: ClassVar[dict[str, Any]] = {**User.options, "nodes": 4, "stages": ["chaos"]}

    def __init__(self, seed: int, *actions: str) -> None:
        super().__init__(seed)
        self.actions = ("leave", "leave", "untaint", "untaint", "cordon", "delete pod", *actions)

    async def begin(self) -> None:
        for name, replicas in REPLICAS.items():
            deployment = nginx(name, replicas=replicas)
            template = deployment.raw["spec"]["template"]
            template["spec"]["tolerations"] = TOLERATIONS[name]
            if name == "flaky":
                template["metadata"]["annotations"] = {
                    "listwatch.dev/simulate": "crash-loop",
                    "listwatch.dev/simulate-seconds": "30",
                }
            await self.client.create(deployment)

    async def act(self) -> None:
        name = f"node-{self.rng.randint(2, 4)}"
        match self.rng.choice(self.actions):
            case "leave":
                await self.change(name, [LEAVE], cordoned=False)
            case "untaint":
                await self.change(name, [], cordoned=False)
            case "cordon":
                await self.change(name, [], cordoned=True)
            case "delete pod":
                await self.delete_pod()
            case "kill node":
                self.kill_node()
            case "revive node":
                self.revive_node()

    async def change(self, name: str, taints: list[Raw], *, cordoned: bool) -> None:
        while True:
            try:
                node = await self.client.get(Node, name)
                spec = node.raw.setdefault("spec", {})
                others = [each for each in spec.get("taints") or () if each["key"] != LEAVE["key"]]
                spec["taints"] = [*others, *taints]
                spec["unschedulable"] = cordoned
                await self.client.update(node)
            except Conflict:
                continue
            except NotFound:
                return  # it has not registered yet
            return

    async def settle(self) -> None:
        while len((await self.client.list(Node)).items) < 4:
            await asyncio.sleep(1)
        await self.change("node-2", [LEAVE], cordoned=False)
        await self.change("node-3", [], cordoned=True)
        await self.change("node-4", [], cordoned=False)

    async def settled(self) -> bool:
        pods = await self.it.pods()
        counts = Counter(pod.metadata.labels["app"] for pod in pods if pod.status.phase == "Running")
        ready = Counter(pod.metadata.labels["app"] for pod in pods if pod.ready)
        steady = all(ready[name] == replicas for name, replicas in REPLICAS.items() if name != "flaky")
        moved = all(pod.spec.node_name != "node-2" for pod in pods if pod.metadata.labels["app"] != "faithful")
        nodes = (await self.client.list(Node)).items
        known = not any(each.key == UNREACHABLE for node in nodes for each in node.spec.taints)
        return steady and moved and known and counts == REPLICAS and len(pods) == sum(REPLICAS.values())

    def end(self, revision: Revision) -> Any:
        nodes = {
            node["metadata"]["name"]: sorted(each["key"] for each in node["spec"].get("taints") or ())
            for node in revision.of(Node)
        }
        return nodes, Counter(pod["metadata"]["labels"]["app"] for pod in revision.of(Pod))


def check_pods(revisions: Sequence[Revision]) -> None:
    """1. What a kubelet never takes back."""
    before: dict[str, Raw] = {}
    for revision in revisions:
        now = {pod["metadata"]["uid"]: pod for pod in revision.of(Pod)}
        for uid, pod in now.items():
            old = before.get(uid)
            if old is None:
                continue
            status, earlier = pod.get("status") or {}, old.get("status") or {}
            at = f"revision {revision.number}, {pod['metadata']['name']}"
            for field in ("podIP", "startTime"):
                assert field not in earlier or status.get(field) == earlier[field], f"{at}: another {field}"
            node = old["spec"].get("nodeName")
            assert node is None or pod["spec"].get("nodeName") == node, f"{at}: another node"
            assert earlier.get("phase") not in ENDED or status["phase"] == earlier["phase"], f"{at}: has ended before"
            assert restarts(pod) >= restarts(old), f"{at}: fewer restarts"
        before = now


def restarts(pod: Raw) -> int:
    return sum(each["restartCount"] for each in (pod.get("status") or {}).get("containerStatuses") or ())


class Taints:
    """Those with NoExecute that nodes had: for each node and key from when to when, as far as that counts."""

    def __init__(self) -> None:
        self._spans: dict[tuple[str, str], tuple[float, float]] = {}

    def follow(self, revision: Revision, now: float) -> None:
        for node in revision.of(Node):
            for each in node["spec"].get("taints") or ():
                if each["effect"] == "NoExecute":
                    place = node["metadata"]["name"], each["key"]
                    since, until = self._spans.get(place, (now, now))
                    # One that was away and is back while a cache was late may never have been away for all.
                    self._spans[place] = (since if until >= now - LATE else now, now)

    def drive_out(self, pod: Raw, now: float) -> bool:
        """Whether there is or was lately one that the pod does not put up with, or no longer."""
        for (node, key), (since, until) in self._spans.items():
            if node != pod["spec"]["nodeName"] or until < now - LATE:
                continue
            tolerated = [each for each in pod["spec"].get("tolerations") or () if each["key"] == key]
            seconds = [each.get("tolerationSeconds") for each in tolerated]
            if not seconds or any(each is not None and now - since >= each - 1 for each in seconds):
                return True
        return False


def check_reasons(revisions: Sequence[Revision], times: Mapping[int, float]) -> int:
    """2. Pods are told to go only for taints that they do not put up with, and not too soon; how many were."""
    taints = Taints()
    told: set[str] = set()
    last: Revision | None = None
    now = 0.0
    for revision in revisions:
        now = times.get(revision.number, now)
        # What was there until now counts until now.
        for each in (last, revision):
            if each is not None:
                taints.follow(each, now)
        last = revision
        for pod in revision.of(Pod):
            for condition in pod["status"].get("conditions") or ():
                uid = pod["metadata"]["uid"]
                if (condition["type"], condition.get("reason")) == ("DisruptionTarget", "DeletionByTaintManager"):
                    if uid not in told:
                        name = pod["metadata"]["name"]
                        assert taints.drive_out(pod, now), f"revision {revision.number}: {name} has to go, but why"
                    told.add(uid)
    return len(told)


def check_pairs(revisions: Sequence[Revision]) -> None:
    """3. A loss has two taints."""
    for revision in revisions:
        for node in revision.of(Node):
            effects = {each["effect"] for each in node["spec"].get("taints") or () if each["key"] == UNREACHABLE}
            assert effects in (set(), {"NoSchedule", "NoExecute"}), f"revision {revision.number}: {effects}"


async def check(store: Client, life: Life) -> None:
    revisions = await history(store)
    check_pods(revisions)
    check_reasons(revisions, life.times)
    check_pairs(revisions)
    check_owned(revisions[-1])
    assert life.user.end(revisions[-1]) == await undisturbed(Nodes(life.user.seed))


@pytest.mark.parametrize("seed", seeds(1))
async def test_promises_are_kept_whatever_the_network_and_the_process_do(store: Client, seed: int) -> None:
    await check(store, await live(store, Nodes(10 + seed)))


@pytest.mark.parametrize("seed", seeds(1))
async def test_promises_are_kept_when_nodes_die_and_two_run_for_one_office(store: Client, seed: int) -> None:
    user = Nodes(20 + seed, "kill node", "revive node")
    await check(store, await live(store, user, leaders=2))
