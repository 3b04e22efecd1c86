"""Hooks that are asked before an object is written."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from informer import (
    Admission,
    AdmissionFailed,
    AdmissionRequest,
    Conflict,
    Forbidden,
    Invalid,
    Meta,
    ObjectClient,
    Resource,
    Scale,
    Scheme,
)
from kvstore.api import Client
from kvstore.client import EmbeddedClient
from kvstore.node import Node, NodeOptions

HERE = Scheme()


class Website(Resource, group="example.com", version="v1", scale=Scale(status="status.ready"), scheme=HERE):
    class Spec:
        image: str
        replicas: Annotated[int, Meta(le=10)] = 1

    class Status:
        ready: int = 0


class WebsiteV0(Resource, version="v0", hub=Website, scheme=HERE):
    spec: Any


class Note(Resource, group="example.com", version="v1", status=False, scheme=HERE):
    data: dict[str, str]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Client]:
    async with Node.open(tmp_path / "d", NodeOptions(fsync=False)) as node:
        client = EmbeddedClient(node)
        yield client
        await client.close()


@pytest.fixture
def admission() -> Admission:
    return Admission(timeout=0.05)


@pytest.fixture
def objects(store: Client, admission: Admission) -> ObjectClient:
    return ObjectClient(store, rng=random.Random(1), admission=admission, field_manager="tester")


def site(name: str = "a", **spec: Any) -> Website:
    return Website(name=name, spec={"image": "nginx", **spec})


async def test_mutating_hooks_come_first_and_validating_ones_see_the_result(
    objects: ObjectClient, admission: Admission
) -> None:
    seen: list[tuple[str, str]] = []

    @admission.validate(Website)
    def look(request: AdmissionRequest[Website]) -> None:
        seen.append(("look", request.object.metadata.labels["team"]))
        request.object.metadata.labels["team"] = "spoilt"

    @admission.mutate(Website)
    async def label(request: AdmissionRequest[Website]) -> None:
        await asyncio.sleep(0)
        seen.append(("label", request.object.spec.image))
        request.object.metadata.labels["team"] = "web"

    made = await objects.create(site())
    assert seen == [("label", "nginx"), ("look", "web")]
    assert made.metadata.labels == {"team": "web"}


async def test_a_hook_knows_what_is_done_to_what_and_by_whom(objects: ObjectClient, admission: Admission) -> None:
    seen: list[tuple[Any, ...]] = []

    @admission.validate(Website, status=True)
    def look(request: AdmissionRequest[Website]) -> None:
        old = None if request.old is None else request.old.spec.replicas
        seen.append((request.operation, request.subresource, old, request.object.spec.replicas))
        assert request.field_manager == "tester"

    made = await objects.create(site())
    made.spec.replicas = 2
    made = await objects.update(made)
    made.status.ready = 1
    await objects.update_status(made)
    await objects.update_scale(Website, "a", 3)
    await objects.apply(site(replicas=4))
    await objects.patch(Website, "a", {"spec": {"replicas": 5}})
    await objects.delete(Website, "a")
    assert seen == [
        ("create", None, None, 1),
        ("update", None, 1, 2),
        ("update", "status", 2, 2),
        ("update", "scale", 2, 3),
        ("update", None, 3, 4),
        ("update", None, 4, 5),
        ("delete", None, 5, 5),
    ]


async def test_only_what_a_hook_is_registered_for_asks_it(objects: ObjectClient, admission: Admission) -> None:
    asked: list[str] = []
    admission.validate(Note, name="notes")(lambda request: asked.append(f"notes {request.operation}"))
    admission.validate(operations=("delete",), name="deletes")(lambda request: request.object.nothing_of_this_name)

    @admission.validate(operations=("create",))
    def creates(request: AdmissionRequest[Any]) -> None:
        asked.append(f"create {request.object.TYPE.kind}")

    made = await objects.create(site())
    made.status.ready = 2
    await objects.update_status(made)
    await objects.create(Note(name="n"))
    assert asked == ["create Website", "notes create", "create Note"]
    with pytest.raises(AdmissionFailed, match='admission hook "deletes" failed: AttributeError'):
        await objects.delete(Website, "a")


async def test_a_refusal_names_the_hook_and_nothing_is_written(
    objects: ObjectClient, admission: Admission, store: Client
) -> None:
    await objects.create(site())

    @admission.validate(Website)
    def no_latest(request: AdmissionRequest[Website]) -> None:
        if request.operation == "delete":
            raise Forbidden("it stays")
        if request.object.spec.image == "latest":
            raise Invalid("spec.image", "must not be latest")

    before = await store.get(Website.TYPE.key("default", "a"))
    with pytest.raises(Invalid) as refused:
        await objects.patch(Website, "a", {"spec": {"image": "latest"}})
    assert str(refused.value) == 'spec.image: must not be latest (admission hook "no_latest")'
    with pytest.raises(Forbidden, match=r'^admission hook "no_latest" denied the request: it stays$'):
        await objects.delete(Website, "a")
    with pytest.raises(Invalid):
        await objects.create(site("b", image="latest"))
    assert await store.get(Website.TYPE.key("default", "a")) == before
    assert await store.get(Website.TYPE.key("default", "b")) is None


async def test_a_hook_has_so_much_time_and_its_mistakes_refuse(objects: ObjectClient, admission: Admission) -> None:
    @admission.mutate(Website)
    async def slow(request: AdmissionRequest[Website]) -> None:
        if request.object.spec.image == "slow":
            await asyncio.sleep(60)
        raise TimeoutError("of its own")

    with pytest.raises(AdmissionFailed, match=r'"slow" did not answer within 0\.05 s'):
        await objects.create(site(image="slow"))
    with pytest.raises(AdmissionFailed, match='"slow" failed: TimeoutError'):
        await objects.create(site())


async def test_what_a_hook_makes_is_checked_and_its_reach_is_bounded(
    objects: ObjectClient, admission: Admission
) -> None:
    done: list[str] = []

    @admission.mutate(Website, status=True)
    def change(request: AdmissionRequest[Website]) -> None:
        match done[-1]:
            case "too many":
                request.object.raw["spec"]["replicas"] = 11
            case "name":
                request.object.raw["metadata"]["name"] = "other"
            case "status":
                request.object.raw.setdefault("status", {})["ready"] = 7
            case "uid":
                request.object.raw["metadata"]["uid"] = "other"
            case "old":
                assert request.old is not None
                request.old.raw["spec"]["replicas"] = request.object.spec.replicas
            case "spec":
                request.object.raw["spec"]["image"] = "changed"

    done.append("too many")
    with pytest.raises(Invalid, match=r"^spec.replicas: expected at most 10, got 11"):
        await objects.create(site())
    done.append("status")
    made = await objects.create(site())
    assert "status" not in made.raw
    made.spec.replicas = 2
    made = await objects.update(made)
    assert "status" not in made.raw
    done.append("name")
    with pytest.raises(Invalid, match=r"^metadata.name: is immutable"):
        await objects.patch(Website, "a", {"spec": {"replicas": 3}})
    with pytest.raises(Invalid, match=r"^metadata.name: is immutable"):
        await objects.create(site("b"))
    done.append("uid")
    with pytest.raises(Conflict, match="another object"):
        await objects.create(site("b"))
    done.append("old")
    made = await objects.patch(Website, "a", {"spec": {"replicas": 3}})
    assert made.metadata.generation == 3
    done.append("spec")
    made.status.ready = 1
    made = await objects.update_status(made)
    assert (made.spec.image, made.status.ready) == ("nginx", 1)
    done.append("status")
    assert (await objects.patch(Website, "a", {"status": {"ready": 2}}, subresource="status")).status.ready == 7


async def test_a_write_that_comes_to_nothing_with_its_hooks_is_none(
    objects: ObjectClient, admission: Admission
) -> None:
    @admission.mutate(Website)
    def three(request: AdmissionRequest[Website]) -> None:
        request.object.spec.replicas = 3

    made = await objects.create(site())
    made.spec.replicas = 5
    again = await objects.update(made)
    assert again.metadata.resource_version == made.metadata.resource_version


async def test_other_versions_ask_the_hooks_of_the_stored_one(objects: ObjectClient, admission: Admission) -> None:
    seen: list[str] = []

    @admission.mutate(Website)
    def look(request: AdmissionRequest[Website]) -> None:
        seen.append(request.object.raw["apiVersion"])
        request.object.spec.replicas = 4

    made = await objects.create(WebsiteV0(name="a", spec={"image": "x"}))
    assert (seen, made.raw["spec"]["replicas"]) == (["example.com/v1"], 4)
    with pytest.raises(ValueError, match="WebsiteV0 is stored as Website"):
        admission.validate(WebsiteV0)


def test_mistakes_in_a_registration_are_told(admission: Admission) -> None:
    with pytest.raises(ValueError, match="nothing to change about a delete"):
        admission.mutate(Website, operations=("delete",))
    with pytest.raises(ValueError, match="expected create, update, delete, got patch"):
        admission.validate(Website, operations=("patch",))


async def test_other_clients_are_not_asked(store: Client, objects: ObjectClient, admission: Admission) -> None:
    @admission.validate(Website)
    def never(request: AdmissionRequest[Website]) -> None:
        raise Forbidden("never")

    with pytest.raises(Forbidden):
        await objects.create(site())
    assert (await ObjectClient(store).create(site())).name == "a"
