"""etcd's protocol buffers: our own .proto files, and their message classes in `kvstore.proto.messages`."""

FILES = (
    "kv.proto",
    "auth.proto",
    "rpc.proto",
    "v3lock.proto",
    "v3election.proto",
    "health.proto",
    "reflection.proto",
    "reflection_v1alpha.proto",
)
"""The .proto files, in the order of their imports. A message whose name is there already is left to the pool."""
