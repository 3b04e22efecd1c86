"""The built-in kinds: Kubernetes' defaults and rules."""

from __future__ import annotations

import copy
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controllers.apps.types import Deployment, ReplicaSet
from controllers.core.defaults import pull_policy
from controllers.core.types import ConfigMap, Container, Event, Namespace, Node, Pod, Secret, Service
from informer import SCHEME, Invalid, ObjectClient, Resource
from kvstore.client import EmbeddedClient
from kvstore.node import Node as Store
from kvstore.node import NodeOptions

TOLERATION = {"key": "a", "operator": "Exists", "effect": "NoExecute"}


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[ObjectClient]:
    async with Store.open(tmp_path / "data", NodeOptions(fsync=False)) as store:
        client = EmbeddedClient(store)
        yield ObjectClient(client, rng=random.Random(1))
        await client.close()


def pod(**spec: Any) -> Pod:
    return Pod(name="p", spec={"containers": [{"name": "c", "image": "nginx:1.25"}], **spec})


def deployment(**spec: Any) -> Deployment:
    return Deployment.from_raw(
        {
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "nginx", "image": "nginx", "ports": [{"containerPort": 80}]}]},
                },
                **spec,
            },
        }
    )


def admitted(obj: Resource) -> dict[str, Any]:
    obj.check()
    obj.default()
    obj.validate()
    return obj.raw


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("po", "Pod"),
        ("pods", "Pod"),
        ("no", "Node"),
        ("ns", "Namespace"),
        ("svc", "Service"),
        ("cm", "ConfigMap"),
        ("secret", "Secret"),
        ("sa", "ServiceAccount"),
        ("pvc", "PersistentVolumeClaim"),
        ("ev", "Event"),
        ("events", "Event"),
        ("deploy", "Deployment"),
        ("deployments.apps", "Deployment"),
        ("rs", "ReplicaSet"),
        ("leases", "Lease"),
    ],
)
def test_kubectls_names(name: str, kind: str) -> None:
    assert SCHEME.lookup(name).TYPE.kind == kind


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.25", "IfNotPresent"),
        ("registry:5000/nginx", "Always"),
        ("registry:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:abc", "IfNotPresent"),
    ],
)
def test_pull_policy(image: str, policy: str) -> None:
    assert pull_policy(image) == policy


def test_pod_defaults() -> None:
    made = pod(
        containers=[
            {
                "name": "c",
                "image": "nginx:1.25",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5},
                "volumeMounts": [{"name": "conf", "mountPath": "/conf"}],
            }
        ],
        volumes=[{"name": "conf", "configMap": {"name": "x"}}, {"name": "tmp"}],
    )
    raw = admitted(made)
    assert raw["spec"] == {
        "containers": [
            {
                "name": "c",
                "image": "nginx:1.25",
                "imagePullPolicy": "IfNotPresent",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {
                    "limits": {"cpu": "1", "memory": "1Gi"},
                    "requests": {"cpu": "100m", "memory": "1Gi"},
                },
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
                "readinessProbe": {
                    "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "periodSeconds": 5,
                    "timeoutSeconds": 1,
                    "successThreshold": 1,
                    "failureThreshold": 3,
                },
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "volumeMounts": [{"name": "conf", "mountPath": "/conf"}],
            }
        ],
        "volumes": [{"name": "conf", "configMap": {"name": "x", "defaultMode": 420}}, {"name": "tmp", "emptyDir": {}}],
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30,
        "enableServiceLinks": True,
        "securityContext": {},
    }
    assert made.status.phase == "Pending"


