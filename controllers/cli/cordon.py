"""`listwatch cordon` and `listwatch uncordon`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from controllers.cli.errors import CliError
from controllers.cli.nodes import chosen_nodes, node_arguments, set_schedulable
from controllers.cli.options import KubectlCommand, global_options
from controllers.cli.session import Session, with_session
from controllers.cli.telling import dry_run_option
from informer.errors import ApiError


@click.command(cls=KubectlCommand)
@node_arguments
@dry_run_option
@global_options
@with_session
async def cordon(session: Session, names: Sequence[str], selector: str, dry_run: bool) -> int:
    """Let no more pods be put on nodes; those that are there stay."""
    return await _mark(session, names, selector, schedulable=False, dry_run=dry_run)


@click.command(cls=KubectlCommand)
@node_arguments
@dry_run_option
@global_options
@with_session
async def uncordon(session: Session, names: Sequence[str], selector: str, dry_run: bool) -> int:
    """Let pods be put on nodes again."""
    return await _mark(session, names, selector, schedulable=True, dry_run=dry_run)


async def _mark(session: Session, names: Sequence[str], selector: str, *, schedulable: bool, dry_run: bool) -> int:
    found, problems = await chosen_nodes(session, names, selector)
    for node in found:
        try:
            await set_schedulable(session, node, schedulable=schedulable, dry_run=dry_run)
        except ApiError as error:
            problems.append(f"node/{node.name}: {error}")
    if problems:
        raise CliError(*problems)
    return 0
