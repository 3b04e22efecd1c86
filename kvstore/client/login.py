"""Logging in: a token for a name and a password, and another one when that is no longer good."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Self

import msgspec

from kvstore.errors import AuthNotEnabled, AuthOldRevision, InvalidAuthToken, KvError, UserEmpty


class Credentials(msgspec.Struct, frozen=True):
    """Who logs in."""

    user: str
    password: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self | None:
        """Those of ETCDCTL_USER, `NAME:PASSWORD`, or `NAME` with ETCDCTL_PASSWORD, as for etcdctl; None without it.

        Raises ValueError for a name without a password.
        """
        given = environ.get("ETCDCTL_USER")
        if not given:
            return None
        password = environ.get("ETCDCTL_PASSWORD")
        if password is not None:
            return cls(given, password)
        user, colon, password = given.partition(":")
        if not colon:
            raise ValueError("ETCDCTL_USER names a user, but no password was given: write NAME:PASSWORD")
        return cls(user, password)

    def __repr__(self) -> str:
        return f"Credentials({self.user!r})"  # the password is for no log


class Login:
    """The token in use, shared by all calls of a client.

    `authenticate` asks the server for one.
    """

    def __init__(self, credentials: Credentials, authenticate: Callable[[Credentials], Awaitable[str]]) -> None:
        self._credentials = credentials
        self._authenticate = authenticate
        self._token: str | None = None
        self._turn = asyncio.Lock()

    @property
    def user(self) -> str:
        """Who logs in."""
        return self._credentials.user

    async def token(self, *, instead_of: str | None = None) -> str:
        """The token; another one if it is `instead_of`. Empty while the server does not know of authentication.

        Whoever comes while one logs in waits for that. Raises AuthFailed or Unavailable.
        """
        if self._token is not None and self._token != instead_of:
            return self._token
        async with self._turn:
            if self._token is None or self._token == instead_of:
                try:
                    self._token = await self._authenticate(self._credentials)
                except AuthNotEnabled:
                    self._token = ""
        return self._token


def needs_login(error: KvError) -> bool:
    """Whether the call was refused for want of a good token. UserEmpty: authentication was enabled meanwhile."""
    return isinstance(error, InvalidAuthToken | AuthOldRevision | UserEmpty)
