"""Records are protobuf's bytes: what we write protobuf reads, and the other way round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.api import KeyValue
from kvstore.proto import messages
from kvstore.record import decode, encode, encode_tombstone, key_of, varint, without_value
from kvstore.revision import from_key, is_tombstone, main_of, pack, to_key

POSITIVE = st.integers(1, 2**62)
LEASES = st.integers(-(2**63), 2**63 - 1)


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=300), POSITIVE, POSITIVE, POSITIVE, LEASES)
def test_a_record_is_what_protobuf_would_write(
    key: bytes, value: bytes, create: int, mod: int, version: int, lease: int
) -> None:
    record = encode(key, value, create, mod, version, lease)
    message = messages.KeyValue(
        key=key, value=value, create_revision=create, mod_revision=mod, version=version, lease=lease
    )
    assert record == message.SerializeToString(deterministic=True)
    assert decode(record) == KeyValue(key, value, create, mod, version, lease)
    assert key_of(record) == key
    assert decode(without_value(record)) == KeyValue(key, b"", create, mod, version, lease)


@given(st.binary(min_size=1, max_size=300), POSITIVE)
def test_a_tombstone_has_a_key_and_a_mod_revision(key: bytes, mod: int) -> None:
    record = encode_tombstone(key, mod)
    assert record == messages.KeyValue(key=key, mod_revision=mod).SerializeToString(deterministic=True)
    assert key_of(record) == key


@pytest.mark.parametrize(
    ("number", "encoded"),
    [(0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02"), (-1, b"\xff" * 9 + b"\x01")],
)
def test_varints(number: int, encoded: bytes) -> None:
    assert varint(number) == encoded


def test_an_unknown_field_is_an_error_not_a_guess() -> None:
    with pytest.raises(ValueError, match="0x7a"):
        decode(b"\x7a\x01x")


@given(st.lists(st.tuples(st.integers(1, 2**40), st.integers(0, 2**32 - 1), st.booleans()), min_size=2))
def test_packed_revisions_and_their_keys_order_alike(revisions: list[tuple[int, int, bool]]) -> None:
    packed = [pack(*revision) for revision in revisions]
    assert [from_key(to_key(each)) for each in packed] == packed
    assert sorted(packed) == [from_key(key) for key in sorted(map(to_key, packed))]
    assert [(main_of(each), is_tombstone(each)) for each in packed] == [(main, dead) for main, _, dead in revisions]
