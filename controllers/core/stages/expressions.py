"""The part of jq that stages need: paths, `[]`, `select`, `//`, pipes, and a function of our own.

    .status.phase
    .metadata.annotations["example.com/delay"]
    .status.conditions[] | select(.type == "Ready") | .status
    .metadata.annotations["listwatch.dev/run-seconds"] // (.spec.containers[] | sleepSeconds)

An expression gives all values that it finds, without nulls, as kwok's do. `sleepSeconds` reads the command of a
container: `sleep 5; echo; sleep 2` takes 7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypedDict

import msgspec

_TOKEN = re.compile(
    r'\s*(?:(?P<each>\.?\[\])|\.?\["(?P<quoted>[^"\\]+)"\]|\.(?P<field>[A-Za-z_][A-Za-z0-9_]*)|"(?P<text>[^"\\]*)"'
    r"|(?P<number>-?\d+)|(?P<word>[A-Za-z]+)|(?P<mark>==|!=|//|[|().]))"
)
_SLEEP = re.compile(r"\bsleep\s+(\d+(?:\.\d+)?|infinity)\b")

Values = list[Any]
Run = Callable[[Any, Values], None]


class Shape:
    """The fields of an object that are looked at, so that no others need to be decoded."""

    def __init__(self) -> None:
        self._fields: dict[str, Shape] = {}
        self._each: Shape | None = None
        self._whole = False

    def field(self, name: str) -> Shape:
        """The shape of a field."""
        return self._fields.setdefault(name, Shape())

    def each(self) -> Shape:
        """The shape of the elements of a list."""
        if self._each is None:
            self._each = Shape()
        return self._each

    def whole(self) -> None:
        """It is looked at as it is."""
        self._whole = True

    def type(self) -> Any:
        """A type for msgspec that decodes just that."""
        if self._whole or (self._fields and self._each is not None) or not (self._fields or self._each):
            return Any
        if self._each is not None:
            return list[self._each.type()] | None  # type: ignore[misc]
        fields = {name: shape.type() for name, shape in self._fields.items()}
        return TypedDict("Seen", fields, total=False) | None  # type: ignore[operator]


class _Step(Protocol):
    def compiled(self, then: Run) -> Run:
        """A function that takes a value and hands what this step makes of it to the next."""
        ...

    def reach(self, shapes: list[Shape]) -> list[Shape]:
        """The shapes of what it gives, from those of what it is given."""
        ...


def _collect(value: Any, found: Values) -> None:
    found.append(value)


class _Field(msgspec.Struct, frozen=True):
    name: str

    def compiled(self, then: Run) -> Run:
        name = self.name

        def run(value: Any, found: Values) -> None:
            if type(value) is dict and (each := value.get(name)) is not None:
                then(each, found)

        return run

    def reach(self, shapes: list[Shape]) -> list[Shape]:
        return [shape.field(self.name) for shape in shapes]


class _Each(msgspec.Struct, frozen=True):
    def compiled(self, then: Run) -> Run:
        def run(value: Any, found: Values) -> None:
            if type(value) is list:
                for each in value:
                    if each is not None:
                        then(each, found)

        return run

    def reach(self, shapes: list[Shape]) -> list[Shape]:
        return [shape.each() for shape in shapes]


class _Select(msgspec.Struct, frozen=True):
    path: _Step
    wanted: str | int | None
    equal: bool

    def compiled(self, then: Run) -> Run:
        inner, wanted, equal = self.path.compiled(_collect), self.wanted, self.equal

        def run(value: Any, found: Values) -> None:
            there: Values = []
            inner(value, there)
            if any(there) if wanted is None else (wanted in there) is equal:
                then(value, found)

        return run

    def reach(self, shapes: list[Shape]) -> list[Shape]:
        for shape in self.path.reach(shapes):
            shape.whole()
        return shapes


class _Pipe(msgspec.Struct, frozen=True):
    steps: tuple[_Step, ...]

    def compiled(self, then: Run) -> Run:
        for step in reversed(self.steps):
            then = step.compiled(then)
        return then

    def reach(self, shapes: list[Shape]) -> list[Shape]:
        for step in self.steps:
            shapes = step.reach(shapes)
        return shapes


class _Either(msgspec.Struct, frozen=True):
    """The first that gives anything but null and false."""

    options: tuple[_Step, ...]

    def compiled(self, then: Run) -> Run:
        options = [option.compiled(_collect) for option in self.options]

        def run(value: Any, found: Values) -> None:
            for option in options:
                there: Values = []
                option(value, there)
                there = [each for each in there if each is not False]
                if there:
                    for each in there:
                        then(each, found)
                    return

        return run

    def reach(self, shapes: list[Shape]) -> list[Shape]:
        return [end for option in self.options for end in option.reach(shapes)]


class _Function(msgspec.Struct, frozen=True):
    function: Callable[[Any], Any]

    def compiled(self, then: Run) -> Run:
        function = self.function

        def run(value: Any, found: Values) -> None:
            if type(value) is dict and (each := function(value)) is not None:
                then(each, found)

        return run

    def reach(self, shapes: list[Shape]) -> list[Shape]:
        for shape in shapes:
            shape.field("command").whole()
            shape.field("args").whole()
        return shapes


def command_of(container: dict[str, Any]) -> list[str]:
    """The words of a container's command and its arguments."""
    return [*(container.get("command") or ()), *(container.get("args") or ())]


