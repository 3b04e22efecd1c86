"""Past states, differences and histories: on an embedded store, a served one, and an etcd."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controllers.cli.yaml_reader import read_yaml
from controllers.core.types import ConfigMap, Secret
from controllers.stores import open_store
from informer import ObjectClient, Resource, Scheme, crd_for, patch
from kvstore.api import Client, Put
from tests.cli.conftest import Background, Cli
from tests.etcd_process import running_etcd

WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: nginx, image: "nginx:1"}, {name: sidecar, image: "sidecar:1"}]}
"""
CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {a: '%s'}\n"


def on(store: str | Path, work: Callable[[Client], Awaitable[Any]]) -> Any:
    """Work on a store that no command has open."""

    async def body() -> Any:
        async with open_store(str(store)) as client:
            return await work(client)

    return asyncio.run(body())


@pytest.fixture(params=["embedded", "served", "etcd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    match request.param:
        case "embedded":
            yield str(tmp_path / "store")
        case "served":
            yield request.getfixturevalue("served")
        case _:
            with running_etcd(tmp_path) as address:
                yield f"etcd://{address}"


@pytest.fixture
def web(tmp_path: Path) -> Path:
    file = tmp_path / "web.yaml"
    file.write_text(WEB)
    return file


def lived(cli: Cli, web: Path, store: str | Path) -> None:
    """Revision 2: created, 3: scaled, 4: a new image, 5: deleted, 6: created anew."""
    for arguments in (
        ("apply", "-f", web),
        ("scale", "deploy/web", "--replicas=5"),
        ("set", "image", "deploy/web", "nginx=nginx:2"),
        ("delete", "deploy/web"),
        ("apply", "-f", web),
    ):
        assert cli(*arguments, store=store).code == 0


def test_every_store_tells_its_past(store: str, cli: Cli, web: Path) -> None:
    lived(cli, web, store)
    told = cli("history", "deploy/web", store=store)
    assert (told.code, told.err) == (0, "")
    rows = [re.split("   +", line) for line in told.lines]
    assert rows[0] == ["REVISION", "TIME", "BY", "ACTION", "CHANGE"]
    assert [(row[0], row[3]) for row in rows[1:]] == [
        ("2", "created"), ("3", "updated"), ("4", "updated"), ("5", "deleted"), ("6", "recreated"),
    ]  # fmt: skip
    assert [row[2] for row in rows[1:4]] == ["listwatch-apply", "listwatch-scale (scale)", "listwatch-set"]
    assert told.lines[2].endswith("spec.replicas: 2 -> 5")
    assert told.lines[3].endswith('spec.template.spec.containers[name=nginx].image: "nginx:1" -> "nginx:2"')
    assert cli("get", "deploy", "--at-revision", "3", store=store).lines[1].split()[:2] == ["web", "0/5"]
    assert cli("get", "deploy/web", "--at-revision", "5", store=store).err == (
        'error: deployments.apps "web" not found at revision 5\n'
    )
    changed = cli("diff", "--from", "2", "--to", "3", store=store)
    assert (changed.code, changed.err) == (1, "")
    assert changed.lines[0] == "changed: deployment.apps/web -n default (revision 2 -> 3, by listwatch-scale (scale))"
    assert "  ~ spec.replicas: 2 -> 5" in changed.lines
    # What is deleted has its history too, and where there is none that is told.
    assert cli("delete", "deploy/web", store=store).code == 0
    assert cli("history", "deploy/web", store=store).lines[-1].split()[::3] == ["7", "deleted"]
    nothing = cli("history", "deploy/nope", store=store)
    assert (nothing.code, nothing.out) == (1, "")
    assert nothing.err == 'error: deployments.apps "nope" not found, neither now nor in the history since revision 1\n'

    on(store, lambda client: client.compact(4))
    told = cli("history", "deploy/web", store=store)
    assert told.err == "note: what was before revision 4 is compacted away\n"
    assert [line.split()[0] for line in told.lines[1:]] == ["4", "5", "6", "7"]
    assert [re.split("   +", line)[3] for line in told.lines[1:]] == ["earlier", "deleted", "recreated", "deleted"]
    for arguments in (
        ("get", "deploy", "--at-revision", "3"),
        ("get", "--at-revision", "3"),
        ("history", "deploy/web", "--revision", "3"),
        ("history", "deploy/web", "-p", "--revision", "3"),
    ):
        gone = cli(*arguments, store=store)
        assert (gone.code, gone.out) == (1, "")
        assert gone.err == "error: revision 3 is compacted away: revisions 4 to 7 can be read\n"
    assert cli("get", "deploy", "--at-revision", "9", store=store).err == (
        "error: revision 9 is not there yet: revisions 4 to 7 can be read\n"
    )
    assert cli("get", "deploy", "--at-revision", "4", store=store).lines[1].split()[:2] == ["web", "0/5"]
    late = cli("diff", "--from", "3", store=store)
    assert (late.code, late.err) == (2, "error: revision 3 is compacted away: revisions 4 to 7 can be read\n")


# ---- history --------------------------------------------------------------------------------------------------------


@pytest.fixture
def past(cli: Cli, web: Path, tmp_path: Path) -> Cli:
    lived(cli, web, tmp_path / "store")
    return cli


def test_the_fields_that_each_revision_changed(past: Cli) -> None:
    told = past("history", "deploy", "web", "-p").lines
    at = next(i for i, line in enumerate(told) if line.startswith("4 "))
    assert told[at + 1 : at + 3] == [
        "  ~ metadata.generation: 2 -> 3",
        '  ~ spec.template.spec.containers[name=nginx].image: "nginx:1" -> "nginx:2"',
    ]
    alone = past("history", "deploy/web", "-p", "--revision", "3").lines
    assert [line.split()[0] for line in alone] == ["REVISION", "3", "~", "~"]
    assert past("history", "deploy/web", "-p", "--revision", "1").err == (
        'error: revision 1 did not change deployments.apps "web"\n'
    )


def test_any_state_can_be_shown(past: Cli) -> None:
    shown = next(iter(read_yaml(past("history", "deploy/web", "--revision", "3").out))).value
    assert (shown["spec"]["replicas"], shown["metadata"]["resourceVersion"]) == (5, "3")
    assert "managedFields" not in shown["metadata"]
    assert shown == json.loads(past("history", "deploy/web", "--revision", "3", "-o", "json").out)
    assert shown == json.loads(past("get", "deploy/web", "--at-revision", "3", "-o", "json").out)
    assert past("history", "deploy/web", "--revision", "5").code == 1


def test_a_history_as_json_and_yaml(past: Cli) -> None:
    entries = json.loads(past("history", "deploy/web", "-o", "json").out)
    assert [each["revision"] for each in entries] == [2, 3, 4, 5, 6]
    assert entries[1]["changes"][-1] == {"path": "spec.replicas", "from": 2, "to": 5}
    assert entries[0]["uid"] == entries[3]["uid"] != entries[4]["uid"]
    documents = [each.value for each in read_yaml(past("history", "deploy/web", "-o", "yaml").out)]
    assert documents == entries


def test_one_object_at_a_time(past: Cli) -> None:
    for arguments in (("deploy/web", "svc/web"), ("deploy/",), ("deploy,svc", "web"), ("deploy/a/b",), ("a", "b", "c")):
        refused = past("history", *arguments)
        assert refused.code == 2
        assert refused.err.startswith("error: name one object, such as deployment/web")


def written(store: Path, *states: dict[str, Any]) -> None:
    """ConfigMaps as somebody else's API server would write them."""

    async def work(client: Client) -> None:
        for state in states:
            await client.put(ConfigMap.TYPE.key("default", "c"), patch.encode(state))

    on(store, work)


def config(data: Any, *managers: dict[str, Any], uid: str = "u1") -> dict[str, Any]:
    metadata = {"name": "c", "namespace": "default", "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, "managedFields": managers}, "data": data}


def test_who_changed_it_and_when(cli: Cli, tmp_path: Path) -> None:
    alice = {"manager": "alice", "operation": "Update", "time": "2026-01-01T00:00:00Z"}
    bob = {"manager": "bob", "operation": "Update", "time": "2026-01-02T03:04:05Z", "subresource": "status"}
    written(
        tmp_path / "store",
        config({"a": "1"}, alice),
        config({"a": "2"}, alice, bob),
        config({"b": "2"}, bob, alice, uid="u2"),
    )
    lines = cli("history", "cm/c").lines
    assert lines[1].split() == ["2", "2026-01-01T00:00:00Z", "alice", "created"]
    assert lines[2].split() == [
        "3",
        "2026-01-02T03:04:05Z",
        "bob",
        "(status)",
        "updated",
        "data.a:",
        '"1"',
        "->",
        '"2"',
    ]
    assert lines[3].split()[:4] == ["4", "2026-01-01T00:00:00Z", "alice", "recreated"]
    assert "managedFields" not in cli("history", "cm/c", "-p").out
    assert "by bob (status))" in cli("diff", "--from", "2", "--to", "3").lines[0]
    assert "managedFields" not in cli("get", "cm/c", "-o", "yaml").out
    assert "managedFields" not in cli("get", "cm", "-o", "json").out
    assert json.loads(cli("get", "cm/c", "-o", "json", "--show-managed-fields").out)["metadata"]["managedFields"]


def test_an_unreadable_state_is_no_traceback(cli: Cli, tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        for value in (b'{"metadata":{}}', b"\xff\x00", b"[1]", b"{}"):
            await client.put(ConfigMap.TYPE.key("default", "c"), value)

    on(tmp_path / "store", work)
    told = cli("history", "cm/c", "-p")
    assert (told.code, told.err) == (0, "")
    assert '+ value: "2 bytes that are no object"' in told.out
    differing = cli("diff", "--from", "2", "--to", "3")
    assert (differing.code, differing.err) == (1, "")
    assert differing.lines[0] == "changed: /registry/core/configmaps/default/c (revision 2 -> 3)"


def test_a_long_history_is_told_whole(cli: Cli, tmp_path: Path) -> None:
    written(tmp_path / "store", *(config({"a": str(i)}) for i in range(1500)))
    lines = cli("history", "cm/c").lines
    assert [line.split()[0] for line in lines[1:]] == [str(i) for i in range(2, 1502)]
    assert lines[-1].endswith('data.a: "1498" -> "1499"')


def test_the_history_of_many_objects(past: Cli, tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(CONFIG % ("one", "1") + "---\n" + WEB)
    past("create", "namespace", "other")
    past("apply", "-f", more, "-n", "other")
    past("delete", "cm/one", "-n", "other")

    def told(*arguments: str) -> list[tuple[str, ...]]:
        lines = past("history", *arguments).lines
        places = [lines[0].index(column) for column in ("REVISION", "ACTION", "OBJECT")]
        return [tuple(line[place:].split()[0] for place in places) for line in lines[1:]]

    web = "deployment.apps/web"
    assert told("-A", "deploy") == [
        ("2", "created", web), ("3", "updated", web), ("4", "updated", web), ("5", "deleted", web),
        ("6", "created", web), ("9", "created", web),
    ]  # fmt: skip
    assert [each[0] for each in told("deploy")] == ["2", "3", "4", "5", "6"]
    assert told("-n", "other") == [
        ("8", "created", "configmap/one"), ("9", "created", web), ("10", "deleted", "configmap/one"),
    ]  # fmt: skip
    assert [each[0] for each in told()] == ["2", "3", "4", "5", "6", "7", "8", "9", "10"]
    assert [each[0] for each in told("--from", "4", "--to", "7")] == ["4", "5", "6", "7"]
    entry = json.loads(past("history", "--from", "9", "-o", "json").out)[0]
    assert (entry["object"], entry["namespace"], entry["action"]) == (web, "other", "created")
    alone = past("history", "--revision", "3", "-p").lines
    assert alone[1].split()[:1] == ["3"]
    assert alone[-1] == "  ~ spec.replicas: 2 -> 5"
    assert [line.split()[0] for line in past("history", "deploy/web", "--from", "5").lines[1:]] == ["5", "6"]
    nothing = past("history", "pods")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "No changes found.\n")
    assert past("history", "pods", "-o", "json").out == "[]\n"
    assert past("history", "--from", "77").err == "error: revision 77 is not there yet: revisions 1 to 10 can be read\n"
    assert past("history", "--revision", "3", "--from", "2").code == 2
    on(tmp_path / "store", lambda client: client.compact(3))
    late = past("history")
    assert late.err == "note: what was before revision 3 is compacted away\n"
    assert [line.split()[0] for line in late.lines[1:]] == ["4", "5", "6", "7", "8", "9", "10"]
    assert late.lines[1].endswith('image: "nginx:1" -> "nginx:2"')


# ---- the past of kinds and of the whole store -----------------------------------------------------------------------


class Gadget(Resource, group="example.com", version="v1", scheme=Scheme()):
    """A site."""

    class Spec:
        image: str


def test_what_a_deleted_kind_had_can_be_read(cli: Cli, tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        objects = ObjectClient(client)
        definition = await objects.create(crd_for(Gadget))
        await objects.create(Gadget(name="blog", spec={"image": "a"}))
        await objects.delete(Gadget, "blog")
        await objects.delete(type(definition), definition.name)

    on(tmp_path / "store", work)
    assert cli("get", "gadgets").code == 1
    assert cli("get", "gadgets", "--at-revision", "3").lines[1].startswith("blog ")
    assert [line.split()[3] for line in cli("history", "gadget/blog").lines[1:]] == ["created", "deleted"]
    assert cli("diff", "gadgets", "--from", "3").lines[0] == "removed: gadget.example.com/blog (revision 3)"
    assert cli("history", "nope/blog").err.startswith('error: the store doesn\'t have a resource type "nope"')


def test_the_whole_store_at_a_revision(past: Cli, tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(CONFIG % ("one", "1") + "---\n" + CONFIG % ("two", "2"))
    past("create", "namespace", "other")
    past("apply", "-f", more, "-n", "other")
    past("delete", "cm", "--all", "-n", "other")
    shown = past("get", "--at-revision", "9").lines
    assert [line.split()[:2] for line in shown if line and not line.startswith(("NAME ", "NAMESPACE"))] == [
        ["other", "configmap/one"], ["other", "configmap/two"], ["namespace/other", "Active"],
        ["default", "deployment.apps/web"],
    ]  # fmt: skip
    assert past("get", "cm", "--at-revision", "8", "-o", "name", "-n", "other").lines == ["configmap/one"]
    assert past("get", "--at-revision", "1").err == "No resources found.\n"
    listed = json.loads(past("get", "all", "-A", "--at-revision", "3", "-o", "json").out)
    assert [each["spec"]["replicas"] for each in listed["items"]] == [5]
    assert past("get", "deploy", "-w", "--at-revision", "3").code == 2
    assert past("get", "deploy", "--at-revision", "0").code == 2
    assert past("get", "deploy", "-l", "app=other", "--at-revision", "3").err.startswith("No resources found")
    assert past("get").code == 2


def test_a_listing_of_the_past_is_one_snapshot(cli: Cli, tmp_path: Path) -> None:
    """More than a page of objects, most of them changed since, some gone and some new."""

    async def work(client: Client) -> None:
        def puts(value: str, numbers: range) -> list[Put]:
            return [
                Put(ConfigMap.TYPE.key("default", f"c{i:04}"), patch.encode(config({"a": value}, uid=str(i))))
                for i in numbers
            ]

        for start in range(0, 700, 100):
            await client.txn((), puts("old", range(start, start + 100)))
        for start in range(50, 800, 50):
            await client.txn((), puts("new", range(start, start + 50)))
        await client.delete(ConfigMap.TYPE.key("default", "c0"), ConfigMap.TYPE.key("default", "c00199"))

    on(tmp_path / "store", work)
    shown = json.loads(cli("get", "cm", "--at-revision", "8", "-o", "json").out)["items"]
    assert len(shown) == 700
    assert {each["data"]["a"] for each in shown} == {"old"}
    assert {each["metadata"]["resourceVersion"] for each in shown} == set("2345678")
    counts = cli("diff", "--from", "8").lines[-1]
    assert counts == "100 added, 650 changed, 20 removed"


# ---- diff -----------------------------------------------------------------------------------------------------------


def test_a_diff_in_every_form(past: Cli, tmp_path: Path) -> None:
    assert past("diff", "--from", "2", "--to", "4", "-o", "name").lines == ["deployment.apps/web -n default"]
    assert past("diff", "deploy", "--from", "2", "--to", "4", "-o", "name").lines == ["deployment.apps/web"]
    told = json.loads(past("diff", "deploy/web", "--from", "2", "--to", "4", "-o", "json").out)
    assert [(each["action"], each["object"], each["fromRevision"], each["toRevision"]) for each in told] == [
        ("changed", "deployment.apps/web", 2, 4)
    ]
    assert {"path": "spec.replicas", "from": 2, "to": 5} in told[0]["changes"]
    lines = past("diff", "--from", "2", "--to", "3", "-o", "unified").lines
    assert lines[:2] == ["--- default/deployment.apps/web\trevision 2", "+++ default/deployment.apps/web\trevision 3"]
    assert {"-  replicas: 2", "+  replicas: 5"} <= set(lines)
    back = past("diff", "--from", "3", "--to", "2", "-o", "unified").lines
    assert {"+  replicas: 2", "-  replicas: 5"} <= set(back)
    assert past("diff", "--from", "1", "-o", "unified").lines[0] == "--- /dev/null\trevision 1"
    assert past("diff", "--from", "4", "--to", "5").lines[0] == "removed: deployment.apps/web -n default (revision 4)"
    assert past("diff", "--from", "4", "--to", "6").lines[0].startswith("recreated: deployment.apps/web")


def test_the_exit_code_of_a_diff_is_diffs(past: Cli, tmp_path: Path) -> None:
    assert past("diff", "--from", "6").code == 0
    assert past("diff", "--from", "6").out == ""
    assert past("diff", "--from", "6", "-o", "json").out == "[]\n"
    assert past("diff", "pods", "--from", "2").code == 0
    assert past("diff", "-n", "other", "--from", "2").code == 0
    assert past("diff", "-n", "default", "--from", "2").code == 1
    for arguments, problem in (
        (("--from", "77"), "revision 77 is not there yet: revisions 1 to 6 can be read"),
        (("nope", "--from", "2"), 'the store doesn\'t have a resource type "nope"'),
        ((), "Missing option '--from'"),
    ):
        refused = past("diff", *arguments)
        assert refused.code == 2
        assert refused.err.startswith(f"error: {problem}")
        assert len(refused.err.splitlines()) == 1
    refused = past("diff", "--from", "2", store="etcd://127.0.0.1:1")
    assert refused.code == 2
    assert refused.err.startswith("error: store etcd://127.0.0.1:1: ")


def test_secrets_differ_without_their_texts(cli: Cli, tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        objects = ObjectClient(client)
        made = await objects.create(Secret(name="s", data={"key": "c2VjcmV0", "same": "c2FtZQ=="}))
        made.data["key"] = "b3RoZXI="
        await objects.update(made)

    on(tmp_path / "store", work)
    for arguments in (("diff", "--from", "2"), ("diff", "--from", "2", "-o", "unified"), ("diff", "--from", "1"),
                      ("diff", "--from", "1", "-o", "unified"), ("history", "secret/s", "-p"),
                      ("history", "secret/s"), ("history", "secret/s", "-o", "json")):  # fmt: skip
        told = cli(*arguments)
        assert not {word for word in ("c2VjcmV0", "b3RoZXI=", "c2FtZQ==") if word in told.out}, arguments
    assert '  ~ data.key: "*** (before)" -> "*** (after)"' in cli("diff", "--from", "2").lines


def test_what_only_repeats_the_object_is_no_difference(cli: Cli, tmp_path: Path) -> None:
    written(tmp_path / "store", config({"a": "1"}, {"manager": "x"}), config({"a": "1"}, {"manager": "y"}))
    assert cli("diff", "--from", "2").code == 0


# ---- events ---------------------------------------------------------------------------------------------------------


def event(name: str, about: str, seen: str, kind: str = "Pod", api_version: str = "v1") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "involvedObject": {"apiVersion": api_version, "kind": kind, "name": about, "namespace": "default"},
        "type": "Normal",
        "reason": name.title(),
        "message": "m",
        "lastTimestamp": f"2026-01-01T00:00:{seen}Z",
    }


def put_events(*events: dict[str, Any]) -> Callable[[Client], Awaitable[None]]:
    async def work(client: Client) -> None:
        for each in events:
            await client.put(f"/registry/core/events/default/{each['metadata']['name']}".encode(), patch.encode(each))

    return work


EVENTS = (event("alpha", "p", "30"), event("beta", "q", "10"), event("gamma", "p", "20"),
          event("delta", "p", "05", "Deployment", "apps/v1"))  # fmt: skip


def test_events_are_in_the_order_of_time_and_of_one_object(cli: Cli, tmp_path: Path) -> None:
    on(tmp_path / "store", put_events(*EVENTS))

    def reasons(*arguments: str) -> list[str]:
        return [line.split()[2] for line in cli("get", "events", *arguments, "--no-headers").lines]

    assert reasons() == ["Delta", "Beta", "Gamma", "Alpha"]
    assert reasons("--for", "pod/p") == ["Gamma", "Alpha"]
    assert reasons("--for", "deploy/p") == ["Delta"]
    assert reasons("--for", "po/q", "--at-revision", "4") == ["Beta"]
    assert cli("get", "pods", "--for", "pod/p").code == 2
    assert cli("get", "events", "--for", "pod").code == 2
    assert cli("get", "events", "--for", "nope/p").code == 1
    assert cli("get", "events", "--for", "pod/none").err == "No resources found in default namespace.\n"


def test_watching_the_events_of_an_object(served: str, background: Callable[..., Background]) -> None:
    on(served, put_events(*EVENTS))
    watch = background("--store", served, "get", "events", "--for", "pod/p", "-w")
    watch.line("^LAST SEEN +TYPE +REASON +OBJECT +MESSAGE$")
    watch.line(" Gamma ")
    watch.line(" Alpha ")
    on(served, put_events(event("epsilon", "q", "40"), event("zeta", "p", "50")))
    watch.line(" Zeta ")
    assert watch.interrupt() == 130
    assert not any("Epsilon" in line or "Beta" in line for line in watch.seen)
