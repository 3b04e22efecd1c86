"""`listwatch get`: tables as kubectl prints them, YAML and JSON, once or as objects change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

import click

from controllers.cli.choosing import chosen_targets
from controllers.cli.columns.events import event_order
from controllers.cli.errors import CliError
from controllers.cli.field_selector import FieldSelector
from controllers.cli.forms import TABLE, Form, Output
from controllers.cli.kinds import Kinds
from controllers.cli.options import (
    KubectlCommand,
    all_namespaces_option,
    completing,
    file_options,
    global_options,
    namespace_option,
    resource_arguments,
    selector_option,
)
from controllers.cli.past import definitions_at, object_key, objects_at, telling
from controllers.cli.session import Session, with_session
from controllers.cli.targets import Target, parse_targets, read_targets, single_target
from controllers.cli.view import View
from controllers.core.types import Event
from informer.resources import Resource
from informer.selectors import Selector


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `get pods`, `get deploy,rs -o wide`, `get svc/web -o yaml`, `get all -A`, `get pods -w`, "
    "`get events --for deploy/web`, `get pods --at-revision 120`, `get --at-revision 120` for the whole store then.",
)
@resource_arguments
@namespace_option
@all_namespaces_option
@selector_option
@file_options
@click.option("--field-selector", default="", metavar="FIELD=VALUE,...", help="By fields: `status.phase=Running`.")
@click.option(
    "-o",
    "--output",
    "form",
    type=Output(),
    default=TABLE,
    show_default=False,
    help="wide, yaml, json, name, jsonpath=PATH or custom-columns=NAME:PATH.",
)
@click.option("--sort-by", metavar="PATH", help="In the order of the values there: `.metadata.creationTimestamp`.")
@click.option("-L", "--label-columns", multiple=True, metavar="LABEL,...", help="A column for each of these labels.")
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
    files: Sequence[str],
    recursive: bool,
    field_selector: str,
    form: Form,
    sort_by: str | None,
    label_columns: Sequence[str],
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
    if files:
        targets = chosen_targets(session, resources, namespace, selector=selector, files=files, recursive=recursive)
    else:
        targets = parse_targets(kinds, resources, namespace, all_namespaces=all_namespaces)
    several_kinds = len({target.cls for target in targets}) > 1
    if watch and several_kinds:
        raise click.UsageError("watch one kind at a time")
    if watch and len(targets) > 1:
        raise click.UsageError("watch one object, or all of a kind")
    wanted = Selector.parse(selector)
    keep = _kept(kinds, about, FieldSelector(field_selector), targets)
    order = _by_time if sort_by is None else partial(_sorted, path=sort_by)
    view = View(
        kinds.columns,
        session.now,
        form,
        with_namespace=all_namespaces,
        with_kind=several_kinds,
        with_labels=show_labels,
        label_columns=[label for each in label_columns for label in each.split(",") if label],
        headers=not no_headers,
        with_managed_fields=show_managed_fields,
    )
    if watch:
        from controllers.cli.watching import watch as watch_objects

        await watch_objects(session, targets[0], wanted, keep, order, view)
        return 0
    if at_revision is None:
        found, missing = await read_targets(session.objects, targets, selector)
    else:
        found, missing = await _read_at(session, targets, wanted, at_revision)
    found = order([obj for obj in found if keep(obj)])
    if form.kind in ("yaml", "json", "jsonpath"):
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


def _sorted(found: list[Resource], path: str) -> list[Resource]:
    from controllers.cli.sorting import sorted_by

    try:
        return sorted_by(found, path)
    except ValueError as error:
        raise click.UsageError(f"--sort-by: {error}") from None


def _by_time(found: list[Resource]) -> list[Resource]:
    """Events in the order in which they were last seen, as `kubectl events` has them; others as they come."""
    if not any(isinstance(obj, Event) for obj in found):
        return found
    return [
        obj
        for cls, group in groupby(found, type)
        for obj in (sorted(group, key=lambda each: event_order(each.raw)) if cls is Event else group)
    ]


def _kept(
    kinds: Kinds, about: str | None, fields: FieldSelector, targets: Sequence[Target]
) -> Callable[[Resource], bool]:
    """Whether an object is shown, by `--for` and `--field-selector`. Raises `UsageError`, `UnknownKind`, `Invalid`."""
    for target in targets:
        fields.check(target.cls)
        if target.name is not None and not fields.empty:
            raise click.UsageError("a name and a selector exclude each other")
    if about is None:
        return lambda obj: fields.matches(type(obj), obj.raw)
    if any(target.cls is not Event for target in targets):
        raise click.UsageError("--for goes with events only")
    kind, name = single_target([about])
    wanted = kinds.lookup(kind).TYPE

    def keep(obj: Resource) -> bool:
        raw = obj.raw.get("involvedObject") or {}
        group = str(raw.get("apiVersion") or "").rpartition("/")[0]
        fits = (raw.get("kind"), raw.get("name"), group) == (wanted.kind, name, wanted.group)
        return fits and fields.matches(type(obj), obj.raw)

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
