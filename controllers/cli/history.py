"""`listwatch history`: every state of an object that the store still has."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal

import click
import msgspec

from controllers.cli.columns.events import event_time
from controllers.cli.errors import CliError
from controllers.cli.field_changes import FieldChange, field_changes, masked, readable_form, summary
from controllers.cli.json_writer import to_json, without_managed_fields
from controllers.cli.options import (
    KubectlCommand,
    all_namespaces_option,
    global_options,
    namespace_option,
    resource_arguments,
)
from controllers.cli.past import OBJECTS, TRIES, Bounds, changes, find_kind, object_key, readable, telling, unreadable
from controllers.cli.raw import dig, items
from controllers.cli.session import Session, with_session
from controllers.cli.table import Table
from controllers.cli.targets import single_target
from controllers.cli.yaml_writer import to_yaml
from informer.client import DEFAULT_NAMESPACE
from informer.resources import Resource
from kvstore.api import Client, Event, EventType, KeyValue, prefix_end
from kvstore.errors import Compacted

Raw = Mapping[str, Any]
Action = Literal["created", "updated", "deleted", "recreated", "earlier"]

ROWS = 200  # that are printed together, under columns of one width
UNKNOWN = "<unknown>"

_decode = msgspec.json.Decoder().decode


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One revision of an object. `earlier`: what was there when the history before it was compacted away."""

    revision: int
    action: Action
    time: str | None
    manager: str | None
    uid: str | None
    object: str | None = None
    namespace: str | None = None
    changes: list[FieldChange] = []


class State(msgspec.Struct, frozen=True):
    """An object as one revision left it; `raw` is None where there is none. `version` counts from its creation."""

    revision: int
    raw: Raw | None
    version: int = 0

    @classmethod
    def of(cls, found: KeyValue | None) -> State:
        """A stored object, or that there never was one as far as is known."""
        if found is None:
            return cls(0, None)
        return cls(found.mod_revision, _object(found.value), found.version)

    @classmethod
    def after(cls, event: Event) -> State:
        """What a change led to."""
        gone = event.type == EventType.DELETE
        return cls(event.kv.mod_revision, None) if gone else cls.of(event.kv)


