"""`listwatch diff`: what differs between two revisions of the store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal

import click
import msgspec

from controllers.cli.field_changes import FieldChange, field_changes, masked, readable_form, unified_diff
from controllers.cli.history import State, namespace_of, object_name, writer
from controllers.cli.json_writer import to_json
from controllers.cli.kinds import Kinds
from controllers.cli.options import (
    KubectlCommand,
    all_namespaces_option,
    errors_exit_with,
    global_options,
    namespace_option,
    resource_arguments,
)
from controllers.cli.past import OBJECTS, definitions_at, object_key, rows, telling
from controllers.cli.raw import dig
from controllers.cli.session import Session, with_session
from controllers.cli.targets import parse_targets
from kvstore.api import Client, Range, prefix_end

Raw = Mapping[str, Any]
Action = Literal["added", "removed", "changed", "recreated"]

TOGETHER = 16  # changed objects that are read at once; each may have 1.5 MB, twice


class Difference(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One object that differs. The revisions are those that wrote it, 0 where there is none."""

    action: Action
    object: str
    namespace: str | None
    from_revision: int
    to_revision: int
    manager: str | None
    changes: list[FieldChange] = []


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `diff --from 120` for the whole store since then, `diff --from 120 --to 140 pods -n web`, "
    "`diff --from 120 deploy/web -o unified`. The exit code is 0 without differences, 1 with some, 2 after an error.",
)
@resource_arguments
@click.option("--from", "first", type=click.IntRange(min=1), required=True, help="The revision to start at.")
@click.option("--to", "second", type=click.IntRange(min=1), help="The revision to compare with.  [default: now]")
@namespace_option
@all_namespaces_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(["fields", "unified", "json", "name"]),
    default="fields",
    show_default=True,
    help="unified: as `diff -u`.",
)
@global_options
@errors_exit_with(2)
@with_session
async def diff(
    session: Session,
    resources: Sequence[str],
    first: int,
    second: int | None,
    namespace: str | None,
    all_namespaces: bool,
    output: Literal["fields", "unified", "json", "name"],
) -> int:
    """Show what differs between two revisions: in the whole store, in some kinds, or of one object.

    Fields that only repeat the object (its version, who manages which field, the manifest last applied) do not count,
    and Secrets differ without showing their texts.
    """
    client = session.client
    everywhere = all_namespaces or (not resources and namespace is None)
    second = second or (await client.range(Range(OBJECTS, count_only=True))).header.revision
    async with telling(client, first, second):
        ranges = await _ranges(session, resources, namespace, everywhere, first, second)
        printer = _Printer(output, with_namespace=everywhere)
        for key, end, within in ranges:
            changed = _changed_objects(client, key, end, within, first, second)
            async with aclosing(changed):
                async for old, new, where in changed:
                    printer.add(old, new, where, first, second)
    printer.end()
    return 1 if printer.count else 0


Where = tuple[str, str | None]  # the object as messages name it, and its namespace


async def _ranges(
    session: Session, resources: Sequence[str], namespace: str | None, everywhere: bool, first: int, second: int
) -> list[tuple[bytes, bytes, str | None]]:
    """Ranges of keys, each with the namespace that its keys have to be of."""
    if not resources:
        return [(OBJECTS, prefix_end(OBJECTS), None if everywhere else namespace)]
    known = [*await definitions_at(session.client, first), *await definitions_at(session.client, second)]
    ranges: list[tuple[bytes, bytes, str | None]] = []
    for target in parse_targets(Kinds.of(known), resources, namespace, all_namespaces=everywhere):
        if target.name is not None:
            ranges.append((object_key(target.cls, target.namespace, target.name), b"", None))
        else:
            prefix = target.cls.TYPE.prefix(target.namespace)
            ranges.append((prefix, prefix_end(prefix), None))
    return ranges


# ---- comparing ------------------------------------------------------------------------------------------------------


