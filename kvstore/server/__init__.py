"""The edges of a node: `Server` for a node you have opened, `serve` for a whole process."""

from kvstore.autocompact import AutoCompaction
from kvstore.server.config import AddressInUse, InvalidListenURL, ListenError, LogConfig, ServeConfig
from kvstore.server.edge import Server
from kvstore.server.serve import serve
from kvstore.server.tls import ServerTLS

__all__ = [
    "AddressInUse",
    "AutoCompaction",
    "InvalidListenURL",
    "ListenError",
    "LogConfig",
    "ServeConfig",
    "Server",
    "ServerTLS",
    "serve",
]
