"""The Deployment controller on a whole cluster: Kubernetes' rules one by one, on virtual time."""

from __future__ import annotations

import asyncio

import pytest

from controllers.apps.deployment import replica_set_of, revision_of, undo
from controllers.apps.types import Deployment, ReplicaSet
from controllers.core.types import Condition, Pod
from informer.errors import AlreadyExists
from kvstore.api import Client
from tests.controllers.cluster import Cluster, cluster, history, nginx

pytestmark = pytest.mark.virtual_time

HASH = "pod-template-hash"


def condition(deployment: Deployment, kind: str) -> Condition:
    found = [each for each in deployment.status.conditions if each.type == kind]
    (only,) = found
    return only


async def sizes(it: Cluster) -> list[int]:
    return [rs.spec.replicas for rs in await it.replica_sets()]


async def scalings(store: Client) -> list[tuple[str, int]]:
    """Every size that a ReplicaSet was given, in order, as (revision annotation, size)."""
    seen: dict[str, int] = {}
    steps = []
    for revision in await history(store):
        for rs in revision.of(ReplicaSet):
            uid, size = rs["metadata"]["uid"], rs["spec"]["replicas"]
            if seen.get(uid) != size:
                seen[uid] = size
                steps.append((rs["metadata"]["annotations"]["deployment.kubernetes.io/revision"], size))
    return steps


async def test_the_manifest_of_the_documentation_gives_the_children_it_gives_in_kubernetes(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx("nginx-deployment"))
        await it.rolled_out("nginx-deployment")
        deployment = await it.deployment("nginx-deployment")
        (rs,) = await it.replica_sets()
        pods = await it.pods()

        hashed = rs.metadata.labels[HASH]
        assert rs.name == f"nginx-deployment-{hashed}"
        assert rs.metadata.labels == {"app": "nginx-deployment", HASH: hashed}
        assert rs.spec.selector.match_labels == {"app": "nginx-deployment", HASH: hashed}
        assert rs.raw["spec"]["template"]["metadata"]["labels"] == rs.metadata.labels
        assert rs.metadata.annotations == {
            "deployment.kubernetes.io/desired-replicas": "3",
            "deployment.kubernetes.io/max-replicas": "4",
            "deployment.kubernetes.io/revision": "1",
        }
        (owner,) = rs.metadata.owner_references
        assert (owner.kind, owner.name, owner.uid) == ("Deployment", deployment.name, deployment.metadata.uid)
        assert owner.controller
        assert owner.block_owner_deletion
        assert deployment.metadata.annotations["deployment.kubernetes.io/revision"] == "1"

        assert len(pods) == 3
        for pod in pods:
            assert pod.name.startswith(f"{rs.name}-")
            assert len(pod.name) == len(rs.name) + 6
            assert pod.metadata.generate_name == f"{rs.name}-"
            assert pod.metadata.labels == rs.metadata.labels
            (owner,) = pod.metadata.owner_references
            assert (owner.kind, owner.uid, owner.controller) == ("ReplicaSet", rs.metadata.uid, True)
            assert pod.spec.node_name in it.workloads.nodes.names
            assert pod.status.phase == "Running"
            assert pod.ready

        assert condition(deployment, "Available").reason == "MinimumReplicasAvailable"
        progressing = condition(deployment, "Progressing")
        assert (progressing.status, progressing.reason) == ("True", "NewReplicaSetAvailable")
        assert progressing.message == f'ReplicaSet "{rs.name}" has successfully progressed.'
        assert deployment.status.ready_replicas == 3
        assert "unavailableReplicas" not in deployment.raw["status"]
        (event,) = await it.events("ScalingReplicaSet")
        assert event.message == f"Scaled up replica set {rs.name} from 0 to 3"
        assert event.involved_object.uid == deployment.metadata.uid


