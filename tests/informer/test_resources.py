from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from informer import (
    SCHEME,
    CustomResourceDefinition,
    Invalid,
    OwnerReference,
    Resource,
    ResourceType,
    Scheme,
    UnknownKind,
    controller_reference,
    crd_for,
    resource_from_crd,
    resource_type_from_crd,
    validate_schema,
)

HERE = Scheme()


class Website(Resource, group="example.com", version="v1", short_names=("ws",), scheme=HERE):
    class Spec:
        image: str
        replicas: int = 1
        hosts: list[Host]

    class Status:
        ready: int = 0


class Host:
    name: str
    port: int | str = 80


class Policy(Resource, group="example.com", version="v1beta1", namespaced=False, status=False, scheme=HERE):
    """A kind without a spec of ours."""


def define(kind: str, scheme: Scheme, group: str) -> type[Resource]:
    make: Any = type(Resource)
    made: type[Resource] = make(kind, (Resource,), {}, group=group, version="v1", scheme=scheme)
    return made


# ---- types and keys -------------------------------------------------------------------------------------------------


def test_a_class_says_what_kind_it_is_and_where_its_objects_live() -> None:
    kind = Website.TYPE
    assert kind == ResourceType("example.com", "v1", "Website", "websites", True, ("ws",))
    assert (kind.api_version, kind.singular, kind.qualified) == ("example.com/v1", "website", "websites.example.com")
    assert kind.prefix() == b"/registry/example.com/websites/"
    assert kind.prefix("default") == b"/registry/example.com/websites/default/"
    assert kind.key("default", "a") == b"/registry/example.com/websites/default/a"


def test_keys_of_cluster_scoped_and_core_kinds() -> None:
    node = ResourceType("", "v1", "Node", "nodes", namespaced=False)
    assert (node.api_version, node.qualified) == ("v1", "nodes")
    assert node.prefix("ignored") == b"/registry/core/nodes/"
    assert node.key(None, "n1") == b"/registry/core/nodes/n1"


@pytest.mark.parametrize(
    ("kind", "plural"),
    [
        ("Website", "websites"),
        ("Policy", "policies"),
        ("Gateway", "gateways"),
        ("Ingress", "ingresses"),
        ("Box", "boxes"),
    ],
)
def test_the_plural_is_english(kind: str, plural: str) -> None:
    scheme = Scheme()
    cls = define(kind, scheme, "")
    assert scheme.lookup(plural) is cls


# ---- objects --------------------------------------------------------------------------------------------------------


def test_a_new_object_from_keywords() -> None:
    site = Website(name="a", namespace="default", labels={"x": "y"}, spec={"image": "nginx"}, status={"ready": 1})
    assert site.raw == {
        "apiVersion": "example.com/v1",
        "kind": "Website",
        "metadata": {"name": "a", "namespace": "default", "labels": {"x": "y"}},
        "spec": {"image": "nginx"},
        "status": {"ready": 1},
    }
    assert (site.name, site.namespace, site.spec.replicas, site.status.ready) == ("a", "default", 1, 1)
    assert repr(site) == "<Website default/a>"


def test_the_nested_class_itself_makes_specs() -> None:
    made: Any = Website.Spec
    site = Website(name="a", spec=made(image="x", replicas=2))
    assert site.raw["spec"] == {"image": "x", "replicas": 2}


def test_errors_name_the_path() -> None:
    with pytest.raises(Invalid) as caught:
        Website.from_raw({"metadata": {"name": "a"}, "spec": {"image": "x", "replicas": "three"}})
    assert str(caught.value) == 'spec.replicas: expected int, got "three"'
    assert caught.value.path == "spec.replicas"
    with pytest.raises(Invalid, match=r"^spec.image: required$"):
        Website.from_raw({})
    with pytest.raises(Invalid, match=r'^spec.replicas: expected int, got "3"$'):
        Website(name="a", spec={"image": "x"}).spec.replicas = "3"
    with pytest.raises(Invalid, match=r"^metadata.labels.a: expected str, got 1$"):
        Website(name="a", labels={"a": 1})
    with pytest.raises(Invalid, match=r'^kind: expected Website, got "Web"$'):
        Website.from_raw({"kind": "Web"})
    with pytest.raises(Invalid, match=r"^spec.hosts\[1\].name: required$"):
        Website.from_raw({"spec": {"image": "x", "hosts": [{"name": "a"}, {}]}})
    with pytest.raises(TypeError, match="no field 'nmae'"):
        Website(nmae="a")


