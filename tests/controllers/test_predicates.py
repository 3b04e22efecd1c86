"""Predicates, and the builder that combines them, on a real store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec
import pytest

from controllers import (
    Context,
    ControllerManagedBy,
    Manager,
    Request,
    all_of,
    annotations_changed,
    any_of,
    generation_changed,
    labels_changed,
    none_of,
    resource_version_changed,
    selected,
)
from controllers.owners import set_controller_reference
from controllers.predicates import Predicate
from informer import Cache, Item, Stored
from kvstore.api import Client
from tests.controllers.kinds import Part, Rack, Site

pytestmark = pytest.mark.virtual_time


def stored(revision: int, **metadata: object) -> Stored:
    cache = Cache()
    raw = {"metadata": {"name": "a", "namespace": "default", **metadata}}
    cache.replace([Item("default/a", msgspec.json.encode(raw), str(revision))], str(revision))
    found = cache.get("default/a")
    assert found is not None
    return found


PLAIN = stored(5, generation=1)
RESYNCED = stored(5, generation=1)
SPEC = stored(6, generation=2)
DELETING = stored(6, generation=2, deletionTimestamp="2026-01-01T00:00:00Z")
LABELLED = stored(6, generation=1, labels={"app": "web"})
ANNOTATED = stored(6, generation=1, annotations={"note": "x"})
STATUS = stored(6, generation=1)


@pytest.mark.parametrize(
    ("predicate", "passes"),
    [
        (generation_changed, [SPEC, DELETING]),
        (labels_changed, [LABELLED]),
        (annotations_changed, [ANNOTATED]),
        (resource_version_changed, [SPEC, DELETING, LABELLED, ANNOTATED, STATUS]),
        (selected("app=web"), [LABELLED]),
        (all_of(resource_version_changed, generation_changed), [SPEC, DELETING]),
        (any_of(labels_changed, annotations_changed), [LABELLED, ANNOTATED]),
        (none_of(generation_changed, labels_changed), [RESYNCED, ANNOTATED, STATUS]),
    ],
)
def test_which_updates_pass(predicate: Predicate, passes: list[Stored]) -> None:
    news = [RESYNCED, SPEC, DELETING, LABELLED, ANNOTATED, STATUS]
    assert [new for new in news if predicate(PLAIN, new)] == passes


@pytest.mark.parametrize(
    "predicate", [generation_changed, labels_changed, annotations_changed, resource_version_changed]
)
def test_what_appears_and_what_goes_passes(predicate: Predicate) -> None:
    assert predicate(None, PLAIN)
    assert predicate(PLAIN, None)


def test_an_object_that_ceases_to_match_counts_once_more() -> None:
    web = selected({"app": "web"})
    assert web(LABELLED, PLAIN)
    assert web(LABELLED, None)
    assert not web(PLAIN, STATUS)
    assert not web(None, PLAIN)


async def test_the_builder_wires_what_it_is_told(store: Client) -> None:
    manager, ran = Manager(client=store), []

    async def reconcile(ctx: Context, request: Request) -> None:
        ran.append(request.name)

    def every_site(_: Stored) -> Iterable[Request]:
        return [Request("default", "from-rack")]

    (
        ControllerManagedBy(manager)
        .for_(Site, generation_changed)
        .owns(Part)
        .watches(Rack, every_site, labels_changed)
        .with_event_filter(none_of(selected("ignore=yes")))
        .with_options(workers=2)
        .named("sites")
        .complete(reconcile)
    )
    async with manager:
        assert manager.statistics().controllers["sites"].workers == 2
        client = manager.client

        async def runs_of(write: Callable[[], object]) -> list[str]:
            ran.clear()
            await write()  # type: ignore[misc]
            await asyncio.sleep(1)
            return sorted(ran)

        site = await client.create(Site(name="a", namespace="default"))
        await asyncio.sleep(1)
        assert ran == ["a"]
        site.status.ready = 1
        assert await runs_of(lambda: client.update_status(site)) == []
        part = Part(name="p", namespace="default")
        set_controller_reference(site, part)
        assert await runs_of(lambda: client.create(part)) == ["a"]
        assert await runs_of(lambda: client.create(Rack(name="r"))) == ["from-rack"]
        assert await runs_of(lambda: client.patch(Rack, "r", {"metadata": {"annotations": {"a": "b"}}})) == []
        ignored = Site(name="b", namespace="default", labels={"ignore": "yes"})
        assert await runs_of(lambda: client.create(ignored)) == []


def test_the_builder_refuses_what_makes_no_controller() -> None:
    async def reconcile(ctx: Context, request: Request) -> None:
        """Never run."""

    with pytest.raises(ValueError, match="nothing to reconcile"):
        ControllerManagedBy(Manager()).owns(Part).complete(reconcile)
    with pytest.raises(ValueError, match="one kind"):
        ControllerManagedBy(Manager()).for_(Site).for_(Rack)
    with pytest.raises(ValueError, match="watched already"):
        ControllerManagedBy(Manager()).for_(Site).owns(Part).watches(Part, lambda _: [])
