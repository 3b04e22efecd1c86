"""The gRPC edge of a node: `Server` for a node you have opened, `serve` for a whole process."""

from kvstore.server.config import AddressInUse, InvalidListenURL, ListenError, ServeConfig
from kvstore.server.edge import Server
from kvstore.server.serve import serve

__all__ = ["AddressInUse", "InvalidListenURL", "ListenError", "ServeConfig", "Server", "serve"]
