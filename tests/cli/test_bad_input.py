"""Whatever comes in: a clear line, a non-zero exit code, nothing lost and no traceback."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import lmdb
import pytest

from controllers.cli import app
from controllers.cli.options import global_options
from tests.cli.conftest import LISTWATCH, Background, Cli, Result, environment

GOOD = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\ndata: {a: b}\n"
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: three
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i}]}
"""


def check(result: Result, *lines: str, code: int = 1) -> None:
    assert result.code == code
    assert "Traceback" not in result.err
    assert result.err.splitlines() == [f"error: {line}" for line in lines]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deployment.yaml"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD + "---\n" + DEPLOYMENT, '(document 2, Deployment "web"): spec.replicas: expected int, got "three"'),
        (
            GOOD + "---\napiVersion: v1\nkind: ConfigMap\n  name: x\n",
            "(document 2): line 8, column 7: mapping values are not allowed in this context",
        ),
        ("a: [1\n", "(document 1): line 2, column 1: did not find expected ',' or ']', while parsing a flow sequence"),
        ("kind: A\nkind: B\n", '(document 1): line 2, column 1: the key "kind" is there twice'),
        ("- 1\n", "(document 1): line 1: expected an object, got a list"),
        ("just text\n", "(document 1): line 1: expected an object, got a text"),
        (
            GOOD.replace("v1", "v9"),
            '(document 1, ConfigMap "good"): no kind "ConfigMap" in version "v9" is known; did you mean v1 ConfigMap?',
        ),
        (
            GOOD.replace("ConfigMap", "ConfigMop"),
            '(document 1, ConfigMop "good"): no kind "ConfigMop" in version "v1" is known; did you mean v1 ConfigMap?',
        ),
        ("kind: ConfigMap\nmetadata: {name: x}\n", '(document 1, ConfigMap "x"): apiVersion: required'),
        ("apiVersion: v1\nkind: 5\n", "(document 1): kind: expected str, got 5"),
        ("apiVersion: v1\nkind: ConfigMap\n", "(document 1, ConfigMap): metadata.name: required"),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: x\n",
            '(document 1, ConfigMap): metadata: expected ObjectMeta, got "x"',
        ),
        (
            GOOD.replace("a: b", "a: on"),
            '(document 1, ConfigMap "good"): data.a: expected str, got true '
            "(yes, no, on, off, y and n without quotes are booleans in YAML: quote the text)",
        ),
        (
            DEPLOYMENT.replace("three", "3").replace("{name: c, image: i}", "{name: c}"),
            '(document 1, Deployment "web"): spec.template.spec.containers[0].image: required',
        ),
        (
            DEPLOYMENT.replace("three", "3").replace("labels: {app: web}", "labels: {app: other}"),
            '(document 1, Deployment "web"): spec.template.metadata.labels: the selector app=web does not select them',
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: ns, namespace: m}\n",
            '(document 1, Namespace "ns"): metadata.namespace: namespaces have none, got "m"',
        ),
        (GOOD + "---\napiVersion: v1\nkind: List\nitems: [5]\n", "(document 2, item 1): expected an object, got 5"),
        (
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Nope, metadata: {name: x}}\n",
            '(document 1, item 1, Nope "x"): no kind "Nope" in version "v1" is known; did you mean v1 Node?',
        ),
        (
            '{"kind": "ConfigMap",, }',
            "(document 1): line 1, column 22: did not find expected node content, while parsing a flow node",
        ),
    ],
)
def test_a_mistake_has_its_place_and_nothing_is_applied(cli: Cli, file: Path, text: str, problem: str) -> None:
    file.write_text(text)
    result = cli("apply", "-f", file)
    assert result.out == ""
    check(result, f"{file} {problem}; nothing was applied")
    assert cli("get", "cm").err == "No resources found in default namespace.\n"


