"""Every error the store can give, with the gRPC status and the text that etcd 3.5 gives for it.

The engine raises these; the gRPC edge sends `code` and `message` as they stand; the remote client turns a status it
receives back into the same class, so that embedded and remote callers catch the same things.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class Code(enum.IntEnum):
    """The gRPC status codes in use, by their numbers on the wire."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class KvError(Exception):
    """Base of every error of the store and its clients.

    `code` is the gRPC status, `message` the text as etcd words it, `retriable` whether the same call may succeed
    later without a change by the caller.
    """

    code: Code = Code.UNKNOWN
    message: str = "etcdserver: unknown error"
    retriable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, code: Code | None = None) -> None:
        if message is not None:
            self.message = message
        if code is not None:
            self.code = code
        super().__init__(self.message)


class InvalidArgument(KvError):
    """The request can never succeed as it stands."""

    code = Code.INVALID_ARGUMENT


class EmptyKey(InvalidArgument):
    message = "etcdserver: key is not provided"


class KeyNotFound(InvalidArgument):
    message = "etcdserver: key not found"


class ValueProvided(InvalidArgument):
    message = "etcdserver: value is provided"


class LeaseProvided(InvalidArgument):
    message = "etcdserver: lease is provided"


class TooManyOps(InvalidArgument):
    message = "etcdserver: too many operations in txn request"


class DuplicateKey(InvalidArgument):
    message = "etcdserver: duplicate key given in txn request"


class InvalidSortOption(InvalidArgument):
    message = "etcdserver: invalid sort option"


class RequestTooLarge(InvalidArgument):
    message = "etcdserver: request is too large"


class Compacted(KvError):
    """The revision asked for is gone. `compact_revision` is the oldest one that can still be read; 0 if not told."""

    code = Code.OUT_OF_RANGE
    message = "etcdserver: mvcc: required revision has been compacted"

    def __init__(self, compact_revision: int = 0) -> None:
        super().__init__()
        self.compact_revision = compact_revision


class FutureRevision(KvError):
    code = Code.OUT_OF_RANGE
    message = "etcdserver: mvcc: required revision is a future revision"


class NoSpace(KvError):
    """The quota or the disk is full; reads, deletes and compaction go on."""

    code = Code.RESOURCE_EXHAUSTED
    message = "etcdserver: mvcc: database space exceeded"


class CorruptCluster(KvError):
    """The CORRUPT alarm is raised: nothing may be written."""

    code = Code.DATA_LOSS
    message = "etcdserver: corrupt cluster"


class LeaseNotFound(KvError):
    code = Code.NOT_FOUND
    message = "etcdserver: requested lease not found"


class LeaseExists(KvError):
    code = Code.FAILED_PRECONDITION
    message = "etcdserver: lease already exists"


class LeaseTTLTooLarge(KvError):
    code = Code.OUT_OF_RANGE
    message = "etcdserver: too large lease TTL"


class WatchCanceled(KvError):
    """The server ended a watch for the reason given in its text."""

    code = Code.CANCELLED
    message = "etcdserver: watch canceled"


class Unavailable(KvError):
    """The server cannot be reached, or went away while it was serving the call."""

    code = Code.UNAVAILABLE
    message = "etcdserver: server is unavailable"
    retriable = True


class Stopped(Unavailable):
    message = "etcdserver: server stopped"


class TimedOut(Unavailable):
    message = "etcdserver: request timed out"


# ---- authentication and permissions


class RootUserNotExist(KvError):
    code = Code.FAILED_PRECONDITION
    message = "etcdserver: root user does not exist"


class RootRoleNotGranted(KvError):
    code = Code.FAILED_PRECONDITION
    message = "etcdserver: root user does not have root role"


class UserExists(KvError):
    code = Code.FAILED_PRECONDITION
    message = "etcdserver: user name already exists"


class UserEmpty(InvalidArgument):
    """A user without a name; or a call without a user, where one is needed."""

    message = "etcdserver: user name is empty"


class UserNotFound(KvError):
    code = Code.FAILED_PRECONDITION
    message = "etcdserver: user name not found"


class RoleExists(KvError):
    code = Code.FAILED_PRECONDITION
    message = "etcdserver: role name already exists"


class RoleNotFound(KvError):
    code = Code.FAILED_PRECONDITION
    message = "etcdserver: role name not found"


class RoleEmpty(InvalidArgument):
    message = "etcdserver: role name is empty"


class RoleNotGranted(KvError):
    code = Code.FAILED_PRECONDITION
    message = "etcdserver: role is not granted to the user"


class PermissionNotGranted(KvError):
    code = Code.FAILED_PRECONDITION
    message = "etcdserver: permission is not granted to the role"


class PermissionNotGiven(InvalidArgument):
    message = "etcdserver: permission not given"


class InvalidAuthManagement(InvalidArgument):
    """A permission for a range that cannot be, or a change that would lock root out."""

    message = "etcdserver: invalid auth management"


class AuthNotEnabled(KvError):
    code = Code.FAILED_PRECONDITION
    message = "etcdserver: authentication is not enabled"


class AuthFailed(InvalidArgument):
    message = "etcdserver: authentication failed, invalid user ID or password"


class NoPasswordUser(KvError):
    """As etcd words it: not mapped to a status of its own."""

    message = "auth: authentication failed, password was given for no password user"


class PasswordTooLong(KvError):
    """More than the 72 bytes that bcrypt looks at."""

    message = "bcrypt: password length exceeds 72 bytes"


class InvalidAuthToken(KvError):
    """The token is unknown or has expired: authenticate again."""

    code = Code.UNAUTHENTICATED
    message = "etcdserver: invalid auth token"


class AuthOldRevision(InvalidArgument):
    """Users or permissions changed since the token was given: authenticate again."""

    message = "etcdserver: revision of auth store is old"


class PermissionDenied(KvError):
    code = Code.PERMISSION_DENIED
    message = "etcdserver: permission denied"


class TooManyRequests(KvError):
    """More of them wait than the server is willing to hold."""

    message = "etcdserver: too many requests"


class Fenced(KvError):
    """The writer no longer holds the office in whose name it writes: nothing was written. Not an answer of etcd's."""

    code = Code.FAILED_PRECONDITION
    message = "no longer the leader: nothing was written"


class DataDirError(Exception):
    """The data directory cannot be used; the text says why and what to do. Nothing in it was changed."""


class DataDirInUse(DataDirError):
    """Another process has the data directory open."""


class DataDirTooNew(DataDirError):
    """The data directory was written by a newer version of the format."""


def _leaves(root: type[KvError]) -> list[type[KvError]]:
    found = [root]
    for sub in root.__subclasses__():
        found += _leaves(sub)
    return found


BY_MESSAGE: dict[str, type[KvError]] = {cls.message: cls for cls in _leaves(KvError) if "message" in vars(cls)}


def from_status(code: int, message: str) -> KvError:
    """The error a remote server's status stands for: the class whose text it is, else the class of its code."""
    known = BY_MESSAGE.get(message)
    if known is not None:
        return known()
    for family in (Unavailable, InvalidArgument):
        if code == family.code:
            return family(message)
    try:
        return KvError(message, code=Code(code))
    except ValueError:
        return KvError(message)
