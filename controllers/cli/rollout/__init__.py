"""`listwatch rollout`: the life of the revisions of Deployments, StatefulSets and DaemonSets."""
