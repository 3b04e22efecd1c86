"""The HorizontalPodAutoscaler controller on a small cluster: traffic, conditions, events, every kind of metric."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from controllers.apps.types import Deployment, ReplicaSet
from controllers.autoscaling.algorithm import Sample
from controllers.autoscaling.metrics import MetricsUnavailable
from controllers.autoscaling.types import HorizontalPodAutoscaler
from controllers.autoscaling.usage import PodUsage
from controllers.core.types import ConfigMap, Pod, Service
from controllers.discovery.backends import Backends
from informer.client import ObjectClient
from informer.crd import crd_for
from informer.errors import Invalid
from informer.resources import Resource
from informer.scale import Scale
from informer.selectors import Selector
from kvstore.api import Client, Compare, Op, Put, TxnResponse
from kvstore.errors import Unavailable
from tests.controllers.cluster import Cluster, cluster, history, nginx, virtual_now
from tests.controllers.discovery.services import service
from tests.simulation.faults import FaultyClient

pytestmark = pytest.mark.virtual_time

FAST: dict[str, Any] = {"pod_start_delay": 0, "pod_ready_delay": 0, "pod_delete_delay": 0}
CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nginx"}

Raw = dict[str, Any]


def hpa(*metrics: Raw, name: str = "web", target: Raw | None = None, **spec: Any) -> HorizontalPodAutoscaler:
    given = {"scaleTargetRef": target or TARGET, "maxReplicas": 10, "metrics": [*metrics] or [CPU], **spec}
    return HorizontalPodAutoscaler.from_raw({"metadata": {"name": name, "namespace": "default"}, "spec": given})


def workload(replicas: int = 1, usage: str = "", requests: Raw | None = None) -> Deployment:
    made = nginx(replicas=replicas)
    template = made.raw["spec"]["template"]
    template["spec"]["containers"][0]["resources"] = {"requests": requests or {"cpu": "200m", "memory": "100Mi"}}
    if usage:
        template["metadata"]["annotations"] = {"listwatch.dev/usage": usage}
    return made


def loaded(load: str) -> Service:
    made = service()
    made.raw["metadata"]["annotations"] = {"listwatch.dev/load": load}
    return made


async def set_load(it: Cluster, load: str) -> None:
    await it.client.patch(Service, "web", {"metadata": {"annotations": {"listwatch.dev/load": load}}}, "default")


async def status(it: Cluster, name: str = "web") -> Raw:
    found: Raw = (await it.client.get(HorizontalPodAutoscaler, name, "default")).raw.get("status", {})
    return found


async def conditions(it: Cluster) -> dict[str, tuple[str, str, str]]:
    return {
        each["type"]: (each["status"], each["reason"], each["message"])
        for each in (await status(it)).get("conditions", ())
    }


async def sizes(it: Cluster, store: Client) -> list[int]:
    """What the Deployment's number was, in order."""
    found: list[int] = []
    for revision in await history(store):
        found += [each["spec"]["replicas"] for each in revision.of(Deployment)]
    return [size for number, size in enumerate(found) if number == 0 or found[number - 1] != size]


