"""etcd's services without a transport: a parsed request in, encoded bytes out.

`routes` is what a transport serves: the full method name to a `Unary` or a `Stream`. Methods raise `KvError`; the
transport turns that into its status. Nothing here imports grpc.

A transport sets `CALLER` to what `caller_from` makes of the request's headers, in the task that serves the call. For a
single request it need not while `Node.auth.enabled` is False. A call without it is one without a user.
"""

from kvstore.services.access import CALLER, caller_from
from kvstore.services.routes import Route, Send, Stream, Unary, routes

__all__ = ["CALLER", "Route", "Send", "Stream", "Unary", "caller_from", "routes"]
