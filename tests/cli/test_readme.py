"""Every command of the README works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import ROOT, Background, environment
from tests.etcd_process import ETCDCTL, free_port

BIN = Path(sys.executable).parent
README = (ROOT / "README.md").read_text()


def block(after: str) -> list[str]:
    """The commands of the first `sh` block after a text."""
    found = re.search(r"```sh\n(.*?)```", README.partition(after)[2], re.DOTALL)
    assert found is not None
    return [line.partition(" #")[0].strip() for line in found[1].splitlines() if line.strip()]


def call(line: str, home: Path, **variables: str) -> str:
    program, *arguments = shlex.split(line)
    done = subprocess.run(
        [BIN / program, *arguments],
        capture_output=True,
        text=True,
        timeout=40,
        cwd=ROOT,
        env=environment(home) | variables,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), (line, done)
    return done.stdout


def test_sixty_seconds(background: Callable[..., Background], tmp_path: Path) -> None:
    port = free_port()
    activate, run = block("Start the controllers")
    assert activate == "source .venv/bin/activate"
    _, *arguments = shlex.split(run)
    url = f"http://127.0.0.1:{port}"
    controllers = background(*arguments, "--store", tmp_path / "data", "--listen-client-urls", url)
    controllers.line("event=running")
    said = [call(line, tmp_path, LISTWATCH_STORE=f"etcd://127.0.0.1:{port}") for line in block("in a second terminal")]
    assert "deployment.apps/nginx-deployment created" in said[0]
    assert said[1].endswith("successfully rolled out\n")
    assert re.search(r"^deployment.apps/nginx-deployment +3/3 ", said[2], re.MULTILINE)
    assert said[5] == "deployment.apps/nginx-deployment rolled back\n"
    assert controllers.interrupt(timeout=8) == 0


def test_a_reconciler_of_your_own(tmp_path: Path) -> None:
    (line,) = block("A reconciler of your own")
    call(f"{line} --store {tmp_path / 'data'}", tmp_path)


def test_the_store_alone(background: Callable[..., Background], tmp_path: Path) -> None:
    (line,) = block("The store alone")
    _, *arguments = shlex.split(line)
    arguments[arguments.index("http://127.0.0.1:2379")] = "http://127.0.0.1:0"
    server = background(*arguments)
    endpoint = server.line("on http://(127.0.0.1:[0-9]+)")[1]
    put, get, watch = block("one-member etcd 3.5 for any etcd client")
    assert call(put, tmp_path, ETCDCTL_ENDPOINTS=endpoint) == "OK\n"
    assert call(get, tmp_path, ETCDCTL_ENDPOINTS=endpoint) == "greeting\nhello\n"
    watching = subprocess.Popen(
        [ETCDCTL, *shlex.split(watch)[1:]],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(tmp_path) | {"ETCDCTL_ENDPOINTS": endpoint},
    )
    try:
        assert watching.stdout is not None
        assert [watching.stdout.readline().strip() for _ in range(3)] == ["PUT", "greeting", "hello"]
    finally:
        watching.kill()
        watching.communicate()


def test_links_lead_somewhere() -> None:
    for place in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / place).exists(), place
