"""The group, and what its commands have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import click

from controllers.cli.choosing import chosen
from controllers.cli.editing import edit_each
from controllers.cli.errors import CliError
from controllers.cli.options import file_options, global_options, namespace_option, selector_option
from controllers.cli.raw import items, mapping
from controllers.cli.session import Session
from controllers.cli.targets import reference
from controllers.cli.telling import dry_run_option, output_option
from informer.resources import Resource

Containers = list[dict[str, Any]]


class Setters(click.Group):
    """The commands, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them."""
        return ["env", "image", "resources"]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name."""
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = getattr(import_module(f"controllers.cli.set.{name}"), name)
        return command


@click.group(name="set", cls=Setters)
def set_() -> None:
    """Change images, environment or resources of containers, in pods and in what has a pod template."""


def setting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of all of them."""
    for option in (
        file_options,
        namespace_option,
        selector_option,
        click.option("--all", "everything", is_flag=True, help="All objects of the kinds named, in the namespace."),
        dry_run_option,
        output_option,
        global_options,
    ):
        function = option(function)
    return function


def containers_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`-c`."""
    return click.option(
        "-c", "--containers", "names", default="*", metavar="NAME", help="Of this container; * is every one."
    )(function)


def containers_of(obj: Resource) -> Containers:
    """All containers of the object's pods, not only copies. Raises `CliError` if it has none."""
    spec = mapping(obj.raw, "spec")
    spec = mapping(spec, "jobTemplate", "spec") or spec
    pod = mapping(spec, "template", "spec") or ({} if "template" in spec else spec)
    found = [*items(pod, "initContainers"), *items(pod, "containers")]
    if not found:
        raise CliError(f"{reference(obj)} has no containers")
    return found


def named(obj: Resource, name: str) -> Containers:
    """The containers of a name; `*` is every one. Raises `CliError` if there is none."""
    found = containers_of(obj)
    chosen_ones = [each for each in found if name in ("*", each.get("name"))]
    if not chosen_ones:
        there = ", ".join(str(each.get("name")) for each in found)
        raise CliError(f'unable to find container named "{name}" in {reference(obj)}; it has {there}')
    return chosen_ones


async def set_each(
    session: Session,
    resources: Sequence[str],
    change: Callable[[Resource], bool],
    done: str,
    *,
    dry_run: bool,
    output: str | None,
    **choice: Any,
) -> int:
    """Make the change to each of the objects, and tell of those that it changes."""
    namespace = choice.pop("namespace")
    found, problems = await chosen(session, resources, namespace, **choice)
    return await edit_each(
        session, found, change, done, problems=problems, quiet_if_unchanged=True, output=output, dry_run=dry_run
    )