def test_all_mistakes_of_all_files_are_told_at_once(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(DEPLOYMENT)
    (tmp_path / "b.json").write_text('{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": 5}}')
    result = cli("apply", "-f", tmp_path / "a.yaml", "-f", tmp_path / "b.json")
    assert len(result.err.splitlines()) == 2
    assert "b.json (document 1, ConfigMap): metadata.name: expected str, got 5" in result.err


def test_json_mistakes(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for text, problem in (
        ('{"a": 1,\n "b" 2}', "(document 1): line 2, column 6: Expecting ':' delimiter"),
        ('{"a": 1, "a": 2}', '(document 1, from line 1): the key "a" is there twice'),
        ('{"a": NaN}', "(document 1, from line 1): NaN is no number in JSON"),
        ('{"a": ' * 100_000, "(document 1, from line 1): nested too deep"),
    ):
        file.write_text(text)
        check(cli("apply", "-f", file), f"{file} {problem}; nothing was applied")


def test_documents_of_json_in_a_row(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    one = '{"apiVersion": "v1",\t"kind": "ConfigMap", "metadata": {"name": "%s"}}'
    file.write_text(f"{one % 'a'}\n{one % 'b'}")
    assert cli("apply", "-f", file).lines == ["configmap/a created", "configmap/b created"]


def test_the_good_ones_are_applied_when_the_store_refuses_one(cli: Cli, file: Path) -> None:
    good = DEPLOYMENT.replace("three", "3")
    file.write_text(good)
    cli("apply", "-f", file)
    file.write_text(good.replace("app: web", "app: other") + "---\n" + GOOD)
    result = cli("apply", "-f", file)
    assert result.out == "configmap/good created\n"
    check(result, f'{file} (document 1, Deployment "web"): spec.selector: is immutable')


def test_files_that_cannot_be_read(cli: Cli, tmp_path: Path) -> None:
    check(cli("apply", "-f", tmp_path / "no"), f'the path "{tmp_path / "no"}" does not exist; nothing was applied')
    (tmp_path / "empty").mkdir()
    check(
        cli("apply", "-f", tmp_path / "empty"),
        f"no .yaml, .yml, .json files in the directory {tmp_path / 'empty'}; nothing was applied",
    )
    (tmp_path / "nothing.yaml").write_text("---\n# only a comment\n")
    check(
        cli("apply", "-f", tmp_path / "nothing.yaml"),
        f"no objects in {tmp_path / 'nothing.yaml'}; nothing was applied",
    )
    (tmp_path / "binary.yaml").write_bytes(b"a: 1\nb: \xff\xfe\n")
    check(
        cli("apply", "-f", tmp_path / "binary.yaml"),
        f"{tmp_path / 'binary.yaml'}: line 2: not UTF-8 text; nothing was applied",
    )
    result = cli("apply", "-f", "https://example.com/x.yaml")
    assert "download it first" in result.err
    check(cli("apply"), "name a manifest: -f FILE, -f DIR or -f - (`listwatch apply --help` tells more)", code=2)


def more(command: str) -> str:
    return f"(`listwatch {command} --help` tells more)"


@pytest.mark.parametrize(
    ("arguments", "problem", "code"),
    [
        (("get", "deplyoment"), 'the store doesn\'t have a resource type "deplyoment"; did you mean deployment?', 1),
        (
            ("get", "zzz"),
            'the store doesn\'t have a resource type "zzz"; `listwatch api-resources` lists what it has',
            1,
        ),
        (("get",), f"name a kind of objects, such as pods or deployment/web {more('get')}", 2),
        (
            ("rollout", "status", "", "x"),
            f"name a kind of objects, such as pods or deployment/web {more('rollout status')}",
            2,
        ),
        (("get", "pods/a", "b"), f'"b": with KIND/NAME every argument has to be of that form {more("get")}', 2),
        (("get", "pods", "--nope"), f"No such option '--nope'. Did you mean '--store'? {more('get')}", 2),
        (("gte", "pods"), 'unknown command "gte", did you mean get? (`listwatch --help` tells more)', 2),
        (("get", "deploy,rs", "-w"), f"watch one kind at a time {more('get')}", 2),
        (
            ("get", "pods", "-o", "xml"),
            "Invalid value for '-o' / '--output': 'xml' is none of wide, yaml, json, name, jsonpath=PATH, "
            "custom-columns=NAME:PATH " + more("get"),
            2,
        ),
        (("delete", "pods"), f"name the objects, or select them by -l, or say --all {more('delete')}", 2),
        (("edit", "pods"), f"name the objects, or select them by -l {more('edit')}", 2),
        (("patch", "pods", "-p", "{}"), f"name the objects {more('patch')}", 2),
        (("wait", "pods/x"), f"Missing option '--for' {more('wait')}", 2),
    ],
)
def test_wrong_calls(cli: Cli, arguments: tuple[str, ...], problem: str, code: int) -> None:
    check(cli(*arguments), problem, code=code)


@pytest.mark.parametrize("group", ["rollout", "set"])
def test_a_group_of_commands_alone_tells_what_there_is(cli: Cli, group: str) -> None:
    result = cli(group)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: listwatch {group} ")


def test_a_data_directory_in_use(cli: Cli, background: Callable[..., Background], tmp_path: Path) -> None:
    data = tmp_path / "data"
    server = background("serve", "--data-dir", data, "--listen-client-urls", "http://127.0.0.1:0")
    store = f"etcd://{server.line('http://(127.0.0.1:[0-9]+)')[1]}"
    manifest = tmp_path / "x.yaml"
    manifest.write_text(GOOD)
    assert cli("apply", "-f", manifest, store=store).code == 0
    for arguments in (("get", "cm"), ("apply", "-f", str(manifest))):
        result = cli(*arguments, store=data)
        assert result.code == 1
        assert len(result.err.splitlines()) == 1
        assert str(data) in result.err
        assert "in use" in result.err or "open" in result.err
    # Nothing was lost or broken by the attempts.
    assert cli("get", "cm", store=store).lines[1].startswith("good ")
    assert server.interrupt() == 0
    assert cli("get", "cm", store=data).lines[1].startswith("good ")


def test_an_occupied_port(process: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = process("serve", "--data-dir", tmp_path / "d", "--listen-client-urls", f"http://127.0.0.1:{port}")
    check(result, f"cannot listen on 127.0.0.1:{port}: the port is in use")


def test_listen_urls_that_make_no_sense(process: Cli, tmp_path: Path) -> None:
    result = process("serve", "--data-dir", tmp_path / "d", "--listen-client-urls", "127.0.0.1:2379")
    assert result.code == 1
    assert result.err.startswith("error: invalid listen URL '127.0.0.1:2379'")
    assert process("serve").err.startswith("error: Missing option '--data-dir'")


def test_a_store_that_cannot_be_reached(process: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    result = process("--store", f"etcd://127.0.0.1:{port}", "get", "pods")
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith(f"error: store etcd://127.0.0.1:{port}: ")
    assert f"127.0.0.1:{port}" in result.err.partition(": ")[2]


def test_stores_that_cannot_be(cli: Cli, tmp_path: Path) -> None:
    check(
        cli("get", "pods", store="http://127.0.0.1:2379"),
        "store 'http://127.0.0.1:2379': write etcd://HOST:PORT for a server",
    )
    (tmp_path / "file").write_text("")
    result = cli("get", "pods", store=tmp_path / "file")
    assert result.code == 1
    assert len(result.err.splitlines()) == 1


def test_a_data_directory_of_a_newer_format(cli: Cli, tmp_path: Path) -> None:
    cli("get", "pods", store=tmp_path / "newer")
    raise_format(tmp_path / "newer")
    result = cli("get", "pods", store=tmp_path / "newer")
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert "newer" in result.err


def raise_format(directory: Path) -> None:
    """Put a higher format version where the store keeps its own."""
    (data,) = {path.parent for path in directory.rglob("data.mdb")} or {directory}
    with lmdb.open(str(data), max_dbs=16) as environment, environment.begin(write=True) as txn:
        meta = environment.open_db(b"meta", txn=txn)
        key, value = next((key, value) for key, value in txn.cursor(db=meta) if b"format" in key or b"version" in key)
        txn.put(key, (int.from_bytes(value, "big") + 1).to_bytes(len(value), "big"), db=meta)


@pytest.fixture
def failing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @global_options
    def fail() -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(app.Commands, "get_command", lambda *_: fail)
    monkeypatch.setitem(app._ENTRIES, "fail", app.Entry("", ""))


@pytest.mark.usefixtures("failing_command")
def test_a_bug_is_one_line_and_debug_shows_where(cli: Cli) -> None:
    check(cli("fail"), "RuntimeError: two lines (this is a bug in listwatch; --debug shows where)")
    shown = cli("fail", "--debug").err
    assert "Traceback" in shown
    assert 'raise RuntimeError("two\\nlines")' in shown


@pytest.mark.parametrize("output", ["| true", ">&-"], ids=["a reader that is gone", "closed"])
def test_output_that_nobody_reads(served: str, tmp_path: Path, output: str) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    done = subprocess.run(
        [shell, "-c", f"{LISTWATCH} --store {served} api-resources {output}"],
        capture_output=True,
        text=True,
        timeout=20,
        env=environment(tmp_path),
        check=False,
    )
    assert done.stderr == ""
