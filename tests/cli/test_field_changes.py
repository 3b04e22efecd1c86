"""What differs between two JSON objects, by fields and by lines."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.cli.field_changes import MOST_LINES, field_changes, summary, unified_diff
from controllers.cli.yaml_writer import to_yaml

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a", "b", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "type", "x", "a.b/c"]), inner, max_size=3)
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(["spec", "metadata", "data"]), VALUES, max_size=3)


def same(a: Any, b: Any) -> bool:
    """As JSON: 1 and true differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


@given(OBJECTS, OBJECTS)
def test_nothing_differs_only_between_equals(old: Any, new: Any) -> None:
    assert (field_changes(old, new) == []) == same(old, new)
    assert field_changes(old, old) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["~ a.b: 1 -> 2"]),
        ({"a": 1}, {"b": {"c": []}}, ["- a: 1", '+ b: {"c":[]}']),
        ({"a": True}, {"a": 1}, ["~ a: true -> 1"]),
        ({"a": {"x.y/z": "1"}}, {"a": {}}, ['- a[x.y/z]: "1"']),
        ({"a": [1, 2]}, {"a": [1, 3]}, ["~ a: [1,2] -> [1,3]"]),
        (
            {"c": [{"name": "x", "v": 1}, {"name": "y"}]},
            {"c": [{"name": "x", "v": 2}, {"name": "z"}]},
            ["~ c[name=x].v: 1 -> 2", '- c[name=y]: {"name":"y"}', '+ c[name=z]: {"name":"z"}'],
        ),
        (
            {"c": [{"type": "x"}, {"type": "y"}]},
            {"c": [{"type": "y"}, {"type": "x"}]},
            ['~ c (order): ["[type=x]","[type=y]"] -> ["[type=y]","[type=x]"]'],
        ),
        (
            {"c": [{"name": "x", "d": [{"port": 1, "v": [{}]}]}]},
            {"c": [{"name": "x", "d": [{"port": 1, "v": [{"k": 1}]}]}]},
            ["+ c[name=x].d[port=1].v[0].k: 1"],
        ),
        ({"c": [{"name": "x", "v": 1}] * 2}, {"c": [{"name": "x", "v": 1}]}, ['- c[1]: {"name":"x","v":1}']),
    ],
)
def test_changes_by_field(old: dict[str, Any], new: dict[str, Any], told: list[str]) -> None:
    assert [str(each) for each in field_changes(old, new)] == told


def test_a_summary_tells_what_was_wanted_first_and_stays_short() -> None:
    old: dict[str, Any] = {"metadata": {"generation": 1}, "spec": {"a": 1}, "status": {"b": 1, "c": 1, "d": 1}}
    new: dict[str, Any] = {"metadata": {"generation": 2}, "spec": {"a": "x" * 99}, "status": {"b": 2, "c": 2, "e": {}}}
    told = summary(field_changes(old, new))
    assert told == f'spec.a: 1 -> "{"x" * 36}..., status.b: 1 -> 2, status.c: 1 -> 2, -status.d, 1 more'
    assert summary(field_changes({"metadata": {"generation": 1}}, {"metadata": {"generation": 2}})) == (
        "metadata.generation: 1 -> 2"
    )


def test_a_summary_tells_conditions_by_their_names() -> None:
    ready = {"type": "Ready", "status": "False", "message": "not yet", "lastTransitionTime": "1"}
    old = {"status": {"conditions": [ready]}}
    new = {
        "status": {
            "conditions": [{"type": "New", "status": "True"}, {**ready, "status": "True", "lastTransitionTime": "2"}],
            "phase": "Up",
        }
    }
    assert summary(field_changes(old, new)) == '+status.phase="Up", Ready: "False" -> "True", +New="True"'


def lines(count: int, **changed: str) -> dict[str, Any]:
    return {"data": {f"k{i:05}": changed.get(f"k{i:05}", f"v{i}") for i in range(count)}}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (lines(3), lines(3, k00001="x")),
        (lines(100), lines(100, k00000="x", k00040="x\ny", k00099="")),
        (lines(100, k00050="b"), lines(101, k00050="c")),
        (lines(5), lines(2)),
        (lines(2), {"data": {}}),
        ({"a": 1}, lines(4)),
        (lines(MOST_LINES + 50), {"data": {f"k{i:05}": f"w{i}" for i in range(MOST_LINES + 90)}, "z": 1}),
        (lines(60), lines(60)),
    ],
)
def test_patch_takes_what_a_unified_diff_says(old: dict[str, Any], new: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "object"
    file.write_text(to_yaml(old))
    text = "".join(f"{line}\n" for line in unified_diff(old, new, "object", 1, 2))
    if old == new:
        assert len(text.splitlines()) == 2
        return
    done = subprocess.run(
        ["patch", "--fuzz=0", "--silent", str(file)],
        input=text,
        text=True,
        capture_output=True,
        timeout=10,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # a wrong line number would be told
    assert file.read_text() == to_yaml(new)


def test_what_was_not_there_is_compared_with_nothing() -> None:
    assert unified_diff(None, {"a": 1}, "n", 1, 2) == [
        "--- /dev/null\trevision 1", "+++ n\trevision 2", "@@ -0,0 +1 @@", "+a: 1",
    ]  # fmt: skip
    assert unified_diff({"a": 1}, None, "n", 1, 2)[2:] == ["@@ -1 +0,0 @@", "-a: 1"]
