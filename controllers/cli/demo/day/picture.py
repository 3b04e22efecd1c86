"""The day on a terminal: one picture that moves."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from controllers.apps.daemonset.types import DaemonSet
from controllers.apps.statefulset.types import StatefulSet
from controllers.apps.types import Deployment
from controllers.autoscaling.types import HorizontalPodAutoscaler
from controllers.batch.types import Job
from controllers.cli.columns.batch import job_status
from controllers.cli.columns.nodes import node_status
from controllers.cli.columns.pods import pod_status
from controllers.cli.demo.day.shop import Shop, customers, now
from controllers.cli.demo.live import plain_table
from controllers.cli.demo.runner import Outcome
from controllers.cli.raw import number
from controllers.core.types import Node, Pod
from informer.resources import Resource

CROWD = 30  # characters
DETAILS = 3
_STATES = {"Running": "green", "Pending": "yellow", "Terminating": "red", "Completed": "dim"}


class DayPicture:
    """What is on the screen: the hour, what runs, the nodes, the night's jobs, and what controllers tell."""

    def __init__(self, shop: Shop, titles: list[str]) -> None:
        self._shop = shop
        self._titles = titles
        self._done: list[Outcome] = []
        self._details: list[str] = []

    def begin(self, number: int, title: str, revision: int) -> None:
        """The next hour; the details of the one before stay until it has some."""

    def detail(self, text: str, revision: int) -> None:
        """Shown under the hours; the last few."""
        self._details = [*self._details[1 - DETAILS :], text]

    def end(self, outcome: Outcome) -> None:
        """Marked in the list."""
        self._done.append(outcome)
        if outcome.problem:
            self._details = [*self._details[1 - DETAILS :], outcome.problem]

    def render(self) -> RenderableType:
        """The picture of this moment; it fits into 80 columns and 24 lines."""
        sides = Table.grid(padding=(0, 3))
        sides.add_row(self._nodes(), self._jobs())
        return Group(self._clock(), self._hours(), self._parts(), sides, self._news())

    def _clock(self) -> Text:
        share = customers(now())
        crowd = ("#" * round(share * CROWD)).ljust(CROWD, ".")
        clock = (f"{now():%A %H:%M}", "bold")
        return Text.assemble(clock, "  customers ", (crowd, "cyan"), f"  revision {self._shop.revision}")

    def _hours(self) -> Text:
        """The hour before, this one and the next."""
        shown = Text(no_wrap=True, overflow="ellipsis")
        at = len(self._done)
        for place in range(max(0, at - 1), min(at + 2, len(self._titles))):
            if place < at:
                problem = self._done[place].problem
                shown.append("failed " if problem else "ok     ", "bold red" if problem else "green")
                shown.append(f"{self._titles[place]}\n")
            elif place == at:
                shown.append(f"...    {self._titles[place]}\n", "bold yellow")
            else:
                shown.append(f"       {self._titles[place]}\n", "dim")
        for text in self._details:
            shown.append(f"       {text}\n", "cyan")
        return shown

    def _parts(self) -> Table:
        """What runs all day."""
        shop = self._shop
        table = plain_table("part", "kind", "ready", "pods", "autoscaler", "image")
        scalers = {each.raw["spec"]["scaleTargetRef"]["name"]: each for each in shop.all(HorizontalPodAutoscaler)}
        kinds: tuple[type[Resource], ...] = (Deployment, StatefulSet, DaemonSet)
        for cls in kinds:
            for each in shop.all(cls):
                daemon = cls is DaemonSet
                ready = number(each.raw, "status", "numberReady" if daemon else "readyReplicas")
                where = ("status", "desiredNumberScheduled") if daemon else ("spec", "replicas")
                wanted = number(each.raw, *where)
                counts = Text(f"{ready}/{wanted}", "green" if ready == wanted else "yellow")
                images = Counter(pod.spec.containers[0].image for pod in shop.pods(each.name))
                image = ", ".join(f"{image} x{count}" for image, count in sorted(images.items()))
                scaler = _target(scalers.get(each.name))
                table.add_row(each.name, cls.TYPE.kind, counts, self._bar(each.name), scaler, image)
        return table

    def _bar(self, app: str) -> Text:
        shown = Text()
        for state, count in sorted(Counter(pod_status(pod.raw) for pod in self._shop.pods(app)).items(), reverse=True):
            shown.append("#" * count, _STATES.get(state, "red"))
        return shown

    def _nodes(self) -> Table:
        table = plain_table("node", "status", "pods")
        pods = Counter(pod.spec.node_name for pod in self._shop.all(Pod) if not pod.finished)
        for node in self._shop.all(Node):
            status = node_status(node.raw)
            table.add_row(node.name, Text(status, "green" if status == "Ready" else "bold red"), str(pods[node.name]))
        return table

    def _jobs(self) -> Table:
        table = plain_table("job", "status", "done")
        for job in self._shop.all(Job)[-4:]:
            table.add_row(job.name, job_status(job.raw), str(number(job.raw, "status", "succeeded")))
        return table

    def _news(self) -> Text:
        return Text("\n".join(self._shop.news), "dim", no_wrap=True, overflow="ellipsis")


def _target(scaler: HorizontalPodAutoscaler | None) -> str:
    """`55%/60%`."""
    if scaler is None:
        return ""
    target = scaler.raw["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"]
    measured = (scaler.raw.get("status", {}).get("currentMetrics") or [{}])[0]
    used = measured.get("resource", {}).get("current", {}).get("averageUtilization", "?")
    return f"{used}%/{target}%"