def _object(data: bytes) -> Raw:
    try:
        raw = _decode(data)
    except (msgspec.DecodeError, RecursionError):
        raw = None
    return raw if isinstance(raw, Mapping) else {"value": f"{len(data)} bytes that are no object"}


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `history deploy/web`, `history deploy/web -p`, `history deploy/web --revision 120`; of a kind "
    "or of the whole store: `history pods -n web`, `history --from 120 --to 140`, `history --revision 120 -p`.",
)
@resource_arguments
@namespace_option
@all_namespaces_option
@click.option("--from", "first", type=click.IntRange(min=1), help="Begin with this revision.")
@click.option("--to", "last", type=click.IntRange(min=1), help="End with this revision.")
@click.option(
    "--revision", type=click.IntRange(min=1), help="Show the object as it was then; with -p what that revision changed."
)
@click.option("-p", "--patch", is_flag=True, help="With each revision the fields that it changed.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="Another form than a table.")
@global_options
@with_session
async def history(
    session: Session,
    resources: Sequence[str],
    namespace: str | None,
    all_namespaces: bool,
    first: int | None,
    last: int | None,
    revision: int | None,
    patch: bool,
    output: Literal["json", "yaml"] | None,
) -> int:
    """Show every stored revision of an object, or of all objects: when, by whom and what was changed.

    It begins where the store's history was compacted, and tells so on stderr.
    """
    if revision is not None and (first is not None or last is not None):
        raise click.UsageError("--revision goes without --from and --to")
    one = bool(resources) and (len(resources) > 1 or "/" in resources[0])
    if one:
        kind, name = single_target(resources)
        cls = await find_kind(session, kind)
        span = _Span(object_key(cls, namespace, name), b"", f'{cls.TYPE.qualified} "{name}"')
        if revision is not None and not patch:
            return await _show(session, cls, span, revision, output)
    else:
        everywhere = all_namespaces or (not resources and namespace is None)
        within = None if everywhere else namespace or DEFAULT_NAMESPACE
        prefix = (await find_kind(session, resources[0])).TYPE.prefix(within) if resources else OBJECTS
        only = within if not resources else None
        span = _Span(prefix, prefix_end(prefix), resources[0] if resources else "an object", only)
    begin, end = (revision, revision) if revision is not None else (first, last)
    printer = _Printer(output, patch=patch, objects=not one, with_namespace=not one and everywhere)
    for attempt in range(TRIES):
        bounds = await readable(session.client)
        for limit in (begin, end):
            if limit is not None and (problem := unreadable(limit, bounds)):
                raise CliError(problem)
        told = _of_one if one else _of_all
        entries = told(session.client, span, bounds, begin or 0, bounds.present if end is None else end)
        try:
            async with aclosing(entries):
                async for entry in entries:
                    printer.add(entry)
            break
        except Compacted:
            if printer.count or attempt == TRIES - 1:
                raise CliError("the history was compacted away while it was read: try again") from None
    printer.end()
    if not printer.count:
        if revision is not None:
            raise CliError(f"revision {revision} did not change {span.name}")
        since = f"neither now nor in the history since revision {bounds.oldest}"
        if one and begin is None and end is None:
            raise CliError(f"{span.name} not found, {since}")
        click.echo("No changes found.", err=True)
    if bounds.compacted and begin is None:
        click.echo(f"note: what was before revision {bounds.oldest} is compacted away", err=True)
    return 0


class _Span(msgspec.Struct, frozen=True):
    """The keys whose history is told, and how messages name them. `namespace`: of all these keys only those of it."""

    key: bytes
    end: bytes
    name: str
    namespace: str | None = None


async def _show(session: Session, cls: type[Resource], span: _Span, revision: int, output: str | None) -> int:
    async with telling(session.client, revision):
        found = await session.client.get(span.key, revision=revision)
    if found is None:
        raise CliError(f"{span.name} not found at revision {revision}")
    shown = without_managed_fields(cls.decode(found.value, str(found.mod_revision)).raw)
    click.echo(to_json(shown) if output == "json" else to_yaml(shown), nl=False)
    return 0


async def _of_one(client: Client, span: _Span, bounds: Bounds, first: int, last: int) -> AsyncGenerator[Entry, None]:
    """What the oldest readable revision has of an object, then each later change; two states are in memory."""
    before = State.of(await client.get(span.key, revision=bounds.oldest))
    if before.raw is not None and before.revision >= first:
        yield _entry(None, before)
    async for event in changes(client, span.key, b"", bounds.oldest + 1, last):
        state = State.after(event)
        if state.revision >= first:
            yield _entry(before, state)
        before = state


async def _of_all(client: Client, span: _Span, bounds: Bounds, first: int, last: int) -> AsyncGenerator[Entry, None]:
    """Every change of some objects. What each was before comes with it from the store, so that none has to be kept."""
    async for event in changes(client, span.key, span.end, max(first, bounds.oldest + 1), last, prev_kv=True):
        if span.namespace is not None and namespace_of(event.kv.key) != span.namespace:
            continue
        before, state = State.of(event.prev_kv), State.after(event)
        name, namespace = object_name(event.kv.key, state.raw or before.raw)
        yield msgspec.structs.replace(_entry(before, state), object=name, namespace=namespace)


def object_name(key: bytes, raw: Raw | None) -> tuple[str, str | None]:
    """`deployment.apps/web` and its namespace; the key, if what is stored there is no object."""
    kind, api_version = dig(raw, "kind"), dig(raw, "apiVersion")
    if not isinstance(kind, str) or not isinstance(api_version, str):
        return key.decode(errors="replace"), None
    group = api_version.rpartition("/")[0]
    name = f"{kind.lower()}{'.' if group else ''}{group}/{dig(raw, 'metadata', 'name')}"
    return name, dig(raw, "metadata", "namespace")


def namespace_of(key: bytes) -> str | None:
    """`/registry/<group>/<plural>/<namespace>/<name>`; a kind without namespaces has one part less."""
    parts = key.decode(errors="replace").split("/")
    return parts[4] if len(parts) == 6 else None


# ---- what a revision did --------------------------------------------------------------------------------------------


def _entry(before: State | None, state: State) -> Entry:
    old = None if before is None else before.raw
    unknown = state.version > 1 and (before is None or before.raw is None)  # what was before it is compacted away
    if state.raw is None:
        # Nobody is recorded in what is gone. When it was asked for is in the last state, if it took time.
        asked = dig(old, "metadata", "deletionTimestamp")
        return Entry(state.revision, "deleted", asked if isinstance(asked, str) else None, None, _uid(old))
    new = state.raw
    action: Action = "updated"
    if old is None:
        action = "earlier" if unknown else "recreated" if before is not None and before.revision else "created"
    elif _uid(old) != _uid(new):
        action = "recreated"
    shown_old, shown_new = masked(old, new)
    if shown_old is None or shown_new is None or action == "earlier":
        found: list[FieldChange] = []
    else:
        found = field_changes(readable_form(shown_old), readable_form(shown_new))
    return Entry(state.revision, action, _time(new, action), writer(new), _uid(new), changes=found)


def _uid(raw: Raw | None) -> str | None:
    uid = dig(raw, "metadata", "uid")
    return uid if isinstance(uid, str) else None


def writer(raw: Raw | None) -> str | None:
    """Who wrote this state of an object: the manager that is recorded last; None where nobody is."""
    recorded = items(raw, "metadata", "managedFields")
    if not recorded:
        component = dig(raw, "source", "component") if dig(raw, "kind") == "Event" else None
        return component if isinstance(component, str) else None
    subresource = recorded[-1].get("subresource")
    return f"{recorded[-1].get('manager')}{f' ({subresource})' if subresource else ''}"


def _time(raw: Raw, action: Action) -> str | None:
    recorded = items(raw, "metadata", "managedFields")
    if recorded and recorded[-1].get("time"):
        return str(recorded[-1]["time"])
    if dig(raw, "kind") == "Event":
        return event_time(raw) or None
    created = dig(raw, "metadata", "creationTimestamp")
    return created if isinstance(created, str) and action in ("created", "recreated") else None


# ---- output ---------------------------------------------------------------------------------------------------------


class _Printer:
    """Prints entries as they come; of a table some rows together."""

    def __init__(self, output: str | None, *, patch: bool, objects: bool, with_namespace: bool) -> None:
        self.count = 0
        self._output = output
        self._patch = patch
        self._objects = objects
        self._with_namespace = with_namespace
        subject = [*(["NAMESPACE"] if with_namespace else ()), *(["OBJECT"] if objects else ())]
        self._table = Table(("REVISION", "TIME", "BY", "ACTION", *subject, "CHANGE"))
        self._waiting: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """The next one."""
        self.count += 1
        if self._output == "json":
            click.echo("[" if self.count == 1 else ",")
            click.echo(to_json(msgspec.to_builtins(entry)).rstrip(), nl=False)
        elif self._output == "yaml":
            click.echo(f"---\n{to_yaml(msgspec.to_builtins(entry))}", nl=False)
        else:
            self._waiting.append(entry)
            if len(self._waiting) >= ROWS:
                self._flush()

    def end(self) -> None:
        """No more are coming."""
        if self._output == "json" and self.count:
            click.echo("\n]")
        elif self._output == "json":
            click.echo("[]")
        self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        lines = self._table.lines([self._row(each) for each in self._waiting])
        for line in lines[: len(lines) - len(self._waiting)]:  # the header
            click.echo(line)
        for entry, line in zip(self._waiting, lines[-len(self._waiting) :], strict=True):
            click.echo(line)
            if self._patch:
                for change in entry.changes:
                    click.echo(f"  {change}")
        self._waiting = []

    def _row(self, entry: Entry) -> tuple[str, ...]:
        if entry.action == "earlier":
            change = "(its changes up to here are compacted away)"
        else:
            change = "" if self._patch else summary(entry.changes)
        subject = [entry.namespace or ""] if self._with_namespace else []
        subject += [entry.object or ""] if self._objects else []
        return str(entry.revision), entry.time or UNKNOWN, entry.manager or UNKNOWN, entry.action, *subject, change
