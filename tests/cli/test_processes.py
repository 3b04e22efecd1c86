"""The command as a process: starting and stopping, watching through a pipe, two terminals on one store."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from controllers import stores
from controllers.cli.app import COMMANDS, run
from kvstore.client import RemoteClient
from tests.cli.conftest import LISTWATCH, MANIFESTS, Background, Cli, environment
from tests.etcd_process import free_port, running_etcd

Start = Callable[..., Background]

CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {a: '%s'}\n"


def test_the_first_page(process: Cli) -> None:
    shown = process("--help")
    assert (shown.code, shown.err) == (0, "")
    for word in ("Try first:", "listwatch demo", "listwatch run", "listwatch apply", "rollout", "Objects:", "--store"):
        assert word in shown.out
    assert process().out == shown.out
    assert process("--version").out.startswith("listwatch ")


@pytest.mark.parametrize("command", [name for section in COMMANDS.values() for name in section])
def test_every_command_has_help(cli: Cli, command: str) -> None:
    shown = cli(command, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert f"Usage: listwatch {command}" in shown.out


def imported_by(*arguments: str) -> set[str]:
    code = (
        "import sys; from controllers.cli.app import run; code = run(sys.argv[1:]); "
        "print(*sorted(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=20, check=True
    )
    return set(done.stderr.split())


def test_a_command_imports_what_it_needs() -> None:
    assert not {"rich", "structlog", "asyncio", "grpc", "lmdb", "informer"} & imported_by("--help")
    assert not {"rich.live", "informer", "controllers.manager", "yaml"} & imported_by("serve", "--help")


def test_a_command_that_reads_imports_nothing_for_writing(tmp_path: Path) -> None:
    imported = imported_by("--store", str(tmp_path / "store"), "get", "namespaces")
    assert not {"controllers.admission", "controllers.manager", "yaml"} & imported


def test_serve_and_stop(background: Start, tmp_path: Path) -> None:
    server = background("serve", "--data-dir", tmp_path / "d", "--listen-client-urls", "http://127.0.0.1:0")
    address = server.line(r"serving .* on http://(127\.0\.0\.1:[0-9]+), Ctrl-C stops")[1]

    async def with_a_watch_open() -> int:
        async with RemoteClient([address]) as client, client.watch(b"a"):
            await client.put(b"a", b"1")
            return await asyncio.to_thread(server.interrupt)

    assert asyncio.run(with_a_watch_open()) == 0
    assert server.seen[-1] == "stopped"


def test_serve_takes_etcds_environment(process: Cli, tmp_path: Path) -> None:
    result = process("serve", ETCD_DATA_DIR=str(tmp_path / "d"), ETCD_LISTEN_CLIENT_URLS="nonsense")
    assert result.code == 1
    assert "'nonsense'" in result.err


def test_watching_through_a_pipe(served: str, process: Cli, background: Start) -> None:
    process("--store", served, "apply", "-f", "-", stdin=CONFIG % ("one", "1"))
    watch = background("--store", served, "get", "cm", "-w")
    watch.line("^NAME +DATA +AGE$")
    watch.line("^one +1 ")
    process("--store", served, "apply", "-f", "-", stdin=CONFIG % ("two", "1"))
    watch.line("^two +1 ")
    process("--store", served, "delete", "cm/one")
    watch.line("^one +1 ")
    assert watch.interrupt() == 130
    assert not any("Traceback" in line for line in watch.seen)


def test_watching_objects_as_json(served: str, process: Cli, background: Start) -> None:
    process("--store", served, "apply", "-f", "-", stdin=CONFIG % ("one", "1"))
    watch = background("--store", served, "get", "cm", "one", "-w", "-o", "json")
    watch.line('"a": "1"')
    process("--store", served, "apply", "-f", "-", stdin=CONFIG % ("other", "1") + "---\n" + CONFIG % ("one", "2"))
    watch.line('"a": "2"')
    assert not any('"name": "other"' in line for line in watch.seen)
    assert process("--store", served, "get", "cm", "none", "-w").err == 'error: configmaps "none" not found\n'


@pytest.mark.parametrize("compacted", [False, True])
def test_a_watch_survives_its_server(background: Start, process: Cli, tmp_path: Path, compacted: bool) -> None:
    data = tmp_path / "d"
    server = background("serve", "--data-dir", data, "--listen-client-urls", "http://127.0.0.1:0")
    url = server.line("on (http://127.0.0.1:[0-9]+)")[1]
    store = f"etcd://{url.removeprefix('http://')}"
    process("--store", store, "apply", "-f", "-", stdin=CONFIG % ("one", "1"))
    watch = background("--store", store, "get", "cm", "-w")
    watch.line("^one ")
    server.interrupt()
    watch.line("^note: the watch was cut, resuming after revision [0-9]+$")
    process("--store", data, "apply", "-f", "-", stdin=CONFIG % ("two", "1"))
    process("--store", data, "delete", "cm/one")

    async def compact() -> None:
        async with stores.open_store(str(data)) as client:
            await client.compact((await client.status()).header.revision)

    if compacted:
        asyncio.run(compact())
    background("serve", "--data-dir", data, "--listen-client-urls", url).line("serving")
    if compacted:
        watch.line("^note: the history after revision [0-9]+ was compacted, listing again$")
    rows = {watch.line("^(one|two) ")[1], watch.line("^(one|two) ")[1]}
    assert rows == {"two", "one"}  # the deleted one is shown a last time
    process("--store", store, "apply", "-f", "-", stdin=CONFIG % ("three", "1"))
    watch.line("^three ")
    assert watch.interrupt() == 130


def test_the_environment_names_the_store(served: str, process: Cli) -> None:
    assert process("apply", "-f", "-", stdin=CONFIG % ("one", "1"), LISTWATCH_STORE=served).code == 0
    assert process("get", "cm", LISTWATCH_STORE=served).lines[1].startswith("one ")
    assert process("get", "cm", "--store", served).lines[1].startswith("one ")


async def no_local_server(address: str) -> bool:
    return False


def test_without_a_name_the_data_directory_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Other tests may be serving on the usual port at this moment.
    monkeypatch.setattr(stores, "_answers", no_local_server)
    monkeypatch.delenv("LISTWATCH_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "x"))
    file = tmp_path / "one.yaml"
    file.write_text(CONFIG % ("one", "1"))
    assert run(["apply", "-f", str(file)]) == 0
    assert run(["get", "cm", "--store", str(tmp_path / "x" / "listwatch" / "default")]) == 0
    assert "\none " in capfd.readouterr().out


def on_terminal(*arguments: str, home: Path, timeout: float = 30) -> tuple[int, str]:
    """Run on a pseudo-terminal of 80 columns and 24 lines; the exit code and all that was shown."""
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [LISTWATCH, *arguments],
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        env=environment(home) | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
        close_fds=True,
    )
    os.close(secondary)
    shown = b""
    try:
        while True:
            try:
                chunk = os.read(primary, 65536)
            except OSError:
                break  # how Linux says that the other side is closed
            if not chunk:
                break
            shown += chunk
        return process.wait(timeout), shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(primary)


def test_help_and_errors_on_a_terminal(tmp_path: Path) -> None:
    code, shown = on_terminal("--help", home=tmp_path)
    assert code == 0
    assert "Try first:" in shown
    code, shown = on_terminal("--store", str(tmp_path / "s"), "get", "nope", home=tmp_path)
    assert code == 1
    assert shown.startswith("error: ")
    assert "Traceback" not in shown


@pytest.fixture
def running(background: Start, tmp_path: Path) -> tuple[Background, str]:
    """`listwatch run` on an embedded store that it serves to the other commands."""
    port = free_port()
    started = background("run", "--store", tmp_path / "data", "--listen-client-urls", f"http://127.0.0.1:{port}")
    started.line("event=running")
    return started, f"etcd://127.0.0.1:{port}"


def test_from_a_manifest_to_running_pods(running: tuple[Background, str], process: Cli) -> None:
    controllers, store = running

    def call(*arguments: str | Path) -> str:
        result = process("--store", store, *arguments)
        assert (result.code, result.err) == (0, ""), result
        return result.out

    call("apply", "-f", MANIFESTS)
    assert call("rollout", "status", "deploy/nginx-deployment", "--timeout=20s").endswith("successfully rolled out\n")
    assert call("wait", "deploy", "--all", "--for=condition=Available", "--timeout=20s").count("condition met") == 5
    pods = call("get", "pods", "-l", "app=nginx", "--no-headers").splitlines()
    assert [line.split()[1:3] for line in pods] == [["1/1", "Running"]] * 3
    assert len(call("get", "nodes", "--no-headers").splitlines()) == 3

    call("set", "image", "deployment/nginx-deployment", "nginx=nginx:1.16.1")
    # A busy machine may be done before the command has begun to look.
    told = call("rollout", "status", "deploy/nginx-deployment", "--timeout=20s")
    assert told.endswith("successfully rolled out\n")
    history = call("rollout", "history", "deploy/nginx-deployment").splitlines()
    assert history == [
        "deployment.apps/nginx-deployment",
        "REVISION   CHANGE-CAUSE",
        "1          <none>",
        "2          <none>",
        "",
    ]
    assert "Image:        nginx:1.14.2" in call("rollout", "history", "deploy/nginx-deployment", "--revision=1")

    assert call("rollout", "undo", "deploy/nginx-deployment") == "deployment.apps/nginx-deployment rolled back\n"
    call("rollout", "status", "deploy/nginx-deployment", "--timeout=20s")
    listed = json.loads(call("get", "pods", "-l", "app=nginx", "-o", "json"))["items"]
    staying = [pod for pod in listed if "deletionTimestamp" not in pod["metadata"]]
    images = {pod["spec"]["containers"][0]["image"] for pod in staying}
    assert images == {"nginx:1.14.2"}

    described = call("describe", "deploy/nginx-deployment")
    assert "NewReplicaSet:   nginx-deployment-" in described
    assert "ScalingReplicaSet" in described
    pod = call("get", "pods", "-l", "app=nginx", "-o", "name").splitlines()[0]
    assert "Controlled By:" in call("describe", pod)
    assert re.search(r"^Endpoints: +10\.", call("describe", "svc/guestbook-frontend"), re.MULTILINE)

    assert call("delete", pod) == f'pod "{pod.removeprefix("pod/")}" deleted\n'
    call("delete", "-f", MANIFESTS)
    call("wait", "pods", "--all", "--for=delete", "--timeout=20s")
    controllers.line("ScalingReplicaSet")
    assert controllers.interrupt(timeout=8) == 0


def test_on_a_real_etcd(background: Start, process: Cli, tmp_path: Path) -> None:
    with running_etcd(tmp_path) as address:
        store = f"etcd://{address}"
        controllers = background("run", "--store", store, "--nodes", "2")
        controllers.line("event=running")
        assert process("--store", store, "apply", "-f", MANIFESTS / "nginx-deployment.yaml").code == 0
        result = process("--store", store, "rollout", "status", "deploy/nginx-deployment", "--timeout=20s")
        assert result.out.endswith("successfully rolled out\n")
        assert controllers.interrupt(timeout=8) == 0


def test_run_stops_on_sigterm_too(running: tuple[Background, str]) -> None:
    controllers, _ = running
    controllers.process.send_signal(signal.SIGTERM)
    assert controllers.process.wait(8) == 0


# ---- run FILE.py -----------------------------------------------------------------------------------------------------

RECONCILER = """
from controllers import Context, Manager, Request
from informer import Resource


