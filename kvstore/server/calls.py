"""Counting calls, under the names that gRPC servers report them by."""

from __future__ import annotations

import asyncio
from types import TracebackType

import msgspec
from google.protobuf.message import DecodeError

from kvstore.errors import Code, KvError

OK = 0


class MethodStatistics(msgspec.Struct, frozen=True):
    """One method's numbers since the start. `handled` is by gRPC status code; sizes in bytes."""

    service: str
    method: str
    type: str
    started: int
    handled: dict[int, int]
    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int


class CallCounter:
    """Counts the calls of one method: enter it for a call, and tell it of each message."""

    __slots__ = (
        "_bytes_received",
        "_bytes_sent",
        "_handled",
        "_received",
        "_sent",
        "_started",
        "method",
        "service",
        "type",
    )

    def __init__(self, path: str, kind: str) -> None:
        self.service, _, self.method = path.removeprefix("/").partition("/")
        self.type = kind
        self._started = self._received = self._sent = self._bytes_received = self._bytes_sent = 0
        self._handled: dict[int, int] = {}

    def __enter__(self) -> None:
        self._started += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = OK if error is None else _code_of(error)
        self._handled[code] = self._handled.get(code, 0) + 1

    def received(self, size: int) -> None:
        """A message of so many bytes came."""
        self._received += 1
        self._bytes_received += size

    def sent(self, size: int) -> None:
        """A message of so many bytes went."""
        self._sent += 1
        self._bytes_sent += size

    def statistics(self) -> MethodStatistics:
        """The numbers now."""
        return MethodStatistics(
            self.service,
            self.method,
            self.type,
            self._started,
            dict(self._handled),
            self._received,
            self._sent,
            self._bytes_received,
            self._bytes_sent,
        )


def _code_of(error: BaseException) -> int:
    if isinstance(error, KvError):
        return int(error.code)
    if isinstance(error, DecodeError):
        return int(Code.INTERNAL)
    if isinstance(error, asyncio.CancelledError):
        return int(Code.CANCELLED)
    return int(Code.UNKNOWN)
