"""Several versions of a kind in one store."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from informer import (
    Conflict,
    CustomResourceDefinition,
    Invalid,
    NotFound,
    ObjectClient,
    Resource,
    Scheme,
    crd_for,
    resource_from_crd,
    resources_from_crd,
)
from informer.client import LAST_APPLIED
from informer.conversion import carried, from_stored, to_hub
from informer.transforms import drop_fields, transform
from kvstore.client import EmbeddedClient
from kvstore.node import Node, NodeOptions

HERE = Scheme()


class Website(Resource, group="example.com", version="v1", short_names=("ws",), scheme=HERE):
    class Spec:
        size: int = 1
        hosts: list[str]
        team: str = ""

    class Status:
        ready: int = 0


class WebsiteV1Beta1(Resource, version="v1beta1", hub=Website, scheme=HERE):
    """Has one host, a size in words, and a mood that was given up."""

    class Spec:
        host: str = ""
        size: str = "1"
        mood: str | None

    class Status:
        up: bool = False
        words: str | None

    def convert_to(self, hub: Website) -> None:
        hub.spec.size = int(float(self.spec.size))
        if self.spec.host:
            hub.spec.hosts = [self.spec.host]
        hub.status.ready = int(self.status.up)

    def convert_from(self, hub: Website) -> None:
        self.spec.size = str(hub.spec.size)
        if hub.spec.hosts:
            self.spec.host = hub.spec.hosts[0]
        self.status.up = hub.status.ready > 0

    def validate(self) -> None:
        if self.spec.mood == "bad":
            raise Invalid("spec.mood", "must not be bad")


class WebsiteV1Alpha1(Resource, version="v1alpha1", hub=Website, scheme=HERE):
    """The same fields, so no code."""

    spec: Any
    status: Any


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedClient]:
    async with Node.open(tmp_path / "d", NodeOptions(fsync=False)) as node:
        client = EmbeddedClient(node)
        yield client
        await client.close()


@pytest.fixture
def objects(store: EmbeddedClient) -> ObjectClient:
    return ObjectClient(store, rng=random.Random(1))


async def stored(store: EmbeddedClient, name: str = "a") -> dict[str, Any]:
    found = await store.get(Website.TYPE.key("default", name))
    assert found is not None
    raw: dict[str, Any] = msgspec.json.decode(found.value)
    return raw


# ---- the classes ----------------------------------------------------------------------------------------------------


def test_a_version_shares_names_and_keys() -> None:
    kind = WebsiteV1Beta1.TYPE
    assert (kind.api_version, kind.kind, kind.plural) == ("example.com/v1beta1", "Website", "websites")
    assert kind.key("default", "a") == Website.TYPE.key("default", "a")
    assert HERE.lookup("websites") is Website
    assert HERE.lookup("websites.v1beta1.example.com") is WebsiteV1Beta1
    assert HERE.by_gvk("example.com/v1beta1", "Website") is WebsiteV1Beta1
    assert HERE.kinds() == [Website]


def test_mistakes_in_a_version_are_told() -> None:
    with pytest.raises(TypeError, match="gives its version alone"):

        class Other(Resource, group="example.com", version="v2", hub=Website, scheme=HERE):
            pass

    with pytest.raises(TypeError, match="is not the hub, it has one: Website"):

        class Chain(Resource, version="v2", hub=WebsiteV1Beta1, scheme=HERE):
            pass

    with pytest.raises(TypeError, match="v1 is the version of Website already"):

        class Twice(Resource, version="v1", hub=Website, scheme=HERE):
            pass


# ---- reading and writing --------------------------------------------------------------------------------------------


async def test_each_version_reads_what_the_other_wrote(objects: ObjectClient, store: EmbeddedClient) -> None:
    old = await objects.create(WebsiteV1Beta1(name="a", spec={"host": "x.example", "size": "3"}))
    assert (old.spec.host, old.spec.size, old.raw["apiVersion"]) == ("x.example", "3", "example.com/v1beta1")
    assert (await stored(store))["apiVersion"] == "example.com/v1"
    new = await objects.get(Website, "a")
    assert (new.spec.size, list(new.spec.hosts)) == (3, ["x.example"])
    new.spec.size = 5
    await objects.update(new)
    assert (await objects.get(WebsiteV1Beta1, "a")).spec.size == "5"
    assert [each.spec.size for each in await objects.list(WebsiteV1Beta1, "default")] == ["5"]


async def test_a_write_in_an_older_version_keeps_what_that_does_not_know(
    objects: ObjectClient, store: EmbeddedClient
) -> None:
    spec = {"size": 2, "hosts": ["x", "y"], "team": "web", "extra": {"a": [1]}}
    await objects.create(Website(name="a", spec=spec))
    old = await objects.get(WebsiteV1Beta1, "a")
    old.spec.size = "4"
    old.metadata.labels["seen"] = "yes"
    old = await objects.update(old)
    assert old.spec.size == "4"
    assert (await stored(store))["spec"] == {**spec, "size": 4}
    assert (await stored(store))["metadata"]["labels"] == {"seen": "yes"}
    await objects.patch(WebsiteV1Beta1, "a", {"spec": {"host": "z"}})
    assert (await stored(store))["spec"] == {**spec, "size": 4, "hosts": ["z"]}


async def test_what_the_stored_version_has_no_place_for_comes_back(objects: ObjectClient) -> None:
    made = await objects.create(WebsiteV1Beta1(name="a", spec={"host": "x", "size": "3.5", "mood": "good"}))
    assert made.raw["spec"] == {"host": "x", "size": "3.5", "mood": "good"}
    assert "annotations" not in made.raw["metadata"]
    again = await objects.get(WebsiteV1Beta1, "a")
    assert again.raw == made.raw
    hub = await objects.get(Website, "a")
    assert list(hub.metadata.annotations) == ["conversion.listwatch/v1beta1"]
    hub.spec.size = 9
    await objects.update(hub)
    again = await objects.get(WebsiteV1Beta1, "a")
    assert (again.spec.size, again.spec.mood) == ("9", "good")
    again.spec.mood = None
    again = await objects.update(again)
    assert "annotations" not in (await objects.get(Website, "a")).raw["metadata"]
    assert again.spec.mood is None


async def test_a_write_that_changes_nothing_is_none_in_any_version(objects: ObjectClient) -> None:
    made = await objects.create(WebsiteV1Beta1(name="a", spec={"host": "x", "size": "3.5", "mood": "good"}))
    assert (await objects.update(made)).metadata.resource_version == made.metadata.resource_version
    applied = await objects.apply(WebsiteV1Beta1(name="b", spec={"size": "2"}))
    assert applied.outcome == "created"
    assert (await objects.apply(WebsiteV1Beta1(name="b", spec={"size": "2"}))).outcome == "unchanged"
    applied = await objects.apply(WebsiteV1Beta1(name="b", spec={"size": "3"}))
    assert (applied.outcome, applied.object.spec.size) == ("configured", "3")
    assert (await objects.apply(Website(name="b", spec={"size": 4}))).outcome == "configured"
    last = (await objects.get(Website, "b")).metadata.annotations[LAST_APPLIED]
    assert '"apiVersion":"example.com/v1"' in last


async def test_rules_conflicts_and_generations_hold_in_every_version(objects: ObjectClient) -> None:
    with pytest.raises(Invalid, match=r"^spec.mood: must not be bad$"):
        await objects.create(WebsiteV1Beta1(name="a", spec={"mood": "bad"}))
    made = await objects.create(WebsiteV1Beta1(name="a", spec={"size": "1"}))
    made.spec.size = "2"
    changed = await objects.update(made)
    assert changed.metadata.generation == 2
    with pytest.raises(Conflict):
        await objects.update(made)
    changed.spec.mood = "bad"
    with pytest.raises(Invalid, match=r"^spec.mood"):
        await objects.update(changed)
    with pytest.raises(Invalid, match="only the stored version, v1, can be replaced"):
        await objects.replace(made)


async def test_status_and_deletion_in_an_older_version(objects: ObjectClient) -> None:
    made = await objects.create(WebsiteV1Beta1(name="a", finalizers=["example.com/x"], spec={"mood": "fine"}))
    made.status.up = True
    made.status.words = "all well"
    made.spec.size = "7"
    made = await objects.update_status(made)
    made = await objects.get(WebsiteV1Beta1, "a")
    assert (made.status.up, made.status.words, made.spec.size, made.spec.mood) == (True, "all well", "1", "fine")
    made = await objects.patch(WebsiteV1Beta1, "a", {"status": {"words": None}}, subresource="status")
    assert (made.status.words, made.spec.mood) == (None, "fine")
    assert (await objects.get(Website, "a")).status.ready == 1
    deleted = await objects.delete(WebsiteV1Beta1, "a")
    assert isinstance(deleted.object, WebsiteV1Beta1)
    deleted.object.metadata.finalizers = []
    await objects.update(deleted.object)
    with pytest.raises(NotFound):
        await objects.get(Website, "a")


async def test_versions_with_the_same_fields_need_no_code(objects: ObjectClient) -> None:
    await objects.create(WebsiteV1Alpha1(name="a", spec={"size": 3}, status={"ready": 1}))
    assert (await objects.get(Website, "a")).spec.size == 3
    assert (await objects.get(WebsiteV1Beta1, "a")).spec.size == "3"


async def test_what_is_stored_in_an_older_version_is_read_and_then_written_in_the_new(
    objects: ObjectClient, store: EmbeddedClient
) -> None:
    raw = {"apiVersion": "example.com/v1beta1", "kind": "Website", "metadata": {"name": "a", "namespace": "default"}}
    raw["metadata"] |= {"uid": "u", "generation": 1}  # type: ignore[operator]
    await store.put(Website.TYPE.key("default", "a"), msgspec.json.encode({**raw, "spec": {"size": "3", "host": "x"}}))
    found = await objects.get(Website, "a")
    assert (found.spec.size, list(found.spec.hosts)) == (3, ["x"])
    assert (await objects.get(WebsiteV1Beta1, "a")).spec.host == "x"
    await objects.update(found)
    assert (await stored(store))["apiVersion"] == "example.com/v1"
    await store.put(Website.TYPE.key("default", "b"), msgspec.json.encode({**raw, "apiVersion": "example.com/v9"}))
    with pytest.raises(Invalid, match=r"no class here converts the stored example\.com/v9; known are v1, v1beta1"):
        await objects.get(Website, "b")


def test_what_a_cache_has_transformed_is_not_written_in_any_version() -> None:
    data = Website(name="a", spec={"team": "x"}).encode()
    lean = transform(data, drop_fields("spec.team"))
    obj = WebsiteV1Beta1.decode(lean, "1")
    assert obj.raw["x-transformed"] == ["apiVersion", "kind", "metadata", "spec", "status"]


def test_a_damaged_note_names_its_place() -> None:
    hub = Website(name="a", annotations={"conversion.listwatch/v1beta1": "{"})
    with pytest.raises(Invalid, match=r"metadata.annotations\[conversion.listwatch/v1beta1\]: is damaged"):
        WebsiteV1Beta1.decode(hub.encode(), "1")


JSON = st.recursive(
    st.integers(0, 3) | st.sampled_from(["a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "name"]), inner, max_size=3)
        | st.lists(st.fixed_dictionaries({"name": st.sampled_from(["p", "q"]), "x": inner}), max_size=2)
    ),
    max_leaves=8,
)
SPECS = st.fixed_dictionaries(
    {},
    optional={"host": st.sampled_from(["x", "y"]), "size": st.sampled_from(["1", "2.5"]), "mood": st.just("m")},
)


@given(SPECS, st.dictionaries(st.sampled_from(["u", "v"]), JSON, max_size=2))
def test_there_and_back_nothing_is_lost(spec: dict[str, Any], unknown: dict[str, Any]) -> None:
    raw = WebsiteV1Beta1(name="a").raw | {"spec": {**spec, **unknown}}
    back = from_stored(WebsiteV1Beta1, to_hub(WebsiteV1Beta1, raw))
    assert {**back["spec"], **raw["spec"]} == back["spec"]
    assert "annotations" not in back["metadata"]


@given(st.integers(1, 9), st.dictionaries(st.sampled_from(["u", "v"]), JSON, max_size=2), SPECS)
def test_an_update_changes_what_it_changes(size: int, unknown: dict[str, Any], change: dict[str, Any]) -> None:
    hub = Website(name="a").raw | {"spec": {"size": size, "hosts": ["x", "y"], **unknown}}
    before = from_stored(WebsiteV1Beta1, hub)
    assert carried(WebsiteV1Beta1, before, before, hub) == hub
    after = {**before, "spec": {**before["spec"], **change}}
    result = carried(WebsiteV1Beta1, before, after, hub)
    assert {key: result["spec"][key] for key in unknown} == unknown
    shown = from_stored(WebsiteV1Beta1, result)["spec"]
    assert {key: shown[key] for key in change} == change


# ---- definitions ----------------------------------------------------------------------------------------------------


def test_the_definition_lists_all_versions() -> None:
    for cls in (Website, WebsiteV1Beta1):
        crd = crd_for(cls)
        assert [(each.name, each.storage) for each in crd.spec.versions] == [
            ("v1", True),
            ("v1beta1", False),
            ("v1alpha1", False),
        ]
        assert crd.spec.conversion.strategy == "InProcess"
        crd.default()
        crd.validate()
        assert [each.TYPE.version for each in resources_from_crd(crd)] == ["v1"]


async def test_versions_of_a_definition_that_need_no_code_are_known_from_it(objects: ObjectClient) -> None:
    here = Scheme()

    class Plain(Resource, group="example.com", version="v2", scheme=here):
        class Spec:
            size: int = 1

    class PlainV1(Resource, version="v1", hub=Plain, scheme=here):
        class Spec:
            size: int = 1

    crd = CustomResourceDefinition.from_raw(crd_for(Plain).raw)
    stored, other = resources_from_crd(crd)
    assert (stored.TYPE, other.TYPE) == (Plain.TYPE, PlainV1.TYPE)
    assert resource_from_crd(crd).TYPE == Plain.TYPE
    await objects.create(other.from_raw({"metadata": {"name": "a"}, "spec": {"size": 3}}))
    assert (await objects.get(Plain, "a")).spec.size == 3
    with pytest.raises(Invalid, match=r"^spec.size: expected int"):
        await objects.patch(other, "a", {"spec": {"size": "x"}})
