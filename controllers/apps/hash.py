"""The hash that names a ReplicaSet after its template. It only has to differ; equality of templates is what counts."""

from __future__ import annotations

from typing import Any

from informer import patch

# kube-apiserver's alphabet for generated names: no vowels and no look-alikes.
_SAFE = "bcdfghjklmnpqrstvwxz2456789"
_FNV_OFFSET, _FNV_PRIME = 2166136261, 16777619


def fnv32a(data: bytes) -> int:
    """The FNV-1a hash of 32 bits.

    >>> hex(fnv32a(b"")), hex(fnv32a(b"a"))
    ('0x811c9dc5', '0xe40c292c')
    """
    value = _FNV_OFFSET
    for byte in data:
        value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return value


def template_hash(template: dict[str, Any], collisions: int | None = None) -> str:
    """Up to ten safe letters for a pod template; `collisions` gives another one when the name is taken.

    >>> template_hash({"spec": {"containers": []}}) != template_hash({"spec": {"containers": []}}, 1)
    True
    """
    data = patch.encode(template)
    if collisions is not None:
        data += collisions.to_bytes(8, "little")
    return "".join(_SAFE[ord(digit) % len(_SAFE)] for digit in str(fnv32a(data)))
