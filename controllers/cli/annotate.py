"""`listwatch annotate`."""

from __future__ import annotations

from typing import Any

import click

from controllers.cli.marking import mark, marking_options
from controllers.cli.options import KubectlCommand
from controllers.cli.session import Session, with_session


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `annotate deploy/web kubernetes.io/change-cause='image 1.27'`, `annotate pods --all note-`.",
)
@marking_options
@with_session
async def annotate(session: Session, /, **options: Any) -> int:
    """Set annotations by KEY=VALUE, and remove them by KEY-."""
    return await mark(session, "annotations", lambda marks, changed: "annotated", **options)
