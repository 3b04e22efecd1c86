"""A pod whose claims have no volumes yet waits for them."""

from __future__ import annotations

from functools import partial

from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.framework import Change, Filter, Plugin, Refusal
from controllers.core.scheduling.pod import PodInfo
from controllers.core.types import PersistentVolumeClaim
from controllers.storage.matching import unmet_claim
from controllers.storage.types import PersistentVolume, StorageClass
from informer.cache import Stored


class VolumeBinding(Plugin):
    """Claims have to be there, and bound. Volumes can be reached from every node."""

    woken_by = frozenset([Change.VOLUME])

    def filter(self, pod: PodInfo, cluster: Cluster) -> Filter | Refusal | None:
        """Nothing to do for a pod without claims."""
        if not pod.needs.claims:
            return None

        def claim(name: str) -> Stored | None:
            return cluster.stored(PersistentVolumeClaim, f"{pod.namespace}/{name}")

        volume, storage_class = (partial(cluster.stored, cls) for cls in (PersistentVolume, StorageClass))
        problem = unmet_claim(pod.needs.claims, claim, volume, storage_class)
        return Refusal((problem,), final=True) if problem else None
