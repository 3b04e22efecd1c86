"""The comparison itself: watchers with one known fault each are caught, and a right one is found right."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from informer.reflector import Backoff
from tests.comparison import on_etcd, ours
from tests.comparison.apiserver import ApiServer
from tests.comparison.judge import HOT, Evidence, Told, View, judge, peak
from tests.comparison.on_kubernetes import SCENARIOS, run
from tests.comparison.trial import Patience, Watch, process
from tests.comparison.world import World

SHORT = Patience(first=10.0, after=0.5)
HEARS = Patience(first=10.0, after=1.0)  # for a watcher that is told something, wrong as it is
LONG = Patience(first=10.0, after=20.0)


def here(watcher: Callable[[str, Callable[[Told], None]], Awaitable[None]]) -> Watch:
    """A watcher as a task of this process."""

    @contextlib.asynccontextmanager
    async def watch(url: str, view: View) -> AsyncIterator[None]:
        async def until_it_ends() -> None:
            try:
                await watcher(url, view.observe)
                view.observe(Told("ended"))
            except aiohttp.ClientError as error:
                view.observe(Told("ended", why=type(error).__name__))

        task = asyncio.create_task(until_it_ends())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    return watch


class Naive:
    """Lists, then watches from the list's revision, again from the last one seen, and lists when that is gone. The
    arguments say which of this it gets wrong."""

    def __init__(
        self, *, resumes: bool = True, forgets_deletes: bool = False, waits: float = 0.02, goes_on: bool = True
    ) -> None:
        self.resumes = resumes
        self.forgets_deletes = forgets_deletes
        self.waits = waits
        self.goes_on = goes_on

    async def __call__(self, url: str, tell: Callable[[Told], None]) -> None:
        known: dict[str, dict[str, str]] = {}
        revision = ""
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, json.JSONDecodeError):
                    if not revision:
                        revision = await self._list(session, url, known, tell)
                    revision = await self._watch(session, url, revision, known, tell)
                    if not self.goes_on:
                        await asyncio.Event().wait()
                await asyncio.sleep(self.waits)

    async def _list(
        self, session: aiohttp.ClientSession, url: str, known: dict[str, dict[str, str]], tell: Callable[[Told], None]
    ) -> str:
        async with session.get(f"{url}/api/v1/pods") as response:
            response.raise_for_status()
            page: dict[str, Any] = await response.json()
        listed = {pod["metadata"]["uid"] for pod in page["items"]}
        for uid in [] if self.forgets_deletes else [uid for uid in known if uid not in listed]:
            tell(Told("delete", known.pop(uid)["name"], uid=uid))
        for pod in page["items"]:
            self._put(pod["metadata"], known, tell)
        return str(page["metadata"]["resourceVersion"])

    async def _watch(
        self,
        session: aiohttp.ClientSession,
        url: str,
        revision: str,
        known: dict[str, dict[str, str]],
        tell: Callable[[Told], None],
    ) -> str:
        since = {"resourceVersion": revision} if self.resumes else {}
        async with session.get(f"{url}/api/v1/pods", params={"watch": "true", **since}) as response:
            if response.status == 410:
                return ""
            response.raise_for_status()
            async for line in response.content:
                event = json.loads(line)
                metadata = event["object"]["metadata"]
                if event["type"] == "ERROR":
                    return "" if event["object"]["code"] == 410 else revision
                if event["type"] == "DELETED":
                    known.pop(metadata["uid"], None)
                    tell(Told("delete", metadata["name"], uid=metadata["uid"]))
                else:
                    self._put(metadata, known, tell)
                revision = metadata["resourceVersion"]
        return revision

    def _put(self, metadata: dict[str, str], known: dict[str, dict[str, str]], tell: Callable[[Told], None]) -> None:
        known[metadata["uid"]] = metadata
        tell(Told("put", metadata["name"], metadata["resourceVersion"], metadata["uid"]))


async def quick(url: str, tell: Callable[[Told], None]) -> None:
    """Ours, with waits that suit short faults."""
    await ours.on_kubernetes(url, tell, Backoff(random.Random(1), initial=0.05, maximum=0.2))


async def on(scenario: str, watch: Watch, patience: Patience = SHORT, fault_seconds: float = 0.25) -> str:
    verdict = await run(SCENARIOS[scenario], watch, fault_seconds=fault_seconds, bookmark_every=0.1, patience=patience)
    assert verdict.true == verdict.text.startswith("ok"), verdict
    assert verdict.silent == (not verdict.true and not verdict.text.startswith("raises")), verdict
    return verdict.text


@pytest.mark.parametrize("scenario", ["ends-in-order", "half-a-line", "next-line", "gone-status"])
async def test_a_right_watcher_is_found_right(scenario: str) -> None:
    assert (await on(scenario, here(Naive()), LONG)).startswith("ok")


@pytest.mark.parametrize("scenario", ["half-a-line", "pieces", "gone-status", "error-event", "429", "empty", "down"])
async def test_ours_is_right_in_the_end(scenario: str) -> None:
    assert (await on(scenario, here(quick), LONG)).startswith("ok")


async def test_a_relist_that_forgets_deletes_is_caught() -> None:
    verdict = await on("gone-event", here(Naive(forgets_deletes=True)), HEARS)
    assert verdict.startswith("wrong for good: 2 deletes missed; recreated told as changed")


async def test_a_watch_that_begins_anew_is_caught() -> None:
    assert (await on("ends-in-order", here(Naive(resumes=False)), HEARS)).startswith("wrong for good: 2 deletes missed")


async def test_one_that_never_tries_again_is_caught() -> None:
    assert await on("ends-in-order", here(Naive(goes_on=False))) == "deaf for good"


async def test_one_that_ends_is_told_from_one_that_raises() -> None:
    async def ends(url: str, tell: Callable[[Told], None]) -> None:
        naive = Naive()
        known: dict[str, dict[str, str]] = {}
        async with aiohttp.ClientSession() as session:
            await naive._watch(session, url, await naive._list(session, url, known, tell), known, tell)

    assert await on("ends-in-order", here(ends)) == "ends without a word"
    assert (await on("half-a-line", here(ends))).startswith("raises ")


async def test_a_hot_loop_is_caught() -> None:
    verdict = await on("empty", here(Naive(waits=0.0)), LONG, fault_seconds=1.0)
    assert verdict.startswith("ok")
    assert "hot loop" in verdict


async def test_who_does_not_list_in_pages_is_not_praised_for_surviving_their_end() -> None:
    assert (await on("page-expires", here(Naive()), LONG)).endswith("does not list in pages")
    assert not (await on("page-expires", here(quick), LONG)).endswith("does not list in pages")


async def test_without_bookmarks_a_quiet_watcher_lists_again() -> None:
    assert "lists again" in await on("quiet", here(Naive()), LONG)
    assert "lists again" not in await on("quiet", here(quick), LONG)


async def test_silence_is_endured_by_none_that_does_not_watch_the_clock() -> None:
    assert await on("silence", here(Naive())) == "deaf for good"


async def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert "its process ends with 1" in await on("ends-in-order", process("no such watcher", log))
    assert "KeyError" in log.read_text()


async def test_on_a_real_etcd_too(tmp_path: Path) -> None:
    verdict = await on_etcd.run(on_etcd.SCENARIOS["burst"], here(ours.on_etcd), tmp_path)
    assert verdict.text.startswith("ok")


async def test_a_list_in_pages_is_of_one_revision_until_it_expires() -> None:
    world = World()
    world.put(*"abcde")
    async with ApiServer(world) as server, aiohttp.ClientSession(f"{server.url}/api/v1/") as session:

        async def page(token: str) -> Any:
            async with session.get("pods", params={"limit": "2", "continue": token}) as response:
                return await response.json()

        names, token, revisions = [], "", set()
        while True:
            answer = await page(token)
            names += [pod["metadata"]["name"] for pod in answer["items"]]
            revisions.add(answer["metadata"]["resourceVersion"])
            token = answer["metadata"].get("continue", "")
            world.put("z")
            if not token:
                break
        assert (names, revisions) == (list("abcde"), {"105"})
        token = (await page(""))["metadata"]["continue"]
        server.expire_pages = 1
        assert (await page(token))["code"] == 410


def test_the_peak_is_the_most_in_any_second() -> None:
    times = [0.0, 0.1, 5.0, 5.5, 5.9, 6.2, 7.5]
    assert peak(times, since=0.0) == 3
    assert peak(times, since=6.0) == 1
    assert peak([], since=0.0) == 0


def test_a_delete_that_comes_after_its_successor_is_no_fault() -> None:
    view = View()
    for told in (Told("put", "a", "1", "u1"), Told("put", "a", "3", "u2"), Told("delete", "a", uid="u1")):
        view.observe(told)
    assert (view.known, view.merged) == ({"a": "3"}, 0)


def test_an_object_that_grows_younger_is_told() -> None:
    view = View()
    for told in (Told("put", "a", "5", "u"), Told("put", "a", "4", "u"), Told("put", "a", "6", "u")):
        view.observe(told)
    evidence = Evidence(recovered=0.5, alive=True, told_before=0, peak=HOT, relists=0)
    assert judge(view, {"a": "6"}, evidence).text == "ok 0.5 s; hot loop, 50 requests/s; 1 objects back in time"
