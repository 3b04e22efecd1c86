"""What could come next on a command line: kinds, names of objects, namespaces, fields."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

from controllers.cli.completion import timeout
from controllers.cli.explain import fields_of, find, of_kind
from controllers.cli.kinds import Kinds
from controllers.cli.logs import configure_logs
from controllers.cli.options import Settings
from controllers.core.types import Namespace
from controllers.errors import ControllerError
from controllers.stores import LOCAL_SERVER, Directory, LocalDefault, locate, open_store
from informer.client import DEFAULT_NAMESPACE, ObjectClient
from informer.errors import ApiError, UnknownKind
from informer.resources import Resource
from kvstore.api import Client, Range, prefix_end
from kvstore.errors import KvError

T = TypeVar("T")

MOST_NAMES = 500
MOST_NAMESPACES = 50


def resources(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Kinds, then names: of `KIND NAME...`, and of `KIND/NAME`."""
    before = [str(word) for word in ctx.params.get("resources") or ()]
    if "/" in incomplete:
        return references(ctx, incomplete)
    if before and not any("/" in word for word in before):
        return [CompletionItem(each) for each in _names(ctx, before[0], incomplete) if each not in before]
    return kinds(ctx, incomplete)


def kinds(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Kinds, also after a comma: by their plurals, with the group where two are called alike."""
    head, comma, word = incomplete.rpartition(",")
    known = _kinds(ctx).all()
    plurals = [cls.TYPE.plural for cls in known]
    words = [cls.TYPE.plural if plurals.count(cls.TYPE.plural) == 1 else cls.TYPE.qualified for cls in known]
    return [CompletionItem(f"{head}{comma}{each}") for each in sorted(words) if each.startswith(word.lower())]


def namespaces(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Those that something is in, and those that are objects themselves."""

    async def load(source: _Source) -> list[str]:
        found = await source.names(Namespace.TYPE.prefix(), incomplete)
        for cls in (await Kinds.load(source.objects)).all():
            if cls.TYPE.namespaced:
                found += await source.folders(cls.TYPE.prefix())
        return found

    nothing: list[str] = []
    found = {DEFAULT_NAMESPACE, *_ask(ctx, load, nothing)}
    return [CompletionItem(each) for each in sorted(found) if each.startswith(incomplete)]


def references(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """`KIND/NAME`."""
    kind, slash, name = incomplete.rpartition("/")
    if not slash:
        return kinds(ctx, incomplete)
    return [CompletionItem(f"{kind}/{each}") for each in _names(ctx, kind, name)]


def directories(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Left to the shell."""
    return [CompletionItem(incomplete, type="dir")]


def files(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Left to the shell."""
    return [CompletionItem(incomplete, type="file")]


def nodes(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Names of nodes that the line has not yet."""
    before = ctx.params.get("names") or ()
    return [CompletionItem(each) for each in _names(ctx, "nodes", incomplete) if each not in before]


def paths(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Of `explain`: a kind, then field after field."""
    if "." not in incomplete:
        return kinds(ctx, incomplete)
    lead, _, last = incomplete.rpartition(".")
    cls, walked = find(_kinds(ctx), lead)
    field, top = of_kind(cls), True
    for name in walked:
        field, top = fields_of(cls, field, top=top)[name], False
    inside = fields_of(cls, field, top=top)
    return [CompletionItem(f"{lead}.{name}") for name in inside if name.startswith(last)]


def _kinds(ctx: click.Context) -> Kinds:
    async def load(source: _Source) -> Kinds:
        return await Kinds.load(source.objects)

    return _ask(ctx, load, Kinds())


def _names(ctx: click.Context, kind: str, incomplete: str) -> list[str]:
    async def load(source: _Source) -> list[str]:
        cls = await source.kind(kind)
        return await source.names(cls.TYPE.prefix(ctx.params.get("namespace") or DEFAULT_NAMESPACE), incomplete)

    nothing: list[str] = []
    return _ask(ctx, load, nothing)


# ---- the store ------------------------------------------------------------------------------------------------------


def _ask(ctx: click.Context, question: Callable[[_Source], Awaitable[T]], otherwise: T) -> T:
    """The store's answer; `otherwise` if it has none within its time. What is not there is not made."""
    name = ctx.ensure_object(Settings).store
    configure_logs("error")

    async def ask() -> T:
        nonlocal name
        location = locate(name)
        if isinstance(location, Directory | LocalDefault) and not location.path.is_dir():
            if isinstance(location, Directory):
                return otherwise
            name = f"etcd://{LOCAL_SERVER}"
        async with asyncio.timeout(timeout()), open_store(name) as client:
            return await question(_Source(client))

    try:
        return asyncio.run(ask())
    except (ApiError, ControllerError, KvError, OSError):  # OSError: also the TimeoutError
        return otherwise


class _Source:
    """An open store, asked for names only."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.objects = ObjectClient(client)

    async def kind(self, name: str) -> type[Resource]:
        """A kind by any of its names; the store is asked for its definitions only if it is no built-in one."""
        try:
            return Kinds().lookup(name)
        except UnknownKind:
            return (await Kinds.load(self.objects)).lookup(name)

    async def names(self, prefix: bytes, incomplete: str) -> list[str]:
        """The last parts of the keys that begin so."""
        start = prefix + incomplete.encode()
        found = await self._client.range(Range(start, prefix_end(start), limit=MOST_NAMES, keys_only=True))
        return [each.key.decode().rpartition("/")[2] for each in found.kvs]

    async def folders(self, prefix: bytes) -> list[str]:
        """The first parts of the keys after a prefix, each looked for after the one before."""
        found: list[str] = []
        start, end = prefix, prefix_end(prefix)
        while len(found) < MOST_NAMESPACES:
            page = await self._client.range(Range(start, end, limit=1, keys_only=True))
            if not page.kvs:
                break
            folder = page.kvs[0].key.removeprefix(prefix).partition(b"/")[0]
            found.append(folder.decode())
            start = prefix_end(prefix + folder + b"/")
        return found
