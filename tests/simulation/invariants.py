"""What must hold of Deployments at every revision of a history."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from controllers.apps.deployment.progress import limits
from controllers.apps.deployment.revisions import DESIRED_REPLICAS
from controllers.apps.types import Deployment, ReplicaSet
from controllers.core.taint_eviction import NOT_READY, UNREACHABLE
from controllers.core.types import Node, Pod
from tests.controllers.cluster import Revision

Raw = dict[str, Any]


def is_ready(pod: Raw) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def is_active(pod: Raw) -> bool:
    finished = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not finished and "deletionTimestamp" not in pod["metadata"]


def controller(obj: Raw) -> str:
    return next((each["uid"] for each in obj["metadata"].get("ownerReferences", ()) if each.get("controller")), "")


def pods_by_deployment(revision: Revision) -> dict[str, list[Raw]]:
    """Deployment uid -> its active pods."""
    owners = {rs["metadata"]["uid"]: controller(rs) for rs in revision.of(ReplicaSet)}
    found: dict[str, list[Raw]] = defaultdict(list)
    for pod in revision.of(Pod):
        if is_active(pod):
            found[owners.get(controller(pod), "")].append(pod)
    return found


class Bounds:
    """The most pods a Deployment may have and the fewest that it may leave available, over a while.

    A bound follows the spec, and the controllers follow later. So the loosest bound counts of all specs that may still
    be acted on: those from the observed generation on; and an older bound as long as pods or sizes are beyond it.
    """

    def __init__(self) -> None:
        self.most = 0
        self.least = 0
        self._known: dict[int, tuple[int, int]] = {}
        self._sizes: dict[str, dict[int, int]] = defaultdict(dict)

    def follow(self, raw: Raw, replica_sets: Sequence[Raw], active: int) -> None:
        deployment = Deployment.from_raw(raw)
        surge, unavailable = limits(deployment)
        replicas = deployment.spec.replicas
        least = 0 if deployment.spec.strategy.type == "Recreate" else replicas - unavailable
        self._known[deployment.metadata.generation] = (replicas + surge, least)
        observed = deployment.status.observed_generation
        self._known = {number: bound for number, bound in self._known.items() if number >= observed}
        most = max(bound[0] for bound in self._known.values())
        least = min(bound[1] for bound in self._known.values())
        largest, smallest = self._follow_sizes(replica_sets)
        self.most = most if max(active, largest) <= most else max(self.most, most)
        self.least = min(self.least, least) if smallest < least else least

    def _follow_sizes(self, replica_sets: Sequence[Raw]) -> tuple[int, int]:
        """The most and the fewest pods in all that the ReplicaSets may still be working towards."""
        largest = smallest = 0
        for rs in replica_sets:
            metadata, observed = rs["metadata"], rs.get("status", {}).get("observedGeneration", 0)
            sizes = self._sizes[metadata["uid"]]
            sizes[metadata["generation"]] = rs["spec"]["replicas"]
            sizes = self._sizes[metadata["uid"]] = {n: size for n, size in sizes.items() if n >= observed}
            largest += max(sizes.values())
            smallest += min(sizes.values())
        return largest, smallest


def by_controller(objects: Iterable[Raw]) -> dict[str, list[Raw]]:
    found: dict[str, list[Raw]] = defaultdict(list)
    for obj in objects:
        found[controller(obj)].append(obj)
    return found


def check_surge(history: Sequence[Revision]) -> None:
    """Never more pods than replicas + maxSurge, counted without those being deleted."""
    bounds: dict[str, Bounds] = defaultdict(Bounds)
    for revision in history:
        pods, replica_sets = pods_by_deployment(revision), by_controller(revision.of(ReplicaSet))
        for raw in revision.of(Deployment):
            uid = raw["metadata"]["uid"]
            active, bound = len(pods[uid]), bounds[uid]
            bound.follow(raw, replica_sets[uid], active)
            sizes = sum(rs["spec"]["replicas"] for rs in replica_sets[uid])
            assert active <= bound.most, f"revision {revision.number}: {active} pods, at most {bound.most} allowed"
            assert sizes <= bound.most, f"revision {revision.number}: sizes {sizes}, at most {bound.most} allowed"


def check_availability(history: Sequence[Revision], innocent: set[str]) -> None:
    """A controller never takes a ready pod away while fewer than replicas - maxUnavailable would be left.

    innocent: uids of pods that somebody else took away. A controller may not have known of them when it decided, so
    they count as if they were there until the Deployment has all its pods again. So do those of lost nodes, and those
    that a scaling takes in the middle of a rollout: it is shared out in proportion, whether pods are ready or not.
    """
    innocent = set(innocent)
    replicas_before: dict[str, tuple[int, str]] = {}
    bounds: dict[str, Bounds] = defaultdict(Bounds)
    taken: dict[str, int] = defaultdict(int)
    before: dict[str, list[Raw]] = {}
    for revision in history:
        pods, replica_sets = pods_by_deployment(revision), by_controller(revision.of(ReplicaSet))
        lost = {node["metadata"]["name"] for node in revision.of(Node) if node["spec"].get("taints")}
        innocent |= {pod["metadata"]["uid"] for pod in revision.of(Pod) if pod["spec"].get("nodeName") in lost}
        for raw in revision.of(Deployment):
            uid = raw["metadata"]["uid"]
            bound = bounds[uid]
            bound.follow(raw, replica_sets[uid], len(pods[uid]))
            for rs in replica_sets[uid]:
                size, desired = rs["spec"]["replicas"], rs["metadata"]["annotations"][DESIRED_REPLICAS]
                was, wanted = replicas_before.get(rs["metadata"]["uid"], (size, desired))
                replicas_before[rs["metadata"]["uid"]] = (size, desired)
                if wanted != desired:
                    taken[uid] += max(0, was - size)
            now = {pod["metadata"]["uid"] for pod in pods[uid]}
            gone = [pod for pod in before.get(uid, ()) if pod["metadata"]["uid"] not in now and is_ready(pod)]
            ready = sum(map(is_ready, pods[uid]))
            was_ready = {pod["metadata"]["uid"] for pod in before.get(uid, ()) if is_ready(pod)}
            # Pods that stop being ready were not taken away by anybody here: their node was lost.
            taken[uid] += sum(pod["metadata"]["uid"] in was_ready and not is_ready(pod) for pod in pods[uid])
            for pod in gone:
                if pod["metadata"]["uid"] in innocent:
                    taken[uid] += 1
                else:
                    left = ready + taken[uid]
                    assert left >= bound.least, f"revision {revision.number}: {left} left ready of {bound.least}"
            sizes = sum(rs["spec"]["replicas"] for rs in replica_sets[uid])
            if staying(pods[uid], replica_sets[uid]) == sizes == raw["spec"]["replicas"]:
                taken[uid] = 0
        before = pods


def staying(pods: Sequence[Raw], replica_sets: Sequence[Raw]) -> int:
    """How many ready pods there will be once those beyond the sizes of their ReplicaSets have gone."""
    ready = Counter(controller(pod) for pod in pods if is_ready(pod))
    return sum(min(ready[rs["metadata"]["uid"]], rs["spec"]["replicas"]) for rs in replica_sets)


def check_owned(last: Revision) -> None:
    """No object outlives its owners."""
    uids = {obj["metadata"]["uid"] for obj in last.objects.values() if "uid" in obj["metadata"]}
    for key, obj in last.objects.items():
        owners = [each["uid"] for each in obj["metadata"].get("ownerReferences", ())]
        assert not owners or any(owner in uids for owner in owners), f"{key} has outlived its owners"


STATUSES = (Pod, ReplicaSet, Deployment)


def untrue_statuses(revision: Revision) -> dict[tuple[str, str], tuple[int, int]]:
    """The ReplicaSets and Deployments whose status does not tell how many pods there are and are ready, and how many.

    A Deployment tells those of its ReplicaSets."""
    untrue: dict[tuple[str, str], tuple[int, int]] = {}
    by_set = by_controller(filter(is_active, revision.of(Pod)))
    for kind, pods in ((ReplicaSet, by_set), (Deployment, pods_by_deployment(revision))):
        for each in revision.of(kind):
            found, status = pods.get(each["metadata"]["uid"], ()), each.get("status", {})
            truth = (len(found), sum(map(is_ready, found)))
            if (status.get("replicas", 0), status.get("readyReplicas", 0)) != truth:
                untrue[kind.TYPE.kind, each["metadata"]["name"]] = truth
    return untrue


def check_no_node_is_lost(last: Revision) -> None:
    """At the end, when all machines have been back for a while, nobody takes one for lost."""
    for node in last.of(Node):
        keys = {each["key"] for each in node["spec"].get("taints") or ()}
        assert not keys & {NOT_READY, UNREACHABLE}, f"{node['metadata']['name']} is still tainted"
        assert all(c["status"] == "True" for c in node["status"]["conditions"] if c["type"] == "Ready")


def check_bindings(history: Sequence[Revision]) -> None:
    """A pod has one node for all its life, one that was there when it got it."""
    nodes: dict[str, str] = {}
    for revision in history:
        names = {node["metadata"]["name"] for node in revision.of(Node)}
        for pod in revision.of(Pod):
            uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName", "")
            if uid in nodes:
                assert nodes[uid] == node, f"revision {revision.number}: moved from {nodes[uid]} to {node}"
            elif node:
                assert node in names
                nodes[uid] = node


def end_state(last: Revision) -> dict[str, Any]:
    """What counts of the end: which templates have how many ready pods, and what the Deployments say of it."""
    result: dict[str, Any] = {}
    pods = pods_by_deployment(last)
    for raw in last.of(Deployment):
        status = raw["status"]
        images = sorted(pod["spec"]["containers"][0]["image"] for pod in pods[raw["metadata"]["uid"]] if is_ready(pod))
        fields = ("replicas", "updatedReplicas", "availableReplicas", "unavailableReplicas")
        counts = {key: status.get(key, 0) for key in fields}
        conditions = {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}
        result[raw["metadata"]["name"]] = (images, counts, conditions)
    return result
