"""Permissions: the merged intervals against the plain meaning of each."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from kvstore.permissions import Grants, KeySet, Permission, PermissionType, is_valid

LETTERS = [b"\x00", b"a", b"b", b"\xff"]
KEYS = st.lists(st.sampled_from(LETTERS), min_size=1, max_size=3).map(b"".join)
ENDS = st.one_of(st.just(b""), st.just(b"\x00"), KEYS)
# Between any two of the keys above there is one of these, and one lies beyond all of them: what is true of all of
# these is true of every key.
SAMPLE = sorted({b"".join(parts) for parts in [(a, b, c, d) for a in LETTERS for b in [b"", *LETTERS]
                 for c in [b"", *LETTERS] for d in [b"", *LETTERS, b"m"]]} | {b"\xff" * 5})  # fmt: skip


def holds(key: bytes, start: bytes, end: bytes) -> bool:
    """Range's meaning of a range."""
    if not end:
        return key == start
    return key >= start and (end == b"\x00" or key < end)


@given(st.lists(st.tuples(KEYS, ENDS), max_size=6), KEYS, ENDS)
@example([(b"a", b"b"), (b"b", b"c")], b"a", b"c")
@example([(b"a", b"")], b"a", b"\x00")
@example([(b"a", b"\x00")], b"b", b"\x00")
@example([(b"a", b""), (b"a\x00", b"b")], b"a", b"b")
def test_a_range_is_covered_if_every_key_of_it_is(intervals: list[tuple[bytes, bytes]], key: bytes, end: bytes) -> None:
    asked = [each for each in SAMPLE if holds(each, key, end)]
    granted = KeySet((start, stop) for start, stop in intervals if is_valid(Permission(0, start, stop)))
    plain = all(any(holds(each, start, stop) for start, stop in intervals) for each in asked)
    if asked:
        assert granted.covers(key, end) == plain
    elif granted.covers(key, end):  # nothing is asked for; where it lies decides
        assert any(start <= key for start, _ in intervals)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 7]), KEYS), max_size=5), KEYS)
def test_types(permissions: list[tuple[int, bytes]], key: bytes) -> None:
    grants = Grants(Permission(kind, where) for kind, where in permissions)
    kinds = {kind for kind, where in permissions if where == key}
    assert grants.read.covers(key, b"") == bool(kinds & {PermissionType.READ, PermissionType.READWRITE})
    assert grants.write.covers(key, b"") == bool(kinds & {PermissionType.WRITE, PermissionType.READWRITE})


def test_one_key_is_not_all_from_it_on() -> None:
    one = KeySet([(b"k", b"")])
    assert one.covers(b"k", b"")
    assert not one.covers(b"k", b"\x00")
    assert not one.covers(b"k", b"l")
    assert not one.covers(b"k", b"k\x00\x00")
    assert one.covers(b"k", b"k\x00"), "the range that holds this key alone"


def test_ranges_that_can_hold_a_key() -> None:
    for key, end in [(b"a", b""), (b"a", b"b"), (b"a", b"\x00"), (b"\x00", b"\x00")]:
        assert is_valid(Permission(0, key, end))
    for key, end in [(b"a", b"a"), (b"b", b"a"), (b"", b""), (b"", b"a"), (b"", b"\x00")]:
        assert not is_valid(Permission(0, key, end))
