"""YAML as Kubernetes reads it, and YAML that reads back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.cli.json_writer import to_json
from controllers.cli.yaml_reader import MAX_VALUES, YamlError, read_yaml
from controllers.cli.yaml_writer import to_yaml


def read(text: str) -> Any:
    (document,) = read_yaml(text)
    return document.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # go-yaml v2, which Kubernetes' tools read with, has YAML 1.1's booleans ...
        ("on", True),
        ("No", False),
        ("y", True),
        ("true", True),
        ("tRuE", "tRuE"),
        ('"on"', "on"),
        # ... and numbers, but not its sexagesimals and dates.
        ("12:30", "12:30"),
        ("2024-01-02", "2024-01-02"),
        ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
        ("0777", 511),
        ("0o777", 511),
        ("0x1F", 31),
        ("0b101", 5),
        ("-12", -12),
        ("1_000", 1000),
        ("1e3", 1000),
        ("1.5", 1.5),
        (".5", 0.5),
        ("123e45x", "123e45x"),
        ("1.2.3", "1.2.3"),
        ("08", 8),
        ("18446744073709551615", 18446744073709551615),
        ("~", None),
        ("=", "="),
        ("250m", "250m"),
        ("+1", 1),
        ("-", [None]),
        ("!!str 5", "5"),
        ("!!int 5", 5),
        ("!!binary aGVsbG8=", "hello"),
        ("! 5", "5"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = read(f"v: {text}")["v"] if text != "-" else read("v:\n-\n")["v"]
    assert found == value
    assert type(found) is type(value)


def test_keys_become_strings() -> None:
    assert read("1: a\ntrue: b\n1.5: c\n") == {"1": "a", "true": "b", "1.5": "c"}


def test_anchors_are_copied_and_merged() -> None:
    value = read("base: &b {a: 1, l: [1]}\none: {<<: *b, a: 2}\ntwo: {<<: [*b, {z: 3}]}\n")
    assert value["one"] == {"a": 2, "l": [1]}
    assert value["two"] == {"a": 1, "l": [1], "z": 3}
    value["one"]["l"].append(2)
    assert value["base"]["l"] == [1]
    assert value["two"]["l"] == [1]


def test_documents_are_counted_with_the_empty_ones() -> None:
    documents = list(read_yaml("---\n# nothing\n---\na: 1\n---\n\n---\nb: 2\n"))
    assert [(each.number, each.line) for each in documents] == [(2, 4), (4, 8)]


@pytest.mark.parametrize(
    ("text", "document", "line", "column", "problem"),
    [
        ("a: 1\n---\nb: [1\nc: 2\n", 2, 4, 2, "did not find expected"),
        ("a: 1\nb: 2\na: 3\n", 1, 3, 1, 'the key "a" is there twice'),
        ("a: {b: 1, b: 2}\n", 1, 1, 11, 'the key "b" is there twice'),
        ("1: a\n'1': b\n", 1, 2, 1, 'the key "1" is there twice'),
        ("a: 1\n---\n---\n\tb: 1\n", 3, 4, 1, "cannot start any token"),
        ("a: b: c\n", 1, 1, 5, "mapping values are not allowed"),
        ("a: *x\n", 1, 1, 4, "the alias *x has no anchor"),
        ("&a [*a]\n", 1, 1, 5, "the alias *a has no anchor"),
        ("a: .inf\n", 1, 1, 4, "no number in JSON"),
        ("a: 1e999\n", 1, 1, 4, "too large a number"),
        ("a: !!python/object/apply:os.system [x]\n", 1, 1, 4, "!!python/object/apply:os.system is not supported"),
        ("a: !mine 1\n", 1, 1, 4, "the tag !mine is not supported"),
        ("a: !!int x\n", 1, 1, 4, '"x" is no !!int'),
        ("? [a]\n: b\n", 1, 1, 3, "a key must be a string"),
        ("null: b\n", 1, 1, 1, "a key must be a string"),
        ("a: 1\nb: \x01\n", 1, 2, 4, "control characters are not allowed"),
        ("<<: 1\n", 1, 1, 1, "<< merges mappings only"),
        ("[" * 200, 1, 1, 102, "nested more than 100 deep"),
    ],
)
def test_mistakes_have_a_place(text: str, document: int, line: int, column: int, problem: str) -> None:
    with pytest.raises(YamlError) as caught:
        list(read_yaml(text))
    found = caught.value
    assert (found.document, found.line, found.column) == (document, line, column)
    assert problem in found.problem


def test_a_billion_laughs_are_refused_at_once() -> None:
    lines = ["a0: &a0 [" + ",".join("x" * 10) + "]"]
    lines += [f"a{i}: &a{i} [" + ",".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 10)]
    with pytest.raises(YamlError, match=f"more than {MAX_VALUES} values"):
        list(read_yaml("\n".join(lines)))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not x.is_integer())
    | st.text()
    | st.sampled_from(
        ["on", "y", "12:30", "1e3", "0o7", "0b1", "1_0", "2024-01-02", "=", "<<", "~", ".inf", "a\nb\n", "-"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, min_size=1))
def test_what_is_written_reads_back(value: dict[str, Any]) -> None:
    assert read(to_yaml(value)) == value


def test_yaml_and_json_are_in_kubectls_form() -> None:
    value = {"kind": "X", "apiVersion": "v1", "list": [{"b": "on", "a": 1}], "text": "one\ntwo\n", "none": []}
    assert to_yaml(value) == ('apiVersion: v1\nkind: X\nlist:\n- a: 1\n  b: "on"\nnone: []\ntext: |\n  one\n  two\n')
    assert to_json({"b": [1], "a": {}}) == '{\n    "a": {},\n    "b": [\n        1\n    ]\n}\n'
