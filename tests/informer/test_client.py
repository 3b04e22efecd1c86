"""The rules of the API server, against the embedded store and a real etcd alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest

from informer import (
    AlreadyExists,
    ApiError,
    Conflict,
    Expired,
    Immutable,
    Invalid,
    Meta,
    NotFound,
    ObjectClient,
    Resource,
    Scheme,
    Selector,
    Unreachable,
)
from informer.client import LAST_APPLIED
from informer.transforms import drop_fields, transform
from kvstore.api import Client, Range
from kvstore.client import EmbeddedClient, RemoteClient
from kvstore.node import Node, NodeOptions
from tests.etcd_process import running_etcd

HERE = Scheme()
START = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


class Website(Resource, group="example.com", version="v1", scheme=HERE):
    class Spec:
        image: str
        replicas: int = 1

    class Status:
        ready: int = 0


class Settings(Resource, group="", version="v1", plural="settings", status=False, scheme=HERE):
    data: dict[str, str]


class Machine(Resource, group="example.com", version="v1", namespaced=False, scheme=HERE):
    GENERATION_COUNTS_ANNOTATIONS = True
    STATUS_WRITES_ANNOTATIONS = True

    def default(self) -> None:
        self.raw.setdefault("spec", {}).setdefault("size", 1)

    def validate(self) -> None:
        if self.raw["spec"]["size"] < 0:
            raise Invalid("spec.size", "must not be negative")

    def validate_update(self, old: Machine) -> None:
        if self.raw["spec"].get("rack") != old.raw["spec"].get("rack"):
            raise Invalid("spec.rack", "is immutable")

    def deletion_grace(self, requested: int | None) -> int:
        return self.raw["spec"].get("grace", 0) if requested is None else requested


class Clock:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as endpoint:
        yield endpoint


@pytest.fixture(params=["embedded", "etcd"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Client]:
    async with contextlib.AsyncExitStack() as stack:
        client: Client
        if request.param == "embedded":
            client = EmbeddedClient(
                await stack.enter_async_context(Node.open(tmp_path / "d", NodeOptions(fsync=False)))
            )
        else:
            client = RemoteClient([request.getfixturevalue("etcd")])
        stack.push_async_callback(client.close)
        await client.delete(b"\0", b"\0")
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def objects(store: Client, clock: Clock) -> ObjectClient:
    return ObjectClient(store, now=clock, rng=random.Random(1))


def site(name: str = "a", **fields: Any) -> Website:
    return Website(name=name, spec={"image": "nginx", **fields.pop("spec", {})}, **fields)


# ---- create and get -------------------------------------------------------------------------------------------------


async def test_create_sets_what_is_the_servers(objects: ObjectClient, store: Client) -> None:
    asked = site(uid="mine", generation=9, creation_timestamp=START, status={"ready": 5})
    asked.metadata.deletion_timestamp = START
    before = json.dumps(asked.raw)
    made = await objects.create(asked)
    meta = made.metadata
    assert meta.uid is not None
    assert meta.uid not in ("", "mine")
    assert (meta.namespace, meta.generation, made.raw.get("status"), made.deleting) == ("default", 1, None, False)
    assert made.raw["metadata"]["creationTimestamp"] == "2024-05-01T12:00:00Z"
    assert json.dumps(asked.raw) == before
    stored = await store.get(b"/registry/example.com/websites/default/a")
    assert stored is not None
    assert str(stored.mod_revision) == meta.resource_version
    assert "resourceVersion" not in json.loads(stored.value)["metadata"]
    assert await objects.get(Website, "a", "default") == made


async def test_a_kind_without_a_status_of_its_own_keeps_the_field(objects: ObjectClient) -> None:
    made = await objects.create(Settings(name="s", data={"a": "b"}, status={"x": 1}))
    assert made.status == {"x": 1}
    made.status = {"x": 2}
    assert (await objects.update(made)).metadata.generation == 2
    with pytest.raises(Invalid, match="no status of their own"):
        await objects.update_status(made)


async def test_a_name_is_taken_once(objects: ObjectClient) -> None:
    await objects.create(site(finalizers=["example.com/x"]))
    with pytest.raises(AlreadyExists, match=r'^websites.example.com "a" already exists$'):
        await objects.create(site())
    await objects.create(site(namespace="other"))
    await objects.delete(Website, "a")
    with pytest.raises(AlreadyExists, match="object is being deleted"):
        await objects.create(site())


async def test_generated_names(objects: ObjectClient) -> None:
    made = [await objects.create(Website(generate_name="web-", spec={"image": "x"})) for _ in range(20)]
    assert len({each.name for each in made}) == 20
    assert all(each.name.startswith("web-") and len(each.name) == 9 for each in made)
    assert made[0].metadata.generate_name == "web-"
    long = await objects.create(Website(generate_name="x" * 100, spec={"image": "x"}))
    assert len(long.name) == 63


async def test_a_clash_of_generated_names_is_tried_again_eight_times(store: Client) -> None:
    await ObjectClient(store, rng=random.Random(5)).create(Website(generate_name="w-", spec={"image": "x"}))
    # The same seed gives the same first name, then others.
    again = await ObjectClient(store, rng=random.Random(5)).create(Website(generate_name="w-", spec={"image": "x"}))
    assert again.name.startswith("w-")
    assert len((await ObjectClient(store).list(Website)).items) == 2

    class Stuck(random.Random):
        tries = 0

        def choices(self, population: Any, *args: Any, k: int = 1, **kwargs: Any) -> list[Any]:
            self.tries += 1
            return [population[0]] * k

    stuck = Stuck(1)
    await ObjectClient(store, rng=stuck).create(Website(generate_name="w-", spec={"image": "x"}))
    stuck.tries = 0
    with pytest.raises(AlreadyExists):
        await ObjectClient(store, rng=stuck).create(Website(generate_name="w-", spec={"image": "x"}))
    assert stuck.tries == 8


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": ""}, "metadata.name"),
        ({"name": "Web"}, "metadata.name"),
        ({"name": "a/b"}, "metadata.name"),
        ({"name": "x" * 254}, "metadata.name"),
        ({"namespace": "a.b"}, "metadata.namespace"),
        ({"labels": {"a b": "x"}}, "metadata.labels[a b]"),
        ({"labels": {"x" * 64: "x"}}, f"metadata.labels.{'x' * 64}"),
        ({"labels": {"a": "x" * 64}}, "metadata.labels.a"),
        ({"labels": {"a": "-"}}, "metadata.labels.a"),
        ({"annotations": {"a": "x" * 256 * 1024}}, "metadata.annotations"),
        ({"annotations": {"/a": "x"}}, "metadata.annotations[/a]"),
        ({"finalizers": ["orphan", "foregroundDeletion"]}, "metadata.finalizers"),
        ({"resource_version": "1"}, "metadata.resourceVersion"),
        ({"spec": {"image": "x", "replicas": 1}, "kind": 1}, None),
    ],
)
async def test_metadata_rules(objects: ObjectClient, fields: dict[str, Any], path: str | None) -> None:
    if path is None:
        obj = site()
        obj.raw["spec"]["replicas"] = "x"
        path = "spec.replicas"
    else:
        obj = Website(**{"name": "a", "spec": {"image": "x"}, **fields})
    with pytest.raises(Invalid) as caught:
        await objects.create(obj)
    assert caught.value.path == path
    assert len(await objects.list(Website)) == 0


async def test_annotations_may_fill_their_limit_and_have_capitals(objects: ObjectClient) -> None:
    made = await objects.create(site(annotations={"Aa": "x" * (256 * 1024 - 2)}))
    assert len(made.metadata.annotations["Aa"]) == 256 * 1024 - 2


async def test_one_controller_only(objects: ObjectClient) -> None:
    owners = [{"apiVersion": "v1", "kind": "K", "name": n, "uid": n, "controller": True} for n in "ab"]
    with pytest.raises(Invalid, match="only one can be the controller, got K a and K b"):
        await objects.create(site(owner_references=owners))


async def test_a_cluster_scoped_object_has_no_namespace(objects: ObjectClient, store: Client) -> None:
    await objects.create(Machine(name="m"))
    assert await store.get(b"/registry/example.com/machines/m") is not None
    assert (await objects.get(Machine, "m")).namespace is None
    with pytest.raises(Invalid, match=r"^metadata.namespace"):
        await objects.create(Machine(name="n", namespace="default"))


async def test_what_is_not_json_is_refused_and_null_is_dropped(objects: ObjectClient) -> None:
    obj = site()
    obj.raw["spec"]["odd"] = object()
    with pytest.raises(Invalid, match="not JSON"):
        await objects.create(obj)
    obj.raw["spec"]["odd"] = {"a": None, "b": [None]}
    assert (await objects.create(obj)).raw["spec"]["odd"] == {"b": [None]}


async def test_get_at_a_revision(objects: ObjectClient, store: Client) -> None:
    first = await objects.create(site())
    first.spec.replicas = 2
    second = await objects.update(first)
    old = await objects.get(Website, "a", revision=first.metadata.resource_version)
    assert (old.spec.replicas, old.metadata.resource_version) == (1, first.metadata.resource_version)
    await store.compact(int(second.metadata.resource_version or 0))
    with pytest.raises(Expired):
        await objects.get(Website, "a", revision=first.metadata.resource_version)
    with pytest.raises(NotFound, match=r'^websites.example.com "b" not found$'):
        await objects.get(Website, "b")
    with pytest.raises(Invalid):
        await objects.get(Website, "a", revision="yesterday")


# ---- list -----------------------------------------------------------------------------------------------------------


async def test_list_is_paged_at_one_revision(objects: ObjectClient) -> None:
    for number in range(7):
        await objects.create(site(f"s{number}", labels={"odd": str(number % 2)}, namespace="x" if number < 5 else "y"))
    everything = await objects.list(Website, page_size=2)
    assert [each.name for each in everything] == [f"s{n}" for n in range(7)]
    assert everything.revision == everything.items[-1].metadata.resource_version
    assert len(await objects.list(Website, "x")) == 5
    assert [each.name for each in await objects.list(Website, "x", "odd=1", page_size=3)] == ["s1", "s3"]
    assert len(await objects.list(Website, "x", Selector.nothing())) == 0
    assert len(await objects.list(Website, None, None)) == 7
    assert len(await objects.list(Website, selector={"matchLabels": {"odd": "0"}})) == 4


async def test_a_namespace_is_not_a_prefix_of_another(objects: ObjectClient) -> None:
    await objects.create(site(namespace="a"))
    await objects.create(site(namespace="a-b"))
    assert len(await objects.list(Website, "a")) == 1


async def test_pages_do_not_show_what_was_written_meanwhile(store: Client) -> None:
    class Meddling:
        """Writes an object after each page."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def range(self, request: Range) -> Any:
            page = await store.range(request)
            await ObjectClient(store).create(Website(generate_name="zz-", spec={"image": "x"}))
            return page

    for number in range(4):
        await ObjectClient(store).create(site(f"s{number}"))
    meddling: Any = Meddling()
    assert len(await ObjectClient(meddling).list(Website, page_size=1)) == 4


