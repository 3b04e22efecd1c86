"""etcdserverpb.Auth."""

from __future__ import annotations

import base64

from google.protobuf.message import Message

from kvstore.auth import Auth
from kvstore.errors import PermissionNotGiven, RequestTooLarge
from kvstore.permissions import Permission
from kvstore.proto import messages as pb
from kvstore.services.wire import Headers


class AuthService:
    """Users and roles; logging in. Who may call what is decided before."""

    def __init__(self, auth: Auth, headers: Headers, max_request_bytes: int) -> None:
        self._auth = auth
        self._header = headers.now
        self._max_request_bytes = max_request_bytes

    async def enable(self, _: pb.AuthEnableRequest) -> bytes:
        """From now on every request needs a user."""
        await self._auth.enable()
        return self._header()

    async def disable(self, _: pb.AuthDisableRequest) -> bytes:
        """From now on everybody may do everything."""
        await self._auth.disable()
        return self._header()

    async def status(self, _: pb.AuthStatusRequest) -> bytes:
        """Whether it is enabled, and how often users and roles have changed."""
        enabled, revision = await self._auth.status()
        return self._header() + pb.AuthStatusResponse(enabled=enabled, authRevision=revision).SerializeToString()

    async def authenticate(self, request: pb.AuthenticateRequest) -> bytes:
        """A token for a name and a password."""
        token = await self._auth.authenticate(request.name, request.password)
        return self._header() + pb.AuthenticateResponse(token=token).SerializeToString()

    async def user_add(self, request: pb.AuthUserAddRequest) -> bytes:
        """A new user."""
        self._check_size(request)
        no_password = request.options.no_password
        await self._auth.user_add(request.name, request.password, no_password=no_password)
        return self._header()

    async def user_get(self, request: pb.AuthUserGetRequest) -> bytes:
        """The roles of a user."""
        roles = await self._auth.user_get(request.name)
        return self._header() + pb.AuthUserGetResponse(roles=roles).SerializeToString()

    async def user_list(self, _: pb.AuthUserListRequest) -> bytes:
        """The names of all users."""
        return self._header() + pb.AuthUserListResponse(users=await self._auth.users()).SerializeToString()

    async def user_delete(self, request: pb.AuthUserDeleteRequest) -> bytes:
        """A user less."""
        await self._auth.user_delete(request.name)
        return self._header()

    async def user_change_password(self, request: pb.AuthUserChangePasswordRequest) -> bytes:
        """A new password, or its hash."""
        self._check_size(request)
        hashed: bytes | None
        try:
            hashed = base64.b64decode(request.hashedPassword, validate=True)
        except ValueError:  # not base64
            hashed = None
        await self._auth.user_change_password(request.name, request.password, hashed)
        return self._header()

    async def user_grant_role(self, request: pb.AuthUserGrantRoleRequest) -> bytes:
        """A role more for a user."""
        await self._auth.user_grant_role(request.user, request.role)
        return self._header()

    async def user_revoke_role(self, request: pb.AuthUserRevokeRoleRequest) -> bytes:
        """A role less for a user."""
        await self._auth.user_revoke_role(request.name, request.role)
        return self._header()

    async def role_add(self, request: pb.AuthRoleAddRequest) -> bytes:
        """A new role."""
        self._check_size(request)
        await self._auth.role_add(request.name)
        return self._header()

    async def role_get(self, request: pb.AuthRoleGetRequest) -> bytes:
        """The permissions of a role."""
        permissions = await self._auth.role_get(request.role)
        shown = [pb.Permission(permType=each.type, key=each.key, range_end=each.range_end) for each in permissions]
        return self._header() + pb.AuthRoleGetResponse(perm=shown).SerializeToString()

    async def role_list(self, _: pb.AuthRoleListRequest) -> bytes:
        """The names of all roles."""
        return self._header() + pb.AuthRoleListResponse(roles=await self._auth.roles()).SerializeToString()

    async def role_delete(self, request: pb.AuthRoleDeleteRequest) -> bytes:
        """A role less, for everybody."""
        await self._auth.role_delete(request.role)
        return self._header()

    async def role_grant_permission(self, request: pb.AuthRoleGrantPermissionRequest) -> bytes:
        """A permission more for a role."""
        self._check_size(request)
        if not request.HasField("perm"):
            raise PermissionNotGiven()
        perm = request.perm
        await self._auth.role_grant_permission(request.name, Permission(perm.permType, perm.key, perm.range_end))
        return self._header()

    async def role_revoke_permission(self, request: pb.AuthRoleRevokePermissionRequest) -> bytes:
        """A permission less for a role."""
        await self._auth.role_revoke_permission(request.role, request.key, request.range_end)
        return self._header()

    def _check_size(self, request: Message) -> None:
        # Of the requests whose text is stored.
        if request.ByteSize() > self._max_request_bytes:
            raise RequestTooLarge()
