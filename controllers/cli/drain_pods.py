"""Which pods of a node a drain takes, which it leaves, and which forbid it: kubectl's filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from controllers.cli.raw import controller_of, items
from controllers.cli.session import Session
from controllers.core.types import Pod
from informer.errors import NotFound, UnknownKind

_MIRROR = "kubernetes.io/config.mirror"  # the annotation of a pod that only its node's kubelet can stop


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the command's options let it do."""

    force: bool
    ignore_daemonsets: bool
    delete_emptydir_data: bool


@dataclass(slots=True)
class Plan:
    """The pods to take, and by what is to be said about them: warnings and errors, each about some pods."""

    pods: list[Pod] = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)

    def warn(self, text: str, pod: Pod) -> None:
        """Say it of the pod, and go on."""
        self.warnings.setdefault(text, []).append(f"{pod.namespace}/{pod.name}")

    def forbid(self, text: str, pod: Pod) -> None:
        """Say it of the pod, and do not drain."""
        self.errors.setdefault(text, []).append(f"{pod.namespace}/{pod.name}")

    def told_warnings(self) -> str:
        """One line; "" for none."""
        return "; ".join(f"{text}: {', '.join(names)}" for text, names in sorted(self.warnings.items()))

    def told_errors(self) -> list[str]:
        """A line a reason."""
        return [f"cannot delete {text}: {', '.join(names)}" for text, names in sorted(self.errors.items())]


async def plan_drain(session: Session, pods: Sequence[Pod], allowed: Allowed) -> Plan:
    """What a drain does with these pods."""
    plan = Plan()
    for pod in sorted(pods, key=lambda each: (each.namespace or "", each.name)):
        if _MIRROR in pod.metadata.annotations:
            continue
        owner = controller_of(pod.raw)
        forbidden = len(plan.errors)
        if not pod.finished:
            if owner is not None and owner.get("kind") == "DaemonSet":
                if await _exists(session, str(owner.get("name")), pod.namespace):
                    if allowed.ignore_daemonsets:
                        plan.warn("ignoring DaemonSet-managed Pods", pod)
                    else:
                        plan.forbid("DaemonSet-managed Pods (use --ignore-daemonsets to ignore)", pod)
                    continue
                if not allowed.force:
                    plan.forbid("DaemonSet-managed Pods whose DaemonSet is gone (use --force to override)", pod)
                    continue
            if any("emptyDir" in volume for volume in items(pod.raw, "spec", "volumes")):
                if allowed.delete_emptydir_data:
                    plan.warn("deleting Pods with local storage", pod)
                else:
                    plan.forbid("Pods with local storage (use --delete-emptydir-data to override)", pod)
            if owner is None:
                if allowed.force:
                    plan.warn("deleting Pods that declare no controller", pod)
                else:
                    plan.forbid("Pods that declare no controller (use --force to override)", pod)
        if len(plan.errors) == forbidden:
            plan.pods.append(pod)
    return plan


async def _exists(session: Session, name: str, namespace: str | None) -> bool:
    try:
        await session.objects.get(session.kinds.lookup("daemonsets.apps"), name, namespace)
    except (NotFound, UnknownKind):
        return False
    return True
