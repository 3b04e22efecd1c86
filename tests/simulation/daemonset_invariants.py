"""What must hold of DaemonSets at every revision of a history.

A controller acts on what its caches show, which is what was true a short while before; `LAG` is how long at the most.
What it did itself it always sees. So a rule about its own doing is exact, and one about what others did (the labels of
a node, a pod that gets ready) has to have been true at some time within the lag.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from controllers.apps.daemonset.types import DaemonSet
from controllers.apps.deployment.arithmetic import part_of
from controllers.apps.history import REVISION_HASH
from controllers.apps.types import ControllerRevision
from controllers.core.types import Lease, Node, Pod
from tests.controllers.cluster import EPOCH, Revision
from tests.simulation.invariants import controller, is_active

Raw = dict[str, Any]

LAG = timedelta(seconds=12)  # late events, slow answers, retries of a run
COARSE = timedelta(seconds=4)  # a revision is no younger than its time says, and no older than this


def times(history: Sequence[Revision]) -> Iterator[tuple[Revision, datetime]]:
    """Each revision with its time, as the heartbeats before it tell."""
    now = EPOCH
    prefix = Lease.TYPE.prefix().decode()
    for revision in history:
        for key in revision.changed:
            renewed = revision.objects.get(key, {}).get("spec", {}).get("renewTime") if key.startswith(prefix) else None
            if renewed is not None:
                now = max(now, datetime.fromisoformat(renewed))
        yield revision, now


def node_of(pod: Raw) -> str:
    """The node that it is on or for."""
    if name := pod["spec"].get("nodeName"):
        return str(name)
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return str(required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0])


def takes_pods(node: Raw) -> bool:
    """Whether a pod of the lives here should run there: no automatic toleration is for NoSchedule of a lost node."""
    taints = [(each["key"], each["effect"]) for each in node.get("spec", {}).get("taints") or ()]
    tolerated = {
        (f"node.kubernetes.io/{key}", effect)
        for key, effect in (("not-ready", "NoExecute"), ("unreachable", "NoExecute"), ("unschedulable", "NoSchedule"))
    }
    pool = (node["metadata"].get("labels") or {}).get("pool")
    return pool != "out" and all(each in tolerated for each in taints)


class Nodes:
    """What the nodes were within the lag."""

    def __init__(self) -> None:
        self._seen: deque[tuple[datetime, dict[str, bool]]] = deque()

    def follow(self, revision: Revision, now: datetime) -> None:
        state = {node["metadata"]["name"]: takes_pods(node) for node in revision.of(Node)}
        if not self._seen or self._seen[-1][1] != state:
            self._seen.append((now, state))
        while len(self._seen) > 1 and self._seen[1][0] < now - LAG:
            self._seen.popleft()

    def took(self, name: str) -> bool:
        """Whether it took pods at some time."""
        return any(state.get(name, False) for _, state in self._seen)

    def always_took(self, name: str) -> bool:
        """Whether it took pods all the time."""
        return all(state.get(name, False) for _, state in self._seen)

    @property
    def most(self) -> int:
        """How many there were."""
        return max(len(state) for _, state in self._seen)


class Wishes:
    """The specs that may still be acted on: those from the observed generation on."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int | str, int | str]] = {}

    def follow(self, ds: Raw) -> None:
        strategy = ds["spec"]["updateStrategy"]
        rolling = (strategy.get("rollingUpdate") or {}) if strategy["type"] == "RollingUpdate" else {}
        self._known[ds["metadata"]["generation"]] = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
        observed = ds.get("status", {}).get("observedGeneration", 0)
        self._known = {number: wish for number, wish in self._known.items() if number >= observed}

    def most_unavailable(self, nodes: int) -> int:
        return max(part_of(unavailable, nodes, round_up=True) for unavailable, _ in self._known.values())

    def most_surge(self, nodes: int) -> int:
        return max(part_of(surge, nodes, round_up=True) for _, surge in self._known.values())

    @property
    def only_surge(self) -> bool:
        """Whether all of them surge."""
        return all(surge not in (0, "0%") for _, surge in self._known.values())


def ready_since(pod: Raw) -> datetime | None:
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "Ready" and condition["status"] == "True":
            return datetime.fromisoformat(condition["lastTransitionTime"])
    return None