# ---- update ---------------------------------------------------------------------------------------------------------


async def test_update_counts_generations_for_real_changes_only(objects: ObjectClient) -> None:
    obj = await objects.create(site())
    obj.spec.replicas = 2
    obj.metadata.generation = 77
    obj = await objects.update(obj)
    assert obj.metadata.generation == 2
    obj.metadata.labels["a"] = "b"
    obj = await objects.update(obj)
    assert obj.metadata.generation == 2
    obj.raw["spec"]["more"] = {}
    written = await objects.update(obj)
    assert written.metadata.generation == 2
    assert written.metadata.resource_version != obj.metadata.resource_version
    written.raw["spec"]["more"] = {"x": True}
    obj = await objects.update(written)
    obj.raw["spec"]["more"] = {"x": 1}
    assert (await objects.update(obj)).metadata.generation == 4


async def test_an_update_without_a_change_is_not_written(objects: ObjectClient, store: Client) -> None:
    obj = await objects.create(site())
    before = await store.get(obj.TYPE.key("default", "a"))
    obj.raw["spec"] = dict(reversed(obj.raw["spec"].items()))
    obj.status.ready = 5  # not this endpoint's to write
    again = await objects.update(obj)
    assert again.metadata.resource_version == obj.metadata.resource_version
    assert "status" not in again.raw
    assert await store.get(obj.TYPE.key("default", "a")) == before


