"""Stages as data: how they are read, which a pod fits, what they make of it, and whole lives by them."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controllers.cli.columns.pods import pod_status
from controllers.core.stages import Setting, StageError, Stages, read_stages
from controllers.core.stages.expressions import Expression
from controllers.core.stages.stage import seconds_of
from controllers.core.types import Node, Pod
from informer.patch import encode
from kvstore.api import Client
from tests.controllers.cluster import EPOCH, Cluster, cluster, history, nginx

EXAMPLES = Path(__file__).parents[3] / "examples" / "stages"
QUICK: dict[str, Any] = {"pod_start_delay": 0.0, "pod_ready_delay": 0.0}

HEAD = """\
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: mine}
spec:
  resourceRef: {kind: Pod}
"""

Raw = dict[str, Any]


def write(path: Path, body: str, head: str = HEAD) -> Path:
    file = path / "stages.yaml"
    file.write_text(head + body)
    return file


# ---- expressions ----------------------------------------------------------------------------------------------------

DOCUMENT: Raw = {
    "metadata": {"annotations": {"a.b/c": "x", "off": False}},
    "spec": {"containers": [{"command": ["sh", "-c", "sleep 2; sleep 1"]}, {"args": ["run"]}]},
    "status": {
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": None}, None],
        "phase": "Running",
        "counts": [3, 1],
    },
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (".status.phase", ["Running"]),
        ('.metadata.annotations["a.b/c"]', ["x"]),
        ('.metadata["annotations"]["a.b/c"]', ["x"]),
        (".status.conditions.[].type", ["Ready", "Other"]),
        (".status.conditions[].status", ["True"]),
        ('.status.conditions.[] | select( .type == "Ready" ) | .status', ["True"]),
        ('.status.conditions[] | select(.type != "Ready") | .type', ["Other"]),
        (".status.conditions[] | select(.status) | .type", ["Ready"]),
        (".status.counts[]", [3, 1]),
        (".absent.field", []),
        (".status.phase.deeper", []),
        (".status.phase[]", []),
        (".absent // .status.phase", ["Running"]),
        (".metadata.annotations.off // .status.phase", ["Running"]),
        (".status.phase // .absent", ["Running"]),
        (".absent // (.spec.containers[] | sleepSeconds)", [3.0]),
    ],
)
def test_expressions(text: str, found: list[Any]) -> None:
    assert Expression(text).values(DOCUMENT) == found
    assert Expression(text).first(DOCUMENT) == (found[0] if found else None)


@pytest.mark.parametrize(
    "text", ["", "phase", ".a |", ".a[0]", "select(.a", ".a // ", ".a .b c", "(.a", ".a | nope", "$x"]
)
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        Expression(text)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5, 5.0),
        ("5", 5.0),
        ("3,1", (1.0, 3.0)),
        ("1m30s", 90.0),
        ("250ms", 0.25),
        ("forever", math.inf),
        ("2026-01-01T00:00:10Z", 10.0),
        ("2025-01-01T00:00:10Z", 0.0),
        ("2026-01-01T00:00:10", None),
        ("-1", 0.0),
        ("nan", None),
        ("soon", None),
        (True, None),
    ],
)
def test_how_an_object_says_a_delay(value: Any, seconds: Any) -> None:
    assert seconds_of(value, EPOCH) == seconds


# ---- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("  selector: {}\n", r"stages.yaml: document 1 \(mine\): spec: Object missing required field `next`"),
        ("  selector: {}\n  next: {patches: []}\n", r"spec.next: Object contains unknown field `patches`"),
        (
            "  selector: {}\n  delay: {durationMilliseconds: soon}\n  next: {}\n",
            r"spec.delay.durationMilliseconds: Expected `int`, got `str`",
        ),
        ("  selector: {}\n  weight: -1\n  next: {}\n", r"spec.weight: Expected `int` >= 0"),
        (
            "  selector: {matchExpressions: [{key: .a, operator: Is}]}\n  next: {}\n",
            r"spec.selector.matchExpressions\[0\].operator: Invalid enum value 'Is'",
        ),
        (
            "  selector: {matchLabels: {a: b}, matchExpressions: [{key: .a, operator: In}]}\n  next: {}\n",
            r"spec.selector.matchExpressions\[0\]: In needs values",
        ),
        (
            "  selector: {matchExpressions: [{key: .a, operator: Exists, values: [b]}]}\n  next: {}\n",
            r"Exists takes no values",
        ),
        (
            "  selector: {matchExpressions: [{key: '.a | nope', operator: Exists}]}\n  next: {}\n",
            r"matchExpressions\[0\]: '.a \| nope': no function 'nope'",
        ),
        (
            "  selector: {matchExpressions: [{key: .a, operator: Matches, values: ['(']}]}\n  next: {}\n",
            r"matchExpressions\[0\]: .*missing \)",
        ),
        (
            "  selector: {}\n  delay: {durationFrom: {expressionFrom: '.a.'}}\n  next: {}\n",
            r"spec.delay.durationFrom.expressionFrom: ",
        ),
        (
            "  selector: {}\n  next: {containers: {state: running, exitCode: 1}}\n",
            r"spec.next.containers.exitCode: goes with state: terminated",
        ),
        ("  selector: {}\n  next: {containers: {reason: X}}\n", r"spec.next.containers: needs state"),
        (
            "  selector: {}\n  next: {containers: {state: waiting, ready: true}}\n",
            r"spec.next.containers.ready: only a container that runs",
        ),
        (
            "  selector: {}\n  next: {statusTemplate: '{{ range .spec.containers }}a: b{{ end }}'}\n",
            r"spec.next.statusTemplate: .*Go templates are not run",
        ),
        ("  selector: {}\n  next: {statusTemplate: '- a'}\n", r"spec.next.statusTemplate: has to be a mapping"),
        (
            "  selector: {}\n  next: {statusTemplate: {conditions: [{type: Ready, status: true}]}}\n",
            r"statusTemplate.conditions: Ready: status has to be",
        ),
        (
            "  selector: {}\n  next: {statusTemplate: {status: {phase: Running}}}\n",
            r"statusTemplate: it is the status itself",
        ),
        ("  selector: {}\n  next: {}\n  next: {}\n", r"stages.yaml: document 1, line 8"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(tmp_path: Path, body: str, problem: str) -> None:
    file = write(tmp_path, body)
    with pytest.raises(StageError, match=problem) as caught:
        Stages(read_stages([file]), "Pod", {})
    assert str(caught.value).startswith(str(file))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="No such file or directory; the built-in sets are general, fast, chaos"):
        read_stages([tmp_path / "absent.yaml"])
    with pytest.raises(StageError, match=r"there is no \.yaml file in this directory"):
        read_stages([tmp_path])
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(StageError, match="there is no Stage in it"):
        read_stages([tmp_path])
    (tmp_path / "empty.yaml").write_text("kind: Deployment\n")
    with pytest.raises(StageError, match=r"empty.yaml: document 1: "):
        read_stages([tmp_path])
    stage = HEAD + "  selector: {}\n  next: {}\n"
    (tmp_path / "empty.yaml").write_text(f"{stage}---\n{stage}")
    with pytest.raises(StageError, match="'mine' is there twice in this file"):
        read_stages([tmp_path])


def test_a_stage_for_nodes_has_no_containers(tmp_path: Path) -> None:
    file = write(tmp_path, "  selector: {}\n  next: {delete: true}\n", HEAD.replace("Pod", "Node"))
    with pytest.raises(StageError, match=r"spec.next.delete: is for Pods"):
        Stages(read_stages([file]), "Node", {})


def test_general_is_the_ground_unless_another_life_is_named(tmp_path: Path) -> None:
    def names(*wanted: str | Path) -> set[str]:
        return {source.name for source in read_stages(wanted)}

    assert {"pod-start", "pod-init-start"} <= names()
    assert "pod-init-start" not in names("fast")
    assert {"pod-init-start", "chaos-crash"} <= names("chaos")
    mine = write(tmp_path, "  selector: {}\n  next: {}\n", HEAD.replace("mine", "pod-start"))
    found = [source for source in read_stages([mine]) if source.name == "pod-start"]
    assert [source.place for source in found] == [f"{mine}: document 1 (pod-start)"]


# ---- which, and when ------------------------------------------------------------------------------------------------


def pod(labels: dict[str, str] | None = None, **status: Any) -> Raw:
    return {
        "metadata": {"name": "p", "namespace": "default", "uid": "u", "labels": labels or {}},
        "spec": {"nodeName": "node-1", "restartPolicy": "Always", "containers": [{"name": "a", "image": "a:1"}]},
        "status": status,
    }


def test_selectors(tmp_path: Path) -> None:
    body = """\
  selector:
    matchLabels: {app: web}
    matchAnnotations: {a/b: "1"}
    matchExpressions:
    - {key: .status.phase, operator: In, values: [Running, Pending]}
    - {key: .status.ready, operator: NotIn, values: [true]}
    - {key: '.spec.containers[].image', operator: Matches, values: ['a:.*']}
    - {key: .status.reason, operator: DoesNotExist}
    - {key: .status.podIP, operator: Exists}
  next: {}
