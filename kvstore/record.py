"""The stored record: `mvccpb.KeyValue` in protobuf's wire form, written and read without a protobuf runtime.

A record is encoded once, when it is staged. What LMDB holds is what a Range response and a watch event carry.
Fields go in ascending order and zeros are left out, as every protobuf encoder writes them, so the bytes equal etcd's.
A tombstone's record has the key and the mod_revision, which is what a DELETE event shows.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvstore.api import KeyValue

_KEY, _CREATE, _MOD, _VERSION, _VALUE, _LEASE = b"\x0a", b"\x10", b"\x18", b"\x20", b"\x2a", b"\x30"
_TWO_TO_64 = 1 << 64
_SIGN = 1 << 63
_SMALL = [bytes([n]) for n in range(128)]


def varint(number: int) -> bytes:
    """An int64 or uint64 as a protobuf varint; a negative one takes ten bytes."""
    if 0 <= number < 128:
        return _SMALL[number]
    if number < 0:
        number += _TWO_TO_64
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode(key: bytes, value: bytes, create: int, mod: int, version: int, lease: int) -> bytes:
    """The record of a live key."""
    parts = [_KEY, varint(len(key)), key, _CREATE, varint(create), _MOD, varint(mod), _VERSION, varint(version)]
    if value:
        parts += (_VALUE, varint(len(value)), value)
    if lease:
        parts += (_LEASE, varint(lease))
    return b"".join(parts)


def encode_tombstone(key: bytes, mod: int) -> bytes:
    """The record of a deletion."""
    return encode_tombstones((key,), mod)[0]


def encode_tombstones(keys: Iterable[bytes], mod: int) -> list[bytes]:
    """The records of deletions at one revision."""
    end = _MOD + varint(mod)
    return [_KEY + varint(len(key)) + key + end for key in keys]


def etcd_tombstone(record: bytes) -> bytes:
    """A deletion's record as etcd stores it: the key alone. Ours also tells the revision, for the events made of it."""
    key = key_of(record)
    return _KEY + varint(len(key)) + key


def decode(record: bytes) -> KeyValue:
    """The record as a value; the inverse of `encode` and `encode_tombstone`."""
    key = value = b""
    create = mod = version = lease = 0
    at, end = 0, len(record)
    while at < end:
        tag = record[at]
        at += 1
        number = record[at]
        at += 1
        if number > 127:
            number &= 127
            shift = 7
            while (byte := record[at]) > 127:
                number |= (byte & 127) << shift
                shift += 7
                at += 1
            number |= byte << shift
            at += 1
        if tag == 0x2A:
            value = record[at : at + number]
            at += number
        elif tag == 0x18:
            mod = number
        elif tag == 0x10:
            create = number
        elif tag == 0x20:
            version = number
        elif tag == 0x0A:
            key = record[at : at + number]
            at += number
        elif tag == 0x30:
            lease = number - _TWO_TO_64 if number >= _SIGN else number
        else:
            raise ValueError(f"unknown field tag {tag:#x} in a stored record")
    return KeyValue(key, value, create, mod, version, lease)


def key_of(record: bytes) -> bytes:
    """Only the key, which is the first field."""
    number = record[1]
    if number < 128:
        return record[2 : 2 + number]
    at, shift = 2, 7
    number &= 127
    while (byte := record[at]) > 127:
        number |= (byte & 127) << shift
        shift += 7
        at += 1
    number |= byte << shift
    return record[at + 1 : at + 1 + number]


def without_value(record: bytes) -> bytes:
    """The record as a keys-only read shows it."""
    kv = decode(record)
    return encode(kv.key, b"", kv.create_revision, kv.mod_revision, kv.version, kv.lease)
