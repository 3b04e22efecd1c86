"""What annotations say besides types, in classes and in the definitions that carry them to other processes."""

from __future__ import annotations

import pickle
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest

from informer import Immutable, Invalid, Meta, Model, Resource, Scheme, crd_for, resource_from_crd
from informer.schema import check_transition, validate_schema

HERE = Scheme()


class Tier(StrEnum):
    GOLD = "gold"
    LEAD = "lead"


class Disk(Model):
    """Where the data is."""

    zone: Annotated[str, Immutable]
    size: Annotated[int, Meta(ge=1, multiple_of=5)] = 5


class Site(Resource, group="example.com", version="v1", scheme=HERE):
    """A site on the web."""

    class Spec:
        replicas: Annotated[int, Meta(ge=0, le=100, description="How many.")] = 1
        share: Annotated[float, Meta(gt=0, lt=1)] | None
        host: Annotated[str, Meta(pattern="^[a-z.]+$", min_length=3, max_length=20)]
        paths: Annotated[list[Annotated[str, Meta(pattern="^/")]], Meta(min_length=1, max_length=3)]
        limits: Annotated[dict[str, int], Meta(max_length=2)]
        port: Annotated[int | str, Meta(ge=1)] = 80
        tier: Tier = Tier.LEAD
        mode: Literal["on", "off"] = "on"
        note: Annotated[str | None, Meta(max_length=5)]
        disk: Disk | None
        disks: dict[str, Disk]
        hub: Annotated[str, Immutable] = "main"

    class Status:
        ip: Annotated[str | None, Immutable]


Defined = resource_from_crd(crd_for(Site))


def raw(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "a"}, "spec": {"host": "a.example", "paths": ["/"], **spec}}


WRONG = [
    ({"replicas": -1}, "spec.replicas: expected at least 0, got -1"),
    ({"replicas": 101}, "spec.replicas: expected at most 100, got 101"),
    ({"share": 0.0}, "spec.share: expected more than 0, got 0.0"),
    ({"share": 1}, "spec.share: expected less than 1, got 1"),
    ({"host": "A.b"}, 'spec.host: expected a match of ^[a-z.]+$, got "A.b"'),
    ({"host": "ab"}, "spec.host: expected at least 3 characters, got 2"),
    ({"host": "a" * 21}, "spec.host: expected at most 20 characters, got 21"),
    ({"paths": []}, "spec.paths: expected at least 1 item, got 0"),
    ({"paths": ["/", "x"]}, 'spec.paths[1]: expected a match of ^/, got "x"'),
    ({"paths": ["/"] * 4}, "spec.paths: expected at most 3 items, got 4"),
    ({"limits": {"a": 1, "b": 2, "c": 3}}, "spec.limits: expected at most 2 entries, got 3"),
    ({"port": 0}, "spec.port: expected at least 1, got 0"),
    ({"tier": "iron"}, 'spec.tier: expected "gold" | "lead", got "iron"'),
    ({"mode": "half"}, 'spec.mode: expected "on" | "off", got "half"'),
    ({"note": "longer"}, "spec.note: expected at most 5 characters, got 6"),
    ({"disk": {"zone": "a", "size": 7}}, "spec.disk.size: expected a multiple of 5, got 7"),
    ({"disks": {"x": {"zone": "a", "size": 0}}}, "spec.disks.x.size: expected at least 1, got 0"),
    ({"paths": None}, "spec.paths: required"),
]


@pytest.mark.parametrize("cls", [Site, Defined], ids=["class", "definition"])
@pytest.mark.parametrize(("spec", "problem"), WRONG)
def test_a_value_out_of_bounds_is_named_by_its_path(cls: type[Resource], spec: dict[str, Any], problem: str) -> None:
    with pytest.raises(Invalid) as caught:
        cls.from_raw(raw(**spec))
    assert str(caught.value) == problem


@pytest.mark.parametrize("cls", [Site, Defined], ids=["class", "definition"])
def test_what_keeps_the_rules_is_taken(cls: type[Resource]) -> None:
    spec = {
        "replicas": 100,
        "share": 0.5,
        "limits": {"a": 1},
        "port": "http",
        "note": "short",
        "disk": {"zone": "a", "size": 10},
    }
    assert cls.from_raw(raw(**spec)).raw["spec"]["port"] == "http"


@pytest.mark.parametrize("cls", [Site, Defined], ids=["class", "definition"])
def test_all_that_is_wrong_is_told_together(cls: type[Resource]) -> None:
    with pytest.raises(Invalid) as caught:
        cls.from_raw({"metadata": {}, "spec": {"replicas": -1, "paths": ["x", "/", "y"], "tier": "iron"}})
    told = caught.value
    assert sorted(path for path, _ in told.problems) == [
        "spec.host",
        "spec.paths[0]",
        "spec.paths[2]",
        "spec.replicas",
        "spec.tier",
    ]
    assert "spec.host: required" in str(told).split("; ")
    assert pickle.loads(pickle.dumps(told)).problems == told.problems


def test_of_a_thousand_wrong_items_ten_are_told() -> None:
    class Many(Model):
        items: list[int]

    with pytest.raises(Invalid) as caught:
        Many.from_raw({"items": ["x"] * 1000})
    assert len(caught.value.problems) == 10


