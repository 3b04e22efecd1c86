"""What must hold of Endpoints and slices while everything changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from controllers.core.types import Node, Pod, Service
from controllers.discovery.types import Endpoints, EndpointSlice
from tests.controllers.cluster import Revision
from tests.controllers.discovery.services import endpoints_listed, expected, slices_by_service, slices_listed

# Seconds in which all is told. Watches are up to 3 s late, and an answer that got lost costs as much again.
PROMPT = 10.0
# The same where an office may be lost twice in a row, each time for the 15 s of a lease and a start of 5 s.
PROMPT_AMONG_LEADERS = 60.0

PREFIXES = tuple(cls.TYPE.prefix().decode() for cls in (Node, Pod, Service, Endpoints, EndpointSlice))


def check_prompt(revisions: Sequence[Revision], times: Mapping[int, float], seconds: float) -> None:
    """Nothing untrue is told for longer than that, and nothing true is left out for longer. times: of revisions."""
    for lag, number, what in lags(revisions, times):
        assert lag <= seconds, f"revision {number}: wrong for {lag:.1f} s: {what}"


def lags(revisions: Sequence[Revision], times: Mapping[int, float]) -> Iterator[tuple[float, int, tuple[Any, ...]]]:
    """How long something untrue was told, or something true was not: seconds, the revision at which that ended, and
    (kind, Service, address, port...). What is true has not changed meanwhile."""
    since: dict[tuple[Any, ...], tuple[Any, float]] = {}
    for revision in revisions:
        if not any(key.startswith(PREFIXES) for key in revision.changed):
            continue
        now = times[revision.number]
        untrue = _untrue(revision)
        for what, (truth, start) in [*since.items()]:
            if what not in untrue or untrue[what] != truth:
                yield now - start, revision.number, what
                del since[what]
        for what, truth in untrue.items():
            since.setdefault(what, (truth, now))


def _untrue(revision: Revision) -> dict[tuple[Any, ...], Any]:
    """What is told wrongly, and what would be right; None if it must not be told."""
    services = {each["metadata"]["name"]: each for each in revision.of(Service)}
    endpoints = {each["metadata"]["name"]: each for each in revision.of(Endpoints)}
    slices = slices_by_service(revision)
    untrue: dict[tuple[Any, ...], Any] = {}
    for name in {*services, *endpoints, *slices}:
        truths = expected(revision, services[name]) if name in services else ({}, {})
        listed = (endpoints_listed(endpoints.get(name, {})), slices_listed(slices.get(name, [])))
        for kind, truth, told in zip(("Endpoints", "EndpointSlice"), truths, listed, strict=True):
            for key in truth.keys() | told.keys():
                if truth.get(key) != told.get(key):
                    untrue[kind, name, *key] = truth.get(key)
    return untrue
