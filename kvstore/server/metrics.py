"""The numbers of a server under etcd's names, in Prometheus' text format, so that etcd's dashboards and alerts work.

All are read from `statistics()` when they are asked for; nothing is kept here. What a one-member server without raft
has no counterpart for is told as a one-member etcd at rest tells it (one leader, no failed heartbeats), or left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from kvstore.node import Node, NodeStatistics
from kvstore.server.calls import MethodStatistics
from kvstore.server.edge import Server
from kvstore.version import CLUSTER_VERSION, SERVER_VERSION

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_CODES = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)
"""gRPC status code -> its name as Go's gRPC metrics write it."""


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, node: Node, server: Server) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_NodeCollector(node))
        self._registry.register(_CallCollector(server))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All of them now."""
        return generate_latest(self._registry)


class _NodeCollector(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        statistics = self._node.statistics()
        yield from self._member(statistics)
        yield from _storage(statistics)
        yield from _watching(statistics)
        yield from _leases(statistics)

    def _member(self, statistics: NodeStatistics) -> Iterator[Metric]:
        node, store = self._node, statistics.store
        yield GaugeMetricFamily("etcd_server_has_leader", "Whether there is a leader: always, with one member.", 1)
        yield GaugeMetricFamily("etcd_server_is_leader", "Whether this member leads.", 1)
        yield GaugeMetricFamily("etcd_server_is_learner", "Whether this member is a learner.", 0)
        yield CounterMetricFamily("etcd_server_leader_changes_seen_total", "Elections seen: that of the start.", 1)
        yield CounterMetricFamily("etcd_server_heartbeat_send_failures_total", "Failed heartbeats: none are sent.", 0)
        # Gauges in etcd too, in spite of their names.
        yield GaugeMetricFamily(
            "etcd_server_proposals_committed_total",
            "The revision that is on disk: there is no raft log.",
            store.revision,
        )
        yield GaugeMetricFamily("etcd_server_proposals_applied_total", "The revision that readers see.", store.revision)
        yield GaugeMetricFamily("etcd_server_proposals_pending", "Writes that wait for the disk.", store.pending_writes)
        yield CounterMetricFamily("etcd_server_proposals_failed_total", "Commits that failed.", store.failed_commits)
        yield GaugeMetricFamily(
            "etcd_server_quota_backend_bytes", "How large the data may grow.", node.options.quota_bytes
        )
        yield GaugeMetricFamily(
            "etcd_debugging_auth_revision", "How often users and roles changed.", statistics.auth.revision
        )
        yield _labelled(
            "etcd_server_version", "The version whose behaviour is served.", "server_version", SERVER_VERSION
        )
        yield _labelled("etcd_cluster_version", "The version of the cluster.", "cluster_version", CLUSTER_VERSION)
        yield _labelled("etcd_server_id", "The member's id.", "server_id", f"{node.member_id:x}")


def _storage(statistics: NodeStatistics) -> Iterator[Metric]:
    store = statistics.store
    yield GaugeMetricFamily("etcd_mvcc_db_total_size_in_bytes", "Bytes that the database takes.", store.db_size)
    yield GaugeMetricFamily(
        "etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the database in use.", store.db_size_in_use
    )
    yield GaugeMetricFamily(
        "etcd_debugging_mvcc_keys_total", "Keys, the deleted ones until they are compacted.", store.keys
    )
    yield GaugeMetricFamily("etcd_debugging_mvcc_current_revision", "The store's revision.", store.revision)
    yield GaugeMetricFamily(
        "etcd_debugging_mvcc_compact_revision", "The last compaction; -1 for none.", store.compact_revision
    )
    for kind, told, number in (
        ("put", "Keys written.", store.puts),
        ("delete", "Deletions of keys or ranges of them.", store.deletes),
        ("range", "Reads of keys or ranges of them.", store.ranges),
        ("txn", "Transactions.", store.txns),
    ):
        yield CounterMetricFamily(f"etcd_mvcc_{kind}_total", told, number)
        yield CounterMetricFamily(f"etcd_debugging_mvcc_{kind}_total", told, number)
    # One fsync makes a commit durable: what etcd splits between its log and its database is one thing here.
    told = "Seconds of a commit to LMDB, its fsync included; also under the other of the two names."
    for name in ("etcd_disk_wal_fsync_duration_seconds", "etcd_disk_backend_commit_duration_seconds"):
        histogram = store.commit_seconds
        yield HistogramMetricFamily(name, told, buckets=histogram.cumulative(), sum_value=histogram.sum)


def _watching(statistics: NodeStatistics) -> Iterator[Metric]:
    watch = statistics.watch
    watchers = watch.synced + watch.unsynced + watch.victims
    yield GaugeMetricFamily("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", watch.streams)
    yield GaugeMetricFamily("etcd_debugging_mvcc_watcher_total", "Watchers.", watchers)
    states = GaugeMetricFamily("listwatch_watchers", "Watchers by state.", labels=["state"])
    for state, number in (("synced", watch.synced), ("unsynced", watch.unsynced), ("victims", watch.victims)):
        states.add_metric([state], number)
    yield states
    yield GaugeMetricFamily(
        "etcd_debugging_mvcc_slow_watcher_total", "Watchers that are behind.", watch.unsynced + watch.victims
    )
    yield GaugeMetricFamily(
        "etcd_debugging_mvcc_pending_events_total", "Events that wait for their readers.", watch.pending_events
    )
    yield CounterMetricFamily("etcd_debugging_mvcc_events_total", "Events sent to watchers.", watch.delivered_events)


def _leases(statistics: NodeStatistics) -> Iterator[Metric]:
    yield GaugeMetricFamily("listwatch_leases", "Leases that are alive.", statistics.leases)


class _CallCollector(Collector):
    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        labels = ("grpc_type", "grpc_service", "grpc_method")
        started = CounterMetricFamily("grpc_server_started_total", "Calls begun.", labels=labels)
        handled = CounterMetricFamily("grpc_server_handled_total", "Calls ended.", labels=(*labels, "grpc_code"))
        received = CounterMetricFamily("grpc_server_msg_received_total", "Messages received.", labels=labels)
        sent = CounterMetricFamily("grpc_server_msg_sent_total", "Messages sent.", labels=labels)
        methods = self._server.statistics()
        for method in methods:
            where = (method.type, method.service, method.method)
            started.add_metric(where, method.started)
            received.add_metric(where, method.messages_received)
            sent.add_metric(where, method.messages_sent)
            for code, number in _handled(method):
                handled.add_metric((*where, _CODES[code]), number)
        yield from (started, handled, received, sent)
        yield CounterMetricFamily(
            "etcd_network_client_grpc_received_bytes_total",
            "Bytes of messages from clients.",
            sum(method.bytes_received for method in methods),
        )
        yield CounterMetricFamily(
            "etcd_network_client_grpc_sent_bytes_total",
            "Bytes of messages to clients.",
            sum(method.bytes_sent for method in methods),
        )


def _handled(method: MethodStatistics) -> Iterator[tuple[int, int]]:
    # As in etcd all are there from the start: a rate over a series that has only just begun misses its first calls.
    yield from (dict.fromkeys(range(len(_CODES)), 0) | method.handled).items()


def _labelled(name: str, told: str, label: str, value: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, told, labels=[label])
    family.add_metric([value], 1)
    return family
