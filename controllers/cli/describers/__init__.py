"""What `describe` says of each kind: kubectl's fields, from plain JSON.

A file has the kinds of one idea, and a table `BY_KIND` of them by qualified plural.
"""

from __future__ import annotations

from controllers.cli.describers import (
    apps,
    autoscaling,
    batch,
    discovery,
    nodes,
    pods,
    policy,
    settings,
    storage,
)
from controllers.cli.describers.parts import events, owned
from controllers.cli.describers.related import Related
from controllers.cli.page import Page
from controllers.cli.raw import Raw

__all__ = ["Related", "describe_object"]

_FILES = (apps, autoscaling, batch, discovery, nodes, pods, policy, settings, storage)
_BY_KIND = {kind: describer for file in _FILES for kind, describer in file.BY_KIND.items()}


def describe_object(raw: Raw, qualified: str, related: Related) -> str:
    """The whole page of an object of a kind."""
    page = Page()
    _BY_KIND.get(qualified, settings.describe_any)(page, raw, related)
    owned(page, raw, related)
    events(page, related)
    return str(page)
