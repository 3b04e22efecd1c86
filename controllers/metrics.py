"""Managers as Prometheus metrics, under the names of controller-runtime and client-go, so that their dashboards work.

All are read from `statistics()` when they are asked for, on the loop's thread; nothing is kept here. What is told of
one manager is told of several alike, so that a process has one page. Imported only by who wants metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from controllers.controller import ControllerStatistics
from controllers.manager import Manager, ManagerStatistics
from controllers.reconcile import Outcome
from informer.metrics import InformerCollector
from kvstore.histogram import Durations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# controller-runtime's results: a terminal error is an error too.
_RESULTS = {
    "success": (Outcome.SUCCESS,),
    "error": (Outcome.ERROR, Outcome.TERMINAL),
    "requeue": (Outcome.REQUEUE,),
    "requeue_after": (Outcome.REQUEUE_AFTER,),
}
_DEFAULT_PRIORITY = 0

T = TypeVar("T")


class Metrics:
    """The metrics of some managers, in a registry of their own: nothing is shared with the rest of the process.

    lag: seconds that the event loop was late when it was last looked at.
    """

    def __init__(self, managers: Sequence[Manager], lag: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_ManagerCollector(managers, lag))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def text(self) -> bytes:
        """All of them now, in Prometheus' text format."""
        return generate_latest(self._registry)


def merged(parts: Iterable[Mapping[str, T]]) -> dict[str, T]:
    """All of them, each under a name of its own: two managers may each have a controller of one name."""
    result: dict[str, T] = {}
    for part in parts:
        for name, each in part.items():
            unique, number = name, 1
            while unique in result:
                number += 1
                unique = f"{name} #{number}"
            result[unique] = each
    return result


class _ManagerCollector(Collector):
    def __init__(self, managers: Sequence[Manager], lag: Callable[[], float]) -> None:
        self._managers = managers
        self._lag = lag

    def collect(self) -> Iterator[Metric]:
        managers = [manager.statistics() for manager in self._managers]
        controllers = merged(manager.controllers for manager in managers)
        informers = merged(manager.informers for manager in managers)
        yield from _controllers(controllers)
        yield from _queues(controllers)
        yield from _leaders(managers)
        yield from _requests(managers)
        yield from _events(managers)
        yield from InformerCollector(lambda: informers).collect()
        yield GaugeMetricFamily(
            "listwatch_event_loop_lag_seconds", "How late the event loop was when last looked at.", self._lag()
        )


def _controllers(controllers: Mapping[str, ControllerStatistics]) -> Iterator[Metric]:
    prefix, labels = "controller_runtime", ["controller"]
    total = CounterMetricFamily(f"{prefix}_reconcile_total", "Runs by how they ended.", labels=["controller", "result"])
    seconds = HistogramMetricFamily(f"{prefix}_reconcile_time_seconds", "How long runs took.", labels=labels)
    counters: dict[str, tuple[str, Callable[[ControllerStatistics], float]]] = {
        f"{prefix}_reconcile_errors": ("Runs that ended with an error.", _errors),
        f"{prefix}_terminal_reconcile_errors": (
            "Runs that ended with an error that no retry can help.",
            lambda each: each.outcomes[Outcome.TERMINAL.value],
        ),
        f"{prefix}_reconcile_panics": ("Runs that would have ended the program.", lambda each: each.panics),
        f"{prefix}_reconcile_timeouts": ("Runs that took too long.", lambda each: each.timeouts),
        "listwatch_reconcile_conflicts": ("Runs that wrote to what had changed.", lambda each: each.conflicts),
        "listwatch_catch_ups": ("Waits for the caches to show a key's own writes.", lambda each: each.catch_ups),
        "listwatch_catch_up_timeouts": ("Those that took too long.", lambda each: each.catch_up_timeouts),
    }
    gauges: dict[str, tuple[str, Callable[[ControllerStatistics], float]]] = {
        f"{prefix}_max_concurrent_reconciles": ("How many keys at a time at most.", lambda each: each.workers),
        f"{prefix}_active_workers": ("Workers that are busy.", lambda each: each.active),
    }
    for name, each in controllers.items():
        for result, outcomes in _RESULTS.items():
            total.add_metric([name, result], sum(each.outcomes[outcome.value] for outcome in outcomes))
        _add(seconds, [name], each.reconcile_seconds)
    yield from (total, seconds)
    for name, (text, value) in counters.items():
        counter = CounterMetricFamily(name, text, labels=labels)
        for controller, each in controllers.items():
            counter.add_metric([controller], value(each))
        yield counter
    for name, (text, value) in gauges.items():
        gauge = GaugeMetricFamily(name, text, labels=labels)
        for controller, each in controllers.items():
            gauge.add_metric([controller], value(each))
        yield gauge


