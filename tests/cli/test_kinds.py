"""A kind of one's own at the command line, which has nothing but its definition; and in whose name commands write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from informer import Immutable, Meta, Resource, Scale, Scheme, crd_for
from tests.cli.conftest import Cli

HERE = Scheme()


class Pool(Resource, group="example.com", version="v2", scale=Scale(spec="spec.workers"), scheme=HERE):
    class Spec:
        zone: Annotated[str, Immutable]
        workers: Annotated[int, Meta(ge=0, le=10)] = 1


class PoolV1(Resource, version="v1", hub=Pool, scheme=HERE):
    class Spec:
        zone: str
        workers: int = 1


def manifest(directory: Path, version: str = "v2", **spec: Any) -> Path:
    path = directory / "pool.json"
    raw = {"apiVersion": f"example.com/{version}", "kind": "Pool", "metadata": {"name": "a"}, "spec": spec}
    path.write_text(json.dumps(raw))
    return path


def defined(cli: Cli, directory: Path) -> None:
    path = directory / "definition.json"
    path.write_text(json.dumps(crd_for(Pool).raw))
    assert cli("apply", "-f", path).code == 0


def test_the_definition_carries_the_rules(cli: Cli, tmp_path: Path) -> None:
    defined(cli, tmp_path)
    wrong = cli("apply", "-f", manifest(tmp_path, workers=11))
    assert wrong.code == 1
    assert "spec.workers: expected at most 10, got 11" in wrong.err
    assert "spec.zone: required" in wrong.err
    assert cli("apply", "-f", manifest(tmp_path, zone="x")).code == 0
    assert "spec.zone: is immutable" in cli("apply", "-f", manifest(tmp_path, zone="y")).err
    assert cli("scale", "pool/a", "--replicas=4").code == 0
    assert "spec.workers: expected at most 10, got 12" in cli("scale", "pool/a", "--replicas=12").err


def test_versions_that_need_no_code_can_be_asked_for_by_name(cli: Cli, tmp_path: Path) -> None:
    defined(cli, tmp_path)
    assert cli("apply", "-f", manifest(tmp_path, "v1", zone="x", workers=3)).code == 0
    for version in ("v1", "v2"):
        shown = json.loads(cli("get", f"pools.{version}.example.com", "a", "-o", "json").out)
        assert (shown["apiVersion"], shown["spec"]["workers"]) == (f"example.com/{version}", 3)
    assert json.loads(cli("get", "pool", "a", "-o", "json").out)["apiVersion"] == "example.com/v2"
    assert cli("api-resources").out.count("pools") == 1


def test_commands_write_in_their_names(cli: Cli, tmp_path: Path) -> None:
    defined(cli, tmp_path)
    cli("apply", "-f", manifest(tmp_path, zone="x"))
    cli("scale", "pool/a", "--replicas=4", "--current-replicas=1")
    shown = json.loads(cli("get", "pool/a", "-o", "json", "--show-managed-fields").out)
    assert [(each["manager"], each["operation"], each.get("subresource")) for each in _entries(shown)] == [
        ("listwatch-apply", "Apply", None),
        ("listwatch-scale", "Update", "scale"),
    ]
    assert _entries(json.loads(cli("get", "pool/a", "-o", "json").out)) == []


def _entries(shown: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shown["metadata"].get("managedFields", [])
    return found
