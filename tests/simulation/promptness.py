"""How soon what is told is true: by the loop's clock, which a life notes for every revision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from informer.resources import Resource
from tests.controllers.cluster import Revision

# Seconds in which all is told. Watches are up to 3 s late, and an answer that got lost costs as much again.
PROMPT = 10.0
# The same where an office may be lost twice in a row, each time for the 15 s of a lease and a start of 5 s.
PROMPT_AMONG_LEADERS = 60.0

What = tuple[Any, ...]
Untrue = Callable[[Revision], Mapping[What, Any]]
"""What is told wrongly at a revision, and what would be right."""


def check_prompt(
    revisions: Sequence[Revision],
    times: Mapping[int, float],
    kinds: Sequence[type[Resource]],
    untrue: Untrue,
    seconds: float,
) -> None:
    """Nothing is told wrongly for longer than that. times: of revisions; kinds: those that `untrue` looks at."""
    for lag, number, what in lags(revisions, times, kinds, untrue):
        assert lag <= seconds, f"revision {number}: wrong for {lag:.1f} s: {what}"


def lags(
    revisions: Sequence[Revision], times: Mapping[int, float], kinds: Sequence[type[Resource]], untrue: Untrue
) -> Iterator[tuple[float, int, What]]:
    """How long each was told wrongly while the truth did not change: seconds, the revision at which that ended, what.

    What is wrong at the end is for others to judge.
    """
    prefixes = tuple(cls.TYPE.prefix().decode() for cls in kinds)
    since: dict[What, tuple[Any, float]] = {}
    for revision in revisions:
        if not any(key.startswith(prefixes) for key in revision.changed):
            continue
        now, wrong = times[revision.number], untrue(revision)
        for what, (truth, start) in [*since.items()]:
            if what not in wrong or wrong[what] != truth:
                yield now - start, revision.number, what
                del since[what]
        for what, truth in wrong.items():
            since.setdefault(what, (truth, now))
