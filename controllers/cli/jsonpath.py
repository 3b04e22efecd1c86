"""kubectl's JSONPath: paths such as `{.items[*].metadata.name}`, and templates of texts and paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

Step: TypeAlias = Callable[[Any], list[Any]]

_FIELD = re.compile(r"\.(?P<field>(?:\\.|[^.\[\]\\{}\s()=<>!&|,])+)")
_DEEP = re.compile(r"\.\.(?P<field>(?:\\.|[^.\[\]\\{}\s()=<>!&|,])+)?")
_BRACKET = re.compile(r"\.?\[")
_SLICE = re.compile(r"(-?[0-9]*):(-?[0-9]*)(?::(-?[0-9]*))?")
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")
_OPERATOR = re.compile(r"\s*(==|!=|<=|>=|<|>)\s*")


class JsonPath:
    """A parsed path. Raises ValueError for one that is malformed."""

    def __init__(self, text: str) -> None:
        inner = text.strip()
        if inner.startswith("{") and inner.endswith("}"):
            inner = inner[1:-1].strip()
        self._steps = _parse(inner, text)
        if not self._steps:
            raise ValueError("an empty path: write {.status.phase}")

    def find(self, value: Any) -> list[Any]:
        """The values at the path; none where something on the way is missing."""
        return _walk(self._steps, value)


def _walk(steps: Sequence[Step], value: Any) -> list[Any]:
    found = [value]
    for step in steps:
        found = [each for one in found for each in step(one)]
    return found


def _parse(inner: str, text: str) -> list[Step]:
    """The steps of a path, which may begin with `$` or `@`, and with or without a dot."""
    if inner[:1] in ("$", "@"):
        inner = inner[1:]
    if inner and inner[0] not in ".[":
        inner = "." + inner
    if inner == ".":
        return []
    steps: list[Step] = []
    position = 0
    while position < len(inner):
        if deep := _DEEP.match(inner, position):
            steps.append(_descend)
            position = deep.end()
            if deep["field"] is not None:
                steps.append(_named(deep["field"]))
        elif _BRACKET.match(inner, position):
            start = inner.index("[", position)
            end = _closing(inner, start, text)
            steps.append(_bracket(inner[start + 1 : end].strip(), text))
            position = end + 1
        elif field := _FIELD.match(inner, position):
            steps.append(_named(field["field"]))
            position = field.end()
        else:
            raise ValueError(f"the path {text!r} makes no sense at {inner[position:]!r}: write {{.status.phase}}")
    return steps


def _closing(text: str, start: int, whole: str) -> int:
    """Where the bracket that opens at `start` closes; those in quotes do not count."""
    depth, position = 0, start
    while position < len(text):
        if quoted := _QUOTED.match(text, position):
            position = quoted.end()
            continue
        depth += {"[": 1, "]": -1}.get(text[position], 0)
        if not depth:
            return position
        position += 1
    raise ValueError(f"the path {whole!r} has a bracket that is not closed")


def _bracket(inner: str, text: str) -> Step:
    if inner.startswith("?(") and inner.endswith(")"):
        return _filter(inner[2:-1].strip(), text)
    parts = _split(inner)
    steps = [_subscript(part.strip(), text) for part in parts]
    if len(steps) == 1:
        return steps[0]
    return lambda value: [each for step in steps for each in step(value)]


def _split(inner: str) -> list[str]:
    """By commas outside of quotes."""
    parts, start, position = [], 0, 0
    while position < len(inner):
        if quoted := _QUOTED.match(inner, position):
            position = quoted.end()
            continue
        if inner[position] == ",":
            parts.append(inner[start:position])
            start = position + 1
        position += 1
    return [*parts, inner[start:]]


def _subscript(part: str, text: str) -> Step:
    if part == "*":
        return _all
    if _QUOTED.fullmatch(part):
        return _key(re.sub(r"\\(.)", r"\1", part[1:-1]))
    if re.fullmatch(r"-?[0-9]+", part):
        return _index(int(part))
    if found := _SLICE.fullmatch(part):
        start, end, step = (int(each) if each else None for each in found.groups())
        if step is not None and step <= 0:
            raise ValueError(f"the path {text!r}: the step of a slice has to be positive")
        return lambda value: value[start:end:step] if isinstance(value, list) else []
    raise ValueError(f"the path {text!r} makes no sense at {'[' + part + ']'!r}")


def _named(field: str) -> Step:
    name = re.sub(r"\\(.)", r"\1", field)
    return _all if name == "*" else _key(name)


def _all(value: Any) -> list[Any]:
    return [*value.values()] if isinstance(value, Mapping) else [*value] if isinstance(value, list) else []


def _key(name: str) -> Step:
    return lambda value: [value[name]] if isinstance(value, Mapping) and name in value else []


def _index(index: int) -> Step:
    return lambda value: [value[index]] if isinstance(value, list) and -len(value) <= index < len(value) else []


def _descend(value: Any) -> list[Any]:
    """The value and all below it."""
    return [value, *(deep for each in _all(value) for deep in _descend(each))]


def _filter(condition: str, text: str) -> Step:
    """`@.type=="Ready"`, or `@.type` for those that have it."""
    left, operator, right = condition, "", ""
    position = 0
    while position < len(condition):
        if quoted := _QUOTED.match(condition, position):
            position = quoted.end()
            continue
        if found := _OPERATOR.match(condition, position):
            left, operator, right = condition[:position], found[1], condition[found.end() :]
            break
        position += 1
    one = _operand(left.strip(), text)
    if not operator:
        return lambda value: [each for each in _all(value) if one(each)]
    other = _operand(right.strip(), text)
    return lambda value: [each for each in _all(value) if _compare(operator, one(each), other(each))]


def _operand(part: str, text: str) -> Step:
    if part.startswith(("@", "$")):
        steps = _parse(part, text)
        return lambda value: _walk(steps, value)
    if _QUOTED.fullmatch(part):
        constant: Any = re.sub(r"\\(.)", r"\1", part[1:-1])
    elif part in ("true", "false"):
        constant = part == "true"
    else:
        try:
            constant = int(part) if re.fullmatch(r"-?[0-9]+", part) else float(part)
        except ValueError:
            raise ValueError(f"the path {text!r} makes no sense at {part!r}: write {{[?(@.type=='Ready')]}}") from None
    return lambda value: [constant]


def _compare(operator: str, left: list[Any], right: list[Any]) -> bool:
    if len(left) != 1 or len(right) != 1:
        return False
    one, other = left[0], right[0]
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (one, other))
    if not numbers and type(one) is not type(other):
        return operator == "!="
    match operator:
        case "==":
            return bool(one == other)
        case "!=":
            return bool(one != other)
    if not numbers and not isinstance(one, str):
        return False
    return bool({"<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}[operator])


# ---- templates ------------------------------------------------------------------------------------------------------

Part: TypeAlias = "str | Sequence[Step] | Range"


class Range:
    """What stands between `{range PATH}` and `{end}`, for each value at the path."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.parts: list[Part] = []


