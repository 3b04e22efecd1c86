"""Pods that matter more and pods that must be apart, on too few nodes that die, with a scheduler that ends after any of
its writes: no node ever holds more than it has, no required anti-affinity is broken, and none waits long where there is
room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
import pytest

from controllers.apps.types import Deployment
from controllers.core.quantities import scaled
from controllers.core.scheduling.types import PriorityClass
from controllers.core.types import Node, Pod
from kvstore.api import Client
from tests.controllers.cluster import Revision, history
from tests.simulation.invariants import check_owned
from tests.simulation.life import FAULTS, User, live, seeds, undisturbed
from tests.simulation.promptness import PROMPT, check_prompt

pytestmark = pytest.mark.virtual_time

Raw = dict[str, Any]

SIZES = {"low": 3, "high": 2, "apart": 2}  # at the end
MOST = {"low": 9, "high": 6, "apart": 4}
CPU = {"low": "20", "high": "20", "apart": "10"}  # of a node's 64
# Bindings whose answer is lost and that are seen late: their room must not be given away.
LOST = msgspec.structs.replace(FAULTS, lost_reply=0.1, late=0.3, latest=8.0)
ACTIONS = ("scale", "scale", "scale", "delete pod", "kill node", "revive node")


class Crowd(User):
    """Three Deployments that do not always fit together."""

    options: ClassVar[Raw] = {**User.options, "nodes": 3}

    async def begin(self) -> None:
        await self.client.create(PriorityClass(name="high", value=1000))
        for name in SIZES:
            await self.client.create(self.deployment(name))

    def deployment(self, name: str) -> Deployment:
        labels = {"app": name}
        container = {"name": "a", "image": "a:1", "resources": {"requests": {"cpu": CPU[name]}}}
        spec: Raw = {"containers": [container]}
        if name == "high":
            spec["priorityClassName"] = "high"
        if name == "apart":
            term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
            spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
        template = {"metadata": {"labels": labels}, "spec": spec}
        wanted = {"replicas": SIZES[name], "selector": {"matchLabels": labels}, "template": template}
        return Deployment.from_raw({"metadata": {"name": name, "namespace": "default"}, "spec": wanted})

    async def act(self) -> None:
        match self.rng.choice(ACTIONS):
            case "scale":
                name = self.rng.choice(sorted(MOST))
                await self.it.scale(self.rng.randint(0, MOST[name]), name)
            case "delete pod":
                await self.delete_pod()
            case "kill node":
                self.kill_node()
            case "revive node":
                self.revive_node()

    async def settle(self) -> None:
        for name, size in SIZES.items():
            await self.it.scale(size, name)

    async def settled(self) -> bool:
        pods = await self.it.pods()
        return len(pods) == sum(SIZES.values()) and all(pod.ready and not pod.deleting for pod in pods)

    def end(self, revision: Revision) -> Any:
        return {each["metadata"]["name"]: each["status"]["availableReplicas"] for each in revision.of(Deployment)}


def check_nodes(revisions: list[Revision]) -> None:
    """At every revision each node holds no more than it has, and no two that must be apart."""
    pods, nodes = Pod.TYPE.prefix().decode(), Node.TYPE.prefix().decode()
    for revision in revisions:
        if not any(key.startswith((pods, nodes)) for key in revision.changed):
            continue
        has = {each["metadata"]["name"]: scaled(each["status"]["allocatable"]["cpu"]) for each in nodes_of(revision)}
        used: dict[str, int] = {}
        apart = set()
        for pod in revision.of(Pod):
            where = pod["spec"].get("nodeName")
            if not where or pod["status"]["phase"] in ("Succeeded", "Failed"):
                continue
            used[where] = used.get(where, 0) + request_of(pod)
            if pod["metadata"]["labels"]["app"] == "apart":
                assert where not in apart, f"two on {where} at {revision.number}"
                apart.add(where)
        for name, cpu in used.items():
            assert cpu <= has.get(name, cpu), f"{name} holds {cpu} of {has[name]} at {revision.number}"


def nodes_of(revision: Revision) -> Iterator[Raw]:
    return (each for each in revision.of(Node) if (each.get("status") or {}).get("allocatable"))


def check_victims(revisions: list[Revision]) -> None:
    """Only pods of low priority are pushed out."""
    for pod in (pod for revision in revisions for pod in revision.of(Pod)):
        reasons = [each.get("reason") for each in pod["status"].get("conditions", ())]
        if "PreemptionByScheduler" in reasons:
            assert pod["metadata"]["labels"]["app"] != "high"


def waiting(revision: Revision) -> dict[tuple[str], str]:
    """The pods that have no node though there is room on one that takes them, and none is kept free for them."""
    used: dict[str, int] = {}
    apart = set()
    pods = list(revision.of(Pod))
    for pod in pods:
        where = pod["spec"].get("nodeName") or pod["status"].get("nominatedNodeName")
        if where and pod["status"]["phase"] not in ("Succeeded", "Failed"):
            used[where] = used.get(where, 0) + request_of(pod)
            if pod["metadata"]["labels"]["app"] == "apart":
                apart.add(where)
    free = {
        node["metadata"]["name"]: scaled(node["status"]["allocatable"]["cpu"]) - used.get(node["metadata"]["name"], 0)
        for node in nodes_of(revision)
        if not node["spec"].get("taints") and not node["spec"].get("unschedulable")
    }
    found: dict[tuple[str], str] = {}
    for pod in pods:
        if pod["spec"].get("nodeName") or pod["status"].get("nominatedNodeName") or is_going(pod):
            continue
        closed = apart if pod["metadata"]["labels"]["app"] == "apart" else ()
        if any(room >= request_of(pod) for name, room in free.items() if name not in closed):
            found[(pod["metadata"]["name"],)] = "bound"
    return found


def is_going(pod: Raw) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def request_of(pod: Raw) -> int:
    return scaled(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"])


@pytest.mark.parametrize("seed", seeds(1))
async def test_no_pod_waits_long_where_there_is_room(store: Client, seed: int) -> None:
    life = await live(store, Crowd(seed), faults=msgspec.structs.replace(FAULTS, lost_reply=0.1))
    # Late caches, and one that did not fit is tried again after 10 s at the latest.
    check_prompt(await history(store), life.times, (Pod, Node), waiting, PROMPT + 10.0)


@pytest.mark.parametrize("seed", seeds(2))
async def test_nodes_hold_what_they_can_whatever_happens(store: Client, seed: int) -> None:
    life = await live(store, Crowd(seed), faults=LOST, leaders=1 + seed % 2)
    revisions = await history(store)
    check_nodes(revisions)
    check_victims(revisions)
    check_owned(revisions[-1])
    assert life.user.end(revisions[-1]) == await undisturbed(Crowd(seed))
