"""etcdserverpb.Cluster."""

from __future__ import annotations

from collections.abc import Sequence

from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.services.wire import Headers


class ClusterService:
    """The members of the cluster: always this one."""

    def __init__(self, node: Node, headers: Headers, client_urls: Sequence[str]) -> None:
        self._node = node
        self._headers = headers
        self._client_urls = client_urls

    async def member_list(self, _: pb.MemberListRequest) -> bytes:
        """The one member; as in etcd, the header has no revision."""
        member = pb.Member(ID=self._node.member_id, name=self._node.name, clientURLs=self._client_urls)
        return self._headers.at(0) + pb.MemberListResponse(members=[member]).SerializeToString()
