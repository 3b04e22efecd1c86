"""Alarms: what stops some or all writes until an operator, or room on the disk, ends it. etcd's rules and texts."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Self

import structlog

from kvstore.errors import CorruptCluster, KvError, NoSpace

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.store import Store

TABLE = "alarms"

log = structlog.get_logger("kvstore")


class AlarmType(enum.IntEnum):
    """etcd's kinds of alarm. NONE is every kind where alarms are asked for."""

    NONE = 0
    NOSPACE = 1
    CORRUPT = 2


class Alarm(NamedTuple):
    """An alarm that is raised, and the member it is about."""

    type: AlarmType
    member_id: int

    @property
    def row(self) -> bytes:
        """The key under which it is on disk."""
        return f"{self.type.value} {self.member_id}".encode()

    @classmethod
    def from_row(cls, row: bytes) -> Self:
        """The alarm of such a key."""
        kind, _, member_id = row.decode().partition(" ")
        return cls(AlarmType(int(kind)), int(member_id))

    def __str__(self) -> str:
        """As Status.errors shows it: etcd's text, with its space at the end."""
        member = f"memberID:{self.member_id} " if self.member_id else ""
        return f"{member}alarm:{self.type.name} "


class Alarms:
    """The alarms of a member. They are durable: a restart ends none.

    NOSPACE refuses what makes the database grow (puts, transactions with a put, new leases); CORRUPT refuses every
    write. `has_room` tells whether NOSPACE may end without an operator; None leaves it to one.
    """

    def __init__(self, store: Store, member_id: int, has_room: Callable[[], bool] | None) -> None:
        self._store = store
        self._member_id = member_id
        self._has_room = has_room
        self._raised: set[Alarm] = set()

    def restore(self, rows: dict[bytes, bytes]) -> None:
        """Take over the alarms found on disk."""
        self._raised.update(map(Alarm.from_row, rows))

    def raised(self, kind: AlarmType = AlarmType.NONE) -> list[Alarm]:
        """The alarms of a kind, in order."""
        return sorted(alarm for alarm in self._raised if kind in (AlarmType.NONE, alarm.type))

    async def activate(self, kind: AlarmType, member_id: int) -> Alarm:
        """Raise an alarm, at once and durably; it may be raised already. Raises NoSpace or Unavailable."""
        alarm = Alarm(kind, member_id)
        if alarm not in self._raised:
            self._raised.add(alarm)
            log.warning("alarm_raised", alarm=kind.name, member=member_id)
            await self._write(alarm, b"")
        return alarm

    async def deactivate(self, kind: AlarmType, member_id: int) -> Alarm | None:
        """End an alarm, durably; None if it is not raised. Raises NoSpace or Unavailable."""
        alarm = Alarm(kind, member_id)
        if alarm not in self._raised:
            return None
        await self._write(alarm, None)
        self._raised.discard(alarm)
        log.warning("alarm_ended", alarm=kind.name, member=member_id)
        return alarm

    async def out_of_space(self) -> None:
        """Raise NOSPACE for this member. On a full disk it may not become durable; the next write raises it again."""
        try:
            await self.activate(AlarmType.NOSPACE, self._member_id)
        except KvError as error:
            log.error("alarm_not_saved", alarm="NOSPACE", error=str(error))

    async def end_if_room(self) -> None:
        """End NOSPACE if that is left to us and there is room again."""
        if self._has_room is None or not self.raised(AlarmType.NOSPACE) or not self._has_room():
            return
        try:
            for alarm in self.raised(AlarmType.NOSPACE):
                await self.deactivate(alarm.type, alarm.member_id)
        except KvError as error:
            log.error("alarm_not_ended", alarm="NOSPACE", error=str(error))

    def check_write(self) -> None:
        """Before every write. Raises CorruptCluster."""
        if self._raised and self.raised(AlarmType.CORRUPT):
            raise CorruptCluster()

    async def check_growth(self) -> None:
        """Before a write that adds something. Raises CorruptCluster or NoSpace."""
        if self._raised:
            self.check_write()
            await self.end_if_room()
            if self.raised(AlarmType.NOSPACE):
                raise NoSpace()

    async def _write(self, alarm: Alarm, row: bytes | None) -> None:
        await self._store.write(lambda txn: txn.row(TABLE, alarm.row, row))