def _errors(controller: ControllerStatistics) -> float:
    return sum(controller.outcomes[outcome.value] for outcome in _RESULTS["error"])


def _queues(controllers: Mapping[str, ControllerStatistics]) -> Iterator[Metric]:
    labels = ["name", "controller"]
    depth = GaugeMetricFamily("workqueue_depth", "Keys that wait for a worker.", labels=[*labels, "priority"])
    adds = CounterMetricFamily("workqueue_adds_total", "Keys added.", labels=labels)
    retries = CounterMetricFamily("workqueue_retries_total", "Keys to be added later.", labels=labels)
    queued = HistogramMetricFamily(
        "workqueue_queue_duration_seconds", "How long keys waited for a worker.", labels=labels
    )
    worked = HistogramMetricFamily("workqueue_work_duration_seconds", "How long workers had keys.", labels=labels)
    unfinished = GaugeMetricFamily(
        "workqueue_unfinished_work_seconds", "How long workers have had theirs, in all.", labels=labels
    )
    longest = GaugeMetricFamily(
        "workqueue_longest_running_processor_seconds", "How long the slowest one has had its key.", labels=labels
    )
    waiting = GaugeMetricFamily("listwatch_workqueue_waiting", "Keys to be added later.", labels=labels)
    oldest = GaugeMetricFamily(
        "listwatch_workqueue_oldest_seconds", "How long the oldest key has waited for a worker.", labels=labels
    )
    for name, each in controllers.items():
        queue, values = each.queue, [name, name]
        # The default one is always there: a queue that never was longer than nothing has a series, too.
        for priority, keys in ({_DEFAULT_PRIORITY: 0} | dict(queue.depths)).items():
            depth.add_metric([*values, str(priority)], keys)
        adds.add_metric(values, queue.adds)
        retries.add_metric(values, queue.retries)
        _add(queued, values, queue.queued)
        _add(worked, values, queue.worked)
        unfinished.add_metric(values, queue.unfinished_seconds)
        longest.add_metric(values, queue.longest_running_seconds)
        waiting.add_metric(values, queue.waiting)
        oldest.add_metric(values, queue.oldest_seconds)
    yield from (depth, adds, retries, queued, worked, unfinished, longest, waiting, oldest)


def _leaders(managers: Sequence[ManagerStatistics]) -> Iterator[Metric]:
    status = GaugeMetricFamily("leader_election_master_status", "Whether this process is the leader.", labels=["name"])
    leads: dict[str, bool] = {}
    for manager in managers:
        if manager.leader is not None:
            leads[manager.leader.name] = manager.leader.is_leader or leads.get(manager.leader.name, False)
    for name, is_leader in leads.items():
        status.add_metric([name], is_leader)
    yield status


def _requests(managers: Sequence[ManagerStatistics]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "rest_client_requests_total", "What was asked of the store for objects.", labels=["code", "method", "host"]
    )
    counts: Counter[tuple[str, str, str]] = Counter()
    for manager in managers:
        for method, codes in manager.requests.items():
            for code, count in codes.items():
                counts[code, method, manager.store] += count
    for labels, count in counts.items():
        requests.add_metric(labels, count)
    yield requests


def _events(managers: Sequence[ManagerStatistics]) -> Iterator[Metric]:
    events = CounterMetricFamily(
        "listwatch_events_total", "Events recorded, and what became of them.", labels=["result"]
    )
    for result in ("recorded", "throttled", "dropped", "written"):
        events.add_metric([result], sum(getattr(manager.events, result) for manager in managers))
    yield events


def _add(family: HistogramMetricFamily, labels: Sequence[str], durations: Durations) -> None:
    family.add_metric(labels, buckets=durations.cumulative(), sum_value=durations.sum)
