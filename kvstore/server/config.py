"""Every setting of the server in one place, and the errors of a setting that cannot work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from kvstore.node import NodeOptions

if TYPE_CHECKING:
    from kvstore.autocompact import AutoCompaction
    from kvstore.server.tls import ServerTLS

MAX_REQUEST_OVERHEAD = 512 * 1024
"""etcd: a message may be this much larger than the largest request it carries."""


class ListenError(Exception):
    """The server cannot listen as it was told to; the text says where and why."""


class InvalidListenURL(ListenError):
    """A listen URL that is malformed or not supported."""


class AddressInUse(ListenError):
    """Another process listens there."""


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What the process logs, how, and where to: `stderr`, `stdout` or the path of a file."""

    level: str = "info"
    form: str = "auto"
    output: str = "stderr"


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """How to serve a data directory.

    HTTP is off unless URLs for it are given, since a port that nobody asked for is not opened. A URL of
    `listen_client_urls` may be one of `listen_client_http_urls`, too: its port serves both. `stop_grace` is how long,
    in seconds, calls under way may take to end when the server stops; watches are ended at once.
    `max_concurrent_streams` is a limit for each connection. `log` is for whoever owns the process.
    """

    data_dir: Path
    listen_client_urls: tuple[str, ...] = ("http://127.0.0.1:2379",)
    advertise_client_urls: tuple[str, ...] = ()
    listen_client_http_urls: tuple[str, ...] = ()
    listen_metrics_urls: tuple[str, ...] = ()
    stop_grace: float = 2.0
    max_concurrent_streams: int = 2**31 - 1
    tls: ServerTLS | None = None
    auto_compaction: AutoCompaction | None = None
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    node: NodeOptions = dataclasses.field(default_factory=NodeOptions)

    @property
    def shared_urls(self) -> tuple[str, ...]:
        """Where both gRPC and HTTP are served. Port 0 names no port, so it is never one and the same."""
        http = {parse_listen_url(url) for url in self.listen_client_http_urls}
        return tuple(
            url
            for url, address in ((url, parse_listen_url(url)) for url in self.listen_client_urls)
            if address.port and address in http
        )


class ListenAddress(NamedTuple):
    """Where to listen; port 0 lets the system choose one."""

    host: str
    port: int
    tls: bool = False

    @property
    def target(self) -> str:
        """The address as gRPC takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as clients are told it."""
        return f"{'https' if self.tls else 'http'}://{self.target}"


def parse_listen_url(url: str) -> ListenAddress:
    """`http://HOST:PORT` or `https://HOST:PORT` as an address. Raises `InvalidListenURL`."""
    example = "expected http://HOST:PORT, such as http://127.0.0.1:2379"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidListenURL(f"invalid listen URL {url!r}: {error}; {example}") from None
    if parts.scheme not in ("http", "https"):
        raise InvalidListenURL(f"invalid listen URL {url!r}: {example}")
    if not parts.hostname or port is None:
        missing = "port" if parts.hostname else "host"
        raise InvalidListenURL(f"invalid listen URL {url!r}: it has no {missing}; {example}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise InvalidListenURL(f"invalid listen URL {url!r}: it has more than a host and a port; {example}")
    return ListenAddress(parts.hostname, port, parts.scheme == "https")
