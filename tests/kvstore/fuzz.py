"""Random requests to every method, without sockets; `python -m tests.kvstore.fuzz [EXAMPLES]` is the long form.

An example is a new store and a few requests: valid ones with extreme values, valid ones with bytes changed, and plain
noise. Only `KvError` and `DecodeError` may come out, nothing may hang, and the store answers afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NonInteractiveExampleWarning

from kvstore.api import Put, Range
from kvstore.errors import KvError, Stopped
from kvstore.node import Node, NodeOptions
from kvstore.proto.messages import POOL
from kvstore.services import Route, Unary, routes

MAX_MESSAGE = 2 << 20
ANSWER_TIMEOUT = 10.0
WAITING = {"/v3lockpb.Lock/Lock", "/v3electionpb.Election/Campaign"}
"""They wait for their turn as long as another holds it."""
PATIENCE = 0.02  # seconds that one of these, or a stream, gets

Call: TypeAlias = tuple[str, list[bytes]]

INTEGERS = st.sampled_from([0, 1, 2, 3, 5, 7, -1, -2, 100, 2**31, 2**53, 2**62, 2**63 - 1, -(2**63)])
UNSIGNED = st.sampled_from([0, 1, 2, 2**31, 2**63, 2**64 - 1])
SMALL = st.sampled_from([0, 1, 2, 3, 4, 5, 99, -1, 2**31 - 1, -(2**31)])
KEYS = st.sampled_from([b"", b"\0", b"a", b"b", b"c", b"a/", b"a0", b"\xff", b"\xff\xff", b"a" * 3000])
TEXTS = st.one_of(
    st.sampled_from(["", "root", "a", "3.4", "3.4.0", ".", "9" * 5000 + ".1", "http://a:1", "http://[", "\0", "é"]),
    st.text(max_size=8),
)


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_INT64:
            return INTEGERS
        case FieldDescriptor.CPPTYPE_UINT64:
            return UNSIGNED
        case FieldDescriptor.CPPTYPE_UINT32:
            return st.sampled_from([0, 1, 2**32 - 1])
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_ENUM:
            return SMALL
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return KEYS
        case FieldDescriptor.CPPTYPE_STRING:
            return TEXTS
    raise AssertionError(f"no request has a {field.type}")


def _fill(draw: st.DrawFn, message: Message, depth: int) -> None:
    descriptor: Descriptor = message.DESCRIPTOR  # type: ignore[assignment]  # the stubs disagree with each other
    for field in descriptor.fields:
        if field.containing_oneof is not None and draw(st.integers(0, 2)):
            continue
        repeated = hasattr(getattr(message, field.name), "extend")
        count = draw(st.integers(0, 2)) if repeated else draw(st.integers(0, 3)) and 1
        if field.message_type is None:
            values = [draw(_scalar(field)) for _ in range(count)]
            if repeated:
                getattr(message, field.name).extend(values)
            elif values:
                setattr(message, field.name, values[0])
        elif depth:
            for _ in range(count):
                child = getattr(message, field.name).add() if repeated else getattr(message, field.name)
                child.SetInParent()
                _fill(draw, child, depth - 1)


@st.composite
def encoded(draw: st.DrawFn, kind: type[Message]) -> bytes:
    """A request of a kind, as bytes that are perhaps no request at all."""
    form = draw(st.integers(0, 5))
    if form == 0:
        return draw(st.binary(max_size=64))
    message = kind()
    _fill(draw, message, depth=4)
    data = bytearray(message.SerializeToString())
    if form == 1 and data:
        for _ in range(draw(st.integers(1, 3))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    elif form == 2:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


async def _requests(sent: list[bytes], kind: type[Message], given: asyncio.Event) -> AsyncIterator[Message]:
    for left, data in zip(range(len(sent) - 1, -1, -1), sent, strict=True):
        if not left:
            given.set()
        yield kind.FromString(data)


async def _send(_: bytes) -> None:
    await asyncio.sleep(0)


async def _call(path: str, route: Route, sent: list[bytes]) -> None:
    """Raises whatever is neither an answer nor a proper error, and TimeoutError for a method that hangs."""
    with contextlib.suppress(KvError, DecodeError):
        if isinstance(route, Unary):
            request = route.request.FromString(sent[0])
            waits = path in WAITING
            with contextlib.suppress(TimeoutError) if waits else contextlib.nullcontext():
                async with asyncio.timeout(PATIENCE if waits else ANSWER_TIMEOUT):
                    assert isinstance(await route.call(request), bytes)
            return
        given = asyncio.Event()
        task = asyncio.ensure_future(route.call(_requests(sent, route.request, given), _send))
        waiting = asyncio.ensure_future(given.wait())
        try:
            done, _ = await asyncio.wait([task, waiting], timeout=ANSWER_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            assert done, f"{path} does not read its requests"
            await asyncio.wait([task], timeout=PATIENCE)  # watches go on for ever
        finally:
            waiting.cancel()
            task.cancel()
        done, _ = await asyncio.wait([task], timeout=ANSWER_TIMEOUT)
        assert done, f"{path} cannot be cancelled"
        if not task.cancelled():
            task.result()


async def check(calls: list[Call]) -> None:
    """The calls one after another on a new store."""
    with tempfile.TemporaryDirectory(prefix="kvstore-fuzz-") as directory:
        options = NodeOptions(fsync=False, inline_commits=True, bcrypt_cost=4)
        async with Node.open(Path(directory) / "node", options) as node:
            table = routes(node, ["http://127.0.0.1:1"], MAX_MESSAGE)
            for path, sent in calls:
                await _call(path, table[path], sent)
            node.range(Range(b"a"))
            try:
                await node.put(Put(b"a"))
            except Stopped:
                raise AssertionError("the store has stopped") from None
            except KvError:
                assert node.maintenance.alarms.raised()


def _kinds() -> dict[str, tuple[type[Message], bool]]:
    """By method: its requests, and whether a call has only one."""

    async def kinds() -> dict[str, tuple[type[Message], bool]]:
        with tempfile.TemporaryDirectory(prefix="kvstore-fuzz-") as directory:
            async with Node.open(Path(directory) / "node", NodeOptions(fsync=False)) as node:
                table = routes(node, [], MAX_MESSAGE)
                return {path: (route.request, not _method(path).client_streaming) for path, route in table.items()}

    return asyncio.run(kinds())


def _method(path: str) -> Any:
    return POOL.FindMethodByName(path[1:].replace("/", "."))


KINDS = _kinds()


@st.composite
def calls(draw: st.DrawFn, paths: tuple[str, ...] = tuple(KINDS)) -> list[Call]:
    """A few calls."""
    made: list[Call] = []
    for _ in range(draw(st.integers(1, 6))):
        path = draw(st.sampled_from(paths))
        kind, single = KINDS[path]
        made.append((path, draw(st.lists(encoded(kind), min_size=1, max_size=1 if single else 4))))
    return made


def fuzz(examples: int) -> Callable[[], None]:
    """A function that tries so many."""

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(calls())
    def run(made: list[Call]) -> None:
        asyncio.run(check(made))

    return run


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", NonInteractiveExampleWarning)
    fuzz(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)()
