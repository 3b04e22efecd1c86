"""`listwatch set env`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from controllers.cli.choosing import chosen
from controllers.cli.errors import CliError
from controllers.cli.options import KubectlCommand, completing
from controllers.cli.raw import items
from controllers.cli.session import Session, with_session
from controllers.cli.set.command import containers_of, containers_option, named, set_each, setting_options
from controllers.cli.targets import reference
from informer.resources import Resource

_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `set env deploy/web LEVEL=debug`, `set env deploy/web LEVEL-`, `set env deploy/web --list`.",
)
@click.argument(
    "resources",
    nargs=-1,
    metavar="KIND[/NAME] [NAME]... KEY=VALUE... KEY-...",
    shell_complete=completing("resources"),
)
@click.option("--list", "listing", is_flag=True, help="Show what there is.")
@containers_option
@setting_options
@with_session
async def env(session: Session, /, resources: Sequence[str], listing: bool, names: str, **options: Any) -> int:
    """Set environment variables of containers by KEY=VALUE, and remove them by KEY-."""
    named_ones = [each for each in resources if "=" not in each and not each.endswith("-")]
    new = dict(each.split("=", 1) for each in resources if "=" in each)
    gone = [each[:-1] for each in resources if "=" not in each and each.endswith("-")]
    for name in (*new, *gone):
        if not _NAME.fullmatch(name):
            raise click.UsageError(f'"{name}" is no name of an environment variable')
    if both := new.keys() & set(gone):
        raise click.UsageError(f"can not both modify and remove a variable in the same command: {min(both)}")
    if listing:
        return await _list(session, named_ones, names, **options)
    if not new and not gone:
        raise click.UsageError("at least one environment variable must be provided: KEY=VALUE or KEY-")

    def change(obj: Resource) -> bool:
        changed = False
        for container in named(obj, names):
            before = items(container, "env")
            after = [
                {"name": each["name"], "value": new[each["name"]]} if each.get("name") in new else each
                for each in before
                if each.get("name") not in gone
            ]
            there = {each.get("name") for each in before}
            after += [{"name": name, "value": value} for name, value in new.items() if name not in there]
            changed = changed or after != before
            if after:
                container["env"] = after
            else:
                container.pop("env", None)
        return changed

    return await set_each(session, named_ones, change, "env updated", **options)


async def _list(session: Session, resources: Sequence[str], names: str, **options: Any) -> int:
    choice = {key: value for key, value in options.items() if key not in ("dry_run", "output", "namespace")}
    found, problems = await chosen(session, resources, options["namespace"], **choice)
    for obj in found:
        for container in containers_of(obj):
            if names in ("*", container.get("name")):
                click.echo(f"# {reference(obj)}, container {container.get('name')}")
                for each in items(container, "env"):
                    source = each.get("valueFrom")
                    shown = f"# {each.get('name')} from {', '.join(source)}" if source else None
                    click.echo(shown or f"{each.get('name')}={each.get('value', '')}")
    if problems:
        raise CliError(*problems)
    return 0