class Life:
    """One DaemonSet through a history. gone: uids of the pods that somebody else took away.

    taken: nodes whose available pod the controller took, and that have not had one since. surged: nodes where it made a
    pod beside an available one, and the new one has not been available since.
    """

    def __init__(self, uid: str, gone: Collection[str]) -> None:
        self.uid = uid
        self.gone = gone
        self.wishes = Wishes()
        self.before: dict[str, Raw] = {}
        self.served: set[str] = set()
        self.taken: set[str] = set()
        self.surged: set[str] = set()
        self.min_ready = timedelta()

    def follow(self, revision: Revision, ds: Raw, nodes: Nodes, now: datetime) -> None:
        self.wishes.follow(ds)
        self.min_ready = timedelta(seconds=ds["spec"].get("minReadySeconds", 0))
        pods = {pod["metadata"]["uid"]: pod for pod in revision.of(Pod) if controller(pod) == self.uid}
        self._settle(pods, now)
        # Where no pod should run, nothing is unavailable.
        self.taken = {name for name in self.taken if nodes.always_took(name)}
        where = f"revision {revision.number}"
        for uid in pods.keys() - self.before.keys():
            self._made(where, revision, pods[uid], nodes, now)
        for uid, pod in self.before.items():
            if is_active(pod) and (uid not in pods or "deletionTimestamp" in pods[uid]["metadata"]):
                self._took(where, pod, pods, nodes, now)
        self.before = pods

    def _serves(self, pod: Raw, now: datetime) -> bool:
        """Whether it may be seen as available."""
        since = ready_since(pod)
        return is_active(pod) and since is not None and since + self.min_ready <= now + COARSE

    def _served_long(self, pod: Raw, now: datetime) -> bool:
        """Whether it must be seen as available."""
        since = ready_since(pod)
        return is_active(pod) and since is not None and since + self.min_ready <= now - LAG

    def _settle(self, pods: dict[str, Raw], now: datetime) -> None:
        serving = {uid for uid, pod in pods.items() if self._serves(pod, now)}
        self.served |= serving
        self.taken -= {node_of(pods[uid]) for uid in serving}
        by_node: dict[str, list[str]] = defaultdict(list)
        for uid, pod in pods.items():
            if is_active(pod):
                by_node[node_of(pod)].append(uid)
        for name in list(self.surged):
            newest = max(by_node[name], key=lambda uid: pods[uid]["metadata"]["creationTimestamp"], default="")
            if len(by_node[name]) < 2 or newest in self.served:
                self.surged.discard(name)

    def _made(self, where: str, revision: Revision, pod: Raw, nodes: Nodes, now: datetime) -> None:
        name, digest = node_of(pod), pod["metadata"]["labels"][REVISION_HASH]
        assert nodes.took(name), f"{where}: a pod for {name}, which takes none"
        templates = {
            each["metadata"]["labels"][REVISION_HASH]: each["data"]["spec"]["template"]["spec"]["containers"]
            for each in revision.of(ControllerRevision)
        }
        image = templates[digest][0]["image"]
        assert image == pod["spec"]["containers"][0]["image"], f"{where}: a pod of another revision than its label says"
        others = [each for each in self.before.values() if node_of(each) == name]
        active = [each for each in others if is_active(each)]
        if not self.wishes.most_surge(nodes.most):
            left = [each for each in others if "deletionTimestamp" not in each["metadata"] or not finished(each)]
            assert not left, f"{where}: a second pod on {name}"
            return
        assert len(active) <= 1, f"{where}: a third pod on {name}"
        assert all(each["metadata"]["labels"][REVISION_HASH] != digest for each in active), f"{where}: twice the same"
        if any(self._served_long(each, now) for each in active) and nodes.always_took(name):
            self.surged.add(name)
            most = self.wishes.most_surge(nodes.most)
            assert len(self.surged) <= most, f"{where}: surge on {sorted(self.surged)}, at most {most} allowed"

    def _took(self, where: str, pod: Raw, pods: dict[str, Raw], nodes: Nodes, now: datetime) -> None:
        name = node_of(pod)
        if pod["metadata"]["uid"] in self.gone or not self._served_long(pod, now) or not nodes.always_took(name):
            return
        others = [each for each in pods.values() if is_active(each) and node_of(each) == name]
        if any(each["metadata"]["uid"] in self.served for each in others):
            return
        if others and not self.wishes.only_surge:
            # What was made beside it by a strategy that has ended: of the two the older stays, as in Kubernetes.
            return
        self.taken.add(name)
        most = self.wishes.most_unavailable(nodes.most)
        assert len(self.taken) <= most, f"{where}: took {sorted(self.taken)}, at most {most} may be unavailable"


def finished(pod: Raw) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def check_steps(history: Sequence[Revision], gone: Collection[str]) -> None:
    """Never two pods on a node but by a surge; never more in motion than the strategy allows; no pod made for a node
    that takes none; a pod is of the revision that its label says. gone: uids of pods that users took away."""
    nodes = Nodes()
    lives: dict[str, Life] = {}
    for revision, now in times(history):
        nodes.follow(revision, now)
        for ds in revision.of(DaemonSet):
            uid = ds["metadata"]["uid"]
            lives.setdefault(uid, Life(uid, gone)).follow(revision, ds, nodes, now)


def check_pinned(history: Sequence[Revision]) -> None:
    """The scheduler binds a pod to the node that it is for."""
    pinned: dict[str, str] = {}
    owners = {ds["metadata"]["uid"] for revision in history for ds in revision.of(DaemonSet)}
    for revision in history:
        for pod in revision.of(Pod):
            if controller(pod) in owners:
                name = pinned.setdefault(pod["metadata"]["uid"], node_of(pod))
                assert node_of(pod) == name, f"revision {revision.number}: for {name}, bound to {node_of(pod)}"