"""
    stages = Stages(read_stages(["fast", write(tmp_path, body)]), "Pod", {})
    right = pod({"app": "web"}, phase="Running", podIP="10.0.0.1")
    right["metadata"]["annotations"] = {"a/b": "1"}

    def fits(**changes: Any) -> bool:
        changed = {**right, "status": {**right["status"], **changes}}
        return "mine" in [stage.name for stage in stages.fit(stages.decode(encode(changed)))]

    assert fits()
    assert fits(ready=False)
    assert not fits(phase="Failed")
    assert not fits(ready=True)
    assert not fits(reason="X")
    assert not fits(podIP=None)
    right["spec"]["containers"][0]["image"] = "ba:1"
    assert not fits()
    right["spec"]["containers"][0]["image"] = "a:1"
    right["metadata"]["labels"] = {}
    assert not fits()


def test_many_kinds_of_pods_do_not_grow_the_tree_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controllers.core.stages.matching.MAX_NODES", 16)
    body = "  selector: {matchExpressions: [{key: .metadata.name, operator: In, values: [p7]}]}\n  next: {}\n"
    stages = Stages(read_stages([write(tmp_path, body)]), "Pod", {})
    for number in range(100):
        one = pod(phase="Succeeded")
        one["metadata"]["name"] = f"p{number}"
        assert [stage.name for stage in stages.fit(one)] == (["mine"] if number == 7 else [])
    assert stages._matcher._nodes <= 16


def test_weights_are_drawn_the_same_with_the_same_seed() -> None:
    stages = Stages(read_stages([EXAMPLES / "flaky.yaml"]), "Pod", {})
    running = [{"name": "a", "ready": False, "state": {"running": {}}}]
    fit = stages.fit(pod({"app": "flaky"}, phase="Running", containerStatuses=running))
    assert {stage.name: stage.weight for stage in fit} == {"pod-ready": 0, "flaky-ready": 4, "flaky-dies": 1}

    def drawn(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [stages.choose(fit, {}, rng).name for _ in range(1000)]

    assert drawn(7) == drawn(7) != drawn(8)
    counts = Counter(drawn(7))
    assert "pod-ready" not in counts
    assert 140 <= counts["flaky-dies"] <= 260


def test_a_weight_and_a_delay_may_come_from_the_pod(tmp_path: Path) -> None:
    body = """\
  selector: {}
  weight: 3
  weightFrom: {expressionFrom: '.metadata.annotations["weight"]'}
  delay:
    durationMilliseconds: 1000
    jitterDurationMilliseconds: 5000
    durationFrom: {expressionFrom: '.metadata.annotations["delay"]'}
    jitterDurationFrom: {expressionFrom: '.metadata.annotations["most"]'}
  next: {}
