"""Commands run in this process, where only what they print and return is of interest; else as real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from controllers.cli.app import run

LISTWATCH = Path(sys.executable).with_name("listwatch")
ROOT = Path(__file__).parent.parent.parent
MANIFESTS = ROOT / "examples" / "manifests"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Runs a command on the embedded store of this test."""

    def call(*arguments: str | Path, store: str | Path = tmp_path / "store") -> Result:
        capfd.readouterr()
        code = run(["--store", str(store), *map(str, arguments)])
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return call


def environment(home: Path) -> dict[str, str]:
    """Without anything that names a store, and with a home of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LISTWATCH_", "ETCD_", "XDG_"))}
    return {**kept, "HOME": str(home), "PYTHONWARNINGS": "error", "COLUMNS": "120"}


@pytest.fixture
def process(tmp_path: Path) -> Cli:
    """Runs a command as a process of its own."""

    def call(*arguments: str | Path, stdin: str = "", timeout: float = 30, **variables: str) -> Result:
        done = subprocess.run(
            [LISTWATCH, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment(tmp_path) | variables,
            cwd=tmp_path,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


class Background:
    """A command that goes on; its output is read line by line."""

    def __init__(self, home: Path, *arguments: str | Path, **variables: str) -> None:
        self.process = subprocess.Popen(
            [LISTWATCH, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(home) | {"PYTHONUNBUFFERED": "1"} | variables,
            cwd=home,
            start_new_session=True,
        )
        self.seen: list[str] = []

    def line(self, pattern: str) -> re.Match[str]:
        """The next line that fits. The test's own timeout bounds the wait."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append(line.rstrip())
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"ended without a line like {pattern!r}: {self.seen}")

    def interrupt(self, timeout: float = 5) -> int:
        """Ctrl-C, which a terminal sends to all that were started from there; and the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.stdout is not None
        self.seen += self.process.stdout.read().splitlines()
        return self.process.wait(timeout)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Callable[..., Background]]:
    running: list[Background] = []

    def start(*arguments: str | Path, **variables: str) -> Background:
        running.append(Background(tmp_path, *arguments, **variables))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture
def served(background: Callable[..., Background], tmp_path: Path) -> str:
    """The address of a store that a `listwatch serve` of this test serves."""
    server = background("serve", "--data-dir", tmp_path / "served", "--listen-client-urls", "http://127.0.0.1:0")
    return f"etcd://{server.line(r'on http://(127.0.0.1:[0-9]+)')[1]}"
