"""The cases of `cases/*.yaml`: manifests as public documentation has them, what is done to them, and the steps that the
controllers have to take. `Act` says what a case is written of, `tests/workloads/steps.py` what a step looks like.

An act is over when `until` holds, and `wait` seconds later; then its steps have to be all that has happened. What is
wanted of an object is contained in it: of an object of JSON some fields, of a list some items.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from controllers.cli.kinds import Kinds
from controllers.core.types import Event
from informer import patch
from informer.errors import NotFound
from informer.resources import Resource
from kvstore.api import Client
from tests.controllers.cluster import Cluster, cluster, history
from tests.workloads.steps import steps

pytestmark = pytest.mark.virtual_time

CASES = Path(__file__).parent / "cases"
# The same each time, so that steps have one order.
DELAYS = {"pod_start_delay": 1.0, "pod_ready_delay": 1.0, "pod_delete_delay": 1.0, "pod_run_time": 2.0}
PATIENCE = 200_000.0  # seconds, virtual
KINDS = Kinds()
GENERATED = re.compile(r"-[bcdfghjklmnpqrstvwxz2456789]{5,10}\b")

Raw = dict[str, Any]


class Act(msgspec.Struct, forbid_unknown_fields=True):
    """One thing that is done; what is waited for; what has happened by then. Objects are named KIND/NAME.

    apply: manifests. patch, delete: objects. kill, revive: nodes. until, shows: what is wanted of objects, null: they
    are not there. told: all events about an object so far, `Reason: message`.
    """

    steps: list[str]
    apply: list[Raw] = []
    patch: dict[str, Raw] = {}
    delete: list[str] = []
    kill: list[str] = []
    revive: list[str] = []
    until: dict[str, Raw | None] = {}
    wait: float = 0.0
    shows: dict[str, Raw | None] = {}
    told: dict[str, list[str]] = {}


class Case(msgspec.Struct, forbid_unknown_fields=True):
    """options: of `add_workloads`, besides those of all cases."""

    name: str
    acts: list[Act]
    options: Raw = {}


def cases() -> list[Any]:
    found = []
    for path in sorted(CASES.glob("*.yaml")):
        # The key `templates` is a place for anchors.
        for raw in yaml.safe_load(path.read_text())["cases"]:
            case = msgspec.convert(raw, Case)
            found.append(pytest.param(case, id=f"{path.stem}: {case.name}"))
    return found


@pytest.mark.parametrize("case", cases())
async def test_case(store: Client, case: Case) -> None:
    async with cluster(store, **{**DELAYS, **case.options}) as it:
        await asyncio.sleep(1)
        for number, act in enumerate(case.acts, 1):
            since = (await history(store))[-1].number
            await perform(it, act)
            await it.until(Met(it, act.until), PATIENCE)
            await asyncio.sleep(act.wait)
            found = steps(await history(store), since)
            assert found == act.steps, f"act {number} took these steps:\n" + "\n".join(f"- '{each}'" for each in found)
            for reference, wanted in act.shows.items():
                raw = await read(it, reference)
                assert fits(wanted, raw), f"act {number}: {reference} is {raw}"
            for reference, told in act.told.items():
                assert await events(it, reference) == told, f"act {number}"


async def perform(it: Cluster, act: Act) -> None:
    for raw in act.apply:
        manifest = patch.copy(raw)
        cls = KINDS.by_gvk(manifest["apiVersion"], manifest["kind"])
        if cls.TYPE.namespaced:
            manifest["metadata"].setdefault("namespace", "default")
        await it.apply(cls.from_raw(manifest))
    for reference, change in act.patch.items():
        cls, name = find(reference)
        await it.client.patch(cls, name, change, "default" if cls.TYPE.namespaced else None)
    for reference in act.delete:
        cls, name = find(reference)
        await it.client.delete(cls, name, "default" if cls.TYPE.namespaced else None)
    for name in act.kill:
        it.workloads.nodes.kill(name)
    for name in act.revive:
        it.workloads.nodes.revive(name)


class Met:
    """Whether all that is wanted is so."""

    def __init__(self, it: Cluster, wanted: dict[str, Raw | None]) -> None:
        self._it = it
        self._wanted = wanted

    async def __call__(self) -> bool:
        for reference, wanted in self._wanted.items():
            raw = await read(self._it, reference)
            seen = (raw or {}).get("status", {}).get("observedGeneration")
            if not fits(wanted, raw) or (raw is not None and seen is not None and seen < raw["metadata"]["generation"]):
                return False
        return True


def find(reference: str) -> tuple[type[Resource], str]:
    kind, _, name = reference.partition("/")
    return KINDS.lookup(kind), name


async def read(it: Cluster, reference: str) -> Raw | None:
    cls, name = find(reference)
    try:
        return (await it.client.get(cls, name, "default" if cls.TYPE.namespaced else None)).raw
    except NotFound:
        return None


def fits(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(fits(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and all(any(fits(each, item) for item in found) for each in wanted)
    return bool(wanted == found)


async def events(it: Cluster, reference: str) -> list[str]:
    cls, name = find(reference)
    found = []
    for event in await it.client.list(Event, "default"):
        about = event.involved_object
        if (about.kind, about.name) == (cls.TYPE.kind, name):
            found.append((event.metadata.creation_timestamp, int(event.metadata.resource_version or 0), event))
    return [f"{event.reason}: {GENERATED.sub('-*', event.message)}" for *_, event in sorted(found, key=lambda e: e[:2])]
