"""Reconcilers: the manager that runs them, what they are given and what they answer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from controllers.context import BlockingContext, Context
    from controllers.controller import Controller, ControllerStatistics
    from controllers.errors import (
        AlreadyOwned,
        ControllerError,
        ManagerError,
        RunCancelled,
        StoreError,
        SyncTimeout,
        TerminalError,
        UndeclaredKind,
    )
    from controllers.handlers import generation_changed, labels_changed
    from controllers.manager import Manager, ManagerStatistics
    from controllers.owners import controller_of, is_controlled_by, set_controller_reference
    from controllers.reconcile import Outcome, Request, Result
    from controllers.stores import open_store
    from controllers.workqueue import QueueStatistics, WorkQueue

# The command line lives in this package: `listwatch --help` and `listwatch serve` must not pay for all of it.
_HOMES = {
    "context": ("BlockingContext", "Context"),
    "controller": ("Controller", "ControllerStatistics"),
    "errors": (
        "AlreadyOwned",
        "ControllerError",
        "ManagerError",
        "RunCancelled",
        "StoreError",
        "SyncTimeout",
        "TerminalError",
        "UndeclaredKind",
    ),
    "handlers": ("generation_changed", "labels_changed"),
    "manager": ("Manager", "ManagerStatistics"),
    "owners": ("controller_of", "is_controlled_by", "set_controller_reference"),
    "reconcile": ("Outcome", "Request", "Result"),
    "stores": ("open_store",),
    "workqueue": ("QueueStatistics", "WorkQueue"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AlreadyOwned",
    "BlockingContext",
    "Context",
    "Controller",
    "ControllerError",
    "ControllerStatistics",
    "Manager",
    "ManagerError",
    "ManagerStatistics",
    "Outcome",
    "QueueStatistics",
    "Request",
    "Result",
    "RunCancelled",
    "StoreError",
    "SyncTimeout",
    "TerminalError",
    "UndeclaredKind",
    "WorkQueue",
    "controller_of",
    "generation_changed",
    "is_controlled_by",
    "labels_changed",
    "open_store",
    "set_controller_reference",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"controllers.{home}"), name)
    globals()[name] = value
    return value
