"""Label selectors: kubectl's string grammar and the LabelSelector object, one meaning.

The string: requirements joined by commas, all of which must hold: `app=web`, `app==web`, `tier!=cache`,
`env in (a, b)`, `env notin (a, b)`, `app` (has the key), `!app` (has not), `size>3`, `size<3`.
`!=` and `notin` also match objects without the key.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from informer.errors import Invalid
from informer.names import key_problem, value_problem


class Operator(enum.StrEnum):
    """What a requirement asks of its key."""

    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    DOES_NOT_EXIST = "!"
    GREATER = ">"
    LESS = "<"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition. `values` are those of IN and NOT_IN, or the one bound of GREATER and LESS."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet it."""
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value in self.values
            case Operator.NOT_IN:
                return value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.DOES_NOT_EXIST:
                return value is None
        if value is None or not _INTEGER.fullmatch(value):
            return False
        (bound,) = self.values
        return int(value) > int(bound) if self.operator is Operator.GREATER else int(value) < int(bound)

    def __str__(self) -> str:
        values = ",".join(sorted(self.values))
        match self.operator:
            case Operator.EXISTS:
                return self.key
            case Operator.DOES_NOT_EXIST:
                return f"!{self.key}"
            case Operator.GREATER | Operator.LESS:
                return f"{self.key}{self.operator}{values}"
        if len(self.values) == 1:
            return f"{self.key}{'=' if self.operator is Operator.IN else '!='}{values}"
        return f"{self.key} {self.operator} ({values})"


class Selector:
    """Which objects, by their labels. Immutable; equal selectors hash equal."""

    __slots__ = ("_equal", "_nothing", "_rest", "requirements")

    def __init__(self, requirements: Sequence[Requirement] = (), *, nothing: bool = False) -> None:
        self.requirements = tuple(requirements)
        self._nothing = nothing
        # `key=value` is nearly all there is in practice; the rest takes the slower way.
        self._equal = [
            (r.key, next(iter(r.values))) for r in self.requirements if r.operator is Operator.IN and len(r.values) == 1
        ]
        self._rest = [r for r in self.requirements if r.operator is not Operator.IN or len(r.values) != 1]

    @classmethod
    def everything(cls) -> Selector:
        """Selects all objects."""
        return cls()

    @classmethod
    def nothing(cls) -> Selector:
        """Selects no object."""
        return cls(nothing=True)

    @classmethod
    def parse(cls, text: str) -> Selector:
        """The string grammar; "" selects everything. Raises `Invalid`, telling the position."""
        return cls(_Parser(text).requirements())

    @classmethod
    def of(cls, selector: SelectorLike) -> Selector:
        """Any of the forms. Of a LabelSelector (a dict or a model of one) null selects nothing, the empty everything.

        A dict of strings is taken for labels, all of which must be there.
        """
        if isinstance(selector, Selector):
            return selector
        if isinstance(selector, str):
            return cls.parse(selector)
        if selector is None:
            return cls.nothing()
        return cls(_from_label_selector(selector if isinstance(selector, Mapping) else selector.raw))

    @property
    def empty(self) -> bool:
        """Whether it selects everything."""
        return not self.requirements and not self._nothing

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected. O(number of requirements)."""
        if self._nothing:
            return False
        for key, value in self._equal:
            if labels.get(key) != value:
                return False
        return all(requirement.matches(labels) for requirement in self._rest)

    def __str__(self) -> str:
        """The string grammar's form. "Nothing" has none and shows as `<none>`."""
        return "<none>" if self._nothing else ",".join(map(str, self.requirements))

    def __repr__(self) -> str:
        return f"Selector({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Selector):
            return NotImplemented
        return self._nothing == other._nothing and set(self.requirements) == set(other.requirements)

    def __hash__(self) -> int:
        return hash((self._nothing, frozenset(self.requirements)))


class _Modelled(Protocol):
    @property
    def raw(self) -> dict[str, Any]: ...


# The string, or a LabelSelector as a dict, as a model of one, or null.
SelectorLike: TypeAlias = Selector | str | Mapping[str, Any] | _Modelled | None

_INTEGER = re.compile(r"[0-9]+")


