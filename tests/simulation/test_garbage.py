"""Random owners and dependents, deleted in all three ways, and a collector that sees late, loses calls and ends after
any write: what has an owner stays, what has lost its last one goes, and so does all that is in a namespace that goes.
"""

from __future__ import annotations

import random
from typing import Any, Literal

import pytest

from controllers.admission import StoreLookups, add_builtin_admission
from controllers.core.types import ConfigMap, Namespace
from controllers.simulation.client import NO_FAULTS
from informer.admission import Admission
from informer.client import ObjectClient
from informer.crd import crd_for
from informer.errors import ApiError, Conflict, NotFound
from informer.resources import Resource, Scheme
from kvstore.api import Client
from tests.controllers.cluster import Revision, history, virtual_now
from tests.simulation import garbage_invariants as invariants
from tests.simulation.life import Life, User, live, seeds

pytestmark = pytest.mark.virtual_time

SPACES = ("default", "left", "right")
POLICIES: tuple[Literal["background", "foreground", "orphan"] | None, ...] = (
    "background",
    "foreground",
    "orphan",
    None,
)


class Gadget(Resource, group="example.com", version="v1", scheme=Scheme()):
    """A kind of which the collector learns from its definition."""


class Owners(User):
    """Makes and deletes objects that own each other. actions: what users do besides."""

    def __init__(self, seed: int, *actions: str) -> None:
        super().__init__(seed)
        self.actions = ("make", "make", "make", "own", "disown", "delete", "delete", *actions)
        self.made = 0
        self.uids: set[str] = set()  # of what users have asked to go
        self.own_rng = random.Random(f"{seed}/uids")

    def make_client(self, store: Client) -> ObjectClient:
        """As the command line's."""
        admission = Admission()
        add_builtin_admission(admission, StoreLookups(ObjectClient(store)))
        return ObjectClient(store, now=virtual_now, rng=self.own_rng, admission=admission)

    async def begin(self) -> None:
        await self.client.create(crd_for(Gadget))
        for name in SPACES[1:]:
            await self.client.create(Namespace(name=name))
        for _ in range(4):
            await self.make()

    async def act(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            try:
                await getattr(self, self.rng.choice(self.actions))()
            except (NotFound, Conflict):
                continue  # somebody was faster

    async def objects(self) -> list[Resource]:
        return [*(await self.client.list(ConfigMap)).items, *(await self.client.list(Gadget)).items]

    async def namespaces(self) -> list[str]:
        """Those that take new objects."""
        found = await self.client.list(Namespace)
        return ["default", *(each.name for each in found if each.name in SPACES[1:] and not each.deleting)]

    async def make(self) -> None:
        """An object, with owners, some of whom are wrong in some way."""
        cls = self.rng.choice([ConfigMap, Gadget])
        self.made += 1
        obj = cls(name=f"object-{self.made}", namespace=self.rng.choice(sorted(await self.namespaces())))
        there = await self.objects()
        chosen = self.rng.sample(there, min(len(there), self.rng.choice([0, 0, 1, 1, 2, 3])))
        obj.raw["metadata"]["ownerReferences"] = [self.reference(each) for each in chosen]
        if self.rng.random() < 0.1:
            obj.raw["metadata"]["finalizers"] = ["example.com/keep"]
        await self.client.create(obj)

    def reference(self, owner: Resource) -> dict[str, Any]:
        mistake = self.rng.choice([None] * 12 + ["uid", "name"])
        return {
            "apiVersion": owner.TYPE.api_version,
            "kind": owner.TYPE.kind,
            "name": "nobody" if mistake == "name" else owner.name,
            "uid": "00000000-0000-0000-0000-000000000000" if mistake == "uid" else owner.metadata.uid,
            "blockOwnerDeletion": self.rng.random() < 0.6,
        }

    async def own(self) -> None:
        """One more owner for an object, also in circles."""
        there = [obj for obj in await self.objects() if not obj.deleting]
        if len(there) > 1:
            child, owner = self.rng.sample(there, 2)
            references = child.raw["metadata"].get("ownerReferences") or []
            if all(each["uid"] != owner.metadata.uid for each in references):
                child.raw["metadata"]["ownerReferences"] = [*references, self.reference(owner)]
                await self.client.update(child)

    async def disown(self) -> None:
        """One owner less."""
        there = [obj for obj in await self.objects() if obj.raw["metadata"].get("ownerReferences")]
        if there:
            child = self.rng.choice(there)
            child.raw["metadata"]["ownerReferences"].pop(0)
            await self.client.update(child)

    async def delete(self) -> None:
        there = await self.objects()
        if there:
            obj = self.rng.choice(there)
            self.uids.add(obj.metadata.uid or "")
            policy = self.rng.choice(POLICIES)
            await self.client.delete(type(obj), obj.name, obj.namespace, uid=obj.metadata.uid, propagation=policy)

    async def release(self) -> None:
        """Somebody's finalizer has done its work."""
        for obj in await self.objects():
            finalizers = obj.metadata.finalizers
            if "example.com/keep" in finalizers and obj.deleting:
                obj.metadata.finalizers = [each for each in finalizers if each != "example.com/keep"]
                await self.client.update(obj)

    async def remove(self) -> None:
        """A namespace goes, or is made again."""
        name = self.rng.choice(SPACES[1:])
        if name in await self.namespaces():
            await self.client.delete(Namespace, name)
        elif not any(each.name == name for each in await self.client.list(Namespace)):
            await self.client.create(Namespace(name=name))

    async def settle(self) -> None:
        return None

    async def settled(self) -> bool:
        try:
            await self.release()
        except ApiError:
            return False
        there = await self.objects()
        uids = {obj.metadata.uid: obj for obj in there}
        for obj in there:
            if obj.deleting:
                return False
            for owner in obj.raw["metadata"].get("ownerReferences") or ():
                found = uids.get(owner["uid"])
                if found is None or (found.name, found.namespace) != (owner["name"], obj.namespace):
                    return False
        return not any(each.deleting for each in await self.client.list(Namespace))


def check(revisions: list[Revision], life: Life, spaces: set[str]) -> list[int]:
    user = life.user
    assert isinstance(user, Owners)
    invariants.check_nothing_outlives_its_owners(revisions[-1])
    return [
        invariants.check_only_garbage_is_deleted(revisions, life.authors, life.times, user.uids, spaces),
        invariants.check_foreground(revisions, life.authors),
        invariants.check_orphans(revisions, life.authors),
        invariants.check_closed_namespaces(revisions, life.authors, spaces),
    ]


@pytest.mark.parametrize("seed", range(1))
async def test_what_has_an_owner_stays_and_what_has_none_left_goes(store: Client, seed: int) -> None:
    life = await live(store, Owners(seed), faults=NO_FAULTS, steps=20)
    done = check(await history(store), life, set())
    assert all(done[:3]), "the life was too quiet"


@pytest.mark.parametrize("seed", seeds(2))
async def test_the_same_whatever_the_network_and_the_processes_do(store: Client, seed: int) -> None:
    life = await live(store, Owners(seed), leaders=1 + seed % 2, steps=20)
    check(await history(store), life, set())


@pytest.mark.parametrize("seed", seeds(2))
async def test_nothing_is_left_in_a_namespace_that_goes_nor_made_in_it(store: Client, seed: int) -> None:
    life = await live(store, Owners(seed, "remove", "remove"), leaders=1 + seed % 2, steps=20)
    check(await history(store), life, {"left", "right"})
