"""The user of a simulated life: random wishes, and the end that they are brought to."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from informer import AlreadyExists, Conflict, NotFound, ObjectClient, Resource

NAMES = ("a", "b", "c")
NAMESPACE = "default"

R = TypeVar("R", bound=Resource)


class User:
    """Reads and writes the store directly, without faults.

    wishes: name -> the spec of each object that is to be there. An operation changes them, and tries to have them
    carried out; what fails because an object is still being deleted is made up for at the end.
    """

    def __init__(
        self,
        client: ObjectClient,
        rng: random.Random,
        kind: type[Resource],
        children: Sequence[type[Resource]],
        spec: Callable[[random.Random], dict[str, Any]],
    ) -> None:
        self.client = client
        self.rng = rng
        self.kind = kind
        self.children = children
        self.spec = spec
        self.wishes: dict[str, dict[str, Any]] = {}

    async def change(self, cls: type[R], name: str, change: Callable[[R], None]) -> bool:
        """Read, change, write; again if somebody was faster. Whether the object is there."""
        while True:
            try:
                obj = await self.client.get(cls, name, NAMESPACE)
                change(obj)
                await self.client.update(obj)
            except Conflict:
                continue
            except NotFound:
                return False
            return True

    async def any_child(self) -> Resource | None:
        """One of the children, at random."""
        found = [each for cls in self.children for each in (await self.client.list(cls, NAMESPACE)).items]
        return self.rng.choice(found) if found else None

    async def carry_out(self) -> bool:
        """Make the objects as they are wished; whether they all are so, and no others are there."""
        done = True
        for obj in (await self.client.list(self.kind, NAMESPACE)).items:
            if obj.name not in self.wishes:
                await self.delete(obj.name)
                done = False
        for name, spec in self.wishes.items():
            done &= await self._wish(name, spec)
        return done

    async def delete(self, name: str) -> None:
        """Delete an object if it is there."""
        try:
            await self.client.delete(self.kind, name, NAMESPACE)
        except NotFound:
            return

    async def _wish(self, name: str, spec: Mapping[str, Any]) -> bool:
        try:
            obj = await self.client.get(self.kind, name, NAMESPACE)
        except NotFound:
            await self.client.create(self.kind(name=name, namespace=NAMESPACE, spec=dict(spec)))
            return False
        if obj.deleting:
            return False
        if all(obj.raw.get("spec", {}).get(key) == value for key, value in spec.items()):
            return True
        await self.change(self.kind, name, lambda obj: obj.raw.update(spec=dict(spec)))
        return False


Operation: TypeAlias = Callable[[User], Awaitable[str]]
"""Does something as `user.rng` says, and tells what."""


async def wish(user: User) -> str:
    """Create an object or change its spec."""
    name = user.rng.choice(NAMES)
    spec = user.wishes[name] = user.spec(user.rng)
    try:
        await user.client.create(user.kind(name=name, namespace=NAMESPACE, spec=dict(spec)))
    except AlreadyExists:
        await user.change(user.kind, name, lambda obj: obj.raw.update(spec=dict(spec)))
        return f"update {name} {spec}"
    return f"create {name} {spec}"


async def delete(user: User) -> str:
    """Delete an object."""
    name = user.rng.choice(NAMES)
    user.wishes.pop(name, None)
    await user.delete(name)
    return f"delete {name}"


async def recreate(user: User) -> str:
    """Delete an object and create it at once, if its finalizers let it go."""
    name = user.rng.choice(NAMES)
    spec = user.wishes[name] = user.spec(user.rng)
    await user.delete(name)
    try:
        await user.client.create(user.kind(name=name, namespace=NAMESPACE, spec=dict(spec)))
    except AlreadyExists:
        return f"delete {name}; it is still there"
    return f"recreate {name} {spec}"


async def touch(user: User) -> str:
    """Change a label of an object: nothing that a reconciler would care for."""
    name, value = user.rng.choice(NAMES), str(user.rng.randint(0, 9))
    await user.change(user.kind, name, lambda obj: obj.metadata.labels.update(touched=value))
    return f"label {name} touched={value}"


async def delete_child(user: User) -> str:
    """Delete something that the reconciler has made."""
    child = await user.any_child()
    if child is None:
        return "there is no child to delete"
    try:
        await user.client.delete(type(child), child.name, child.namespace, uid=child.metadata.uid)
    except (Conflict, NotFound):
        return f"{child.TYPE.kind} {child.name} is gone already"
    return f"delete {child.TYPE.kind} {child.name}"


async def force(user: User) -> str:
    """Take the finalizers off an object that is being deleted, as impatient people do."""
    deleting = [each for each in (await user.client.list(user.kind, NAMESPACE)).items if each.deleting]
    if not deleting:
        return "nothing is being deleted"
    name = user.rng.choice(deleting).name

    def strip(obj: Resource) -> None:
        obj.metadata.finalizers = []

    await user.change(user.kind, name, strip)
    return f"take the finalizers off {name}"


OPERATIONS: Mapping[str, Operation] = {
    "wish": wish,
    "wish again": wish,
    "delete": delete,
    "recreate": recreate,
    "touch": touch,
    "delete child": delete_child,
    "force": force,
}
