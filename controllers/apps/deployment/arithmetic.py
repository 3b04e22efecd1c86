"""The numbers of a rollout: how far it may go above and below, and whose turn it is. Pure functions; the examples run.

A size is a ReplicaSet as these rules see it: `spec` pods wanted, `available` pods that serve.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Size(msgspec.Struct, frozen=True):
    """One ReplicaSet. max_replicas: what the whole Deployment could have when it was last scaled, by its annotation."""

    spec: int
    available: int = 0
    max_replicas: int = 0


def part_of(value: int | str, total: int, *, round_up: bool) -> int:
    """A number, or a percentage of `total`.

    >>> part_of(3, 10, round_up=True)
    3
    >>> part_of("25%", 10, round_up=True), part_of("25%", 10, round_up=False)
    (3, 2)
    """
    if isinstance(value, int):
        return value
    hundredths = int(value.removesuffix("%")) * total
    return -(-hundredths // 100) if round_up else hundredths // 100


def fenceposts(max_surge: int | str, max_unavailable: int | str, replicas: int) -> tuple[int, int]:
    """(surge, unavailable) in pods. Surge rounds up, unavailable rounds down; a rollout that could not move at all may
    take one pod away.

    >>> fenceposts("25%", "25%", 10)
    (3, 2)
    >>> fenceposts("25%", "25%", 1)
    (1, 0)
    >>> fenceposts(0, "10%", 5)
    (0, 1)
    """
    surge = part_of(max_surge, replicas, round_up=True)
    unavailable = part_of(max_unavailable, replicas, round_up=False)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def new_size(replicas: int, surge: int, total: int, new: int) -> int:
    """What the new ReplicaSet may have now, when all together have `total` and it has `new`.

    Ten pods wanted, three more allowed, ten old ones there: the new one begins with three.

    >>> new_size(replicas=10, surge=3, total=10, new=0)
    3
    >>> new_size(replicas=10, surge=3, total=13, new=3)
    3
    >>> new_size(replicas=10, surge=3, total=11, new=9)
    10
    >>> new_size(replicas=4, surge=1, total=10, new=6)
    4
    """
    if new >= replicas:
        return replicas
    return new + min(max(0, replicas + surge - total), replicas - new)


def old_budget(replicas: int, unavailable: int, total: int, new: Size) -> int:
    """How many old pods may go at most: what is above the least that must be there, less the new pods that are not yet
    available.

    Ten wanted, eight must serve. Ten old and three new ones that are starting: of thirteen, ten may not be touched.

    >>> old_budget(replicas=10, unavailable=2, total=13, new=Size(3))
    2
    >>> old_budget(replicas=10, unavailable=2, total=13, new=Size(3, available=3))
    5
    """
    return total - (replicas - unavailable) - (new.spec - new.available)


def without_unhealthy(olds: Sequence[Size], budget: int) -> list[int]:
    """The old sizes, oldest first, after pods that do not serve have gone, `budget` of them at most.

    >>> without_unhealthy([Size(4, available=1), Size(3, available=0)], budget=5)
    [1, 1]
    >>> without_unhealthy([Size(5, available=5)], budget=3)
    [5]
    """
    sizes = []
    for old in olds:
        gone = min(budget, max(0, old.spec - old.available))
        budget -= gone
        sizes.append(old.spec - gone)
    return sizes


def without_spare(olds: Sequence[int], available: int, least: int) -> list[int]:
    """The old sizes, oldest first, after those pods have gone without which `least` still serve.

    >>> without_spare([6, 4], available=13, least=8)
    [1, 4]
    >>> without_spare([2, 4], available=13, least=8)
    [0, 1]
    >>> without_spare([6], available=8, least=8)
    [6]
    """
    spare = max(0, available - least)
    sizes = []
    for old in olds:
        gone = min(old, spare)
        spare -= gone
        sizes.append(old - gone)
    return sizes


def proportional(sizes: Sequence[Size], replicas: int, surge: int, status_replicas: int) -> list[int]:
    """The sizes after a scaling that is shared out in proportion. `sizes` are of active ReplicaSets, in order of turn:
    the largest first. Whatever rounding leaves goes to the first.

    A rollout of ten stands at eight old and five new pods when it is scaled to thirty. Forty may be there with a surge
    of ten, so each grows by 40/13, until nothing is left to share.

    >>> proportional([Size(8, max_replicas=13), Size(5, max_replicas=13)], replicas=30, surge=10, status_replicas=13)
    [25, 15]
    >>> proportional([Size(25, max_replicas=40), Size(15, max_replicas=40)], replicas=10, surge=3, status_replicas=40)
    [8, 5]
    >>> proportional([Size(3, max_replicas=4), Size(1, max_replicas=4)], replicas=0, surge=0, status_replicas=4)
    [0, 0]
    """
    allowed = replicas + surge if replicas > 0 else 0
    to_add = allowed - sum(size.spec for size in sizes)
    added = 0
    result = []
    for size in sizes:
        share = _share(size, replicas, surge, status_replicas)
        left = to_add - added
        share = min(share, left) if to_add > 0 else max(share, left) if to_add < 0 else 0
        added += share
        result.append(size.spec + share)
    if result and to_add:
        result[0] = max(0, result[0] + to_add - added)
    return result


def _share(size: Size, replicas: int, surge: int, status_replicas: int) -> int:
    if replicas == 0:
        return -size.spec
    before = size.max_replicas or status_replicas
    # An empty one takes no part: what it gets it could not have had pods for.
    if not before or not size.spec:
        return 0
    # Half away from zero, in whole numbers.
    return (2 * size.spec * (replicas + surge) + before) // (2 * before) - size.spec