async def test_a_stale_update_is_a_conflict_and_changes_nothing(objects: ObjectClient) -> None:
    first = await objects.create(site())
    second = await objects.get(Website, "a")
    second.spec.replicas = 2
    second = await objects.update(second)
    first.spec.replicas = 3
    for write in (objects.update, objects.update_status):
        with pytest.raises(Conflict, match=r'^websites.example.com "a" was changed: it is at resourceVersion'):
            await write(first)
    assert await objects.get(Website, "a") == second


async def test_an_update_needs_a_version_and_an_object(objects: ObjectClient) -> None:
    with pytest.raises(Invalid, match=r"^metadata.resourceVersion: required"):
        await objects.update(site())
    with pytest.raises(NotFound):
        await objects.update(site(resource_version="1"))


async def test_an_object_made_anew_is_another_one(objects: ObjectClient) -> None:
    old = await objects.create(site())
    await objects.delete(Website, "a")
    new = await objects.create(site())
    with pytest.raises(Conflict, match="another object of that name"):
        await objects.update(old)
    old.metadata.resource_version = new.metadata.resource_version
    for write in (objects.update, objects.update_status):
        with pytest.raises(Conflict, match="another object of that name"):
            await write(old)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("creationTimestamp", "2020-01-01T00:00:00Z"),
        ("deletionTimestamp", "2020-01-01T00:00:00Z"),
        ("deletionGracePeriodSeconds", 3),
    ],
)
async def test_server_fields_are_immutable(objects: ObjectClient, field: str, value: Any) -> None:
    obj = await objects.create(site())
    obj.raw["metadata"][field] = value
    with pytest.raises(Invalid) as caught:
        await objects.update(obj)
    assert caught.value.path == f"metadata.{field}"


