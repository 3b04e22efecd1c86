"""Every error of this package. Those of the object layer (`informer.errors`) pass through unchanged."""

from __future__ import annotations


class ControllerError(Exception):
    """Base of all: something the author or the operator of a controller has to put right."""


class TerminalError(ControllerError):
    """Raise it in a reconciler when a retry cannot help: logged and counted, not retried until the object changes."""


class UndeclaredKind(ControllerError):
    """A reconciler read a kind from the cache that its controller does not watch."""


class AlreadyOwned(ControllerError):
    """The object has another controller already."""


class RunCancelled(ControllerError):
    """A plain `def` reconciler asked for something after its run was given up (its timeout, or the manager stops)."""


class StoreError(ControllerError):
    """The store cannot be opened; the text says what was tried and what to do."""


class StoreInUse(StoreError):
    """Another process has the data directory open."""


class SyncTimeout(ControllerError):
    """The caches did not fill in time."""


class ManagerError(ControllerError):
    """A part of the manager ended that should have gone on."""


class LeadershipLost(ControllerError):
    """This process was the leader and no longer is: it must end, or begin anew as a candidate."""


class EndpointError(ControllerError):
    """Metrics and health cannot be served there, or a check of them fails; the text says why."""
