"""Reconcilers: the manager that runs them, what they are given and what they answer."""

from controllers.context import BlockingContext, Context
from controllers.controller import Controller, ControllerStatistics
from controllers.errors import (
    AlreadyOwned,
    ControllerError,
    InvalidOwner,
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

__all__ = [
    "AlreadyOwned",
    "BlockingContext",
    "Context",
    "Controller",
    "ControllerError",
    "ControllerStatistics",
    "InvalidOwner",
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
