"""etcdserverpb.Maintenance."""

from __future__ import annotations

from kvstore.errors import Code, KvError
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.services.wire import Headers
from kvstore.version import SERVER_VERSION


class MaintenanceService:
    """What an operator asks of one member."""

    def __init__(self, node: Node, headers: Headers) -> None:
        self._node = node
        self._headers = headers

    async def status(self, _: pb.StatusRequest) -> bytes:
        """Sizes, version and who leads."""
        node = self._node
        size, in_use = node.db_size()
        status = pb.StatusResponse(
            version=SERVER_VERSION,
            dbSize=size,
            dbSizeInUse=in_use,
            leader=node.member_id,
            # One member keeps no raft log: the revision grows with every write, which is what readers compare.
            raftIndex=node.revision,
            raftAppliedIndex=node.revision,
            raftTerm=node.raft_term,
        )
        return self._headers.now() + status.SerializeToString()

    async def alarm(self, request: pb.AlarmRequest) -> bytes:
        """The alarms raised: none can be, so far, and raising one by hand is refused."""
        if request.action != pb.AlarmRequest.GET:
            raise KvError("alarms cannot be set or cleared on this server", code=Code.UNIMPLEMENTED)
        return self._headers.now()
