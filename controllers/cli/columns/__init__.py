"""What `get` shows of each kind, in kubectl's columns. Rows are made of plain JSON, so a half-written object shows too.

A file has the kinds of one idea, and a table `COLUMNS` of them by qualified plural.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from controllers.cli.columns import (
    apps,
    autoscaling,
    batch,
    discovery,
    events,
    nodes,
    pods,
    policy,
    settings,
    storage,
)
from controllers.cli.columns.model import Columns
from controllers.cli.raw import Raw, age_of, name_of

__all__ = ["Columns", "columns_of"]


def _any(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), age_of(raw, now)


_ANY = Columns(("NAME", "AGE"), _any)
_FILES: Sequence[Any] = (apps, autoscaling, batch, discovery, events, nodes, pods, policy, settings, storage)
_BY_KIND: dict[str, Columns] = {kind: columns for file in _FILES for kind, columns in file.COLUMNS.items()}


def columns_of(qualified: str) -> Columns:
    """The columns of a kind, by its qualified plural; NAME and AGE for those that have no columns of their own."""
    return _BY_KIND.get(qualified, _ANY)
