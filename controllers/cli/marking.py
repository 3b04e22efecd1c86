"""What `label` and `annotate` have in common: KEY=VALUE sets, KEY- removes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import click

from controllers.cli.choosing import chosen
from controllers.cli.editing import TRIES, edit_each
from controllers.cli.errors import CliError
from controllers.cli.options import (
    all_namespaces_option,
    file_options,
    global_options,
    namespace_option,
    resource_arguments,
    selector_option,
)
from controllers.cli.raw import dig
from controllers.cli.session import Session
from controllers.cli.targets import reference
from controllers.cli.telling import dry_run_option, output_option
from informer.names import key_problem, value_problem
from informer.resources import Resource

F = TypeVar("F", bound=Callable[..., Any])
Field = Literal["labels", "annotations"]


@dataclass(frozen=True, slots=True)
class Marks:
    """What is to be set and what removed."""

    new: Mapping[str, str]
    gone: Sequence[str]


def marking_options(function: F) -> F:
    """The options of both commands."""
    for option in (
        resource_arguments,
        file_options,
        namespace_option,
        all_namespaces_option,
        selector_option,
        click.option("--all", "everything", is_flag=True, help="All objects of the kinds named, in the namespace."),
        click.option("--overwrite", is_flag=True, help="Also change what is set already."),
        click.option("--list", "listing", is_flag=True, help="Show what there is."),
        click.option("--resource-version", metavar="VERSION", help="Only if it is at this one; of one object."),
        dry_run_option,
        output_option,
        global_options,
    ):
        function = option(function)
    return function


def split(arguments: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """The resources, and the changes after them. Raises `UsageError` for a resource after a change."""
    resources: list[str] = []
    changes: list[str] = []
    for argument in arguments:
        if "=" in argument or argument.endswith("-"):
            changes.append(argument)
        elif changes:
            raise click.UsageError(f"all resources must be specified before {what} changes: {argument}")
        else:
            resources.append(argument)
    return resources, changes


def parse(changes: Sequence[str], field: Field) -> Marks:
    """`KEY=VALUE` and `KEY-`. Raises `UsageError`."""
    what = field[:-1]
    new: dict[str, str] = {}
    gone: list[str] = []
    for change in changes:
        key, is_new, value = change.partition("=")
        if not is_new:
            key = change.removesuffix("-")
        if problem := key_problem(key):
            raise click.UsageError(f'invalid {what} key "{key}": {problem}')
        if not is_new:
            gone.append(key)
            continue
        if field == "labels" and (problem := value_problem(value)):
            raise click.UsageError(f'invalid {what} value "{change}": {problem}')
        new[key] = value
    if both := new.keys() & set(gone):
        raise click.UsageError(f"can not both modify and remove {_an(what)} in the same command: {min(both)}")
    return Marks(new, gone)


def _an(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


async def mark(
    session: Session,
    field: Field,
    done: Callable[[Marks, bool], str],
    resources: Sequence[str],
    *,
    overwrite: bool,
    listing: bool,
    resource_version: str | None,
    dry_run: bool,
    output: str | None,
    **choice: Any,
) -> int:
    """Do what the command says, to each of the objects. done: the word for it, by whether anything changed."""
    what = field[:-1]
    named, changes = split(resources, what)
    marks = parse(changes, field)
    if not changes and not listing:
        raise click.UsageError(f"at least one {what} update is required")
    namespace = choice.pop("namespace")
    found, problems = await chosen(session, named, namespace, **choice)
    if resource_version is not None and len(found) + len(problems) > 1:
        raise click.UsageError("--resource-version goes with one object only")
    if listing:
        _list(found, field)
        if not changes:
            if problems:
                raise CliError(*problems)
            return 0

    def change(obj: Resource) -> bool:
        before = dict(dig(obj.raw, "metadata", field) or {})
        if not overwrite and (taken := [key for key in marks.new if before.get(key, marks.new[key]) != marks.new[key]]):
            told = ", ".join(f"'{key}' already has a value ({before[key]})" for key in sorted(taken))
            raise CliError(f"{reference(obj)}: {told}, and --overwrite is false")
        for key in marks.gone:
            if key not in before:
                click.echo(f'{what} "{key}" not found.', err=True)
        after = {key: value for key, value in {**before, **marks.new}.items() if key not in marks.gone}
        metadata = obj.raw["metadata"]
        if after:
            metadata[field] = after
        else:
            metadata.pop(field, None)
        if resource_version is not None:
            metadata["resourceVersion"] = resource_version
        return after != before

    return await edit_each(
        session,
        found,
        change,
        lambda changed: done(marks, changed),
        problems=problems,
        tries=1 if resource_version is not None else TRIES,
        output=output,
        dry_run=dry_run,
    )


def _list(found: Sequence[Resource], field: Field) -> None:
    for obj in found:
        indent = ""
        if len(found) > 1:
            click.echo(f"Listing {field} for {reference(obj)}:")
            indent = " "
        for key, value in sorted((dig(obj.raw, "metadata", field) or {}).items()):
            click.echo(f"{indent}{key}={value}")
