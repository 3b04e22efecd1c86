"""Objects made of options: `create KIND`, `expose`, `autoscale`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from controllers.cli.create.containers import name_of_image
from controllers.cli.yaml_reader import read_yaml
from tests.cli.conftest import Cli


def shown(cli: Cli, *arguments: str) -> dict[str, Any]:
    """What a dry run prints."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    result = cli(*arguments[:place], "--dry-run=client", "-o", "yaml", *arguments[place:])
    assert (result.code, result.err) == (0, "")
    (document,) = read_yaml(result.out)
    found: dict[str, Any] = document.value
    return found


def test_a_deployment(cli: Cli) -> None:
    made = shown(cli, "create", "deployment", "api", "--image=example.com/team/api:1.2", "--replicas=3", "--port=80")
    template = {
        "metadata": {"labels": {"app": "api"}},
        "spec": {
            "containers": [
                {"name": "api", "image": "example.com/team/api:1.2", "ports": [{"containerPort": 80}]},
            ]
        },
    }
    assert made == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "api", "labels": {"app": "api"}},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "api"}}, "template": template},
    }
    assert cli("get", "deploy").out == ""
    assert cli("create", "deploy", "api", "--image=api:1", "--", "serve", "--fast").out == (
        "deployment.apps/api created\n"
    )
    path = "{.spec.template.spec.containers[0].command[*]}"
    assert cli("get", "deploy", "api", "-o", f"jsonpath={path}").out == "serve --fast"
    again = cli("create", "deployment/api", "--image=api:1")
    assert (again.code, again.err) == (1, 'error: deployments.apps "api" already exists\n')
    assert cli("create", "deploy", "b", "--image=b", "--dry-run").out == "deployment.apps/b created (dry run)\n"


def test_options_may_stand_before_the_kind(cli: Cli) -> None:
    shared = ("-n", "kube-system", "--dry-run=client")
    assert cli("create", *shared, "deployment", "b", "--image=b").out == "deployment.apps/b created (dry run)\n"
    assert cli("create", *shared, "secret", "generic", "b").out == "secret/b created (dry run)\n"
    assert cli("get", "deploy,secrets", "-A", "-o", "name").out == ""
    made = cli("create", "-n", "kube-system", "-o", "name", "secret", "generic", "b", "--from-literal=a=b")
    assert (made.out, made.err) == ("secret/b\n", "")
    assert cli("get", "secrets", "-n", "kube-system", "-o", "name").out == "secret/b\n"


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("nginx", "nginx"),
        ("nginx:1.27", "nginx"),
        ("registry:5000/a/Web_App@sha256:abc", "web-app"),
        ("___", "container"),
    ],
)
def test_containers_are_called_after_their_image(image: str, name: str) -> None:
    assert name_of_image(image) == name


def test_namespaces(cli: Cli) -> None:
    assert cli("create", "ns", "shop").out == "namespace/shop created\n"
    assert cli("create", "-n", "shop", "sa", "robot").out == "serviceaccount/robot created\n"
    assert cli("create", "serviceaccount", "other", "-n", "shop", "-o", "name").out == "serviceaccount/other\n"
    assert cli("get", "sa", "-n", "shop", "-o", "name").lines == ["serviceaccount/other", "serviceaccount/robot"]
    assert "metadata.name" in cli("create", "namespace", "Not Valid").err
    assert "metadata.name" in cli("create", "namespace", "Not Valid", "--dry-run=client").err


