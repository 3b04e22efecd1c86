"""`patch` and `edit`, and the strategic merge below it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controllers.cli.edit import collisions, difference
from controllers.cli.strategic import strategic_merge
from informer import Resource, Scheme, crd_for, patch
from informer.errors import Invalid
from tests.cli.conftest import Cli

POD = {
    "metadata": {"name": "p", "finalizers": ["a"], "labels": {"x": "1", "y": "2"}},
    "spec": {
        "containers": [
            {"name": "one", "image": "i:1", "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "1"}]},
            {"name": "two", "image": "j:1"},
        ],
        "tolerations": [{"key": "a"}, {"key": "b"}],
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
    },
}


@pytest.mark.parametrize(
    ("change", "path", "result"),
    [
        ({"metadata": {"labels": {"x": None}}}, ("metadata", "labels"), {"y": "2"}),
        (
            {"spec": {"containers": [{"name": "two", "image": "j:2"}]}},
            ("spec", "containers"),
            [POD["spec"]["containers"][0], {"name": "two", "image": "j:2"}],  # type: ignore[index]
        ),
        (
            {"spec": {"containers": [{"name": "three", "image": "k"}, {"name": "one", "$patch": "delete"}]}},
            ("spec", "containers"),
            [{"name": "two", "image": "j:1"}, {"name": "three", "image": "k"}],
        ),
        (
            {"spec": {"containers": [{"$patch": "replace"}, {"name": "only", "image": "k"}]}},
            ("spec", "containers"),
            [{"name": "only", "image": "k"}],
        ),
        (
            {
                "spec": {
                    "$setElementOrder/containers": [{"name": "two"}, {"name": "one"}],
                    "containers": [{"name": "two", "image": "n"}],
                }
            },
            ("spec", "containers"),
            [{"name": "two", "image": "n"}, POD["spec"]["containers"][0]],  # type: ignore[index]
        ),
        ({"spec": {"tolerations": [{"key": "c"}]}}, ("spec", "tolerations"), [{"key": "c"}]),
        ({"metadata": {"finalizers": ["b", "a"]}}, ("metadata", "finalizers"), ["a", "b"]),
        ({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}, ("metadata", "finalizers"), []),
        (
            {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}},
            ("spec", "strategy"),
            {"type": "Recreate"},
        ),
        ({"spec": {"strategy": {"$patch": "replace", "type": "Recreate"}}}, ("spec", "strategy"), {"type": "Recreate"}),
        ({"metadata": {"labels": {"$patch": "delete"}}}, ("metadata", "labels"), {}),
    ],
)
def test_strategic_merges(change: dict[str, Any], path: tuple[str, ...], result: Any) -> None:
    before = patch.copy(POD)
    found = strategic_merge(POD, change)
    for part in path:
        found = found[part]
    assert found == result
    assert before == POD


def test_nested_lists_merge_by_their_own_keys() -> None:
    change = {"name": "one", "ports": [{"containerPort": 81}], "env": [{"name": "A", "value": "2"}]}
    found = strategic_merge(POD, {"spec": {"containers": [change]}})["spec"]["containers"][0]
    assert found["ports"] == [{"containerPort": 80}, {"containerPort": 81}]
    assert found["env"] == [{"name": "A", "value": "2"}]
    service = {"spec": {"ports": [{"port": 80, "targetPort": 1}]}}
    assert strategic_merge(service, {"spec": {"ports": [{"port": 80, "targetPort": 2}]}}) == {
        "spec": {"ports": [{"port": 80, "targetPort": 2}]}
    }


@pytest.mark.parametrize("change", [[], "x", {"$patch": "burn"}, {"spec": {"containers": [{"image": "no name"}]}}])
def test_strategic_patches_that_are_none(change: Any) -> None:
    with pytest.raises(Invalid):
        strategic_merge(POD, change)


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def api(cli: Cli) -> Cli:
    assert cli("create", "deployment", "api", "--image=api:1", "--image=side:1", "--replicas=2").code == 0
    return cli


def stored(cli: Cli) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("get", "deploy/api", "-o", "json").out)
    return found


def images(cli: Cli) -> list[str]:
    return [each["image"] for each in stored(cli)["spec"]["template"]["spec"]["containers"]]


def test_each_type_of_patch(api: Cli, tmp_path: Path) -> None:
    container = '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"side:2"}]}}}}'
    assert api("patch", "deployment", "api", "-p", container).out == "deployment.apps/api patched\n"
    assert images(api) == ["api:1", "side:2"]
    assert api("patch", "deploy/api", "-p", container).out == "deployment.apps/api patched (no change)\n"
    merged = '{"spec":{"template":{"spec":{"containers":[{"name":"api","image":"api:3"}]}}}}'
    assert api("patch", "deploy/api", "--type=merge", "-p", merged).out == "deployment.apps/api patched\n"
    assert images(api) == ["api:3"]
    operations = '[{"op": "replace", "path": "/spec/replicas", "value": 7}]'
    assert api("patch", "deploy/api", "--type=json", "-p", operations).out == "deployment.apps/api patched\n"
    file = tmp_path / "patch.yaml"
    file.write_text("metadata:\n  labels:\n    tier: back\n")
    assert api("patch", "deploy/api", "--patch-file", file, "-o", "name").out == "deployment.apps/api\n"
    found = stored(api)
    assert (found["spec"]["replicas"], found["metadata"]["labels"]) == (7, {"app": "api", "tier": "back"})


def test_parts_of_an_object(api: Cli) -> None:
    assert api("patch", "deploy/api", "--subresource=scale", "-p", '{"spec":{"replicas":5}}').code == 0
    assert stored(api)["spec"]["replicas"] == 5
    status = '{"status":{"readyReplicas":4},"spec":{"replicas":9}}'
    assert api("patch", "deploy/api", "--subresource=status", "-p", status).code == 0
    found = stored(api)
    assert (found["status"]["readyReplicas"], found["spec"]["replicas"]) == (4, 5)


def test_nothing_is_written_in_a_dry_run(api: Cli) -> None:
    for kind, text in (("strategic", '{"spec":{"replicas":3}}'), ("json", '[{"op":"remove","path":"/spec/replicas"}]')):
        tried = api("patch", "deploy/api", f"--type={kind}", "-p", text, "--dry-run=client")
        assert tried.out == "deployment.apps/api patched (dry run)\n"
    assert stored(api)["spec"]["replicas"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        ((), 2, "must specify --patch or --patch-file"),
        (("-p", "{}", "--patch-file", "x"), 2, "must specify --patch or --patch-file"),
        (("-p", "{"), 1, "unable to parse the patch: line 2, column 1"),
        (("-p", "[]"), 1, "a strategic patch is an object"),
        (("--type=json", "-p", "{}"), 1, "a json patch is a list of operations"),
        (("--type=json", "-p", '[{"op":"test","path":"/spec/replicas","value":9}]'), 1, "test failed"),
        (("--type=json", "-p", '[{"op":"remove","path":"/no/such"}]'), 1, "there is no 'no' here"),
        (("--patch-file", "no/such.yaml"), 1, 'the path "no/such.yaml" does not exist'),
        (("-p", '{"spec":{"replicas":"x"}}'), 1, 'spec.replicas: expected int, got "x"'),
        (("-p", '{"spec":{"selector":{"matchLabels":{"app":"b"}}}}'), 1, "the selector app=b does not select them"),
        (("-p", '{"metadata":null}'), 1, "metadata: required"),
        (("-p", '{"metadata":{"resourceVersion":"1"}}'), 1, "was changed"),
        (("--subresource=scale", "-p", '{"spec":{"replicas":"x"}}'), 1, "expected int"),
        (("--type=ninja", "-p", "{}"), 2, "ninja"),
    ],
)
def test_patches_that_do_not_work(api: Cli, arguments: tuple[str, ...], code: int, problem: str) -> None:
    wrong = api("patch", "deploy/api", *arguments)
    assert (wrong.code, wrong.out) == (code, "")
    assert problem in wrong.err
    assert len(wrong.err.splitlines()) == 1


def test_a_strategic_patch_of_a_custom_kind_is_refused(cli: Cli, tmp_path: Path) -> None:
    class Gizmo(Resource, group="example.com", version="v1", scheme=Scheme()):
        class Spec:
            size: int = 1

        spec: Spec

    file = tmp_path / "gizmo.yaml"
    gizmo = {"apiVersion": "example.com/v1", "kind": "Gizmo", "metadata": {"name": "g"}, "spec": {"size": 1}}
    file.write_text(json.dumps(crd_for(Gizmo).raw) + json.dumps(gizmo))
    cli("apply", "-f", file)
    refused = cli("patch", "gizmo/g", "-p", '{"spec":{"size":2}}')
    assert (refused.code, refused.err) == (
        1,
        "error: gizmo.example.com/g is of a custom kind: strategic patches are for built-in ones, use --type=merge\n",
    )
    assert cli("patch", "gizmo/g", "--type=merge", "-p", '{"spec":{"size":2}}').code == 0


# ---- edit -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a shell script the editor; its $1 is the file, and it may count its runs in the test's directory."""

    def become(script: str) -> None:
        file = tmp_path / "editor"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("KUBE_EDITOR", str(file))

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return become


