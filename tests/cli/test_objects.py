"""The commands on objects, on an embedded store that no controller runs on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from controllers.apps.types import Deployment
from controllers.cli.yaml_reader import read_yaml
from controllers.stores import open_store
from informer import ObjectClient, Resource, Scheme, crd_for
from informer.client import LAST_APPLIED
from tests.cli.conftest import MANIFESTS, Cli

WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: nginx, image: "nginx:1"}
      - {name: sidecar, image: "sidecar:1"}
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector: {app: web}
  ports: [{port: 80}]
"""


@pytest.fixture
def web(tmp_path: Path, cli: Cli) -> Path:
    file = tmp_path / "web.yaml"
    file.write_text(WEB)
    assert cli("apply", "-f", file).out == "deployment.apps/web created\nservice/web created\n"
    return file


def test_apply_tells_what_it_did(web: Path, cli: Cli) -> None:
    assert cli("apply", "-f", web).lines == ["deployment.apps/web unchanged", "service/web unchanged"]
    web.write_text(WEB.replace("replicas: 2", "replicas: 3"))
    assert cli("apply", "-f", web).lines == ["deployment.apps/web configured", "service/web unchanged"]
    assert cli("apply", "-f", web, "-o", "name").lines == ["deployment.apps/web", "service/web"]


def test_nothing_of_the_examples_is_lost(cli: Cli) -> None:
    applied = cli("apply", "-f", MANIFESTS)
    assert applied.code == 0
    assert len(applied.lines) == 13
    for file in sorted(MANIFESTS.glob("*.yaml")):
        for document in read_yaml(file.read_text()):
            wanted = document.value
            wanted.pop("stringData", None)
            name = f"{wanted['kind'].lower()}/{wanted['metadata']['name']}"
            stored = json.loads(cli("get", name, "-o", "json").out)
            assert contains(stored, wanted), name
    again = cli("apply", "-f", MANIFESTS)
    assert all(line.endswith(" unchanged") for line in again.lines), again.out


