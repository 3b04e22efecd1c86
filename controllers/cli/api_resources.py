"""`listwatch api-resources`."""

from __future__ import annotations

import click

from controllers.cli.options import global_options
from controllers.cli.session import Session, with_session
from controllers.cli.table import table


@click.command()
@global_options
@with_session
async def api_resources(session: Session) -> int:
    """List the kinds of objects: the built-in ones and those defined in the store."""
    rows = []
    for cls in session.kinds.all():
        kind = cls.TYPE
        namespaced = str(kind.namespaced).lower()
        rows.append((kind.plural, ",".join(kind.short_names), kind.api_version, namespaced, kind.kind))
    for line in table(("NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"), rows):
        click.echo(line)
    return 0