async def test_left_out_server_fields_are_kept(objects: ObjectClient) -> None:
    obj = await objects.create(site())
    lean = site(resource_version=obj.metadata.resource_version)
    assert await objects.update(lean) == obj


async def test_hooks_run_in_order(objects: ObjectClient) -> None:
    machine = await objects.create(Machine(name="m", spec={"rack": 1}))
    assert machine.spec == {"rack": 1, "size": 1}
    machine.spec["size"] = -1
    with pytest.raises(Invalid, match=r"^spec.size: must not be negative$"):
        await objects.update(machine)
    machine.spec = {"rack": 2}
    with pytest.raises(Invalid, match=r"^spec.rack: is immutable$"):
        await objects.update(machine)
    machine.spec = {"rack": 1}
    assert (await objects.update(machine)).metadata.resource_version == machine.metadata.resource_version


async def test_some_kinds_count_annotations(objects: ObjectClient) -> None:
    machine = await objects.create(Machine(name="m"))
    machine.metadata.annotations["a"] = "b"
    machine = await objects.update(machine)
    assert machine.metadata.generation == 2
    machine.metadata.labels["a"] = "b"
    assert (await objects.update(machine)).metadata.generation == 2


# ---- status ---------------------------------------------------------------------------------------------------------


async def test_update_status_writes_the_status_alone(objects: ObjectClient) -> None:
    obj = await objects.create(site())
    obj.status.ready = 3
    obj.spec.replicas = 9
    obj.metadata.labels["a"] = "b"
    obj.metadata.annotations["a"] = "b"
    written = await objects.update_status(obj)
    assert (written.status.ready, written.spec.replicas, written.metadata.generation) == (3, 1, 1)
    assert not written.metadata.labels
    assert not written.metadata.annotations
    assert await objects.get(Website, "a") == written
    assert (await objects.update_status(written)).metadata.resource_version == written.metadata.resource_version
    written.raw["status"] = {"ready": "x"}
    with pytest.raises(Invalid, match=r'^status.ready: expected int, got "x"$'):
        await objects.update_status(written)


async def test_what_a_transform_left_of_an_object_is_not_written_in_its_place(objects: ObjectClient) -> None:
    made = await objects.create(site(annotations={"big": "x" * 100}))

    def seen(obj: Resource, *dropped: str) -> Any:
        return type(obj).decode(transform(obj.encode(), drop_fields(*dropped)), obj.metadata.resource_version or "")

    partial = seen(made, "metadata.annotations")
    assert partial.metadata.annotations == {}
    for write in (objects.update, objects.replace, objects.apply, objects.create):
        with pytest.raises(Invalid, match=r"transform changed its metadata.* patch it"):
            await write(partial)
    partial.status.ready = 1
    assert (await objects.update_status(partial)).metadata.annotations == {"big": "x" * 100}
    patched = await objects.patch(Website, "a", {"spec": {"image": "other"}})
    assert patched.metadata.annotations == {"big": "x" * 100}
    with pytest.raises(Invalid, match="status"):
        await objects.update_status(seen(patched, "status"))
    machine = await objects.create(Machine(name="m", annotations={"a": "b"}))
    with pytest.raises(Invalid, match="metadata"):
        await objects.update_status(seen(machine, "metadata.annotations"))
    untouched = seen(machine, "metadata.managedFields")
    untouched.raw["spec"]["size"] = 2
    assert (await objects.update(untouched)).raw["spec"]["size"] == 2


async def test_some_kinds_carry_annotations_with_the_status(objects: ObjectClient) -> None:
    machine = await objects.create(Machine(name="m"))
    machine.status = {"on": True}
    machine.metadata.annotations["revision"] = "2"
    written = await objects.update_status(machine)
    assert (written.status, written.metadata.annotations, written.metadata.generation) == (
        {"on": True},
        {"revision": "2"},
        1,
    )


# ---- patch ----------------------------------------------------------------------------------------------------------