def test_deployment_defaults() -> None:
    spec = admitted(deployment())["spec"]
    assert spec["replicas"] == 1
    assert spec["revisionHistoryLimit"] == 10
    assert spec["progressDeadlineSeconds"] == 600
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}
    container = spec["template"]["spec"]["containers"][0]
    assert (container["imagePullPolicy"], container["ports"][0]["protocol"]) == ("Always", "TCP")
    assert "enableServiceLinks" not in spec["template"]["spec"]
    assert admitted(deployment(strategy={"type": "Recreate"}))["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize(
    "obj",
    [
        pod(volumes=[{"name": "v"}]),
        deployment(),
        Service(name="s", spec={"ports": [{"port": 80}], "selector": {"app": "web"}}),
        Namespace(name="n"),
        Secret(name="s", string_data={"k": "v"}),
    ],
    ids=lambda obj: str(obj.TYPE),
)
def test_defaults_are_stable(obj: Resource) -> None:
    once = copy.deepcopy(admitted(obj))
    assert admitted(obj) == once


def test_a_template_becomes_an_equal_replica_set_template() -> None:
    template = admitted(deployment())["spec"]["template"]
    made = ReplicaSet(name="rs", spec={"selector": {"matchLabels": {"app": "web"}}, "template": template})
    assert admitted(made)["spec"]["template"] == template


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"selector": None}, "spec.selector: required"),
        ({"selector": {}}, "spec.selector: must not be empty: it would select every pod of the namespace"),
        (
            {"selector": {"matchLabels": {"app": "db"}}},
            "spec.template.metadata.labels: the selector app=db does not select them",
        ),
        (
            {"selector": {"matchExpressions": [{"key": "app", "operator": "In"}]}},
            "spec.selector.matchExpressions[0].values: required",
        ),
        ({"template": None}, "spec.template.metadata.labels: the selector app=web does not select them"),
        ({"replicas": -1}, "spec.replicas: must not be negative, got -1"),
        ({"replicas": 2**31}, "spec.replicas: must not be more than 2147483647, got 2147483648"),
        (
            {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}},
            "spec.strategy.rollingUpdate.maxUnavailable: may not be 0 when maxSurge is 0",
        ),
        (
            {"strategy": {"rollingUpdate": {"maxSurge": "lots"}}},
            'spec.strategy.rollingUpdate.maxSurge: expected a number or a percentage such as "25%", got "lots"',
        ),
        (
            {"strategy": {"type": "Recreate", "rollingUpdate": {}}},
            "spec.strategy.rollingUpdate: may not be set when the type is Recreate",
        ),
        (
            {"progressDeadlineSeconds": 5, "minReadySeconds": 5},
            "spec.progressDeadlineSeconds: must be greater than minReadySeconds",
        ),
    ],
)
async def test_deployments_that_are_refused(objects: ObjectClient, change: dict[str, Any], problem: str) -> None:
    obj = deployment()
    obj.raw["spec"] |= change
    with pytest.raises(Invalid) as caught:
        await objects.create(obj)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({}, "spec.containers: required"),
        ({"containers": [{"image": "x"}]}, "spec.containers[0].name: required"),
        ({"containers": [{"name": "c"}]}, "spec.containers[0].image: required"),
        ({"containers": [{"name": "c", "image": "x"}] * 2}, 'spec.containers[1].name: "c" is there already'),
        (
            {"containers": [{"name": "c", "image": "x", "ports": [{"containerPort": "http"}]}]},
            'spec.containers[0].ports[0].containerPort: expected int, got "http"',
        ),
        (
            {"containers": [{"name": "c", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]},
            'spec.containers[0].volumeMounts[0].name: there is no volume "v"',
        ),
        (
            {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "lots"}}}]},
            'spec.containers[0].resources.requests[cpu]: not a quantity: "lots"',
        ),
        (
            {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"memory": "-1Gi"}}}]},
            "spec.containers[0].resources.limits[memory]: must not be negative, got -1Gi",
        ),
        (
            {
                "containers": [
                    {"name": "c", "image": "i", "resources": {"limits": {"cpu": 1}, "requests": {"cpu": "1100m"}}}
                ]
            },
            "spec.containers[0].resources.requests[cpu]: must not be more than the limit of 1, got 1100m",
        ),
    ],
)
async def test_pods_that_are_refused(objects: ObjectClient, spec: dict[str, Any], problem: str) -> None:
    obj = pod()
    obj.raw["spec"] = spec
    with pytest.raises(Invalid) as caught:
        await objects.create(obj)
    assert str(caught.value) == problem


