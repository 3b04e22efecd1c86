"""Every error that reading and writing objects can give: one class for each thing that a caller can do about it."""

from __future__ import annotations

from typing import ClassVar


class ApiError(Exception):
    """Base of all. `reason` is the word Kubernetes uses for it, `retriable` whether the same call may succeed later."""

    reason: ClassVar[str] = "InternalError"
    retriable: ClassVar[bool] = False


class NotFound(ApiError):
    """There is no such object."""

    reason = "NotFound"


class AlreadyExists(ApiError):
    """The name is taken, perhaps by an object that is still being deleted."""

    reason = "AlreadyExists"


class Conflict(ApiError):
    """The object changed since it was read, or is another one than meant: read it again and decide anew."""

    reason = "Conflict"


class Invalid(ApiError):
    """A value that cannot be accepted: `path` is the field (`spec.replicas`; empty: the whole), `problem` says why."""

    reason = "Invalid"

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem

    def __reduce__(self) -> tuple[type[Invalid], tuple[str, str]]:
        return type(self), (self.path, self.problem)


class UnknownKind(ApiError):
    """No resource type of that name is known here."""

    reason = "NotFound"


class Expired(ApiError):
    """The revision was compacted away: list again. `compact_revision` is the oldest readable one, 0 if not told."""

    reason = "Expired"

    def __init__(self, message: str, compact_revision: int = 0) -> None:
        super().__init__(message)
        self.compact_revision = compact_revision


class Unreachable(ApiError):
    """The store did not answer. A write that ends so may or may not have happened."""

    reason = "ServiceUnavailable"
    retriable = True


class StoreFull(ApiError):
    """The store takes no more data until something is deleted, compacted or its quota raised."""

    reason = "InsufficientStorage"