class Greeting(Resource, group="example.com", version="v1"):
    class Spec:
        who: str

    class Status:
        text: str = ""


manager = Manager()


@manager.reconciler(Greeting)
async def reconcile(ctx: Context, request: Request) -> None:
    greeting = ctx.get(Greeting, request)
    if greeting is not None:
        greeting.status.text = f"hello, {greeting.spec.who}"
        await ctx.update_status(greeting)


if __name__ == "__main__":
    raise SystemExit("not run as a program")
"""
GREETING = "apiVersion: example.com/v1\nkind: Greeting\nmetadata: {name: a}\nspec: {who: you}\n"


def greeted(process: Cli, store: str, text: str) -> None:
    done = process("--store", store, "wait", "greeting/a", f"--for=jsonpath={{.status.text}}={text}", "--timeout=20s")
    assert done.code == 0, done


def test_run_runs_anybodys_reconcilers_and_reloads_them(background: Start, process: Cli, tmp_path: Path) -> None:
    file, port = tmp_path / "greet.py", free_port()
    file.write_text(RECONCILER)
    store = f"etcd://127.0.0.1:{port}"
    serve = ("--listen-client-urls", f"http://127.0.0.1:{port}")
    running = background("run", "greet.py", "--store", tmp_path / "data", *serve, "--reload", "--no-workloads")
    running.line("event=running controllers=.*greeting")
    assert process("--store", store, "apply", "-f", "-", stdin=GREETING).code == 0
    greeted(process, store, "hello, you")

    file.write_text(RECONCILER + "\nx = (\n")
    running.line(r"greet.py:\d+: '\(' was never closed")
    running.line("event=ended exit_code=1")
    file.write_text(RECONCILER.replace("hello", "howdy"))
    running.line("event=running")
    greeted(process, store, "howdy, you")
    assert running.interrupt(timeout=10) == 0
    assert process("--store", tmp_path / "data", "get", "greetings").code == 0  # nobody has it open any more


SLOW = """
import asyncio

