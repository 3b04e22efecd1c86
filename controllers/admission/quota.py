"""ResourceQuota: an object is created only if its namespace's quotas have room for it, which it takes before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from controllers.admission.lookups import Lookups
from controllers.core.limits import ResourceQuota
from controllers.core.quantities import scaled
from controllers.core.types import Event, PersistentVolumeClaim, Pod, Service
from controllers.core.usage import MILLI, MUST_SPECIFY, Usage, matches_scopes, quantities, unspecified, usage_of
from informer.admission import AdmissionRequest, Operation, Plugin
from informer.errors import ApiError, Conflict, Forbidden, NotFound
from informer.resources import Resource, ResourceType

TRIES = 4  # kube-apiserver's: one, and three after conflicts


class _Charge(msgspec.Struct, eq=False):
    """One object that waits for the quotas' judgement."""

    obj: Resource
    usage: Usage
    decided: bool = False
    error: ApiError | None = None


class _Turns(msgspec.Struct, eq=False):
    """Those that wait for one namespace's quotas. Whoever has the lock judges all of them, with one write."""

    lock: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)
    waiting: list[_Charge] = []
    users: int = 0


class QuotaAdmission(Plugin):
    """Kubernetes' plug-in ResourceQuota. What was charged and then not created is given back by the quota controller.

    The usage in a quota's status goes up by compare-and-swap, so that no two writers, in whatever process, are given
    the same room. Creates that wait at the same time share a write.
    """

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self._turns: dict[str, _Turns] = {}

    def handles(self, kind: ResourceType, operation: Operation) -> bool:
        """Creates in namespaces, and updates of what can come to use more."""
        if operation == "update":
            return kind in (Service.TYPE, PersistentVolumeClaim.TYPE)
        return operation == "create" and kind.namespaced and kind != Event.TYPE

    async def validate(self, request: AdmissionRequest[Any]) -> None:
        """Charge the object to the quotas that count it. Raises Forbidden with the first that has no room."""
        obj = request.object
        namespace = obj.raw["metadata"]["namespace"]
        quotas = await self._lookups.of(ResourceQuota, namespace)
        if not quotas:
            return
        usage = usage_of(obj.TYPE, obj.raw)
        if request.old is not None:
            before = usage_of(obj.TYPE, request.old.raw)
            usage = {name: more for name, amount in usage.items() if (more := amount - before.get(name, 0)) > 0}
        charge = _Charge(obj, usage)
        if usage and any(_concerns(quota, charge) for quota in quotas):
            await self._wait(namespace, quotas, charge)
        if charge.error is not None:
            raise charge.error

    async def _wait(self, namespace: str, quotas: Sequence[ResourceQuota], charge: _Charge) -> None:
        turns = self._turns.setdefault(namespace, _Turns(waiting=[]))
        turns.waiting.append(charge)
        turns.users += 1
        try:
            async with turns.lock:
                if charge.decided:
                    return
                batch, turns.waiting = turns.waiting, []
                try:
                    await self._judge(quotas, batch)
                finally:
                    turns.waiting[:0] = [each for each in batch if not each.decided]
        finally:
            turns.users -= 1
            if charge in turns.waiting:
                turns.waiting.remove(charge)
            if not turns.users:
                self._turns.pop(namespace, None)

    async def _judge(self, quotas: Sequence[ResourceQuota], batch: Sequence[_Charge]) -> None:
        """Charge what there is room for, each object to all quotas that count it or to none."""
        client, namespace = self._lookups.client, batch[0].obj.namespace
        errors: dict[_Charge, ApiError] = {}
        try:
            if _fill(quotas, batch)[1]:
                # Nobody is refused on the word of a cache, which may not know of the room that there is by now.
                quotas = (await client.list(ResourceQuota, namespace)).items
            for _ in range(TRIES):
                quotas = await self._charge(quotas, [each for each in batch if each not in errors], errors)
                if not quotas:
                    break
            else:
                names = ", ".join(quota.name for quota in quotas)
                failed = Conflict(f"resource quota evaluation has failed: {names} keeps changing")
                errors |= {each: failed for each in batch if each not in errors}
        except ApiError as error:
            errors |= {each: error for each in batch if each not in errors}
        for each in batch:
            each.error, each.decided = errors.get(each), True

    async def _charge(
        self, quotas: Sequence[ResourceQuota], batch: Sequence[_Charge], errors: dict[_Charge, ApiError]
    ) -> list[ResourceQuota]:
        """One try; the quotas that were changed by others meanwhile, as they are now."""
        client = self._lookups.client
        filled, refused = _fill(quotas, batch)
        errors |= refused
        again: list[ResourceQuota] = []
        for quota in quotas:
            if quota.name not in filled:
                continue
            status = {**quota.raw["status"], "used": quantities(filled[quota.name])}
            try:
                await client.update_status(
                    ResourceQuota.from_raw({"metadata": quota.raw["metadata"], "status": status})
                )
            except Conflict:
                with contextlib.suppress(NotFound):
                    again.append(await client.get(ResourceQuota, quota.name, quota.namespace))
            except NotFound:
                continue  # it limits nothing any more
        return again


