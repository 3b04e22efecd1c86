"""Streams of several watches with every option, live and from history, beside a real etcd.

`python -m tests.kvstore.watch_differential --streams 2000 --seed 7` runs as long as you like. Each stream opens up to
four watches, writes go to both servers while they are open, and then each watch must have been given the same: how
creation was answered, every event, field by field, and how it ended.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import random
import tempfile
from pathlib import Path

import grpc

from kvstore.node import Node, NodeOptions
from kvstore.proto import messages as pb
from kvstore.server import Server
from tests.etcd_process import running_etcd
from tests.kvstore.differential import KEYS, WATCH, DifferenceError, Generator, Operation, Side, normal

TIMEOUT = 10.0  # seconds for everything that one stream gives
FILTERS: list[list[int]] = [[], [], [], [0], [1], [0, 1], [1, 1]]
FURTHEST = 3  # revisions in the future at which a watch starts at most, so that all have begun at the end
PUT = "/etcdserverpb.KV/Put"
LAST = b"\xff\xff\xff"  # beside the keys of the generator


@dataclasses.dataclass
class Given:
    """What one stream gave: answers to creates in order, then events and end of each watch by its id."""

    created: list[str] = dataclasses.field(default_factory=list)
    events: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    ended: dict[int, str] = dataclasses.field(default_factory=dict)
    progress: bool = dataclasses.field(default=False, compare=False)

    def note(self, response: pb.WatchResponse) -> None:
        """Take one response; how events are shared out over responses may differ, so may progress."""
        if response.created:
            self.created.append(f"{response.watch_id} {response.canceled} {response.cancel_reason!r}")
        elif response.canceled:
            self.ended[response.watch_id] = f"{response.compact_revision} {response.cancel_reason!r}"
        elif response.events:
            self.events.setdefault(response.watch_id, []).extend(map(str, response.events))
        else:
            self.progress = True

    @property
    def count(self) -> int:
        """Events of all watches."""
        return sum(map(len, self.events.values()))


class Stream:
    """One stream on one server."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(WATCH, None, None)(None)
        self.given = Given()

    async def send(self, **fields: object) -> None:
        """Send one request."""
        await self._call.write(pb.WatchRequest(**fields).SerializeToString())  # type: ignore[arg-type]

    async def read(self) -> None:
        """Take the next response."""
        data = await self._call.read()
        assert isinstance(data, bytes), "the stream ended"
        self.given.note(pb.WatchResponse.FromString(data))

    def close(self) -> None:
        """Give up the stream."""
        self._call.cancel()


