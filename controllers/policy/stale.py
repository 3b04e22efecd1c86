"""Pods that were said to be on their way out, and stayed."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import structlog

from controllers.conditions import find_status_condition, set_status_condition
from controllers.core.pods import decode_pod
from controllers.core.types import Pod
from controllers.manager import Manager
from controllers.policy.eviction import DISRUPTION_TARGET
from informer.cache import Stored
from informer.errors import ApiError

STALE_AFTER = timedelta(minutes=2)  # kube-controller-manager's stalePodDisruptionTimeout
PERIOD = 60.0  # seconds between looks at all pods
BY_KUBELET = "TerminationByKubelet"  # of these the kubelet knows better when they end

_MARK = f'"{DISRUPTION_TARGET}"'.encode()

log = structlog.get_logger("controllers")


class StaleDisruptionTargets:
    """Takes back the condition DisruptionTarget of pods that were not deleted within two minutes.

    It looks at all pods once a minute, a few microseconds for ten of them, so that no event of a pod costs anything.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def register(self) -> None:
        """Add it to the manager."""
        self._manager.add_runnable(self.run, "stale disruption targets")

    async def run(self) -> None:
        """Look again and again until cancelled."""
        pods = self._manager.informer(Pod)
        await pods.wait_synced()
        client = self._manager.client.with_field_manager("DisruptionController")
        while True:
            await asyncio.sleep(PERIOD)
            now = self._manager.now()
            for stored in pods.cache.list():
                if _MARK in stored.data and is_stale(stored, now):
                    pod = Pod.decode(stored.data, stored.revision)
                    withdraw(pod, now)
                    try:
                        await client.update_status(pod)
                    except ApiError as error:
                        # The next look finds it again, if it is still there.
                        log.info("disruption_target_kept", pod=stored.key, error=str(error))


def is_stale(stored: Stored, now: datetime) -> bool:
    """Whether a pod bears the condition and has been there for too long without a deletion."""
    pod = decode_pod(stored)
    condition = pod.condition(DISRUPTION_TARGET)
    if condition is None or condition.status != "True" or condition.reason == BY_KUBELET or not pod.active:
        return False
    since = condition.last_transition_time
    return since is None or now - since >= STALE_AFTER


def withdraw(pod: Pod, now: datetime) -> None:
    """Set the condition to False, in memory."""
    conditions = pod.raw["status"]["conditions"]
    told = find_status_condition(conditions, DISRUPTION_TARGET)
    assert told is not None
    reason, message = told.get("reason", ""), told.get("message", "")
    set_status_condition(conditions, DISRUPTION_TARGET, False, reason, message, now=now)
