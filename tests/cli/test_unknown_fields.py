"""Fields that Kubernetes does not have: `--validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controllers.cli.manifests import read_manifests
from controllers.cli.unknown_fields import unknown_fields
from tests.cli.conftest import MANIFESTS, Cli

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, label: {a: b}}
spec:
  replica: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i, imagePullPolice: Always}], hostUsers: false}
"""
PATHS = ["metadata.label", "spec.replica", "spec.template.spec.containers[0].imagePullPolice"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "web.yaml"
    place.write_text(DEPLOYMENT)
    return place


@pytest.mark.parametrize("option", [(), ("--validate=warn",)])
def test_they_are_told_and_kept(cli: Cli, file: Path, option: tuple[str, ...]) -> None:
    done = cli("apply", "-f", file, *option)
    assert (done.code, done.out) == (0, "deployment.apps/web created\n")
    where = f'{file} (document 1, Deployment "web")'
    assert done.err.splitlines() == [f'Warning: unknown field "{path}" in {where}' for path in PATHS]
    assert cli("get", "deploy/web", "-o", "jsonpath={.spec.replica}").out == "3"


@pytest.mark.parametrize("command", ["apply", "create", "replace"])
@pytest.mark.parametrize("option", ["--validate", "--validate=true", "--validate=strict"])
def test_they_are_errors_if_asked(cli: Cli, file: Path, command: str, option: str) -> None:
    done = cli(command, "-f", file, option)
    assert (done.code, done.out) == (1, "")
    told = done.err.splitlines()
    assert [line.split('"')[3] for line in told] == PATHS
    assert all(line.startswith("error: ") and "unknown field" in line for line in told)
    assert told[-1].endswith(
        "; nothing was " + {"apply": "applied", "create": "created", "replace": "replaced"}[command]
    )


@pytest.mark.parametrize("option", ["--validate=ignore", "--validate=false"])
def test_they_are_passed_over_if_asked(cli: Cli, file: Path, option: str) -> None:
    done = cli("create", "-f", file, option)
    assert (done.code, done.out, done.err) == (0, "deployment.apps/web created\n", "")


def test_no_manifest_of_ours_has_one() -> None:
    manifests = read_manifests([str(MANIFESTS), str(MANIFESTS.parent.parent / "tests" / "workloads")], recursive=True)
    assert [(str(each), found) for each in manifests if (found := unknown_fields(each.raw))] == []


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"apiVersion": "example.com/v1", "kind": "Website", "spec": {"any": 1}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": 3, "spec": ["x", {"volumes": [{"any": {}}]}]},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"labels": {"any": "x"}}, "data": {"any": "x"}},
    ],
)
def test_what_nobody_knows_is_no_typo(raw: dict[str, Any]) -> None:
    assert unknown_fields(raw) == []