def sleep_seconds(container: dict[str, Any]) -> float | None:
    """How long the container's command sleeps in all; None if it does not."""
    found = _SLEEP.findall(" ".join(command_of(container)))
    return sum(map(float, found)) if found else None


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {"sleepSeconds": sleep_seconds}


class Expression:
    """A parsed one. Raises ValueError for text that is none."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._step = _Parser(text).whole()
        self._run = self._step.compiled(_collect)

    def values(self, document: Any) -> Values:
        """All that it finds in a document, in order, without nulls."""
        found: Values = []
        self._run(document, found)
        return found

    def first(self, document: Any) -> Any:
        """The first of that, or None."""
        found = self.values(document)
        return found[0] if found else None

    def reach(self, shape: Shape) -> None:
        """Note what it looks at."""
        for end in self._step.reach([shape]):
            end.whole()


class _Parser:
    """pipe = either ("|" either)*; either = term ("//" term)*; term = path, "(" pipe ")", function or select."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        place = 0
        stripped = text.rstrip()
        while place < len(stripped):
            match = _TOKEN.match(stripped, place)
            if match is None:
                raise ValueError(f"{text!r}: cannot read {stripped[place:].strip()!r}")
            kind = match.lastgroup or ""
            self._tokens.append((kind, match[kind]))
            place = match.end()
        self._at = 0

    def whole(self) -> _Step:
        step = self._pipe()
        if self._peek() != ("", ""):
            raise self._wrong()
        return step

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("", "")

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def _take(self, mark: str) -> bool:
        if self._peek() == ("mark", mark):
            self._at += 1
            return True
        return False

    def _need(self, mark: str) -> None:
        if not self._take(mark):
            raise self._wrong(f"{mark!r} is missing")

    def _wrong(self, problem: str = "") -> ValueError:
        found = self._peek()[1]
        said = problem or (f"{found!r} is not expected" if found else "it ends too early")
        return ValueError(f"{self._text!r}: {said}")

    def _pipe(self) -> _Step:
        steps = [self._either()]
        while self._take("|"):
            steps.append(self._either())
        return _joined(steps)

    def _either(self) -> _Step:
        options = [self._term()]
        while self._take("//"):
            options.append(self._term())
        return options[0] if len(options) == 1 else _Either(tuple(options))

    def _term(self) -> _Step:
        kind, text = self._peek()
        if kind in ("field", "quoted", "each"):
            return self._path()
        if self._take("("):
            inner = self._pipe()
            self._need(")")
            return inner
        if self._take("."):
            return _Pipe(())
        if kind == "word":
            self._at += 1
            if text == "select":
                return self._select()
            if text in _FUNCTIONS:
                return _Function(_FUNCTIONS[text])
            raise ValueError(f"{self._text!r}: no function {text!r}; there are select, {', '.join(sorted(_FUNCTIONS))}")
        raise self._wrong()

    def _path(self) -> _Step:
        steps: list[_Step] = []
        while True:
            kind, text = self._peek()
            if kind == "each":
                steps.append(_Each())
            elif kind in ("field", "quoted"):
                steps.append(_Field(text))
            else:
                return _joined(steps)
            self._at += 1

    def _select(self) -> _Step:
        self._need("(")
        path = self._path()
        kind, text = self._peek()
        if self._take(")"):
            return _Select(path, None, True)
        if (kind, text) not in (("mark", "=="), ("mark", "!=")):
            raise self._wrong("select needs ==, != or )")
        self._at += 1
        kind, wanted = self._next()
        if kind not in ("text", "number"):
            raise ValueError(f"{self._text!r}: select compares with a text in quotes or a whole number")
        self._need(")")
        return _Select(path, int(wanted) if kind == "number" else wanted, text == "==")


def _joined(steps: Sequence[_Step]) -> _Step:
    return steps[0] if len(steps) == 1 else _Pipe(tuple(steps))
