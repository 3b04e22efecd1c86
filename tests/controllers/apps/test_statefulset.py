"""The StatefulSet controller: names, order, claims, revisions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllers.apps.history import RevisionNotFound, find_revision, present_revision, revisions_of, undo
from controllers.apps.statefulset.types import StatefulSet
from controllers.apps.types import ControllerRevision
from controllers.core.types import PersistentVolumeClaim, Pod
from controllers.owners import controller_of
from informer.client import ObjectClient
from informer.errors import Invalid, NotFound
from kvstore.api import Client
from tests.controllers.apps.statefulsets import (
    change,
    claim,
    claims,
    images,
    names,
    pods,
    revisions,
    set_image,
    settled,
    status,
    told,
    web,
)
from tests.controllers.cluster import Cluster, cluster, history
from tests.simulation.invariants import is_ready

pytestmark = pytest.mark.virtual_time

FAST: dict[str, Any] = {"pod_start_delay": 0.1, "pod_ready_delay": 0.5, "pod_delete_delay": 0.5}
BROKEN = "nginx:does-not-exist"


# ---- the kind --------------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    sts = web()
    sts.default()
    spec = sts.raw["spec"]
    assert spec["podManagementPolicy"] == "OrderedReady"
    assert spec["revisionHistoryLimit"] == 10
    assert spec["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert spec["volumeClaimTemplates"][0]["spec"]["volumeMode"] == "Filesystem"
    assert spec["template"]["spec"]["restartPolicy"] == "Always"
    assert "sts" in StatefulSet.TYPE.short_names


STRATEGY = "spec.updateStrategy.rollingUpdate"


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"replicas": -1}, "spec.replicas"),
        ({"minReadySeconds": -1}, "spec.minReadySeconds"),
        ({"revisionHistoryLimit": -1}, "spec.revisionHistoryLimit"),
        ({"ordinals": {"start": -1}}, "spec.ordinals.start"),
        ({"selector": {}}, "spec.selector"),
        ({"selector": {"matchLabels": {"app": "other"}}}, "spec.template.metadata.labels"),
        ({"podManagementPolicy": "Sideways"}, "spec.podManagementPolicy"),
        ({"updateStrategy": {"type": "Recreate"}}, "spec.updateStrategy.type"),
        ({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {}}}, STRATEGY),
        ({"updateStrategy": {"rollingUpdate": {"partition": -1}}}, f"{STRATEGY}.partition"),
        ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}, f"{STRATEGY}.maxUnavailable"),
        ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "0%"}}}, f"{STRATEGY}.maxUnavailable"),
        ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "101%"}}}, f"{STRATEGY}.maxUnavailable"),
        ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "much"}}}, f"{STRATEGY}.maxUnavailable"),
        ({"volumeClaimTemplates": [claim("a"), claim("a")]}, "spec.volumeClaimTemplates[1].metadata.name"),
        ({"volumeClaimTemplates": [claim("A")]}, "spec.volumeClaimTemplates[0].metadata.name"),
        (
            {"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Keep"}},
            "spec.persistentVolumeClaimRetentionPolicy.whenScaled",
        ),
    ],
)
async def test_what_a_statefulset_may_say(store: Client, spec: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as error:
        await ObjectClient(store).create(web(**spec))
    assert error.value.path == path


def test_what_its_template_may_say() -> None:
    for change_pod, path in (
        ({"restartPolicy": "Never"}, "restartPolicy"),
        ({"activeDeadlineSeconds": 5}, "activeDeadlineSeconds"),
    ):
        sts = web()
        sts.raw["spec"]["template"]["spec"].update(change_pod)
        sts.default()
        with pytest.raises(Invalid) as error:
            sts.validate()
        assert error.value.path == f"spec.template.spec.{path}"
    unmounted = web()
    unmounted.raw["spec"]["volumeClaimTemplates"] = []
    unmounted.default()
    with pytest.raises(Invalid, match="there is no volume"):
        unmounted.validate()


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ({"replicas": 5}, True),
        ({"ordinals": {"start": 3}}, True),
        ({"updateStrategy": {"type": "OnDelete"}}, True),
        ({"minReadySeconds": 5}, True),
        ({"revisionHistoryLimit": 5}, True),
        ({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"}}, True),
        ({"template": web(image="other").raw["spec"]["template"]}, True),
        ({"serviceName": "other"}, False),
        ({"podManagementPolicy": "Parallel"}, False),
        ({"selector": {"matchLabels": {"app": "other"}}}, False),
        ({"volumeClaimTemplates": []}, False),
    ],
)
def test_what_may_change(spec: dict[str, Any], allowed: bool) -> None:
    old, new = web(), web()
    new.raw["spec"].update(spec)
    for each in (old, new):
        each.default()
    if allowed:
        new.validate_update(old)
        return
    with pytest.raises(Invalid, match="updates to statefulset spec for fields other than 'replicas', 'ordinals'"):
        new.validate_update(old)


# ---- order and identity ----------------------------------------------------------------------------------------------


async def test_pods_are_made_in_order_and_each_waits_for_those_before_it(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web())
        await settled(it)
        known: set[str] = set()
        order = []
        for revision in await history(store):
            found = {pod["metadata"]["name"]: pod for pod in revision.of(Pod)}
            for name in sorted(found.keys() - known):
                order.append(name)
                assert all(is_ready(found[before]) for before in known)
            known |= found.keys()
        assert order == ["web-0", "web-1", "web-2"]


async def test_a_pod_has_an_identity(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(2))
        _, pod = await settled(it)
        (revision,) = await revisions(it)
        assert pod.metadata.labels == {
            "app": "web",
            "controller-revision-hash": revision.name,
            "statefulset.kubernetes.io/pod-name": "web-1",
            "apps.kubernetes.io/pod-index": "1",
        }
        assert (pod.raw["spec"]["hostname"], pod.raw["spec"]["subdomain"]) == ("web-1", "nginx")
        owner = controller_of(pod)
        assert owner is not None
        assert (owner.kind, owner.name, owner.block_owner_deletion) == ("StatefulSet", "web", True)
        await it.client.delete(Pod, pod.name, "default")
        again = (await settled(it))[1]
        assert again.metadata.uid != pod.metadata.uid
        assert again.metadata.labels == pod.metadata.labels


async def test_claims_are_made_before_their_pod_and_outlive_it(store: Client) -> None:
    templates = [claim("www"), claim("log", labels={"tier": "logs"}, annotations={"note": "kept"})]
    async with cluster(store, **FAST) as it:
        await it.client.create(web(2, volumeClaimTemplates=templates))
        first = await settled(it)
        found = await claims(it)
        assert [each.name for each in found] == ["log-web-0", "log-web-1", "www-web-0", "www-web-1"]
        assert found[0].metadata.labels == {"app": "web", "tier": "logs"}
        assert found[0].metadata.annotations["note"] == "kept"
        assert found[2].metadata.labels == {"app": "web"}
        assert all(each.metadata.owner_references == [] for each in found)
        assert first[1].raw["spec"]["volumes"] == [
            {"name": "www", "persistentVolumeClaim": {"claimName": "www-web-1"}},
            {"name": "log", "persistentVolumeClaim": {"claimName": "log-web-1"}},
        ]
        await it.client.delete(Pod, "web-1", "default")
        await settled(it)
        await change(it, {"replicas": 1})
        await settled(it)
        assert [each.metadata.uid for each in await claims(it)] == [each.metadata.uid for each in found]
        made: set[str] = set()
        for revision in await history(store):
            made |= {each["metadata"]["name"] for each in revision.of(PersistentVolumeClaim)}
            for pod in revision.of(Pod):
                assert {volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"]["volumes"]} <= made


async def test_it_waits_at_a_pod_that_does_not_serve(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(image=BROKEN))
        await asyncio.sleep(60)
        assert await names(it) == ["web-0"]
        assert (await status(it))["replicas"] == 1


async def test_scaling_down_takes_the_highest_one_at_a_time(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(4))
        await settled(it)
        await it.client.update_scale(StatefulSet, "web", 1, "default")
        await settled(it)
        deleting = []
        for revision in await history(store):
            now = [pod["metadata"]["name"] for pod in revision.of(Pod) if "deletionTimestamp" in pod["metadata"]]
            assert len(now) <= 1
            deleting += [name for name in now if name not in deleting]
        assert deleting == ["web-3", "web-2", "web-1"]


async def test_parallel_makes_and_deletes_all_at_once(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(4, image=BROKEN, podManagementPolicy="Parallel"))
        await it.until(lambda: _has(it, ["web-0", "web-1", "web-2", "web-3"]))
        await change(it, {"replicas": 1})
        await it.until(lambda: _has(it, ["web-0"]))


async def _has(it: Cluster, expected: list[str]) -> bool:
    return await names(it) == expected


async def test_ordinals_may_begin_elsewhere(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(2, ordinals={"start": 5}))
        assert [pod.name for pod in await settled(it)] == ["web-5", "web-6"]
        await change(it, {"ordinals": {"start": 4}})
        assert [pod.name for pod in await settled(it)] == ["web-4", "web-5"]


async def test_a_pod_counts_once_it_has_been_ready_for_long_enough(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(2, minReadySeconds=20))
        await asyncio.sleep(15)
        found = await status(it)
        assert (found["readyReplicas"], found["availableReplicas"], await names(it)) == (1, 0, ["web-0"])
        await asyncio.sleep(15)
        assert await names(it) == ["web-0", "web-1"]
        await settled(it)


async def test_pods_that_have_ended_are_made_anew(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(2))
        before = await settled(it)
        for pod, phase in zip(before, ("Failed", "Succeeded"), strict=True):
            await it.client.patch(Pod, pod.name, {"status": {"phase": phase}}, "default", subresource="status")
        await it.until(lambda: _replaced(it, before))
        assert [pod.name for pod in await settled(it)] == ["web-0", "web-1"]


async def _replaced(it: Cluster, before: list[Pod]) -> bool:
    old = {pod.metadata.uid for pod in before}
    return not any(pod.metadata.uid in old for pod in await it.pods())


# ---- updates ---------------------------------------------------------------------------------------------------------


async def test_a_rolling_update_goes_from_the_highest_down(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web())
        await settled(it)
        before = await status(it)
        assert before["currentRevision"] == before["updateRevision"]
        await set_image(it, "nginx:1.25")
        await settled(it)
        assert await images(it) == ["1.25"] * 3
        after = await status(it)
        assert after["currentRevision"] == after["updateRevision"] != before["currentRevision"]
        assert (after["currentReplicas"], after["updatedReplicas"], after["collisionCount"]) == (3, 3, 0)
        deleted = []
        for revision in await history(store):
            found = {pod["metadata"]["name"]: pod for pod in revision.of(Pod)}
            for name, pod in found.items():
                if "deletionTimestamp" in pod["metadata"] and name not in deleted:
                    deleted.append(name)
                    others = [each for other, each in found.items() if other != name]
                    assert len(others) == 2
                    assert all(map(is_ready, others))
        assert deleted == ["web-2", "web-1", "web-0"]


async def test_an_update_stops_at_the_partition(store: Client) -> None:
    rolling: dict[str, Any] = {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}
    async with cluster(store, **FAST) as it:
        await it.client.create(web(**rolling))
        await settled(it)
        await set_image(it, "nginx:1.25")
        await settled(it)
        assert await images(it) == ["1.24", "1.24", "1.25"]
        found = await status(it)
        assert (found["currentReplicas"], found["updatedReplicas"]) == (2, 1)
        assert found["currentRevision"] != found["updateRevision"]
        # What is missing below it comes back as it was.
        await it.client.delete(Pod, "web-0", "default")
        await it.client.delete(Pod, "web-2", "default")
        await settled(it)
        assert await images(it) == ["1.24", "1.24", "1.25"]
        rolling["updateStrategy"]["rollingUpdate"] = {"partition": 0}
        await change(it, rolling)
        await settled(it)
        assert await images(it) == ["1.25"] * 3


async def test_on_delete_leaves_the_time_to_others(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(2, updateStrategy={"type": "OnDelete"}))
        await settled(it)
        await set_image(it, "nginx:1.25")
        await asyncio.sleep(60)
        assert await images(it) == ["1.24", "1.24"]
        await it.client.delete(Pod, "web-0", "default")
        await it.until(lambda: _images(it, ["1.25", "1.24"]))


async def _images(it: Cluster, expected: list[str]) -> bool:
    return await images(it) == expected


async def test_max_unavailable_takes_several_at_once(store: Client) -> None:
    rolling: dict[str, Any] = {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}}
    async with cluster(store, **FAST) as it:
        await it.client.create(web(4, podManagementPolicy="Parallel", **rolling))
        await settled(it)
        await set_image(it, "nginx:1.25")
        await settled(it)
        assert await images(it) == ["1.25"] * 4
        most = max(
            sum("deletionTimestamp" in pod["metadata"] for pod in revision.of(Pod)) for revision in await history(store)
        )
        assert most == 2


async def test_a_pod_of_a_broken_revision_keeps_the_update_until_it_is_deleted(store: Client) -> None:
    """As in Kubernetes: going back to the template that worked is not enough."""
    async with cluster(store, **FAST) as it:
        await it.client.create(web())
        await settled(it)
        await set_image(it, BROKEN)
        await asyncio.sleep(60)
        await set_image(it, "nginx:1.24")
        await asyncio.sleep(60)
        assert await images(it) == ["1.24", "1.24", "does-not-exist"]
        await it.client.delete(Pod, "web-2", "default")
        await settled(it)
        assert await images(it) == ["1.24"] * 3


# ---- what others do to its pods --------------------------------------------------------------------------------------


async def test_labels_and_volumes_that_were_taken_away_come_back(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(1))
        (pod,) = await settled(it)

        def damage(obj: Pod) -> None:
            del obj.metadata.labels["statefulset.kubernetes.io/pod-name"]
            obj.raw["spec"]["volumes"] = [{"name": "mine", "emptyDir": {}}, {"name": "www", "emptyDir": {}}]

        await it.change(Pod, "web-0", damage)

        async def mended() -> bool:
            labels = (await it.client.get(Pod, "web-0", "default")).metadata.labels
            return labels.get("statefulset.kubernetes.io/pod-name") == "web-0"

        await it.until(mended)
        (now,) = await pods(it)
        assert now.metadata.uid == pod.metadata.uid
        assert [volume["name"] for volume in now.raw["spec"]["volumes"]] == ["www", "mine"]
        assert await told(it, "SuccessfulUpdate") == ["update Pod web-0 in StatefulSet web successful"]


async def test_pods_are_adopted_and_released_by_selector_and_name(store: Client) -> None:
    def orphan(name: str) -> Pod:
        spec = {"containers": [{"name": "nginx", "image": "nginx:1.24"}]}
        metadata = {"name": name, "namespace": "default", "labels": {"app": "web"}}
        return Pod.from_raw({"metadata": metadata, "spec": spec})

    async with cluster(store, **FAST) as it:
        mine, other = await it.client.create(orphan("web-0")), await it.client.create(orphan("other-0"))
        # It is of no revision, so a rolling update would replace it.
        await it.client.create(web(1, updateStrategy={"type": "OnDelete"}))

        async def owner(name: str) -> str | None:
            found = controller_of(await it.client.get(Pod, name, "default"))
            return None if found is None else found.name

        async def adopted() -> bool:
            return await it.exists(Pod, "web-0") and await owner("web-0") == "web"

        await it.until(adopted)
        await asyncio.sleep(10)
        assert await owner("other-0") is None
        assert {each.metadata.uid for each in await it.pods()} >= {mine.metadata.uid, other.metadata.uid}

        def rename(pod: Pod) -> None:
            pod.metadata.labels["app"] = "elsewhere"

        await it.change(Pod, "web-0", rename)

        async def released() -> bool:
            return await owner("web-0") is None

        await it.until(released)
        await it.client.delete(Pod, "web-0", "default")
        await it.until(adopted)
        assert (await it.client.get(Pod, "web-0", "default")).metadata.uid != mine.metadata.uid


async def test_a_pod_of_somebody_else_with_the_name_is_in_the_way(store: Client) -> None:
    spec = {"containers": [{"name": "nginx", "image": "nginx:1.24"}]}
    async with cluster(store, **FAST) as it:
        await it.client.create(Pod.from_raw({"metadata": {"name": "web-0", "namespace": "default"}, "spec": spec}))
        await it.client.create(web(1))
        await asyncio.sleep(30)
        assert (await status(it))["replicas"] == 0
        await it.client.delete(Pod, "web-0", "default")
        await settled(it)


async def test_a_pod_that_waits_gets_a_claim_that_was_deleted(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        made = web(1)
        # On no node: a pod that is on one keeps its claim from going.
        made.raw["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "none"}
        await it.client.create(made)
        await it.until(lambda: _has(it, ["web-0"]))
        (before,) = await claims(it)
        await it.client.delete(PersistentVolumeClaim, before.name, "default")

        async def remade() -> bool:
            return [each.metadata.uid != before.metadata.uid for each in await claims(it)] == [True]

        await it.until(remade)


# ---- whom claims go with ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deleted", ["Retain", "Delete"])
@pytest.mark.parametrize("scaled", ["Retain", "Delete"])
async def test_claims_go_with_whom_the_policy_says(store: Client, scaled: str, deleted: str) -> None:
    policy = {"whenScaled": scaled, "whenDeleted": deleted}
    async with cluster(store, **FAST) as it:
        await it.client.create(web(2, persistentVolumeClaimRetentionPolicy=policy))
        await settled(it)
        owners = [[ref.kind for ref in each.metadata.owner_references] for each in await claims(it)]
        assert owners == [["StatefulSet"] if deleted == "Delete" else []] * 2
        await change(it, {"replicas": 1})
        await settled(it)
        await asyncio.sleep(10)
        kept = ["www-web-0"] if scaled == "Delete" else ["www-web-0", "www-web-1"]
        assert [each.name for each in await claims(it)] == kept
        await it.client.delete(StatefulSet, "web", "default")
        await asyncio.sleep(10)
        assert await it.pods() == []
        assert [each.name for each in await claims(it)] == ([] if deleted == "Delete" else kept)


async def test_a_policy_that_changes_holds_for_the_claims_that_are_there(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(2))
        await settled(it)
        await change(it, {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}})

        async def owned() -> bool:
            return all(len(each.metadata.owner_references) == 1 for each in await claims(it))

        await it.until(owned)
        assert len(await told(it, "SuccessfulUpdate")) == 2


async def test_a_claim_that_goes_with_an_earlier_pod_is_not_used_again(store: Client) -> None:
    policy = {"whenScaled": "Delete", "whenDeleted": "Retain"}
    async with cluster(store, **FAST) as it:
        await it.client.create(web(2, persistentVolumeClaimRetentionPolicy=policy))
        await settled(it)
        before = (await claims(it))[1]
        await change(it, {"replicas": 1})

        async def going() -> bool:
            found = {pod.name: pod for pod in await it.pods()}
            return "web-1" in found and found["web-1"].deleting

        await it.until(going)
        await change(it, {"replicas": 2})
        await settled(it)
        after = (await claims(it))[1]
        assert after.name == before.name
        assert after.metadata.uid != before.metadata.uid
        assert after.metadata.owner_references == []


async def test_a_claim_that_somebody_else_controls_is_left_to_them(store: Client) -> None:
    owner = {"apiVersion": "example.com/v1", "kind": "Nobody", "name": "b", "uid": "u", "controller": True}
    async with cluster(store, **FAST) as it:
        await it.client.create(web(1, persistentVolumeClaimRetentionPolicy={"whenDeleted": "Delete"}))
        await settled(it)

        def take(obj: PersistentVolumeClaim) -> None:
            obj.raw["metadata"]["ownerReferences"] = [owner, *obj.raw["metadata"]["ownerReferences"][:0]]

        await it.change(PersistentVolumeClaim, "www-web-0", take)
        await it.client.delete(Pod, "web-0", "default")
        await asyncio.sleep(10)
        await settled(it)
        (found,) = await claims(it)
        assert [ref.kind for ref in found.metadata.owner_references] == ["Nobody"]


# ---- revisions -------------------------------------------------------------------------------------------------------


async def test_revisions_are_kept_up_to_the_limit_and_taken_up_again(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(1, revisionHistoryLimit=1))
        await settled(it)
        for tag in ("1.25", "1.26", "1.27"):
            await set_image(it, f"nginx:{tag}")
            await settled(it)
        await asyncio.sleep(10)
        found = await revisions(it)
        assert [each.revision for each in found] == [3, 4]
        assert all(controller_of(each) is not None for each in found)
        labels = found[0].metadata.labels
        assert labels == {"app": "web", "controller.kubernetes.io/hash": found[0].name.removeprefix("web-")}
        # Back to the one before: it becomes the highest.
        sts = await it.client.get(StatefulSet, "web", "default")
        assert undo(sts, find_revision(found))
        await it.client.update(sts)
        await settled(it)
        assert await images(it) == ["1.26"]
        again = await revisions(it)
        assert [(each.name, each.revision) for each in again] == [(found[1].name, 4), (found[0].name, 5)]


async def test_revisions_can_be_found_and_gone_back_to(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(1))
        await settled(it)
        sts = await it.client.get(StatefulSet, "web", "default")
        with pytest.raises(RevisionNotFound, match="no last revision to roll back to"):
            find_revision(revisions_of(sts, await revisions(it)))
        await set_image(it, "nginx:1.25")
        await settled(it)
        sts = await it.client.get(StatefulSet, "web", "default")
        found = revisions_of(sts, await revisions(it))
        assert [each.revision for each in found] == [1, 2]
        assert find_revision(found).revision == 1
        assert find_revision(found, 2) == present_revision(sts, found)
        with pytest.raises(RevisionNotFound, match="unable to find specified revision 7 in history"):
            find_revision(found, 7)
        assert not undo(sts, find_revision(found, 2))
        assert undo(sts, find_revision(found, 1))
        assert sts.raw["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:1.24"
        assert revisions_of(web(name="other"), found) == []


async def test_what_a_revision_holds_never_changes(store: Client) -> None:
    client = ObjectClient(store)
    metadata = {"name": "web-1", "namespace": "default"}
    for raw, path in (({"revision": 1}, "data"), ({"data": {"a": 1}, "revision": -1}, "revision")):
        with pytest.raises(Invalid) as error:
            await client.create(ControllerRevision.from_raw({"metadata": metadata, **raw}))
        assert error.value.path == path
    made = await client.create(ControllerRevision.from_raw({"metadata": metadata, "data": {"a": 1}, "revision": 1}))
    made.revision = 2
    made = await client.update(made)
    made.raw["data"] = {"a": 2}
    with pytest.raises(Invalid, match="immutable"):
        await client.update(made)


async def test_a_revision_whose_name_is_taken_gets_another(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(1))
        await settled(it)
        (mine,) = await revisions(it)
        await it.client.delete(StatefulSet, "web", "default")
        await it.until(lambda: _no_revisions(it))
        data = {"spec": {"template": {"somebody": "else's"}}}
        metadata = {"name": mine.name, "namespace": "default"}
        await it.client.create(ControllerRevision.from_raw({"metadata": metadata, "data": data, "revision": 1}))
        await it.client.create(web(1))
        await settled(it)
        assert (await status(it))["collisionCount"] == 1
        assert len(await revisions(it)) == 2


async def _no_revisions(it: Cluster) -> bool:
    return await revisions(it) == []


async def test_a_broken_release_keeps_only_the_revisions_that_are_used(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(2, revisionHistoryLimit=0))
        await settled(it)
        await set_image(it, BROKEN)
        await asyncio.sleep(30)
        await set_image(it, "nginx:1.25")
        await asyncio.sleep(30)
        # The current one, the broken one that a pod was made of, and that of the template.
        assert [each.revision for each in await revisions(it)] == [1, 2, 3]
        await it.client.delete(Pod, "web-1", "default")
        await settled(it)
        await asyncio.sleep(10)
        assert [each.revision for each in await revisions(it)] == [3]


# ---- the rest --------------------------------------------------------------------------------------------------------


async def test_it_tells_what_it_does(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(1))
        await settled(it)
        assert await told(it, "SuccessfulCreate") == [
            "create Claim www-web-0 Pod web-0 in StatefulSet web success",
            "create Pod web-0 in StatefulSet web successful",
        ]
        await change(it, {"replicas": 0})
        await it.until(lambda: _has(it, []))
        assert await told(it, "SuccessfulDelete") == ["delete Pod web-0 in StatefulSet web successful"]


async def test_a_failure_is_told_and_tried_again(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        stuck = claim("www-web-0", namespace="default", finalizers=["example.com/keep"])
        await it.client.create(PersistentVolumeClaim.from_raw(stuck))
        await it.client.delete(PersistentVolumeClaim, "www-web-0", "default")
        await it.client.create(web(1))
        assert await told(it, "FailedCreate") == [
            "create Pod web-0 in StatefulSet web failed error: pvc www-web-0 is being deleted"
        ]
        assert (await status(it))["observedGeneration"] == 1
        await it.client.patch(PersistentVolumeClaim, "www-web-0", {"metadata": {"finalizers": None}}, "default")
        await settled(it)


async def test_nothing_is_written_once_all_is_as_wanted(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(2))
        await settled(it)
        await asyncio.sleep(10)
        start = (await history(store))[-1].number
        await asyncio.sleep(300)
        changed = {key for each in await history(store) if each.number > start for key in each.changed}
        assert not {key for key in changed if "/leases/" not in key and "/events/" not in key}


@pytest.mark.parametrize("propagation", ["background", "foreground", "orphan"])
async def test_deleting_it(store: Client, propagation: Any) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(web(2))
        before = await settled(it)
        await it.client.delete(StatefulSet, "web", "default", propagation=propagation)

        async def gone() -> bool:
            return not await it.exists(StatefulSet, "web")

        await it.until(gone)
        if propagation == "foreground":
            assert await it.pods() == []
        await asyncio.sleep(10)
        kept = [(each.name, each.metadata.uid) for each in await pods(it)]
        assert len(await revisions(it)) == (1 if propagation == "orphan" else 0)
        assert len(await claims(it)) == 2
        if propagation != "orphan":
            assert kept == []
            return
        assert kept == [(each.name, each.metadata.uid) for each in before]
        # A new one of the name takes over what the old one left.
        await it.client.create(web(2))
        assert [each.metadata.uid for each in await settled(it)] == [each.metadata.uid for each in before]
        assert len(await revisions(it)) == 1
        with pytest.raises(NotFound):
            await it.client.get(Pod, "web-2", "default")