async def test_merge_and_json_patches(objects: ObjectClient) -> None:
    await objects.create(site(labels={"a": "b"}))
    obj = await objects.patch(Website, "a", {"spec": {"replicas": 4}, "metadata": {"labels": {"a": None, "c": "d"}}})
    assert (obj.spec.replicas, obj.metadata.labels, obj.metadata.generation) == (4, {"c": "d"}, 2)
    obj = await objects.patch(Website, "a", [{"op": "replace", "path": "/spec/replicas", "value": 5}], kind="json")
    assert obj.spec.replicas == 5
    obj = await objects.patch(Website, "a", {"status": {"ready": 2}, "spec": {"replicas": 9}}, subresource="status")
    assert (obj.status.ready, obj.spec.replicas, obj.metadata.generation) == (2, 5, 3)
    same = await objects.patch(Website, "a", {"spec": {"replicas": 5}, "status": {"ready": 8}})
    assert same.metadata.resource_version == obj.metadata.resource_version


@pytest.mark.parametrize(
    ("patch", "kind", "error", "text"),
    [
        ({"spec": {"replicas": "x"}}, "merge", Invalid, 'spec.replicas: expected int, got "x"'),
        ({"metadata": {"name": "b"}}, "merge", Invalid, "metadata.name: is immutable"),
        ({"metadata": None}, "merge", Invalid, "metadata: required"),
        ({"kind": "Other"}, "merge", Invalid, 'kind: expected Website, got "Other"'),
        ({"metadata": {"uid": "x"}}, "merge", Conflict, "another object"),
        ({"metadata": {"resourceVersion": "1"}}, "merge", Conflict, "was changed"),
        ([{"op": "test", "path": "/spec/replicas", "value": 7}], "json", Invalid, "patch[0].path: "),
    ],
)
async def test_patches_that_are_refused(
    objects: ObjectClient, patch: Any, kind: Any, error: type[ApiError], text: str
) -> None:
    made = await objects.create(site())
    with pytest.raises(error) as caught:
        await objects.patch(Website, "a", patch, kind=kind)
    assert text in str(caught.value)
    assert await objects.get(Website, "a") == made


async def test_patches_do_not_lose_each_other(objects: ObjectClient) -> None:
    obj = await objects.create(site())
    await asyncio.gather(*(objects.patch(Website, "a", {"metadata": {"labels": {f"l{n}": "x"}}}) for n in range(4)))
    assert len((await objects.get(Website, "a")).metadata.labels) == 4
    pinned = {"metadata": {"resourceVersion": obj.metadata.resource_version}, "spec": {"replicas": 5}}
    with pytest.raises(Conflict):
        await objects.patch(Website, "a", pinned)


async def test_updates_of_one_version_have_one_winner(objects: ObjectClient) -> None:
    made = await objects.create(site())
    rivals = []
    for number in range(5):
        rival = Website.decode(made.encode(), made.metadata.resource_version or "")
        rival.spec.replicas = 10 + number
        rivals.append(rival)
    results = await asyncio.gather(*map(objects.update, rivals), return_exceptions=True)
    winners = [result for result in results if isinstance(result, Website)]
    assert len(winners) == 1
    assert all(isinstance(result, Website | Conflict) for result in results)
    assert await objects.get(Website, "a") == winners[0]


# ---- delete ---------------------------------------------------------------------------------------------------------


async def test_delete_removes_at_a_revision(objects: ObjectClient, store: Client) -> None:
    made = await objects.create(site())
    gone = await objects.delete(Website, "a")
    assert gone.object is None
    assert int(gone.revision) == int(made.metadata.resource_version or 0) + 1
    with pytest.raises(NotFound):
        await objects.delete(Website, "a")
    assert await store.get(Website.TYPE.key("default", "a")) is None


async def test_delete_preconditions(objects: ObjectClient) -> None:
    made = await objects.create(site())
    with pytest.raises(Conflict, match="another object"):
        await objects.delete(Website, "a", uid="x")
    with pytest.raises(Conflict, match="was changed"):
        await objects.delete(Website, "a", resource_version="1")
    meta = made.metadata
    assert (await objects.delete(Website, "a", uid=meta.uid, resource_version=meta.resource_version)).object is None


