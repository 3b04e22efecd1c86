"""Which kinds have objects in the store, read from its keys: discovery where there is no API server to ask."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from informer.errors import Invalid, from_store
from informer.resources import SCHEME, Resource, ResourceType
from kvstore.api import Client, KeyValue, Range, RangeResponse, prefix_end
from kvstore.errors import KvError

REGISTRY = b"/registry/"
PAGE = 500  # client-go's pager
CORE = "core"  # what stands for the group without a name in a key


class _Header(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""


_decode = msgspec.json.Decoder(_Header).decode


class StoredKind(msgspec.Struct, frozen=True):
    """A group ("" for the core group) and plural under which there are objects."""

    group: str
    plural: str

    @property
    def _prefix(self) -> bytes:
        return REGISTRY + f"{self.group or CORE}/{self.plural}/".encode()

    async def objects(self, client: Client, namespace: str) -> list[Resource]:
        """Its objects in a namespace, as they are now. Raises `ApiError`."""
        start = self._prefix + f"{namespace}/".encode()
        end, known, found = prefix_end(start), _known(self.group, self.plural), list[Resource]()
        while True:
            page = await _range(client, Range(start, end, limit=PAGE))
            for each in page.kvs:
                cls = known or self._class(each)
                found.append(cls.decode(each.value, str(each.mod_revision)))
            if not page.more or not page.kvs:
                return found
            start = page.kvs[-1].key + b"\0"

    async def count(self, client: Client, namespace: str) -> int:
        """How many objects it has in a namespace. Raises `ApiError`."""
        start = self._prefix + f"{namespace}/".encode()
        return (await _range(client, Range(start, prefix_end(start), count_only=True))).count

    def _class(self, stored: KeyValue) -> type[Resource]:
        """Of an object of a kind that nobody here knows: what it says of itself is enough to delete it by the rules."""
        try:
            said = _decode(stored.value)
        except msgspec.DecodeError as error:
            raise Invalid("", f"what is stored at {stored.key.decode(errors='replace')} is no object") from error
        version = said.api_version.rpartition("/")[2]
        return Resource.of(ResourceType(self.group, version, said.kind, self.plural))


async def stored_kinds(client: Client) -> Sequence[StoredKind]:
    """The kinds that have objects, in the order of their keys. One small read for each. Raises `ApiError`."""
    found: list[StoredKind] = []
    start, end = REGISTRY, prefix_end(REGISTRY)
    while True:
        page = await _range(client, Range(start, end, limit=1, keys_only=True))
        if not page.kvs:
            return found
        parts = page.kvs[0].key[len(REGISTRY) :].split(b"/", 2)
        if len(parts) < 3:
            start = page.kvs[0].key + b"\0"  # no object's
            continue
        group, plural = (part.decode(errors="replace") for part in parts[:2])
        found.append(StoredKind("" if group == CORE else group, plural))
        start = prefix_end(REGISTRY + parts[0] + b"/" + parts[1] + b"/")


def _known(group: str, plural: str) -> type[Resource] | None:
    return next((cls for cls in SCHEME.kinds() if (cls.TYPE.group, cls.TYPE.plural) == (group, plural)), None)


async def _range(client: Client, request: Range) -> RangeResponse:
    try:
        return await client.range(request)
    except KvError as error:
        raise from_store(error) from error
