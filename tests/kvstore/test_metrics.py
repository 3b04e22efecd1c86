"""The metrics: etcd's names, in a form that Prometheus reads, with numbers that follow what is done."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeAlias

import aiohttp
import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kvstore.api import Compare, CompareResult, CompareTarget, DeleteRange, Put, Range
from kvstore.client import RemoteClient
from kvstore.errors import KvError
from kvstore.node import Node
from kvstore.server import Server
from kvstore.server.http import HttpServer

Series: TypeAlias = dict[tuple[str, tuple[tuple[str, str], ...]], float]
Scrape: TypeAlias = Callable[[], Coroutine[Any, Any, Series]]

# What the dashboard that etcd publishes asks for, and its alerts, but for what only a cluster with peers has.
DASHBOARD = """
sum(etcd_server_has_leader{})
sum(rate(grpc_server_started_total{grpc_type="unary"}[5m]))
sum(rate(grpc_server_handled_total{grpc_type="unary",grpc_code=~"Unknown|FailedPrecondition|ResourceExhausted|Internal|Unavailable|DataLoss|DeadlineExceeded"}[5m]))
sum(grpc_server_started_total{grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"})
sum(grpc_server_handled_total{grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"})
sum(grpc_server_started_total{grpc_service="etcdserverpb.Lease",grpc_type="bidi_stream"})
sum(grpc_server_handled_total{grpc_service="etcdserverpb.Lease",grpc_type="bidi_stream"})
etcd_mvcc_db_total_size_in_bytes{}
etcd_mvcc_db_total_size_in_use_in_bytes{} / etcd_server_quota_backend_bytes{}
histogram_quantile(0.99, sum(rate(etcd_disk_wal_fsync_duration_seconds_bucket{}[5m])) by (instance, le))
histogram_quantile(0.99, sum(rate(etcd_disk_backend_commit_duration_seconds_bucket{}[5m])) by (instance, le))
process_resident_memory_bytes{}
process_open_fds{} / process_max_fds{}
process_cpu_seconds_total{}
process_start_time_seconds{}
rate(etcd_network_client_grpc_received_bytes_total{}[5m])
rate(etcd_network_client_grpc_sent_bytes_total{}[5m])
sum(rate(etcd_server_proposals_failed_total{}[5m]))
sum(etcd_server_proposals_pending{})
sum(rate(etcd_server_proposals_committed_total{}[5m]))
sum(rate(etcd_server_proposals_applied_total{}[5m]))
changes(etcd_server_leader_changes_seen_total{}[1d])
etcd_server_is_leader{}
etcd_server_version{}
etcd_debugging_mvcc_keys_total{} + etcd_debugging_mvcc_watcher_total{} + etcd_debugging_mvcc_slow_watcher_total{}
rate(etcd_debugging_mvcc_events_total{}[5m]) + etcd_debugging_mvcc_pending_events_total{}
rate(etcd_mvcc_put_total{}[5m]) + rate(etcd_mvcc_delete_total{}[5m]) + rate(etcd_mvcc_range_total{}[5m])
rate(etcd_mvcc_txn_total{}[5m]) + rate(grpc_server_msg_sent_total{grpc_type="unary"}[5m])
rate(grpc_server_msg_received_total{grpc_type="unary"}[5m])
grpc_server_started_total{grpc_service="etcdserverpb.Maintenance",grpc_method="Snapshot",grpc_type="server_stream"}
"""
SELECTOR = re.compile(r"([a-z_0-9]+)\{([^}]*)\}")


@pytest.fixture
async def scrape(node: Node, server: Server) -> AsyncIterator[Scrape]:
    async with (
        HttpServer(node, server, metrics_urls=["http://127.0.0.1:0"], stop_grace=0.5) as http,
        aiohttp.ClientSession() as session,
    ):

        async def scrape() -> Series:
            async with session.get(http.metrics_urls[0] + "/metrics") as response:
                assert response.content_type == "text/plain"
                return parsed(await response.text())

        yield scrape


def parsed(text: str) -> Series:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(series: Series, name: str, **labels: str) -> float:
    return sum(value for (each, has), value in series.items() if each == name and labels.items() <= dict(has).items())


@pytest.mark.parametrize("query", [line for line in DASHBOARD.splitlines() if line])
async def test_the_dashboards_queries_find_their_series(node: Node, scrape: Scrape, query: str) -> None:
    await node.put(Put(b"a", b"1"))
    series = await scrape()
    selectors = SELECTOR.findall(query)
    assert selectors
    for name, labels in selectors:
        wanted = re.findall(r'(\w+)=~?"([^"]*)"', labels)
        for values in itertools.product(*(value.split("|") for _, value in wanted)):
            has = {label: value for (label, _), value in zip(wanted, values, strict=True)}
            assert any(each == name and has.items() <= dict(found).items() for each, found in series), (name, has)


async def test_what_a_member_tells_from_its_start_on_is_told_here(etcd: str, scrape: Scrape) -> None:
    """Every series of etcd's that its dashboard and alerts read, with all of its labels."""
    names = {name for name, _ in SELECTOR.findall(DASHBOARD)} - {"etcd_server_version"}  # its label is the version
    async with aiohttp.ClientSession() as session, session.get(f"http://{etcd}/metrics") as response:
        theirs = {series for series in parsed(await response.text()) if series[0] in names}
    assert {name for name, _ in theirs} == names
    assert not theirs - (await scrape()).keys()


async def test_every_name_of_etcds_has_etcds_type(etcd: str, node: Node, server: Server) -> None:
    async with (
        HttpServer(node, server, metrics_urls=["http://127.0.0.1:0"]) as http,
        aiohttp.ClientSession() as session,
        session.get(f"http://{etcd}/metrics") as theirs_,
        session.get(f"{http.metrics_urls[0]}/metrics") as mine_,
    ):
        theirs, mine = types(await theirs_.text()), types(await mine_.text())
    ours_alone = {
        "listwatch_leases",
        "listwatch_watchers",
        # Of etcd before 3.5 and of dashboards for it; 3.5.1 has these without "debugging".
        "etcd_debugging_mvcc_put_total",
        "etcd_debugging_mvcc_delete_total",
        "etcd_debugging_mvcc_txn_total",
    }
    assert mine.keys() - theirs.keys() <= ours_alone
    assert {name: kind for name, kind in mine.items() if theirs.get(name, kind) != kind} == {}


def types(text: str) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


async def test_the_numbers_follow_what_is_done(node: Node, endpoint: str, scrape: Scrape) -> None:
    before = await scrape()
    async with RemoteClient([endpoint]) as client, client.watch(b"k", b"l") as watch:
        for number in range(5):
            await client.put(b"k%d" % number, b"v" * 1000)
        await client.delete(b"k0")
        await client.range(Range(b"k", b"l"))
        await client.txn(
            [Compare(b"k1", CompareTarget.VERSION, CompareResult.EQUAL, 1)],
            [Put(b"k1", b"x"), Put(b"k2", b"x"), DeleteRange(b"k3")],
        )
        seen = 0
        while seen < 9:
            seen += len((await anext(watch)).events)
        with pytest.raises(KvError):
            await client.put(b"", b"")
        during = await scrape()

    def grown(name: str, **labels: str) -> float:
        return total(during, name, **labels) - total(before, name, **labels)

    put = {"grpc_service": "etcdserverpb.KV", "grpc_method": "Put"}
    assert grown("grpc_server_started_total", **put) == 6
    assert grown("grpc_server_handled_total", grpc_code="OK", **put) == 5
    assert grown("grpc_server_handled_total", grpc_code="InvalidArgument", **put) == 1
    assert grown("grpc_server_msg_received_total", **put) == 6
    assert grown("grpc_server_msg_sent_total", **put) == 5
    assert grown("grpc_server_started_total", grpc_service="etcdserverpb.Watch") == 1
    assert grown("grpc_server_handled_total", grpc_service="etcdserverpb.Watch") == 0
    assert grown("etcd_network_client_grpc_received_bytes_total") > 5000
    assert grown("etcd_network_client_grpc_sent_bytes_total") > 5000
    assert grown("etcd_mvcc_put_total") == 7
    assert grown("etcd_mvcc_delete_total") == 2
    assert grown("etcd_mvcc_range_total") == 1
    assert grown("etcd_mvcc_txn_total") == 1
    assert grown("etcd_debugging_mvcc_keys_total") == 5  # the deleted ones until a compaction
    assert grown("etcd_debugging_mvcc_watcher_total") == 1
    assert grown("etcd_debugging_mvcc_events_total") == 9
    assert grown("etcd_server_proposals_committed_total") == 7
    assert grown("etcd_disk_wal_fsync_duration_seconds_count") == grown(
        "etcd_disk_backend_commit_duration_seconds_count"
    )
    assert 7 >= grown("etcd_disk_backend_commit_duration_seconds_count") >= 3
    assert total(during, "etcd_server_quota_backend_bytes") == 2 << 30
    assert total(during, "etcd_server_proposals_pending") == 0
    size, in_use = node.db_size()
    assert total(during, "etcd_mvcc_db_total_size_in_bytes") == size
    assert total(during, "etcd_mvcc_db_total_size_in_use_in_bytes") == in_use


async def test_a_histogram_is_cumulative(node: Node, scrape: Scrape) -> None:
    await node.put(Put(b"a", b"1"))
    series = await scrape()
    buckets = [
        (float(dict(labels)["le"]), value)
        for (name, labels), value in series.items()
        if name == "etcd_disk_backend_commit_duration_seconds_bucket"
    ]
    assert [bound for bound, _ in buckets][:3] == [0.001, 0.002, 0.004]
    assert len(buckets) == 15
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert buckets[-1] == (float("inf"), total(series, "etcd_disk_backend_commit_duration_seconds_count"))


async def test_the_global_registry_is_left_alone(scrape: Scrape) -> None:
    await scrape()
    assert b"etcd_" not in prometheus_client.generate_latest()
