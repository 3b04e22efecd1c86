"""Priority classes: what they may be, and what a pod gets by them."""

from __future__ import annotations

import pytest

from controllers.core.scheduling.priorities import Priority, resolve_priority
from controllers.core.scheduling.types import PriorityClass
from controllers.core.types import Pod
from informer.client import ObjectClient
from informer.errors import Invalid
from kvstore.api import Client


def made(name: str, value: int, **more: object) -> PriorityClass:
    return PriorityClass(name=name, value=value, **more)


def test_a_name_becomes_a_priority() -> None:
    classes = [made("high", 1000), made("polite", 2000, preemption_policy="Never")]
    assert resolve_priority("high", classes) == Priority("high", 1000, "PreemptLowerPriority")
    assert resolve_priority("polite", classes) == Priority("polite", 2000, "Never")
    assert resolve_priority("unknown", classes) is None


def test_without_a_name_the_lowest_global_default_counts() -> None:
    assert resolve_priority("", [made("high", 1000)]) == Priority("", 0)
    classes = [made("b", 20, global_default=True), made("a", 10, global_default=True), made("c", 5)]
    assert resolve_priority("", classes) == Priority("a", 10)


@pytest.mark.parametrize(
    ("name", "value"), [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)]
)
def test_the_systems_classes_are_known_without_objects(name: str, value: int) -> None:
    assert resolve_priority(name, []) == Priority(name, value)


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("system-mine", 1, "metadata.name"),
        ("system-node-critical", 1, "value"),
        ("high", 1_000_000_001, "value"),
        ("low", -(2**31) - 1, "value"),
    ],
)
async def test_what_is_the_systems_own_is_refused(store: Client, name: str, value: int, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        await ObjectClient(store).create(made(name, value))
    assert refused.value.path == field


async def test_a_class_keeps_its_value(store: Client) -> None:
    client = ObjectClient(store)
    await client.create(made("high", 1000))
    await client.patch(PriorityClass, "high", {"description": "for what pays"})
    for change in ({"value": 2000}, {"preemptionPolicy": "Never"}):
        with pytest.raises(Invalid):
            await client.patch(PriorityClass, "high", change)


async def test_a_pod_keeps_what_it_says_about_its_place(store: Client) -> None:
    client = ObjectClient(store)
    constraint = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "x": 1}
    spec = {
        "containers": [{"name": "a", "image": "a:1"}],
        "affinity": {"nodeAffinity": {}, "other": [1]},
        "topologySpreadConstraints": [constraint],
        "preemptionPolicy": "Never",
        "schedulingGates": [{"name": "example.com/gate", "y": 2}],
        "overhead": {"cpu": "1"},
    }
    found = await client.create(Pod.from_raw({"metadata": {"name": "a", "namespace": "default"}, "spec": spec}))
    read = await client.get(Pod, found.name, "default")
    assert {key: read.raw["spec"][key] for key in spec if key != "containers"} == {
        key: value for key, value in spec.items() if key != "containers"
    }
    assert read.spec.topology_spread_constraints[0].max_skew == 1
    assert read.spec.preemption_policy == "Never"
