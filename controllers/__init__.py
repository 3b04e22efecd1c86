"""Reconcilers: the manager that runs them, what they are given and what they answer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from controllers.builder import ControllerManagedBy
    from controllers.composite import Children, Desired, Finalized
    from controllers.conditions import (
        find_status_condition,
        is_status_condition_true,
        remove_status_condition,
        set_status_condition,
    )
    from controllers.context import BlockingContext, Context
    from controllers.controller import Controller, ControllerStatistics
    from controllers.errors import (
        AlreadyOwned,
        ControllerError,
        EndpointError,
        LeadershipLost,
        ManagerError,
        RunCancelled,
        StoreError,
        SyncTimeout,
        TerminalError,
        UndeclaredKind,
    )
    from controllers.finalizers import add_finalizer, has_finalizer, remove_finalizer
    from controllers.leader import LeaderElection
    from controllers.manager import Manager, ManagerStatistics
    from controllers.owners import controller_of, is_controlled_by, set_controller_reference
    from controllers.predicates import (
        all_of,
        annotations_changed,
        any_of,
        generation_changed,
        labels_changed,
        none_of,
        resource_version_changed,
        selected,
    )
    from controllers.reconcile import Outcome, Request, Result
    from controllers.settings import SettingError, Settings
    from controllers.stores import open_store
    from controllers.workqueue import QueueStatistics, WorkQueue

# The command line lives in this package: `listwatch --help` and `listwatch serve` must not pay for all of it.
_HOMES = {
    "builder": ("ControllerManagedBy",),
    "composite": ("Children", "Desired", "Finalized"),
    "conditions": (
        "find_status_condition",
        "is_status_condition_true",
        "remove_status_condition",
        "set_status_condition",
    ),
    "context": ("BlockingContext", "Context"),
    "controller": ("Controller", "ControllerStatistics"),
    "errors": (
        "AlreadyOwned",
        "ControllerError",
        "EndpointError",
        "LeadershipLost",
        "ManagerError",
        "RunCancelled",
        "StoreError",
        "SyncTimeout",
        "TerminalError",
        "UndeclaredKind",
    ),
    "finalizers": ("add_finalizer", "has_finalizer", "remove_finalizer"),
    "leader": ("LeaderElection",),
    "manager": ("Manager", "ManagerStatistics"),
    "owners": ("controller_of", "is_controlled_by", "set_controller_reference"),
    "predicates": (
        "all_of",
        "annotations_changed",
        "any_of",
        "generation_changed",
        "labels_changed",
        "none_of",
        "resource_version_changed",
        "selected",
    ),
    "reconcile": ("Outcome", "Request", "Result"),
    "settings": ("SettingError", "Settings"),
    "stores": ("open_store",),
    "workqueue": ("QueueStatistics", "WorkQueue"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AlreadyOwned",
    "BlockingContext",
    "Children",
    "Context",
    "Controller",
    "ControllerError",
    "ControllerManagedBy",
    "ControllerStatistics",
    "Desired",
    "EndpointError",
    "Finalized",
    "LeaderElection",
    "LeadershipLost",
    "Manager",
    "ManagerError",
    "ManagerStatistics",
    "Outcome",
    "QueueStatistics",
    "Request",
    "Result",
    "RunCancelled",
    "SettingError",
    "Settings",
    "StoreError",
    "SyncTimeout",
    "TerminalError",
    "UndeclaredKind",
    "WorkQueue",
    "add_finalizer",
    "all_of",
    "annotations_changed",
    "any_of",
    "controller_of",
    "find_status_condition",
    "generation_changed",
    "has_finalizer",
    "is_controlled_by",
    "is_status_condition_true",
    "labels_changed",
    "none_of",
    "open_store",
    "remove_finalizer",
    "remove_status_condition",
    "resource_version_changed",
    "selected",
    "set_controller_reference",
    "set_status_condition",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"controllers.{home}"), name)
    globals()[name] = value
    return value