async def test_finalizers_keep_an_object_until_the_last_is_gone(objects: ObjectClient) -> None:
    await objects.create(site(finalizers=["x.io/a", "x.io/b"]))
    marked = (await objects.delete(Website, "a")).object
    assert marked is not None
    assert (marked.metadata.deletion_timestamp, marked.metadata.generation) == (START.replace(microsecond=0), 2)
    assert marked.metadata.deletion_grace_period_seconds == 0
    again = await objects.delete(Website, "a")
    assert (again.revision, again.object) == (marked.metadata.resource_version, marked)

    marked.metadata.finalizers = ["x.io/a", "x.io/c"]
    with pytest.raises(
        Invalid, match=r"^metadata.finalizers: none can be added while the object is being deleted: x.io/c$"
    ):
        await objects.update(marked)
    marked.metadata.finalizers = ["x.io/a"]
    marked.metadata.deletion_timestamp = None  # cannot be undone
    left = await objects.update(marked)
    assert left.deleting
    left.metadata.finalizers = []
    gone = await objects.update(left)
    assert int(gone.metadata.resource_version or 0) == int(left.metadata.resource_version or 0) + 1
    with pytest.raises(NotFound):
        await objects.get(Website, "a")


async def test_a_patch_can_take_the_last_finalizer(objects: ObjectClient) -> None:
    await objects.create(site(finalizers=["x.io/a"]))
    await objects.delete(Website, "a")
    await objects.patch(Website, "a", {"metadata": {"finalizers": None}})
    with pytest.raises(NotFound):
        await objects.get(Website, "a")


async def test_propagation_is_a_finalizer(objects: ObjectClient) -> None:
    await objects.create(site("o"))
    orphaning = (await objects.delete(Website, "o", propagation="orphan")).object
    assert orphaning is not None
    assert orphaning.metadata.finalizers == ["orphan"]
    foreground = (await objects.delete(Website, "o", propagation="foreground")).object
    assert foreground is not None
    assert foreground.metadata.finalizers == ["foregroundDeletion"]
    assert foreground.metadata.generation == 2
    assert (await objects.delete(Website, "o")).object == foreground
    assert (await objects.delete(Website, "o", propagation="background")).object is None
    await objects.create(site("p", finalizers=["orphan", "x.io/a"]))
    kept = (await objects.delete(Website, "p", propagation="background")).object
    assert kept is not None
    assert kept.metadata.finalizers == ["x.io/a"]


async def test_a_grace_period_keeps_the_object_and_can_only_shrink(objects: ObjectClient, clock: Clock) -> None:
    await objects.create(Machine(name="m", spec={"grace": 30}))
    marked = (await objects.delete(Machine, "m")).object
    assert marked is not None
    start = START.replace(microsecond=0)
    assert marked.metadata.deletion_timestamp == start + timedelta(seconds=30)
    assert (marked.metadata.deletion_grace_period_seconds, marked.metadata.generation) == (30, 2)
    clock.time += timedelta(seconds=5)
    assert (await objects.delete(Machine, "m")).object == marked
    assert (await objects.delete(Machine, "m", grace_seconds=60)).object == marked
    shorter = (await objects.delete(Machine, "m", grace_seconds=10)).object
    assert shorter is not None
    assert shorter.metadata.deletion_timestamp == start + timedelta(seconds=10)
    assert (shorter.metadata.deletion_grace_period_seconds, shorter.metadata.generation) == (10, 2)
    shorter.metadata.labels["still"] = "here"
    assert (await objects.update(shorter)).deleting
    assert (await objects.delete(Machine, "m", grace_seconds=0)).object is None


# ---- apply ----------------------------------------------------------------------------------------------------------


async def test_apply_creates_changes_and_rests(objects: ObjectClient, store: Client) -> None:
    created = await objects.apply(site(labels={"a": "1", "b": "2"}, status={"ready": 9}))
    assert (created.outcome, created.object.metadata.generation, created.object.raw.get("status")) == (
        "created",
        1,
        None,
    )
    last = json.loads(created.object.metadata.annotations[LAST_APPLIED])
    assert last["spec"] == {"image": "nginx"}
    assert LAST_APPLIED not in last["metadata"]["annotations"]

    before = await store.get(Website.TYPE.key("default", "a"))
    assert (await objects.apply(site(labels={"a": "1", "b": "2"}))).outcome == "unchanged"
    assert await store.get(Website.TYPE.key("default", "a")) == before

    other = await objects.patch(Website, "a", {"metadata": {"labels": {"c": "3"}}, "spec": {"replicas": 7, "x": 1}})
    other.status.ready = 2
    await objects.update_status(other)
    applied = await objects.apply(site(labels={"a": "1"}, spec={"image": "httpd"}))
    assert applied.outcome == "configured"
    assert applied.object.metadata.labels == {"a": "1", "c": "3"}
    assert applied.object.raw["spec"] == {"image": "httpd", "replicas": 7, "x": 1}
    assert applied.object.raw["status"] == {"ready": 2}
    assert await objects.get(Website, "a") == applied.object


