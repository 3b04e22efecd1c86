"""Stages compiled: which of them an object fits, how long it takes, and what comes of it."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from controllers.core.stages.effects import Effect
from controllers.core.stages.expressions import Expression, Shape
from controllers.core.stages.matching import Matcher, requirements_of
from controllers.core.stages.reading import DelaySpec, Option, Source, read_stages

Raw = dict[str, Any]
Delay = float | tuple[float, float]

FOREVER = "forever"
MAX_DOUBLINGS = 32

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|us|µs|ns|m|s))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def draw(delay: Delay, rng: random.Random) -> float:
    """The delay, or one drawn from the pair."""
    return rng.uniform(*delay) if isinstance(delay, tuple) else delay


def seconds_of(value: Any, now: datetime) -> Delay | None:
    """A delay as an object may say it: seconds ("5", "1,5" to draw from), a duration ("1m30s"), a time, "forever".

    None for anything else.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return max(0.0, float(value))
    if not isinstance(value, str):
        return None
    text = value.strip()
    if text == FOREVER:
        return math.inf
    if _DURATION.fullmatch(text):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    try:
        numbers = [float(each) for each in text.split(",")]
    except ValueError:
        # A time without its zone cannot be compared: TypeError.
        try:
            return max(0.0, (datetime.fromisoformat(text) - now).total_seconds())
        except (TypeError, ValueError):
            return None
    if any(map(math.isnan, numbers)):
        return None
    given = sorted(max(0.0, each) for each in numbers)
    return given[0] if len(given) == 1 else (given[0], given[-1])


class Stage:
    """One stage. Raises StageError if its expressions or its effect do not make sense."""

    def __init__(self, source: Source, options: dict[Option, Delay]) -> None:
        spec = source.document.spec
        self.name = source.name
        self.kind = spec.resource_ref.kind
        self.weight = spec.weight
        self.immediate = spec.immediate_next_stage
        self.effect = Effect(source)
        self.requirements = requirements_of(source)
        self._delay = delay = spec.delay
        self._weight_from = _expression(source, "spec.weightFrom", spec.weight_from)
        self._duration_from = _expression(source, "spec.delay.durationFrom", delay.duration_from)
        self._jitter_from = _expression(source, "spec.delay.jitterDurationFrom", delay.jitter_duration_from)
        self._doubled_from = _expression(source, "spec.delay.doubledFrom", delay.doubled_from)
        self._max_from = _expression(source, "spec.delay.maxDurationFrom", delay.max_duration_from)
        given = options.get(delay.option) if delay.option else None
        self._own = _own(delay) if given is None else given

    def reach(self, shape: Shape) -> None:
        """Note what its delay and weight look at."""
        for each in (self._weight_from, self._duration_from, self._jitter_from, self._doubled_from, self._max_from):
            if each is not None:
                each.reach(shape)

    def weight_of(self, document: Any) -> int:
        """Its weight for this object."""
        if self._weight_from is not None:
            found = self._weight_from.first(document)
            if isinstance(found, int) or (isinstance(found, str) and found.isdecimal()):
                return max(0, int(found))
        return self.weight

    def delay_of(self, document: Any, now: datetime) -> Delay:
        """Seconds, a pair to draw from, or infinity for never."""
        delay = self._own
        if self._duration_from is not None and (found := self._longest(self._duration_from, document, now)) is not None:
            delay = found
        if self._jitter_from is not None and (found := self._longest(self._jitter_from, document, now)) is not None:
            least, most = _ends(delay)[0], _ends(found)[1]
            # As in kwok: an upper bound, which may lie below.
            delay = (least, most) if most > least else most
        if self._doubled_from is not None:
            counts = [each for each in self._doubled_from.values(document) if isinstance(each, int)]
            delay = _times(delay, 2.0 ** min(max(counts, default=0), MAX_DOUBLINGS))
        if self._delay.max_duration_milliseconds is not None:
            delay = _at_most(delay, self._delay.max_duration_milliseconds / 1000)
        if self._max_from is not None and (found := self._longest(self._max_from, document, now)) is not None:
            delay = _at_most(delay, _ends(found)[1])
        return delay

    @staticmethod
    def _longest(expression: Expression, document: Any, now: datetime) -> Delay | None:
        found = [each for each in (seconds_of(each, now) for each in expression.values(document)) if each is not None]
        return max(found, key=lambda each: _ends(each)[1], default=None)


def _own(delay: DelaySpec) -> Delay:
    least = delay.duration_milliseconds / 1000
    if delay.jitter_duration_milliseconds is None:
        return least
    most = delay.jitter_duration_milliseconds / 1000
    return (least, most) if most > least else most


def _ends(delay: Delay) -> tuple[float, float]:
    return delay if isinstance(delay, tuple) else (delay, delay)


def _times(delay: Delay, factor: float) -> Delay:
    return (delay[0] * factor, delay[1] * factor) if isinstance(delay, tuple) else delay * factor


def _at_most(delay: Delay, most: float) -> Delay:
    if not isinstance(delay, tuple):
        return min(delay, most)
    return delay if delay[1] <= most else (min(delay[0], most), most)


def _expression(source: Source, path: str, given: Any) -> Expression | None:
    if given is None:
        return None
    try:
        return Expression(given.expression_from)
    except ValueError as error:
        raise source.error(f"{path}.expressionFrom", error) from None


class Stages:
    """The stages of one kind of object.

    options: what takes the place of the delays of stages that name an option.
    """

    def __init__(self, sources: Sequence[Source], kind: str, options: dict[Option, Delay]) -> None:
        self.all = [Stage(source, options) for source in sources if source.document.spec.resource_ref.kind == kind]
        shape = Shape()
        for path in ("deletionTimestamp", "finalizers", "name"):
            shape.field("metadata").field(path).whole()
        shape.field("spec").field("nodeName").whole()
        for path in ("phase", "podIP"):
            shape.field("status").field(path).whole()
        for stage in self.all:
            stage.reach(shape)
        self._matcher = Matcher([(stage, stage.requirements) for stage in self.all], shape)
        self._decode = msgspec.json.Decoder(shape.type()).decode

    def decode(self, data: bytes) -> Any:
        """The fields of a stored object that stages look at. Raises msgspec.ValidationError."""
        return self._decode(data)

    def fit(self, document: Any) -> tuple[Stage, ...]:
        """The stages that the object fits."""
        return self._matcher.fit(document)

    @staticmethod
    def choose(fit: Sequence[Stage], document: Any, rng: random.Random) -> Stage:
        """One of those, by weight. One without weight comes only if none has any."""
        if len(fit) == 1:
            return fit[0]
        weights = [stage.weight_of(document) for stage in fit]
        return rng.choices(fit, weights if any(weights) else None)[0]


def check_stages(wanted: Sequence[str | Path]) -> None:
    """Raises StageError if these sets, files and directories cannot be used."""
    sources = read_stages(wanted)
    for kind in ("Pod", "Node"):
        Stages(sources, kind, {})
