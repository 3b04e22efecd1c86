"""The real etcdctl's `user`, `role` and `auth` commands against our server and a real etcd: output and exit code."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvstore.node import Node, NodeOptions
from kvstore.server import Server
from tests.etcd_process import running_etcd
from tests.kvstore.test_etcdctl import Etcdctl

ROOT, ANN = "--user=root:pw", "--user=ann:a"

LOG = re.compile(r"^\{.*\}\n", re.MULTILINE)  # the client's own log lines have times and addresses


class Pair:
    """Runs etcdctl on both servers, and compares."""

    def __init__(self, ours: Etcdctl, real: Etcdctl) -> None:
        self._ours = ours
        self._real = real

    async def __call__(self, command: str, stdin: str = "") -> tuple[int, str]:
        """Exit code and output, which are the same."""
        said = []
        for ctl in (self._ours, self._real):
            code, out = await ctl(*command.split(), stdin=stdin)
            said.append((code, LOG.sub("", out)))
        assert said[0] == said[1], command
        return said[0]

    async def done(self, *commands: str) -> None:
        """Each ends well on both."""
        for command in commands:
            code, out = await self(command)
            assert code == 0, (command, out)


@pytest.fixture
async def etcdctl(tmp_path: Path) -> AsyncIterator[Pair]:
    # Not the etcd that other tests share: with authentication enabled it would refuse them.
    options = NodeOptions(fsync=False, bcrypt_cost=4)
    with running_etcd(tmp_path, "--bcrypt-cost=4") as real:
        async with (
            Node.open(tmp_path / "ours", options) as node,
            Server(node, ["http://127.0.0.1:0"]) as server,
        ):
            pair = Pair(Etcdctl(server.client_urls[0].removeprefix("http://")), Etcdctl(real))
            pair._real.prefix = pair._ours.prefix = "/ctl/"
            yield pair


async def enable(etcdctl: Pair) -> None:
    await etcdctl.done(
        "user add root:pw",
        "user grant-role root root",
        "role add r",
        "role grant-permission r readwrite /a/ --prefix",
        "role grant-permission r read /one",
        "user add ann:a",
        "user grant-role ann r",
        "auth enable",
    )


async def test_users(etcdctl: Pair) -> None:
    assert await etcdctl("user add ann:a") == (0, "User ann created\n")
    assert await etcdctl("user add bob --new-user-password=b") == (0, "User bob created\n")
    assert await etcdctl("user add cy --interactive=false", stdin="secret\n") == (0, "User cy created\n")
    assert await etcdctl("user add cert --no-password") == (0, "User cert created\n")
    assert await etcdctl("user list") == (0, "ann\nbob\ncert\ncy\n")
    assert await etcdctl("user get ann") == (0, "User: ann\nRoles:\n")
    code, out = await etcdctl("user add ann:again")
    assert (code, "etcdserver: user name already exists" in out) == (1, True)
    assert await etcdctl("user passwd ann --interactive=false", stdin="new\n") == (0, "Password updated\n")
    assert await etcdctl("user delete cy") == (0, "User cy deleted\n")
    for command in ("user get cy", "user delete cy", "user grant-role cy r", "user revoke-role cy r"):
        code, out = await etcdctl(command)
        assert (code, "etcdserver: user name not found" in out) == (1, True), command
    code, out = await etcdctl("user revoke-role ann r")
    assert (code, "etcdserver: role is not granted to the user" in out) == (1, True)


async def test_roles(etcdctl: Pair) -> None:
    assert await etcdctl("role add r") == (0, "Role r created\n")
    assert (await etcdctl("role add r"))[0] == 1
    assert await etcdctl("role grant-permission r read /key") == (0, "Role r updated\n")
    await etcdctl.done(
        "role grant-permission r write /from --from-key",
        "role grant-permission r readwrite /dir/ --prefix",
        "role grant-permission r readwrite /a /m",
        "role add root",
        "user add ann:a",
    )
    code, out = await etcdctl("role get r")
    assert code == 0
    assert "KV Read:\n\t[/a, /m)\n\t[/dir/, /dir0) (prefix /dir/)\n\t/key\n" in out
    assert (await etcdctl("role get root"))[0] == 0
    assert await etcdctl("role list") == (0, "r\nroot\n")
    assert await etcdctl("user grant-role ann r") == (0, "Role r is granted to user ann\n")
    assert (await etcdctl("user get ann"))[1] == "User: ann\nRoles: r\n"
    assert (await etcdctl("user get ann --detail"))[0] == 0
    assert await etcdctl("role revoke-permission r /key") == (0, "Permission of key /key is revoked from role r\n")
    assert (await etcdctl("role revoke-permission r /dir/ --prefix"))[0] == 0
    for command in ("role revoke-permission r /key", "role get none", "role delete none"):
        assert (await etcdctl(command))[0] == 1
    assert await etcdctl("user revoke-role ann r") == (0, "Role r is revoked from user ann\n")
    assert await etcdctl("role delete r") == (0, "Role r deleted\n")
    assert (await etcdctl("user grant-role ann r"))[0] == 1


async def test_enable_and_disable(etcdctl: Pair) -> None:
    code, out = await etcdctl("auth enable")
    assert (code, "etcdserver: root user does not exist" in out) == (1, True)
    assert await etcdctl("auth status") == (0, "Authentication Status: false\nAuthRevision: 1\n")
    await enable(etcdctl)
    assert await etcdctl(f"{ROOT} auth status") == (0, "Authentication Status: true\nAuthRevision: 8\n")
    assert await etcdctl(f"{ROOT} auth enable") == (0, "Authentication Enabled\n")
    code, out = await etcdctl(f"{ANN} auth disable")
    assert (code, "etcdserver: permission denied" in out) == (1, True)
    code, out = await etcdctl("auth disable")
    assert (code, "etcdserver: user name is empty" in out) == (1, True)
    assert await etcdctl(f"{ROOT} auth disable") == (0, "Authentication Disabled\n")
    assert await etcdctl("put /any thing") == (0, "OK\n")
    assert await etcdctl("auth status") == (0, "Authentication Status: false\nAuthRevision: 9\n")


async def test_keys(etcdctl: Pair) -> None:
    await enable(etcdctl)
    for command in (
        f"{ROOT} put /one 1",
        f"{ROOT} put /secret 2",
        f"{ANN} put /a/x 3",
        f"{ANN} get /a/ --prefix",
        f"{ANN} get /one",
        f"{ANN} put /a/x 4 --prev-kv",
        f"{ANN} del /a/x --prev-kv",
        "--user=ann --password=a get /one",
        f"{ANN} user get ann",
        f"{ANN} role get r",
    ):
        assert (await etcdctl(command))[0] == 0, command
    for command in (
        f"{ANN} get /secret",
        f"{ANN} get / --prefix",
        f"{ANN} get /one --from-key",
        f"{ANN} put /one 5",
        f"{ANN} del /a --from-key",
        f"{ANN} user list",
        f"{ANN} user get root",
        f"{ANN} role get root",
        f"{ANN} role add x",
        f"{ANN} member remove 1",
        "get /one",
        "put /one 1",
        "--user=ann:wrong get /one",
        "--user=none:x get /one",
        f"{ROOT} user delete root",
        f"{ROOT} user revoke-role root root",
    ):
        code, out = await etcdctl(command)
        assert code != 0, command
        assert "etcdserver: " in out, (command, out)
    code, out = await etcdctl(f"{ANN} watch /secret")
    assert (code, "PermissionDenied" in out) == (5, True)
    script = 'value("/a/x") = "3"\n\nput /a/y 1\n\nget /one\n\n'
    assert (await etcdctl(f"{ANN} txn", stdin=script))[0] == 0
    for script in (
        'value("/secret") = "3"\n\nput /a/y 1\n\n\n',
        'value("/a/x") = "3"\n\nput /a/y 1\n\nget /secret\n\n',
    ):
        code, out = await etcdctl(f"{ANN} txn", stdin=script)
        assert (code, "etcdserver: permission denied" in out) == (1, True)


async def test_endpoint_health_of_a_user_who_may_not_read_it(etcdctl: Pair) -> None:
    await enable(etcdctl)
    for ctl in (etcdctl._ours, etcdctl._real):
        code, out = await ctl(ANN, "endpoint", "health")
        assert (code, "is healthy" in out) == (0, True)
