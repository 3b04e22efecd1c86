"""LimitRanges, and what else is filled into a pod that is created."""

from __future__ import annotations

import random
from typing import Any

import pytest

from controllers.admission import StoreLookups, add_builtin_admission
from controllers.core.limits import LimitRange
from controllers.core.scheduling.types import PriorityClass
from controllers.core.types import PersistentVolumeClaim, Pod
from informer.admission import Admission
from informer.client import ObjectClient
from informer.errors import Forbidden, Invalid
from kvstore.api import Client
from tests.controllers.cluster import virtual_now

pytestmark = pytest.mark.virtual_time

Raw = dict[str, Any]


def admitting(store: Client, **options: Any) -> ObjectClient:
    admission = Admission()
    add_builtin_admission(admission, StoreLookups(ObjectClient(store)), **options)
    return ObjectClient(store, now=virtual_now, rng=random.Random(1), admission=admission)


def limits(*items: Raw, name: str = "limits") -> LimitRange:
    return LimitRange.from_raw({"metadata": {"name": name, "namespace": "default"}, "spec": {"limits": list(items)}})


def pod(*resources: Raw, **spec: Any) -> Pod:
    containers = [
        {"name": f"c{number}", "image": "nginx:1", "resources": each} for number, each in enumerate(resources)
    ]
    return Pod.from_raw(
        {"metadata": {"name": "web", "namespace": "default"}, "spec": {"containers": containers, **spec}}
    )


def resources(made: Pod) -> list[Raw]:
    return [each["resources"] for each in made.raw["spec"]["containers"]]


def test_the_default_follows_the_maximum_and_the_default_request_the_default() -> None:
    made = limits({"type": "Container", "max": {"cpu": "2", "memory": "1Gi"}, "default": {"cpu": "1"}})
    made.default()
    (item,) = made.raw["spec"]["limits"]
    assert item["default"] == {"cpu": "1", "memory": "1Gi"}
    assert item["defaultRequest"] == {"cpu": "1", "memory": "1Gi"}
    least = limits({"type": "Container", "min": {"cpu": "100m"}})
    least.default()
    assert least.raw["spec"]["limits"][0] == {
        "type": "Container",
        "min": {"cpu": "100m"},
        "defaultRequest": {"cpu": "100m"},
    }


async def test_a_container_that_asks_for_nothing_gets_the_defaults(store: Client) -> None:
    client = admitting(store)
    item = {"type": "Container", "default": {"cpu": "500m", "memory": "256Mi"}, "defaultRequest": {"cpu": "100m"}}
    await client.create(limits(item))
    made = await client.create(pod({}, {"requests": {"cpu": "200m"}, "limits": {"memory": "1Gi"}}))
    assert resources(made) == [
        {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "500m", "memory": "256Mi"}},
        {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "500m", "memory": "1Gi"}},
    ]
    assert made.metadata.annotations["kubernetes.io/limit-ranger"] == (
        "LimitRanger plugin set: cpu, memory request for container c0; cpu, memory limit for container c0; "
        "cpu limit for container c1"
    )


