"""etcd's services without a transport: a parsed request in, encoded bytes out.

`routes` is what a transport serves: the full method name to a `Unary` or a `Stream`. Methods raise `KvError`; the
transport turns that into its status. Nothing here imports grpc.
"""

from kvstore.services.routes import Route, Send, Stream, Unary, routes

__all__ = ["Route", "Send", "Stream", "Unary", "routes"]
