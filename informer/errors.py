"""Every error that reading and writing objects can give: one class for each thing that a caller can do about it."""

from __future__ import annotations

from typing import ClassVar

from kvstore import errors as kv

# etcd's own client resumes its watches on Unavailable and Internal: gRPC gives the latter for a connection that broke
# in the middle of a message.
_BROKEN_CONNECTION = (kv.Code.UNAVAILABLE, kv.Code.INTERNAL, kv.Code.DEADLINE_EXCEEDED)


class ApiError(Exception):
    """Base of all. `reason` is the word Kubernetes uses for it and `status` its HTTP status, 0 when nobody answered;
    `retriable`: whether the same call may succeed later."""

    reason: ClassVar[str] = "InternalError"
    status: ClassVar[int] = 500
    retriable: ClassVar[bool] = False


class NotFound(ApiError):
    """There is no such object."""

    reason = "NotFound"
    status = 404


class AlreadyExists(ApiError):
    """The name is taken, perhaps by an object that is still being deleted."""

    reason = "AlreadyExists"
    status = 409


class Conflict(ApiError):
    """The object changed since it was read, or is another one than meant: read it again and decide anew."""

    reason = "Conflict"
    status = 409


class Invalid(ApiError):
    """A value that cannot be accepted: `path` is the field (`spec.replicas`; empty: the whole), `problem` says why.

    Where several fields do not fit, these are of the first, and `others` tells of the rest.
    """

    reason = "Invalid"
    status = 422

    def __init__(self, path: str, problem: str, others: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__("; ".join(f"{where}: {what}" if where else what for where, what in ((path, problem), *others)))
        self.path = path
        self.problem = problem
        self.others = others

    @property
    def problems(self) -> tuple[tuple[str, str], ...]:
        """Path and problem of every field that does not fit."""
        return ((self.path, self.problem), *self.others)

    def __reduce__(self) -> tuple[type[Invalid], tuple[str, str, tuple[tuple[str, str], ...]]]:
        return type(self), (self.path, self.problem, self.others)


class Problems:
    """Collects `Invalid`s: `with problems:` around each check, `problems.tell()` to raise them as one."""

    LIMIT = 10  # of a list of thousands of wrong items nobody reads more

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Invalid):
            return False
        self.add(error)
        return True

    def add(self, error: Invalid) -> None:
        """One more; raises all of them once there are enough."""
        self._found += error.problems
        if len(self._found) >= self.LIMIT:
            self.tell()

    def tell(self) -> None:
        """Raise what was found, if anything was."""
        if self._found:
            first, *others = self._found[: self.LIMIT]
            raise Invalid(*first, tuple(others)) from None


class Forbidden(ApiError):
    """Who guards objects of this kind does not allow it."""

    reason = "Forbidden"
    status = 403


class NamespaceTerminating(Forbidden):
    """The namespace is being deleted and takes nothing new. Kubernetes tells it by a cause of that name."""


class AdmissionFailed(ApiError):
    """An admission hook gave no answer: nothing was written."""

    reason = "InternalError"
    status = 500


class UnknownKind(ApiError):
    """No resource type of that name is known here."""

    reason = "NotFound"
    status = 404


class Expired(ApiError):
    """The revision was compacted away: list again. `compact_revision` is the oldest readable one, 0 if not told."""

    reason = "Expired"
    status = 410

    def __init__(self, message: str, compact_revision: int = 0) -> None:
        super().__init__(message)
        self.compact_revision = compact_revision


class Unreachable(ApiError):
    """The store did not answer. A write that ends so may or may not have happened."""

    reason = "ServiceUnavailable"
    status = 0
    retriable = True


class Silent(Unreachable):
    """The store did not answer in time: the connection may be dead without a sign of it."""

    reason = "Timeout"


class TooManyRequests(ApiError):
    """The store has more to do than it takes on: ask again later. Nothing was done."""

    reason = "TooManyRequests"
    status = 429
    retriable = True


class Unsupported(ApiError):
    """The store cannot do this at all; there is another way to what was wanted."""

    reason = "MethodNotAllowed"
    status = 405


class StoreFull(ApiError):
    """The store takes no more data until something is deleted, compacted or its quota raised."""

    reason = "InsufficientStorage"
    status = 507


class Fenced(ApiError):
    """The writer is no longer the leader in whose name it writes: nothing was written, and another one leads."""

    reason = "Conflict"
    status = 409


def from_store(error: kv.KvError) -> ApiError:
    """What an error of the store means to whoever reads and writes objects."""
    if error.code in _BROKEN_CONNECTION:
        return Unreachable(error.message)
    if isinstance(error, kv.Compacted):
        return Expired("the revision is compacted away, list again", error.compact_revision)
    if isinstance(error, kv.Fenced):
        return Fenced(error.message)
    if isinstance(error, kv.TooManyRequests):
        return TooManyRequests(error.message)
    if error.code is kv.Code.UNIMPLEMENTED:
        return Unsupported(error.message)
    if isinstance(error, kv.NoSpace):
        return StoreFull(f"the store takes no more data: {error.message}")
    # gRPC refuses a message before etcd sees it.
    if isinstance(error, kv.RequestTooLarge) or "message larger than max" in error.message:
        return Invalid("", "the object is larger than the store takes")
    return ApiError(error.message)
