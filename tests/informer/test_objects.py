from __future__ import annotations

import copy
import enum
import json
import pickle
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from informer import Invalid, Key, Model, schema_of


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Port(Model):
    container_port: int
    protocol: str = "TCP"
    name: str | None


class Plain:
    """An ordinary class: nothing of ours."""

    size: int = 3
    tags: list[str]

    def twice(self) -> int:
        return 2 * self.size


class Tree(Model):
    value: int = 0
    children: list[Tree]
    left: Tree | None


class Sample(Model):
    image: str
    replicas: int = 1
    ratio: float = 0.5
    on: bool = False
    surge: int | str = "25%"
    mode: Literal["fast", "slow"] = "fast"
    color: Color = Color.RED
    at: datetime | None
    args: list[str]
    labels: dict[str, str]
    ports: list[Port]
    named: dict[str, Port]
    times: list[datetime]
    first: Port
    other: Port | None
    plain: Plain
    pod_ip: Annotated[str, Key("podIP")] = ""
    extra: Any
    sizes: list[int] = [1, 2]  # noqa: RUF012
    from_: str = ""


def sample(**fields: Any) -> Sample:
    return Sample.from_raw({"image": "x", "first": {"containerPort": 1}, **fields})


# ---- reading --------------------------------------------------------------------------------------------------------


def test_attributes_read_their_json_fields() -> None:
    obj = sample(replicas=3, surge=1, color="blue", at="2024-01-02T03:04:05Z", podIP="10.0.0.1")
    obj.raw["from"] = "there"
    assert (obj.image, obj.replicas, obj.surge, obj.color) == ("x", 3, 1, Color.BLUE)
    assert obj.at == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (obj.pod_ip, obj.from_) == ("10.0.0.1", "there")


def test_missing_and_null_fields_read_as_their_default() -> None:
    for obj in (sample(), sample(replicas=None, ratio=None, at=None, args=None)):
        assert (obj.replicas, obj.ratio, obj.on, obj.surge, obj.mode, obj.color) == (
            1,
            0.5,
            False,
            "25%",
            "fast",
            Color.RED,
        )
        assert obj.at is None
        assert obj.other is None
        assert obj.extra is None
        assert list(obj.args) == []
        assert obj.sizes == [1, 2]


def test_an_int_is_a_float_but_a_bool_is_no_int() -> None:
    assert sample(ratio=2).ratio == 2.0
    with pytest.raises(Invalid, match=r"^replicas: expected int, got true$"):
        sample(replicas=True)


def test_reading_stores_nothing() -> None:
    obj = sample()
    before = copy.deepcopy(obj.raw)
    for name in Sample._fields:
        getattr(obj, name)
    assert obj.labels.get("a") is None
    assert obj.plain.size == 3
    assert obj.raw == before


def test_a_missing_required_field_is_an_error_that_names_it() -> None:
    with pytest.raises(Invalid, match=r"^image: required$") as caught:
        Sample()._fields["image"].__get__(Sample())
    assert caught.value.path == "image"


# ---- writing --------------------------------------------------------------------------------------------------------


