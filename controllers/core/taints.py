"""Taints keep pods off a node, tolerations put up with them. As their fields are read of many objects at once."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Taint(msgspec.Struct, frozen=True, gc=False):
    """Keeps pods off a node unless they tolerate it."""

    key: str = ""
    value: str = ""
    effect: str = ""

    def __str__(self) -> str:
        return f"{{{self.key}: {self.value}}}"


class Toleration(msgspec.Struct, frozen=True, gc=False):
    """A taint that a pod puts up with."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def covers(self, taint: Taint) -> bool:
        """Whether it is this taint."""
        if self.effect and self.effect != taint.effect:
            return False
        if not self.key:
            return self.operator == "Exists"
        return self.key == taint.key and (self.operator == "Exists" or self.value == taint.value)


def tolerates(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    """Whether one of them covers the taint."""
    return any(each.covers(taint) for each in tolerations)


def untolerated(taints: Iterable[Taint], tolerations: Iterable[Toleration], *effects: str) -> Taint | None:
    """The first taint of one of these effects that none of the tolerations covers."""
    return next((each for each in taints if each.effect in effects and not tolerates(tolerations, each)), None)