def test_the_store_gets_everything_but_the_resource_version() -> None:
    site = Website.from_raw(
        {"metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"image": "x", "odd": [1, None]}}
    )
    data = site.encode()
    assert b"resourceVersion" not in data
    assert site.metadata.resource_version == "7"
    again = Website.decode(data, "9")
    assert again.metadata.resource_version == "9"
    assert again.raw["spec"] == {"image": "x", "odd": [1, None]}
    assert again.encode() == data
    again.spec.image = "y"
    assert Website.decode(data, "9").spec.image == "x"


def test_stored_bytes_that_are_no_object_are_refused() -> None:
    with pytest.raises(Invalid, match="metadata"):
        Website.decode(b"[]", "1")
    with pytest.raises(Invalid, match="metadata"):
        Website.decode(b"{}", "1")


def test_metadata_is_typed() -> None:
    site = Website(name="a", spec={"image": "x"})
    site.metadata.deletion_timestamp = datetime(2024, 1, 1, tzinfo=UTC)
    site.metadata.owner_references.append(
        OwnerReference(api_version="v1", kind="K", name="n", uid="u", controller=True)
    )
    site.metadata.finalizers.append("example.com/x")
    assert site.deleting
    assert site.metadata.controller is not None
    assert site.metadata.controller.uid == "u"
    assert site.raw["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u", "controller": True}
    ]


def test_a_kind_without_a_spec_class_has_plain_json() -> None:
    policy = Policy(name="p", spec={"any": [1, {"thing": None}]})
    policy.spec["more"] = True
    assert policy.raw["spec"] == {"any": [1, {"thing": None}], "more": True}
    assert policy.status is None


def test_a_kind_needs_a_version() -> None:
    with pytest.raises(TypeError, match="needs a version"):

        class Thing(Resource, group="example.com"):
            pass


# ---- the scheme -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["website", "websites", "Website", "WS", "websites.example.com", "website.v1.example.com"]
)
def test_lookup_by_any_name(name: str) -> None:
    assert HERE.lookup(name) is Website


def test_lookup_by_manifest() -> None:
    assert HERE.by_gvk("example.com/v1", "Website") is Website
    with pytest.raises(UnknownKind, match=r'"Website" in version "v1".*did you mean example.com/v1 Website'):
        HERE.by_gvk("v1", "Website")
    with pytest.raises(UnknownKind, match='no resource type "sites"'):
        HERE.lookup("sites")
    with pytest.raises(UnknownKind):
        HERE.lookup("websites.example.org")


def test_the_first_group_wins_and_a_later_definition_replaces() -> None:
    scheme = Scheme()
    first = define("Thing", scheme, "a.io")
    other = define("Thing", scheme, "b.io")
    assert scheme.lookup("things") is first
    assert scheme.lookup("things.b.io") is other
    again = define("Thing", scheme, "a.io")
    assert scheme.lookup("things") is again
    assert scheme.kinds() == [again, other]


def test_definitions_go_to_the_common_scheme_unless_told_otherwise() -> None:
    assert SCHEME.lookup("crd") is CustomResourceDefinition
    with pytest.raises(UnknownKind):
        SCHEME.lookup("ws")


# ---- kinds known from a definition ----------------------------------------------------------------------------------


def test_a_kind_travels_through_its_definition() -> None:
    crd = CustomResourceDefinition.from_raw(crd_for(Website).raw)
    crd.default()
    crd.validate()
    assert crd.name == "websites.example.com"
    assert resource_type_from_crd(crd) == Website.TYPE
    assert resource_type_from_crd(crd_for(Policy)) == Policy.TYPE


@pytest.mark.parametrize(
    "raw",
    [
        {"spec": {"image": "x", "replicas": "three"}},
        {"spec": {"image": "x", "replicas": True}},
        {"spec": {"image": "x", "hosts": [{"name": "a", "port": 1.5}]}},
        {"spec": {"image": "x", "hosts": {}}},
        {"spec": {"image": "x", "hosts": [{}]}},
        {"spec": {"replicas": 1}},
        {"spec": 1},
        {},
        {"kind": "Other"},
        {"metadata": {"name": 1}, "spec": {"image": "x"}},
        {"spec": {"image": "x"}, "status": {"ready": "no"}},
    ],
)
def test_the_schema_says_what_the_class_says(raw: dict[str, Any]) -> None:
    generic = resource_from_crd(crd_for(Website))
    with pytest.raises(Invalid) as by_class:
        Website.from_raw({**raw})
    with pytest.raises(Invalid) as by_schema:
        generic.from_raw({**raw})
    assert by_schema.value.path == by_class.value.path
    if not isinstance(raw.get("spec"), int):  # a class names itself, a schema has no name
        hosts = str(by_class.value).replace("list[Host]", "list")
        assert str(by_schema.value) == hosts