async def test_a_selector_is_immutable_and_annotations_count(objects: ObjectClient) -> None:
    made = await objects.create(deployment())
    made.metadata.annotations["a"] = "b"
    made = await objects.update(made)
    assert made.metadata.generation == 2
    made.spec.selector.match_labels["more"] = "x"
    made.spec.template.metadata.labels["more"] = "x"
    with pytest.raises(Invalid, match=r"^spec.selector: is immutable$"):
        await objects.update(made)


async def test_applying_a_short_manifest_again_changes_nothing(objects: ObjectClient) -> None:
    assert (await objects.apply(deployment())).outcome == "created"
    assert (await objects.apply(deployment())).outcome == "unchanged"
    scaled = await objects.apply(deployment(replicas=3))
    assert (scaled.outcome, scaled.object.spec.replicas, scaled.object.metadata.generation) == ("configured", 3, 2)
    dropped = await objects.apply(deployment())
    assert (dropped.outcome, dropped.object.spec.replicas) == ("configured", 1)


async def test_a_pod_on_a_node_has_a_grace_period(objects: ObjectClient) -> None:
    await objects.create(pod())
    assert (await objects.delete(Pod, "p")).object is None

    bound = await objects.create(pod(nodeName="n1", terminationGracePeriodSeconds=7))
    going = (await objects.delete(Pod, "p")).object
    assert going is not None
    assert going.metadata.deletion_grace_period_seconds == 7
    assert (await objects.delete(Pod, "p", uid=bound.metadata.uid, grace_seconds=0)).object is None

    done = await objects.create(pod(nodeName="n1"))
    done.status.phase = "Succeeded"
    await objects.update_status(done)
    assert (await objects.delete(Pod, "p")).object is None


@pytest.mark.parametrize("cls", [Pod, Node])
@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        ([], False),
        ([{"type": "Ready", "status": "True"}], True),
        ([{"type": "Ready", "status": "False"}], False),
        ([{"type": "Initialized", "status": "True"}], False),
    ],
)
def test_pods_and_nodes_tell_whether_they_are_ready(cls: type[Pod | Node], conditions: list[Any], ready: bool) -> None:
    made = cls(name="n", status={"conditions": conditions})
    assert made.ready is ready
    condition = made.condition("Ready")
    assert (condition is not None and condition.status == "True") is ready


def test_services_secrets_and_namespaces() -> None:
    service = admitted(Service(name="s", spec={"ports": [{"port": 80}]}))
    assert service["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert service["spec"]["type"] == "ClusterIP"
    with pytest.raises(Invalid, match=r"^spec.ports\[0\].name: required$"):
        admitted(Service(name="s", spec={"ports": [{"port": 80}, {"port": 81}]}))
    secret = admitted(Secret(name="s", data={"a": "eA=="}, string_data={"b": "y"}))
    assert (secret["data"], "stringData" in secret) == ({"a": "eA==", "b": "eQ=="}, False)
    assert admitted(Namespace(name="n"))["metadata"]["labels"] == {"kubernetes.io/metadata.name": "n"}


def test_camel_case_of_acronyms() -> None:
    made = pod()
    made.status.pod_ip = "10.0.0.1"
    made.status.host_ip = "10.0.0.2"
    assert made.raw["status"] == {"podIP": "10.0.0.1", "hostIP": "10.0.0.2"}
    assert Container(name="c", image="x").raw == {"name": "c", "image": "x"}
    assert Event(name="e", involved_object={"kind": "Pod"}).raw["involvedObject"] == {"kind": "Pod"}
    assert not ConfigMap.TYPE.status


@pytest.mark.parametrize(
    ("made", "change", "problem"),
    [
        (ConfigMap(name="x", data={"a": "b"}, immutable=True), {"data": {"a": "c"}}, "data: field is immutable when"),
        (ConfigMap(name="x", immutable=True), {"immutable": False}, "immutable: field is immutable when"),
        (ConfigMap(name="x", data={"a": "b"}, immutable=True), {"metadata": {"labels": {"a": "b"}}}, ""),
        (Secret(name="x", data={"a": "eA=="}, immutable=True), {"stringData": {"a": "y"}}, "data: field is immutable"),
        (Secret(name="x"), {"type": "other"}, "type: field is immutable"),
        (
            Service(name="x", spec={"ports": [{"port": 80}], "clusterIP": "10.96.0.9"}),
            {"spec": {"clusterIP": "10.96.0.8"}},
            "spec.clusterIPs[0]: may not change once set",
        ),
        (
            Service(name="x", spec={"ports": [{"port": 80}], "clusterIP": "10.96.0.9"}),
            {"spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": ""}},
            "",
        ),
    ],
)
async def test_what_may_change(objects: ObjectClient, made: Resource, change: dict[str, Any], problem: str) -> None:
    await objects.create(made)
    if not problem:
        await objects.patch(type(made), "x", change)
        return
    with pytest.raises(Invalid) as caught:
        await objects.patch(type(made), "x", change)
    assert str(caught.value).startswith(problem)


