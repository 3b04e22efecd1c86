"""What a command that changes objects says of each: kubectl's line, or the object itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from controllers.cli.json_writer import to_json, without_managed_fields
from controllers.cli.targets import reference
from informer.resources import Resource

F = TypeVar("F", bound=Callable[..., Any])


def dry_run_option(function: F) -> F:
    """`--dry-run=client`; without a value it is that, as in kubectl. The command gets a boolean."""

    def convert(ctx: click.Context, _: click.Parameter, value: str) -> bool:
        return value == "client"

    return click.option(
        "--dry-run",
        type=click.Choice(["none", "client"]),
        is_flag=False,
        flag_value="client",
        default="none",
        callback=convert,
        help="client: only say what would be done.",
    )(function)


def output_option(function: F) -> F:
    """`-o name|yaml|json`."""
    return click.option(
        "-o", "--output", type=click.Choice(["name", "yaml", "json"]), help="Print the name or the object alone."
    )(function)


def tell(obj: Resource, done: str, *, output: str | None = None, dry_run: bool = False) -> None:
    """Print `deployment.apps/web labeled`, or what `-o` asks for."""
    match output:
        case "name":
            click.echo(reference(obj))
        case "yaml":
            from controllers.cli.yaml_writer import to_yaml

            click.echo(to_yaml(without_managed_fields(obj.raw)), nl=False)
        case "json":
            click.echo(to_json(without_managed_fields(obj.raw)), nl=False)
        case _:
            click.echo(f"{reference(obj)} {done}{' (dry run)' if dry_run else ''}")
