"""How far a rollout is, in kubectl's words."""

from __future__ import annotations

from controllers.apps.deployment.revisions import revision_of
from controllers.apps.types import Deployment
from controllers.cli.errors import CliError
from controllers.cli.raw import Raw, dig, items, name_of, number, text
from informer.resources import Resource


def rollout_status(obj: Resource, revision: int = 0) -> tuple[str, bool]:
    """What there is to say of a rollout, and whether it is over. Raises `CliError` for one that does not get on.

    revision: which one has to be rolled out; of Deployments only, as in kubectl.
    """
    if isinstance(obj, Deployment):
        return _deployment(obj, revision)
    if text(obj.raw, "spec", "updateStrategy", "type", otherwise="RollingUpdate") != "RollingUpdate":
        raise CliError("rollout status is only available for RollingUpdate strategy type")
    if obj.TYPE.kind == "DaemonSet":
        return _daemon_set(obj.raw)
    return _stateful_set(obj.raw)


def _deployment(deployment: Deployment, revision: int) -> tuple[str, bool]:
    name, status = deployment.name, deployment.status
    if revision and revision_of(deployment) and revision != revision_of(deployment):
        raise CliError(
            f"desired revision ({revision}) is different from the running revision ({revision_of(deployment)})"
        )
    if deployment.metadata.generation > status.observed_generation:
        return "Waiting for deployment spec update to be observed...", False
    for condition in items(deployment.raw, "status", "conditions"):
        if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            raise CliError(f'deployment "{name}" exceeded its progress deadline')
    waiting = f'Waiting for deployment "{name}" rollout to finish: '
    replicas, updated = deployment.spec.replicas, status.updated_replicas
    if updated < replicas:
        return f"{waiting}{updated} out of {replicas} new replicas have been updated...", False
    if status.replicas > updated:
        return f"{waiting}{status.replicas - updated} old replicas are pending termination...", False
    if status.available_replicas < updated:
        return f"{waiting}{status.available_replicas} of {updated} updated replicas are available...", False
    return f'deployment "{name}" successfully rolled out', True


def _unseen(raw: Raw) -> bool:
    return number(raw, "metadata", "generation") > number(raw, "status", "observedGeneration")


def _daemon_set(raw: Raw) -> tuple[str, bool]:
    if _unseen(raw):
        return "Waiting for daemon set spec update to be observed...", False
    waiting = f'Waiting for daemon set "{name_of(raw)}" rollout to finish: '
    desired, updated, available = (
        number(raw, "status", field)
        for field in ("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable")
    )
    if updated < desired:
        return f"{waiting}{updated} out of {desired} new pods have been updated...", False
    if available < desired:
        return f"{waiting}{available} of {desired} updated pods are available...", False
    return f'daemon set "{name_of(raw)}" successfully rolled out', True


def _stateful_set(raw: Raw) -> tuple[str, bool]:
    if _unseen(raw) or not number(raw, "status", "observedGeneration"):
        return "Waiting for statefulset spec update to be observed...", False
    replicas, ready = number(raw, "spec", "replicas"), number(raw, "status", "readyReplicas")
    if ready < replicas:
        return f"Waiting for {replicas - ready} pods to be ready...", False
    updated = number(raw, "status", "updatedReplicas")
    if dig(raw, "spec", "updateStrategy", "rollingUpdate") is not None:
        wanted = replicas - number(raw, "spec", "updateStrategy", "rollingUpdate", "partition")
        if updated < wanted:
            done = f"{updated} out of {wanted} new pods have been updated"
            return f"Waiting for partitioned roll out to finish: {done}...", False
        return f"partitioned roll out complete: {updated} new pods have been updated...", True
    current, update = text(raw, "status", "currentRevision"), text(raw, "status", "updateRevision")
    if current != update:
        return f"waiting for statefulset rolling update to complete {updated} pods at revision {update}...", False
    count = number(raw, "status", "currentReplicas")
    return f"statefulset rolling update complete {count} pods at revision {current}...", True
