"""etcdserverpb.Cluster: a cluster of one member answers as etcd's does, except that it takes no second one."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from kvstore.errors import Code, KvError
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.services.wire import Headers

NOT_FOUND = "etcdserver: member not found"
NOT_ENOUGH_STARTED = "etcdserver: re-configuration failed due to not enough started members"


class ClusterService:
    """The members of the cluster: always this one. As in etcd, no header has a revision."""

    def __init__(self, node: Node, headers: Headers, client_urls: Sequence[str]) -> None:
        self._node = node
        self._headers = headers
        self._client_urls = client_urls

    async def member_list(self, _: pb.MemberListRequest) -> bytes:
        """The one member."""
        return self._members()

    async def member_add(self, request: pb.MemberAddRequest) -> bytes:
        """Refused, since nothing is replicated. Raises InvalidArgument or FailedPrecondition."""
        if not request.peerURLs or not all(map(_is_peer_url, request.peerURLs)):
            raise KvError("etcdserver: given member URLs are invalid", code=Code.INVALID_ARGUMENT)
        if set(request.peerURLs) & set(self._node.maintenance.peer_urls):
            raise KvError("etcdserver: Peer URLs already exists", code=Code.FAILED_PRECONDITION)
        if request.isLearner:
            raise KvError("etcdserver: too many learner members in cluster", code=Code.FAILED_PRECONDITION)
        raise KvError(NOT_ENOUGH_STARTED, code=Code.FAILED_PRECONDITION)

    async def member_remove(self, request: pb.MemberRemoveRequest) -> bytes:
        """Refused: there must be one. Raises NotFound or Unknown, as etcd does."""
        self._check(request.ID)
        raise KvError(NOT_ENOUGH_STARTED)

    async def member_update(self, request: pb.MemberUpdateRequest) -> bytes:
        """Remember the peer URLs to show. Raises NotFound."""
        self._check(request.ID)
        await self._node.maintenance.set_peer_urls(request.peerURLs)
        return self._members()

    async def member_promote(self, request: pb.MemberPromoteRequest) -> bytes:
        """Refused: it votes already. Raises NotFound or FailedPrecondition."""
        self._check(request.ID)
        raise KvError("etcdserver: can only promote a learner member", code=Code.FAILED_PRECONDITION)

    def _check(self, member_id: int) -> None:
        if member_id != self._node.member_id:
            raise KvError(NOT_FOUND, code=Code.NOT_FOUND)

    def _members(self) -> bytes:
        node = self._node
        member = pb.Member(
            ID=node.member_id, name=node.name, peerURLs=node.maintenance.peer_urls, clientURLs=self._client_urls
        )
        # The responses to all of them have the members in field 2.
        return self._headers.at(0) + pb.MemberListResponse(members=[member]).SerializeToString()


def _is_peer_url(url: str) -> bool:
    """Whether etcd would take it for a peer's: http(s)://HOST:PORT or unix(s)://, and nothing more."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return False
    if parts.scheme in ("http", "https"):
        return port is not None and not parts.path
    return parts.scheme in ("unix", "unixs")