from controllers import Manager
from informer import Resource


class Greeting(Resource, group="example.com", version="v1"):
    class Spec:
        who: str


manager = Manager()


@manager.reconciler(Greeting)
async def reconcile(ctx, request):
    from words import WORD  # not before it is needed

    ctx.log.info("begun")
    await asyncio.sleep(1)
    ctx.log.info(WORD)
"""


def test_an_interrupt_lets_the_runs_of_a_reloading_process_end(background: Start, process: Cli, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "words.py").write_text("WORD = 'done'\n")
    serve = ("--listen-client-urls", f"http://127.0.0.1:{port}", "--http", "")
    running = background("run", "slow.py", "--store", tmp_path / "data", *serve, "--reload", "--no-workloads")
    running.line("event=running")
    assert process("--store", f"etcd://127.0.0.1:{port}", "apply", "-f", "-", stdin=GREETING).code == 0
    running.line("event=begun")
    assert running.interrupt(timeout=10) == 0
    assert any("event=done" in line for line in running.seen), running.seen


def test_run_goes_by_the_store_of_its_settings(background: Start, process: Cli, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(f"store: {tmp_path}/mine\nconnect_timeout: 0.3\n")
    running = background("run", "--config", "s.yaml", "--listen-client-urls", "", "--http", "")
    running.line(f"event=store_opened directory={tmp_path}/mine")
    running.line("event=running")
    assert running.interrupt(timeout=8) == 0
    nobody = f"etcd://127.0.0.1:{free_port()}"
    done = process("run", "--config", "s.yaml", "--store", nobody)  # which wins over the file
    assert (done.code, done.err.startswith(f"error: store {nobody}: "), " times in 0." in done.err) == (1, True, True)


def test_a_file_that_another_one_imports_is_run_once(background: Start, tmp_path: Path) -> None:
    (tmp_path / "greet.py").write_text(RECONCILER.replace("manager = Manager()", 'manager = Manager()\nprint("ran")'))
    (tmp_path / "more.py").write_text(
        "from controllers import Manager\nfrom greet import Greeting, reconcile\n"
        "other = Manager()\nother.add_controller(Greeting, reconcile, name='other')\n"
    )
    running = background("run", "more.py", "greet.py", "--store", tmp_path / "data", "--no-workloads",
                         "--listen-client-urls", "", "--http", "")  # fmt: skip
    running.line("event=running controllers=.*greeting.*other")
    assert running.seen.count("ran") == 1
    assert running.interrupt(timeout=8) == 0


def test_run_brings_the_built_in_controllers_with_an_embedded_store(
    background: Start, process: Cli, tmp_path: Path
) -> None:
    (tmp_path / "greet.py").write_text(RECONCILER)
    running = background("run", "greet.py", "--store", tmp_path / "data", "--listen-client-urls", "")
    running.line("event=running controllers=.*'deployment'.*'greeting'.*'replicaset'")
    assert running.interrupt(timeout=8) == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = (\n", "error: {file}:1: '(' was never closed\n"),
        ("def f():\n    return nope\n\nf()\n", "error: {file}:2: NameError: name 'nope' is not defined\n"),
        ("import no_such_module\n", "error: {file}:1: ModuleNotFoundError: No module named 'no_such_module'\n"),
        ("raise SystemExit(3)\n", "error: {file}:1: SystemExit: 3\n"),
        (
            "x = 1\n",
            "error: {file}: there is no Manager in it: write `manager = Manager()` at its top level\n",
        ),
        (None, "error: {file}: no such file\n"),
    ],
)
def test_a_file_that_cannot_be_run_is_one_line(process: Cli, tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "file.py").write_text(text)
    done = process("run", "file.py", "--store", tmp_path / "data")
    assert (done.code, done.out, done.err) == (1, "", told.format(file="file.py"))


def test_what_ends_a_manager_of_a_file_is_told_with_its_line(process: Cli, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(
        "from controllers import Manager\nmanager = Manager()\n"
        "async def work():\n    raise RuntimeError('no more')\nmanager.add_runnable(work)\n"
    )
    options = ("--no-workloads", "--listen-client-urls", "", "--http", "")
    done = process("run", "ends.py", "--store", tmp_path / "data", *options)
    assert (done.code, done.err.splitlines()[-1]) == (1, "error: ends.py:4: RuntimeError: no more")


def test_two_that_run_on_one_etcd_take_turns(background: Start, tmp_path: Path) -> None:
    with running_etcd(tmp_path) as address:
        first = background("run", "--store", f"etcd://{address}", "--nodes", "1")
        first.line("event=leader_elected")
        second = background("run", "--store", f"etcd://{address}", "--nodes", "1")
        second.line("event=leader_is_another")
        assert first.interrupt(timeout=8) == 0
        second.line("event=leader_elected")
        assert second.interrupt(timeout=8) == 0