def _from_label_selector(raw: Mapping[str, Any]) -> list[Requirement]:
    if raw and all(isinstance(value, str) for value in raw.values()):
        raw = {"matchLabels": raw}
    if unknown := raw.keys() - {"matchLabels", "matchExpressions"}:
        raise Invalid(min(unknown), "a label selector has matchLabels and matchExpressions only")
    found = []
    labels = raw.get("matchLabels") or {}
    if not isinstance(labels, Mapping):
        raise Invalid("matchLabels", "expected a map of labels")
    for key, value in labels.items():
        found.append(_requirement(f"matchLabels[{key}]", key, Operator.IN, [value]))
    expressions = raw.get("matchExpressions") or []
    if not isinstance(expressions, list):
        raise Invalid("matchExpressions", "expected a list")
    for number, expression in enumerate(expressions):
        path = f"matchExpressions[{number}]"
        if not isinstance(expression, Mapping):
            raise Invalid(path, "expected an object")
        operator = _OPERATORS.get(str(expression.get("operator")))
        if operator is None:
            raise Invalid(f"{path}.operator", f"expected {', '.join(_OPERATORS)}, got {expression.get('operator')!r}")
        values = expression.get("values") or []
        if not isinstance(values, list):
            raise Invalid(f"{path}.values", "expected a list")
        if bool(values) != (operator in (Operator.IN, Operator.NOT_IN)):
            raise Invalid(f"{path}.values", "required" if not values else f"{expression['operator']} takes no values")
        found.append(_requirement(path, expression.get("key"), operator, values))
    return found


_OPERATORS = {
    "In": Operator.IN,
    "NotIn": Operator.NOT_IN,
    "Exists": Operator.EXISTS,
    "DoesNotExist": Operator.DOES_NOT_EXIST,
}


def _requirement(path: str, key: object, operator: Operator, values: Sequence[object]) -> Requirement:
    if not isinstance(key, str):
        raise Invalid(f"{path}.key", "required" if key is None else f"expected str, got {key!r}")
    if problem := key_problem(key):
        raise Invalid(path, problem)
    for value in values:
        if not isinstance(value, str):
            raise Invalid(path, f"expected str, got {value!r}")
        if problem := value_problem(value):
            raise Invalid(path, problem)
    return Requirement(key, operator, frozenset(map(str, values)))


class _Parser:
    """Recursive descent over the tokens: words, `= == != > < ! ( ) ,`."""

    _TOKEN = re.compile(r"\s*(==|!=|[=!<>(),]|[^\s=!<>(),]+)")

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, int]] = []
        position = 0
        while text[position:].strip():
            token = self._TOKEN.match(text, position)
            assert token is not None, "every character starts some token"
            self._tokens.append((token[1], token.start(1)))
            position = token.end()
        self._next = 0

    def requirements(self) -> list[Requirement]:
        found: list[Requirement] = []
        while self._peek():
            found.append(self._one())
            if not self._peek():
                break
            self._take(",")
            if not self._peek():
                raise self._error("expected a requirement")
        return found

    def _one(self) -> Requirement:
        if self._peek() == "!":
            self._take("!")
            return Requirement(self._key(), Operator.DOES_NOT_EXIST)
        key = self._key()
        operator = self._peek()
        if operator in ("", ","):
            return Requirement(key, Operator.EXISTS)
        self._next += 1
        match operator:
            case "=" | "==":
                return Requirement(key, Operator.IN, frozenset([self._value()]))
            case "!=":
                return Requirement(key, Operator.NOT_IN, frozenset([self._value()]))
            case "in" | "notin":
                return Requirement(key, Operator(operator), self._values())
            case ">" | "<":
                bound = self._value()
                if not _INTEGER.fullmatch(bound):
                    raise self._error(f"expected an integer, got {bound!r}", back=1)
                return Requirement(key, Operator(operator), frozenset([bound]))
            case _:
                raise self._error(f"expected an operator (= == != in notin > <), got {operator!r}", back=1)

    def _values(self) -> frozenset[str]:
        self._take("(")
        values = [self._value()]
        while self._peek() == ",":
            self._take(",")
            values.append(self._value())
        self._take(")")
        return frozenset(values)

    def _key(self) -> str:
        key = self._peek()
        if not key or key in _PUNCTUATION:
            raise self._error(f"expected a label key, got {key!r}" if key else "expected a label key")
        if problem := key_problem(key):
            raise self._error(problem)
        self._next += 1
        return key

    def _value(self) -> str:
        value = self._peek()
        if not value or value in (",", ")"):
            return ""
        if value in _PUNCTUATION:
            raise self._error(f"expected a label value, got {value!r}")
        if problem := value_problem(value):
            raise self._error(problem)
        self._next += 1
        return value

    def _peek(self) -> str:
        return self._tokens[self._next][0] if self._next < len(self._tokens) else ""

    def _take(self, token: str) -> None:
        if self._peek() != token:
            raise self._error(f"expected {token!r}, got {self._peek() or 'the end'!r}")
        self._next += 1

    def _error(self, problem: str, *, back: int = 0) -> Invalid:
        number = self._next - back
        position = self._tokens[number][1] if number < len(self._tokens) else len(self._text)
        return Invalid("", f"selector {self._text!r}: {problem}, at position {position}")


_PUNCTUATION = frozenset(["=", "==", "!=", "!", "<", ">", "(", ")", ","])
