"""`create namespace` and `create serviceaccount`."""

from __future__ import annotations

import click

from controllers.cli.making import Making, making_options
from controllers.cli.options import KubectlCommand, global_options
from controllers.cli.session import Session, with_session


@click.command(cls=KubectlCommand)
@click.argument("name")
@making_options
@global_options
@with_session
async def namespace(session: Session, name: str, making: Making) -> None:
    """Create a namespace."""
    await making.make(session, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


@click.command(cls=KubectlCommand)
@click.argument("name")
@making_options
@global_options
@with_session
async def serviceaccount(session: Session, name: str, making: Making) -> None:
    """Create a ServiceAccount."""
    await making.make(session, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
