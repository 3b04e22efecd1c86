"""Letting a cache catch up with a store of which it is not known how far it has got."""

from __future__ import annotations

from informer import Cache
from informer.errors import from_store
from informer.listwatch import is_newer
from kvstore.api import Client, Range, prefix_end
from kvstore.errors import KvError


async def catch_up(client: Client, cache: Cache, prefix: bytes) -> None:
    """Wait until the cache shows every object below the prefix as it is in the store now, or later.

    Costs one read, of the keys alone that changed after what the cache has seen. An object that was deleted last may
    still be shown: to act on it fails, where to miss one that was made would make it twice.
    Raises KvError, or InformerStopped if the cache stays behind; sets no limit in time.
    """
    seen = int(cache.revision or 0)
    changed = Range(prefix, prefix_end(prefix), keys_only=True, min_mod_revision=seen + 1)
    newer = (await client.range(changed)).kvs
    if newer:
        await cache.wait_for(str(max(each.mod_revision for each in newer)))


async def catch_up_to(client: Client, cache: Cache, prefix: bytes, revision: str) -> None:
    """The same for what there was at a revision that another kind's object has; no read if the cache is there already.

    `Cache.wait_for` is not enough for that: of a revision at which nothing changed below the prefix an etcd before
    3.5.13 tells after minutes. Raises `ApiError`; sets no limit in time.
    """
    if is_newer(revision, cache.revision):
        try:
            await catch_up(client, cache, prefix)
        except KvError as error:
            raise from_store(error) from error
