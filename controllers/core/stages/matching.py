"""Which stages an object fits: the fields that any selector asks for are decoded, and looked at one after the other.

What was found is kept as a tree: at each node one field is looked at, and its value leads to the next node, until it is
clear which stages fit. Thousands of pods of a few kinds so cost a few look-ups each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from controllers.core.stages.expressions import Expression, Shape
from controllers.core.stages.reading import Requirement, Selector, Source

MAX_NODES = 4096  # of the tree; beyond that it begins anew

T = TypeVar("T")
Value = bool | tuple[str, ...]
Test = Callable[[Value], bool]


def as_text(value: Any) -> str:
    """A JSON scalar as a selector writes it."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def requirements_of(source: Source) -> list[tuple[str, Test, bool]]:
    """Key, test and whether only its presence counts, of all that a stage's selector says. Raises StageError."""
    selector: Selector = source.document.spec.selector
    wanted = [
        *(Requirement(f'.metadata.labels["{key}"]', "In", [value]) for key, value in selector.match_labels.items()),
        *(
            Requirement(f'.metadata.annotations["{key}"]', "In", [value])
            for key, value in selector.match_annotations.items()
        ),
        *selector.match_expressions,
    ]
    found = []
    for index, each in enumerate(wanted):
        try:
            found.append((each.key, *_test(each)))
        except ValueError as error:
            at = index - len(wanted) + len(selector.match_expressions)
            raise source.error(f"spec.selector.matchExpressions[{at}]", error) from None
    return found


def _test(requirement: Requirement) -> tuple[Test, bool]:
    operator, values = requirement.operator, requirement.values
    Expression(requirement.key)
    if operator in ("Exists", "DoesNotExist"):
        if values:
            raise ValueError(f"{operator} takes no values")
        return (lambda value: bool(value)) if operator == "Exists" else (lambda value: not value), True
    if not values:
        raise ValueError(f"{operator} needs values")
    if operator in ("In", "NotIn"):
        texts = frozenset(map(as_text, values))
        fits: Callable[[str], bool] = texts.__contains__
    else:
        try:
            pattern = re.compile("|".join(f"(?:{as_text(value)})" for value in values))
        except re.error as error:
            raise ValueError(f"{requirement.values}: {error}") from None
        fits = _full(pattern)
    if operator in ("In", "Matches"):
        return (lambda value: not isinstance(value, bool) and any(map(fits, value))), False
    return (lambda value: isinstance(value, bool) or not any(map(fits, value))), False


def _full(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _value_of(expression: Expression, presence: bool) -> Callable[[Any], Value]:
    """What selectors see of a document. If only its presence counts, that is the value."""
    if presence:
        return lambda document: bool(expression.values(document))
    return lambda document: tuple(
        [each if type(each) is str else as_text(each) for each in expression.values(document)]
    )


class _Node(Generic[T]):
    """`then` says by the value of the key where to go on. look None: it is decided, and these fit."""

    def __init__(self, fit: tuple[T, ...], key: int, look: Callable[[Any], Value] | None) -> None:
        self.fit = fit
        self.key = key
        self.look = look
        self.then: dict[Value, _Node[T]] = {}


class Matcher(Generic[T]):
    """Finds the stages that an object fits, in their order.

    stages: each with the requirements of its selector. Keys that most stages ask for are looked at first.
    """

    def __init__(self, stages: Sequence[tuple[T, Sequence[tuple[str, Test, bool]]]], shape: Shape) -> None:
        asked: dict[tuple[str, bool], int] = {}
        for _, requirements in stages:
            for text, _, presence in requirements:
                asked[text, presence] = asked.get((text, presence), 0) + 1
        order = sorted(asked, key=lambda key: -asked[key])
        expressions = [Expression(text) for text, _ in order]
        for expression in expressions:
            expression.reach(shape)
        self._looks = [_value_of(expression, key[1]) for expression, key in zip(expressions, order, strict=True)]
        place = {key: index for index, key in enumerate(order)}
        self._stages = [
            (stage, [(place[text, presence], test) for text, test, presence in requirements])
            for stage, requirements in stages
        ]
        self._root = self._node({})
        self._nodes = 1

    def fit(self, document: Any) -> tuple[T, ...]:
        """The stages that the decoded object fits."""
        node, path = self._root, []
        while node.look is not None:
            value = node.look(document)
            path.append((node.key, value))
            then = node.then.get(value)
            if then is None:
                if self._nodes >= MAX_NODES:
                    self._root = self._node({})
                    self._nodes = 1
                    return self.fit(document)
                then = node.then[value] = self._node(dict(path))
                self._nodes += 1
            node = then
        return node.fit

    def _node(self, known: dict[int, Value]) -> _Node[T]:
        """What is clear when the values of some keys are known, and which key to look at next."""
        fit: list[T] = []
        open_keys: set[int] = set()
        for stage, tests in self._stages:
            if any(key in known and not test(known[key]) for key, test in tests):
                continue
            unknown = {key for key, _ in tests if key not in known}
            open_keys |= unknown
            fit.append(stage)
        if not open_keys:
            return _Node(tuple(fit), -1, None)
        key = min(open_keys)
        return _Node(tuple(fit), key, self._looks[key])
