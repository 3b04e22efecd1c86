"""`python -m tests.comparison`: Python's watchers and informers under the same faults, each in a process of its own.

Prints what becomes of each as Markdown; `docs/informer.md` has a copy. Takes about five minutes. Needs the libraries:
`pip install --group comparison`. What a library printed is in the directory that is named at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib.metadata
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from tests.comparison import on_etcd, on_kubernetes
from tests.comparison.judge import Verdict
from tests.comparison.trial import Watch, process

AT_ONCE = 3  # trials; two cores, and most of the time is waiting
SILENCE = "silence"  # takes 100 s in which nothing happens, so all of them run at once


@dataclasses.dataclass(frozen=True)
class Library:
    """A column: the name in `candidates`, the distribution it is from, how it is used."""

    name: str
    distribution: str
    how: str = ""

    def version(self) -> str | None:
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def heading(self) -> str:
        return f"{self.distribution} {self.version() or '(not installed)'}{self.how}"


KUBERNETES = [
    Library("ours-on-kubernetes", "listwatch"),
    Library("kopf", "kopf"),
    Library("official", "kubernetes", ", its informer"),
    Library("lightkube", "lightkube"),
    Library("lightkube-retry", "lightkube", " with `on_error_retry`"),
    Library("kr8s", "kr8s"),
    Library("kr8s-again", "kr8s", " in a loop"),
]
ETCD = [
    Library("ours-on-etcd", "listwatch"),
    Library("aetcd", "aetcd"),
    Library("etcd3gw", "etcd3gw"),
]


async def compare(logs: Path, scratch: Path, libraries: set[str], scenarios: set[str]) -> list[str]:
    """Run every trial; the tables."""
    crowd, silent = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(len(KUBERNETES) + len(ETCD))

    async def one(library: Library, scenario: str, run: Callable[[Watch], Awaitable[Verdict]]) -> Verdict:
        if library.version() is None:
            return Verdict(true=False, text="not installed")
        async with silent if scenario == SILENCE else crowd:
            verdict = await run(process(library.name, logs / f"{library.name}-{scenario}.log"))
        print(f"{library.name:<20} {scenario:<14} {verdict.text}", file=sys.stderr, flush=True)
        return verdict

    trials: dict[tuple[str, str], asyncio.Task[Verdict]] = {}
    async with asyncio.TaskGroup() as group:
        for library in KUBERNETES:
            for name, scenario in on_kubernetes.SCENARIOS.items():
                if library.name in libraries and name in scenarios:

                    def on_server(watch: Watch, scenario: on_kubernetes.Scenario = scenario) -> Awaitable[Verdict]:
                        return on_kubernetes.run(scenario, watch)

                    trials[library.name, name] = group.create_task(one(library, name, on_server))
        for library in ETCD:
            for name, store_scenario in on_etcd.SCENARIOS.items():
                if library.name in libraries and name in scenarios:
                    directory = scratch / f"{library.name}-{name}"
                    directory.mkdir()

                    def on_store(
                        watch: Watch, scenario: on_etcd.Scenario = store_scenario, directory: Path = directory
                    ) -> Awaitable[Verdict]:
                        return on_etcd.run(scenario, watch, directory)

                    trials[library.name, name] = group.create_task(one(library, name, on_store))
    verdicts = {key: trial.result() for key, trial in trials.items()}
    titles = {name: scenario.title for name, scenario in on_kubernetes.SCENARIOS.items()}
    store_titles = {name: store_scenario.title for name, store_scenario in on_etcd.SCENARIOS.items()}
    return [table(KUBERNETES, titles, verdicts), table(ETCD, store_titles, verdicts)]


def table(libraries: list[Library], titles: Mapping[str, str], verdicts: Mapping[tuple[str, str], Verdict]) -> str:
    """Scenarios down, libraries across; what is wrong without a word is bold."""
    shown = [library for library in libraries if any(name == library.name for name, _ in verdicts)]
    lines = [
        "| fault | " + " | ".join(library.heading() for library in shown) + " |",
        "|---" * (len(shown) + 1) + "|",
    ]
    for name, title in titles.items():
        row = [verdicts.get((library.name, name)) for library in shown]
        if any(row):
            cells = ["" if cell is None else f"**{cell.text}**" if cell.silent else cell.text for cell in row]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [library.name for library in KUBERNETES + ETCD]
    faults = list(dict.fromkeys([*on_kubernetes.SCENARIOS, *on_etcd.SCENARIOS]))
    parser.add_argument("--library", dest="only", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--fault", action="append", choices=faults, help="only this one; may be repeated")
    arguments = parser.parse_args()
    logs = Path(tempfile.mkdtemp(prefix="comparison-"))
    with tempfile.TemporaryDirectory() as scratch:
        tables = asyncio.run(compare(logs, Path(scratch), set(arguments.only or names), set(arguments.fault or faults)))
    print("\n\n".join(tables))
    print(f"logs: {logs}", file=sys.stderr)


if __name__ == "__main__":
    main()