def test_a_generic_class_is_lossless_and_checks_the_status_alone() -> None:
    generic = resource_from_crd(crd_for(Website))
    site = generic.from_raw({"metadata": {"name": "a"}, "spec": {"image": "x", "odd": {"k": None}}})
    assert site.spec["odd"] == {"k": None}
    site.raw["status"] = {"ready": "x"}
    with pytest.raises(Invalid, match=r'^status.ready: expected int, got "x"$'):
        site.check_status()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"metadata": {"name": "x"}},
            'metadata.name: must be spec.names.plural+"."+spec.group: "websites.example.com"',
        ),
        ({"group": "Example"}, "spec.group: "),
        (
            {"versions": [{"name": "v1", "storage": True, "schema": {"openAPIV3Schema": {"properties": {"a": 1}}}}]},
            "spec.versions[0].schema.openAPIV3Schema.properties.a: expected a schema, got 1",
        ),
        (
            {"versions": [{"name": "v1", "storage": True, "schema": {"openAPIV3Schema": {"pattern": "("}}}]},
            "spec.versions[0].schema.openAPIV3Schema.pattern: is no regular expression",
        ),
        (
            {"versions": [{"name": "v1", "storage": True, "schema": {"openAPIV3Schema": {"required": "a"}}}]},
            'spec.versions[0].schema.openAPIV3Schema.required: expected list, got "a"',
        ),
        (
            {"versions": [{"name": "v1", "storage": True, "schema": {"openAPIV3Schema": {"type": "text"}}}]},
            "spec.versions[0].schema.openAPIV3Schema.type: expected",
        ),
        ({"versions": []}, "spec.versions: exactly one version has storage: true"),
        ({"scope": "Galaxy"}, 'spec.scope: expected "Namespaced" | "Cluster", got "Galaxy"'),
    ],
)
def test_a_wrong_definition(change: dict[str, Any], problem: str) -> None:
    raw = crd_for(Website).raw
    raw["metadata"] = change.pop("metadata", raw["metadata"])
    raw["spec"] |= change
    with pytest.raises(Invalid) as caught:
        CustomResourceDefinition.from_raw(raw).validate()
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("schema", "value", "problem"),
    [
        ({"type": "string", "pattern": "^a+$"}, "b", 'expected a match of ^a+$, got "b"'),
        ({"type": "string", "minLength": 2}, "a", "expected at least 2 characters, got 1"),
        ({"type": "string", "format": "date-time"}, "soon", 'expected an RFC 3339 time, got "soon"'),
        ({"type": "integer", "minimum": 1}, 0, "expected at least 1, got 0"),
        ({"type": "number", "maximum": 1, "exclusiveMaximum": True}, 1, "expected less than 1, got 1"),
        ({"type": "array", "maxItems": 1}, [1, 2], "expected at most 1 item, got 2"),
        ({"enum": ["a", 1]}, True, 'expected "a" | 1, got true'),
        ({"x-kubernetes-int-or-string": True}, 1.5, "expected int | str, got 1.5"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, [], "[] fits none of the alternatives of anyOf"),
        ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, 3, "3 fits 2 of the alternatives of oneOf"),
        ({"allOf": [{"type": "string"}, {"maxLength": 1}]}, "ab", "expected at most 1 character, got 2"),
        ({"not": {"enum": ["x"]}}, "x", '"x" is excluded'),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"k": 1}, "k: expected str, got 1"),
    ],
)
def test_schema_words(schema: dict[str, Any], value: Any, problem: str) -> None:
    with pytest.raises(Invalid) as caught:
        validate_schema(schema, value)
    assert str(caught.value) == problem


# ---- owners ---------------------------------------------------------------------------------------------------------


def test_an_owner_has_to_be_able_to_own() -> None:
    owner = Website(name="a", namespace="n", uid="u1", spec={"image": "x"})
    assert controller_reference(owner, Website.TYPE, "n") == {
        "apiVersion": "example.com/v1",
        "kind": "Website",
        "name": "a",
        "uid": "u1",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    with pytest.raises(Invalid, match="another namespace"):
        controller_reference(owner, Website.TYPE, "m")
    with pytest.raises(Invalid, match="cannot own"):
        controller_reference(owner, Policy.TYPE, None)
    with pytest.raises(Invalid, match="no uid"):
        controller_reference(Website(name="a", namespace="n"), Website.TYPE, "n")
    assert controller_reference(Policy(name="p", uid="u"), Website.TYPE, "n")["kind"] == "Policy"
