"""`listwatch label`."""

from __future__ import annotations

from typing import Any

import click

from controllers.cli.marking import Marks, mark, marking_options
from controllers.cli.options import KubectlCommand
from controllers.cli.session import Session, with_session


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `label pods web-1 tier=front`, `label deploy/web tier-`, `label nodes --all zone=a --overwrite`.",
)
@marking_options
@with_session
async def label(session: Session, /, **options: Any) -> int:
    """Set labels by KEY=VALUE, and remove them by KEY-."""
    return await mark(session, "labels", _done, **options)


def _done(marks: Marks, changed: bool) -> str:
    if not changed:
        return "not labeled"
    return "labeled" if marks.new else "unlabeled"
