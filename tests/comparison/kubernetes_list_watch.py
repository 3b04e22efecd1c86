"""`informer.ListWatch` for a Kubernetes API server: what an informer needs to stand beside the Kubernetes clients here.

It shows as well how little another store takes. Like client-go it asks for bookmarks and has each watch end after a
random five to ten minutes; a watch that is silent for longer than the bookmarks' minute counts as dead.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import msgspec

from informer.errors import ApiError, Expired, Unreachable
from informer.listwatch import Batch, Bookmark, Item, ListPage, Removed

GONE: Final = 410
# The server is overloaded or broken, which says nothing about the request.
TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})
LIST_WITHIN: Final = 60.0
SILENT_FOR: Final = 70.0  # kube-apiserver sends a bookmark each minute
MOST_OF_A_LINE: Final = 4 << 20  # etcd takes 1.5 MiB by default


class _Metadata(msgspec.Struct):
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    name: str = ""
    namespace: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Object(msgspec.Struct):
    metadata: _Metadata
    code: int = 0
    message: str = ""


class _List(msgspec.Struct):
    metadata: _Metadata
    items: list[msgspec.Raw]


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


_OBJECT = msgspec.json.Decoder(_Object)
_LIST = msgspec.json.Decoder(_List)
_EVENT = msgspec.json.Decoder(_Event)


class KubernetesListWatch:
    """Lists and watches the objects at `url`, such as http://host:port/api/v1/pods, through `session`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, rng: random.Random) -> None:
        self._session = session
        self._url = url
        self._rng = rng

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        query = {"limit": str(limit), "continue": continue_}
        try:
            timeout = aiohttp.ClientTimeout(total=LIST_WITHIN)
            async with self._session.get(self._url, params=query, timeout=timeout) as response:
                body = await response.read()
                _check(response.status, body)
                page = _LIST.decode(body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        except msgspec.MsgspecError as error:
            raise ApiError(f"the list makes no sense: {error}") from error
        return ListPage([_item(raw) for raw in page.items], page.metadata.resource_version, page.metadata.continue_)

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        query: dict[str, Any] = {
            "watch": "true",
            "resourceVersion": revision,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": self._rng.randint(300, 600),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=SILENT_FOR)
        try:
            response = await self._session.get(self._url, params=query, timeout=timeout, read_bufsize=MOST_OF_A_LINE)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        try:
            if response.status != 200:
                _check(response.status, await response.read())
            yield _batches(response)
        finally:
            response.close()


async def _batches(response: aiohttp.ClientResponse) -> AsyncIterator[Batch]:
    try:
        async for line in response.content:
            # The last line of a connection that was cut may be a part of one.
            if not line.endswith(b"\n"):
                raise Unreachable("the watch was cut in the middle of an event")
            event = _EVENT.decode(line)
            if event.type == "ERROR":
                status = _OBJECT.decode(event.object)
                _check(status.code, bytes(event.object))
                raise ApiError(status.message)
            item = _item(event.object)
            if event.type == "BOOKMARK":
                yield [Bookmark(item.revision)]
            elif event.type == "DELETED":
                yield [Removed(item.key, item.revision)]
            else:
                yield [item]
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from error


def _item(raw: msgspec.Raw) -> Item:
    metadata = _OBJECT.decode(raw).metadata
    key = f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name
    return Item(key, bytes(raw), metadata.resource_version)


def _check(status: int, body: bytes) -> None:
    """Raise what a status of 300 and more means."""
    if status < 300:
        return
    text = f"{status}: {body[:200].decode(errors='replace')}"
    if status == GONE:
        raise Expired(text)
    if status in TRANSIENT:
        raise Unreachable(text)
    raise ApiError(text)
