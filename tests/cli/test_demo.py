"""The demo: every step reaches what it should, and a step that does not is told and gives exit code 1."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from controllers.cli.demo import command, runner
from controllers.cli.demo.command import run_demo
from controllers.cli.demo.link import Link
from controllers.cli.demo.manifests import find_manifests
from controllers.cli.demo.runner import Step, StepFailed
from controllers.cli.demo.steps import STEPS
from controllers.cli.demo.world import World
from controllers.core.types import Pod
from tests.cli.conftest import MANIFESTS, Cli
from tests.cli.test_processes import on_terminal


def test_in_a_pipe(process: Cli) -> None:
    result = process("demo", timeout=30)
    assert (result.code, result.err) == (0, ""), result.out
    assert len(re.findall(r"^\[\d/7\] ", result.out, re.MULTILINE)) == 7
    assert len(re.findall(r"ok after [0-9.]+ s \(revision [0-9]+\)$", result.out, re.MULTILINE)) == 7
    revisions = [int(found) for found in re.findall(r"revision (\d+)\)$", result.out, re.MULTILINE)]
    assert revisions == sorted(revisions)
    for word in ("RESUMED", "RELISTED", "surge", "unavailable", "NotReady", "every field of them kept"):
        assert word in result.out
    assert re.search(r"^all 7 steps reached what they should, in [0-9.]+ s$", result.lines[-1])
    assert "\x1b" not in result.out


def test_on_a_terminal(tmp_path: Path) -> None:
    code, shown = on_terminal("demo", home=tmp_path, timeout=30)
    assert code == 0, shown[-2000:]
    assert "Traceback" not in shown
    for word in ("RESUMING", "RELISTED", "nginx-deployment", "node-3", "NotReady", "all 7 steps reached"):
        assert word in shown
    assert shown.count("nginx-deployment runs") > 30  # it moves


async def nothing(world: World, tell: object) -> None:
    return


async def pods_out_of_nowhere(world: World, tell: object) -> None:
    await world.until("a pod that nobody asked for", lambda: bool(world.all(Pod)), 0.2)


async def test_a_step_that_fails_gives_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    steps = (Step("easy", nothing), Step("hopeless", pods_out_of_nowhere), Step("never begun", nothing))
    assert await run_demo(steps, terminal=False) == 1
    out = capsys.readouterr().out
    problem = "expected within 0.2 s: a pod that nobody asked for"
    assert f"FAILED: {problem} after" in out
    assert out.splitlines()[-1] == f"FAILED at step 2 of 3, hopeless: {problem}"
    assert "never begun" not in out


async def test_a_step_that_does_not_end_is_ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever(world: World, tell: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(runner, "TOTAL", 0.3)
    assert await run_demo((Step("endless", forever),), terminal=False) == 1
    assert "the demo's 0.3 s were over" in capsys.readouterr().out


async def test_a_step_that_fails_is_shown_on_a_terminal_too(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail(world: World, tell: object) -> None:
        raise StepFailed("it rains")

    assert await run_demo((Step("picnic", fail),), terminal=True) == 1
    out = capsys.readouterr().out
    assert "failed picnic it rains" in " ".join(out.split())


async def test_a_lost_field_is_noticed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from controllers.cli.demo import steps
    from informer import ObjectClient

    get = ObjectClient.get

    async def forgetful(self: ObjectClient, cls: type[Pod], name: str, namespace: str | None = None) -> Pod:
        found = await get(self, cls, name, namespace)
        for container in (found.raw.get("spec") or {}).get("template", {}).get("spec", {}).get("containers", ()):
            container.pop("readinessProbe", None)
        return found

    monkeypatch.setattr(ObjectClient, "get", forgetful)
    assert await run_demo((Step("apply", steps.apply_manifests),), terminal=False) == 1
    assert "readinessProbe is lost" in capsys.readouterr().out


def test_the_manifests_are_found_in_a_checkout() -> None:
    assert find_manifests() == MANIFESTS


def test_the_steps_are_those_of_the_readme() -> None:
    assert [step.title for step in STEPS] == [
        "apply examples/manifests",
        "scale nginx-deployment to 6",
        "roll out nginx:1.16.1",
        "undo the rollout",
        "cut the watch connections",
        "compact the store under informers that are away",
        "kill a node",
    ]
    assert command.PAUSE * 20 < 10


async def test_a_link_goes_down_and_up() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Link(server.sockets[0].getsockname()[:2]) as link:
        host, _, port = link.address.rpartition(":")

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"hello")
            return reader, writer

        reader, writer = await connect()
        assert await reader.readexactly(5) == b"hello"
        assert await link.down() == 1
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        reader, writer = await connect()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(5), 0.1)
        link.up()
        assert await reader.readexactly(5) == b"hello"
        writer.close()