async def test_traffic_rises_and_falls(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(loaded("cpu=100m"))
        await it.apply(workload())
        await it.rolled_out()
        await it.client.create(hpa())
        await asyncio.sleep(400)
        assert await sizes(it, store) == [1]
        assert (await conditions(it)) == {
            "AbleToScale": ("True", "ReadyForNewScale", "recommended size matches current size"),
            "ScalingActive": (
                "True",
                "ValidMetricFound",
                "the HPA was able to successfully calculate a replica count from cpu resource utilization "
                "(percentage of request)",
            ),
            "ScalingLimited": ("False", "DesiredWithinRange", "the desired count is within the acceptable range"),
        }
        await set_load(it, "cpu=700m")
        await asyncio.sleep(120)
        # 700m of 200m are 350 % of one; seven at 50 %. Pods that are just ready hold it back for a while.
        assert (await sizes(it, store))[:2] == [1, 4]
        found = await status(it)
        assert (found["currentReplicas"], found["desiredReplicas"]) == (7, 7)
        told = {"averageUtilization": 50, "averageValue": "100m"}
        assert found["currentMetrics"] == [{"type": "Resource", "resource": {"name": "cpu", "current": told}}]
        assert found["lastScaleTime"]
        (first, *_) = sorted(await it.events("SuccessfulRescale"), key=lambda each: str(each.first_timestamp))
        assert first.message == "New size: 4; reason: cpu resource utilization (percentage of request) above target"
        assert first.source.component == "horizontal-pod-autoscaler"
        await set_load(it, "cpu=5")
        await asyncio.sleep(120)
        assert (await sizes(it, store))[-1] == 10
        assert (await conditions(it))["ScalingLimited"][:2] == ("True", "TooManyReplicas")
        await set_load(it, "cpu=150m")
        await asyncio.sleep(240)
        assert (await sizes(it, store))[-1] == 10
        assert (await conditions(it))["AbleToScale"][1] == "ScaleDownStabilized"
        await asyncio.sleep(120)
        assert (await sizes(it, store))[-1] == 2
        messages = {each.message for each in await it.events("SuccessfulRescale")}
        assert "New size: 2; reason: All metrics below target" in messages


async def test_syncs_are_a_period_apart_and_a_steady_one_writes_nothing(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.apply(workload(2, "cpu=100m"))
        await it.rolled_out()
        await it.client.create(hpa())
        await asyncio.sleep(100)
        version = (await it.client.get(HorizontalPodAutoscaler, "web", "default")).metadata.resource_version
        before = it.manager.controller("horizontalpodautoscaler").statistics().reconciles
        await asyncio.sleep(150)
        after = it.manager.controller("horizontalpodautoscaler").statistics().reconciles
        assert after - before == 10
        assert (await it.client.get(HorizontalPodAutoscaler, "web", "default")).metadata.resource_version == version


async def test_the_metric_that_asks_for_most_counts(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.apply(workload(2, "cpu=100m,memory=50Mi,requests-per-second=45"))
        await it.rolled_out()
        await asyncio.sleep(30)
        memory = {"name": "memory", "target": {"type": "AverageValue", "averageValue": "25Mi"}}
        requests = {
            "metric": {"name": "requests-per-second"},
            "target": {"type": "AverageValue", "averageValue": "15"},
        }
        metrics = (CPU, {"type": "Resource", "resource": memory}, {"type": "Pods", "pods": requests})
        await it.client.create(hpa(*metrics, behavior={}))
        await asyncio.sleep(14)
        found = await status(it)
        # cpu 2, memory 4, requests 6.
        assert found["desiredReplicas"] == 6
        assert found["currentMetrics"] == [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "current": {"averageUtilization": 50, "averageValue": "100m"}},
            },
            {"type": "Resource", "resource": {"name": "memory", "current": {"averageValue": "52428800"}}},
            {"type": "Pods", "pods": {"metric": {"name": "requests-per-second"}, "current": {"averageValue": "45"}}},
        ]
        (event,) = await it.events("SuccessfulRescale")
        assert event.message == "New size: 6; reason: pods metric requests-per-second above target"


async def test_metrics_of_objects_containers_and_from_elsewhere(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        made = workload(2, "web/cpu=40m,cpu=40m")
        made.raw["spec"]["template"]["spec"]["containers"][0]["name"] = "web"
        sidecar = {"name": "sidecar", "image": "proxy", "resources": {"requests": {"cpu": "10m"}}}
        made.raw["spec"]["template"]["spec"]["containers"].append(sidecar)
        await it.apply(made)
        gateway = service("gateway")
        gateway.raw["metadata"]["annotations"] = {"listwatch.dev/metrics": "requests-per-second=2k"}
        await it.client.create(gateway)
        await it.client.create(ConfigMap(name="external-metrics", namespace="default", data={"queue": "30"}))
        await it.rolled_out()
        await asyncio.sleep(30)
        goal = {"type": "Utilization", "averageUtilization": 30}
        container = {"name": "cpu", "container": "web", "target": goal}
        about = {"apiVersion": "v1", "kind": "Service", "name": "gateway"}
        by_value = {
            "describedObject": about,
            "metric": {"name": "requests-per-second"},
            "target": {"type": "Value", "value": "1k"},
        }
        queue = {
            "metric": {"name": "queue", "selector": {"matchLabels": {"q": "a"}}},
            "target": {"type": "AverageValue", "averageValue": 10},
        }
        metrics = (
            {"type": "ContainerResource", "containerResource": container},
            {"type": "Object", "object": by_value},
            {"type": "External", "external": queue},
        )
        await it.client.create(hpa(*metrics))
        await asyncio.sleep(14)
        found = await status(it)
        # The container: 40m and half of 40m of 200m are 30 %. The object: twice its value. The queue: 3.
        assert found["desiredReplicas"] == 4
        current = [next(value for key, value in each.items() if key != "type") for each in found["currentMetrics"]]
        assert [each["current"] for each in current] == [
            {"averageUtilization": 30, "averageValue": "60m"},
            {"value": "2k"},
            {"averageValue": "15"},
        ]
        assert (current[0]["container"], current[1]["describedObject"]) == ("web", about)
        (event,) = await it.events("SuccessfulRescale")
        assert event.message == "New size: 4; reason: Service metric requests-per-second above target"
        change = {"data": {"queue": "100"}}
        await it.client.patch(ConfigMap, "external-metrics", change, "default")
        await asyncio.sleep(15)
        labels = "&LabelSelector{MatchLabels:map[string]string{q: a,},MatchExpressions:[]LabelSelectorRequirement{},}"
        reasons = {each.message.partition("reason: ")[2] for each in await it.events("SuccessfulRescale")}
        assert f"external metric queue({labels}) above target" in reasons


async def test_a_metric_that_fails_is_told_and_forbids_going_down(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.apply(workload(4, "cpu=10m"))
        await it.rolled_out()
        await asyncio.sleep(60)
        missing = {"metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "10"}}
        await it.client.create(
            hpa(CPU, {"type": "Pods", "pods": missing}, behavior={"scaleDown": {"stabilizationWindowSeconds": 0}})
        )
        await asyncio.sleep(10)
        text = "did not receive metrics for targeted pods (pods might be unready)"
        assert (await conditions(it))["ScalingActive"] == (
            "False",
            "FailedGetPodsMetric",
            f"the HPA was unable to compute the replica count: {text}",
        )
        assert await sizes(it, store) == [4]
        assert (await it.events("FailedGetPodsMetric"))[0].message == text
        (event,) = await it.events("FailedComputeMetricsReplicas")
        assert event.message == (
            f"invalid metrics (1 invalid out of 2), first error is: failed to get pods metric value: {text}"
        )


async def test_resources_without_requests(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.apply(workload(1, "cpu=10m", requests={"memory": "1Mi"}))
        await it.rolled_out()
        await asyncio.sleep(60)
        await it.client.create(hpa())
        await asyncio.sleep(10)
        kind, reason, message = (await conditions(it))["ScalingActive"]
        (pod,) = await it.pods()
        assert (kind, reason) == ("False", "FailedGetResourceMetric")
        assert message == (
            "the HPA was unable to compute the replica count: failed to get cpu utilization: "
            f"missing request for cpu in container nginx of Pod {pod.name}"
        )
        found = await status(it)
        assert (found["currentReplicas"], found["desiredReplicas"]) == (1, 0)


async def test_bounds_come_before_metrics_and_zero_disables(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.apply(workload(20))
        await it.client.create(hpa(minReplicas=3))
        await asyncio.sleep(10)
        assert (await sizes(it, store))[-1] == 10
        await it.scale(1)
        await asyncio.sleep(16)
        assert (await sizes(it, store))[-1] == 3
        await it.scale(0)
        await asyncio.sleep(60)
        assert (await sizes(it, store))[-1] == 0
        message = "scaling is disabled since the replica count of the target is zero"
        assert (await conditions(it))["ScalingActive"] == ("False", "ScalingDisabled", message)
        reasons = {each.message for each in await it.events("SuccessfulRescale")}
        assert reasons == {
            "New size: 10; reason: Current number of replicas above Spec.MaxReplicas",
            "New size: 3; reason: Current number of replicas below Spec.MinReplicas",
        }


async def test_a_target_of_a_kind_that_is_not_there(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        asked = hpa()
        asked.raw["spec"]["scaleTargetRef"] = {"apiVersion": "example.com/v1", "kind": "Widget", "name": "web"}
        await it.client.create(asked)
        await asyncio.sleep(5)
        assert (await conditions(it))["AbleToScale"] == (
            "False",
            "FailedGetScale",
            "the HPA controller was unable to get the target's current scale: "
            'no matches for kind "Widget" in group "example.com"',
        )


async def test_a_target_that_is_not_there(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(hpa())
        await asyncio.sleep(5)
        status_, reason, message = (await conditions(it))["AbleToScale"]
        assert (status_, reason) == ("False", "FailedGetScale")
        assert message.startswith("the HPA controller was unable to get the target's current scale: ")
        assert await it.events("FailedGetScale")
        # It is tried again.
        await it.apply(workload(2, "cpu=100m"))
        await asyncio.sleep(40)
        assert (await conditions(it))["AbleToScale"][0] == "True"


class Fleet(Resource, group="example.com", version="v1", scale=Scale(spec="spec.size", selector="status.labels")):
    """A user's kind that has a scale."""

    class Spec:
        size: int = 1

    class Status:
        labels: str = ""


async def test_any_kind_with_a_scale_is_a_target(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.apply(crd_for(Fleet))
        made = await it.client.create(Fleet(name="cars", namespace="default", spec={"size": 2}))
        target = {"apiVersion": "example.com/v1", "kind": "Fleet", "name": "cars"}
        await it.client.create(hpa(target=target))
        await asyncio.sleep(5)
        message = "the HPA target's scale is missing a selector"
        assert (await conditions(it))["ScalingActive"] == ("False", "InvalidSelector", message)
        made.raw["status"] = {"labels": "app=nginx", "replicas": 2}
        await it.client.update_status(made)
        await it.apply(workload(2, "cpu=200m"))
        await asyncio.sleep(60)
        assert (await it.client.get(Fleet, "cars", "default")).spec.size == 4


async def test_a_replica_set_is_a_target(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        spec = workload(1, "cpu=400m").raw["spec"]
        del spec["replicas"]
        made = ReplicaSet.from_raw({"metadata": {"name": "rs", "namespace": "default"}, "spec": spec})
        await it.client.create(made)
        await it.client.create(hpa(target={"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs"}))
        await asyncio.sleep(120)
        assert (await it.client.get(ReplicaSet, "rs", "default")).spec.replicas == 10


async def test_after_a_restart_the_policies_time_has_to_pass(store: Client) -> None:
    slow = {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 600}]}}
    at = []
    async with cluster(store, **FAST) as it:
        await it.apply(workload(1, "cpu=400m"))
        await it.rolled_out()
        await asyncio.sleep(60)
        await it.client.create(hpa(behavior=slow))
        await asyncio.sleep(100)
        at.append(await sizes(it, store))
    async with cluster(store, **FAST, seed=2) as it:
        await asyncio.sleep(400)
        at.append(await sizes(it, store))
        await asyncio.sleep(200)
        at.append(await sizes(it, store))
    assert at == [[1, 2], [1, 2], [1, 2, 3]]


class LostReplies(FaultyClient):
    """Answers no write of the autoscaler's to its target, though it takes place."""

    async def txn(
        self, compare: Sequence[Compare] = (), success: Sequence[Op] = (), failure: Sequence[Op] = ()
    ) -> TxnResponse:
        answer = await super().txn(compare, success, failure)
        for each in success:
            if isinstance(each, Put) and b"/deployments/" in each.key:
                notes = msgspec.json.decode(each.value)["metadata"].get("managedFields", ())
                if any(note["manager"] == "horizontal-pod-autoscaler" for note in notes) and not self.lost:
                    self.lost = True
                    raise Unavailable
        return answer

    lost = False


SLOW = {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}


@pytest.mark.parametrize("behavior", [None, SLOW])
async def test_a_scale_whose_answer_is_lost_counts_as_done(store: Client, behavior: Raw | None) -> None:
    client = LostReplies(store, random.Random(0), 0)
    async with cluster(store, client=client, **FAST) as it:
        await it.apply(workload(1, "cpu=2"))
        await it.rolled_out()
        await asyncio.sleep(30)
        await it.client.create(hpa(maxReplicas=100, behavior=behavior))
        await asyncio.sleep(14)
        assert client.lost
        # No step more before the next period, nor than the policy allows.
        assert await sizes(it, store) == ([1, 2] if behavior else [1, 4])
        await asyncio.sleep(30)
        assert (await sizes(it, store))[:3] == ([1, 2] if behavior else [1, 4, 8])


class Measured:
    """Somebody's own metrics."""

    def __init__(self, it: dict[str, int]) -> None:
        self.values = it

    async def resource(
        self, namespace: str, selector: Selector, name: str, container: str = ""
    ) -> Mapping[str, Sample]:
        if not self.values:
            raise MetricsUnavailable("the metrics API is away")
        return {pod: Sample(value, virtual_now()) for pod, value in self.values.items()}

    async def pods(
        self, namespace: str, selector: Selector, metric: str, metric_selector: Selector | None = None
    ) -> Mapping[str, Sample]:
        raise MetricsUnavailable(metric)

    async def object(
        self, namespace: str, api_version: str, kind: str, name: str, metric: str, selector: Selector | None = None
    ) -> int:
        raise MetricsUnavailable(metric)

    async def external(self, namespace: str, metric: str, selector: Selector | None = None) -> Sequence[int]:
        raise MetricsUnavailable(metric)


async def test_metrics_from_a_source_of_ones_own(store: Client) -> None:
    values: dict[str, int] = {}
    async with cluster(store, **FAST, metrics=Measured(values)) as it:
        await it.apply(workload(1))
        await it.rolled_out()
        await it.client.create(hpa())
        await asyncio.sleep(10)
        assert (await conditions(it))["ScalingActive"][2].endswith(
            "failed to get cpu utilization: unable to get metrics for resource cpu: the metrics API is away"
        )
        (pod,) = await it.pods()
        values[pod.name] = 200
        await asyncio.sleep(16)
        assert (await sizes(it, store))[-1] == 2


async def test_what_a_pod_uses_is_drawn_and_the_same_again(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.apply(workload(3, "cpu=100m..200m,memory=1Ki"))
        await it.client.create(loaded("cpu=30m"))
        await it.rolled_out()
        usage = PodUsage(it.manager, Backends(it.manager))
        pods = it.manager.informer(Pod).cache.list("default")
        now = virtual_now()
        used = [usage.of(each, now) for each in pods]
        assert used == [usage.of(each, now + timedelta(seconds=1)) for each in pods]
        assert all(110 <= each["cpu"] <= 210 for each in used)
        assert len({each["cpu"] for each in used}) > 1
        assert {each["memory"] for each in used} == {1_024_000}
        assert used != [usage.of(each, now + timedelta(seconds=60)) for each in pods]
        # What comes in is shared by fewer.
        await it.scale(1)
        await it.rolled_out()
        await set_load(it, "cpu=3")
        await asyncio.sleep(1)
        (pod,) = it.manager.informer(Pod).cache.list("default")
        assert usage.of(pod, now)["cpu"] >= 3_000


async def test_defaults_and_what_it_may_say(store: Client) -> None:
    client = ObjectClient(store)
    plain = {"metadata": {"name": "a", "namespace": "default"}, "spec": {"scaleTargetRef": TARGET, "maxReplicas": 3}}
    made = await client.create(HorizontalPodAutoscaler.from_raw(plain))
    assert made.raw["spec"]["minReplicas"] == 1
    target = {"type": "Utilization", "averageUtilization": 80}
    assert made.raw["spec"]["metrics"] == [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    given = await client.create(hpa(behavior={"scaleDown": {"stabilizationWindowSeconds": 60}}, name="b"))
    assert given.raw["spec"]["behavior"] == {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Max",
            "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15},
            ],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": 60,
            "selectPolicy": "Max",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
        },
    }
    external = {"metric": {"name": "queue"}, "target": {"type": "Value", "value": "1"}}
    await client.create(hpa({"type": "External", "external": external}, name="c", minReplicas=0))
    both = {"type": "Utilization", "averageUtilization": 1, "averageValue": "1"}
    none = {"name": "cpu", "target": {"type": "Value", "value": "1"}}
    for metrics, spec, problem in (
        ((), {"maxReplicas": 0}, "spec.maxReplicas: must be greater than 0"),
        ((), {"minReplicas": 11}, "spec.maxReplicas: must be greater than or equal to `minReplicas`"),
        ((), {"minReplicas": 0}, "spec.metrics: must specify at least one Object or External metric"),
        ((), {"target": {"kind": "Deployment"}}, "spec.scaleTargetRef.name: required"),
        (({"type": "Pods"},), {}, r"spec.metrics\[0\].pods: must populate"),
        (({"type": "Resource", "resource": none},), {}, "must set exactly one of averageUtilization, averageValue"),
        (({"type": "Resource", "resource": {"name": "cpu", "target": both}},), {}, "must set exactly one"),
        ((), {"behavior": {"scaleUp": {"stabilizationWindowSeconds": 3601}}}, "expected 0 to 3600"),
        (
            (),
            {"behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 1}]}}},
            "must be greater than zero",
        ),
        (
            (),
            {"behavior": {"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 1801}]}}},
            "expected 1 to 1800",
        ),
    ):
        with pytest.raises(Invalid, match=problem):
            await client.create(hpa(*metrics, name="d", **spec))
