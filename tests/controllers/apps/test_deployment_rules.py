"""More rules of Deployments and ReplicaSets: what is told of what cannot be done, and what is no rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from controllers.apps.deployment.revisions import find_new
from controllers.apps.types import Deployment, ReplicaSet
from controllers.core.types import Pod
from informer import AdmissionRequest, Forbidden, patch
from kvstore.api import Client
from tests.controllers.cluster import Cluster, cluster, history, nginx

pytestmark = pytest.mark.virtual_time


def progressing(deployment: Deployment) -> tuple[str, str] | None:
    found = next((each for each in deployment.status.conditions if each.type == "Progressing"), None)
    return None if found is None else (found.status, found.reason)


def has_told(it: Cluster, reason: str) -> Callable[[], Awaitable[bool]]:
    async def told() -> bool:
        return bool(await it.events(reason))

    return told


async def test_one_that_selects_all_pods_only_says_so(store: Client) -> None:
    async with cluster(store) as it:
        raw = nginx().raw
        # No API server takes it: it can only have been written otherwise.
        raw["spec"]["selector"] = {}
        raw["metadata"] |= {"uid": "u", "generation": 3}
        await store.put(Deployment.TYPE.key("default", "nginx"), patch.encode(raw))
        await it.until(has_told(it, "SelectingAll"))
        (event,) = await it.events("SelectingAll")
        assert event.message == "This deployment is selecting all pods. A non-empty selector is required."
        assert (await it.deployment()).raw["status"] == {"observedGeneration": 3}
        assert await it.replica_sets() == []


async def test_a_replica_set_that_cannot_be_made_is_told_of_and_tried_again(store: Client) -> None:
    async with cluster(store) as it:
        closed = True

        @it.manager.admission.validate(ReplicaSet, operations=("create",))
        def refuse(request: AdmissionRequest[ReplicaSet]) -> None:
            if closed:
                raise Forbidden("exceeded quota")

        await it.apply(nginx())
        await it.until(has_told(it, "ReplicaSetCreateError"))

        async def failed() -> bool:
            return progressing(await it.deployment()) == ("False", "ReplicaSetCreateError")

        await it.until(failed)
        (event,) = await it.events("ReplicaSetCreateError")
        assert event.type == "Warning"
        assert event.message.startswith('Failed to create new replica set "nginx-')
        assert event.message.endswith("exceeded quota")
        closed = False
        await it.rolled_out()
        assert progressing(await it.deployment()) == ("True", "NewReplicaSetAvailable")


async def test_pods_that_cannot_be_deleted_are_told_of_and_tried_again(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.rolled_out()
        closed = True

        @it.manager.admission.validate(Pod, operations=("delete",))
        def refuse(request: AdmissionRequest[Pod]) -> None:
            if closed:
                raise Forbidden("they are needed")

        await it.scale(1)
        await it.until(has_told(it, "FailedDelete"))
        assert "Error deleting: " in (await it.events("FailedDelete"))[0].message

        async def failed() -> bool:
            found = [each for rs in await it.replica_sets() for each in rs.status.conditions]
            return [(each.type, each.reason) for each in found] == [("ReplicaFailure", "FailedDelete")]

        await it.until(failed)
        closed = False
        await it.rolled_out()
        assert len(await it.pods()) == 1
        assert [each for rs in await it.replica_sets() for each in rs.status.conditions] == []


async def test_min_ready_seconds_go_to_the_replica_set_without_a_rollout(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.rolled_out()
        before = {pod.name for pod in await it.pods()}
        await it.client.patch(Deployment, "nginx", {"spec": {"minReadySeconds": 7}}, "default")

        async def passed_on() -> bool:
            return [rs.spec.min_ready_seconds for rs in await it.replica_sets()] == [7]

        await it.until(passed_on)
        await it.rolled_out()
        (rs,) = await it.replica_sets()
        assert rs.metadata.annotations["deployment.kubernetes.io/revision"] == "1"
        assert {pod.name for pod in await it.pods()} == before


async def test_without_a_deadline_nothing_is_said_of_progress(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx(progressDeadlineSeconds=2**31 - 1))
        await it.rolled_out()
        await it.set_image("nginx:1.16.1")
        await it.rolled_out()
    seen = [each for revision in await history(store) for each in revision.of(Deployment)]
    kinds = {told["type"] for each in seen for told in each.get("status", {}).get("conditions", ())}
    assert kinds == {"Available"}


async def test_every_step_is_an_event(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx(replicas=2))
        await it.rolled_out()
        await it.set_image("nginx:1.16.1")
        await it.rolled_out()
        await asyncio.sleep(2)
        old, new = (rs.name for rs in await it.replica_sets())
        assert {each.message for each in await it.events("ScalingReplicaSet")} == {
            f"Scaled up replica set {old} from 0 to 2",
            f"Scaled up replica set {new} from 0 to 1",
            f"Scaled down replica set {old} from 2 to 1",
            f"Scaled up replica set {new} from 1 to 2",
            f"Scaled down replica set {old} from 1 to 0",
        }


async def test_one_that_is_being_deleted_rolls_nothing_out_but_tells_its_status(store: Client) -> None:
    async with cluster(store) as it:
        made = nginx()
        made.raw["metadata"]["finalizers"] = ["example.com/keep"]
        await it.client.create(made)
        await it.rolled_out()
        await it.client.delete(Deployment, "nginx", "default")
        await it.set_image("nginx:1.16.1")

        async def seen() -> bool:
            deployment = await it.deployment()
            return deployment.status.observed_generation == deployment.metadata.generation

        await it.until(seen)
        await asyncio.sleep(30)
        assert len(await it.replica_sets()) == 1
        assert [pod.spec.containers[0].image for pod in await it.pods()] == ["nginx:1.14.2"] * 3


def test_of_two_replica_sets_with_the_template_the_older_is_the_new_one() -> None:
    deployment = nginx()

    def made(name: str, created: str, **labels: str) -> ReplicaSet:
        raw: dict[str, Any] = {
            "metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
            "spec": patch.copy(deployment.raw["spec"]),
        }
        raw["spec"]["template"]["metadata"]["labels"] |= labels
        return ReplicaSet.from_raw(raw)

    hashed = {"pod-template-hash": "abc"}
    younger = made("a", "2026-01-01T00:00:02Z", **hashed)
    older = made("b", "2026-01-01T00:00:01Z", **hashed)
    other = made("c", "2026-01-01T00:00:00Z", tier="front")
    assert find_new(deployment, [younger, other, older]) is older
    assert find_new(deployment, [other]) is None
