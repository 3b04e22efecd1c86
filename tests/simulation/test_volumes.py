"""Claims, volumes and pods come and go while calls fail and processes end after any write: no two claims ever have one
volume, and nothing in use goes."""

from __future__ import annotations

from typing import Any

import pytest

from controllers.core.types import PersistentVolumeClaim, Pod
from controllers.storage.matching import claims_of
from controllers.storage.types import PersistentVolume
from informer import patch
from informer.errors import AlreadyExists, Invalid, NotFound
from kvstore.api import Client
from tests.controllers.cluster import Revision, history
from tests.controllers.storage.volumes import claim, user_of, volume
from tests.simulation.invariants import check_owned
from tests.simulation.life import Life, User, live, seeds, undisturbed

pytestmark = pytest.mark.virtual_time

Raw = dict[str, Any]

NAMES = ("a", "b", "c")  # claims; the last wants one of the volumes that a person made
DISKS = ("small", "large")
LATE = 12  # revisions that a cache may be behind
ACTIONS = (
    "claim",
    "unclaim",
    "unclaim",
    "use",
    "use",
    "use",
    "delete pod",
    "grow",
    "delete volume",
    "kill node",
    "revive node",
)


class Claimants(User):
    """Claims of both sorts, pods that use them, and disks that somebody else made."""

    async def begin(self) -> None:
        for name, size in zip(DISKS, ("2Gi", "20Gi"), strict=True):
            await self.client.create(volume(name, size))
        await self.claim()

    async def act(self) -> None:
        name = self.rng.choice(NAMES)
        match self.rng.choice(ACTIONS):
            case "claim":
                await self.claim()
            case "unclaim":
                await self.delete(PersistentVolumeClaim, name)
            case "use":
                await self.create(user_of(name, f"pod-{self.rng.randrange(10**6)}"))
            case "delete pod":
                await self.delete_pod()
            case "grow":
                size = {"requests": {"storage": f"{self.rng.randint(2, 9)}Gi"}}
                try:
                    await self.client.patch(PersistentVolumeClaim, name, {"spec": {"resources": size}}, "default")
                except (NotFound, Invalid):
                    return
            case "delete volume":
                volumes = (await self.client.list(PersistentVolume)).items
                await self.delete(PersistentVolume, self.rng.choice(volumes).name if volumes else "none")
            case "kill node":
                self.kill_node()
            case "revive node":
                self.revive_node()

    async def claim(self) -> None:
        for name in NAMES:
            named: Raw = {"storageClassName": "manual"} if name == NAMES[-1] else {}
            await self.create(claim(name, **named))

    async def create(self, obj: Any) -> None:
        try:
            await self.client.create(obj)
        except AlreadyExists:
            return

    async def delete(self, cls: Any, name: str) -> None:
        try:
            await self.client.delete(cls, name, "default" if cls.TYPE.namespaced else None)
        except NotFound:
            return

    async def settle(self) -> None:
        """Everything anew, so that the end is the same whatever was before."""
        for pod in await self.it.pods():
            await self.delete(Pod, pod.name)
        for name in NAMES:
            await self.delete(PersistentVolumeClaim, name)
        await self.it.until(self._none_left)
        for disk in (await self.client.list(PersistentVolume)).items:
            await self.delete(PersistentVolume, disk.name)
        await self.it.until(self._no_disks)
        await self.begin()

    async def _none_left(self) -> bool:
        return not await self.it.pods() and not (await self.client.list(PersistentVolumeClaim)).items

    async def _no_disks(self) -> bool:
        return not (await self.client.list(PersistentVolume)).items

    async def settled(self) -> bool:
        found = (await self.client.list(PersistentVolumeClaim)).items
        return [each.status.phase for each in found] == ["Bound"] * len(NAMES)

    def end(self, revision: Revision) -> Any:
        claims = {
            each["metadata"]["name"]: (each["status"], each["spec"].get("storageClassName"))
            for each in revision.of(PersistentVolumeClaim)
        }
        volumes = sorted(
            (each["status"]["phase"], each["spec"]["capacity"]["storage"], each["spec"].get("claimRef", {}).get("name"))
            for each in revision.of(PersistentVolume)
            if not each["metadata"].get("deletionTimestamp")
        )
        return claims, [(phase, size, name or "") for phase, size, name in volumes]


def check_volumes(revisions: list[Revision]) -> None:
    """A volume goes from claim to claim only by being free in between, and a claim has one volume for all its life."""
    owner: dict[str, str] = {}
    volume_of: dict[str, str] = {}
    for revision in revisions:
        for disk in revision.of(PersistentVolume):
            uid = disk["metadata"]["uid"]
            has = (disk["spec"].get("claimRef") or {}).get("uid", "")
            assert not has or owner.get(uid, "") in ("", has), (revision.number, disk["metadata"]["name"])
            owner[uid] = has
        bound: dict[str, str] = {}
        for each in revision.of(PersistentVolumeClaim):
            name, uid = each["spec"].get("volumeName"), each["metadata"]["uid"]
            if name and each["status"]["phase"] == "Bound":
                assert name not in bound, (revision.number, name)
                bound[name] = uid
            if name:
                assert volume_of.setdefault(uid, name) == name, (revision.number, uid)


def check_protected(revisions: list[Revision]) -> None:
    """No claim goes while a pod on a node that has not ended uses it."""
    before: dict[str, Raw] = {}
    prefix = PersistentVolumeClaim.TYPE.prefix("default").decode()
    for revision in revisions:
        for key in revision.changed:
            if key.startswith(prefix) and key in before and key not in revision.objects:
                name = before[key]["metadata"]["name"]
                users = [
                    pod["metadata"]["name"]
                    for pod in revision.of(Pod)
                    if pod["spec"].get("nodeName")
                    and pod["status"].get("phase") not in ("Succeeded", "Failed")
                    and name in claims_of(patch.encode(pod))
                ]
                assert not users, (revision.number, name, users)
        before = revision.objects


def check_placed(revisions: list[Revision]) -> None:
    """A pod gets a node only while its claim is bound, as far as a late cache can know."""
    last_bound: dict[str, int] = {}
    placed: set[str] = set()
    for revision in revisions:
        for pod in revision.of(Pod):
            uid = pod["metadata"]["uid"]
            if pod["spec"].get("nodeName") and uid not in placed:
                placed.add(uid)
                for name in claims_of(patch.encode(pod)):
                    assert revision.number - last_bound.get(name, 0) < LATE, (revision.number, pod["metadata"]["name"])
        for each in revision.of(PersistentVolumeClaim):
            if (each.get("status") or {}).get("phase") == "Bound":
                last_bound[each["metadata"]["name"]] = revision.number


async def check(store: Client, life: Life) -> None:
    revisions = await history(store)
    check_volumes(revisions)
    check_protected(revisions)
    check_placed(revisions)
    check_owned(revisions[-1])
    assert life.user.end(revisions[-1]) == await undisturbed(Claimants(life.user.seed))


@pytest.mark.parametrize("seed", seeds(1))
async def test_no_volume_has_two_claims_and_nothing_in_use_goes(store: Client, seed: int) -> None:
    await check(store, await live(store, Claimants(seed), leaders=2 - seed % 2, steps=20))