async def _changed_objects(
    client: Client, key: bytes, end: bytes, namespace: str | None, first: int, second: int
) -> AsyncGenerator[tuple[State, State, Where], None]:
    """The objects whose keys were written between the revisions, in key order; some at once are in memory."""

    batch: list[tuple[bytes, bool, bool]] = []
    async for each, before, after in _merged(client, key, end, first, second):
        if before == after or (namespace is not None and namespace_of(each) != namespace):
            continue
        batch.append((each, before > 0, after > 0))
        if len(batch) == TOGETHER:
            for found in await _read(client, batch, first, second):
                yield found
            batch = []
    for found in await _read(client, batch, first, second):
        yield found


async def _read(
    client: Client, batch: Sequence[tuple[bytes, bool, bool]], first: int, second: int
) -> list[tuple[State, State, Where]]:
    async def read(key: bytes, revision: int, present: bool) -> State:
        return State.of(await client.get(key, revision=revision) if present else None)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                (key, group.create_task(read(key, first, old)), group.create_task(read(key, second, new)))
                for key, old, new in batch
            ]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [
        (old.result(), new.result(), object_name(key, new.result().raw or old.result().raw)) for key, old, new in tasks
    ]


async def _merged(
    client: Client, key: bytes, end: bytes, first: int, second: int
) -> AsyncGenerator[tuple[bytes, int, int], None]:
    """Every key with the revision that wrote what it has at `first` and at `second`, 0 for nothing; in key order."""
    left = rows(client, key, end, first, keys_only=True)
    right = rows(client, key, end, second, keys_only=True)
    async with aclosing(left), aclosing(right):
        a, b = await anext(left, None), await anext(right, None)
        while a is not None or b is not None:
            if b is None or (a is not None and a.key < b.key):
                assert a is not None
                yield a.key, a.mod_revision, 0
                a = await anext(left, None)
            elif a is None or b.key < a.key:
                yield b.key, 0, b.mod_revision
                b = await anext(right, None)
            else:
                yield a.key, a.mod_revision, b.mod_revision
                a, b = await anext(left, None), await anext(right, None)


# ---- output ---------------------------------------------------------------------------------------------------------


class _Printer:
    """Prints each object that differs as it is found."""

    def __init__(self, output: str, *, with_namespace: bool) -> None:
        self.count = 0
        self._output = output
        self._with_namespace = with_namespace
        self._actions: Counter[Action] = Counter()

    def add(self, old: State, new: State, where: Where, first: int, second: int) -> None:
        """Two states that different revisions wrote; they may be the same all the same."""
        before, after = masked(old.raw, new.raw)
        action: Action
        found: list[FieldChange] = []
        if before is None or after is None:
            action = "added" if before is None else "removed"
        else:
            before, after = readable_form(before), readable_form(after)
            found = field_changes(before, after)
            again = dig(before, "metadata", "uid") != dig(after, "metadata", "uid")
            action = "recreated" if again else "changed"
            if not found:
                return
        self.count += 1
        self._actions[action] += 1
        name, namespace = where
        within = f" -n {namespace}" if self._with_namespace and namespace else ""
        match self._output:
            case "name":
                click.echo(f"{name}{within}")
            case "unified":
                old_form = None if before is None else readable_form(before)
                new_form = None if after is None else readable_form(after)
                title = f"{namespace}/{name}" if namespace else name
                for line in unified_diff(old_form, new_form, title, first, second):
                    click.echo(line)
            case "json":
                each = Difference(action, name, namespace, old.revision, new.revision, writer(new.raw), found)
                click.echo("[" if self.count == 1 else ",")
                click.echo(to_json(msgspec.to_builtins(each)).rstrip(), nl=False)
            case _:
                who = f", by {writer(new.raw)}" if writer(new.raw) else ""
                revisions = " -> ".join(str(each.revision) for each in (old, new) if each.raw is not None)
                click.echo(f"{action}: {name}{within} (revision {revisions}{who})")
                for change in found:
                    click.echo(f"  {change}")

    def end(self) -> None:
        """No more are coming."""
        if self._output == "json":
            click.echo("\n]" if self.count else "[]")
        if self._output == "fields" and self.count:
            click.echo(", ".join(f"{count} {action}" for action, count in sorted(self._actions.items())))