class Comparison:
    """Both servers, and the generator of what both are asked."""

    def __init__(self, etcd: str, ours: str, seed: int) -> None:
        self._rng = random.Random(seed)
        self._generator = Generator(self._rng)
        self._seed = seed
        self._sides = Side(etcd), Side(ours)
        self._channels = grpc.aio.insecure_channel(etcd), grpc.aio.insecure_channel(ours)
        self.events = 0

    async def close(self) -> None:
        """Close the connections."""
        for side in self._sides:
            await side.close()
        for channel in self._channels:
            await channel.close(None)

    async def run(self, streams: int) -> None:
        """Compare so many streams. Raises DifferenceError."""
        for number in range(1, streams + 1):
            both = [Stream(channel) for channel in self._channels]
            await self._before()
            creates = [self._create() for _ in range(self._rng.randint(1, 4))]
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self._stream(both, creates)
                what = "they differ"
            except TimeoutError:
                what = "one of them gave less"
            finally:
                for stream in both:
                    stream.close()
            theirs, ours = (stream.given for stream in both)
            if theirs != ours:
                asked = "".join(map(str, creates))
                raise DifferenceError(
                    f"stream {number} of seed {self._seed}: {what}\n{asked}--- etcd\n{theirs}\n--- ours\n{ours}"
                )
            self.events += ours.count

    async def _before(self) -> None:
        for _ in range(self._rng.randint(0, 8)):
            await self._both(self._generator.next_of("put", "delete", "txn", "compact", "grant"))

    async def _stream(self, both: list[Stream], creates: list[pb.WatchCreateRequest]) -> None:
        rng = self._rng
        for number, create in enumerate(creates, 1):
            for stream in both:
                await stream.send(create_request=create)
                while len(stream.given.created) < number:
                    await stream.read()
        ids = [int(text.split()[0]) for text in both[1].given.created]
        open_ids = {watch_id for watch_id in ids if watch_id >= 0}
        from_now = [watch_id for watch_id, create in zip(ids, creates, strict=True) if create.start_revision == 0]
        if from_now and from_now[0] in open_ids and rng.random() < 0.3:
            await self._cancel(both, from_now[0])
        for _ in range(rng.randint(0, 8)):
            await self._both(self._generator.next_of("put", "delete", "txn"))
        for _ in range(FURTHEST):
            await self._both(Operation(PUT, pb.PutRequest(key=LAST)))
        theirs, ours = both
        # Ours says when every watch has everything. etcd must then come to as much, and neither gives more until each
        # watch has ended.
        if open_ids - ours.given.ended.keys():
            await ours.send(progress_request=pb.WatchProgressRequest())
            while not ours.given.progress and open_ids - ours.given.ended.keys():
                await ours.read()
        while theirs.given.count < ours.given.count or ours.given.ended.keys() - theirs.given.ended.keys():
            await theirs.read()
        for watch_id in sorted(open_ids):
            await self._cancel(both, watch_id)

    async def _cancel(self, both: list[Stream], watch_id: int) -> None:
        for stream in both:
            if watch_id not in stream.given.ended:
                await stream.send(cancel_request=pb.WatchCancelRequest(watch_id=watch_id))
            while watch_id not in stream.given.ended:
                await stream.read()

    async def _both(self, operation: Operation) -> None:
        answers = [await side.call(operation) for side in self._sides]
        self._generator.told(operation, answers[0])
        texts = [normal(operation.request, answer) for answer in answers]
        if texts[0] != texts[1]:
            raise DifferenceError(f"seed {self._seed}: {operation}\n--- etcd\n{texts[0]}\n--- ours\n{texts[1]}")

    def _create(self) -> pb.WatchCreateRequest:
        rng, generator = self._rng, self._generator
        start = rng.choice((0, rng.randint(1, generator.revision), generator.revision + rng.randint(-3, FURTHEST)))
        if start == generator.compacted:
            start += 1  # a deletion exactly there: see docs/differences.md
        return pb.WatchCreateRequest(
            key=rng.choice([*KEYS, b""]),
            range_end=rng.choice([b"", b"", b"\0", *KEYS]),
            start_revision=max(0, start),
            progress_notify=rng.random() < 0.3,
            prev_kv=rng.random() < 0.5,
            filters=rng.choice(FILTERS),
            # One that is cancelled at once, being compacted, frees its id: when, is not for a client to rely on.
            watch_id=0 if 0 < start < generator.compacted else rng.choice((0, 0, 0, 5, 7)),
            fragment=rng.random() < 0.3,
        )


async def run(directory: Path, *, streams: int, seed: int) -> int:
    """Compare a fresh etcd and a fresh server of ours; gives the number of events."""
    (directory / "etcd").mkdir()
    with running_etcd(directory / "etcd") as etcd:
        async with (
            Node.open(directory / "ours", NodeOptions(fsync=False)) as node,
            Server(node, ["http://127.0.0.1:0"]) as server,
        ):
            comparison = Comparison(etcd, server.client_urls[0].removeprefix("http://"), seed)
            try:
                await comparison.run(streams)
            finally:
                await comparison.close()
            return comparison.events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="listwatch-watches-") as directory:
        events = asyncio.run(run(Path(directory), streams=arguments.streams, seed=arguments.seed))
    print(f"seed {arguments.seed}: {arguments.streams} streams, {events} events, no difference")


if __name__ == "__main__":
    main()
