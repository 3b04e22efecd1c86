"""The demo on a terminal: one picture that moves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from controllers.apps.types import Deployment
from controllers.cli.columns.nodes import node_status
from controllers.cli.columns.pods import pod_status
from controllers.cli.demo.runner import Outcome
from controllers.cli.demo.steps import NEW_IMAGE
from controllers.cli.demo.world import World
from controllers.cli.raw import number
from controllers.core.types import Node, Pod
from informer.reflector import ReflectorStatistics, State

FRAME = 0.1  # seconds
AFTERGLOW = 0.8  # seconds

_SHOWN = ("deployments.apps", "replicasets.apps", "pods", "nodes")
_STATES = {"Running": "green", "Pending": "yellow", "Terminating": "red", "Failed": "red"}
_COLOURS = {State.WATCHING: "green", State.RESUMING: "yellow", State.RELISTING: "magenta", State.LISTING: "cyan"}


class Moving(Protocol):
    """What can be drawn again and again."""

    def render(self) -> RenderableType:
        """The picture of this moment."""


class _Recent(NamedTuple):
    """The counts last seen of an informer, and what to show until when."""

    resumes: int
    relists: int
    text: Text = Text()
    until: float = 0.0


class Picture:
    """What is on the screen: the steps, the deployments, the pods, the nodes, the informers."""

    def __init__(self, world: World, titles: list[str]) -> None:
        self._world = world
        self._titles = titles
        self._done: list[Outcome] = []
        self._details: list[str] = []
        self._recent: dict[str, _Recent] = {}

    def begin(self, number: int, title: str, revision: int) -> None:
        """A new step; the details of the one before go."""
        self._details = []

    def detail(self, text: str, revision: int) -> None:
        """Shown under the step."""
        self._details.append(text)

    def end(self, outcome: Outcome) -> None:
        """Marked in the list."""
        self._done.append(outcome)

    def render(self) -> RenderableType:
        """The picture of this moment; it fits into 80 columns and 24 lines."""
        sides = Table.grid(padding=(0, 3))
        sides.add_row(Group(self._deployments(), self._nodes()), self._informers())
        return Group(self._steps(), self._pods(), self._images(), sides)

    def _steps(self) -> Text:
        width = max(map(len, self._titles))
        shown = Text(no_wrap=True, overflow="ellipsis")
        for place, title in enumerate(self._titles):
            if place < len(self._done):
                outcome = self._done[place]
                shown.append("failed " if outcome.problem else "ok     ", "bold red" if outcome.problem else "green")
                note = outcome.problem or f"{outcome.seconds:.1f} s, revision {outcome.revision}"
                shown.append(f"{title.ljust(width)}  ").append(note, "red" if outcome.problem else "dim")
            elif place == len(self._done):
                shown.append(f"...    {title}", "bold yellow")
                for text in self._details:
                    shown.append(f"\n         {text}", "cyan")
            else:
                shown.append(f"       {title}", "dim")
            shown.append("\n")
        return shown

    def _pods(self) -> Text:
        counts = Counter(pod_status(pod.raw) for pod in self._world.all(Pod))
        shown = Text.assemble("revision ", (str(self._world.revision), "bold"), "   pods")
        for state, count in sorted(counts.items()):
            shown.append(f"  {state} {count} {'#' * min(count, 20)}", _STATES.get(state, ""))
        return shown

    def _images(self) -> Text:
        """The rollout, pod by pod."""
        label = {"app": "nginx"}
        pods = [pod for pod in self._world.all(Pod) if label.items() <= dict(pod.metadata.labels).items()]
        counts = Counter(pod.spec.containers[0].image for pod in pods if not pod.deleting)
        shown = Text("nginx-deployment runs")
        for image, count in sorted(counts.items()):
            shown.append(f"  {image} {'#' * count}", "blue" if image == NEW_IMAGE else "cyan")
        return shown

    def _deployments(self) -> Table:
        table = plain_table("deployment", "ready", "new", "avail")
        for each in self._world.all(Deployment):
            raw, wanted = each.raw, each.spec.replicas
            ready = number(raw, "status", "readyReplicas")
            counts = (str(number(raw, "status", field)) for field in ("updatedReplicas", "availableReplicas"))
            table.add_row(each.name, Text(f"{ready}/{wanted}", "green" if ready == wanted else "yellow"), *counts)
        return table

    def _nodes(self) -> Table:
        table = plain_table("node", "status", "pods")
        pods = Counter(pod.spec.node_name for pod in self._world.all(Pod))
        for node in self._world.all(Node):
            status = node_status(node.raw)
            count = pods[node.name]
            bar = Text(f"{count:3} {'#' * min(count, 20)}")
            table.add_row(node.name, Text(status, "green" if status == "Ready" else "bold red"), bar)
        return table

    def _informers(self) -> Table:
        table = plain_table("informer", "state", "at", "res/rel")
        watchers = dict(self._world.watchers())
        for name in _SHOWN:
            informer = watchers.pop(name, None)
            if informer is not None:
                told = informer.reflector
                counts = (told.last_revision, f"{told.resumes}/{told.relists}")
                table.add_row(name.partition(".")[0], self._state_of(name, told), *counts)
        for state, count in Counter(informer.reflector.state for informer in watchers.values()).items():
            table.add_row(f"{count} others", _state(state))
        return table

    def _state_of(self, name: str, told: ReflectorStatistics) -> Text:
        """The state; for a moment after a resume or a relist that fact, for both can be over within a frame."""
        now = asyncio.get_running_loop().time()
        known = self._recent.get(name, _Recent(told.resumes, told.relists))
        if told.relists > known.relists:
            known = _Recent(told.resumes, told.relists, Text("RELISTED", "magenta"), now + AFTERGLOW)
        elif told.resumes > known.resumes:
            known = _Recent(told.resumes, told.relists, Text("RESUMED", "yellow"), now + AFTERGLOW)
        self._recent[name] = known
        return known.text if now < known.until and told.state is State.WATCHING else _state(told.state)


def _state(state: State) -> Text:
    return Text(state.name, _COLOURS.get(state, ""))


def plain_table(*columns: str) -> Table:
    """Columns without lines."""
    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


@asynccontextmanager
async def shown_live(picture: Moving, console: Console, frame: float = FRAME) -> AsyncIterator[None]:
    """Redraw the picture as long as the body runs; its last state stays on the screen. frame: seconds of the loop."""
    with Live(picture.render(), console=console, auto_refresh=False, vertical_overflow="crop") as live:

        async def draw() -> None:
            while True:
                await asyncio.sleep(frame)
                live.update(picture.render(), refresh=True)

        drawing = asyncio.create_task(draw(), name="demo picture")
        try:
            yield
        finally:
            drawing.cancel()
            await asyncio.wait([drawing])
            live.update(picture.render(), refresh=True)
        if not drawing.cancelled():
            drawing.result()
