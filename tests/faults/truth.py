"""What a store held at each revision, and what an informer without fault tells of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec

State: TypeAlias = tuple[bytes, int]  # an object's bytes, and the revision that wrote them


class Told(msgspec.Struct, frozen=True):
    """One notification. Revisions stand for states; `old` of a delete is the last state seen, 0 = none."""

    what: str  # add, update, delete
    key: str
    old: int
    new: int
    initial: bool = False
    final_state_known: bool = True


class _Written(msgspec.Struct, frozen=True):
    revision: int
    key: str
    data: bytes | None  # None = deleted


class Truth:
    """The history of the objects under a prefix, in the order of their revisions."""

    def __init__(self) -> None:
        self._written: list[_Written] = []
        self._states: dict[tuple[str, int], bytes] = {}

    def record(self, revision: int, changes: Iterable[tuple[str, bytes | None]]) -> None:
        """Add what one revision wrote, in its order."""
        assert not self._written or self._written[-1].revision < revision, "revisions are recorded in order"
        for key, data in changes:
            self._written.append(_Written(revision, key, data))
            if data is not None:
                self._states[key, revision] = data

    def under(self, start: str) -> Truth:
        """The history of the objects whose keys begin so."""
        part = Truth()
        part._written = [each for each in self._written if each.key.startswith(start)]
        part._states = {key: data for key, data in self._states.items() if key[0].startswith(start)}
        return part

    @property
    def last(self) -> int:
        """The last revision that wrote something here; 0 = none."""
        return self._written[-1].revision if self._written else 0

    def data(self, key: str, revision: int) -> bytes | None:
        """What `revision` wrote to `key`; None if it wrote no state."""
        return self._states.get((key, revision))

    def at(self, revision: int) -> dict[str, State]:
        """What there was at a revision, by key."""
        objects: dict[str, State] = {}
        for each in self._written:
            if each.revision > revision:
                break
            if each.data is None:
                objects.pop(each.key, None)
            else:
                objects[each.key] = (each.data, each.revision)
        return objects

    def _between(self, after: int, upto: int) -> Iterator[_Written]:
        return (each for each in self._written if after < each.revision <= upto)

    def told(self, begin: int, relists: Sequence[tuple[int, int]], end: int) -> dict[str, list[Told]]:
        """What a handler that misses nothing is told of each object.

        begin: the revision at which it is told what is there. relists: (the last revision seen, that of the list), of
        each list since. end: the last revision it was told of.
        """
        told = [Told("add", key, 0, revision, initial=True) for key, (_, revision) in self.at(begin).items()]
        at = begin
        for seen, listed in (*relists, (end, end)):
            if seen < at:
                continue  # a list from before the handler was there
            held = {key: revision for key, (_, revision) in self.at(at).items()}
            for each in self._between(at, seen):
                old = held.pop(each.key, 0)
                if each.data is None:
                    if old:
                        told.append(Told("delete", each.key, old, 0))
                    continue
                held[each.key] = each.revision
                told.append(Told("update" if old else "add", each.key, old, each.revision))
            told += self._difference(held, self.at(listed))
            at = listed
        by_key: dict[str, list[Told]] = {}
        for one in told:
            by_key.setdefault(one.key, []).append(one)
        return by_key

    def _difference(self, held: Mapping[str, int], there: Mapping[str, State]) -> Iterator[Told]:
        for key, old in held.items():
            if key not in there:
                yield Told("delete", key, old, 0, final_state_known=False)
        for key, (data, revision) in there.items():
            known = held.get(key, 0)
            if known == revision:
                continue
            if known and uid_of(self._states[key, known]) != uid_of(data):
                yield Told("delete", key, known, 0, final_state_known=False)
                known = 0
            yield Told("update" if known else "add", key, known, revision)


def uid_of(data: bytes) -> str:
    """The object's uid."""
    uid: str = msgspec.json.decode(data)["metadata"]["uid"]
    return uid
