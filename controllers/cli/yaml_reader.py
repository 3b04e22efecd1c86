"""YAML as Kubernetes reads it: documents of plain JSON values, with the place of every mistake.

The rules are those of sigs.k8s.io/yaml, which sits on go-yaml v2:

- plain `yes no on off y n` (and capitals) are booleans, as `true` and `false` are; `12:30` and dates are strings;
- `0x1F`, `0o17`, `017`, `0b11` and `1_000` are integers, `1e3` is a number; `.inf` and `.nan` are errors;
- keys that are numbers or booleans become strings; `<<` merges.

Stricter than YAML asks for: a key that is there twice is an error, and so is a tag of somebody's own. Anchors cannot
make a document larger than `MAX_VALUES`.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from informer.patch import copy

MAX_BYTES = 16 << 20  # of a file; kube-apiserver takes requests of 3 MiB
MAX_VALUES = 500_000  # of a document with its aliases spelt out
MAX_DEPTH = 100

# The one in C is ten times faster. Both only cut the text into events here: no tag makes an object of anything.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_PREFIX = "tag:yaml.org,2002:"
_WORDS: dict[str, bool | None] = {
    **{word: True for text in ("y", "yes", "true", "on") for word in (text, text.title(), text.upper())},
    **{word: False for text in ("n", "no", "false", "off") for word in (text, text.title(), text.upper())},
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_BASES = (16, 2, 8, 10)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TAGGED: dict[str, tuple[type, ...]] = {"null": (type(None),), "bool": (bool,), "int": (int,), "float": (int, float)}
_NOT_JSON = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INT64, _UINT64 = 1 << 63, 1 << 64


class YamlError(Exception):
    """What is wrong, and where: `document`, `line` and `column` count from 1."""

    def __init__(self, problem: str, document: int, line: int, column: int) -> None:
        super().__init__(f"document {document}, line {line}, column {column}: {problem}")
        self.problem = problem
        self.document = document
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document, and the line on which its content begins."""

    number: int
    line: int
    value: Any


def read_yaml(text: str) -> Iterator[YamlDocument]:
    """The documents of a text; empty ones are counted and left out. Raises `YamlError`."""
    yield from _Reader(text).documents()


def resolve(text: str) -> Any:
    """What a plain (unquoted, untagged) scalar stands for. Raises ValueError for a number that JSON does not have."""
    if text in _WORDS:
        return _WORDS[text]
    first = text[0]
    if not (first.isdigit() or first in "+-."):
        return text
    if _NOT_JSON.fullmatch(text):
        raise ValueError(f"{text} is no number in JSON")
    digits = text.replace("_", "")
    found = _INTEGER.fullmatch(digits)
    if found is not None:
        number = next(int(part, base) for part, base in zip(found.groups()[1:], _BASES, strict=True) if part)
        number = -number if found[1] == "-" else number
        if -_INT64 <= number < _UINT64:
            return number
    if _FLOAT.fullmatch(digits):
        value = float(digits)
        if math.isinf(value):
            raise ValueError(f"{text} is too large a number")
        return int(value) if value.is_integer() and abs(value) < 1e21 else value
    return text


@dataclass(frozen=True, slots=True)
class _Anchor:
    value: Any
    size: int


