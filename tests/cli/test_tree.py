"""Trees of owners, and what `describe` tells of owned objects and events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from controllers.cli.durations import parse_time
from controllers.core.types import ConfigMap, Event, Namespace, Pod
from controllers.stores import open_store
from informer import ObjectClient, Resource, Scheme, crd_for
from informer.codecs import format_time
from tests.cli.conftest import Cli


def filled(store: Path, work: Callable[[ObjectClient], Awaitable[Any]]) -> None:
    async def body() -> None:
        async with open_store(str(store)) as client:
            await work(ObjectClient(client))

    asyncio.run(body())


def owner(obj: Resource, **other: str) -> dict[str, Any]:
    kind = obj.TYPE
    return {"apiVersion": kind.api_version, "kind": kind.kind, "name": obj.name, "uid": obj.metadata.uid or "", **other}


def pod(name: str, *owners: dict[str, Any]) -> Pod:
    return Pod(name=name, spec={"containers": [{"name": "c", "image": "i"}]}, owner_references=[*owners])


def rows(cli: Cli, *arguments: str) -> list[list[str]]:
    shown = cli("tree", *arguments)
    assert (shown.code, shown.err) == (0, "")
    assert shown.lines[0].split() == ["NAMESPACE", "NAME", "READY", "STATUS", "AGE"]
    names, states = shown.lines[0].index("NAME", 9), shown.lines[0].index("STATUS")
    return [[line[names : shown.lines[0].index("READY")].rstrip(), line[states:].rstrip()] for line in shown.lines[1:]]


def test_owners_are_above_and_what_is_owned_below(cli: Cli, tmp_path: Path) -> None:
    async def work(objects: ObjectClient) -> None:
        space = await objects.create(Namespace(name="space"))
        top = await objects.create(ConfigMap(name="top", owner_references=[owner(space)]))
        other = await objects.create(ConfigMap(name="other"))
        middle = await objects.create(ConfigMap(name="middle", owner_references=[owner(top), owner(other)]))
        ready = await objects.create(pod("b", owner(middle)))
        ready.status.phase = "Running"
        ready.raw["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
        await objects.update_status(ready)
        await objects.create(pod("a", owner(middle), owner(middle)))
        await objects.create(pod("c", {"apiVersion": "v1", "kind": "ConfigMap", "name": "middle", "uid": "another"}))

    filled(tmp_path / "store", work)
    shown = cli("tree", "cm/middle").lines
    assert [line.partition("   ")[2].split()[:-1] for line in shown[1:]] == [
        ["┌─ConfigMap/other", "-"],
        ["│", "┌─Namespace/space", "-", "Active"],
        ["├─ConfigMap/top", "-"],
        ["ConfigMap/middle", "-"],
        ["├─Pod/a", "-", "Pending"],
        ["└─Pod/b", "True", "Running"],
    ]
    assert [name for name, _ in rows(cli, "namespace", "space")] == [
        "Namespace/space", "└─ConfigMap/top", "  └─ConfigMap/middle", "    ├─Pod/a", "    └─Pod/b",
    ]  # fmt: skip
    missing = cli("tree", "cm/nope")
    assert (missing.code, missing.err) == (1, 'error: configmaps "nope" not found\n')
    assert cli("tree", "cm").code == 2


def test_absent_owners_and_circles_are_told(cli: Cli, tmp_path: Path) -> None:
    async def work(objects: ObjectClient) -> None:
        gone = {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "x"}
        first = await objects.create(ConfigMap(name="first"))
        second = await objects.create(ConfigMap(name="second", owner_references=[owner(first)]))
        await objects.create(ConfigMap(name="third", owner_references=[owner(first), owner(second)]))
        first.raw["metadata"]["ownerReferences"] = [owner(second), gone, {**gone, "name": "second", "uid": "y"}]
        await objects.update(first)

    filled(tmp_path / "store", work)
    above_and_below = rows(cli, "cm/first")
    assert [name for name, _ in above_and_below] == [
        "┌─ConfigMap/second", "├─ConfigMap/gone", "│ ┌─ConfigMap/first", "├─ConfigMap/second", "ConfigMap/first",
        "├─ConfigMap/second", "│ ├─ConfigMap/first", "│ └─ConfigMap/third", "└─ConfigMap/third",
    ]  # fmt: skip
    states = [state for _, state in above_and_below]
    assert states[0] == "absent: another object has its name"
    assert states[1] == "absent"
    assert states[2].startswith("a circle ")
    assert states[6].startswith("a circle ")


def test_many_ways_down_are_not_gone_twice(cli: Cli, tmp_path: Path) -> None:
    """Each level owned by both objects of the one above: 2^20 ways, 41 objects."""

    async def work(objects: ObjectClient) -> None:
        above = [await objects.create(ConfigMap(name="top"))]
        for level in range(20):
            above = [
                await objects.create(ConfigMap(name=f"c{level}-{side}", owner_references=list(map(owner, above))))
                for side in range(2)
            ]

    filled(tmp_path / "store", work)
    shown = rows(cli, "cm/top")
    assert len(shown) == 1 + 2 + 19 * 4
    assert (
        sum("goes on as above" in state for _, state in shown) == 2 * 18
    )  # each but the lowest, from its second owner


class Site(Resource, group="example.com", version="v1", scheme=Scheme()):
    """A site."""

    class Spec:
        image: str


def test_describe_tells_conditions_owned_objects_and_events_of_any_kind(cli: Cli, tmp_path: Path) -> None:
    async def work(objects: ObjectClient) -> None:
        await objects.create(crd_for(Site))
        for name in ("blog", "shop"):
            site = await objects.create(Site(name=name, spec={"image": "i"}))
            site.raw["status"] = {
                "url": f"http://{name}",
                "conditions": [{"type": "Ready", "status": "False", "reason": "Slow", "message": "not yet"}],
            }
            site = await objects.update_status(site)
            await objects.create(pod(f"{name}-1", owner(site)))
            for reason, seen in (("Second", 20), ("First", 10)):
                await objects.create(
                    Event(
                        name=f"{name}.{seen}",
                        involved_object={
                            "kind": "Site",
                            "name": name,
                            "uid": site.metadata.uid,
                            "namespace": "default",
                        },
                        reason=reason,
                        type="Normal",
                        message=f"about {name}",
                        last_timestamp=format_time(parse_time(f"2026-01-01T00:00:{seen}Z")),  # type: ignore[arg-type]
                    )
                )

    filled(tmp_path / "store", work)
    both = cli("describe", "sites").out
    assert both.count("Name:") == 2
    for name, page in zip(("blog", "shop"), both.split("\n\n\n"), strict=True):
        lines = [line.split() for line in page.splitlines()]
        assert ["Url:", f"http://{name}"] in lines
        assert ["Ready", "False", "Slow", "not", "yet"] in lines
        assert [f"Pod/{name}-1", "Pending"] in lines
        told = [line[1] for line in lines if line[-2:] == ["about", name]]
        assert told == ["First", "Second"]


@pytest.mark.parametrize("kind", ["cm", "secret", "ns", "node", "svc", "sa", "pvc", "lease", "crd", "event"])
def test_describe_of_every_kind_ends_with_its_events(cli: Cli, tmp_path: Path, kind: str) -> None:
    specs = {
        "svc": ("Service", "v1", "spec: {ports: [{port: 80}]}"),
        "lease": ("Lease", "coordination.k8s.io/v1", "spec: {holderIdentity: me}"),
        "pvc": (
            "PersistentVolumeClaim",
            "v1",
            "spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}",
        ),
        "cm": ("ConfigMap", "v1", "data: {a: b}"),
        "secret": ("Secret", "v1", "stringData: {a: b}"),
        "ns": ("Namespace", "v1", "spec: {}"),
        "node": ("Node", "v1", "spec: {}"),
        "sa": ("ServiceAccount", "v1", "secrets: []"),
        "event": ("Event", "v1", "involvedObject: {kind: Pod, name: p, namespace: default}"),
        "crd": (
            "CustomResourceDefinition",
            "apiextensions.k8s.io/v1",
            "spec: {group: example.com, names: {kind: X, plural: xs}, versions: [{name: v1, storage: true}]}",
        ),
    }
    title, version, rest = specs[kind]
    name = "xs.example.com" if kind == "crd" else "x"
    file = tmp_path / "x.yaml"
    file.write_text(f"apiVersion: {version}\nkind: {title}\nmetadata: {{name: {name}}}\n{rest}\n")
    applied = cli("apply", "-f", file)
    assert applied.code == 0, applied.err
    page = cli("describe", kind, name)
    assert (page.code, page.err) == (0, "")
    assert page.lines[0].split() == ["Name:", name]
    assert page.lines[-1].split() == ["Events:", "<none>"]