def test_writes_go_into_the_json_in_its_own_form() -> None:
    obj = sample()
    obj.replicas = 4
    obj.color = Color.BLUE
    obj.at = datetime(2024, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    obj.args = ["a"]
    obj.ports = [Port(container_port=80)]
    obj.pod_ip = "::1"
    assert obj.raw == {
        "image": "x",
        "first": {"containerPort": 1},
        "replicas": 4,
        "color": "blue",
        "at": "2024-01-02T03:04:05Z",
        "args": ["a"],
        "ports": [{"containerPort": 80}],
        "podIP": "::1",
    }


def test_microseconds_survive() -> None:
    obj = sample()
    obj.at = datetime(2024, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    assert obj.raw["at"] == "2024-01-02T03:04:05.000678Z"
    assert obj.at.microsecond == 678


@pytest.mark.parametrize(
    ("attribute", "value", "problem"),
    [
        ("replicas", "three", 'replicas: expected int, got "three"'),
        ("replicas", None, "replicas: expected int, got null"),
        ("surge", 1.5, "surge: expected int | str, got 1.5"),
        ("mode", "medium", 'mode: expected "fast" | "slow", got "medium"'),
        ("color", "green", 'color: expected "red" | "blue", got "green"'),
        ("at", "yesterday", 'at: expected an RFC 3339 time, got "yesterday"'),
        ("at", datetime(2024, 1, 1), "at: expected a time with a zone, got a naive datetime"),  # noqa: DTZ001
        ("args", "ls", 'args: expected list[str], got "ls"'),
        ("args", ["a", 1], "args[1]: expected str, got 1"),
        ("labels", {"a/b": 1}, "labels[a/b]: expected str, got 1"),
        ("labels", {1: "x"}, "labels: expected str keys, got 1"),
        ("ports", [{}], "ports[0].containerPort: required"),
        ("first", {"containerPort": "x"}, 'first.containerPort: expected int, got "x"'),
        ("first", 5, "first: expected Port, got 5"),
        ("extra", object, "extra: expected JSON, got type"),
    ],
)
def test_a_write_that_does_not_fit_is_refused_and_changes_nothing(attribute: str, value: Any, problem: str) -> None:
    obj = sample(replicas=2)
    before = copy.deepcopy(obj.raw)
    with pytest.raises(Invalid) as caught:
        setattr(obj, attribute, value)
    assert str(caught.value) == problem
    assert obj.raw == before


def test_a_long_value_is_cut_in_the_error() -> None:
    with pytest.raises(Invalid) as caught:
        sample(replicas="x" * 500)
    assert len(str(caught.value)) < 120


def test_assigning_none_removes_an_optional_field() -> None:
    obj = sample(at="2024-01-02T03:04:05Z", other={"containerPort": 2})
    obj.at = None
    obj.other = None
    del obj.raw["first"]
    assert obj.raw == {"image": "x"}


def test_a_misspelt_attribute_is_an_error() -> None:
    with pytest.raises(AttributeError):
        sample().replica = 3  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="no field 'imgae'"):
        Sample(imgae="x")


def test_assigning_copies() -> None:
    one, two = sample(), sample()
    one.first.name = "a"
    two.first = one.first
    two.first.name = "b"
    assert one.first.name == "a"
    labels = {"a": "b"}
    one.labels = labels
    labels["c"] = "d"
    assert one.raw["labels"] == {"a": "b"}


# ---- views of what is not there yet ---------------------------------------------------------------------------------


def test_a_missing_container_joins_the_object_with_its_first_write() -> None:
    obj = sample()
    obj.labels["a"] = "b"
    obj.args.append("x")
    obj.sizes.append(3)
    obj.plain.tags.append("t")
    assert obj.raw["labels"] == {"a": "b"}
    assert obj.raw["args"] == ["x"]
    assert obj.raw["sizes"] == [1, 2, 3]
    assert obj.raw["plain"] == {"tags": ["t"]}
    assert sample().sizes == [1, 2]


def test_two_holders_of_a_missing_container_see_one_container() -> None:
    obj = sample()
    one, two = obj.labels, obj.labels
    one["a"] = "1"
    two["b"] = "2"
    assert one == two == obj.labels == {"a": "1", "b": "2"}


def test_a_view_held_while_the_field_is_replaced_underneath_does_not_undo_it() -> None:
    obj = sample()
    held = obj.plain
    obj.raw["plain"] = {"size": 9}
    held.tags = ["x"]
    assert obj.raw["plain"] == {"size": 9, "tags": ["x"]}


def test_deleting_from_a_default_is_kept_and_from_nothing_is_an_error() -> None:
    obj = sample()
    del obj.sizes[0]
    assert obj.raw["sizes"] == [2]
    with pytest.raises(KeyError):
        del obj.labels["a"]
    with pytest.raises(IndexError):
        del obj.args[0]
    assert "labels" not in obj.raw
    assert "args" not in obj.raw


def test_a_missing_object_joins_through_missing_parents() -> None:
    class Inner(Model):
        names: list[str]

    class Middle(Model):
        inner: Inner

    class Outer(Model):
        middle: Middle

    obj = Outer()
    obj.middle.inner.names.append("x")
    assert obj.raw == {"middle": {"inner": {"names": ["x"]}}}


# ---- lists and dicts of objects -------------------------------------------------------------------------------------


def test_items_of_lists_and_dicts_are_views_too() -> None:
    obj = sample(ports=[{"containerPort": 1}, {"containerPort": 2, "odd": True}], named={"a": {"containerPort": 3}})
    obj.ports[1].name = "web"
    obj.named["a"].container_port = 4
    obj.named["b"] = Port(container_port=5)
    assert obj.raw["ports"][1] == {"containerPort": 2, "odd": True, "name": "web"}
    assert obj.raw["named"] == {"a": {"containerPort": 4}, "b": {"containerPort": 5}}
    assert [port.container_port for port in obj.ports] == [1, 2]
    assert obj.ports[-1].container_port == 2
    assert [port.container_port for port in obj.ports[:1]] == [1]


def test_a_list_of_objects_behaves_as_a_list() -> None:
    obj = sample()
    ports = obj.ports
    ports.extend([Port(container_port=3), Port(container_port=1)])
    ports.insert(0, {"containerPort": 2})  # type: ignore[arg-type]
    ports.sort(key=lambda port: port.container_port)
    assert [port["containerPort"] for port in obj.raw["ports"]] == [1, 2, 3]
    ports[0] = Port(container_port=9)
    del ports[1]
    assert ports == [Port(container_port=9), Port(container_port=3)]
    more = [Port(container_port=4)]
    assert len(ports + more) == len(more + ports) == 3
    ports[:] = []
    assert obj.raw["ports"] == []


def test_an_item_that_does_not_fit_is_refused() -> None:
    obj = sample(ports=[{"containerPort": 1}])
    with pytest.raises(Invalid, match=r"^ports\[1\].containerPort: expected int"):
        obj.ports.append({"containerPort": "x"})  # type: ignore[arg-type]
    with pytest.raises(Invalid, match=r"^ports\[0\].protocol: expected str, got 1"):
        obj.ports[0].protocol = 1  # type: ignore[assignment]
    assert obj.raw["ports"] == [{"containerPort": 1}]


def test_times_in_a_list_are_converted_both_ways() -> None:
    obj = sample()
    moment = datetime(2024, 1, 2, tzinfo=UTC)
    obj.times.append(moment)
    assert obj.raw["times"] == ["2024-01-02T00:00:00Z"]
    assert list(obj.times) == [moment]


# ---- ordinary classes, recursion, definitions -----------------------------------------------------------------------


def test_an_ordinary_class_becomes_a_view_and_keeps_its_methods() -> None:
    obj = sample(plain={"size": 4})
    assert obj.plain.twice() == 8
    with pytest.raises(Invalid, match=r"^plain.size: expected int"):
        obj.plain.size = "x"  # type: ignore[assignment]


def test_a_class_may_contain_itself() -> None:
    tree = Tree.from_raw({"children": [{"value": 1, "left": {"value": 2}}]})
    assert tree.children[0].left is not None
    assert tree.children[0].left.value == 2
    with pytest.raises(Invalid, match=r"^children\[0\].left.value: expected int"):
        Tree.from_raw({"children": [{"left": {"value": "x"}}]})


class Early(Model):
    late: Late | None


class Late(Model):
    size: int = 1


def test_an_annotation_may_name_a_class_defined_later() -> None:
    assert Early.from_raw({"late": {"size": 2}}).late == Late(size=2)
    with pytest.raises(Invalid, match=r"^late.size"):
        Early.from_raw({"late": {"size": "x"}})


def test_bad_definitions_are_errors_at_once() -> None:
    with pytest.raises(TypeError, match=r"Bad1\.x: unsupported annotation set\[int\]"):

        class Bad1(Model):
            x: set[int]

    with pytest.raises(TypeError, match=r"Bad2\.raw: the name is reserved"):

        class Bad2(Model):
            raw: int  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"Bad3\.ab_c: abC has the JSON name 'abC' already"):

        class Bad3(Model):
            abC: int  # noqa: N815
            ab_c: int

    with pytest.raises(TypeError, match=r'Bad4\.n: default: expected int, got "1"'):

        class Bad4(Model):
            n: int = "1"  # type: ignore[assignment]

    with pytest.raises(TypeError, match="one object type only"):

        class Bad5(Model):
            x: Port | Late