async def test_a_service_that_does_not_name_its_address_keeps_it(objects: ObjectClient) -> None:
    await objects.create(Service(name="x", spec={"ports": [{"port": 80}], "clusterIP": "10.96.0.9"}))
    changed = await objects.patch(Service, "x", {"spec": {"clusterIP": None, "clusterIPs": None}})
    assert (changed.spec.cluster_ip, changed.spec.cluster_ips) == ("10.96.0.9", ["10.96.0.9"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"containers": [{"name": "c", "image": "nginx:2"}]}, ""),
        ({"nodeName": "n1"}, ""),
        ({"activeDeadlineSeconds": 5}, ""),
        ({"tolerations": [TOLERATION | {"tolerationSeconds": 5}, {"operator": "Exists"}]}, ""),
        ({"tolerations": []}, "spec.tolerations: existing toleration can not be modified"),
        ({"restartPolicy": "Never"}, "spec: pod updates may not change fields other than"),
        ({"containers": [{"name": "c", "image": "nginx:2", "command": ["x"]}]}, "spec: pod updates may not"),
        ({"nodeSelector": {"a": "b"}}, "spec: pod updates may not change fields other than"),
        ({"hostname": "h"}, "spec: pod updates may not change fields other than"),
    ],
)
async def test_what_may_change_in_a_pod(objects: ObjectClient, change: dict[str, Any], problem: str) -> None:
    made = await objects.create(pod(tolerations=[TOLERATION]))
    made.raw["spec"].update(change)
    if not problem:
        made = await objects.update(made)
        return
    with pytest.raises(Invalid) as caught:
        await objects.update(made)
    assert str(caught.value).startswith(problem)


async def test_a_pod_gets_its_node_once_and_a_gated_one_may_say_where(objects: ObjectClient) -> None:
    made = await objects.create(pod(schedulingGates=[{"name": "g"}]))
    made.raw["spec"]["nodeSelector"] = {"disk": "ssd"}
    made = await objects.update(made)
    del made.raw["spec"]["schedulingGates"]
    made = await objects.update(made)
    made.spec.node_name = "n1"
    made = await objects.update(made)
    made.spec.node_name = "n2"
    with pytest.raises(Invalid, match=r"^spec: pod updates may not change"):
        await objects.update(made)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"type": "ExternalName"}, "spec.externalName: required"),
        ({"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}, "spec.ports[1].name: duplicate value: a"),
        ({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]}, "spec.ports[1]: duplicate value: 1/TCP"),
    ],
)
def test_services_that_are_refused(spec: dict[str, Any], problem: str) -> None:
    with pytest.raises(Invalid) as caught:
        admitted(Service(name="s", spec=spec))
    assert str(caught.value) == problem


def test_a_headless_service_has_no_addresses_and_says_so() -> None:
    spec = admitted(Service(name="s", spec={"clusterIP": "None", "selector": {"a": "b"}}))["spec"]
    assert (spec["clusterIPs"], spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["None"], ["IPv4"], "SingleStack")