def left(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("listwatch-edit-*"))


def test_an_edit(api: Cli, tmp_path: Path, editor: Callable[[str], None]) -> None:
    editor("sed -i 's/replicas: 2/replicas: 4/' \"$1\"")
    assert api("edit", "deployment", "api").out == "deployment.apps/api edited\n"
    assert stored(api)["spec"]["replicas"] == 4
    editor('sed -i \'s/"replicas": 4/"replicas": 5/\' "$1"')
    assert api("edit", "deploy/api", "-o", "json").out == "deployment.apps/api edited\n"
    assert stored(api)["spec"]["replicas"] == 5
    assert left(tmp_path) == []


@pytest.mark.parametrize("script", ["true", 'echo >> "$1"', ': > "$1"', 'echo "# just this" > "$1"'])
def test_an_edit_without_changes(api: Cli, tmp_path: Path, editor: Callable[[str], None], script: str) -> None:
    editor(script)
    done = api("edit", "deploy/api")
    assert (done.code, done.out) == (0, "Edit cancelled, no changes made.\n")
    assert left(tmp_path) == []


def test_a_mistake_is_shown_in_the_file_and_can_be_mended(
    api: Cli, tmp_path: Path, editor: Callable[[str], None]
) -> None:
    editor("""if [ -e second ]; then cp "$1" seen; sed -i 's/replicas: two/replicas: 3/' "$1"
else touch second; sed -i 's/replicas: 2/replicas: two/' "$1"; fi""")
    done = api("edit", "deploy/api")
    assert (done.code, done.out) == (0, "deployment.apps/api edited\n")
    assert done.err == 'error: deployment.apps/api: spec.replicas: expected int, got "two"\n'
    seen = (tmp_path / "seen").read_text()
    assert '# spec.replicas: expected int, got "two"\n' in seen
    assert "replicas: two" in seen
    assert stored(api)["spec"]["replicas"] == 3
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("sed -i 's/replicas: 2/replicas: two/' \"$1\"", 'spec.replicas: expected int, got "two"'),
        ("echo '{' > \"$1\"", "line 2, column 1"),
        ("echo '- a' > \"$1\"", "expected an object"),
        ("sed -i 's/^  name: api$/  name: other/' \"$1\"", "metadata.name cannot be changed"),
        ("sed -i 's/^kind: Deployment/kind: Pod/' \"$1\"", "kind cannot be changed"),
    ],
)
def test_a_mistake_that_stays_is_kept_in_a_file(
    api: Cli, tmp_path: Path, editor: Callable[[str], None], script: str, problem: str
) -> None:
    editor(script)
    given_up = api("edit", "deploy/api")
    (file,) = left(tmp_path)
    assert given_up.code == 1
    told = given_up.err.splitlines()
    assert problem in told[0]
    assert told[1:] == [
        "error: Edit cancelled, no valid changes were saved.",
        f'error: A copy of your changes has been stored to "{file}"',
    ]
    assert stored(api)["spec"]["replicas"] == 2


