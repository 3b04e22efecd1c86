"""An informer under test, with the handlers that judge it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from informer.listwatch import ListWatch
from informer.reflector import Backoff, Transition
from informer.shared import Registration, SharedInformer
from tests.faults.judge import IllegalError, Judge, Lists, SlowJudge
from tests.faults.truth import State, Truth
from tests.informer.recorder import Transitions


class Watched:
    """A shared informer with two judges, the second of which takes `slowness` seconds over each update."""

    def __init__(
        self,
        list_watch: ListWatch,
        rng: random.Random,
        *,
        queue_limit: int,
        page_size: int,
        backoff: Backoff,
        slowness: float = 0.0,
    ) -> None:
        self.transitions = Transitions()
        self.informer = SharedInformer(
            list_watch,
            name="watched",
            rng=rng,
            queue_limit=queue_limit,
            backoff=backoff,
            page_size=page_size,
            on_transition=self._on_transition,
        )
        cache = self.informer.cache
        self._judges: dict[Registration, Judge] = {}
        for judge in (Judge(cache), SlowJudge(cache, slowness)):
            self.add(judge)

    def add(self, judge: Judge) -> None:
        """Let one more judge handle what it tells."""
        self._judges[self.informer.add_handler(judge)] = judge

    @property
    def judges(self) -> Sequence[Judge]:
        """The first one takes no time."""
        return [*self._judges.values()]

    def _on_transition(self, transition: Transition) -> None:
        self.transitions(transition)
        self.judges[0].look()

    def look(self, truth: Truth) -> None:
        """The cache, now and whenever somebody looked, was the store's at its revision."""
        self.informer.cache._check()
        for judge in self.judges:
            judge.look()
            judge.check_looks(truth)

    async def know(self, there: dict[str, State]) -> None:
        """Wait until all handlers were told that this is what there is."""
        for judge in self.judges:
            await judge.until_known(there)

    def verdict(self, truth: Truth) -> None:
        """Raise IllegalError if anything was not as it has to be; call it when nothing is pending."""
        self.look(truth)
        lists = Lists.of(self.transitions.all)
        for registration, judge in self._judges.items():
            judge.verdict(truth, lists, registration.statistics())
        if duplicates := self.informer.statistics().reflector.duplicates:
            raise IllegalError(f"{duplicates} events came twice")