async def test_conditions_go_through_the_states_of_a_rollout(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.rolled_out()
    reasons: list[str] = []
    for revision in await history(store):
        for deployment in revision.of(Deployment):
            for each in deployment.get("status", {}).get("conditions", []):
                if each["type"] == "Progressing" and each["reason"] not in reasons[-1:]:
                    reasons.append(each["reason"])
    assert reasons == ["NewReplicaSetCreated", "ReplicaSetUpdated", "NewReplicaSetAvailable"]


async def test_a_rolling_update_takes_kubernetes_steps(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.rolled_out()
        before = len(await scalings(store))
        await it.set_image("nginx:1.16.1")
        await it.rolled_out()
        assert await sizes(it) == [0, 3]
        deployment = await it.deployment()
        assert deployment.metadata.annotations["deployment.kubernetes.io/revision"] == "2"
        assert all(pod.spec.containers[0].image == "nginx:1.16.1" for pod in await it.pods())
    # 25 % of three: one more and none less. So one comes, one goes, until all have changed.
    assert (await scalings(store))[before:] == [("2", 1), ("1", 2), ("2", 2), ("1", 1), ("2", 3), ("1", 0)]


async def test_max_unavailable_lets_old_pods_go_first(store: Client) -> None:
    async with cluster(store) as it:
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 2}}
        await it.apply(nginx(replicas=4, strategy=rolling))
        await it.rolled_out()
        before = len(await scalings(store))
        await it.set_image("nginx:1.16.1")
        await it.rolled_out()
    steps = (await scalings(store))[before:]
    assert steps[:3] == [("2", 0), ("1", 2), ("2", 2)]
    total = {"1": 4, "2": 0}
    for revision, size in steps:
        total[revision] = size
        assert sum(total.values()) <= 4


async def test_recreate_waits_until_the_last_old_pod_is_gone(store: Client) -> None:
    async with cluster(store, pod_delete_delay=(2.0, 20.0)) as it:
        await it.apply(nginx(strategy={"type": "Recreate"}))
        await it.rolled_out()
        await it.set_image("nginx:1.16.1")
        await it.rolled_out()
    images_together = {
        frozenset(pod["spec"]["containers"][0]["image"] for pod in revision.of(Pod))
        for revision in await history(store)
    }
    assert images_together == {frozenset(), frozenset({"nginx:1.14.2"}), frozenset({"nginx:1.16.1"})}