def test_editors_that_fail(api: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, editor: Any) -> None:
    monkeypatch.setenv("KUBE_EDITOR", "no-such-editor -w")
    wrong = api("edit", "deploy/api")
    assert (wrong.code, wrong.err) == (
        1, 'error: unable to launch the editor "no-such-editor -w": No such file or directory\n',
    )  # fmt: skip
    editor("exit 3")
    failed = api("edit", "deploy/api")
    assert failed.code == 1
    assert "it ended with exit code 3" in failed.err
    assert left(tmp_path) == []
    assert api("edit").code == api("edit", "deploy").code == 2
    assert api("edit", "deploy/no").err == 'error: deployments.apps "no" not found\n'


def test_what_others_changed_meanwhile(api: Cli, served: str, tmp_path: Path, editor: Callable[[str], None]) -> None:
    from tests.cli.conftest import LISTWATCH

    def call(*arguments: str) -> Any:
        return api(*arguments, store=served)

    call("create", "deployment", "api", "--image=api:1", "--replicas=2")
    other = f'"{LISTWATCH}" --store {served}'
    editor(f"{other} label deploy/api tier=back >&2; sed -i 's/replicas: 2/replicas: 4/' \"$1\"")
    assert call("edit", "deploy/api").out == "deployment.apps/api edited\n"
    found = json.loads(call("get", "deploy/api", "-o", "json").out)
    assert (found["spec"]["replicas"], found["metadata"]["labels"]["tier"]) == (4, "back")
    editor(f"{other} scale deploy/api --replicas=9 >&2; sed -i 's/replicas: 4/replicas: 5/' \"$1\"")
    lost = call("edit", "deploy/api")
    assert lost.code == 1
    (file,) = left(tmp_path)
    assert lost.err.splitlines()[-2:] == [
        "error: deployment.apps/api: spec.replicas was changed by others in the meantime, too",
        f'error: A copy of your changes has been stored to "{file}"',
    ]
    assert json.loads(call("get", "deploy/api", "-o", "json").out)["spec"]["replicas"] == 9
    assert os.access(file, os.R_OK)


def test_differences() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "gone": 1, "same": {"x": 1}}
    after = {"a": {"b": 2, "c": [1, 2]}, "new": {"y": 1}, "same": {"x": 1}}
    wanted = difference(before, after)
    assert wanted == {"gone": None, "a": {"b": 2}, "new": {"y": 1}}
    assert patch.merge(before, wanted) == after
    assert collisions(before, before, wanted) == ""
    assert collisions(before, {**before, "same": 7}, wanted) == ""
    assert collisions(before, {**before, "a": {"b": 3}}, wanted) == "a.b"
    assert collisions(before, {**before, "a": {"b": 2}}, wanted) == ""
    assert collisions(before, {**before, "new": {"z": 1}}, wanted) == "new"