async def test_apply_undoes_drift(objects: ObjectClient) -> None:
    await objects.apply(site(spec={"replicas": 2}))
    await objects.patch(Website, "a", {"spec": {"replicas": 9}})
    applied = await objects.apply(site(spec={"replicas": 2}))
    assert (applied.outcome, applied.object.spec.replicas) == ("configured", 2)


async def test_apply_takes_over_what_was_created_or_has_a_broken_note(objects: ObjectClient) -> None:
    await objects.create(site(labels={"keep": "me"}))
    assert (await objects.apply(site())).outcome == "configured"
    await objects.patch(Website, "a", {"metadata": {"annotations": {LAST_APPLIED: "{oops"}}})
    applied = await objects.apply(site())
    assert applied.object.metadata.labels == {"keep": "me"}
    assert (await objects.apply(site())).outcome == "unchanged"


async def test_an_exported_object_can_be_applied_again(objects: ObjectClient) -> None:
    exported = (await objects.apply(site())).object
    exported.metadata.resource_version = None
    exported.spec.replicas = 3
    applied = await objects.apply(exported)
    assert (applied.outcome, applied.object.spec.replicas) == ("configured", 3)


async def test_apply_with_an_owner(objects: ObjectClient) -> None:
    owner = await objects.create(site("owner"))
    child = (await objects.apply(site(), owner=owner)).object
    assert child.metadata.controller is not None
    assert (child.metadata.controller.uid, child.metadata.controller.block_owner_deletion) == (owner.metadata.uid, True)
    assert (await objects.apply(site(), owner=owner)).outcome == "unchanged"
    rival = await objects.create(site("rival"))
    await objects.create(site("b", owner_references=child.raw["metadata"]["ownerReferences"]))
    with pytest.raises(Conflict, match="is managed by Website owner"):
        await objects.apply(site("b"), owner=rival)
    with pytest.raises(Invalid, match="no uid"):
        await objects.apply(site(), owner=site("unborn"))


async def test_an_owner_made_anew_takes_the_place_of_its_forerunner(objects: ObjectClient) -> None:
    owner = await objects.create(site("owner"))
    await objects.apply(site(), owner=owner)
    await objects.delete(Website, "owner")
    again = await objects.create(site("owner"))
    child = (await objects.apply(site(), owner=again)).object
    assert [each.uid for each in child.metadata.owner_references] == [again.metadata.uid]


async def test_apply_with_a_version_is_optimistic(objects: ObjectClient) -> None:
    made = (await objects.apply(site())).object
    await objects.patch(Website, "a", {"metadata": {"labels": {"x": "y"}}})
    with pytest.raises(Conflict):
        await objects.apply(site(resource_version=made.metadata.resource_version))
    with pytest.raises(NotFound):
        await objects.apply(site("none", resource_version="1"))


async def test_applies_at_once_all_count(objects: ObjectClient) -> None:
    results = await asyncio.gather(*(objects.apply(site(spec={f"x{n}": n})) for n in range(4)))
    assert sorted(each.outcome for each in results) == ["configured", "configured", "configured", "created"]


# ---- the store ------------------------------------------------------------------------------------------------------


async def test_an_object_too_large_for_the_store(objects: ObjectClient) -> None:
    obj = site()
    obj.raw["spec"]["text"] = "x" * 3 * 1024 * 1024
    with pytest.raises(Invalid, match="larger than the store takes"):
        await objects.create(obj)


async def test_a_store_that_went_away(objects: ObjectClient, store: Client) -> None:
    await store.close()
    for call in (
        objects.get(Website, "a"),
        objects.list(Website),
        objects.create(site()),
        objects.delete(Website, "a"),
        objects.apply(site()),
    ):
        with pytest.raises(Unreachable):
            await call


async def test_what_is_asked_of_the_store_is_counted_as_the_api_server_would_see_it(
    objects: ObjectClient, store: Client
) -> None:
    made = await objects.create(site())
    with pytest.raises(AlreadyExists):
        await objects.create(site())
    with pytest.raises(NotFound):
        await objects.get(Website, "nobody")
    await objects.list(Website)
    await objects.patch(Website, "a", {"spec": {"replicas": 2}})  # a GET and a PUT
    with pytest.raises(Conflict):
        await objects.update(made)  # told by the GET
    await objects.delete(Website, "a")  # a GET and a DELETE
    assert objects.statistics().requests == {
        "POST": {"201": 1, "409": 1},
        "GET": {"200": 4, "404": 1},
        "PUT": {"200": 1},
        "DELETE": {"200": 1},
    }
    await store.close()
    with pytest.raises(Unreachable):
        await objects.get(Website, "a")
    assert objects.statistics().requests["GET"]["<error>"] == 1


