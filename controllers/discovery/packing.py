"""How endpoints are dealt out to slices: with few writes, not as tightly as could be. As the EndpointSlice controller.

Every write of a slice goes to every node of a cluster, so a slice that is right is left alone even if its neighbours
have room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

CAPACITY = 100  # kube-controller-manager's --max-endpoints-per-slice

Raw = dict[str, Any]
Identity = tuple[Any, ...]


class Slice(msgspec.Struct, frozen=True):
    """A slice that is there. current: its labels and owner are as they should be."""

    name: str
    endpoints: Sequence[Raw]
    current: bool = True


class Packed(msgspec.Struct):
    """What to do: slices to be made, slices with another content, slices to go."""

    create: list[list[Raw]]
    update: dict[str, list[Raw]]
    delete: list[str]


def identity(endpoint: Raw) -> Identity:
    """What makes two endpoints the same one, whatever its conditions are."""
    target = endpoint.get("targetRef") or {}
    return (
        tuple(endpoint["addresses"]),
        endpoint.get("hostname"),
        target.get("namespace"),
        target.get("name"),
        target.get("uid"),
    )


def pack(existing: Sequence[Slice], desired: Mapping[Identity, Raw], capacity: int = CAPACITY) -> Packed:
    """Deal out endpoints of one port set: existing slices lose what is wanted no more and keep what is; those that
    have to be written anyway are filled up first, fullest first; what is left goes into one other slice if it fits
    there, and into new ones if not."""
    missing = dict(desired)
    update: dict[str, list[Raw]] = {}
    untouched: dict[str, Sequence[Raw]] = {}
    delete: list[str] = []
    for each in existing:
        kept = [found for endpoint in each.endpoints if (found := missing.pop(identity(endpoint), None)) is not None]
        if len(kept) > capacity:
            missing.update((identity(endpoint), endpoint) for endpoint in kept[capacity:])
            kept = kept[:capacity]
        if not kept:
            delete.append(each.name)
        elif each.current and kept == list(each.endpoints):
            untouched[each.name] = each.endpoints
        else:
            update[each.name] = kept
    for name in sorted(update, key=lambda name: (-len(update[name]), name)):
        _fill(update[name], missing, capacity)
    create: list[list[Raw]] = []
    while missing:
        fitting = [name for name, endpoints in untouched.items() if len(endpoints) + len(missing) <= capacity]
        if fitting:
            name = max(fitting, key=lambda name: (len(untouched[name]), name))
            update[name] = [*untouched.pop(name)]
            _fill(update[name], missing, capacity)
        else:
            create.append([])
            _fill(create[-1], missing, capacity)
    # One that would go takes what one would be made for.
    while create and delete:
        update[delete.pop(0)] = create.pop(0)
    return Packed(create, update, delete)


def _fill(endpoints: list[Raw], missing: dict[Identity, Raw], capacity: int) -> None:
    endpoints.extend(missing.pop(key) for key in list(missing)[: capacity - len(endpoints)])
