"""Pods that want to be, or must not be, near other pods. Near is: the same value of a label of the node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from controllers.core.scheduling.cluster import Cluster, Group
from controllers.core.scheduling.framework import Filter, Plugin, Refusal, Score
from controllers.core.scheduling.node import NodeInfo
from controllers.core.scheduling.pod import PodInfo, Term

NO_AFFINITY: Final = Refusal(("node(s) didn't match pod affinity rules",), final=True)
ANTI_AFFINITY: Final = Refusal(("node(s) didn't match pod anti-affinity rules",))
OF_OTHERS: Final = Refusal(("node(s) didn't satisfy existing pods anti-affinity rules",))

# What a required affinity of a pod that runs is worth to the one that it is about; kube-scheduler's default.
REQUIRED_BY_OTHERS = 1

Domain = tuple[str, str | None]  # a node label's name and value


class InterPodAffinity(Plugin):
    """`podAffinity` and `podAntiAffinity`, the pod's own and, so that it goes both ways, those of the pods there."""

    weight = 2

    def filter(self, pod: PodInfo, cluster: Cluster) -> Filter | None:
        """Nothing to do while neither this pod nor any other has a required term about the other."""
        traits, labels_of = pod.traits, cluster.namespace_labels
        forbidden: set[Domain] = set()
        for group in cluster.caring():
            for term in group.traits.anti_affinity:
                if term.matches(traits, labels_of):
                    forbidden.update(domain for domain, _ in _domains(group, term.topology_key, cluster))
        wanted, unwanted = traits.affinity, traits.anti_affinity
        if not forbidden and not wanted and not unwanted:
            return None
        near: set[Domain] = set()
        if wanted:
            for group in _candidates(wanted, cluster):
                # One pod has to meet all the terms, as in kube-scheduler.
                if all(term.matches(group.traits, labels_of) for term in wanted):
                    for term in wanted:
                        near.update(domain for domain, _ in _domains(group, term.topology_key, cluster))
        # The first of some pods that want to be together may go anywhere.
        first = not near and all(term.matches(traits, labels_of) for term in wanted)
        avoided: set[Domain] = set()
        if unwanted:
            for group in _candidates(unwanted, cluster):
                for term in unwanted:
                    if term.matches(group.traits, labels_of):
                        avoided.update(domain for domain, _ in _domains(group, term.topology_key, cluster))
        forbidding = {key for key, _ in forbidden}

        def judge(node: NodeInfo) -> Refusal | None:
            labels = node.labels
            for term in wanted:
                value = labels.get(term.topology_key)
                if value is None or not (first or (term.topology_key, value) in near):
                    return NO_AFFINITY
            for term in unwanted:
                if (term.topology_key, labels.get(term.topology_key)) in avoided:
                    return ANTI_AFFINITY
            for key in forbidding:
                if (key, labels.get(key)) in forbidden:
                    return OF_OTHERS
            return None

        return judge

    def score(self, pod: PodInfo, cluster: Cluster) -> Score | None:
        """Nothing to do while neither this pod nor any other has a wish about the other."""
        traits, labels_of = pod.traits, cluster.namespace_labels
        worth: dict[Domain, float] = {}

        def add(group: Group, term: Term, weight: int) -> None:
            for domain, number in _domains(group, term.topology_key, cluster):
                worth[domain] = worth.get(domain, 0) + weight * number

        for group in cluster.caring():
            theirs = group.traits
            for term in theirs.affinity:
                if term.matches(traits, labels_of):
                    add(group, term, REQUIRED_BY_OTHERS)
            for sign, wishes in ((1, theirs.likes), (-1, theirs.dislikes)):
                for weight, term in wishes:
                    if term.matches(traits, labels_of):
                        add(group, term, sign * weight)
        for sign, wishes in ((1, traits.likes), (-1, traits.dislikes)):
            if wishes:
                for group in _candidates([term for _, term in wishes], cluster):
                    for weight, term in wishes:
                        if term.matches(group.traits, labels_of):
                            add(group, term, sign * weight)
        if not worth:
            return None
        keys = {key for key, _ in worth}

        def judge(nodes: Sequence[NodeInfo]) -> Sequence[float]:
            sums = [sum(worth.get((key, node.labels.get(key)), 0) for key in keys) for node in nodes]
            least, most = min(sums), max(sums)
            return [100 * (each - least) / (most - least) for each in sums] if most > least else [0.0] * len(sums)

        return judge


def _candidates(terms: Sequence[Term], cluster: Cluster) -> Iterator[Group]:
    """The groups that a term may be about: those of the namespaces it names, or all."""
    if any(term.namespace_selector is not None for term in terms):
        return cluster.groups()
    return cluster.groups(sorted(frozenset().union(*(term.namespaces for term in terms))))


def _domains(group: Group, key: str, cluster: Cluster) -> Iterator[tuple[Domain, int]]:
    """Where the pods of a group are, by that label, and how many."""
    for name, number in group.nodes.items():
        node = cluster.node(name)
        value = node.labels.get(key) if node is not None else None
        if value is not None:
            yield (key, value), number