"""
    stages = Stages(read_stages([write(tmp_path, body)]), "Pod", {})
    mine = next(stage for stage in stages.all if stage.name == "mine")

    def with_annotations(**annotations: str) -> Any:
        one = pod()
        one["metadata"]["annotations"] = annotations
        return stages.decode(encode(one))

    assert mine.weight_of(with_annotations()) == 3
    assert mine.weight_of(with_annotations(weight="10")) == 10
    assert mine.weight_of(with_annotations(weight="much")) == 3
    assert mine.delay_of(with_annotations(), EPOCH) == (1.0, 5.0)
    assert mine.delay_of(with_annotations(delay="2s"), EPOCH) == 2.0
    assert mine.delay_of(with_annotations(delay="2s", most="4s"), EPOCH) == (2.0, 4.0)
    assert mine.delay_of(with_annotations(delay="2s", most="1s"), EPOCH) == 1.0


def test_back_off_doubles_up_to_five_minutes() -> None:
    stages = Stages(read_stages([]), "Pod", {})
    restart = next(stage for stage in stages.all if stage.name == "pod-restart")
    counts = [0, 1, 2, 3, 4, 5, 50]
    delays = [restart.delay_of({"status": {"containerStatuses": [{"restartCount": n}]}}, EPOCH) for n in counts]
    assert delays == [10, 20, 40, 80, 160, 300, 300]


# ---- what comes of it -----------------------------------------------------------------------------------------------


def test_a_template_fills_in_what_it_names(tmp_path: Path) -> None:
    body = """\
  selector: {}
  next:
    statusTemplate: |
      hostIP: {{ NodeIP | Quote }}
      podIP: "{{ PodIP }}"
      startTime: {{ Now }}
      message: '{{ .metadata.name }} on {{ NodeName }}'
      first: {{ .spec.containers[] }}
      gone: null
      conditions:
      - {type: Ready, status: "False", reason: Waiting}
      containerStatuses:
      - {name: a, ready: true}
      - {name: b, ready: false}
    finalizers:
      add: [{value: example.com/kept}]
      remove: [{value: example.com/old}]
    event: {reason: Mine, message: 'about {{ .metadata.name }}'}