def contains(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(key in found and contains(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(contains, found, wanted))
    return bool(found == wanted)


def test_apply_removes_what_the_manifest_no_longer_says_and_keeps_what_others_set(web: Path, cli: Cli) -> None:
    cli("scale", "deploy/web", "--replicas=7")
    web.write_text(WEB.replace("  labels: {app: web}\n", "", 1).replace("  replicas: 2\n", ""))
    assert cli("apply", "-f", web).lines[0] == "deployment.apps/web configured"
    stored = json.loads(cli("get", "deploy/web", "-o", "json").out)
    assert "labels" not in stored["metadata"] or stored["metadata"]["labels"] == {}
    assert "spec" in json.loads(stored["metadata"]["annotations"][LAST_APPLIED])


def test_what_get_prints_can_be_applied(web: Path, cli: Cli, tmp_path: Path) -> None:
    for form in ("yaml", "json"):
        printed = cli("get", "deploy,svc", "-o", form)
        copy = tmp_path / f"copy.{form}"
        copy.write_text(printed.out)
        fresh = cli("apply", "-f", copy, store=tmp_path / f"other-{form}")
        assert fresh.code == 1  # they name the revision they were read at
        assert "Deployment" in fresh.err
        again = cli("apply", "-f", copy)
        assert (again.code, again.err) == (0, "")


def test_a_stale_manifest_is_a_conflict(web: Path, cli: Cli, tmp_path: Path) -> None:
    stale = tmp_path / "stale.yaml"
    stale.write_text(cli("get", "deploy/web", "-o", "yaml").out)
    cli("scale", "deploy/web", "--replicas=7")
    result = cli("apply", "-f", stale)
    assert result.code == 1
    assert result.err.startswith(f'error: {stale} (document 1, Deployment "web"): deployments.apps "web" was changed')
    assert cli("get", "deploy/web").lines[1].split()[1] == "0/7"


def test_create(web: Path, cli: Cli, tmp_path: Path) -> None:
    result = cli("create", "-f", web)
    assert result.code == 1
    assert 'deployments.apps "web" already exists' in result.err
    fresh = cli("create", "-f", web, store=tmp_path / "other")
    assert fresh.lines == ["deployment.apps/web created", "service/web created"]


def test_tables_are_kubectls(web: Path, cli: Cli) -> None:
    assert cli("get", "deployments").lines[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert cli("get", "deploy", "web").lines[1].split()[:4] == ["web", "0/2", "0", "0"]
    wide = cli("get", "deploy/web", "-o", "wide").lines[1].split()
    assert wide[5:] == ["nginx,sidecar", "nginx:1,sidecar:1", "app=web"]
    assert cli("get", "svc").lines[1].split()[:5] == ["web", "ClusterIP", "<none>", "<none>", "80/TCP"]
    assert cli("get", "deploy,svc").lines[1].startswith("deployment.apps/web ")
    assert cli("get", "all", "--no-headers").lines[0].startswith("service/web ")
    assert cli("get", "deploy", "-A").lines[1].split()[:2] == ["default", "web"]
    assert cli("get", "deploy", "--show-labels").lines[1].endswith("app=web")
    assert cli("get", "deploy,svc", "-o", "name").lines == ["deployment.apps/web", "service/web"]


def test_nothing_found(cli: Cli) -> None:
    result = cli("get", "pods")
    assert (result.code, result.out, result.err) == (0, "", "No resources found in default namespace.\n")
    assert cli("get", "pods", "-n", "other").err == "No resources found in other namespace.\n"
    assert cli("get", "pods", "-A").err == cli("get", "nodes").err == "No resources found.\n"
    empty = cli("get", "pods", "-o", "json")
    assert json.loads(empty.out)["items"] == []


def test_what_is_there_is_shown_beside_what_is_not(web: Path, cli: Cli) -> None:
    result = cli("get", "deploy/web", "deploy/nope")
    assert (result.code, result.err) == (1, 'error: deployments.apps "nope" not found\n')
    assert result.lines[1].startswith("web ")
    assert cli("get", "deploy/nope", "--ignore-not-found").code == 0


def test_selectors_and_namespaces(web: Path, cli: Cli) -> None:
    cli("create", "namespace", "other")
    cli("apply", "-f", web, "-n", "other")
    assert cli("get", "deploy", "-l", "app=web").lines[1].startswith("web")
    assert cli("get", "deploy", "-l", "app!=web").err.startswith("No resources found")
    assert len(cli("get", "deploy", "-A").lines) == 3
    assert cli("get", "deploy", "web", "-n", "other").lines[1].startswith("web")
    assert cli("get", "deploy", "-l", "app in (web").code == 1
    assert "namespace" in cli("apply", "-f", web, "-n", "Bad!").err


def test_set_image(web: Path, cli: Cli) -> None:
    assert cli("set", "image", "deployment/web", "nginx=nginx:2").out == "deployment.apps/web image updated\n"
    assert cli("get", "deploy", "web", "-o", "wide").lines[1].split()[6] == "nginx:2,sidecar:1"
    tried = cli("set", "image", "deploy/web", "nginx=nginx:9", "--dry-run=client")
    assert tried.out == "deployment.apps/web image updated (dry run)\n"
    assert cli("set", "image", "deploy", "web", "*=x:3").out == "deployment.apps/web image updated\n"
    assert cli("get", "deploy", "web", "-o", "wide").lines[1].split()[6] == "x:3,x:3"
    assert cli("set", "image", "deployment/web", "nginx=x:3").out == ""
    wrong = cli("set", "image", "deploy/web", "no=x:1")
    assert wrong.code == 1
    assert wrong.err == 'error: unable to find container named "no" in deployment.apps/web; it has nginx, sidecar\n'
    assert cli("set", "image", "svc/web", "no=x:1").err == "error: service/web has no containers\n"
    assert cli("set", "image", "deploy/web").code == 2


def test_scale(web: Path, cli: Cli) -> None:
    assert cli("scale", "deployment/web", "--replicas=5").out == "deployment.apps/web scaled\n"
    assert cli("get", "deploy", "web").lines[1].split()[1] == "0/5"
    assert cli("scale", "deploy", "web", "--replicas=1", "--current-replicas=4").err == (
        "error: deployment.apps/web has 5 replicas, not 4: not scaled\n"
    )
    assert cli("scale", "svc/web", "--replicas=1").err == ("error: cannot scale service/web: it has no spec.replicas\n")
    assert cli("scale", "deploy/web", "--replicas=9", "--dry-run=client").out == (
        "deployment.apps/web scaled (dry run)\n"
    )
    assert cli("get", "deploy", "web").lines[1].split()[1] == "0/5"
    shown = cli("scale", "deploy/web", "--replicas=6", "-o", "json")
    assert json.loads(shown.out)["spec"]["replicas"] == 6
    assert cli("scale", "deploy/web", "--replicas=-1").code == 2
    assert cli("scale", "deploy/web", "--replicas=2147483648").code == 2
    assert cli("scale", "deploy", "-l", "app=web", "--replicas=2").out == "deployment.apps/web scaled\n"
    assert cli("scale", "deploy", "--all", "--replicas=3").out == "deployment.apps/web scaled\n"
    assert cli("scale", "deploy", "--replicas=3").code == 2
    assert cli("scale", "deploy", "-l", "no=such", "--replicas=3").err == "error: no objects found\n"


def test_delete(web: Path, cli: Cli) -> None:
    assert cli("delete", "svc", "web").out == 'service "web" deleted\n'
    result = cli("delete", "-f", web)
    assert result.out == 'deployment.apps "web" deleted\n'
    assert (result.code, result.err) == (1, 'error: services "web" not found\n')
    assert cli("delete", "-f", web, "--ignore-not-found").code == 0
    cli("apply", "-f", web)
    assert cli("delete", "deploy,svc", "--all").lines == ['deployment.apps "web" deleted', 'service "web" deleted']
    assert cli("delete", "deploy").code == 2


def test_delete_waits_for_finalizers(web: Path, cli: Cli, tmp_path: Path) -> None:
    kept = tmp_path / "kept.yaml"
    kept.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept, finalizers: [example.com/keep]}\n")
    cli("apply", "-f", kept)
    result = cli("delete", "cm/kept", "--timeout=300ms")
    assert (result.code, result.out) == (1, 'configmap "kept" deleted\n')
    assert result.err == "error: timed out: configmaps being deleted, each waits for its finalizers: kept\n"
    assert cli("delete", "cm/kept", "--wait=false").code == 0
    assert cli("describe", "cm/kept").code == 0


def test_wait(web: Path, cli: Cli) -> None:
    late = cli("wait", "deploy/web", "--for=condition=Available", "--timeout=100ms")
    assert (late.code, late.err) == (1, "error: timed out waiting for the condition on deployments/web\n")
    met = cli("wait", "deploy/web", "--for", "jsonpath={.spec.replicas}=2", "--timeout=5s")
    assert (met.code, met.out) == (0, "deployment.apps/web condition met\n")
    assert cli("wait", "deploy/gone", "--for=delete").code == 0
    assert cli("wait", "deploy/gone", "--for=condition=Available").err == 'error: deployments.apps "gone" not found\n'
    assert cli("wait", "pods", "-l", "app=web", "--for=condition=Ready").err == "error: no matching resources found\n"
    assert cli("wait", "deploy/web", "--for=sunshine").code == 2


def test_rollouts_of_what_has_none(web: Path, cli: Cli) -> None:
    assert (
        cli("rollout", "status", "svc/web").err
        == "error: service/web has no rollouts: deployments, statefulsets and daemonsets have\n"
    )
    assert cli("rollout", "status", "deploy/nope").err == 'error: deployments.apps "nope" not found\n'
    assert cli("rollout", "undo", "deploy/web").err == (
        "error: deployment.apps/web: no rollout history: there is no revision before the present one\n"
    )
    late = cli("rollout", "status", "deploy/web", "--timeout=100ms")
    assert (late.code, late.out) == (1, "Waiting for deployment spec update to be observed...\n")


def test_pause_and_resume(web: Path, cli: Cli) -> None:
    assert cli("rollout", "pause", "deploy/web").out == "deployment.apps/web paused\n"
    assert cli("rollout", "pause", "deploy/web").err == 'error: deployments.apps "web" is already paused\n'
    assert "while it is paused" in cli("rollout", "restart", "deploy/web").err
    assert cli("rollout", "resume", "deploy/web").out == "deployment.apps/web resumed\n"
    assert cli("rollout", "resume", "deploy/web").err == 'error: deployments.apps "web" is not paused\n'
    assert cli("rollout", "restart", "deploy/web").out == "deployment.apps/web restarted\n"
    template = json.loads(cli("get", "deploy/web", "-o", "json").out)["spec"]["template"]
    assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]


def test_describe(web: Path, cli: Cli) -> None:
    text = cli("describe", "deploy/web").out
    assert "Replicas:               2 desired | 0 updated | 0 total | 0 available | 0 unavailable" in text
    assert "RollingUpdateStrategy:  25% max unavailable, 25% max surge" in text
    assert "Image:        nginx:1" in text
    assert cli("describe", "deploy/nope").code == 1


def test_describe_keeps_to_itself_what_a_secret_holds(cli: Cli) -> None:
    cli("apply", "-f", MANIFESTS)
    text = cli("describe", "secret", "guestbook-redis").out
    assert "password:  9 bytes" in text
    assert "change-me" not in text


def test_every_kind_can_be_described(cli: Cli) -> None:
    cli("apply", "-f", MANIFESTS)
    for kind in ("deploy", "svc", "cm", "secret", "sa", "pvc"):
        result = cli("describe", kind)
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("Name:")


def test_custom_kinds_come_from_definitions_in_the_store(cli: Cli, tmp_path: Path) -> None:
    class Gadget(Resource, group="example.com", version="v1", short_names=("ws",), scheme=Scheme()):
        class Spec:
            image: str
            replicas: int = 1

        spec: Spec

    definition = tmp_path / "a-definition.yaml"
    definition.write_text(json.dumps(crd_for(Gadget).raw))
    site = tmp_path / "b-site.yaml"
    site.write_text("apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: blog}\nspec: {image: nginx}\n")
    # The definition may come in the same call as its first object.
    assert cli("apply", "-f", definition, "-f", site).code == 0
    assert cli("get", "ws").lines[1].startswith("blog ")
    assert cli("get", "gadgets.example.com").lines[0].split() == ["NAME", "AGE"]
    assert "gadgets" in cli("api-resources").out
    assert cli("scale", "gadget/blog", "--replicas=3").out == "gadget.example.com/blog scaled\n"
    assert "Image:     nginx" in cli("describe", "gadget", "blog").out
    site.write_text(site.read_text().replace("image: nginx", "image: 5"))
    wrong = cli("apply", "-f", site)
    problem = f'{site} (document 1, Gadget "blog"): spec.image: expected str, got 5'
    assert wrong.err == f"error: {problem}; nothing was applied\n"
    assert cli("delete", "ws", "--all").code == 0


def test_an_object_that_python_wrote_is_found(cli: Cli, tmp_path: Path) -> None:
    async def write() -> None:
        async with open_store(str(tmp_path / "store")) as client:
            await ObjectClient(client).create(
                Deployment.from_raw(next(iter(read_yaml(WEB))).value),
            )

    asyncio.run(write())
    assert cli("get", "deploy").lines[1].startswith("web ")