def test_what_is_put_in_is_checked_at_once_and_what_is_there_can_be_read() -> None:
    site = Site.decode(b'{"metadata":{"name":"a"},"spec":{"host":"X","paths":["x"],"replicas":500}}', "1")
    assert (site.spec.host, site.spec.replicas, list(site.spec.paths)) == ("X", 500, ["x"])
    with pytest.raises(Invalid, match=r"^spec.replicas: expected at most 100, got 101$"):
        site.spec.replicas = 101
    with pytest.raises(Invalid, match=r"^spec.paths\[1\]: expected a match"):
        site.spec.paths.append("y")
    site.spec.replicas = 7
    site.spec.paths[0] = "/x"
    assert site.raw["spec"] == {"host": "X", "paths": ["/x"], "replicas": 7}


def test_a_constraint_that_says_nothing_about_its_type_is_a_mistake_in_the_class() -> None:
    with pytest.raises(TypeError, match=r"Bad.a: ge says nothing about str$"):

        class Bad(Model):
            a: Annotated[str, Meta(ge=1)]

    with pytest.raises(TypeError, match="min_length says nothing about int"):

        class Worse(Model):
            a: Annotated[int, Meta(min_length=1)]

    with pytest.raises(TypeError, match="default: expected at least 1, got 0"):

        class Default(Model):
            a: Annotated[int, Meta(ge=1)] = 0


# ---- immutable ------------------------------------------------------------------------------------------------------

CHANGES = [
    ({}, {"hub": "main"}, ""),
    ({}, {"hub": "other"}, "spec.hub: is immutable"),
    ({"hub": "other"}, {}, "spec.hub: is immutable"),
    ({"disk": {"zone": "a"}}, {"disk": {"zone": "a", "size": 10}}, ""),
    ({"disk": {"zone": "a"}}, {"disk": {"zone": "b"}}, "spec.disk.zone: is immutable"),
    ({"disk": {"zone": "a"}}, {}, "spec.disk.zone: is immutable"),
    ({}, {"disk": {"zone": "b"}}, ""),
    ({"disks": {"x": {"zone": "a"}}}, {"disks": {"x": {"zone": "b"}}}, "spec.disks.x.zone: is immutable"),
    ({"disks": {"x": {"zone": "a"}}}, {"disks": {"y": {"zone": "b"}}}, ""),
    (
        {"disk": {"zone": "a"}, "hub": "x"},
        {"disk": {"zone": "b"}, "hub": "y"},
        "spec.disk.zone: is immutable; spec.hub: is immutable",
    ),
]


@pytest.mark.parametrize("cls", [Site, Defined], ids=["class", "definition"])
@pytest.mark.parametrize(("old", "new", "problem"), CHANGES)
def test_an_immutable_field_can_be_set_once(
    cls: type[Resource], old: dict[str, Any], new: dict[str, Any], problem: str
) -> None:
    before, after = cls.from_raw(raw(**old)), cls.from_raw(raw(**new))
    if not problem:
        after.check_change(before)
        return
    with pytest.raises(Invalid) as caught:
        after.check_change(before)
    assert str(caught.value) == problem


def test_items_of_a_list_cannot_be_immutable() -> None:
    class Disks(Model):
        disks: list[Disk]

    class Fleet(Resource, group="example.com", version="v1", scheme=HERE):
        spec: Disks

    fleet = Fleet(name="a")
    with pytest.raises(TypeError, match="items of a list"):
        fleet.check_change(fleet)


def test_other_rules_of_a_definition_are_passed_over() -> None:
    schema = {"properties": {"a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}
    check_transition(schema, {"a": 2}, {"a": 1})


# ---- schemas --------------------------------------------------------------------------------------------------------


def test_the_schema_bears_constraints_defaults_enums_and_docs() -> None:
    schema = Site.schema()
    spec = schema["properties"]["spec"]["properties"]
    assert schema["description"] == "A site on the web."
    assert spec["replicas"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": 100,
        "description": "How many.",
        "default": 1,
    }
    assert spec["share"] == {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "exclusiveMaximum": True,
    }
    assert spec["paths"] == {
        "type": "array",
        "items": {"type": "string", "pattern": "^/"},
        "minItems": 1,
        "maxItems": 3,
    }
    assert spec["tier"] == {"type": "string", "enum": ["gold", "lead"], "default": "lead"}
    assert spec["disk"]["description"] == "Where the data is."
    assert spec["hub"]["x-kubernetes-validations"] == [{"rule": "self == oldSelf", "message": "is immutable"}]
    assert schema["properties"]["spec"]["required"] == ["host", "paths"]
    assert crd_for(Site).spec.versions[0].schema.open_api_v3_schema == schema
    assert Defined.schema() == schema


def test_json_schema_is_for_programs_that_know_nothing_of_kubernetes() -> None:
    schema = Site.json_schema()
    spec = schema["properties"]["spec"]["properties"]
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["properties"]["kind"] == {"const": "Site"}
    assert spec["share"] == {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    assert spec["port"]["type"] == ["integer", "string"]
    assert "x-kubernetes" not in repr(schema)


def test_multiples_of_a_fraction() -> None:
    validate_schema({"type": "number", "multipleOf": 0.1}, 0.3)
    with pytest.raises(Invalid, match=r"expected a multiple of 0.1, got 0.35"):
        validate_schema({"type": "number", "multipleOf": 0.1}, 0.35)
