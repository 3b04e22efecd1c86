"""`set image`, `set env` and `set resources`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def api(cli: Cli) -> Cli:
    cli("create", "deployment", "api", "--image=api:1", "--image=side:1")
    return cli


def containers(cli: Cli) -> list[dict[str, Any]]:
    raw = json.loads(cli("get", "deploy/api", "-o", "json").out)
    found: list[dict[str, Any]] = raw["spec"]["template"]["spec"]["containers"]
    return found


def test_environments(api: Cli) -> None:
    assert api("set", "env", "deploy/api", "LEVEL=info", "URL=http://a/?b=c").out == "deployment.apps/api env updated\n"
    assert [each["env"] for each in containers(api)] == [
        [{"name": "LEVEL", "value": "info"}, {"name": "URL", "value": "http://a/?b=c"}]
    ] * 2
    assert api("set", "env", "deploy", "api", "LEVEL=debug", "URL-", "-c", "side").code == 0
    first, second = containers(api)
    assert (len(first["env"]), second["env"]) == (2, [{"name": "LEVEL", "value": "debug"}])
    assert api("set", "env", "deploy/api", "LEVEL=debug", "-c", "side").out == ""
    assert api("set", "env", "deploy/api", "--list", "-c", "side").lines == [
        "# deployment.apps/api, container side", "LEVEL=debug",
    ]  # fmt: skip
    tried = api("set", "env", "deploy/api", "LEVEL-", "--dry-run=client")
    assert tried.out == "deployment.apps/api env updated (dry run)\n"
    assert api("set", "env", "deploy", "--all", "LEVEL-", "URL-").code == 0
    assert all("env" not in each for each in containers(api))


def test_resources(api: Cli) -> None:
    done = api("set", "resources", "deploy/api", "--requests=cpu=100m,memory=64Mi", "--limits=cpu=1", "-c=api")
    assert done.out == "deployment.apps/api resource requirements updated\n"
    first, second = containers(api)
    assert first["resources"] == {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1"}}
    assert "resources" not in second or second["resources"] == {}
    api("set", "resources", "deploy/api", "--requests=memory=0", "-c=api")
    assert containers(api)[0]["resources"]["requests"] == {"cpu": "100m"}


def test_short_options_with_an_equals_sign(api: Cli) -> None:
    assert api("get", "deploy", "-o=name", "-n=default", "-l=app=api").lines == ["deployment.apps/api"]
    assert api("create", "job", "once", "--image=i", "--", "run", "-o=name", "--wait=false").code == 0
    assert api("create", "-n=default", "deployment", "b", "--image=b", "-o=name").lines == ["deployment.apps/b"]
    command = api("get", "job/once", "-o=jsonpath={.spec.template.spec.containers[0].command}")
    assert command.out == '["run","-o=name","--wait=false"]'


def test_containers_of_a_cron_job(cli: Cli) -> None:
    cli("create", "cronjob", "night", "--image=night:1", "--schedule=0 0 * * *")
    assert cli("set", "image", "cj/night", "night=night:2").out == "cronjob.batch/night image updated\n"
    assert cli("get", "cj", "-o", "wide").lines[1].split()[-2] == "night:2"


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("env", "deploy/api"), 2, "at least one environment variable"),
        (("env", "deploy/api", "A=b", "A-"), 2, "can not both modify and remove"),
        (("env", "deploy/api", "1A=b"), 2, "is no name of an environment variable"),
        (("env", "deploy/api", "A=b", "-c", "no"), 1, 'unable to find container named "no"'),
        (("env", "deploy/no", "A=b"), 1, 'deployments.apps "no" not found'),
        (("env", "deploy", "A=b"), 2, "name the objects"),
        (("resources", "deploy/api"), 2, "you must specify an update to requests or limits"),
        (("resources", "deploy/api", "--limits=cpu"), 2, '--limits: "cpu"'),
        (("resources", "deploy/api", "--limits=cpu=much"), 2, "not a quantity"),
        (("image", "deploy/api"), 2, "say which image"),
        (("image", "deploy/api", "=x"), 2, "expected CONTAINER=IMAGE"),
        (("colour", "deploy/api"), 2, "colour"),
    ],
)
def test_wrong_calls(api: Cli, arguments: tuple[str, ...], code: int, problem: str) -> None:
    wrong = api("set", *arguments)
    assert (wrong.code, wrong.out) == (code, "")
    assert problem in wrong.err
