"""Which objects a command changes: named, selected by label, all of a kind, or those that manifests name."""

from __future__ import annotations

from collections.abc import Sequence

import click

from controllers.cli.errors import CliError
from controllers.cli.session import Session
from controllers.cli.targets import Target, parse_targets, read_targets
from informer.resources import Resource


async def chosen(
    session: Session,
    resources: Sequence[str],
    namespace: str | None,
    *,
    selector: str = "",
    everything: bool = False,
    all_namespaces: bool = False,
    files: Sequence[str] = (),
    recursive: bool = False,
) -> tuple[list[Resource], list[str]]:
    """The objects that there are, and a line for each that there is not.

    Raises `UsageError` for a choice that nobody makes by intent, and `CliError` for manifests that make no sense.
    """
    targets = chosen_targets(
        session,
        resources,
        namespace,
        selector=selector,
        everything=everything,
        all_namespaces=all_namespaces,
        files=files,
        recursive=recursive,
    )
    found, problems = await read_targets(session.objects, targets, selector)
    if not found and not problems:
        raise CliError("no objects found")
    return found, problems


def chosen_targets(
    session: Session,
    resources: Sequence[str],
    namespace: str | None,
    *,
    selector: str = "",
    everything: bool = False,
    all_namespaces: bool = False,
    files: Sequence[str] = (),
    recursive: bool = False,
) -> list[Target]:
    """As `chosen`, without asking the store."""
    if files:
        from controllers.cli.manifests import check_manifests, read_manifests

        if resources or selector or everything:
            raise click.UsageError("-f says which objects: no names, -l or --all besides")
        checked = check_manifests(read_manifests(files, recursive=recursive), session.kinds, namespace)
        return [Target(type(each.object), each.object.name, each.object.namespace) for each in checked]
    targets = parse_targets(session.kinds, resources, namespace, all_namespaces=all_namespaces)
    unnamed = any(target.name is None for target in targets)
    if unnamed and not (selector or everything):
        raise click.UsageError(_how_to_choose())
    if everything and (selector or not unnamed):
        raise click.UsageError("--all goes with kinds only, without names and without -l")
    return targets


def _how_to_choose() -> str:
    """What the command at hand takes."""
    options = {param.name for param in click.get_current_context().command.params}
    ways = {"selector": "select them by -l", "everything": "say --all"}
    return ", or ".join(["name the objects", *(told for option, told in ways.items() if option in options)])
