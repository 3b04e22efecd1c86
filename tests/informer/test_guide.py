"""The code of docs/informer.md runs, and what it points to is there."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from informer import Informers, ObjectClient
from kvstore.client import EmbeddedClient, RemoteClient
from tests.etcd_process import running_etcd

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "informer.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


async def test_ten_lines_are_an_informer_on_an_etcd(tmp_path: Path) -> None:
    program = BLOCKS[0]
    lines = [line for line in program.splitlines() if line and not re.match("import|from", line)]
    assert len(lines) <= 10
    with running_etcd(tmp_path) as endpoint:
        code = program.replace("127.0.0.1:2379", endpoint)
        assert code != program
        async with RemoteClient([endpoint]) as client:
            await client.put(b"/app/a", b"1")
            command = [sys.executable, "-u", "-c", code]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
                assert process.stdout is not None
                try:
                    assert told(process.stdout) == "there is a b'1'"
                    await client.put(b"/app/b", b"2")
                    assert told(process.stdout) == "added b b'2'"
                    await client.put(b"/app/b", b"3")
                    assert told(process.stdout) == "changed b b'3'"
                    await client.put(b"/other/b", b"3")
                    await client.delete(b"/app/b")
                    assert told(process.stdout) == "gone b"
                finally:
                    process.send_signal(signal.SIGINT)
                    process.stdout.read()
                    process.wait()


def told(output: IO[str]) -> str:
    """The next line of the program that is not a line of the log."""
    for line in output:
        if not re.search(r"\[(debug|info) ", line):
            return line.rstrip()
    raise AssertionError("the program has ended")


async def test_the_other_pieces_run(client: EmbeddedClient) -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile("\n".join(BLOCKS[1:]), "docs/informer.md", "exec"), names)
    website = names["Website"]
    objects = ObjectClient(client, rng=random.Random(1))
    for name, tier in (("a", "gold"), ("b", "lead"), ("c", "gold")):
        await objects.create(
            website(name=name, namespace="default", labels={"tier": tier}, spec={"image": f"{name}:1"})
        )
    assert await names["images"](client) == ["a:1", "c:1"]
    async with Informers(client) as informers:
        assert await names["scale"](client, informers, "b") == "nginx:2"
        async with informers.use(website):
            assert b'reflector_lists_total{name="websites.example.com"} 1.0' in names["metrics"](informers)
    assert names["lines"]


def test_what_it_points_to_is_there() -> None:
    pointers = set(re.findall(r"`((?:tests|examples|benchmarks)/[\w/]+\.py)`", GUIDE))
    assert len(pointers) > 10
    assert [pointer for pointer in sorted(pointers) if not (ROOT / pointer).exists()] == []
