"""The demo on a terminal: one picture that moves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from controllers.apps.types import Deployment
from controllers.cli.columns import node_status, number, pod_status
from controllers.cli.demo.runner import Outcome
from controllers.cli.demo.world import World
from controllers.core.types import Node, Pod
from informer.reflector import State

FRAME = 0.1  # seconds

_STATES = {"Running": "green", "Pending": "yellow", "Terminating": "red", "Failed": "red"}
_COLOURS = {State.WATCHING: "green", State.RESUMING: "yellow", State.RELISTING: "magenta", State.LISTING: "cyan"}


class Picture:
    """What is on the screen: the steps, the deployments, the pods, the nodes, the informers."""

    def __init__(self, world: World, titles: list[str]) -> None:
        self._world = world
        self._titles = titles
        self._done: list[Outcome] = []
        self._details: list[str] = []

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
        """The picture of this moment."""
        revision = Text.assemble("store at revision ", (str(self._world.revision), "bold"))
        sides = Columns([Group(self._deployments(), self._nodes()), self._informers()], padding=(0, 3))
        return Group(self._steps(), Text(), revision, self._pods(), sides)

    def _steps(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for place, title in enumerate(self._titles):
            if place < len(self._done):
                outcome = self._done[place]
                mark = Text("failed", "bold red") if outcome.problem else Text("ok", "green")
                note = outcome.problem or f"{outcome.seconds:.1f} s, revision {outcome.revision}"
                table.add_row(mark, Text(title), Text(note, "red" if outcome.problem else "dim"))
            elif place == len(self._done):
                table.add_row(Text("...", "bold yellow"), Text(title, "bold"), Text())
                for text in self._details:
                    table.add_row(Text(), Text(f"  {text}", "cyan"), Text())
            else:
                table.add_row(Text(), Text(title, "dim"), Text())
        return table

    def _pods(self) -> Text:
        counts = Counter(pod_status(pod.raw) for pod in self._world.all(Pod))
        shown = Text("pods ")
        for state, count in sorted(counts.items()):
            style = _STATES.get(state, "")
            shown.append(f" {state} {count} ", style)
            shown.append("#" * min(count, 30), style)
        return shown

    def _deployments(self) -> Table:
        table = _table("deployment", "ready", "updated", "available", "images")
        for each in self._world.all(Deployment):
            raw, wanted = each.raw, each.spec.replicas
            ready = number(raw, "status", "readyReplicas")
            image = each.spec.template.spec.containers[0].image.rpartition("/")[2]
            style = "green" if ready == wanted else "yellow"
            table.add_row(
                each.name,
                Text(f"{ready}/{wanted}", style),
                str(number(raw, "status", "updatedReplicas")),
                str(number(raw, "status", "availableReplicas")),
                image,
            )
        return table

    def _nodes(self) -> Table:
        table = _table("node", "status", "pods")
        pods = Counter(pod.spec.node_name for pod in self._world.all(Pod))
        for node in self._world.all(Node):
            status = node_status(node.raw)
            count = pods[node.name]
            bar = Text(f"{count:3} {'#' * min(count, 20)}")
            table.add_row(node.name, Text(status, "green" if status == "Ready" else "bold red"), bar)
        return table

    def _informers(self) -> Table:
        table = _table("informer", "state", "revision", "resumed", "relisted")
        for name, informer in sorted(self._world.watchers().items()):
            told = informer.reflector
            state = Text(told.state.name, _COLOURS.get(told.state, ""))
            table.add_row(name.partition(".")[0], state, told.last_revision, str(told.resumes), str(told.relists))
        return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


@asynccontextmanager
async def shown_live(picture: Picture, console: Console) -> AsyncIterator[None]:
    """Redraw the picture as long as the body runs; its last state stays on the screen."""
    with Live(picture.render(), console=console, auto_refresh=False, vertical_overflow="crop") as live:

        async def draw() -> None:
            while True:
                await asyncio.sleep(FRAME)
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
