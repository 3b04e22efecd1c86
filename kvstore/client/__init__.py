"""Clients of the store: `EmbeddedClient` calls a node in this process, `RemoteClient` a server over gRPC.

Both follow `kvstore.api.Client`; `connect_sync` and `open_sync` give the same with methods that block, for scripts.
gRPC and protobuf are imported only when a remote client is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvstore.client.embedded import EmbeddedClient
    from kvstore.client.remote import RemoteClient
    from kvstore.client.sync import SyncClient, SyncWatch, connect_sync, open_sync
    from kvstore.client.tls import TLS

__all__ = [
    "TLS",
    "EmbeddedClient",
    "RemoteClient",
    "SyncClient",
    "SyncWatch",
    "connect",
    "connect_sync",
    "open_sync",
]

_HOME_OF = {
    "TLS": "tls",
    "EmbeddedClient": "embedded",
    "RemoteClient": "remote",
    "SyncClient": "sync",
    "SyncWatch": "sync",
    "connect_sync": "sync",
    "open_sync": "sync",
}


def connect(store: str, **options: Any) -> RemoteClient:
    """A client of the servers that `store` names: `etcd://HOST:PORT,HOST:PORT`, or the same without `etcd://`.

    `etcds://` is the same over TLS. `options` are those of `RemoteClient`. Nothing is dialled before the first call.
    Raises `ValueError` for an endpoint that is malformed.
    """
    from kvstore.client.remote import RemoteClient

    encrypted = store.startswith("etcds://")
    endpoints = store.removeprefix("etcds://" if encrypted else "etcd://").split(",")
    return RemoteClient([f"etcds://{each.strip()}" if encrypted else each for each in endpoints], **options)


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"kvstore.client.{home}"), name)
