"""`explain`, and what a shell is told when it asks how a line could go on."""

from __future__ import annotations

import asyncio
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from controllers.cli import app
from controllers.cli.completion import TIMEOUT_VARIABLE
from controllers.cli.options import COMPLETE_VARIABLE, Settings
from controllers.core.types import ConfigMap
from controllers.stores import open_store
from informer import ObjectClient, Resource, Scheme, crd_for
from tests.cli.conftest import LISTWATCH, Cli, environment


def test_a_built_in_kind_needs_no_store(process: Cli, tmp_path: Path) -> None:
    shown = process("explain", "deployments", LISTWATCH_STORE=str(tmp_path / "none"))
    assert (shown.code, shown.err) == (0, "")
    assert shown.lines[:4] == ["GROUP:      apps", "KIND:       Deployment", "VERSION:    v1", ""]
    assert shown.lines[4:6] == [
        "DESCRIPTION:",
        "    Pods of one template, kept running and replaced step by step when the",
    ]
    assert [line for line in shown.lines if line.startswith("  ") and "\t" in line] == [
        "  apiVersion\t<string>",
        "  kind\t<string>",
        "  metadata\t<ObjectMeta>",
        "  spec\t<DeploymentSpec>",
        "  status\t<DeploymentStatus>",
    ]
    assert not (tmp_path / "none").exists()


def test_a_field_and_what_it_can_be(cli: Cli) -> None:
    shown = cli("explain", "pod.spec.containers.imagePullPolicy").lines
    assert shown[0] == "KIND:       Pod"
    assert "FIELD: imagePullPolicy <string>" in shown
    assert shown[shown.index("ENUM:") + 1 :][:3] == ["    Always", "    IfNotPresent", "    Never"]
    assert "FIELD: containers <[]Container>" in cli("explain", "po.spec.containers").lines
    assert "  name\t<string> -required-" in cli("explain", "po.spec.containers").lines
    assert "FIELD: matchLabels <map[string]string>" in cli("explain", "deploy.spec.selector.matchLabels").lines
    assert "    Default: 10." in cli("explain", "deployments.apps.spec.revisionHistoryLimit").lines
    assert "  maxSurge\t<IntOrString>" in cli("explain", "deploy.spec.strategy.rollingUpdate").lines
    assert "`matchLabels`" in cli("explain", "deploy.spec.selector").out


def test_all_fields_below(cli: Cli) -> None:
    lines = cli("explain", "deploy.spec", "--recursive").lines
    at = lines.index("FIELDS:")
    assert "  replicas\t<integer>" in lines[at:]
    assert "        containers\t<[]Container>" not in lines[:at]
    assert "      containers\t<[]Container>" in lines[at:]
    assert "        image\t<string>" in lines[at:]
    assert cli("explain", "cm", "--recursive").code == 0


def test_every_built_in_kind_can_be_explained(cli: Cli) -> None:
    for line in cli("api-resources").lines[1:]:
        shown = cli("explain", line.split()[0], "--recursive")
        assert (shown.code, shown.err) == (0, ""), line


class Gadget(Resource, group="example.com", version="v1", scheme=Scheme()):
    """A site."""

    class Spec:
        image: str
        sizes: list[int]
        rules: dict[str, str]


def defined(store: Path) -> None:
    async def body() -> None:
        async with open_store(str(store)) as client:
            objects = ObjectClient(client)
            definition = crd_for(Gadget)
            schema = definition.raw["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            spec = schema["properties"]["spec"]
            spec["description"] = "What is served. No `rules`: everything."
            spec["properties"]["image"] |= {"description": "What it runs.", "pattern": "^[a-z]+$"}
            spec["properties"]["sizes"]["items"] |= {"minimum": 0, "exclusiveMinimum": True}
            await objects.create(definition)
            for name in ("blog", "shop"):
                await objects.create(Gadget(name=name, spec={"image": "a"}))
            await objects.create(Gadget(name="far", namespace="other", spec={"image": "a"}))
            await objects.create(ConfigMap(name="settings", namespace="third"))

    asyncio.run(body())


def test_a_defined_kind_is_explained_from_its_schema(cli: Cli, tmp_path: Path) -> None:
    defined(tmp_path / "store")
    lines = cli("explain", "gadgets.example.com.spec").lines
    assert lines[:3] == ["GROUP:      example.com", "KIND:       Gadget", "VERSION:    v1"]
    image = lines.index("  image\t<string> -required-")
    assert lines[image + 1 : image + 3] == ["    What it runs.", "    Matches ^[a-z]+$."]
    sizes, rules = lines.index("  sizes\t<[]integer>"), lines.index("  rules\t<map[string]string>")
    assert lines[sizes + 1 : sizes + 3] == ["    <no description>", "    Each: More than 0."]
    assert lines[rules + 1] == "    No `rules`: everything."
    assert "  metadata\t<ObjectMeta>" in cli("explain", "gadget").lines
    assert "FIELD: labels <map[string]string>" in cli("explain", "gadget.metadata.labels").lines


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("deploy.spek", 'field "spek" does not exist in Deployment; did you mean spec?'),
        ("deploy.spec.replicas.x", 'field "x" does not exist in Deployment.spec.replicas'),
        ("nope.spec", 'the store doesn\'t have a resource type "nope"'),
        (".", 'the store doesn\'t have a resource type ""'),
    ],
)
def test_what_cannot_be_explained(cli: Cli, path: str, problem: str) -> None:
    refused = cli("explain", path)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(f"error: {problem}")
    assert len(refused.err.splitlines()) == 1