# ---- constraints ----------------------------------------------------------------------------------------------------


class Disk(Resource, group="example.com", version="v1", scheme=HERE):
    class Spec:
        zone: Annotated[str, Immutable]
        size: Annotated[int, Meta(ge=1)] = 1

    class Status:
        serial: Annotated[str | None, Immutable]


async def test_immutable_fields_are_kept_in_spec_and_status(objects: ObjectClient) -> None:
    disk = await objects.create(Disk(name="a", spec={"zone": "x"}))
    disk.spec.size = 2
    disk = await objects.update(disk)
    disk.spec.zone = "y"
    with pytest.raises(Invalid, match=r"^spec.zone: is immutable$"):
        await objects.update(disk)
    disk = await objects.patch(Disk, "a", {"status": {"serial": "1"}}, subresource="status")
    disk.status.serial = "2"
    with pytest.raises(Invalid, match=r"^status.serial: is immutable$"):
        await objects.update_status(disk)


async def test_all_violations_of_a_write_are_told_together(objects: ObjectClient) -> None:
    with pytest.raises(Invalid, match=r"^spec.size: expected at least 1, got 0; spec.zone: required$"):
        disk = Disk(name="b")
        disk.raw["spec"] = {"size": 0}
        await objects.create(disk)


# ---- field managers -------------------------------------------------------------------------------------------------


def managers(obj: Resource) -> list[tuple[str, str, str | None]]:
    return [(each.manager, each.operation, each.subresource) for each in obj.metadata.managed_fields]


async def test_writers_are_noted_the_latest_last(objects: ObjectClient, clock: Clock) -> None:
    alice, bob = objects.with_field_manager("alice"), objects.with_field_manager("bob")
    made = await alice.create(site(managed_fields=[{"manager": "mallory", "operation": "Update"}]))
    assert made.raw["metadata"]["managedFields"] == [
        {"manager": "alice", "operation": "Update", "apiVersion": "example.com/v1", "time": "2024-05-01T12:00:00Z"}
    ]
    clock.time += timedelta(seconds=5)
    made.status.ready = 1
    made = await bob.update_status(made)
    assert managers(made) == [("alice", "Update", None), ("bob", "Update", "status")]
    assert made.metadata.managed_fields[1].time == START.replace(microsecond=0) + timedelta(seconds=5)
    applied = await bob.apply(site(spec={"replicas": 2}))
    made = await alice.patch(Website, "a", {"spec": {"replicas": 3}})
    assert managers(applied.object)[-1] == ("bob", "Apply", None)
    assert managers(made) == [("bob", "Update", "status"), ("bob", "Apply", None), ("alice", "Update", None)]


async def test_a_write_that_changes_nothing_notes_nobody(objects: ObjectClient, clock: Clock) -> None:
    alice, bob = objects.with_field_manager("alice"), objects.with_field_manager("bob")
    applied = await alice.apply(site())
    clock.time += timedelta(seconds=5)
    assert (await bob.apply(site())).outcome == "unchanged"
    again = await bob.update(applied.object)
    assert again.raw == applied.object.raw
    again = await bob.update_status(again)
    again.raw["metadata"]["managedFields"] = []
    assert (await bob.update(again)).raw == applied.object.raw


async def test_a_writer_of_no_name_is_noted_where_others_are(objects: ObjectClient) -> None:
    nobody = await objects.create(site("nobody"))
    assert "managedFields" not in nobody.raw["metadata"]
    nobody.spec.replicas = 2
    assert "managedFields" not in (await objects.update(nobody)).raw["metadata"]
    known = await objects.with_field_manager("alice").create(site("known"))
    known.spec.replicas = 2
    assert managers(await objects.update(known)) == [("alice", "Update", None), ("unknown", "Update", None)]


async def test_ten_writers_are_noted_at_most(objects: ObjectClient) -> None:
    made = await objects.with_field_manager("0").create(site())
    for number in range(1, 13):
        made.spec.replicas = number + 1
        made = await objects.with_field_manager(str(number)).update(made)
    assert [manager for manager, *_ in managers(made)] == [str(number) for number in range(3, 13)]


async def test_who_asked_for_a_deletion_is_noted(objects: ObjectClient) -> None:
    made = await objects.with_field_manager("alice").create(site(finalizers=["example.com/x"]))
    deleted = await objects.with_field_manager("bob").delete(Website, made.name)
    assert deleted.object is not None
    assert managers(deleted.object)[-1] == ("bob", "Update", None)