class Template:
    """Texts, `{PATH}`, `{"text\\n"}` and `{range PATH}...{end}`. Raises ValueError for one that is malformed."""

    def __init__(self, text: str) -> None:
        self._parts: list[Part] = []
        open_ranges: list[Range] = []
        target = self._parts
        for is_action, piece in _pieces(text if "{" in text else f"{{{text}}}"):
            if not is_action:
                target.append(piece)
            elif piece == "end":
                if not open_ranges:
                    raise ValueError("{end} without {range}")
                open_ranges.pop()
                target = open_ranges[-1].parts if open_ranges else self._parts
            elif piece.startswith("range ") or piece == "range":
                inner = Range(_parse(piece.removeprefix("range").strip(), text))
                target.append(inner)
                open_ranges.append(inner)
                target = inner.parts
            elif _QUOTED.fullmatch(piece):
                target.append(_unescape(piece[1:-1]))
            else:
                target.append(_parse(piece, text))
        if open_ranges:
            raise ValueError("{range} without {end}")

    def render(self, value: Any) -> str:
        """The text that it gives of a value; the values at one path are separated by spaces."""
        return "".join(_render(self._parts, value, value))


def _render(parts: Sequence[Part], value: Any, top: Any) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Range):
            for each in _walk(part.steps, value):
                yield from _render(part.parts, each, top)
        else:
            yield " ".join(shown(each) for each in _walk(part, value))


def shown(value: Any) -> str:
    """A value as kubectl prints it: texts as they are, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value, order="sorted").decode()


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """Texts, and what stands between braces."""
    position = 0
    while position < len(text):
        start = text.find("{", position)
        if start < 0:
            yield False, text[position:]
            return
        if start > position:
            yield False, text[position:start]
        end = start + 1
        while end < len(text) and text[end] != "}":
            quoted = _QUOTED.match(text, end)
            end = quoted.end() if quoted else end + 1
        if end >= len(text):
            raise ValueError(f"unclosed action: {text[start:]!r}")
        inner = text[start + 1 : end].strip()
        if not inner:
            raise ValueError("an empty path: write {.status.phase}")
        yield True, inner
        position = end + 1


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t", "r": "\r"}.get(found[1], found[1]), text)
