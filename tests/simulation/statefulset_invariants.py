"""What must hold of a StatefulSet at every revision of a history.

A controller acts on what its caches show, and these may be late. What it has done itself they do show when it acts
again, so what is judged is this: since the last step of the same process there was a state that allowed the step. The
same goes for wishes: until a generation has been observed, the looser of the old wish and the new one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controllers.apps.history import REVISION_HASH
from controllers.apps.statefulset.types import StatefulSet
from controllers.apps.types import ControllerRevision
from controllers.core.types import Node, PersistentVolumeClaim, Pod
from tests.controllers.cluster import Revision
from tests.simulation.invariants import by_controller, controller, is_ready

Raw = dict[str, Any]


@dataclass
class Wish:
    """What one generation asks for."""

    start: int
    replicas: int
    partition: int

    @property
    def ordinals(self) -> range:
        return range(self.start, self.start + self.replicas)


@dataclass
class State:
    """The StatefulSet, the pods that it controls by ordinal, its claims and its revisions by name, at one time.

    wishes: of all generations that may still be acted on. lost: uids of the pods that were ever on a node that died.
    """

    number: int
    sts: Raw
    pods: dict[int, Raw]
    claims: dict[str, Raw]
    revisions: dict[str, Raw]
    wishes: list[Wish]
    lost: frozenset[str] = frozenset()

    def healthy(self, ordinal: int) -> bool:
        pod = self.pods.get(ordinal)
        return pod is not None and is_ready(pod) and "deletionTimestamp" not in pod["metadata"]


@dataclass
class Step:
    """A pod that was made (`before` has none) or is to go, by the controller's doing.

    seen: what the process that did it may have seen: all states since its last step.
    """

    before: State
    after: State
    ordinal: int
    pod: Raw
    author: str
    seen: Sequence[State]

    @property
    def wishes(self) -> Sequence[Wish]:
        """What it may have acted on."""
        return self.before.wishes

    def __str__(self) -> str:
        return f"revision {self.after.number}: {self.pod['metadata']['name']} by {self.author}"


def revision_of(pod: Raw) -> str:
    revision: str = pod["metadata"]["labels"][REVISION_HASH]
    return revision


def ordinal_of(obj: Raw) -> int:
    return int(obj["metadata"]["name"].rpartition("-")[2])


def states(history: Sequence[Revision]) -> list[State]:
    """Those since the StatefulSet was made."""
    found: list[State] = []
    known: dict[int, Wish] = {}
    lost: frozenset[str] = frozenset()
    for revision in history:
        sts = next(revision.of(StatefulSet), None)
        if sts is None:
            continue
        spec, metadata = sts["spec"], sts["metadata"]
        rolling = spec["updateStrategy"].get("rollingUpdate") or {}
        start = (spec.get("ordinals") or {}).get("start", 0)
        known[metadata["generation"]] = Wish(start, spec["replicas"], rolling.get("partition", 0))
        observed = sts.get("status", {}).get("observedGeneration", 0)
        known = {number: wish for number, wish in known.items() if number >= observed}
        dead = {node["metadata"]["name"] for node in revision.of(Node) if node["spec"].get("taints")}
        pods = {ordinal_of(pod): pod for pod in revision.of(Pod) if controller(pod) == metadata["uid"]}
        lost |= {pod["metadata"]["uid"] for pod in pods.values() if pod["spec"].get("nodeName") in dead}
        claims = {claim["metadata"]["name"]: claim for claim in revision.of(PersistentVolumeClaim)}
        revisions = {each["metadata"]["name"]: each for each in revision.of(ControllerRevision)}
        found.append(State(revision.number, sts, pods, claims, revisions, list(known.values()), lost))
    return found


def steps(states: Sequence[State], authors: Mapping[int, str], deleted: set[str]) -> Iterator[Step]:
    """The controller's. authors: who wrote a revision. deleted: uids of the pods that users deleted."""
    last: dict[str, int] = {}
    for number in range(1, len(states)):
        before, after = states[number - 1], states[number]
        author = authors.get(after.number, "")
        for ordinal in before.pods.keys() | after.pods.keys():
            was, now = before.pods.get(ordinal), after.pods.get(ordinal)
            pod = now or was
            assert pod is not None
            made = now is not None and was is None
            going = was is not None and "deletionTimestamp" not in was["metadata"] and not made
            going = going and (now is None or "deletionTimestamp" in now["metadata"])
            uid = pod["metadata"]["uid"]
            if not author or not (made or going) or uid in deleted or (going and uid in after.lost):
                continue
            yield Step(before, after, ordinal, pod, author, states[last.get(author, 0) : number])
            last[author] = number


def is_made(step: Step) -> bool:
    return step.ordinal not in step.before.pods


def allowed(step: Step, rule: Callable[[State, Wish], bool]) -> bool:
    """Whether one of the states that may have been seen, with one of the wishes that may have been, allows it."""
    return any(rule(state, wish) for state in step.seen for wish in step.wishes)