# ---- completion -----------------------------------------------------------------------------------------------------

BASH = """
source <(listwatch completion bash)
complete_last() {
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  _listwatch_completion listwatch
  echo "${COMPREPLY[*]}"
}
complete_last listwatch de
complete_last listwatch get --at
complete_last listwatch --store ./store describe gadget ''
complete_last listwatch --store ./store history -n other gadgets/
"""


PATIENT = {TIMEOUT_VARIABLE: "20"}  # for a busy machine


def test_bash_completes_a_line(tmp_path: Path) -> None:
    defined(tmp_path / "store")
    variables = environment(tmp_path) | PATIENT
    variables["PATH"] = f"{LISTWATCH.parent}:{variables['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH],
        capture_output=True,
        text=True,
        timeout=40,
        env=variables,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["demo describe delete", "--at-revision", "blog shop", "gadgets/far"]


def offers(store: str, *words: str) -> list[str]:
    asking = ShellComplete(app.cli, {"obj": Settings(store)}, "listwatch", COMPLETE_VARIABLE)
    return [each.value for each in asking.get_completions([*words[:-1]], words[-1])]


def test_what_could_come_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defined(tmp_path / "store")
    monkeypatch.setenv(TIMEOUT_VARIABLE, "20")

    def offered(*words: str) -> list[str]:
        return offers(str(tmp_path / "store"), *words)

    assert offered("rollout", "re") == ["restart", "resume"]
    assert offered("get", "gad") == ["gadgets"]
    assert offered("get", "pods,serv") == ["pods,serviceaccounts", "pods,services"]
    assert offered("delete", "gadget", "shop", "") == ["blog"]
    assert offered("get", "ws/x", "gadget/b") == ["gadget/blog"]
    assert offered("get", "gadgets", "-n", "") == ["default", "other", "third"]
    assert offered("get", "gadgets", "-n", "o") == ["other"]
    assert offered("explain", "gadget.spec.i") == ["gadget.spec.image"]
    assert offered("explain", "deploy.spec.re") == ["deploy.spec.replicas", "deploy.spec.revisionHistoryLimit"]
    assert offered("get", "events", "--for", "gadget/s") == ["gadget/shop"]
    assert offered("get", "-o", "") == ["wide", "yaml", "json", "name", "jsonpath=", "custom-columns="]
    assert offered("create", "no") == []
    assert offered("create", "ser") == ["service", "serviceaccount"]
    assert offered("create", "service", "n") == ["nodeport"]
    assert offered("label", "gadget", "sh") == ["shop"]
    assert offered("patch", "gadget/b") == ["gadget/blog"]
    assert offered("set", "e") == ["env"]
    assert offered("set", "image", "gadget/b") == offered("set", "env", "gadget/b") == ["gadget/blog"]
    assert offered("drain", "no-such") == []
    assert offered("get", "nope", "") == offered("get", "nope/") == offered("get", "a/b/c") == []


def asked(shell: str, words: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    index = str(len(shlex.split(words)) - 1)
    question = {"_LISTWATCH_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": index}
    if shell == "fish":
        question["COMP_CWORD"] = shlex.split(words)[-1]
    return subprocess.run(
        [LISTWATCH],
        capture_output=True,
        text=True,
        timeout=20,
        env=environment(home) | question | variables,
        check=False,
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script_and_gets_an_answer(process: Cli, tmp_path: Path, shell: str) -> None:
    script = process("completion", shell)
    assert (script.code, script.err) == (0, "")
    assert f"_LISTWATCH_COMPLETE={shell}_complete" in script.out
    answer = asked(shell, "listwatch get deploy", tmp_path, LISTWATCH_STORE=str(tmp_path / "none"), **PATIENT)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "deployments" in re.split(r"[\s,]", answer.stdout)
    assert process("completion", "tcsh").code == 2


@pytest.mark.parametrize("words", ["listwatch explain deploy.nope.x", "listwatch --store http://x get cm x"])
def test_half_a_line_can_be_wrong(tmp_path: Path, words: str) -> None:
    answer = asked("bash", words, tmp_path)
    assert (answer.stdout.strip(), answer.stderr) == ("", "")


def test_a_completion_makes_no_store_and_waits_for_none(tmp_path: Path) -> None:
    answer = asked("bash", "listwatch get cm x", tmp_path, LISTWATCH_STORE=str(tmp_path / "none"))
    assert (answer.stdout.strip(), answer.stderr) == ("", "")
    assert not (tmp_path / "none").exists()
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and says nothing
        store = f"etcd://127.0.0.1:{mute.getsockname()[1]}"
        began = time.monotonic()
        assert offers(store, "get", "deploy") == ["deployments"]
        assert 0.9 < time.monotonic() - began < 10  # a second, on a machine that has one to spare
        answer = asked("bash", "listwatch get deploy", tmp_path, LISTWATCH_STORE=store)
        assert answer.stderr == ""
        assert time.monotonic() - began < 20  # it gives up after four seconds; the rest is for a busy machine to start


def test_completing_a_command_imports_none(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['listwatch']; from controllers.cli.app import main\n"
        "try: main()\nexcept SystemExit: print(*sorted(sys.modules))"
    )
    question = {"_LISTWATCH_COMPLETE": "bash_complete", "COMP_WORDS": "listwatch hist", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        env=environment(tmp_path) | question,
    )
    answer, modules = done.stdout.splitlines()
    assert answer == "plain,history"
    assert not {"informer", "asyncio", "structlog", "controllers.cli.history"} & set(modules.split())