def test_config_maps_and_secrets(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "web.conf").write_text("listen 80\n")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a").write_text("1")
    (tmp_path / "conf.d" / "b").write_text("2")
    env = tmp_path / "env"
    env.write_text("# settings\nLEVEL=info\n\nNAME=a=b\n")
    made = shown(
        cli, "create", "configmap", "web", "--from-literal=level=a=b",
        f"--from-file={tmp_path}/web.conf", f"--from-file=icon={tmp_path}/logo.png", f"--from-file={tmp_path}/conf.d",
    )  # fmt: skip
    assert made["data"] == {"level": "a=b", "web.conf": "listen 80\n", "a": "1", "b": "2"}
    assert base64.b64decode(made["binaryData"]["icon"]) == b"\x89PNG\xff"
    assert shown(cli, "create", "cm", "web", f"--from-env-file={env}")["data"] == {"LEVEL": "info", "NAME": "a=b"}
    secret = shown(cli, "create", "secret", "generic", "db", "--from-literal=password=s3cret", "--type=example.com/db")
    assert (secret["type"], base64.b64decode(secret["data"]["password"])) == ("example.com/db", b"s3cret")
    pair = (f"--cert={tmp_path}/web.conf", f"--key={tmp_path}/conf.d/a")
    tls = shown(cli, "create", "secret", "tls", "t", *pair)
    assert (tls["type"], sorted(tls["data"])) == ("kubernetes.io/tls", ["tls.crt", "tls.key"])
    for source, code, problem in (
        ("--from-literal=novalue", 2, "expected KEY=VALUE"),
        ("--from-file=no/such", 1, 'the path "no/such" does not exist'),
        (f"--from-file=={tmp_path}/web.conf", 2, "expected KEY=FILE"),
        ("--from-literal=a/b=c", 1, "is no valid key"),
        (f"--from-file=a={tmp_path}/conf.d", 2, "a directory has no key"),
        (f"--from-env-file={tmp_path}/web.conf", 1, "line 1: expected KEY=VALUE"),
        (f"--from-env-file={tmp_path}/logo.png", 1, "not UTF-8 text"),
    ):
        wrong = cli("create", "configmap", "web", source)
        assert (wrong.code, wrong.out) == (code, "")
        assert problem in wrong.err
    twice = cli("create", "cm", "web", "--from-literal=a=1", "--from-literal=a=2")
    assert 'cannot add key "a"' in twice.err


def test_services(cli: Cli) -> None:
    made = shown(cli, "create", "service", "clusterip", "web", "--tcp=80:8080", "--tcp=443:https")
    assert made["spec"] == {
        "type": "ClusterIP",
        "selector": {"app": "web"},
        "ports": [
            {"name": "80-8080", "port": 80, "protocol": "TCP", "targetPort": 8080},
            {"name": "443-https", "port": 443, "protocol": "TCP", "targetPort": "https"},
        ],
    }
    assert shown(cli, "create", "svc", "clusterip", "h", "--clusterip=None")["spec"]["clusterIP"] == "None"
    assert shown(cli, "create", "svc", "nodeport", "n", "--tcp=80", "--node-port=30080")["spec"]["ports"] == [
        {"name": "80", "port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": 30080}
    ]
    external = shown(cli, "create", "svc", "externalname", "e", "--external-name=example.com")
    assert external["spec"]["externalName"] == "example.com"
    assert shown(cli, "create", "svc", "loadbalancer", "l", "--tcp=80")["spec"]["type"] == "LoadBalancer"
    for wrong in (("clusterip", "x"), ("nodeport", "x"), ("clusterip", "x", "--tcp=0"), ("clusterip", "x", "--tcp=80:"),
                  ("externalname", "x"), ("quantumip", "x")):  # fmt: skip
        assert cli("create", "service", *wrong).code == 2


def test_jobs(cli: Cli) -> None:
    made = shown(cli, "create", "job", "once", "--image=busybox", "--", "echo", "hi")
    assert made["spec"]["template"]["spec"] == {
        "containers": [{"name": "once", "image": "busybox", "command": ["echo", "hi"]}],
        "restartPolicy": "Never",
    }
    nightly = shown(cli, "create", "cronjob", "nightly", "--image=busybox", "--schedule=30 2 * * *")
    assert nightly["spec"]["schedule"] == "30 2 * * *"
    assert nightly["spec"]["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"
    assert cli("create", "cj", "x", "--image=i", "--schedule=at noon").code == 1
    for wrong in (("job", "x"), ("job", "x", "--image=i", "--from=cronjob/y"), ("cronjob", "x", "--image=i")):
        assert cli("create", *wrong).code == 2


def test_policies(cli: Cli) -> None:
    budget = shown(cli, "create", "pdb", "web", "--selector=app=web,tier in (a,b)", "--min-available=50%")
    assert budget["spec"] == {
        "selector": {
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}],
        },
        "minAvailable": "50%",
    }
    quota = shown(cli, "create", "quota", "small", "--hard=pods=10", "--scopes=BestEffort,Terminating")
    assert quota["spec"] == {"hard": {"pods": "10"}, "scopes": ["BestEffort", "Terminating"]}
    priority = shown(cli, "create", "priorityclass", "high", "--value=1000", "--description=first")
    assert (priority["value"], priority["description"], priority["preemptionPolicy"]) == (
        1000, "first", "PreemptLowerPriority",
    )  # fmt: skip
    for wrong in (
        ("pdb", "x", "--selector=a=b"),
        ("pdb", "x", "--selector=", "--min-available=1"),
        ("pdb", "x", "--selector=a=b", "--min-available=1", "--max-unavailable=1"),
        ("quota", "x", "--hard=pods"),
        ("priorityclass", "x", "--value=much"),
        ("website", "x"),
        ("deplyoment", "x"),
        ("deployment", "x"),
        ("deployment", "--image=i"),
        ("deployment", "x", "--image=a", "--image=b", "--", "run"),
    ):
        result = cli("create", *wrong)
        assert (result.code, result.out) == (2, ""), wrong
    assert "did you mean deployment?" in cli("create", "deplyoment", "x").err


