"""Built-in admission: what kube-apiserver's own plug-ins refuse and fill in, in their order.

There is no API server, so whoever writes applies it: the manager that `add_workloads` was called with, and the command
line. Other programs that write through an `ObjectClient` of their own are not asked.
"""

from __future__ import annotations

from controllers.admission.lifecycle import NamespaceLifecycle, open_namespace
from controllers.admission.limits import LimitRanger
from controllers.admission.lookups import CachedLookups, Lookups, StoreLookups
from controllers.admission.priority import PriorityAdmission
from controllers.admission.quota import QuotaAdmission
from controllers.admission.storage_class import DefaultStorageClass
from controllers.admission.tolerations import TOLERATION_SECONDS, DefaultTolerationSeconds
from informer.admission import Admission

__all__ = ["CachedLookups", "StoreLookups", "add_builtin_admission", "open_namespace"]


def add_builtin_admission(
    admission: Admission, lookups: Lookups, *, toleration_seconds: float = TOLERATION_SECONDS
) -> None:
    """Add the plug-ins. toleration_seconds: how long a pod that does not say otherwise stays on a lost node."""
    admission.add_plugin(NamespaceLifecycle(lookups))
    admission.add_plugin(LimitRanger(lookups))
    admission.add_plugin(PriorityAdmission(lookups))
    admission.add_plugin(DefaultTolerationSeconds(toleration_seconds))
    admission.add_plugin(DefaultStorageClass(lookups))
    admission.add_plugin(QuotaAdmission(lookups))