"""
    stages = Stages(read_stages([write(tmp_path, body)]), "Pod", {})
    mine = next(stage for stage in stages.all if stage.name == "mine")
    earlier = (EPOCH - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    raw = pod(
        gone=1,
        kept=2,
        conditions=[{"type": "Ready", "status": "False", "lastTransitionTime": earlier}],
        containerStatuses=[{"name": "a", "ready": False, "restartCount": 3}],
    )
    raw["metadata"]["finalizers"] = ["example.com/old", "example.com/other"]
    told = mine.effect.apply(raw, Setting(EPOCH, "172.18.0.1", "node-1", lambda: "10.1.0.1"))
    assert raw["status"] == {
        "kept": 2,
        "hostIP": "172.18.0.1",
        "podIP": "10.1.0.1",
        "startTime": "2026-01-01T00:00:00Z",
        "message": "p on node-1",
        "first": {"name": "a", "image": "a:1"},
        "conditions": [{"type": "Ready", "status": "False", "reason": "Waiting", "lastTransitionTime": earlier}],
        "containerStatuses": [{"name": "a", "ready": True, "restartCount": 3}, {"name": "b", "ready": False}],
    }
    assert raw["metadata"]["finalizers"] == ["example.com/other", "example.com/kept"]
    assert told == [("Normal", "Mine", "about p")]


def apply(tmp_path: Path, change: str, raw: Raw) -> Raw:
    stages = Stages(read_stages([write(tmp_path, f"  selector: {{}}\n  next: {{containers: {change}}}\n")]), "Pod", {})
    next(stage for stage in stages.all if stage.name == "mine").effect.apply(raw, Setting(EPOCH))
    status = raw["status"]
    assert isinstance(status, dict)
    return status


@pytest.mark.parametrize(
    ("policy", "code", "phase", "state"),
    [
        ("Always", 0, "Running", "waiting"),
        ("Always", 1, "Running", "waiting"),
        ("OnFailure", 0, "Succeeded", "terminated"),
        ("OnFailure", 1, "Running", "waiting"),
        ("Never", 0, "Succeeded", "terminated"),
        ("Never", 1, "Failed", "terminated"),
    ],
)
def test_the_restart_policy_decides_what_an_end_means(
    tmp_path: Path, policy: str, code: int, phase: str, state: str
) -> None:
    raw = pod()
    raw["spec"]["restartPolicy"] = policy
    apply(tmp_path, "{state: running, ready: true}", raw)
    status = apply(tmp_path, f"{{state: terminated, exitCode: {code}, backOff: true}}", raw)
    (container,) = status["containerStatuses"]
    assert (status["phase"], list(container["state"])) == (phase, [state])
    ready = next(each for each in status["conditions"] if each["type"] == "Ready")
    reasons = {"Running": "ContainersNotReady", "Succeeded": "PodCompleted", "Failed": "PodFailed"}
    assert (ready["status"], ready["reason"]) == ("False", reasons[phase])


def test_changes_are_for_the_containers_that_they_name(tmp_path: Path) -> None:
    raw = pod()
    raw["spec"]["containers"] = [{"name": name, "image": "a:1"} for name in "abc"]
    status = apply(tmp_path, "[{names: [a, b], state: running, ready: true}]", raw)
    assert [list(each["state"]) for each in status["containerStatuses"]] == [["running"], ["running"], ["waiting"]]
    assert status["phase"] == "Pending"
    status = apply(tmp_path, "[{in: [waiting], state: running}, {in: [running], first: true, state: terminated}]", raw)
    assert [list(each["state"]) for each in status["containerStatuses"]] == [["terminated"], ["running"], ["running"]]
    assert [each["ready"] for each in status["containerStatuses"]] == [False, True, False]
    assert next(each for each in status["conditions"] if each["type"] == "Ready")["message"] == (
        "containers with unready status: [a c]"
    )
    status = apply(tmp_path, "{names: [a], state: running}", raw)
    assert [each["restartCount"] for each in status["containerStatuses"]] == [1, 0, 0]
    assert status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 0


def test_a_status_that_a_template_wrote_in_part_is_made_whole(tmp_path: Path) -> None:
    raw = pod(containerStatuses=[{"name": "a", "ready": True}], initContainerStatuses=[{"name": "i"}])
    raw["spec"]["initContainers"] = [{"name": "i", "image": "i:1"}]
    status = apply(tmp_path, "{in: [waiting], state: running, ready: true}", raw)
    assert (status["containerStatuses"][0]["ready"], status["containerStatuses"][0]["restartCount"]) == (True, 0)
    assert status["phase"] == "Pending"
    ended = pod(containerStatuses=[{"name": "a", "state": {"terminated": {}}}])
    assert apply(tmp_path, "{in: [terminated], state: running}", ended)["containerStatuses"][0]["restartCount"] == 1


# ---- whole lives ----------------------------------------------------------------------------------------------------


def chaotic(what: str, *, name: str = "nginx", seconds: str = "", **spec: Any) -> Any:
    deployment = nginx(name, **spec)
    annotations = {"listwatch.dev/simulate": what}
    if seconds:
        annotations["listwatch.dev/simulate-seconds"] = seconds
    deployment.raw["spec"]["template"]["metadata"]["annotations"] = annotations
    return deployment


async def statuses(it: Cluster, store: Client) -> list[str]:
    """The STATUS column that kubectl showed of the pods, one after the other."""
    seen: list[str] = []
    for revision in await history(store):
        for raw in revision.of(Pod):
            if (shown := pod_status(raw)) not in seen[-1:]:
                seen.append(shown)
    return seen


@pytest.mark.virtual_time
async def test_a_crash_loop_backs_off_longer_each_time(store: Client) -> None:
    async with cluster(store, stages=["chaos"], **QUICK) as it:
        await it.apply(chaotic("crash-loop", replicas=1))
        await asyncio.sleep(10 + 20 + 40 + 4 * 5)
        (pod,) = await it.pods()
        (container,) = pod.status.container_statuses
        assert container.restart_count == 3
        assert container.last_state["terminated"]["exitCode"] == 1
        assert await it.events("BackOff")
        assert (await it.deployment()).status.available_replicas == 0
    shown = await statuses(it, store)
    assert shown[:5] == ["Pending", "Running", "Error", "CrashLoopBackOff", "Running"]
    assert set(shown) == {"Pending", "Running", "Error", "CrashLoopBackOff"}


@pytest.mark.virtual_time
async def test_a_container_that_is_killed_for_its_memory(store: Client) -> None:
    async with cluster(store, stages=["chaos"], **QUICK) as it:
        await it.apply(chaotic("oom-killed", replicas=1))
        await asyncio.sleep(20)
        (pod,) = await it.pods()
        assert pod.status.container_statuses[0].last_state["terminated"]["exitCode"] == 137
    assert (await statuses(it, store))[:4] == ["Pending", "Running", "OOMKilled", "CrashLoopBackOff"]


@pytest.mark.virtual_time
async def test_an_image_that_cannot_be_pulled_is_tried_again_and_again(store: Client) -> None:
    async with cluster(store, stages=["chaos"]) as it:
        await it.apply(chaotic("image-pull-back-off", replicas=1))
        await asyncio.sleep(60)
    assert await statuses(it, store) == ["Pending", *(["ErrImagePull", "ImagePullBackOff"] * 3)]


@pytest.mark.virtual_time
async def test_a_slow_start_takes_as_long_as_it_says(store: Client) -> None:
    async with cluster(store, stages=["chaos"], **QUICK) as it:
        await it.apply(chaotic("slow-start", replicas=1))
        await it.apply(chaotic("slow-start", name="quicker", seconds="5", replicas=1))
        began = asyncio.get_running_loop().time()
        await it.rolled_out("quicker")
        assert asyncio.get_running_loop().time() - began == pytest.approx(5, abs=0.5)
        await it.rolled_out()
        assert asyncio.get_running_loop().time() - began == pytest.approx(60, abs=0.5)


@pytest.mark.virtual_time
async def test_failing_readiness_holds_a_rollout_back(store: Client) -> None:
    async with cluster(store, stages=["chaos"], **QUICK) as it:
        good = nginx(replicas=4, minReadySeconds=20)
        await it.apply(good)
        await it.rolled_out()
        bad = chaotic("failing-readiness", replicas=4, minReadySeconds=20)
        await it.apply(bad)
        await asyncio.sleep(100)
        deployment = await it.deployment()
        # Ready for ten seconds of the twenty that it takes to count as available.
        assert deployment.status.available_replicas == 3
        # maxSurge and maxUnavailable are 1 each: two new ones are there, and three old ones go on.
        assert (deployment.status.updated_replicas, deployment.status.replicas) == (2, 5)
        assert await it.events("Unhealthy")
        conditions = [pod.condition("Ready") for pod in await it.pods()]
        assert {each.reason for each in conditions if each is not None and each.status != "True"} <= {
            "ContainersNotReady"
        }


@pytest.mark.virtual_time
async def test_a_pod_that_the_kubelet_evicts_is_replaced(store: Client) -> None:
    async with cluster(store, stages=["chaos"], **QUICK) as it:
        await it.apply(chaotic("evicted", replicas=1))
        await asyncio.sleep(8)
        evicted = [pod for pod in await it.pods() if pod.status.phase == "Failed"]
        (first,) = evicted
        assert pod_status(first.raw) == "Evicted"
        target = first.condition("DisruptionTarget")
        assert target is not None
        assert (target.status, target.reason) == ("True", "TerminationByKubelet")
        assert len(await it.pods()) == 2


@pytest.mark.virtual_time
async def test_a_pod_that_is_lost_sight_of_is_unknown(store: Client) -> None:
    async with cluster(store, stages=["chaos"], **QUICK) as it:
        await it.apply(chaotic("unknown", replicas=1))
        await asyncio.sleep(30)
        (pod,) = await it.pods()
        ready = pod.condition("Ready")
        assert ready is not None
        assert (pod.status.phase, ready.status) == ("Unknown", "Unknown")


def with_init(*commands: str, policy: str = "Always") -> Pod:
    initial = [
        {"name": f"init-{n}", "image": "busybox", "command": ["sh", "-c", command]}
        for n, command in enumerate(commands)
    ]
    spec = {"restartPolicy": policy, "initContainers": initial, "containers": [{"name": "app", "image": "nginx"}]}
    return Pod.from_raw({"metadata": {"name": "one", "namespace": "default"}, "spec": spec})


@pytest.mark.virtual_time
async def test_init_containers_run_one_after_the_other(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(with_init("true", "true"))
        await it.until(lambda: ready(it))
        (pod,) = await it.pods()
        assert [each.state["terminated"]["exitCode"] for each in pod.status.init_container_statuses] == [0, 0]
    assert await statuses(it, store) == ["Pending", "Init:0/2", "Init:1/2", "PodInitializing", "Running"]


async def ready(it: Cluster) -> bool:
    return all(pod.ready for pod in await it.pods())


@pytest.mark.virtual_time
async def test_an_init_container_that_fails_is_started_again_or_ends_the_pod(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(with_init("true", "exit 2"))
        await asyncio.sleep(40)
        (pod,) = await it.pods()
        first, second = pod.status.init_container_statuses
        assert (first.restart_count, second.restart_count) == (0, 2)
        initialized = pod.condition("Initialized")
        assert initialized is not None
        assert (initialized.status, initialized.reason) == ("False", "ContainersNotInitialized")
        assert "init-1" in initialized.message
        assert pod_status(pod.raw) == "Init:CrashLoopBackOff"
        await it.client.delete(Pod, "one", "default", grace_seconds=0)
        await it.client.create(with_init("exit 2", "true", policy="Never"))
        await asyncio.sleep(5)
        (pod,) = await it.pods()
        assert (pod.status.phase, pod_status(pod.raw)) == ("Failed", "Init:Error")


@pytest.mark.virtual_time
async def test_readiness_waits_for_the_probes_initial_delay_and_a_false_one_is_never_passed(store: Client) -> None:
    async with cluster(store, **QUICK) as it:
        for name, probe in (("slow", {"initialDelaySeconds": 15}), ("never", {"exec": {"command": ["false"]}})):
            deployment = nginx(name, replicas=1)
            deployment.raw["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = probe
            await it.apply(deployment)
        began = asyncio.get_running_loop().time()
        await it.rolled_out("slow")
        assert asyncio.get_running_loop().time() - began == pytest.approx(15, abs=0.5)
        await asyncio.sleep(100)
        (never,) = await it.pods(app="never")
        assert (never.status.phase, never.ready) == ("Running", False)


@pytest.mark.virtual_time
async def test_a_deletion_takes_no_longer_than_the_grace_period(store: Client) -> None:
    async with cluster(store, pod_delete_delay=60.0, **QUICK) as it:
        await it.apply(nginx(replicas=1))
        await it.rolled_out()
        (pod,) = await it.pods()
        began = asyncio.get_running_loop().time()
        await it.client.delete(Pod, pod.name, "default", grace_seconds=7)

        async def gone() -> bool:
            return not await it.exists(Pod, pod.name)

        await it.until(gone)
        assert asyncio.get_running_loop().time() - began == pytest.approx(7, abs=0.1)


@pytest.mark.virtual_time
async def test_the_fast_life_is_one_write(store: Client) -> None:
    async with cluster(store, stages=["fast"]) as it:
        await it.client.create(with_init("sleep 100"))
        began = asyncio.get_running_loop().time()
        await it.until(lambda: ready(it))
        # Once the nodes are there: no simulated second goes by for the pod itself.
        assert asyncio.get_running_loop().time() - began < 2
        assert it.workloads.nodes.statistics().done["pod-start"] == 1
    assert await statuses(it, store) == ["Pending", "Running"]


# ---- the examples ---------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_the_example_of_a_slow_start(store: Client) -> None:
    async with cluster(store, stages=[EXAMPLES / "slow-java.yaml"]) as it:
        slow, said = nginx("slow", replicas=3), nginx("said", replicas=1)
        for deployment in (slow, said):
            deployment.raw["spec"]["template"]["metadata"]["labels"]["runtime"] = "java"
        said.raw["spec"]["template"]["metadata"]["annotations"] = {"example.com/warm-up": "5s"}
        for deployment in (slow, said, nginx(replicas=1)):
            await it.apply(deployment)
        began = asyncio.get_running_loop().time()
        await it.rolled_out()
        assert asyncio.get_running_loop().time() - began < 3
        await it.rolled_out("said")
        assert 5 <= asyncio.get_running_loop().time() - began < 7
        await it.rolled_out("slow")
        assert 20 <= asyncio.get_running_loop().time() - began < 42
        assert len(await it.events("WarmedUp")) == 4


@pytest.mark.virtual_time
async def test_the_example_of_chance(store: Client) -> None:
    async with cluster(store, seed=3, stages=[EXAMPLES / "flaky.yaml"]) as it:
        await it.apply(nginx("flaky", replicas=15))
        await it.rolled_out("flaky")
        restarts = [pod.status.container_statuses[0].restart_count for pod in await it.pods()]
        assert 0 < sum(restarts) < 15


@pytest.mark.virtual_time
async def test_the_example_of_a_node_that_runs_short_of_memory(store: Client) -> None:
    async with cluster(store, stages=[EXAMPLES / "node-pressure.yaml"], **QUICK) as it:
        await it.apply(nginx(replicas=3))
        await it.rolled_out()
        began = asyncio.get_running_loop().time()
        await it.client.patch(Node, "node-2", {"metadata": {"labels": {"example.com/memory": "low"}}})

        async def taints() -> set[str]:
            return {taint.key for taint in (await it.client.get(Node, "node-2")).spec.taints}

        async def tainted() -> bool:
            return await taints() == {"node.kubernetes.io/memory-pressure"}

        await it.until(tainted)
        assert asyncio.get_running_loop().time() - began == pytest.approx(30, abs=1)
        await it.scale(9)
        await it.rolled_out()
        assert Counter(pod.spec.node_name for pod in await it.pods())["node-2"] == 1
        await it.client.patch(Node, "node-2", {"metadata": {"labels": {"example.com/memory": None}}})

        async def enough() -> bool:
            return not await taints()

        await it.until(enough)