@pytest.mark.parametrize(
    ("item", "given", "told"),
    [
        (
            {"type": "Container", "max": {"memory": "1Gi"}},
            [{"limits": {"memory": "1536Mi"}}],
            "maximum memory usage per Container is 1Gi, but limit is 1536Mi",
        ),
        (
            {"type": "Container", "min": {"cpu": "100m"}},
            [{"requests": {"cpu": "50m"}}],
            "minimum cpu usage per Container is 100m, but request is 50m",
        ),
        (
            {"type": "Pod", "max": {"cpu": "1"}},
            [{"limits": {"cpu": "600m"}}, {"limits": {"cpu": "600m"}}],
            "maximum cpu usage per Pod is 1, but limit is 1200m",
        ),
        (
            {"type": "Pod", "max": {"cpu": "1"}},
            [{}],
            "maximum cpu usage per Pod is 1.  No limit is specified",
        ),
        (
            {"type": "Pod", "min": {"cpu": "1"}},
            [{}],
            "minimum cpu usage per Pod is 1.  No request is specified",
        ),
        (
            {"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}},
            [{"requests": {"cpu": "100m"}, "limits": {"cpu": "300m"}}],
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        ),
        (
            {"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}},
            [{}],
            "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0.",
        ),
        (
            {"type": "Container", "max": {"cpu": "1", "memory": "1Gi"}},
            [{"limits": {"cpu": "2", "memory": "2Gi"}}],
            "[maximum cpu usage per Container is 1, but limit is 2, "
            "maximum memory usage per Container is 1Gi, but limit is 2Gi]",
        ),
    ],
)
async def test_what_is_too_much_or_too_little_is_refused(store: Client, item: Raw, given: list[Raw], told: str) -> None:
    client = admitting(store)
    await client.create(limits(item))
    with pytest.raises(Forbidden) as error:
        await client.create(pod(*given))
    assert str(error.value) == f'pods "web" is forbidden: {told}'


async def test_claims_have_bounds_too_also_when_they_grow(store: Client) -> None:
    client = admitting(store)
    await client.create(limits({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "5Gi"}}))

    def claim(size: str) -> PersistentVolumeClaim:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
        return PersistentVolumeClaim.from_raw({"metadata": {"name": "data", "namespace": "default"}, "spec": spec})

    with pytest.raises(Forbidden, match="minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"):
        await client.create(claim("1Mi"))
    await client.create(claim("2Gi"))
    made = await client.patch(PersistentVolumeClaim, "data", {"status": {"phase": "Bound"}}, subresource="status")
    made.raw["spec"]["resources"]["requests"]["storage"] = "6Gi"
    with pytest.raises(Forbidden, match="maximum storage usage per PersistentVolumeClaim is 5Gi, but request is 6Gi"):
        await client.update(made)


async def test_another_namespace_has_limits_of_its_own(store: Client) -> None:
    client = admitting(store)
    away = limits({"type": "Pod", "max": {"cpu": "1"}})
    away.raw["metadata"]["namespace"] = "kube-system"
    await client.create(away)
    assert resources(await client.create(pod({}))) == [{}]


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}, "spec.limits[0].min[cpu]"),
        ({"type": "Container", "default": {"cpu": "2"}, "max": {"cpu": "1"}}, "spec.limits[0].defaultRequest[cpu]"),
        ({"type": "Pod", "default": {"cpu": "2"}}, "spec.limits[0].default"),
        ({"type": "Container", "maxLimitRequestRatio": {"cpu": "500m"}}, "spec.limits[0].maxLimitRequestRatio[cpu]"),
        ({"type": "Container", "max": {"cpu": "-1"}}, "spec.limits[0].max[cpu]"),
        ({"type": "PersistentVolumeClaim", "max": {"cpu": "1"}}, "spec.limits[0].limits"),
    ],
)
async def test_limits_that_make_no_sense_are_refused(store: Client, item: Raw, path: str) -> None:
    with pytest.raises(Invalid) as error:
        await admitting(store).create(limits(item))
    assert error.value.path == path


async def test_each_type_is_there_once(store: Client) -> None:
    with pytest.raises(Invalid, match=r"spec\.limits\[1\]\.type"):
        await admitting(store).create(limits({"type": "Pod", "max": {"cpu": 1}}, {"type": "Pod", "max": {"cpu": 2}}))


# ---- what else pods are given ---------------------------------------------------------------------------------------


async def test_a_pod_stays_on_a_lost_node_for_a_while_unless_it_says_otherwise(store: Client) -> None:
    made = await admitting(store).create(pod({}))
    assert made.raw["spec"]["tolerations"] == [
        {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        for taint in ("not-ready", "unreachable")
    ]
    own = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    other = pod({}, tolerations=[own])
    other.raw["metadata"]["name"] = "other"
    found = (await admitting(store, toleration_seconds=3.5).create(other)).raw["spec"]["tolerations"]
    assert [(each["key"].rpartition("/")[2], each["tolerationSeconds"]) for each in found] == [
        ("unreachable", 5),
        ("not-ready", 4),
    ]
    everything = pod({}, tolerations=[{"operator": "Exists"}])
    everything.raw["metadata"]["name"] = "everything"
    assert (await admitting(store).create(everything)).raw["spec"]["tolerations"] == [{"operator": "Exists"}]


async def test_a_pod_has_the_priority_of_its_class(store: Client) -> None:
    client = admitting(store)
    made = await client.create(pod({}))
    assert (made.spec.priority, made.spec.priority_class_name) == (0, "")
    await client.delete(Pod, "web")
    with pytest.raises(Forbidden) as absent:
        await client.create(pod({}, priorityClassName="high"))
    assert str(absent.value) == 'pods "web" is forbidden: no PriorityClass with name high was found'
    await client.create(PriorityClass(name="high", value=1000))
    await client.create(PriorityClass(name="usual", value=10, global_default=True))
    made = await client.create(pod({}, priorityClassName="high"))
    assert made.spec.priority == 1000
    await client.delete(Pod, "web")
    with pytest.raises(Forbidden, match=r"the integer value of priority \(5\) must not be provided in pod spec"):
        await client.create(pod({}, priorityClassName="high", priority=5))
    made = await client.create(pod({}))
    assert (made.spec.priority, made.spec.priority_class_name) == (10, "usual")


async def test_one_class_at_the_most_is_the_default(store: Client) -> None:
    client = admitting(store)
    await client.create(PriorityClass(name="one", value=1, global_default=True))
    with pytest.raises(Forbidden, match="PriorityClass one is already marked as default"):
        await client.create(PriorityClass(name="two", value=2, global_default=True))
    (one,) = (await client.list(PriorityClass)).items
    one.description = "usual"
    await client.update(one)
