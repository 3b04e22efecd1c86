"""What `listwatch top` shows: two samples as rates and states, and these as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from controllers.cli.top_sample import Controller, Informer, Leader, Report, Sample, Store

_GAP = 2
_LEAST_NAME = 16
_OUTCOMES = ("success", "error", "terminal", "requeue", "requeue_after")


class StoreView(msgspec.Struct, frozen=True):
    """Rates are per second; None = not known (yet)."""

    name: str
    revision: int
    changes: float | None
    commits: float | None
    db_size: int
    watchers: dict[str, int] | None
    error: str


class ControllerView(msgspec.Struct, frozen=True):
    """reconciles: runs a second. outcomes: how many of the last interval ended how; in all, where there was none.
    mean: seconds of a run in the last interval. Of its queue: ready keys, delayed ones, retries in all, oldest seconds.
    """

    name: str
    active: int
    workers: int
    reconciles: float | None
    outcomes: dict[str, int]
    mean: float | None
    depth: int
    delayed: int
    retries: int
    oldest: float


class InformerView(msgspec.Struct, frozen=True):
    """lag: seconds for which it may have missed changes; behind: revisions; pending: notifications of its handlers."""

    name: str
    state: str
    revision: str
    objects: int
    lag: float
    behind: int
    pending: int
    relists: int
    resumes: int


class View(msgspec.Struct, frozen=True):
    """A moment of a process. error: why there is nothing of the manager; seconds: since the sample before."""

    manager: str
    error: str
    seconds: float | None
    pid: int
    loop_lag: float
    stores: list[StoreView]
    leaders: list[Leader]
    controllers: list[ControllerView]
    informers: list[InformerView]


def view_of(manager: str | None, before: Sample | None, now: Sample) -> View:
    """The present sample, with rates since the one before; a process that began anew has none yet."""
    report = now.report or Report()
    earlier = None if before is None else before.report
    if earlier is None or earlier.pid != report.pid:
        earlier = Report()
        seconds = None
    else:
        assert before is not None
        seconds = now.at - before.at
    stores = {store.name: store for store in earlier.stores}
    shown = [_store(store, stores.get(store.name), seconds) for store in report.stores]
    if now.server is not None:
        since = None if before is None or before.server is None else now.at - before.at
        shown.append(_store(now.server, before.server if before is not None else None, since))
    return View(
        manager=manager or "",
        error=now.error,
        seconds=seconds,
        pid=report.pid,
        loop_lag=report.lag,
        stores=shown,
        leaders=report.leaders,
        controllers=[
            _controller(name, each, earlier.controllers.get(name), seconds)
            for name, each in sorted(report.controllers.items())
        ],
        informers=[_informer(name, each) for name, each in sorted(report.informers.items())],
    )


def _store(now: Store, before: Store | None, seconds: float | None) -> StoreView:
    known = before is not None and not before.error and not now.error
    return StoreView(
        name=now.name,
        revision=now.revision,
        changes=_rate(now.revision, before.revision if known and before else None, seconds),
        commits=None if now.commits is None else _rate(now.commits, before.commits if before else None, seconds),
        db_size=now.db_size,
        watchers=now.watchers,
        error=now.error,
    )


def _controller(name: str, now: Controller, before: Controller | None, seconds: float | None) -> ControllerView:
    runs, taken = sum(now.outcomes.values()), now.reconcile_seconds
    outcomes, mean = now.outcomes, None
    rate = _rate(runs, None if before is None else sum(before.outcomes.values()), seconds)
    if before is not None and rate is not None:
        outcomes = {outcome: count - before.outcomes.get(outcome, 0) for outcome, count in now.outcomes.items()}
        ended = sum(taken.counts) - sum(before.reconcile_seconds.counts)
        mean = (taken.sum - before.reconcile_seconds.sum) / ended if ended > 0 else None
    queue = now.queue
    return ControllerView(
        name=name,
        active=now.active,
        workers=now.workers,
        reconciles=rate,
        outcomes={outcome: outcomes.get(outcome, 0) for outcome in _OUTCOMES},
        mean=mean,
        depth=queue.depth,
        delayed=queue.waiting,
        retries=queue.retries,
        oldest=queue.oldest_seconds,
    )


def _informer(name: str, informer: Informer) -> InformerView:
    reflector = informer.reflector
    return InformerView(
        name=name,
        state=reflector.state,
        revision=informer.cache.revision,
        objects=informer.cache.objects,
        lag=informer.lag,
        behind=reflector.behind,
        pending=sum(handler.pending for handler in informer.handlers),
        relists=reflector.relists,
        resumes=reflector.resumes,
    )


def _rate(now: int, before: int | None, seconds: float | None) -> float | None:
    if before is None or not seconds or seconds <= 0 or now < before:
        return None
    return (now - before) / seconds


# ---- on a screen ----------------------------------------------------------------------------------------------------


def picture(view: View) -> RenderableType:
    """As lines and tables, for any width."""
    parts: list[RenderableType] = [_title(view)]
    for store in view.stores:
        parts.append(_store_line(store))
        if store.watchers is not None:
            parts.append(_watchers_line(store.watchers))
    parts += [_leader_line(leader) for leader in view.leaders]
    if view.controllers:
        parts += ["", _controllers(view.controllers), "", _queues(view.controllers)]
    if view.informers:
        parts += ["", _informers(view.informers)]
    return Group(*parts)


def _title(view: View) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    if not view.manager:
        return text.append("no manager was asked for", "dim")
    text.append(view.manager, "bold")
    if view.error:
        return text.append("  unreachable", "bold red").append(f" ({view.error})", "dim")
    text.append(f"  process {view.pid}")
    return text.append(f"  event loop late by {_seconds(view.loop_lag)}", "red" if view.loop_lag > 0.5 else "dim")


def _store_line(store: StoreView) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis").append("store ", "dim").append(store.name)
    if store.error:
        return text.append("  unreachable", "bold red").append(f" ({store.error})", "dim")
    text.append("  revision ", "dim").append(str(store.revision)).append(f" +{_number(store.changes)}/s")
    if store.commits is not None:
        text.append("  commits ", "dim").append(f"{_number(store.commits)}/s")
    text.append("  size ", "dim").append(_bytes(store.db_size))
    return text


def _watchers_line(watchers: Mapping[str, int]) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis").append("watchers ", "dim")
    text.append(", ".join(f"{count} {state}" for state, count in watchers.items() if state != "pending_events"))
    if pending := watchers.get("pending_events", 0):
        text.append(f", {pending} events wait", "yellow")
    return text


def _leader_line(leader: Leader) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis").append("leader of ", "dim").append(f"{leader.name} ")
    if leader.is_leader:
        return text.append("this process", "green")
    return text.append(leader.holder or "nobody yet", "yellow").append(", this process stands by", "dim")


def _controllers(controllers: Sequence[ControllerView]) -> _Table:
    table = _Table("controller", "busy", "runs/s", "mean", "ok", "error", "terminal", "requeue", "later")
    for each in controllers:
        failed = [
            Text(str(each.outcomes[name]), "red" if each.outcomes[name] else "") for name in ("error", "terminal")
        ]
        table.add_row(
            each.name,
            f"{each.active}/{each.workers}",
            _number(each.reconciles),
            "-" if each.mean is None else _seconds(each.mean),
            str(each.outcomes["success"]),
            *failed,
            str(each.outcomes["requeue"]),
            str(each.outcomes["requeue_after"]),
        )
    return table


def _queues(controllers: Sequence[ControllerView]) -> _Table:
    table = _Table("queue", "depth", "oldest", "delayed", "retries")
    for each in controllers:
        oldest = Text(_seconds(each.oldest) if each.depth else "-", "yellow" if each.oldest > 1 else "")
        table.add_row(each.name, str(each.depth), oldest, str(each.delayed), str(each.retries))
    return table


def _informers(informers: Sequence[InformerView]) -> _Table:
    table = _Table("informer", "state", "revision", "lag", "behind", "objects", "pending", "relists", "resumes")
    # What is not well must be seen where there is no room for all.
    for each in sorted(informers, key=lambda each: (each.state == "watching" and not each.lag, each.name)):
        table.add_row(
            each.name,
            Text(each.state, "green" if each.state == "watching" else "yellow"),
            each.revision or "-",
            Text(_seconds(each.lag) if each.lag else "-", "yellow" if each.lag else ""),
            *(str(number) for number in (each.behind, each.objects, each.pending, each.relists, each.resumes)),
        )
    return table


class _Table:
    """Names and numbers in columns. Where there is too little room names are cut, then columns left out from the right:
    part of a number would be another number."""

    def __init__(self, *columns: str) -> None:
        self._rows = [[Text(column, "bold") for column in columns]]

    def add_row(self, *cells: str | Text) -> None:
        """A cell a column."""
        self._rows.append([Text(cell) if isinstance(cell, str) else cell for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [max(cell.cell_len for cell in column) for column in zip(*self._rows, strict=True)]
        room = options.max_width
        while len(widths) > 1 and min(widths[0], _LEAST_NAME) + sum(width + _GAP for width in widths[1:]) > room:
            widths.pop()
        widths[0] = min(widths[0], room - sum(width + _GAP for width in widths[1:]))
        for row in self._rows:
            line = Text(no_wrap=True, end="\n")
            name = row[0].copy()
            name.truncate(widths[0], overflow="ellipsis", pad=True)
            line.append_text(name)
            for cell, width in zip(row[1:], widths[1:], strict=False):
                line.append(" " * (_GAP + width - cell.cell_len)).append_text(cell)
            yield line


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _seconds(value: float) -> str:
    if value < 1:
        return f"{value * 1000:.3g}ms" if value >= 0.001 else f"{value * 1e6:.0f}us" if value else "0"
    return f"{value:.1f}s" if value < 100 else f"{value / 60:.0f}m" if value < 7200 else f"{value / 3600:.0f}h"


def _bytes(value: float) -> str:
    units: tuple[tuple[str, int, Callable[[float], str]], ...] = (
        ("GB", 10**9, "{:.1f}".format),
        ("MB", 10**6, "{:.1f}".format),
        ("kB", 10**3, "{:.0f}".format),
    )
    for unit, size, shown in units:
        if value >= size:
            return f"{shown(value / size)} {unit}"
    return f"{value:.0f} B"