def _fill(
    quotas: Sequence[ResourceQuota], batch: Sequence[_Charge]
) -> tuple[dict[str, Usage], dict[_Charge, Forbidden]]:
    """What is used of the quotas with all that there is room for, by name, and why there is none for the others."""
    used = {quota.name: _thousandths(quota, "used") for quota in quotas}
    filled: dict[str, Usage] = {}
    refused: dict[_Charge, Forbidden] = {}
    for charge in batch:
        try:
            after = {
                quota.name: _with(quota, filled.get(quota.name, used[quota.name]), charge)
                for quota in quotas
                if _concerns(quota, charge)
            }
        except Forbidden as error:
            refused[charge] = error
        else:
            filled |= after
    return {name: after for name, after in filled.items() if after != used[name]}, refused


def _concerns(quota: ResourceQuota, charge: _Charge) -> bool:
    """Whether the quota counts the object, and limits something about it."""
    hard = (quota.raw.get("status") or {}).get("hard") or {}
    kind = charge.obj.TYPE
    limits = not charge.usage.keys().isdisjoint(hard) or (kind == Pod.TYPE and not MUST_SPECIFY.isdisjoint(hard))
    return limits and matches_scopes(quota, kind, charge.obj.raw)


def _with(quota: ResourceQuota, used: Mapping[str, int], charge: _Charge) -> Usage:
    """What is used of the quota with the object. Raises Forbidden if it has no room, or cannot tell."""
    hard, obj = _thousandths(quota, "hard"), charge.obj
    forbidden = f'{obj.TYPE.qualified} "{obj.name}" is forbidden:'
    if obj.TYPE == Pod.TYPE and (missing := unspecified(obj.raw["spec"], hard)):
        raise Forbidden(f"{forbidden} failed quota: {quota.name}: must specify {missing}")
    wanted = {name: amount for name, amount in charge.usage.items() if name in hard}
    if unknown := sorted(wanted.keys() - used.keys()):
        raise Forbidden(f"{forbidden} status unknown for quota: {quota.name}, resources: {','.join(unknown)}")
    after = {**used, **{name: used[name] + amount for name, amount in wanted.items()}}
    if exceeded := [name for name in wanted if after[name] > hard[name]]:
        requested, present, limited = (
            ",".join(f"{name}={amount}" for name, amount in quantities({each: of[each] for each in exceeded}).items())
            for of in (wanted, used, hard)
        )
        raise Forbidden(
            f"{forbidden} exceeded quota: {quota.name}, requested: {requested}, used: {present}, limited: {limited}"
        )
    return after


def _thousandths(quota: ResourceQuota, field: str) -> Usage:
    amounts = (quota.raw.get("status") or {}).get(field) or {}
    return {name: scaled(quantity, MILLI) for name, quantity in amounts.items()}
