"""What is in use is not deleted: a claim stays until no pod has it, a volume until no claim has it."""

from __future__ import annotations

from collections.abc import Iterable

from controllers.catching_up import catch_up
from controllers.context import Context
from controllers.core.pods import decode_pod
from controllers.core.types import PersistentVolumeClaim, Pod
from controllers.handlers import EnqueueRequests
from controllers.manager import Manager
from controllers.reconcile import Request
from controllers.storage.matching import claims_of
from informer.cache import Stored
from informer.errors import from_store
from informer.shared import Registration
from kvstore.errors import KvError

CLAIM_FINALIZER = "kubernetes.io/pvc-protection"
VOLUME_FINALIZER = "kubernetes.io/pv-protection"


class UsersOfClaims:
    """The pods that use claims. They are listened to only while a claim waits for one to come or to go."""

    def __init__(self, manager: Manager, controller: str) -> None:
        self._manager = manager
        self._controller = controller
        self._waiting: set[Request] = set()
        self._listening: Registration | None = None

    def wait_for(self, request: Request) -> None:
        """Let the controller run for this claim when a pod that names it changes. Call it before looking."""
        self._waiting.add(request)
        if self._listening is None:
            queue = self._manager.controller(self._controller).queue
            handler = EnqueueRequests(queue, self._concerned, None)
            self._listening = self._manager.informer(Pod).add_handler(handler, name=self._controller)

    def forget(self, request: Request) -> None:
        """It waits no more."""
        self._waiting.discard(request)
        if not self._waiting and self._listening is not None:
            self._listening.remove()
            self._listening = None

    def _concerned(self, stored: Stored) -> Iterable[Request]:
        found = (Request(stored.namespace, name) for name in claims_of(stored.data))
        return [request for request in found if request in self._waiting]

    def has_any(self, ctx: Context, claim: PersistentVolumeClaim) -> bool:
        """Whether some pod names the claim."""
        return any(claim.name in claims_of(each.data) for each in ctx.stored(Pod, claim.namespace))

    async def in_use(self, ctx: Context, claim: PersistentVolumeClaim) -> bool:
        """Whether a pod has the claim: what is not on a node yet will not get there with a claim that goes, and what
        has ended is done with it. All that the store knows now is taken into account."""
        if self._in_use(ctx, claim):
            return True
        try:
            await catch_up(self._manager.store_client, self._manager.informer(Pod).cache, Pod.TYPE.prefix())
        except KvError as error:
            raise from_store(error) from error
        return self._in_use(ctx, claim)

    @staticmethod
    def _in_use(ctx: Context, claim: PersistentVolumeClaim) -> bool:
        for stored in ctx.stored(Pod, claim.namespace):
            if claim.name in claims_of(stored.data):
                pod = decode_pod(stored)
                if pod.node and not pod.finished:
                    return True
        return False
