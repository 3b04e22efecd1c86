"""A watch server you can embed: an MVCC store on LMDB that any etcd v3 client takes for a one-member etcd.

Names are imported when they are first used, so a remote client pays for no database and an embedded store for no gRPC.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvstore.api import (
        Client,
        Compare,
        CompareResult,
        CompareTarget,
        DeleteRange,
        Event,
        EventType,
        KeyValue,
        Put,
        Range,
        SortOrder,
        SortTarget,
        Txn,
        Watch,
        WatchFilter,
        WatchResponse,
        prefix_end,
    )
    from kvstore.client import EmbeddedClient, RemoteClient, SyncClient, connect_sync, open_sync
    from kvstore.errors import (
        AuthFailed,
        Compacted,
        DataDirError,
        FutureRevision,
        KvError,
        NoSpace,
        PermissionDenied,
        Unavailable,
        WatchCanceled,
    )
    from kvstore.node import Node, NodeOptions, NodeStatistics
    from kvstore.permissions import Permission, PermissionType

_NAMES = {
    "api": (
        "Client Compare CompareResult CompareTarget DeleteRange Event EventType KeyValue Put Range SortOrder "
        "SortTarget Txn Watch WatchFilter WatchResponse prefix_end"
    ),
    "client": "EmbeddedClient RemoteClient SyncClient connect_sync open_sync",
    "errors": (
        "AuthFailed Compacted DataDirError FutureRevision KvError NoSpace PermissionDenied Unavailable WatchCanceled"
    ),
    "node": "Node NodeOptions NodeStatistics",
    "permissions": "Permission PermissionType",
}
_HOME_OF = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = [
    "AuthFailed",
    "Client",
    "Compacted",
    "Compare",
    "CompareResult",
    "CompareTarget",
    "DataDirError",
    "DeleteRange",
    "EmbeddedClient",
    "Event",
    "EventType",
    "FutureRevision",
    "KeyValue",
    "KvError",
    "NoSpace",
    "Node",
    "NodeOptions",
    "NodeStatistics",
    "Permission",
    "PermissionDenied",
    "PermissionType",
    "Put",
    "Range",
    "RemoteClient",
    "SortOrder",
    "SortTarget",
    "SyncClient",
    "Txn",
    "Unavailable",
    "Watch",
    "WatchCanceled",
    "WatchFilter",
    "WatchResponse",
    "connect_sync",
    "open_sync",
    "prefix_end",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"kvstore.{home}"), name)
    globals()[name] = value
    return value
