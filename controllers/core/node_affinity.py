"""Which nodes a pod may run on by their labels and names: `nodeSelector` and `affinity.nodeAffinity`. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Requirement(msgspec.Struct, frozen=True, gc=False):
    """One expression: In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: list[str] = []

    def holds(self, value: str | None) -> bool:
        """Whether a label of this value (None: not there) fits. An operator that is none fits nothing."""
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                try:
                    has, bound = int(value or ""), int(self.values[0])
                except (ValueError, IndexError):
                    return False
                return has > bound if self.operator == "Gt" else has < bound
            case _:
                return False


class Term(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """All of its expressions have to hold; one without any holds nowhere. Fields: `metadata.name` alone."""

    match_expressions: list[Requirement] | None = None
    match_fields: list[Requirement] | None = None

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether a node of this name and labels fits."""
        if not self.match_expressions and not self.match_fields:
            return False
        return all(each.holds(labels.get(each.key)) for each in self.match_expressions or ()) and all(
            each.key == "metadata.name" and each.holds(name) for each in self.match_fields or ()
        )


class Required(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One of the terms has to match; none at all matches nothing."""

    node_selector_terms: list[Term] = []


class Preferred(msgspec.Struct, frozen=True, gc=False):
    """A term, and what it is worth, 1 to 100."""

    weight: int = 0
    preference: Term = msgspec.field(default_factory=Term)


class NodeAffinity(msgspec.Struct, frozen=True, gc=False):
    """`spec.affinity.nodeAffinity` of a pod."""

    required: Required | None = msgspec.field(name="requiredDuringSchedulingIgnoredDuringExecution", default=None)
    preferred: list[Preferred] | None = msgspec.field(
        name="preferredDuringSchedulingIgnoredDuringExecution", default=None
    )


def node_fits(
    selector: Mapping[str, str] | None, affinity: NodeAffinity | None, name: str, labels: Mapping[str, str]
) -> bool:
    """Whether a pod with this nodeSelector and node affinity may run on the node."""
    if selector and any(labels.get(key) != value for key, value in selector.items()):
        return False
    required = affinity.required if affinity is not None else None
    return required is None or any(term.matches(name, labels) for term in required.node_selector_terms)
