"""`listwatch get`: tables as kubectl prints them, YAML and JSON, once or as objects change."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Literal

import click

from controllers.cli.columns import columns_of
from controllers.cli.columns.events import event_time
from controllers.cli.errors import CliError
from controllers.cli.kinds import Kinds
from controllers.cli.options import (
    all_namespaces_option,
    completing,
    global_options,
    namespace_option,
    resource_arguments,
    selector_option,
)
from controllers.cli.past import definitions_at, object_key, objects_at, telling
from controllers.cli.raw import labels_text
from controllers.cli.session import Session, with_session
from controllers.cli.table import Table
from controllers.cli.targets import Target, kind_reference, parse_targets, read_targets, reference, single_target
from controllers.cli.yaml_writer import to_json, to_yaml, without_managed_fields
from controllers.core.types import Event
from informer.cache import Cache, Change, Stored
from informer.client import DEFAULT_NAMESPACE
from informer.codecs import Raw
from informer.listwatch import Item, StoreListWatch, WatchEvent
from informer.reflector import Reflector, State, Transition
from informer.resources import Resource
from informer.selectors import Selector

FORMATS = ("wide", "yaml", "json", "name")


@click.command(
    epilog="Examples: `get pods`, `get deploy,rs -o wide`, `get svc/web -o yaml`, `get all -A`, `get pods -w`, "
    "`get events --for deploy/web`, `get pods --at-revision 120`, `get --at-revision 120` for the whole store then."
)
@resource_arguments
@namespace_option
@all_namespaces_option
@selector_option
@click.option("-o", "--output", type=click.Choice(FORMATS), help="How to show them.")
@click.option("-w", "--watch", is_flag=True, help="Go on with every change, until Ctrl-C.")
@click.option("--at-revision", type=click.IntRange(min=1), help="As it was at this revision of the store.")
@click.option(
    "--for",
    "about",
    metavar="KIND/NAME",
    help="Of events those about this object.",
    shell_complete=completing("references"),
)
@click.option("--show-labels", is_flag=True, help="A column with all labels.")
@click.option("--show-managed-fields", is_flag=True, help="In YAML and JSON also who manages which fields.")
@click.option("--no-headers", is_flag=True, help="No line with the columns' names.")
@click.option("--ignore-not-found", is_flag=True, help="An object that is not there is no error.")
@global_options
@with_session
async def get(
    session: Session,
    resources: Sequence[str],
    namespace: str | None,
    all_namespaces: bool,
    selector: str,
    output: Literal["wide", "yaml", "json", "name"] | None,
    watch: bool,
    at_revision: int | None,
    about: str | None,
    show_labels: bool,
    show_managed_fields: bool,
    no_headers: bool,
    ignore_not_found: bool,
) -> int:
    """Show objects: KIND, KIND,KIND, KIND NAME... or KIND/NAME...; `all` is pods, services and workloads."""
    if at_revision is not None:
        if watch:
            raise click.UsageError("a past revision does not change: --at-revision and --watch exclude each other")
        kinds = await _kinds_at(session, at_revision)
        if not resources:
            resources = [",".join(cls.TYPE.qualified for cls in kinds.all())]
            all_namespaces = all_namespaces or namespace is None
    else:
        kinds = session.kinds
    targets = parse_targets(kinds, resources, namespace, all_namespaces=all_namespaces)
    several_kinds = len({target.cls for target in targets}) > 1
    if watch and several_kinds:
        raise click.UsageError("watch one kind at a time")
    if watch and len(targets) > 1:
        raise click.UsageError("watch one object, or all of a kind")
    wanted = Selector.parse(selector)
    keep = _about(kinds, about, targets)
    view = _View(session, output, all_namespaces, show_labels, not no_headers, several_kinds, show_managed_fields)
    if watch:
        await _watch(session, targets[0], wanted, keep, view)
        return 0
    if at_revision is None:
        found, missing = await read_targets(session.objects, targets, selector)
    else:
        found, missing = await _read_at(session, targets, wanted, at_revision)
    found = _by_time([obj for obj in found if keep(obj)])
    if output in ("yaml", "json"):
        view.document(found, single=len(targets) == 1 and targets[0].name is not None)
    elif found:
        view.rows(found)
    elif not missing:
        within = next((target.namespace for target in targets if target.namespace), None)
        where = f" in {within} namespace" if within and not all_namespaces else ""
        click.echo(f"No resources found{where}.", err=True)
    if missing and not ignore_not_found:
        raise CliError(*missing)
    return 0


def _by_time(found: list[Resource]) -> list[Resource]:
    """Events in the order in which they were last seen, as `kubectl events` has them; others as they come."""
    if not any(isinstance(obj, Event) for obj in found):
        return found
    return [
        obj
        for cls, group in groupby(found, type)
        for obj in (sorted(group, key=lambda each: event_time(each.raw)) if cls is Event else group)
    ]


def _about(kinds: Kinds, about: str | None, targets: Sequence[Target]) -> Callable[[Resource], bool]:
    """Whether an object is shown, by `--for`. Raises `UsageError`, `UnknownKind`."""
    if about is None:
        return lambda obj: True
    if any(target.cls is not Event for target in targets):
        raise click.UsageError("--for goes with events only")
    kind, name = single_target([about])
    wanted = kinds.lookup(kind).TYPE

    def keep(obj: Resource) -> bool:
        raw = obj.raw.get("involvedObject") or {}
        group = str(raw.get("apiVersion") or "").rpartition("/")[0]
        return bool((raw.get("kind"), raw.get("name"), group) == (wanted.kind, name, wanted.group))

    return keep


# ---- the past -------------------------------------------------------------------------------------------------------


async def _kinds_at(session: Session, revision: int) -> Kinds:
    async with telling(session.client, revision):
        return Kinds.of(await definitions_at(session.client, revision))


async def _read_at(
    session: Session, targets: Sequence[Target], selector: Selector, revision: int
) -> tuple[list[Resource], list[str]]:
    """As `read_targets`, all of it as one revision had it."""
    found: list[Resource] = []
    missing: list[str] = []
    async with telling(session.client, revision):
        for target in targets:
            cls, name = target.cls, target.name
            if name is None:
                every = objects_at(session.client, cls, target.namespace, revision)
                found += [obj async for obj in every if selector.matches(obj.metadata.labels)]
                continue
            if not selector.empty:
                raise click.UsageError("a name and a selector exclude each other")
            stored = await session.client.get(object_key(cls, target.namespace, name), revision=revision)
            if stored is None:
                missing.append(f'{cls.TYPE.qualified} "{name}" not found at revision {revision}')
            else:
                found.append(cls.decode(stored.value, str(stored.mod_revision)))
    return found, missing


# ---- showing --------------------------------------------------------------------------------------------------------


class _View:
    """Prints objects in the form asked for."""

    def __init__(
        self,
        session: Session,
        output: str | None,
        with_namespace: bool,
        with_labels: bool,
        headers: bool,
        with_kind: bool,
        with_managed_fields: bool,
    ) -> None:
        self._now = session.now
        self._output = output
        self._with_namespace = with_namespace
        self._with_labels = with_labels
        self._headers = headers
        self._with_kind = with_kind
        self._with_managed_fields = with_managed_fields
        self._tables: dict[type[Resource], Table] = {}

    def rows(self, found: Iterable[Resource]) -> None:
        """A table for each kind, or more rows of it; names alone, or documents, if that is the form."""
        for number, (cls, each) in enumerate(groupby(found, type)):
            some = list(each)
            match self._output:
                case "name":
                    for obj in some:
                        click.echo(reference(obj))
                case "yaml":
                    for obj in some:
                        click.echo(f"---\n{to_yaml(self._raw(obj))}", nl=False)
                case "json":
                    for obj in some:
                        click.echo(to_json(self._raw(obj)), nl=False)
                case _:
                    if number:
                        click.echo()
                    for line in self._table(cls).lines([self._row(obj) for obj in some]):
                        click.echo(line)

    def document(self, found: Sequence[Resource], *, single: bool) -> None:
        """One object as it is, or all of them as a List."""
        if single and not found:
            return
        listed = {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}}
        whole = self._raw(found[0]) if single else {**listed, "items": [self._raw(obj) for obj in found]}
        click.echo(to_yaml(whole) if self._output == "yaml" else to_json(whole), nl=False)

    def _raw(self, obj: Resource) -> Raw:
        return obj.raw if self._with_managed_fields else without_managed_fields(obj.raw)

    def _table(self, cls: type[Resource]) -> Table:
        if cls not in self._tables:
            names = columns_of(cls.TYPE.qualified).header(wide=self._output == "wide")
            if self._with_namespace and cls.TYPE.namespaced:
                names.insert(0, "NAMESPACE")
            if self._with_labels:
                names.append("LABELS")
            self._tables[cls] = Table(names, headers=self._headers)
        return self._tables[cls]

    def _row(self, obj: Resource) -> list[str]:
        cls = type(obj)
        columns = columns_of(cls.TYPE.qualified)
        cells = columns.row(obj.raw, self._now(), wide=self._output == "wide")
        if self._with_kind and "NAME" in columns.names:
            place = columns.names.index("NAME")
            cells[place] = f"{kind_reference(cls)}/{cells[place]}"
        if self._with_namespace and cls.TYPE.namespaced:
            cells.insert(0, obj.namespace or "")
        if self._with_labels:
            cells.append(labels_text((obj.raw.get("metadata") or {}).get("labels")))
        return cells


# ---- watching -------------------------------------------------------------------------------------------------------


async def _watch(
    session: Session, target: Target, selector: Selector, keep: Callable[[Resource], bool], view: _View
) -> None:
    """Print what there is, then every change, until cancelled."""
    if target.name is not None:
        await session.objects.get(target.cls, target.name, target.namespace)
    namespace = target.namespace if target.cls.TYPE.namespaced else None
    source = StoreListWatch(session.client, target.cls.TYPE, namespace)
    sink = _Changes(target, selector, keep, view)
    await Reflector(source, sink, rng=random.Random(), on_transition=_tell).run()


class _Changes:
    """A reflector's sink that prints each state of each object; of one that goes away the last state."""

    def __init__(self, target: Target, selector: Selector, keep: Callable[[Resource], bool], view: _View) -> None:
        self._cache = Cache({})
        self._target = target
        self._selector = selector
        self._keep = keep
        self._view = view
        self._key: str | None = None
        if target.name is not None:
            within = f"{target.namespace or DEFAULT_NAMESPACE}/" if target.cls.TYPE.namespaced else ""
            self._key = within + target.name

    def replace(self, items: Sequence[Item], revision: str) -> None:
        self._print(self._cache.replace(items, revision), listed=True)

    def apply(self, events: Sequence[WatchEvent]) -> None:
        self._print(self._cache.apply(events))

    def _print(self, changes: Sequence[Change], *, listed: bool = False) -> None:
        states = [self._shown(change) for change in changes if self._key is None or change.key == self._key]
        shown = [obj for obj in states if obj is not None and self._keep(obj)]
        self._view.rows(_by_time(shown) if listed else shown)

    def _shown(self, change: Change) -> Resource | None:
        for stored in (change.new, change.old):
            if stored is not None and self._selector.matches(stored.meta.labels):
                return self._decode(stored)
        return None

    def _decode(self, stored: Stored) -> Resource:
        return self._target.cls.decode(stored.data, stored.revision)


def _tell(transition: Transition) -> None:
    after = f"revision {transition.revision}"
    match transition.old, transition.new:
        case _, State.RESUMING:
            click.echo(f"note: the watch was cut, resuming after {after}", err=True)
        case _, State.RELISTING:
            click.echo(f"note: the history after {after} was compacted, listing again", err=True)
        case State.RESUMING | State.RELISTING, State.WATCHING:
            click.echo(f"note: watching again from {after}", err=True)
