"""Pods that want to be, or must not be, near other pods. Near is: the same value of a label of the node."""

from __future__ import annotations

from collections import defaultdict
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

Domains = defaultdict[str, set[str]]  # values by the node label's name


class InterPodAffinity(Plugin):
    """`podAffinity` and `podAntiAffinity`, the pod's own and, so that it goes both ways, those of the pods there."""

    weight = 2

    def filter(self, pod: PodInfo, cluster: Cluster) -> Filter | None:
        """Nothing to do while neither this pod nor any other has a required term about the other."""
        traits, labels_of = pod.traits, cluster.namespace_labels
        wanted, unwanted = traits.affinity, traits.anti_affinity
        forbidden: Domains = defaultdict(set)
        for group in cluster.caring():
            for term in group.traits.anti_affinity:
                if term.matches(traits, labels_of):
                    forbidden[term.topology_key].update(group.domains(term.topology_key, cluster))
        if not forbidden and not wanted and not unwanted:
            return None
        near: Domains = defaultdict(set)
        if wanted:
            for group in _candidates(wanted, cluster):
                # One pod has to meet all the terms, as in kube-scheduler.
                if all(term.matches(group.traits, labels_of) for term in wanted):
                    for term in wanted:
                        near[term.topology_key].update(group.domains(term.topology_key, cluster))
        # The first of some pods that want to be together may go anywhere.
        first = not any(near.values()) and all(term.matches(traits, labels_of) for term in wanted)
        avoided: Domains = defaultdict(set)
        if unwanted:
            for group in _candidates(unwanted, cluster):
                for term in unwanted:
                    if term.matches(group.traits, labels_of):
                        avoided[term.topology_key].update(group.domains(term.topology_key, cluster))

        def judge(node: NodeInfo) -> Refusal | None:
            labels = node.labels
            for term in wanted:
                value = labels.get(term.topology_key)
                if value is None or not (first or value in near[term.topology_key]):
                    return NO_AFFINITY
            for key, values in avoided.items():
                if labels.get(key) in values:
                    return ANTI_AFFINITY
            for key, values in forbidden.items():
                if labels.get(key) in values:
                    return OF_OTHERS
            return None

        return judge

    def score(self, pod: PodInfo, cluster: Cluster) -> Score | None:
        """Nothing to do while neither this pod nor any other has a wish about the other."""
        traits, labels_of = pod.traits, cluster.namespace_labels
        worth: defaultdict[str, defaultdict[str | None, float]] = defaultdict(lambda: defaultdict(float))

        def add(group: Group, term: Term, weight: int) -> None:
            for value, number in group.domains(term.topology_key, cluster).items():
                worth[term.topology_key][value] += weight * number

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

        def judge(nodes: Sequence[NodeInfo]) -> Sequence[float]:
            sums = [sum(values.get(node.labels.get(key), 0) for key, values in worth.items()) for node in nodes]
            least, most = min(sums), max(sums)
            return [100 * (each - least) / (most - least) for each in sums] if most > least else [0.0] * len(sums)

        return judge


def _candidates(terms: Sequence[Term], cluster: Cluster) -> Iterator[Group]:
    """The groups that a term may be about: those of the namespaces it names, or all."""
    if any(term.namespace_selector is not None for term in terms):
        return cluster.groups()
    return cluster.groups(sorted(frozenset().union(*(term.namespaces for term in terms))))
