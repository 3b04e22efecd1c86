"""DaemonSets case by case: what they may say, which nodes they are for, and what is decided, without I/O."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from controllers.apps.daemonset.backoff import FailedPods
from controllers.apps.daemonset.managing import manage
from controllers.apps.daemonset.nodes import DaemonNode, Judge, KnownNodes, Place, node_changed, tolerations_for
from controllers.apps.daemonset.pods import DaemonPod, PodMaker, decode_daemon_pod, pinned
from controllers.apps.daemonset.rolling import roll
from controllers.apps.daemonset.situation import Plan, next_status, situation_of
from controllers.apps.daemonset.types import TEMPLATE_GENERATION, DaemonSet
from informer.codecs import format_time
from informer.errors import Invalid
from tests.controllers.apps.daemonsets import NOW, Raw, daemon_set, node, rolling, stored, surging

OLD, NEW = "old", "new"


def made(ds: DaemonSet) -> DaemonSet:
    """As kube-apiserver would take it."""
    ds.default()
    ds.validate()
    return ds


# ---- the kind --------------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    ds = made(daemon_set())
    assert ds.raw["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0},
    }
    assert ds.spec.revision_history_limit == 10
    assert ds.spec.min_ready_seconds == 0
    assert ds.spec.template.spec.restart_policy == "Always"
    assert ds.metadata.annotations == {TEMPLATE_GENERATION: "1"}
    assert (DaemonSet.TYPE.plural, DaemonSet.TYPE.short_names) == ("daemonsets", ("ds",))
    assert "rollingUpdate" not in made(daemon_set(updateStrategy={"type": "OnDelete"})).raw["spec"]["updateStrategy"]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"updateStrategy": rolling(maxSurge=1)}, "spec.updateStrategy.rollingUpdate.maxSurge: may not be set"),
        ({"updateStrategy": rolling(maxSurge="10%", maxUnavailable="20%")}, "maxSurge: may not be set"),
        ({"updateStrategy": rolling(maxUnavailable=0)}, "maxUnavailable: may not be 0 when maxSurge is 0"),
        ({"updateStrategy": rolling(maxUnavailable="0%")}, "maxUnavailable: may not be 0 when maxSurge is 0"),
        ({"updateStrategy": rolling(maxUnavailable="101%")}, "may not be more than 100%"),
        ({"updateStrategy": rolling(maxUnavailable=0, maxSurge="200%")}, "may not be more than 100%"),
        ({"updateStrategy": rolling(maxUnavailable=-1)}, "must not be negative"),
        ({"updateStrategy": rolling(maxUnavailable="many")}, "percentage"),
        ({"minReadySeconds": -1}, "spec.minReadySeconds: must not be negative"),
        ({"revisionHistoryLimit": -1}, "spec.revisionHistoryLimit: must not be negative"),
        ({"selector": {}}, "must not be empty"),
        ({"selector": {"matchLabels": {"app": "other"}}}, "does not select them"),
        ({"pod": {"restartPolicy": "OnFailure"}}, "spec.template.spec.restartPolicy"),
        ({"pod": {"activeDeadlineSeconds": 5}}, "spec.template.spec.activeDeadlineSeconds"),
        ({"pod": {"containers": []}}, "spec.template.spec.containers"),
    ],
)
def test_what_it_may_not_say(spec: Raw, problem: str) -> None:
    with pytest.raises(Invalid, match=problem):
        made(daemon_set(**spec))


@pytest.mark.parametrize("sizes", [{"maxUnavailable": "30%"}, {"maxUnavailable": 0, "maxSurge": "100%"}])
def test_sizes_may_be_percentages(sizes: Raw) -> None:
    made(daemon_set(updateStrategy=rolling(**sizes)))


def test_the_selector_stays() -> None:
    with pytest.raises(Invalid, match=r"spec\.selector: is immutable"):
        made(daemon_set(selector={"matchExpressions": [{"key": "app", "operator": "Exists"}]})).validate_update(
            made(daemon_set())
        )


def test_changes_of_the_template_are_counted_whatever_the_writer_says() -> None:
    old = made(daemon_set())
    new = made(daemon_set(image="agent:2"))
    new.prepare_update(old)
    assert new.template_generation == 2
    newer = made(daemon_set(image="agent:2", minReadySeconds=3))
    newer.raw["metadata"]["annotations"] = {TEMPLATE_GENERATION: "77", "mine": "x"}
    newer.prepare_update(new)
    assert newer.metadata.annotations == {TEMPLATE_GENERATION: "2", "mine": "x"}


# ---- which nodes -----------------------------------------------------------------------------------------------------


def required(*terms: Raw) -> Raw:
    selector = {"nodeSelectorTerms": list(terms)}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}}


def expression(key: str, operator: str, *values: str) -> Raw:
    return {"key": key, "operator": operator, "values": list(values)}


TOLERATES_EXECUTE = {"tolerations": [{"key": "full", "operator": "Exists", "effect": "NoExecute"}]}


@pytest.mark.parametrize(
    ("pod", "found", "place"),
    [
        ({}, node("a"), Place.RUN),
        ({"nodeName": "a"}, node("a"), Place.RUN),
        ({"nodeName": "b"}, node("a"), Place.LEAVE),
        ({"nodeSelector": {"disk": "ssd"}}, node("a", disk="ssd"), Place.RUN),
        ({"nodeSelector": {"disk": "ssd"}}, node("a", disk="hdd"), Place.LEAVE),
        (required({"matchExpressions": [expression("disk", "In", "ssd", "nvme")]}), node("a", disk="nvme"), Place.RUN),
        (required({"matchExpressions": [expression("disk", "NotIn", "hdd")]}), node("a", disk="hdd"), Place.LEAVE),
        (required({"matchExpressions": [expression("cpus", "Gt", "8")]}), node("a", cpus="16"), Place.RUN),
        (required({"matchFields": [expression("metadata.name", "In", "b")]}), node("a"), Place.LEAVE),
        (required({"matchFields": [expression("metadata.name", "NotIn", "b")]}), node("a"), Place.RUN),
        (
            required(
                {"matchExpressions": [expression("x", "Exists")]}, {"matchExpressions": [expression("y", "Exists")]}
            ),
            node("a", y="1"),
            Place.RUN,
        ),
        ({}, node("a", "full:NoSchedule"), Place.STAY),
        ({}, node("a", "full:PreferNoSchedule"), Place.RUN),
        ({}, node("a", "full:NoExecute"), Place.LEAVE),
        ({}, node("a", "full:NoSchedule", "full:NoExecute"), Place.LEAVE),
        (TOLERATES_EXECUTE, node("a", "full:NoSchedule", "full:NoExecute"), Place.STAY),
        ({"tolerations": [{"operator": "Exists"}]}, node("a", "full:NoSchedule", "x:NoExecute"), Place.RUN),
        ({"tolerations": [{"key": "k", "value": "v"}]}, node("a", "k=v:NoExecute"), Place.RUN),
        ({"tolerations": [{"key": "k", "value": "v"}]}, node("a", "k=w:NoExecute"), Place.LEAVE),
        ({}, node("a", "node.kubernetes.io/not-ready:NoExecute"), Place.RUN),
        ({}, node("a", "node.kubernetes.io/unreachable:NoExecute"), Place.RUN),
        ({}, node("a", "node.kubernetes.io/unreachable:NoSchedule"), Place.STAY),
        ({}, node("a", "node.kubernetes.io/disk-pressure:NoSchedule"), Place.RUN),
        ({}, node("a", "node.kubernetes.io/memory-pressure:NoSchedule"), Place.RUN),
        ({}, node("a", "node.kubernetes.io/pid-pressure:NoSchedule"), Place.RUN),
        ({}, node("a", "node.kubernetes.io/unschedulable:NoSchedule"), Place.RUN),
        ({}, node("a", "node.kubernetes.io/network-unavailable:NoSchedule"), Place.STAY),
        ({"hostNetwork": True}, node("a", "node.kubernetes.io/network-unavailable:NoSchedule"), Place.RUN),
    ],
)
def test_which_nodes(pod: Raw, found: Raw, place: Place) -> None:
    (known,) = KnownNodes().of([stored(found)])
    assert Judge({"containers": [], **pod}).judge(known) is place


def test_an_automatic_toleration_takes_the_place_of_one_that_ends() -> None:
    given: list[Raw] = [
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
        {"key": "mine", "operator": "Exists"},
    ]
    found = tolerations_for({"tolerations": given})
    assert found[0] == {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}
    assert found[1] == given[1]
    assert [each["key"].partition("/")[2] for each in found[2:]] == [
        "not-ready",
        "disk-pressure",
        "memory-pressure",
        "pid-pressure",
        "unschedulable",
    ]
    assert given[0]["tolerationSeconds"] == 5


def test_only_labels_and_taints_of_a_node_count() -> None:
    def changed(before: Raw, after: Raw) -> bool:
        return node_changed(stored(before), stored(after, 2))

    before = node("a", "x:NoSchedule", disk="ssd")
    assert not changed(before, {**before, "status": {"conditions": [{"type": "Ready", "status": "False"}]}})
    cordoned = node("a", "x:NoSchedule", disk="ssd", generation=2)
    cordoned["spec"]["unschedulable"] = True
    assert not changed(before, cordoned)
    assert changed(before, node("a", "x:NoSchedule", disk="hdd"))
    assert changed(before, node("a", "x:NoExecute", disk="ssd", generation=2))
    assert node_changed(None, stored(before))
    assert node_changed(stored(before), None)


def test_a_node_is_judged_again_only_when_it_looks_different(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []
    judge = Judge.judge

    def counted(self: Judge, node: DaemonNode) -> Place:
        judged.append(node.name)
        return judge(self, node)

    monkeypatch.setattr(Judge, "judge", counted)
    nodes, mine = KnownNodes(), Judge({"nodeSelector": {"disk": "ssd"}})
    assert mine.is_news("a", nodes.one(stored(node("a"))))
    assert mine.of(nodes.of([stored(node("a")), stored(node("b", disk="ssd"))])) == {
        "a": Place.LEAVE,
        "b": Place.RUN,
    }
    judged.clear()
    heard = {**node("a"), "status": {"heard": "of"}}
    again = nodes.of([stored(heard, 5), stored(node("b", disk="hdd"), 6)])
    assert not mine.is_news("a", again[0])
    assert mine.is_news("b", again[1])
    assert not mine.is_news("a", nodes.one(stored(node("a", zone="z"), 7)))
    judged.clear()
    assert mine.of(again) == {"a": Place.LEAVE, "b": Place.LEAVE}
    assert judged == ["b"]
    assert mine.is_news("a", None)
    assert not mine.is_news("c", None)


# ---- its pods --------------------------------------------------------------------------------------------------------


def test_a_pod_is_pinned_to_its_node_and_keeps_what_it_prefers() -> None:
    preferred = [{"weight": 1, "preference": {"matchExpressions": [expression("a", "Exists")]}}]
    before: Raw = {
        "podAntiAffinity": {"x": 1},
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
            **required({"matchExpressions": [expression("disk", "In", "ssd")]})["affinity"]["nodeAffinity"],
        },
    }
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}
    only = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    assert pinned(before, "a") == {
        "podAntiAffinity": {"x": 1},
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred, **only},
    }
    assert pinned(None, "a") == {"nodeAffinity": only}
    assert pinned({}, "a") == {"nodeAffinity": only}


def test_what_its_pods_look_like() -> None:
    ds = made(daemon_set(pod={"nodeSelector": {"disk": "ssd"}}))
    ds.raw["metadata"]["uid"] = "u"
    template = ds.raw["spec"]["template"]
    template["metadata"].update(annotations={"a": "b"}, finalizers=["example.com/f"])
    pod = PodMaker(ds, "abc").pod_for("node-1")
    assert pod.metadata.generate_name == "agent-"
    assert pod.metadata.labels == {"app": "agent", "controller-revision-hash": "abc", "pod-template-generation": "1"}
    assert (pod.metadata.annotations, pod.metadata.finalizers) == ({"a": "b"}, ["example.com/f"])
    (owner,) = pod.metadata.owner_references
    assert (owner.kind, owner.name, owner.uid, owner.controller) == ("DaemonSet", "agent", "u", True)
    assert pod.spec.node_name == ""
    assert pod.raw["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert len(pod.spec.tolerations) == 6
    assert "tolerations" not in template["spec"]
    seen = decode_daemon_pod(stored({**pod.raw, "metadata": {**pod.raw["metadata"], "name": "agent-x"}}))
    assert (seen.target, seen.bound) == ("node-1", False)


# ---- what is decided -------------------------------------------------------------------------------------------------


def pod(
    name: str,
    where: str,
    revision: str = NEW,
    *,
    ready: float | None = 500,
    phase: str = "Running",
    bound: bool = True,
    deleting: bool = False,
    age: int = 100,
    labels: Raw | None = None,
) -> DaemonPod:
    """A pod on or for a node. ready: for how many seconds."""
    metadata: Raw = {
        "name": name,
        "namespace": "default",
        "uid": name,
        "creationTimestamp": format_time(NOW - timedelta(seconds=age)),
        "labels": {"controller-revision-hash": revision} if labels is None else labels,
    }
    if deleting:
        metadata["deletionTimestamp"] = format_time(NOW)
    status: Raw = {"phase": phase}
    if ready is not None and phase == "Running":
        since = format_time(NOW - timedelta(seconds=ready))
        status["conditions"] = [{"type": "Ready", "status": "True", "lastTransitionTime": since}]
    spec: Raw = {"nodeName": where} if bound else {"affinity": pinned(None, where)}
    return decode_daemon_pod(stored({"metadata": metadata, "spec": spec, "status": status}))


def places(text: str) -> dict[str, Place]:
    """A node a letter: upper case takes pods, `-a` keeps those that are there, `!a` takes none."""
    found = {}
    for word in text.split():
        place = {"-": Place.STAY, "!": Place.LEAVE}.get(word[0], Place.RUN)
        found[word.strip("-!")] = place
    return found


def never(node: str) -> float:
    raise AssertionError(f"no pod has failed on {node}")


def decide(
    nodes: str, *pods: DaemonPod, wait: Callable[[str], float] = never, step: bool = False, **spec: Any
) -> tuple[list[str], list[str], float | None]:
    """(nodes that get a pod, pods that go, seconds until something is due). step: of a rollout."""
    found = situation_of(made(daemon_set(**spec)), places(nodes), pods, NEW, NOW)
    plan: Plan = roll(found) if step else manage(found, wait)
    return plan.create, [each.name for each in plan.delete], plan.after


def test_each_node_that_takes_one_gets_one() -> None:
    assert decide("a b -c !d", pod("p", "b")) == (["a"], [], None)


def test_pods_go_where_they_may_not_be() -> None:
    pods = [pod("on-a", "a"), pod("on-b", "b"), pod("on-c", "c"), pod("going", "c", deleting=True)]
    assert decide("a -b !c", *pods) == ([], ["on-c"], None)


def test_a_node_whose_pod_is_going_waits_for_its_end() -> None:
    assert decide("a", pod("p", "a", deleting=True)) == ([], [], None)
    assert decide("a", pod("p", "a", deleting=True), updateStrategy=surging(1)) == (["a"], [], None)
    assert decide("-a", pod("p", "a", deleting=True), updateStrategy=surging(1)) == ([], [], None)


def test_a_pod_that_has_ended_and_is_going_does_not_count() -> None:
    assert decide("a", pod("p", "a", phase="Failed", deleting=True)) == (["a"], [], None)


def test_pods_that_have_ended_are_deleted() -> None:
    pods = [pod("failed", "a", phase="Failed"), pod("done", "b", phase="Succeeded")]
    assert decide("a b", *pods, wait=lambda node: 0.0) == ([], ["failed", "done"], None)


def test_a_failed_pod_stays_until_its_time() -> None:
    pods = [pod("one", "a", phase="Failed"), pod("two", "b", phase="Failed")]
    waits = {"a": 7.0, "b": 3.0}
    assert decide("a b", *pods, wait=lambda node: waits[node]) == ([], [], 3.0)


def test_of_two_pods_the_one_that_has_its_node_and_then_the_older_stays() -> None:
    assert decide("a", pod("x", "a", age=9, bound=False), pod("y", "a", age=5))[1] == ["x"]
    assert decide("a", pod("x", "a", age=5), pod("y", "a", age=9), pod("z", "a", age=7))[1] == ["z", "x"]
    assert decide("a", pod("y", "a", age=5), pod("x", "a", age=5))[1] == ["y"]
    assert decide("-a", pod("x", "a", OLD), pod("y", "a", NEW, age=1))[1] == ["y"]


def test_pods_for_nodes_that_are_gone() -> None:
    assert decide("a", pod("on-a", "a"), pod("waits", "gone", bound=False), pod("ran", "gone")) == ([], ["waits"], None)


def test_a_pod_that_says_no_node_is_left_alone() -> None:
    assert decide("a", pod("p", "", bound=True)) == (["a"], [], None)


@pytest.mark.parametrize(
    ("old", "new", "gone"),
    [
        ({}, {"ready": None}, []),
        ({"ready": None}, {"ready": None}, ["old"]),
        ({}, {"ready": 30}, ["old"]),
        ({}, {"ready": 5}, []),
    ],
)
def test_with_surge_two_pods_may_be_on_a_node_until_the_new_one_is_available(old: Raw, new: Raw, gone: Any) -> None:
    pods = [pod("old", "a", OLD, **old), pod("new", "a", age=10, **new)]
    found = decide("a", *pods, updateStrategy=surging(1), minReadySeconds=20)
    assert found == ([], gone, 15.0 if new["ready"] == 5 else None)


def test_with_surge_there_is_one_old_and_one_new_pod_at_the_most() -> None:
    pods = [pod(name, "a", name[:3], ready=None if name[:3] == NEW else 50, age=age)
            for name, age in (("old-1", 9), ("old-2", 8), ("new-1", 7), ("new-2", 6))]  # fmt: skip
    assert decide("a", *pods, updateStrategy=surging(1))[1] == ["old-2", "new-2"]


# ---- rolling ---------------------------------------------------------------------------------------------------------


def test_a_step_takes_as_many_as_may_be_unavailable() -> None:
    pods = [pod(name, name, OLD) for name in "abcde"]
    assert decide("a b c d e", *pods, step=True) == ([], ["a"], None)
    assert decide("a b c d e", *pods, step=True, updateStrategy=rolling(maxUnavailable=2))[1] == ["a", "b"]
    # 30 % of 5 nodes, rounded up
    assert decide("a b c d e", *pods, step=True, updateStrategy=rolling(maxUnavailable="30%"))[1] == ["a", "b"]
    assert decide("a b c d e", *pods, step=True, updateStrategy=rolling(maxUnavailable=9))[1] == list("abcde")


@pytest.mark.parametrize(
    "first",
    [
        [pod("n", "a", NEW, ready=None)],  # not ready
        [pod("n", "a", NEW, ready=3)],  # not for long enough
        [pod("n", "a", OLD, deleting=True)],  # on its way out
        [],  # not made yet
        [pod("n", "a", NEW), pod("o", "a", OLD)],  # two: one will go
        [pod("n", "a", NEW), pod("m", "a", NEW)],
    ],
)
def test_a_step_waits_while_a_node_is_without_an_available_pod(first: list[DaemonPod]) -> None:
    others = [pod(name, name, OLD) for name in "bc"]
    assert decide("a b c", *first, *others, step=True, minReadySeconds=5) == ([], [], None)
    two = rolling(maxUnavailable=2)
    assert decide("a b c", *first, *others, step=True, minReadySeconds=5, updateStrategy=two)[1] == ["b"]


def test_old_pods_that_are_unavailable_anyway_go_at_once_and_count() -> None:
    pods = [pod("a", "a", OLD), pod("b", "b", OLD, ready=None), pod("c", "c", OLD, ready=None)]
    assert decide("a b c", *pods, step=True)[1] == ["b", "c"]
    assert decide("a b c", *pods, step=True, updateStrategy=rolling(maxUnavailable=3))[1] == ["b", "c", "a"]
    # even when there is no room
    assert decide("a b c d", *pods, pod("d", "d", NEW, ready=None), step=True)[1] == ["b", "c"]


def test_pods_without_a_hash_go_by_the_generation() -> None:
    labels = {"pod-template-generation": "1"}
    assert decide("a", pod("p", "a", labels=labels), step=True) == ([], [], None)
    assert decide("a", pod("p", "a", labels={"pod-template-generation": "0"}), step=True)[1] == ["p"]
    # adopted from a DaemonSet before it, which had a generation 1 as well
    adopted = {**labels, "controller-revision-hash": OLD}
    assert decide("a", pod("p", "a", labels=adopted), step=True)[1] == ["p"]


def test_a_surge_makes_the_new_pod_first() -> None:
    pods = [pod(name, name, OLD) for name in "abc"]
    assert decide("a b c", *pods, step=True, updateStrategy=surging(1)) == (["a"], [], None)
    assert decide("a b c", *pods, step=True, updateStrategy=surging("50%")) == (["a", "b"], [], None)
    started = pod("new", "a", NEW, ready=None)
    assert decide("a b c", *pods, started, step=True, updateStrategy=surging(1)) == ([], [], None)
    ready = pod("new", "a", NEW, ready=3)
    waiting = decide("a b c", *pods, ready, step=True, updateStrategy=surging(1), minReadySeconds=5)
    assert waiting == ([], [], None)
    assert decide("a b c", *pods, ready, step=True, updateStrategy=surging(1)) == (["b"], ["a"], None)


def test_a_surge_replaces_what_is_unavailable_anyway_at_once() -> None:
    pods = [pod("a", "a", OLD), pod("b", "b", OLD, ready=None), pod("c", "c", OLD, ready=None)]
    assert decide("a b c", *pods, step=True, updateStrategy=surging(1))[0] == ["b", "c", "a"]
    surged = pod("new", "a", NEW, ready=None)
    assert decide("a b c", *pods, surged, step=True, updateStrategy=surging(1))[0] == ["b", "c"]


def test_a_surge_spares_a_pod_on_a_node_that_takes_none_only_when_enough_others_serve() -> None:
    kept = pod("kept", "z", OLD)
    assert decide("a -z", kept, pod("a", "a", NEW, ready=None), step=True, updateStrategy=surging(1))[1] == []
    assert decide("a -z", kept, pod("a", "a", NEW), step=True, updateStrategy=surging(1))[1] == ["kept"]
    broken = pod("broken", "z", OLD, ready=None)
    assert decide("a -z", broken, pod("a", "a", NEW, ready=None), step=True, updateStrategy=surging(1))[1] == ["broken"]
    assert decide("a", kept, pod("a", "a", NEW), step=True, updateStrategy=surging(1)) == ([], [], None)


# ---- failed pods, and the status -------------------------------------------------------------------------------------


def test_failed_pods_are_replaced_ever_later() -> None:
    failed, now, waits = FailedPods(), 0.0, []
    assert failed.wait("a", 1, now) == 0.0
    for _ in range(12):
        waits.append(failed.wait("a", 1, now))
        now += waits[-1]
        assert failed.wait("a", 1, now) == 0.0
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
    assert failed.wait("b", 1, now) == 0.0
    assert failed.wait("a", 1, now + 100) == 800.0
    assert failed.wait("a", 2, now + 100) == 0.0
    assert failed.wait("a", 2, now + 100) == 1.0
    assert failed.wait("a", 2, now + 2000) == 0.0
    failed.keep({"b"})
    assert failed.wait("a", 2, now + 2000) == 0.0


def test_the_status() -> None:
    ds = made(daemon_set(minReadySeconds=10))
    ds.raw["metadata"]["generation"] = 4
    pods = [
        pod("available", "a"),
        pod("ready", "b", ready=4),
        pod("old", "c", OLD, age=9),
        pod("younger", "c", NEW, age=8),
        pod("not-ready", "d", ready=None),
        pod("misscheduled", "f"),
        pod("leaves", "g"),
    ]
    found = situation_of(ds, places("a b c d e -f !g"), pods, NEW, NOW)
    status, after = next_status(ds, found, 1)
    assert status == {
        "desiredNumberScheduled": 5,
        "currentNumberScheduled": 4,
        "numberMisscheduled": 2,
        "numberReady": 3,
        "numberAvailable": 2,
        "numberUnavailable": 3,
        "updatedNumberScheduled": 3,
        "observedGeneration": 4,
        "collisionCount": 1,
    }
    assert after == 6.0


def test_the_status_of_one_without_nodes() -> None:
    ds = made(daemon_set())
    ds.raw["metadata"]["generation"] = 1
    ds.raw["status"] = {"conditions": [{"type": "Mine", "status": "True"}]}
    assert next_status(ds, situation_of(ds, {}, [], NEW, NOW), 0) == (
        {
            "desiredNumberScheduled": 0,
            "currentNumberScheduled": 0,
            "numberMisscheduled": 0,
            "numberReady": 0,
            "observedGeneration": 1,
            "conditions": [{"type": "Mine", "status": "True"}],
        },
        None,
    )
