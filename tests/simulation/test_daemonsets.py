"""Random users, nodes that change, die and come back, a random network and a manager that ends after any write: a
DaemonSet has a pod on each node that takes one, and goes from template to template within its limits."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import pytest

from controllers.apps.daemonset.types import DaemonSet
from controllers.core.types import Node, Pod
from controllers.simulation.client import NO_FAULTS
from informer.errors import AlreadyExists, Conflict, NotFound
from kvstore.api import Client
from tests.controllers.apps.daemonsets import daemon_set, rolling, surging, taint
from tests.controllers.cluster import Revision, history
from tests.simulation import daemonset_invariants as invariants
from tests.simulation.invariants import check_owned
from tests.simulation.life import Life, User, live, seeds, undisturbed

pytestmark = pytest.mark.virtual_time

NODES = 5
WISHES = ("image", "image", "strategy", "pool", "taint", "untaint", "delete pod", "fail pod", "ghost", "nothing")
STRATEGIES: tuple[dict[str, Any], ...] = (
    rolling(maxUnavailable=1),
    rolling(maxUnavailable=2),
    rolling(maxUnavailable="40%"),
    surging(1),
    surging("40%"),
    {"type": "OnDelete"},
)
LAST_IMAGE, LAST_STRATEGY = "agent:last", rolling(maxUnavailable=2)


class DaemonSets(User):
    """A DaemonSet on nodes that change. actions: what happens besides."""

    options: ClassVar[dict[str, Any]] = {**User.options, "nodes": NODES}

    def __init__(self, seed: int, *actions: str) -> None:
        super().__init__(seed)
        self.actions = (*WISHES, *actions)

    async def begin(self) -> None:
        affinity = {"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["out"]}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [affinity]}}
        ds = daemon_set(
            pod={"affinity": {"nodeAffinity": required}},
            updateStrategy=STRATEGIES[self.seed % len(STRATEGIES)],
            minReadySeconds=self.seed % 2 * 3,
        )
        await self.client.create(ds)

    async def act(self) -> None:
        node = f"node-{self.rng.randint(1, NODES)}"
        match self.rng.choice(self.actions):
            case "image":
                await self.wish(f"agent:{self.rng.randint(1, 3)}")
            case "strategy":
                await self.wish(strategy=self.rng.choice(STRATEGIES))
            case "pool":
                await self.change_node(node, {"metadata": {"labels": {"pool": self.rng.choice(("in", "out", None))}}})
            case "taint":
                text = self.rng.choice(("full:NoSchedule", "bad:NoExecute"))
                await self.set_taint(node, text, there=True)
            case "untaint":
                await self.set_taint(node, "full:NoSchedule", there=False)
                await self.set_taint(node, "bad:NoExecute", there=False)
            case "delete pod":
                await self.delete_pod()
            case "fail pod":
                await self.fail_pod()
            case "ghost":
                # A node without a kubelet: its pods are never run.
                await self.toggle_ghost()
            case "kill node":
                self.kill_node()
            case "revive node":
                self.revive_node()

    async def wish(self, image: str | None = None, strategy: dict[str, Any] | None = None) -> None:
        def change(ds: DaemonSet) -> None:
            if image is not None:
                ds.raw["spec"]["template"]["spec"]["containers"][0]["image"] = image
            if strategy is not None:
                ds.raw["spec"]["updateStrategy"] = strategy

        await self.it.change(DaemonSet, "agent", change)

    async def change_node(self, name: str, patch: dict[str, Any]) -> None:
        with contextlib.suppress(NotFound):
            await self.client.patch(Node, name, patch)

    async def set_taint(self, name: str, text: str, *, there: bool) -> None:
        """Others write to a node's taints too."""
        while True:
            try:
                node = await self.client.get(Node, name)
                spec = node.raw.setdefault("spec", {})
                others = [each for each in spec.get("taints") or () if each["key"] != taint(text)["key"]]
                spec["taints"] = [*others, taint(text)] if there else others
                await self.client.update(node)
            except Conflict:
                continue
            except NotFound:
                return
            return

    async def fail_pod(self) -> None:
        pods = [pod for pod in await self.it.pods() if not pod.deleting and pod.spec.node_name]
        if pods:
            pod = self.rng.choice(pods)
            pod.raw["status"] = {"phase": "Failed", "reason": "Evicted"}
            self.deleted.add(pod.metadata.uid or "")
            with contextlib.suppress(NotFound, Conflict):
                await self.client.update_status(pod)

    async def toggle_ghost(self) -> None:
        try:
            ghost = await self.client.create(Node(name="ghost"))
            ghost.raw["status"] = {"conditions": [{"type": "Ready", "status": "False"}]}
            await self.client.update_status(ghost)
        except AlreadyExists:
            await self.client.delete(Node, "ghost")

    async def settle(self) -> None:
        await self.wish(LAST_IMAGE, LAST_STRATEGY)
        # Nodes change without the DaemonSet: its pod goes, and comes back.
        await self.change_node("node-1", {"metadata": {"labels": {"pool": "out"}}})
        await self.it.until(self.has_left)
        for number in range(1, NODES + 1):
            await self.change_node(f"node-{number}", {"metadata": {"labels": {"pool": None}}})
            for text in ("full:NoSchedule", "bad:NoExecute"):
                await self.set_taint(f"node-{number}", text, there=False)
        with contextlib.suppress(NotFound):
            await self.client.delete(Node, "ghost")

    async def has_left(self) -> bool:
        return all(pod.deleting or invariants.node_of(pod.raw) != "node-1" for pod in await self.it.pods())

    async def settled(self) -> bool:
        ds = await self.client.get(DaemonSet, "agent", "default")
        status = ds.raw.get("status", {})
        if status.get("observedGeneration") != ds.metadata.generation or status.get("numberAvailable") != NODES:
            return False
        pods = await self.it.pods()
        images = [pod.raw["spec"]["containers"][0]["image"] for pod in pods if pod.ready and not pod.deleting]
        return images == [LAST_IMAGE] * NODES and len(pods) == NODES

    def end(self, revision: Revision) -> Any:
        (ds,) = revision.of(DaemonSet)
        pods = [(invariants.node_of(pod), pod["spec"]["containers"][0]["image"]) for pod in revision.of(Pod)]
        status = {field: number for field, number in ds["status"].items() if field != "observedGeneration"}
        return sorted(pods), status


async def check(store: Client, life: Life) -> None:
    revisions = await history(store)
    invariants.check_steps(revisions, life.user.deleted)
    invariants.check_pinned(revisions)
    check_owned(revisions[-1])
    assert life.user.end(revisions[-1]) == await undisturbed(DaemonSets(life.user.seed))


@pytest.mark.parametrize("seed", [3])
async def test_promises_are_kept_whatever_users_do(store: Client, seed: int) -> None:
    await check(store, await live(store, DaemonSets(seed), faults=NO_FAULTS))


@pytest.mark.parametrize("seed", seeds(1))
async def test_promises_are_kept_whatever_the_network_and_the_process_do(store: Client, seed: int) -> None:
    await check(store, await live(store, DaemonSets(2 + seed), steps=20))


@pytest.mark.parametrize("seed", seeds(1))
async def test_promises_are_kept_when_nodes_die_and_two_run_for_one_office(store: Client, seed: int) -> None:
    user = DaemonSets(4 + seed, "kill node", "revive node")
    await check(store, await live(store, user, leaders=2, steps=20))