def test_create_tells_what_it_can_make(cli: Cli) -> None:
    helped = cli("create", "--help")
    assert helped.code == 0
    assert "poddisruptionbudget" in helped.out
    assert cli("create").code == 2


def test_a_manifest_is_only_checked_in_a_dry_run(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\n")
    assert cli("create", "-f", file, "--dry-run=client").out == "configmap/x created (dry run)\n"
    assert cli("get", "cm").out == ""
    assert json.loads(cli("create", "-f", file, "--dry-run=client", "-o", "json").out)["data"] == {"a": "b"}
    assert cli("create", "-f", file).out == "configmap/x created\n"
    assert cli("delete", "cm/x", "--dry-run=client").out == 'configmap "x" deleted (dry run)\n'
    assert cli("get", "cm", "-o", "name").lines == ["configmap/x"]


def test_replace(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, labels: {a: b}}\ndata: {a: b, c: d}\n")
    missing = cli("replace", "-f", file)
    assert (missing.code, missing.out) == (1, "")
    assert missing.err.endswith('configmaps "x" not found\n')
    assert cli("apply", "-f", file, "--dry-run=client").out == "configmap/x created (dry run)\n"
    cli("create", "-f", file)
    file.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: z}\n")
    assert cli("apply", "-f", file, "--dry-run=client").out == "configmap/x configured (dry run)\n"
    assert cli("replace", "-f", file, "--dry-run=client").out == "configmap/x replaced (dry run)\n"
    assert cli("get", "cm/x", "-o", "jsonpath={.data}").out == '{"a":"b","c":"d"}'
    stale = tmp_path / "stale.yaml"
    stale.write_text(cli("get", "cm/x", "-o", "yaml").out)
    assert cli("replace", "-f", file).out == "configmap/x replaced\n"
    raw = json.loads(cli("get", "cm/x", "-o", "json").out)
    assert (raw["data"], raw["metadata"].get("labels")) == ({"a": "z"}, None)
    assert "was changed" in cli("replace", "-f", stale).err
    assert cli("replace").code == 2


# ---- expose and autoscale -------------------------------------------------------------------------------------------


@pytest.fixture
def api(cli: Cli) -> Cli:
    assert cli("create", "deployment", "api", "--image=api:1", "--port=8080").code == 0
    return cli


def test_a_service_of_a_workload(api: Cli) -> None:
    made = shown(api, "expose", "deployment", "api")
    assert made["metadata"] == {"name": "api", "labels": {"app": "api"}}
    assert made["spec"] == {
        "selector": {"app": "api"}, "ports": [{"port": 8080, "protocol": "TCP", "targetPort": 8080}],
    }  # fmt: skip
    assert api("expose", "deploy/api", "--port=80", "--target-port=8080").out == "service/api exposed\n"
    again = shown(api, "expose", "svc/api", "--name=outside", "--type=NodePort", "--external-ip=10.1.2.3")
    assert again["spec"] == {
        "selector": {"app": "api"},
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "type": "NodePort",
        "externalIPs": ["10.1.2.3"],
    }
    named = shown(api, "expose", "deploy/api", "--port=53", "--protocol=UDP", "--target-port=dns", "--selector=a=b",
                  "-l", "x=y", "--cluster-ip=None", "--name=dns", "--session-affinity=ClientIP")  # fmt: skip
    assert named["metadata"] == {"name": "dns", "labels": {"x": "y"}}
    assert named["spec"] == {
        "selector": {"a": "b"},
        "ports": [{"port": 53, "protocol": "UDP", "targetPort": "dns"}],
        "clusterIP": "None",
        "sessionAffinity": "ClientIP",
    }