def test_fields_are_inherited_and_can_be_redefined() -> None:
    class Wider(Port):
        protocol: str = "UDP"
        host_port: int = 0

    assert Wider.from_raw({"containerPort": 1}).protocol == "UDP"
    with pytest.raises(Invalid, match="containerPort: required"):
        Wider.from_raw({})


# ---- the whole ------------------------------------------------------------------------------------------------------


def test_objects_compare_copy_pickle_and_show_by_their_json() -> None:
    obj = sample(replicas=2)
    assert obj == sample(replicas=2) != sample(replicas=3)
    assert Port(container_port=1) != sample()
    assert sample(extra=1) != sample(extra=True)
    for twin in (copy.deepcopy(obj), copy.copy(obj), pickle.loads(pickle.dumps(obj))):
        assert twin == obj
        twin.replicas = 7
        assert obj.replicas == 2
    assert repr(Port(container_port=1)) == "Port({'containerPort': 1})"


def test_a_schema_follows_from_the_annotations() -> None:
    schema = schema_of(Sample)
    assert schema["required"] == ["image", "first"]
    properties = schema["properties"]
    assert properties["replicas"] == {"type": "integer", "default": 1}
    assert properties["surge"] == {"x-kubernetes-int-or-string": True, "default": "25%"}
    assert properties["color"] == {"enum": ["red", "blue"], "type": "string", "default": "red"}
    assert properties["at"] == {"type": "string", "format": "date-time"}
    assert properties["labels"] == {"type": "object", "additionalProperties": {"type": "string"}}
    assert properties["ports"]["items"]["required"] == ["containerPort"]
    assert properties["podIP"] == {"type": "string", "default": ""}
    assert schema_of(Tree)["properties"]["left"]["x-kubernetes-preserve-unknown-fields"] is True


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(extra=st.dictionaries(st.text(), json_values, max_size=5), replicas=st.integers(0, 9))
def test_what_nobody_modelled_survives_reads_and_writes(extra: dict[str, Any], replicas: int) -> None:
    unknown = {key: value for key, value in extra.items() if key not in {f.key for f in Sample._fields.values()}}
    obj = sample(**unknown, ports=[{"containerPort": 1, **{f"x{k}": v for k, v in unknown.items()}}])
    before = json.loads(json.dumps(obj.raw))
    obj.replicas = replicas
    obj.ports[0].name = "n"
    obj.ports[0].name = None
    assert obj.raw == {**before, "replicas": replicas}


@given(raw=st.dictionaries(st.sampled_from([f.key for f in Sample._fields.values()]), json_values))
def test_what_passed_the_check_can_be_read(raw: dict[str, Any]) -> None:
    raw = {"image": "x", "first": {"containerPort": 1}, **raw}
    broken = [field.key for field in Sample._fields.values() if not readable(Sample._over(raw), field.attribute)]
    try:
        Sample.from_raw(raw)
    except Invalid as error:
        refused = error.path
    else:
        refused = ""
    # The check goes deeper than a read, so it may refuse more, but never less.
    assert refused or not broken


def readable(obj: Sample, attribute: str) -> bool:
    try:
        value = getattr(obj, attribute)
        if isinstance(value, Iterable):
            list(value)
    except Invalid:
        return False
    return True
