"""Making and deleting the pods of a controller, told by events: client-go's PodControl, and its slow start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from controllers.context import Context
from controllers.core.events import Recorder
from controllers.core.types import Pod
from informer.errors import ApiError, NamespaceTerminating
from informer.resources import Resource

SLOW_START = 1  # creates in the first batch; kube-controller-manager's SlowStartInitialBatchSize


class PodControl:
    """Creates and deletes pods in the name of a component."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def create(self, ctx: Context, owner: Resource, model: Pod) -> bool:
        """Make a pod; whether there is one now: a namespace that ends takes none, and its own end is near.

        Raises ApiError.
        """
        try:
            pod = await ctx.create(model)
        except NamespaceTerminating:
            return False
        except ApiError as error:
            self._recorder.event(owner, "Warning", "FailedCreate", f"Error creating: {error}")
            raise
        self._recorder.event(owner, "Normal", "SuccessfulCreate", f"Created pod: {pod.name}")
        return True

    async def delete(self, ctx: Context, owner: Resource, name: str, uid: str) -> None:
        """Delete this pod of the owner's namespace; one that is gone already is fine. Raises ApiError."""
        try:
            await ctx.delete(Pod, name, owner.namespace, uid=uid)
        except ApiError as error:
            self._recorder.event(owner, "Warning", "FailedDelete", f"Error deleting: {error}")
            raise
        self._recorder.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {name}")


async def slow_start(count: int, create: Callable[[], Awaitable[object]]) -> ApiError | None:
    """Do it `count` times, 1, 2, 4, ... at once; the batch in which one fails is the last. The first error, or None.

    A namespace that takes no pods thus costs one try, not hundreds. Cancelling it cancels the calls in progress.
    """
    size = SLOW_START
    while count > 0:
        size = min(size, count)
        failure = first_error(await asyncio.gather(*(create() for _ in range(size)), return_exceptions=True))
        if failure is not None:
            return failure
        count -= size
        size *= 2
    return None


def first_error(results: Iterable[object]) -> ApiError | None:
    """The first error of the object client's among what was gathered; any other one is raised."""
    found: ApiError | None = None
    for result in results:
        if isinstance(result, ApiError):
            found = found or result
        elif isinstance(result, BaseException):
            raise result
    return found
