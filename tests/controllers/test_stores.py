"""Which store a name stands for, and the one line that says why it cannot be opened."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from controllers import stores
from controllers.errors import StoreError, StoreInUse
from controllers.stores import STARTING_UP, Directory, LocalDefault, Location, Servers, locate, open_store
from kvstore.client.embedded import EmbeddedClient
from kvstore.client.remote import RemoteClient
from kvstore.errors import Compacted, NoSpace
from kvstore.node import Node
from kvstore.server import Server


@pytest.mark.parametrize(
    ("name", "environ", "location"),
    [
        ("etcd://a:1,b:2", {}, Servers("etcd://a:1,b:2")),
        ("/data", {}, Directory(Path("/data"))),
        ("./data", {}, Directory(Path("data"))),
        ("file:data", {}, Directory(Path("data"))),
        ("data", {"LISTWATCH_STORE": "etcd://a:1"}, Directory(Path("data"))),
        (None, {"LISTWATCH_STORE": "etcd://a:1"}, Servers("etcd://a:1")),
        (None, {"LISTWATCH_STORE": "", "HOME": "/h"}, LocalDefault(Path("/h/.local/share/listwatch/default"))),
        (None, {"XDG_DATA_HOME": "/x", "HOME": "/h"}, LocalDefault(Path("/x/listwatch/default"))),
    ],
)
def test_what_a_name_stands_for(name: str | None, environ: dict[str, str], location: Location) -> None:
    assert locate(name, environ) == location


@pytest.mark.parametrize("name", ["localhost:2379", "a:1,b:2", "[::1]:2379", "http://a:1", "https://a:1"])
def test_an_address_without_its_scheme_is_told_how_to_be_written(name: str) -> None:
    with pytest.raises(StoreError, match="write etcd://"):
        locate(name, {})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_an_embedded_store_that_was_full_goes_on_when_there_is_room(tmp_path: Path) -> None:
    async with Node.open(tmp_path / "data") as node:
        await node.maintenance.alarms.out_of_space()
    async with Node.open(tmp_path / "data") as node:
        client = EmbeddedClient(node)
        with pytest.raises(NoSpace):
            await client.put(b"k", b"v")
        await client.close()
    async with open_store(str(tmp_path / "data")) as opened:
        await opened.put(b"k", b"v")


async def test_an_embedded_store_keeps_its_data_and_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "data"
    async with open_store(str(directory)) as client:
        assert isinstance(client, EmbeddedClient)
        await client.put(b"k", b"v")
    assert directory.stat().st_mode & 0o777 == 0o700
    async with open_store(f"file:{directory}") as client:
        kv = await client.get(b"k")
        assert kv is not None
        assert kv.value == b"v"


async def test_a_directory_in_use_is_one_clear_line(tmp_path: Path) -> None:
    async with open_store(str(tmp_path)):
        with pytest.raises(StoreError, match=r"is in use by process \d+; stop it.*etcd://127\.0\.0\.1:2379") as error:
            async with open_store(str(tmp_path)):
                pass
    assert "\n" not in str(error.value)


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="data directory"):
        async with open_store(str(tmp_path / "file" / "data")):
            pass


async def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    port = free_port()
    with pytest.raises(StoreError, match=rf"127\.0\.0\.1:{port}") as error:
        async with open_store(f"etcd://127.0.0.1:{port}"):
            pass
    assert "\n" not in str(error.value)


async def test_a_server_that_comes_up_meanwhile_is_found(tmp_path: Path) -> None:
    local = f"127.0.0.1:{free_port()}"

    async def connect() -> None:
        async with open_store(f"etcd://{local}", connect_timeout=20) as client:
            await client.put(b"k", b"v")

    connecting = asyncio.create_task(connect())
    await asyncio.sleep(0.2)
    assert not connecting.done()
    async with open_store(str(tmp_path), local=local, serve=True) as client:
        await connecting
        assert await client.get(b"k") is not None


async def test_a_malformed_endpoint_is_a_store_error() -> None:
    with pytest.raises(StoreError, match="etcd://:::"):
        async with open_store("etcd://:::"):
            pass


async def test_the_default_is_the_local_server_if_it_answers_else_the_data_directory(tmp_path: Path) -> None:
    environ, local = {"XDG_DATA_HOME": str(tmp_path)}, f"127.0.0.1:{free_port()}"
    async with open_store(environ=environ, local=local, serve=True) as first:
        assert isinstance(first, EmbeddedClient)
        await first.put(b"k", b"v")
        async with open_store(environ=environ, local=local) as second:
            assert isinstance(second, RemoteClient)
            kv = await second.get(b"k")
            assert kv is not None
            assert kv.value == b"v"
    assert (tmp_path / "listwatch" / "default").is_dir()


async def test_a_taken_port_is_said_and_the_store_goes_on(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        local = f"127.0.0.1:{taken.getsockname()[1]}"
        with structlog.testing.capture_logs() as logs:
            async with open_store(str(tmp_path), local=local, serve=True) as client:
                await client.put(b"k", b"v")
    (warning,) = [entry for entry in logs if entry["event"] == "store_not_served"]
    assert local in warning["reason"]


def test_an_embedded_store_never_imports_grpc(tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
from controllers import Manager
async def main():
    async with Manager({str(tmp_path)!r}):
        pass
asyncio.run(main())
assert "grpc" not in sys.modules and "google.protobuf" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


async def test_the_default_waits_for_a_server_that_has_the_directory_and_is_about_to_listen(tmp_path: Path) -> None:
    environ, local = {"XDG_DATA_HOME": str(tmp_path)}, f"127.0.0.1:{free_port()}"
    async with Node.open(tmp_path / "listwatch" / "default") as node:

        async def late_comer() -> bool:
            async with open_store(environ=environ, local=local) as client:
                return isinstance(client, RemoteClient)

        coming = asyncio.create_task(late_comer())
        await asyncio.sleep(0.2)
        assert not coming.done()
        async with Server(node, [f"http://{local}"]):
            assert await coming


@pytest.mark.virtual_time
async def test_the_default_gives_up_on_a_directory_that_stays_in_use(tmp_path: Path) -> None:
    environ, local = {"XDG_DATA_HOME": str(tmp_path)}, f"127.0.0.1:{free_port()}"
    async with Node.open(tmp_path / "listwatch" / "default"):
        with pytest.raises(StoreInUse, match="in use by process"):
            async with open_store(environ=environ, local=local):
                pass
        assert asyncio.get_running_loop().time() == pytest.approx(STARTING_UP, abs=0.5)


@pytest.mark.virtual_time
async def test_an_embedded_stores_history_stays_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "KEPT_REVISIONS", 5)
    async with open_store(str(tmp_path)) as client:
        for number in range(20):
            await client.put(b"k", b"%d" % number)
        await asyncio.sleep(700)
        with pytest.raises(Compacted):
            await client.get(b"k", revision=10)
        assert await client.get(b"k", revision=17) is not None