def check_order(steps: Sequence[Step]) -> None:
    """OrderedReady: a pod is made only when all before it serve, and taken only when all others that are wanted do; of
    those beyond the wanted number the highest goes first, and each is gone before the next goes; an update too goes
    from the highest down."""
    for step in steps:
        mine = step.ordinal
        newest = max(step.before.revisions.values(), key=lambda each: each["revision"])["metadata"]["name"]

        def may_make(state: State, wish: Wish, mine: int = mine) -> bool:
            if mine in state.pods or mine not in wish.ordinals:
                return False
            return all(state.healthy(ordinal) for ordinal in range(wish.start, mine))

        def may_take(state: State, wish: Wish, mine: int = mine, newest: str = newest) -> bool:
            if not all(state.healthy(ordinal) for ordinal in wish.ordinals if ordinal != mine):
                return False
            beyond = [ordinal for ordinal in state.pods if ordinal not in wish.ordinals]
            if beyond:
                return mine == max(beyond)
            later = (state.pods[ordinal] for ordinal in wish.ordinals if ordinal > mine)
            return mine in wish.ordinals and all(revision_of(pod) == newest for pod in later)

        if is_made(step):
            assert allowed(step, may_make), f"{step}: made before its time"
        elif step.pod.get("status", {}).get("phase") not in ("Failed", "Succeeded"):
            assert allowed(step, may_take), f"{step}: taken before its time"


def check_partition(steps: Sequence[Step]) -> None:
    """An update takes no pod below the partition, and what is made there is of the revision that was current."""
    for step in steps:
        status = [state.sts.get("status", {}) for state in (*step.seen, step.before)]
        revision = revision_of(step.pod)
        if is_made(step):
            if all(step.ordinal < wish.start + wish.partition for wish in step.wishes):
                current = {each.get("currentRevision") for each in status}
                assert None in current or revision in current, f"{step}: below the partition, of {revision}"
            continue
        ended = step.pod.get("status", {}).get("phase") in ("Failed", "Succeeded")

        def may_take(state: State, wish: Wish, step: Step = step) -> bool:
            return step.ordinal not in wish.ordinals or step.ordinal >= wish.start + wish.partition

        assert ended or allowed(step, may_take), f"{step}: below the partition, and taken"


def check_claims(states: Sequence[State], steps: Sequence[Step]) -> None:
    """A pod has its claims from the first, and they are of its own; they go only with a pod beyond the wanted number,
    and only if the policy says so."""
    for step in steps:
        wanted = all(step.ordinal in wish.ordinals for wish in step.wishes)
        for template in step.after.sts["spec"]["volumeClaimTemplates"]:
            name = f"{template['metadata']['name']}-{step.pod['metadata']['name']}"
            claim = step.before.claims.get(name)
            owners = set() if claim is None else {each["kind"] for each in claim["metadata"].get("ownerReferences", ())}
            assert not wanted or "Pod" not in owners, f"{step}: its claim goes with a pod"
            if is_made(step):
                assert claim is not None, f"{step}: without its claim"
                assert "deletionTimestamp" not in claim["metadata"], f"{step}: its claim is about to go"
                volumes = step.pod["spec"]["volumes"]
                assert name in {each["persistentVolumeClaim"]["claimName"] for each in volumes}
    uids: dict[str, str] = {}
    narrow: dict[str, bool] = {}
    for state in states:
        retained = state.sts["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"
        for name in uids.keys() | state.claims.keys():
            uid = state.claims[name]["metadata"]["uid"] if name in state.claims else ""
            if name in uids and uids[name] != uid:
                assert not retained, f"revision {state.number}: {name} is gone"
                assert narrow.pop(name, False), f"revision {state.number}: {name} is gone, its pod was always wanted"
                del uids[name]
            if uid:
                uids[name] = uid
                beyond = any(ordinal_of(state.claims[name]) not in wish.ordinals for wish in state.wishes)
                narrow[name] = narrow.get(name, False) or beyond


def check_identity(states: Sequence[State]) -> None:
    """A pod keeps the labels of its identity, and its node, all its life."""
    nodes: dict[str, str] = {}
    for state in states:
        for ordinal, pod in state.pods.items():
            metadata, node = pod["metadata"], pod["spec"].get("nodeName", "")
            assert metadata["labels"]["statefulset.kubernetes.io/pod-name"] == metadata["name"]
            assert metadata["labels"]["apps.kubernetes.io/pod-index"] == str(ordinal)
            assert nodes.setdefault(metadata["uid"], node) in ("", node), f"revision {state.number}: another node"
            nodes[metadata["uid"]] = node


def check_revisions(states: Sequence[State]) -> None:
    """What is used is kept, no two have one number, and a pod is what its revision says."""
    for state in states:
        status = state.sts.get("status", {})
        used = {status[field] for field in ("currentRevision", "updateRevision") if status.get(field)}
        numbers = [each["revision"] for each in state.revisions.values()]
        assert len(set(numbers)) == len(numbers), f"revision {state.number}: {numbers}"
        for pod in state.pods.values():
            name = revision_of(pod)
            used.add(name)
            if name in state.revisions:
                template = state.revisions[name]["data"]["spec"]["template"]
                assert pod["spec"]["containers"][0]["image"] == template["spec"]["containers"][0]["image"]
        assert used <= state.revisions.keys(), f"revision {state.number}: {used - state.revisions.keys()} is missing"


STATUSES = (Pod, StatefulSet)


def untrue_statuses(revision: Revision) -> dict[tuple[str], tuple[int, int]]:
    """The StatefulSets that do not tell how many pods they have and how many run and are ready, and how many."""
    pods = by_controller(revision.of(Pod))
    untrue: dict[tuple[str], tuple[int, int]] = {}
    for sts in revision.of(StatefulSet):
        found, status = pods.get(sts["metadata"]["uid"], ()), sts.get("status", {})
        truth = (len(found), sum(each["status"].get("phase") == "Running" and is_ready(each) for each in found))
        if (status.get("replicas", 0), status.get("readyReplicas", 0)) != truth:
            untrue[(sts["metadata"]["name"],)] = truth
    return untrue
