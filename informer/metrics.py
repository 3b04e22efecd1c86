"""Informers as Prometheus metrics, under client-go's names where it has them; the others begin with `listwatch_`.

All are read from `statistics()` when they are asked for; nothing is kept here. Imported only by who wants metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from informer.reflector import Reason, State
from informer.shared import HandlerStatistics, InformerStatistics

_DIGITS = 15  # of a revision, the last ones, as client-go does: all that a float can hold


class InformerCollector(Collector):
    """The informers of `Informers.statistics`, of a manager, or any others, each under its `name`.

    `CollectorRegistry().register(InformerCollector(informers.statistics))`. It is to be collected on the loop's thread.
    """

    def __init__(self, statistics: Callable[[], Mapping[str, InformerStatistics]]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        """All of them now."""
        informers = self._statistics()
        yield from _reflectors(informers)
        yield from _caches(informers)
        yield from _handlers(informers)


def _reflectors(informers: Mapping[str, InformerStatistics]) -> Iterator[Metric]:
    lists = CounterMetricFamily("reflector_lists_total", "Lists that were completed.", labels=["name"])
    watches = CounterMetricFamily("reflector_watches_total", "Watches opened.", labels=["name"])
    last = GaugeMetricFamily("reflector_last_resource_version", "The last revision seen.", labels=["name"])
    events = CounterMetricFamily("listwatch_reflector_events_total", "Events received on watches.", labels=["name"])
    bookmarks = CounterMetricFamily("listwatch_reflector_bookmarks_total", "Bookmarks received.", labels=["name"])
    behind = GaugeMetricFamily(
        "listwatch_reflector_behind_revisions",
        "The store's newest known revision, less the last seen.",
        labels=["name"],
    )
    state = GaugeMetricFamily("listwatch_reflector_state", "1 for the state it is in.", labels=["name", "state"])
    lag = GaugeMetricFamily(
        "listwatch_informer_lag_seconds", "For how long changes may have been missed; 0 in a watch.", labels=["name"]
    )
    silent = GaugeMetricFamily(
        "listwatch_reflector_silent_seconds", "Since the store was last heard from.", labels=["name"]
    )
    reasons = {
        "resumes": "Watches opened again after the last revision seen.",
        "relists": "Lists made anew because nothing else could help.",
        "failures": "Failures of lists and watches.",
    }
    because = {
        name: CounterMetricFamily(f"listwatch_reflector_{name}_total", told, labels=["name", "reason"])
        for name, told in reasons.items()
    }
    for name, informer in informers.items():
        reflector = informer.reflector
        lists.add_metric([name], reflector.lists)
        watches.add_metric([name], reflector.watches)
        last.add_metric([name], _number(reflector.last_revision))
        events.add_metric([name], reflector.events)
        bookmarks.add_metric([name], reflector.bookmarks)
        behind.add_metric([name], reflector.behind)
        lag.add_metric([name], informer.lag)
        silent.add_metric([name], reflector.silent_for)
        for each in State:
            state.add_metric([name, each.value], each is reflector.state)
        for kind, counts in (
            ("resumes", reflector.resume_reasons),
            ("relists", reflector.relist_reasons),
            ("failures", reflector.failure_reasons),
        ):
            # From the start: a rate over a series that has only just begun would miss its first failures.
            for reason in Reason:
                because[kind].add_metric([name, reason.value], counts.get(reason, 0))
    yield from (lists, watches, last, events, bookmarks, behind, state, lag, silent, *because.values())


def _caches(informers: Mapping[str, InformerStatistics]) -> Iterator[Metric]:
    told = {
        "informer_store_resource_version": "The revision up to which the cache is complete.",
        "listwatch_informer_synced": "Whether the first list is in the cache.",
        "listwatch_cache_objects": "Objects in the cache.",
        "listwatch_cache_encoded_bytes": "Bytes of the objects in the cache.",
        "listwatch_cache_waiting": "Readers that wait for a newer revision.",
    }
    gauges = {name: GaugeMetricFamily(name, text, labels=["name"]) for name, text in told.items()}
    waited = SummaryMetricFamily("listwatch_cache_wait_seconds", "Waits of readers for a revision.", labels=["name"])
    errors = CounterMetricFamily(
        "listwatch_cache_errors_total", "Failures of index and transform functions.", labels=["name", "function"]
    )
    for name, informer in informers.items():
        cache = informer.cache
        values = (_number(cache.revision), informer.synced, cache.objects, cache.encoded_bytes, cache.waiting)
        for gauge, value in zip(gauges.values(), values, strict=True):
            gauge.add_metric([name], value)
        waited.add_metric([name], count_value=cache.waited, sum_value=cache.wait_seconds)
        errors.add_metric([name, "index"], cache.index_errors)
        errors.add_metric([name, "transform"], cache.transform_errors)
    yield from (*gauges.values(), waited, errors)


def _handlers(informers: Mapping[str, InformerStatistics]) -> Iterator[Metric]:
    queued = GaugeMetricFamily("informer_queued_items", "Notifications that wait for any handler.", labels=["name"])
    latency = SummaryMetricFamily(
        "informer_processing_latency_seconds", "Time of handlers for a notification.", labels=["name", "handler"]
    )
    labels = ["name", "handler"]
    gauges: dict[str, tuple[str, Callable[[HandlerStatistics], float]]] = {
        "pending": ("Notifications that wait for the handler.", lambda handler: handler.pending),
        "pending_high_water": ("The most that have waited for it.", lambda handler: handler.high_water),
        "oldest_seconds": ("How long the oldest one waits that it has not done with.", lambda handler: handler.oldest),
        "synced": ("Whether it has been told of all there was at first.", lambda handler: handler.synced),
    }
    counters: dict[str, tuple[str, Callable[[HandlerStatistics], float]]] = {
        "failed": ("Notifications that it failed with.", lambda handler: handler.failed),
        "coalesced": ("Notifications that it was spared because it was slow.", lambda handler: handler.coalesced),
        "resyncs": ("Rounds of resync.", lambda handler: handler.resyncs),
    }
    families: list[tuple[GaugeMetricFamily | CounterMetricFamily, Callable[[HandlerStatistics], float]]] = []
    for name, (text, value) in gauges.items():
        families.append((GaugeMetricFamily(f"listwatch_handler_{name}", text, labels=labels), value))
    for name, (text, value) in counters.items():
        families.append((CounterMetricFamily(f"listwatch_handler_{name}_total", text, labels=labels), value))
    for name, informer in informers.items():
        queued.add_metric([name], informer.pending)
        for handler in informer.handlers:
            latency.add_metric([name, handler.name], count_value=handler.delivered, sum_value=handler.handling)
            for family, value in families:
                family.add_metric([name, handler.name], value(handler))
    yield from (queued, latency, *(family for family, _ in families))


def _number(revision: str) -> int:
    return int(revision[-_DIGITS:] or 0)
