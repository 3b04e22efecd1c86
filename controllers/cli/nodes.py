"""What the commands on nodes have in common: which nodes, and letting pods be put there or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from controllers.cli.editing import edit
from controllers.cli.errors import CliError
from controllers.cli.options import completing, selector_option
from controllers.cli.session import Session
from controllers.cli.telling import tell
from controllers.core.types import Node
from informer.errors import NotFound

F = TypeVar("F", bound=Callable[..., Any])


def node_arguments(function: F) -> F:
    """`NODE...`, or `-l`."""
    names = click.argument("names", nargs=-1, metavar="[NODE]...", shell_complete=completing("nodes"))
    return names(selector_option(function))


async def chosen_nodes(session: Session, names: Sequence[str], selector: str) -> tuple[list[Node], list[str]]:
    """The nodes that there are, and a line for each that there is not. Raises `UsageError`, `CliError`."""
    if bool(names) == bool(selector):
        raise click.UsageError(
            "name the nodes, or select them by -l" if not names else "names and a selector exclude each other"
        )
    if selector:
        found = [*await session.objects.list(Node, selector=selector)]
        if not found:
            raise CliError("no nodes found")
        return found, []
    found, missing = [], []
    for name in dict.fromkeys(_plain(name) for name in names):
        try:
            found.append(await session.objects.get(Node, name))
        except NotFound as error:
            missing.append(str(error))
    return found, missing


def _plain(name: str) -> str:
    kind, slash, plain = name.partition("/")
    if not slash:
        return name
    if kind not in ("node", "nodes", "no") or not plain:
        raise click.UsageError(f'"{name}": expected the name of a node')
    return plain


async def set_schedulable(session: Session, node: Node, *, schedulable: bool, dry_run: bool) -> None:
    """Cordon or uncordon a node, and tell of it. Raises `ApiError`."""
    word = "uncordoned" if schedulable else "cordoned"

    def change(obj: Node) -> bool:
        if obj.spec.unschedulable != schedulable:
            return False
        obj.spec.unschedulable = not schedulable
        return True

    changed = await edit(session, node, change, dry_run=dry_run)
    if changed is None:
        click.echo(f"node/{node.name} already {word}")
    else:
        tell(changed, word, dry_run=dry_run)
