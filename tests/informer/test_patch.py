from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from informer import Invalid, patch

names = st.sampled_from(["a", "b", "c", "name"])
scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, "", "x", "y"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=10
)
objects = st.dictionaries(names, values, max_size=4)
named_lists = st.lists(st.sampled_from("pqrs"), unique=True, max_size=4).flatmap(
    lambda chosen: st.tuples(
        *(st.fixed_dictionaries({"name": st.just(n), "v": st.integers(0, 2)}) for n in chosen)
    ).map(list)
)
manifests = st.fixed_dictionaries({"spec": st.dictionaries(names, values, max_size=3)}, optional={"items": named_lists})


# ---- equality -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ({"a": None}, {}, True),
        ({"a": {}}, {"a": None}, True),
        ({"a": []}, {}, True),
        ({"a": {"b": []}}, {}, True),
        ({"a": 1, "b": [{"c": {}}]}, {"b": [{}], "a": 1}, True),
        ({"a": 0}, {}, False),
        ({"a": ""}, {}, False),
        ({"a": False}, {"a": 0}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ([{}], [], False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": "x"}, {"a": {}}, False),
    ],
)
def test_semantic_equality(left: Any, right: Any, equal: bool) -> None:
    assert patch.semantic_equal(left, right) is equal
    assert patch.semantic_equal(right, left) is equal


def normal(value: Any) -> Any:
    """The value without what counts as missing: the plain definition that the quick comparison has to agree with."""
    if isinstance(value, dict):
        found = {key: normal(item) for key, item in value.items()}
        return {key: item for key, item in found.items() if item is not None} or None
    if isinstance(value, list):
        return [normal(item) for item in value] or None
    return value


@given(values, values)
def test_semantic_equality_agrees_with_its_definition(left: Any, right: Any) -> None:
    assert patch.semantic_equal(left, right) == (
        json.dumps(normal(left), sort_keys=True) == json.dumps(normal(right), sort_keys=True)
    )
    assert patch.semantic_equal(left, copy.deepcopy(left))


@given(values)
def test_a_copy_is_equal_and_shares_nothing(value: Any) -> None:
    twin = patch.copy(value)
    assert patch.equal(twin, value)
    mine, theirs = containers(value), containers(twin)
    assert not mine & theirs


def containers(value: Any) -> set[int]:
    if isinstance(value, dict):
        return {id(value)}.union(*map(containers, value.values()))
    if isinstance(value, list):
        return {id(value)}.union(*map(containers, value))
    return set()


# ---- merge patch: the cases of RFC 7386, appendix A -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "change", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, change: Any, result: Any) -> None:
    assert patch.merge(target, change) == result


@given(values, values)
def test_merging_twice_is_merging_once_and_changes_no_argument(target: Any, change: Any) -> None:
    before = copy.deepcopy((target, change))
    once = patch.merge(target, change)
    assert patch.equal(patch.merge(once, change), once)
    assert (target, change) == before


# ---- JSON patch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "operations", "result"),
    [
        ({"a": 1}, [{"op": "add", "path": "/b", "value": 2}], {"a": 1, "b": 2}),
        ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
        ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
        ({"a": 1, "b": 2}, [{"op": "remove", "path": "/b"}], {"a": 1}),
        ({"a": [1, 2]}, [{"op": "remove", "path": "/a/0"}], {"a": [2]}),
        ({"a": 1}, [{"op": "replace", "path": "/a", "value": {"b": 2}}], {"a": {"b": 2}}),
        ({"a": [1, 2]}, [{"op": "replace", "path": "/a/1", "value": 9}], {"a": [1, 9]}),
        ({"a": {"b": 1}, "c": {}}, [{"op": "move", "from": "/a/b", "path": "/c/d"}], {"a": {}, "c": {"d": 1}}),
        ({"a": [1, 2, 3]}, [{"op": "move", "from": "/a/0", "path": "/a/2"}], {"a": [2, 3, 1]}),
        ({"a": {"b": 1}}, [{"op": "copy", "from": "/a", "path": "/c"}], {"a": {"b": 1}, "c": {"b": 1}}),
        ({"a/b": {"~x": 1}}, [{"op": "replace", "path": "/a~1b/~0x", "value": 2}], {"a/b": {"~x": 2}}),
        ({"a": 1}, [{"op": "test", "path": "/a", "value": 1}, {"op": "remove", "path": "/a"}], {}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": [1]}], [1]),
        ({"": 1}, [{"op": "remove", "path": "/"}], {}),
    ],
)
def test_json_patch(target: Any, operations: Any, result: Any) -> None:
    before = copy.deepcopy(target)
    assert patch.json_patch(target, operations) == result
    assert target == before


