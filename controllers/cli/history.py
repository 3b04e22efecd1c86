"""`listwatch history`: every state of an object that the store still has."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal

import click
import msgspec

from controllers.cli.columns import dig, items
from controllers.cli.errors import CliError
from controllers.cli.field_changes import FieldChange, field_changes, masked, readable_form, summary
from controllers.cli.options import KubectlCommand, global_options, namespace_option, resource_arguments
from controllers.cli.past import TRIES, Bounds, changes, find_kind, object_key, readable, telling, unreadable
from controllers.cli.session import Session, with_session
from controllers.cli.table import Table
from controllers.cli.targets import single_target
from controllers.cli.yaml_writer import to_json, to_yaml, without_managed_fields
from informer.resources import Resource
from kvstore.api import EventType, KeyValue
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
    changes: list[FieldChange] = []


class State(msgspec.Struct, frozen=True):
    """An object as one revision left it; `raw` is None where there is none. `version` counts from its creation."""

    revision: int
    raw: Raw | None
    version: int = 0

    @classmethod
    def of(cls, found: KeyValue | None, revision: int = 0) -> State:
        """A stored object, or that there is none."""
        if found is None:
            return cls(revision, None)
        return cls(found.mod_revision, _object(found.value), found.version)


def _object(data: bytes) -> Raw:
    try:
        raw = _decode(data)
    except (msgspec.DecodeError, RecursionError):
        raw = None
    return raw if isinstance(raw, Mapping) else {"value": f"{len(data)} bytes that are no object"}


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `history deploy/web`, `history deploy/web -p`, `history deploy/web --revision 120`.",
)
@resource_arguments
@namespace_option
@click.option("--revision", type=click.IntRange(min=1), help="Show the object as it was at this revision of the store.")
@click.option("-p", "--patch", is_flag=True, help="With each revision the fields that it changed.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="Another form than a table.")
@global_options
@with_session
async def history(
    session: Session,
    resources: Sequence[str],
    namespace: str | None,
    revision: int | None,
    patch: bool,
    output: Literal["json", "yaml"] | None,
) -> int:
    """Show every stored revision of an object: when, by whom and what was changed.

    It begins where the store's history was compacted, and tells so on stderr.
    """
    kind, name = single_target(resources)
    cls = await find_kind(session, kind)
    key = object_key(cls, namespace, name)
    missing = f'{cls.TYPE.qualified} "{name}" not found'
    if revision is not None and not patch:
        async with telling(session.client, revision):
            found = await session.client.get(key, revision=revision)
        if found is None:
            raise CliError(f"{missing} at revision {revision}")
        shown = without_managed_fields(cls.decode(found.value, str(found.mod_revision)).raw)
        click.echo(to_json(shown) if output == "json" else to_yaml(shown), nl=False)
        return 0
    printer = _Printer(output, patch=patch)
    bounds = await readable(session.client)
    for attempt in range(TRIES):
        try:
            await _print(session, key, bounds, printer, revision)
            break
        except Compacted:
            if printer.count or attempt == TRIES - 1:
                raise CliError("the history was compacted away while it was read: try again") from None
            bounds = await readable(session.client)
    printer.end()
    if not printer.count:
        if revision is None:
            raise CliError(f"{missing}, neither now nor in the history since revision {bounds.oldest}")
        raise _no_such_revision(cls, name, revision, bounds)
    if bounds.compacted and revision is None:
        click.echo(f"note: what was before revision {bounds.oldest} is compacted away", err=True)
    return 0


async def _print(session: Session, key: bytes, bounds: Bounds, printer: _Printer, revision: int | None) -> None:
    last = bounds.present if revision is None else min(revision, bounds.present)
    before: State | None = None
    async for state in _states(session, key, bounds, last):
        wanted = revision is None or state.revision == revision
        if wanted and (before is not None or state.raw is not None):
            printer.add(_entry(before, state))
        before = state


async def _states(session: Session, key: bytes, bounds: Bounds, last: int) -> AsyncGenerator[State, None]:
    """What the oldest readable revision has of an object, then each later state; one at a time is in memory."""
    if last < bounds.oldest:
        return
    yield State.of(await session.client.get(key, revision=bounds.oldest))
    async for event in changes(session.client, key, b"", bounds.oldest + 1, last):
        gone = event.type == EventType.DELETE
        yield State.of(None, event.kv.mod_revision) if gone else State.of(event.kv)


def _no_such_revision(cls: type[Resource], name: str, revision: int, bounds: Bounds) -> CliError:
    if problem := unreadable(revision, bounds):
        return CliError(problem)
    return CliError(f'revision {revision} did not change {cls.TYPE.qualified} "{name}"')


# ---- what a revision did --------------------------------------------------------------------------------------------


def _entry(before: State | None, state: State) -> Entry:
    old = None if before is None else before.raw
    if state.raw is None:
        # Nobody is recorded in what is gone. When it was asked for is in the last state, if it took time.
        asked = dig(old, "metadata", "deletionTimestamp")
        return Entry(state.revision, "deleted", asked if isinstance(asked, str) else None, None, _uid(old))
    new = state.raw
    action: Action = "updated"
    if before is None:
        action = "created" if state.version == 1 else "earlier"
    elif old is None:
        action = "recreated" if before.revision else "created"
    elif _uid(old) != _uid(new):
        action = "recreated"
    shown_old, shown_new = masked(old, new)
    if shown_old is None or shown_new is None or action == "earlier":
        found: list[FieldChange] = []
    else:
        found = field_changes(readable_form(shown_old), readable_form(shown_new))
    return Entry(state.revision, action, _time(new, action), writer(new), _uid(new), found)


def _uid(raw: Raw | None) -> str | None:
    uid = dig(raw, "metadata", "uid")
    return uid if isinstance(uid, str) else None


def writer(raw: Raw | None) -> str | None:
    """Who wrote this state of an object: the manager that is recorded last; None where nobody is."""
    recorded = items(raw, "metadata", "managedFields")
    if not recorded:
        return None
    subresource = recorded[-1].get("subresource")
    return f"{recorded[-1].get('manager')}{f' ({subresource})' if subresource else ''}"


def _time(raw: Raw, action: Action) -> str | None:
    recorded = items(raw, "metadata", "managedFields")
    if recorded and recorded[-1].get("time"):
        return str(recorded[-1]["time"])
    created = dig(raw, "metadata", "creationTimestamp")
    return created if isinstance(created, str) and action in ("created", "recreated") else None


# ---- output ---------------------------------------------------------------------------------------------------------


class _Printer:
    """Prints entries as they come; of a table some rows together."""

    def __init__(self, output: str | None, *, patch: bool) -> None:
        self.count = 0
        self._output = output
        self._patch = patch
        self._table = Table(("REVISION", "TIME", "BY", "ACTION", "CHANGE"))
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
        return str(entry.revision), entry.time or UNKNOWN, entry.manager or UNKNOWN, entry.action, change
