"""What a page is made of besides the object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

import msgspec

from controllers.cli.page import Page
from controllers.cli.raw import Raw, dig


class Related(msgspec.Struct, frozen=True):
    """What was found around an object: what it owns, the pods it concerns, and what events tell of it.

    near: all that was read, by qualified kind: at least what is in the object's namespace.
    """

    owned: Sequence[Raw]
    pods: Sequence[Raw]
    events: Sequence[Raw]
    now: datetime
    near: Mapping[str, Sequence[Raw]] = msgspec.field(default_factory=dict)

    def within(self, kind: str, namespace: object) -> list[Raw]:
        """The objects of a kind in a namespace."""
        return [each for each in self.near.get(kind, ()) if dig(each, "metadata", "namespace") == namespace]


Describer: TypeAlias = Callable[[Page, Raw, Related], None]