@pytest.mark.parametrize(
    ("target", "operation", "problem"),
    [
        ({"a": 1}, {"op": "test", "path": "/a", "value": True}, "patch[0].path: test failed at '/a'"),
        ({}, {"op": "remove", "path": "/a"}, "patch[0].path: there is no 'a' here"),
        ({}, {"op": "replace", "path": "/a", "value": 1}, "patch[0].path: there is no 'a' here"),
        ({}, {"op": "add", "path": "/a/b", "value": 1}, "patch[0].path: there is no 'a' here"),
        ({"a": []}, {"op": "add", "path": "/a/1", "value": 1}, "patch[0].path: index 1 is beyond the end of the list"),
        ({"a": []}, {"op": "add", "path": "/a/01", "value": 1}, "patch[0].path: expected a list index, got '01'"),
        (
            {"a": 1},
            {"op": "add", "path": "a", "value": 1},
            "patch[0].path: a JSON pointer starts with a slash, got 'a'",
        ),
        ({"a": 1}, {"op": "add", "path": "/a/b", "value": 1}, "patch[0].path: there is no place for 'b' here"),
        ({"a": {}}, {"op": "move", "from": "/a", "path": "/a/b"}, "patch[0].from: a value cannot move into itself"),
        ({}, {"op": "add", "path": "/a"}, "patch[0].value: required"),
        ({}, {"op": "add", "value": 1}, "patch[0].path: required"),
        (
            {},
            {"op": "grow", "path": "/a"},
            "patch[0].op: expected add, remove, replace, move, copy or test, got 'grow'",
        ),
        ({}, "add", "patch[0]: an operation is an object"),
    ],
)
def test_a_json_patch_that_cannot_be_applied(target: Any, operation: Any, problem: str) -> None:
    with pytest.raises(Invalid) as caught:
        patch.json_patch(target, [operation])
    assert str(caught.value) == problem


@given(objects, names, values, values)
def test_a_json_patch_that_fails_late_has_done_nothing(target: Any, key: str, first: Any, second: Any) -> None:
    before = copy.deepcopy(target)
    operations = [
        {"op": "add", "path": f"/{key}", "value": first},
        {"op": "add", "path": "/none/of/this", "value": second},
    ]
    with pytest.raises(Invalid):
        patch.json_patch(target, operations)
    assert patch.equal(target, before)


# ---- three-way apply ------------------------------------------------------------------------------------------------


def test_fields_that_the_manifest_dropped_go_and_those_of_others_stay() -> None:
    last = {"spec": {"a": 1, "b": {"x": 1, "y": 2}}, "labels": {"l": "1"}}
    current = {
        "spec": {"a": 1, "b": {"x": 1, "y": 2, "z": 3}, "replicas": 5},
        "labels": {"l": "1", "m": "2"},
        "status": 7,
    }
    new = {"spec": {"b": {"x": 9}}, "labels": {}}
    assert patch.three_way(last, current, new) == {
        "spec": {"b": {"x": 9, "z": 3}, "replicas": 5},
        "labels": {"m": "2"},
        "status": 7,
    }


def test_named_items_merge_by_name_and_keep_their_places() -> None:
    last = {"containers": [{"name": "gone"}, {"name": "web", "image": "1"}]}
    current = {
        "containers": [
            {"name": "gone"},
            {"name": "injected", "image": "s"},
            {"name": "web", "image": "1", "pull": "Always"},
        ]
    }
    new = {"containers": [{"name": "web", "image": "2"}, {"name": "new"}]}
    assert patch.three_way(last, current, new)["containers"] == [
        {"name": "injected", "image": "s"},
        {"name": "web", "image": "2", "pull": "Always"},
        {"name": "new"},
    ]


def test_lists_without_names_of_their_own_are_replaced() -> None:
    assert patch.three_way({}, {"args": ["a", "b"]}, {"args": ["c"]}) == {"args": ["c"]}
    twice = [{"name": "x", "path": "/1"}, {"name": "x", "path": "/2"}]
    assert patch.three_way({}, {"m": [{"name": "x", "path": "/0", "ro": True}]}, {"m": twice}) == {"m": twice}


def test_an_emptied_list_loses_its_items() -> None:
    assert patch.three_way({"m": [{"name": "x"}]}, {"m": [{"name": "x"}]}, {"m": []}) == {"m": []}


def test_null_in_a_manifest_removes_the_field() -> None:
    assert patch.three_way({}, {"a": {"b": 1, "c": 2}}, {"a": {"b": None}}) == {"a": {"c": 2}}


@given(manifests, manifests, manifests)
def test_apply_again_changes_nothing(last: Any, current: Any, new: Any) -> None:
    before = copy.deepcopy((last, current, new))
    once = patch.three_way(last, current, new)
    assert patch.equal(patch.three_way(new, once, new), once)
    assert (last, current, new) == before


@given(manifests, manifests, manifests)
def test_apply_gives_what_the_manifest_says(last: Any, current: Any, new: Any) -> None:
    says(patch.three_way(last, current, new), new)


def says(result: Any, manifest: Any) -> None:
    """Everything in the manifest is in the result; what else is there came from others."""
    if isinstance(manifest, dict):
        for key, value in manifest.items():
            if value is None:
                assert key not in result
            else:
                says(result[key], value)
    elif isinstance(manifest, list) and all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in manifest
    ):
        for item in manifest:
            assert any(covers(each, item) for each in result)
    else:
        assert patch.equal(result, manifest)


def covers(result: Any, manifest: Any) -> bool:
    try:
        says(result, manifest)
    except (AssertionError, KeyError, TypeError):
        return False
    return True
