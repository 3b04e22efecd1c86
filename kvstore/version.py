"""The versions that the server reports."""

# Clients, Kubernetes among them, read the server's version to learn what it can do: this is the etcd whose behaviour
# is matched.
SERVER_VERSION = "3.5.21"
CLUSTER_VERSION = "3.5.0"
