"""Clients of the store: `EmbeddedClient` calls a node in this process, `RemoteClient` a server over gRPC.

Both follow `kvstore.api.Client`. gRPC and protobuf are imported only when a remote client is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvstore.client.embedded import EmbeddedClient
    from kvstore.client.remote import RemoteClient
    from kvstore.client.tls import TLS

__all__ = ["TLS", "EmbeddedClient", "RemoteClient", "connect"]


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
    if name == "EmbeddedClient":
        from kvstore.client.embedded import EmbeddedClient

        return EmbeddedClient
    if name == "RemoteClient":
        from kvstore.client.remote import RemoteClient

        return RemoteClient
    if name == "TLS":
        from kvstore.client.tls import TLS

        return TLS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