class _Reader:
    """Builds values from libyaml's events. An anchor is known once its value is complete: nothing contains itself."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._document = 1
        self._anchors: dict[str, _Anchor] = {}
        self._values = 0

    def documents(self) -> Iterator[YamlDocument]:
        loader = _LOADER(self._text)
        self._next = loader.get_event
        number = 0
        try:
            while not isinstance(event := self._next(), yaml.StreamEndEvent):
                if isinstance(event, yaml.DocumentStartEvent):
                    number += 1
                    self._document = number
                    self._anchors.clear()
                    self._values = 0
                    first = self._next()
                    value = self._value(first, 0)
                    if value is not None:
                        yield YamlDocument(number, first.start_mark.line + 1, value)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            assert mark is not None
            problem = ", ".join(part for part in (error.problem, error.context) if part)
            raise YamlError(problem, self._document, mark.line + 1, mark.column + 1) from None
        except yaml.reader.ReaderError as error:
            line, column = self._place(int(error.position))
            raise YamlError(
                f"{error.reason}: #x{_code_of(error.character):04x}", self._document, line, column
            ) from None
        finally:
            loader.dispose()

    def _place(self, position: int) -> tuple[int, int]:
        before = self._text[:position]
        return before.count("\n") + 1, position - before.rfind("\n")

    def _fail(self, problem: str, event: Any) -> NoReturn:
        mark = event.start_mark
        raise YamlError(problem, self._document, mark.line + 1, mark.column + 1)

    def _count(self, values: int, event: Any) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            self._fail(f"more than {MAX_VALUES} values with aliases spelt out", event)

    def _value(self, event: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            self._fail(f"nested more than {MAX_DEPTH} deep", event)
        if isinstance(event, yaml.AliasEvent):
            found = self._anchors.get(str(event.anchor))
            if found is None:
                self._fail(f"the alias *{event.anchor} has no anchor before it", event)
            self._count(found.size, event)
            return copy(found.value)
        before = self._values
        self._count(1, event)
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq")
            value = []
            while not isinstance(item := self._next(), yaml.SequenceEndEvent):
                value.append(self._value(item, depth + 1))
        else:
            self._check_tag(event, "map")
            value = self._mapping(depth)
        if event.anchor:
            self._anchors[event.anchor] = _Anchor(copy(value), self._values - before)
        return value

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0] and not event.style:
                merged = {**self._merge(event, depth), **merged}
                continue
            key = self._key(event, depth)
            if key in found:
                self._fail(f'the key "{key}" is there twice', event)
            found[key] = self._value(self._next(), depth + 1)
        return {**merged, **found} if merged else found

    def _merge(self, event: Any, depth: int) -> dict[str, Any]:
        value = self._value(self._next(), depth + 1)
        merged: dict[str, Any] = {}
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, dict):
                self._fail("<< merges mappings only", event)
            merged = {**each, **merged}
        return merged

    def _key(self, event: Any, depth: int) -> str:
        if not isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
            self._fail("a key must be a string", event)
        key = self._value(event, depth + 1)
        if isinstance(key, bool):
            return "true" if key else "false"
        if not isinstance(key, str | int | float):
            self._fail("a key must be a string", event)
        return str(key)

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        tag: str | None = event.tag
        if tag is None:
            if not event.implicit[0]:
                return text
            try:
                return resolve(text)
            except ValueError as error:
                self._fail(str(error), event)
        kind = tag.removeprefix(_PREFIX) if tag.startswith(_PREFIX) else tag
        if kind in ("!", "str", "timestamp"):
            return text
        if kind == "binary":
            try:
                return base64.b64decode(text, validate=False).decode()
            except (binascii.Error, UnicodeDecodeError):
                self._fail("!!binary is not base64 of UTF-8 text", event)
        wanted = _TAGGED.get(kind)
        if wanted is None:
            self._fail(f"the tag {_show_tag(tag)} is not supported", event)
        try:
            value = resolve(text)
        except ValueError as error:
            self._fail(str(error), event)
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
            self._fail(f'"{text}" is no {_show_tag(tag)}', event)
        return value

    def _check_tag(self, event: Any, kind: str) -> None:
        if event.tag is not None and event.tag not in ("!", _PREFIX + kind):
            self._fail(f"the tag {_show_tag(event.tag)} is not supported", event)


def _code_of(character: str | int | bytes) -> int:
    """The code of the character that a reader error names, in whichever way it names it."""
    return character if isinstance(character, int) else ord(character)


def _show_tag(tag: str) -> str:
    return tag.replace(_PREFIX, "!!")