async def test_scaling_makes_no_revision(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.rolled_out()
        await it.scale(5)
        await it.rolled_out()
        (rs,) = await it.replica_sets()
        assert rs.spec.replicas == 5
        assert revision_of(rs) == 1
        assert rs.metadata.annotations["deployment.kubernetes.io/desired-replicas"] == "5"
        assert rs.metadata.annotations["deployment.kubernetes.io/max-replicas"] == "7"
        await it.scale(0)
        await it.rolled_out()
        assert await it.pods() == []


async def test_scaling_in_the_middle_of_a_rollout_is_shared_out(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx(replicas=10, strategy={"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}))
        await it.rolled_out()
        # The new pods never start, so the rollout stops where Kubernetes' documentation shows it: at eight and five.
        await it.set_image("nginx:does-not-exist")

        async def stuck() -> bool:
            return await sizes(it) == [8, 5]

        await it.until(stuck)
        await it.scale(15)

        async def shared() -> bool:
            return await sizes(it) == [11, 7]

        await it.until(shared)
        for rs in await it.replica_sets():
            assert rs.metadata.annotations["deployment.kubernetes.io/max-replicas"] == "18"


async def test_an_old_note_of_the_scale_does_not_hold_up_a_rollout(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.rolled_out()
        (rs,) = await it.replica_sets()
        note = {"deployment.kubernetes.io/desired-replicas": "7"}
        await it.client.patch(ReplicaSet, rs.name, {"metadata": {"annotations": note}}, "default")
        await it.set_image("nginx:1.16.1")
        await it.rolled_out()
        assert await sizes(it) == [0, 3]


async def test_a_paused_deployment_rolls_nothing_out_but_scales(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.rolled_out()
        await it.client.patch(Deployment, "nginx", {"spec": {"paused": True}}, "default")
        await it.set_image("nginx:1.16.1")

        async def paused() -> bool:
            deployment = await it.deployment()
            seen = deployment.status.observed_generation == deployment.metadata.generation
            return seen and condition(deployment, "Progressing").reason == "DeploymentPaused"

        await it.until(paused)
        assert condition(await it.deployment(), "Progressing").status == "Unknown"
        await it.scale(4)

        async def scaled() -> bool:
            return len(await it.pods()) == 4

        await it.until(scaled)
        await asyncio.sleep(1200)  # twice the deadline: it does not run
        assert condition(await it.deployment(), "Progressing").reason == "DeploymentPaused"
        assert {pod.spec.containers[0].image for pod in await it.pods()} == {"nginx:1.14.2"}

        await it.client.patch(Deployment, "nginx", {"spec": {"paused": None}}, "default")
        await it.rolled_out()
        assert {pod.spec.containers[0].image for pod in await it.pods()} == {"nginx:1.16.1"}
        assert await sizes(it) == [0, 4]


async def test_a_rollout_that_does_not_move_exceeds_its_deadline_and_can_be_undone(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx(progressDeadlineSeconds=60))
        await it.rolled_out()
        began = asyncio.get_running_loop().time()
        await it.set_image("nginx:does-not-exist")

        async def failed() -> bool:
            return condition(await it.deployment(), "Progressing").reason == "ProgressDeadlineExceeded"

        await it.until(failed)
        assert 60 <= asyncio.get_running_loop().time() - began <= 65
        deployment = await it.deployment()
        assert condition(deployment, "Progressing").status == "False"
        # The old pods still serve: a timeout only marks.
        assert condition(deployment, "Available").status == "True"
        assert deployment.status.available_replicas == 3
        waiting = [pod for pod in await it.pods() if not pod.ready]
        assert waiting
        assert all(pod.status.container_statuses[0].state["waiting"]["reason"] == "ImagePullBackOff" for pod in waiting)

        def back(deployment: Deployment) -> None:
            assert undo(deployment, old)

        old = replica_set_of(await it.replica_sets())
        await it.change(Deployment, "nginx", back)
        await it.rolled_out()
        assert await sizes(it) == [0, 3]
        deployment = await it.deployment()
        assert condition(deployment, "Progressing").reason == "NewReplicaSetAvailable"
        # The old ReplicaSet is the newest revision now, and remembers which it was.
        newest = (await it.replica_sets())[-1]
        assert newest.metadata.uid == old.metadata.uid
        assert newest.metadata.annotations["deployment.kubernetes.io/revision-history"] == "1"
        assert deployment.metadata.annotations["deployment.kubernetes.io/revision"] == "3"


async def test_the_rollback_annotation_is_obeyed_and_removed(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx(replicas=1))
        await it.rolled_out()
        for image in ("nginx:1.16.1", "nginx:1.17.0"):
            await it.set_image(image)
            await it.rolled_out()
        for revision, image, reason in [
            ("0", "nginx:1.16.1", "DeploymentRollback"),
            ("1", "nginx:1.14.2", "DeploymentRollback"),
            ("77", "nginx:1.14.2", "DeploymentRollbackRevisionNotFound"),
            ("5", "nginx:1.14.2", "DeploymentRollbackTemplateUnchanged"),
        ]:
            annotation = {"deprecated.deployment.rollback.to": revision}
            await it.client.patch(Deployment, "nginx", {"metadata": {"annotations": annotation}}, "default")

            async def obeyed() -> bool:
                return "deprecated.deployment.rollback.to" not in (await it.deployment()).metadata.annotations

            await it.until(obeyed)
            await it.rolled_out()
            assert {pod.spec.containers[0].image for pod in await it.pods()} == {image}
            await asyncio.sleep(1)  # events are written beside the work
            assert await it.events(reason), reason


async def test_history_is_kept_up_to_its_limit(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx(revisionHistoryLimit=2))
        await it.rolled_out()
        for number in range(5):
            await it.set_image(f"nginx:1.{number}")
            await it.rolled_out()

        async def trimmed() -> bool:
            return [revision_of(rs) for rs in await it.replica_sets()] == [4, 5, 6]

        await it.until(trimmed)


async def test_annotations_go_to_the_new_replica_set_but_for_those_of_one_object_alone(store: Client) -> None:
    async with cluster(store) as it:
        deployment = nginx()
        deployment.metadata.annotations = {"kubernetes.io/change-cause": "first", "team": "web"}
        await it.apply(deployment)
        await it.rolled_out()
        (rs,) = await it.replica_sets()
        assert rs.metadata.annotations["kubernetes.io/change-cause"] == "first"
        assert rs.metadata.annotations["team"] == "web"
        assert "kubectl.kubernetes.io/last-applied-configuration" not in rs.metadata.annotations


async def test_another_object_with_the_name_of_the_new_replica_set_leads_to_another_hash(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.rolled_out()
        (rs,) = await it.replica_sets()
        name = rs.name
        await it.client.delete(Deployment, "nginx", "default")

        async def gone() -> bool:
            return not await it.replica_sets() and not await it.pods()

        await it.until(gone)
        foreign = ReplicaSet.from_raw(
            {
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "replicas": 0,
                    "selector": {"matchLabels": {"app": "foreign"}},
                    "template": {
                        "metadata": {"labels": {"app": "foreign"}},
                        "spec": {"containers": [{"name": "a", "image": "a:1"}]},
                    },
                },
            }
        )
        await it.client.create(foreign)
        await it.apply(nginx())
        await it.rolled_out()
        deployment = await it.deployment()
        assert deployment.status.collision_count == 1
        names = {rs.name for rs in await it.replica_sets()}
        assert len(names) == 2
        assert name in names


async def test_a_replica_set_that_matches_is_adopted_and_one_that_does_not_any_more_is_released(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.rolled_out()
        (rs,) = await it.replica_sets()
        pods = {pod.metadata.uid for pod in await it.pods()}
        # Orphaned by a deletion that leaves dependents behind ...
        await it.client.delete(Deployment, "nginx", "default", propagation="orphan")

        async def orphaned() -> bool:
            gone = not await it.exists(Deployment, "nginx")
            return gone and not (await it.client.get(ReplicaSet, rs.name, "default")).metadata.owner_references

        await it.until(orphaned)
        # ... and adopted by the next Deployment of the same selector and template, with its pods.
        await it.apply(nginx())
        await it.rolled_out()
        (adopted,) = await it.replica_sets()
        assert adopted.metadata.uid == rs.metadata.uid
        assert adopted.metadata.controller is not None
        assert adopted.metadata.controller.uid == (await it.deployment()).metadata.uid
        assert {pod.metadata.uid for pod in await it.pods()} == pods

        # Without its label it is no longer of the Deployment, which makes another.
        await it.client.patch(ReplicaSet, rs.name, {"metadata": {"labels": {"app": "other"}}}, "default")

        async def released() -> bool:
            found = await it.client.get(ReplicaSet, rs.name, "default")
            return found.metadata.controller is None

        await it.until(released)


async def test_a_quarrel_about_a_name_is_an_error_of_its_creator_only(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        with pytest.raises(AlreadyExists):
            await it.client.create(nginx())


async def test_nothing_is_written_once_all_is_as_wanted(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.rolled_out()
        await asyncio.sleep(30)
        before = [rs.metadata.resource_version for rs in await it.replica_sets()]
        version = (await it.deployment()).metadata.resource_version
        await asyncio.sleep(3600)
        assert [rs.metadata.resource_version for rs in await it.replica_sets()] == before
        assert (await it.deployment()).metadata.resource_version == version