def test_several_ports_get_names(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    ports = "[{containerPort: 80}, {containerPort: 443}]"
    file.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: b}}\n"
        f"spec: {{containers: [{{name: c, image: i, ports: {ports}}}]}}\n"
    )
    cli("apply", "-f", file)
    found = shown(cli, "expose", "-f", str(file))["spec"]
    assert [(each["name"], each["port"]) for each in found["ports"]] == [("port-1", 80), ("port-2", 443)]
    assert found["selector"] == {"a": "b"}


def test_what_cannot_be_exposed(api: Cli) -> None:
    api("create", "configmap", "x")
    api("create", "deployment", "mute", "--image=i")
    for arguments, code, problem in (
        (("cm/x", "--port=80"), 1, "cannot expose a ConfigMap"),
        (("deploy/mute",), 1, "couldn't find port via --port flag or introspection of deployment.apps/mute"),
        (("deploy/no", "--port=80"), 1, 'deployments.apps "no" not found'),
        (("deploy/api", "--port=0"), 2, "--port"),
        (("deploy/api", "--selector=a in (b,c)"), 2, "--selector: write KEY=VALUE"),
        (("deploy/api", "deploy/mute", "--name=x"), 2, "--name goes with one object only"),
        (("deploy",), 2, "name the objects"),
    ):
        wrong = api("expose", *arguments)
        assert (wrong.code, wrong.out) == (code, "")
        assert problem in wrong.err


def test_an_autoscaler(api: Cli) -> None:
    made = shown(api, "autoscale", "deployment", "api", "--min=2", "--max=10", "--cpu=70%", "--memory=200Mi")
    assert (made["apiVersion"], made["kind"], made["metadata"]) == (
        "autoscaling/v2", "HorizontalPodAutoscaler", {"name": "api"},
    )  # fmt: skip
    assert made["spec"] == {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"},
        "minReplicas": 2,
        "maxReplicas": 10,
        "metrics": [
            {"type": "Resource", "resource": {"name": name, "target": target}}
            for name, target in (
                ("cpu", {"type": "Utilization", "averageUtilization": 70}),
                ("memory", {"type": "AverageValue", "averageValue": "200Mi"}),
            )
        ],
    }
    assert shown(api, "autoscale", "deploy/api", "--max=3", "--cpu-percent=50", "--name=x")["metadata"] == {"name": "x"}
    assert api("autoscale", "deploy/api", "--max=3", "--cpu=500m").out == (
        "horizontalpodautoscaler.autoscaling/api autoscaled\n"
    )
    assert api("get", "hpa").lines[1].split()[:2] == ["api", "Deployment/api"]


def test_what_cannot_be_autoscaled(api: Cli) -> None:
    api("create", "configmap", "x")
    for arguments, code, problem in (
        (("cm/x", "--max=3"), 1, "cannot autoscale configmap/x: it has no scale"),
        (("deploy/api",), 2, "--max"),
        (("deploy/api", "--max=0"), 2, "--max"),
        (("deploy/api", "--max=2", "--min=3"), 2, "--max=MAXPODS must be larger or equal to --min=MINPODS"),
        (("deploy/api", "--max=2", "--cpu=0%"), 2, "no percentage"),
        (("deploy/api", "--max=2", "--cpu=lots"), 2, "no percentage such as 70%, nor a quantity"),
        (("deploy/api", "--max=2", "--cpu=5%", "--cpu-percent=5"), 2, "exclude each other"),
        (("deploy/no", "--max=2"), 1, 'deployments.apps "no" not found'),
    ):
        wrong = api("autoscale", *arguments)
        assert (wrong.code, wrong.out) == (code, "")
        assert problem in wrong.err
