"""What a command works with: the store, its objects, the kinds it knows."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec

import click

from controllers.cli.kinds import Kinds
from controllers.cli.logs import configure_logs
from controllers.cli.options import Settings
from controllers.stores import open_store
from informer.admission import Admission, Operation, Plugin
from informer.client import ObjectClient
from informer.resources import ResourceType
from kvstore.api import Client

P = ParamSpec("P")


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Session:
    """An open store. `now` is the wall clock."""

    client: Client
    objects: ObjectClient
    kinds: Kinds
    now: Callable[[], datetime] = utc_now


class _BuiltinAdmission(Admission):
    """kube-apiserver's plug-ins, imported at the first write: commands that only read start without them."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client: Client | None = client

    def plugins(self, kind: ResourceType, operation: Operation) -> Sequence[Plugin]:
        if self._client is not None:
            from controllers.admission import StoreLookups, add_builtin_admission

            add_builtin_admission(self, StoreLookups(ObjectClient(self._client)))
            self._client = None
        return super().plugins(kind, operation)


@asynccontextmanager
async def open_session(settings: Settings) -> AsyncIterator[Session]:
    """The store that the settings name, open until the end. Raises `StoreError` if it cannot be."""
    configure_logs("warning")
    async with open_store(settings.store) as client:
        objects = ObjectClient(client, field_manager=_field_manager(), admission=_BuiltinAdmission(client))
        yield Session(client, objects, await Kinds.load(objects))


def _field_manager() -> str:
    """As kubectl's names: `listwatch-apply`, `listwatch-rollout`."""
    context = click.get_current_context(silent=True)
    words = context.command_path.split() if context is not None else []
    return "-".join(["listwatch", *words[1:2]])


def with_session(
    function: Callable[Concatenate[Session, P], Awaitable[int | None]],
) -> Callable[P, int | None]:
    """Make a command of a coroutine function that takes a `Session` first. What it returns is the exit code."""

    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> int | None:
        settings: Settings = click.get_current_context().ensure_object(Settings)

        async def body() -> int | None:
            async with open_session(settings) as session:
                return await function(session, *args, **kwargs)

        return run_until_done(body())

    return command


def run_until_done(coroutine: Coroutine[Any, Any, int | None]) -> int | None:
    """Run it; Ctrl-C cancels it and raises KeyboardInterrupt."""
    return asyncio.run(coroutine)
