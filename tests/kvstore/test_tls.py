"""TLS: on gRPC and HTTP, with and without client certificates, for our client, etcdctl and HTTP clients."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import etcd3gw
import pytest

from controllers.errors import StoreError
from controllers.stores import open_store
from kvstore.client import TLS, RemoteClient, connect
from kvstore.errors import PermissionDenied, Unavailable
from kvstore.node import Node
from kvstore.server import InvalidListenURL, ListenError, Server, ServerTLS
from kvstore.server.http import HttpServer
from tests.etcd_process import ETCDCTL
from tests.kvstore.certificates import Authority

LOCAL = "https://127.0.0.1:0"
DIAL = 2.0  # seconds


class Files:
    """The certificates of a test."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.stranger = Authority(directory, "stranger")
        self.server = self.authority.server()
        self.alice = self.authority.client("alice")
        self.mallory = self.stranger.client("mallory")

    def one_way(self) -> ServerTLS:
        return ServerTLS(*self.server)

    def both_ways(self) -> ServerTLS:
        return ServerTLS(*self.server, self.authority.file, client_cert_auth=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def served(node: Node, tls: ServerTLS) -> AsyncIterator[str]:
    async with Server(node, [LOCAL], tls=tls) as server:
        (url,) = server.client_urls
        assert url.startswith("https://127.0.0.1:")
        yield url


async def test_a_client_that_knows_the_authority(node: Node, files: Files) -> None:
    tls = TLS(ca_file=files.authority.file)
    async with served(node, files.one_way()) as url:
        address = url.removeprefix("https://")
        for endpoint in (url, address, f"etcds://{address}"):
            async with RemoteClient([endpoint], tls=tls) as client, client.watch(b"a") as watch:
                await client.put(b"a", b"1")
                assert (await anext(watch)).events[0].kv.value == b"1"
                assert (await client.member_list()).members[0].client_urls == [url]
        async with connect(f"etcds://{address},{address}", tls=tls) as client:
            kv = await client.get(b"a")
            assert kv is not None


async def test_clients_that_are_not_let_in(node: Node, files: Files) -> None:
    async with served(node, files.both_ways()) as url:
        plain = f"http://{url.removeprefix('https://')}"
        refused = [
            RemoteClient([url], dial_timeout=DIAL),  # the system's authorities do not know the server
            RemoteClient([url], tls=TLS(ca_file=files.stranger.file), dial_timeout=DIAL),
            RemoteClient([url], tls=TLS(ca_file=files.authority.file), dial_timeout=DIAL),  # no certificate
            RemoteClient([url], tls=TLS(files.authority.file, *files.mallory), dial_timeout=DIAL),
            RemoteClient([plain], dial_timeout=DIAL),
        ]
        for each in refused:
            async with each:
                with pytest.raises(Unavailable):
                    await each.put(b"a", b"1")
        async with RemoteClient([url], tls=TLS(files.authority.file, *files.alice)) as client:
            await client.put(b"a", b"2")
        assert node.revision == 2


async def test_a_named_authority_is_enough_to_ask_for_certificates(node: Node, files: Files) -> None:
    async with served(node, ServerTLS(*files.server, files.authority.file)) as url:
        async with RemoteClient([url], tls=TLS(ca_file=files.authority.file), dial_timeout=DIAL) as client:
            with pytest.raises(Unavailable):
                await client.get(b"a")
        async with RemoteClient([url], tls=TLS(files.authority.file, *files.alice)) as client:
            assert await client.get(b"a") is None


async def test_etcdctl(node: Node, files: Files) -> None:
    async with served(node, files.both_ways()) as url:
        cert, key = files.alice
        flags = [f"--endpoints={url}", f"--cacert={files.authority.file}", f"--cert={cert}", f"--key={key}"]
        assert await etcdctl(*flags, "put", "a", "1") == (0, "OK\n")
        assert await etcdctl(*flags, "get", "a") == (0, "a\n1\n")
        code, out = await etcdctl(*flags, "endpoint", "health")
        assert code == 0
        assert "is healthy" in out
        code, _ = await etcdctl(*flags[:2], "--command-timeout=2s", "--dial-timeout=1s", "put", "a", "2")
        assert code != 0
    assert node.revision == 2


async def etcdctl(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        str(ETCDCTL),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"ETCDCTL_API": "3"},
    )
    try:
        async with asyncio.timeout(20):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_http(node: Node, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests prefers them to what a session is told
        monkeypatch.delenv(name, raising=False)
    trusting = ssl.create_default_context(cafile=files.authority.file)
    known = ssl.create_default_context(cafile=files.authority.file)
    known.load_cert_chain(*files.alice)
    async with (
        Server(node, ["http://127.0.0.1:0"]) as server,
        HttpServer(
            node, server, client_urls=[LOCAL], metrics_urls=["http://127.0.0.1:0"], tls=files.both_ways()
        ) as http,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
    ):
        (url,) = http.client_urls
        async with session.get(f"{url}/version", ssl=known) as response:
            assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            async with session.get(f"{url}/version", ssl=trusting) as response:
                await response.read()
        async with session.get(f"{http.metrics_urls[0]}/health") as response:  # http stays http
            assert response.status == 200
        await asyncio.to_thread(use_etcd3gw, int(url.rpartition(":")[2]), files)


def use_etcd3gw(port: int, files: Files) -> None:
    cert, key = map(str, files.alice)
    client = etcd3gw.client(
        "127.0.0.1", port, protocol="https", ca_cert=str(files.authority.file), cert_cert=cert, cert_key=key, timeout=10
    )
    try:
        assert client.put("/tls", "1")
        assert client.get("/tls") == [b"1"]
    finally:
        client.session.close()


async def test_the_command_lines_store(node: Node, files: Files) -> None:
    async with served(node, files.both_ways()) as url:
        store = f"etcds://{url.removeprefix('https://')}"
        cert, key = map(str, files.alice)
        environ = {"ETCDCTL_CACERT": str(files.authority.file), "ETCDCTL_CERT": cert, "ETCDCTL_KEY": key}
        async with open_store(store, environ=environ) as client:
            await client.put(b"a", b"1")
        with pytest.raises(StoreError, match="only one of the two was given"):
            async with open_store(store, environ=environ | {"ETCDCTL_KEY": ""}):
                pass
        with pytest.raises(StoreError, match=r"cannot read the TLS file /no/such\.pem: No such file"):
            async with open_store(store, environ={"ETCDCTL_CACERT": "/no/such.pem"}):
                pass


async def test_files_that_cannot_be_used(node: Node, files: Files, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    cert, key = files.server
    missing = tmp_path / "missing.pem"
    for tls, says in (
        (ServerTLS(missing, key), f"cannot read the TLS file {missing}: No such file or directory"),
        (ServerTLS(cert, nonsense), "cannot use the TLS files"),
        (ServerTLS(nonsense, key), "cannot use the TLS files"),
        (ServerTLS(cert, files.alice[1]), "cannot use the TLS files"),  # a key of another certificate
        (ServerTLS(cert, key, nonsense), "cannot use the TLS files"),
        (ServerTLS(cert, key, None, client_cert_auth=True), "needs a --trusted-ca-file"),
    ):
        with pytest.raises(ListenError) as caught:
            await Server(node, [LOCAL], tls=tls).start()
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidListenURL, match="https needs a --cert-file"):
        Server(node, [LOCAL])
    with pytest.raises(ValueError, match="cannot read the TLS file"):
        RemoteClient(["https://127.0.0.1:1"], tls=TLS(missing))


async def test_the_common_name_of_a_certificate_is_the_user(node: Node, files: Files) -> None:
    known = ssl.create_default_context(cafile=files.authority.file)
    known.load_cert_chain(*files.alice)
    tls = files.both_ways()
    async with (
        Server(node, [LOCAL], tls=tls) as server,
        HttpServer(node, server, client_urls=[LOCAL], tls=tls) as http,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
    ):
        cert, key = files.alice
        flags = [
            f"--endpoints={server.client_urls[0]}",
            f"--cacert={files.authority.file}",
            f"--cert={cert}",
            f"--key={key}",
        ]
        for command in (
            "user add root:secret",
            "role add root",
            "user grant-role root root",
            "user add alice --no-password",
            "role add r",
            "role grant-permission r readwrite mine",
            "user grant-role alice r",
            "auth enable",
        ):
            code, out = await etcdctl(*flags, *command.split())
            assert code == 0, (command, out)
        async with RemoteClient(server.client_urls, tls=TLS(files.authority.file, *files.alice)) as client:
            await client.put(b"mine", b"1")
            with pytest.raises(PermissionDenied):
                await client.put(b"others", b"1")
            async with client.watch(b"mine") as watch:
                await client.put(b"mine", b"2")
                assert (await anext(watch)).events[0].kv.value == b"2"
        # Over HTTP it does not count, as in etcd: only a token does.
        async with session.post(f"{http.client_urls[0]}/v3/kv/range", data=b'{"key":"YQ=="}', ssl=known) as response:
            assert (await response.json())["message"] == "etcdserver: user name is empty"
