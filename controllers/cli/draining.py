"""Taking pods off a node, until they are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import click

from controllers.cli.errors import CliError
from controllers.cli.following import cached, until
from controllers.cli.session import Session
from controllers.core.types import Pod
from informer.cache import Cache
from informer.errors import ApiError, Conflict, NotFound, TooManyRequests

RETRY = 5.0  # seconds until a refused eviction is tried again, as in kubectl
AT_ONCE = 16  # evictions under way


class Draining:
    """Takes pods, all at once, and waits until they are gone."""

    def __init__(
        self, session: Session, pods: Sequence[Pod], take: Callable[[Pod], Awaitable[None]], word: str
    ) -> None:
        self._session = session
        self._take = take
        self._word = word
        self._left = {(pod.namespace, pod.name): pod for pod in pods}
        self._room = asyncio.Semaphore(AT_ONCE)

    async def run(self, node: str, timeout: float) -> None:
        """Raises `CliError` if one cannot be taken, or it takes too long."""
        if not self._left:
            return
        pods = [*self._left.values()]
        try:
            async with asyncio.timeout(timeout or None), asyncio.TaskGroup() as tasks:
                takers = [tasks.create_task(self._until_taken(pod)) for pod in pods]
                await until(self._session, Pod, None, self._gone, None)
                for taker in takers:  # one may wait to ask again for a pod that somebody else took
                    taker.cancel()
        except TimeoutError:
            problem = f"drain did not complete within {timeout:g}s"
            click.echo(f'There are pending pods in node "{node}" when an error occurred: {problem}', err=True)
            for _, name in self._left:
                click.echo(f"pod/{name}", err=True)
            raise CliError(problem) from None
        except ExceptionGroup as group:
            failed, others = group.split(CliError)
            if others is not None or failed is None:
                raise
            raise CliError(
                *(line for error in failed.exceptions if isinstance(error, CliError) for line in error.lines)
            ) from None

    def _gone(self, cache: Cache) -> bool:
        for key, pod in [*self._left.items()]:
            if cached(cache, pod) is None:
                click.echo(f"pod/{pod.name} {self._word}")
                del self._left[key]
        return not self._left

    async def _until_taken(self, pod: Pod) -> None:
        while True:
            click.echo(
                f"evicting pod {pod.namespace}/{pod.name}"
                if self._word == "evicted"
                else f"deleting pod {pod.namespace}/{pod.name}"
            )
            try:
                async with self._room:
                    await self._take(pod)
            except NotFound:
                return
            except Conflict as error:
                if not await self._is_another(pod):
                    raise self._failed(pod, error) from None
                return
            except TooManyRequests as error:
                where = f'pods/"{pod.name}" -n "{pod.namespace}"'
                click.echo(f"error when evicting {where} (will retry after {RETRY:g}s): {error}", err=True)
                await asyncio.sleep(RETRY)
            except ApiError as error:
                raise self._failed(pod, error) from None
            else:
                return

    async def _is_another(self, pod: Pod) -> bool:
        """Whether the pod is gone, and its name perhaps another's: a StatefulSet gives it to the next."""
        try:
            live = await self._session.objects.get(Pod, pod.name, pod.namespace)
        except NotFound:
            return True
        return live.metadata.uid != pod.metadata.uid

    def _failed(self, pod: Pod, error: ApiError) -> CliError:
        return CliError(f'error when evicting pods/"{pod.name}" -n "{pod.namespace}": {error}')
