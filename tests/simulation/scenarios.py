"""All that is simulated, by name."""

from __future__ import annotations

from collections.abc import Mapping

from controllers.simulation import Scenario
from tests.simulation import broken, examples, parts

RIGHT: Mapping[str, type[Scenario]] = {
    "parts": parts.Parts,
    "elected-parts": parts.ElectedParts,
    "website": examples.Websites,
    "composite": examples.Composites,
    "backup": examples.Backups,
    "elected-backup": examples.ElectedBackups,
    "finalizer-first": broken.FinalizerFirst,
}
# What the failure says.
BROKEN: Mapping[str, tuple[type[Scenario], str]] = {
    "edge-triggered": (broken.EdgeTriggered, "another end than without faults"),
    "trusts-a-stale-cache": (broken.TrustsAStaleCache, "another end than without faults"),
    "not-idempotent": (broken.NotIdempotent, "one object has two volumes"),
    "finalizer-too-late": (broken.FinalizerTooLate, "another end than without faults"),
    "forgets-children": (broken.ForgetsChildren, "another end than without faults"),
    "hot-loop": (broken.HotLoop, "no rest|a loop without end"),
    "polls": (broken.Polls, "in which nothing happened|a loop without end"),
    "ignores-the-version": (broken.IgnoresTheVersion, "wrote the spec of .*, which is a user's"),
    "passes-the-fence": (broken.PassesTheFence, "but the leader is"),
}
SCENARIOS: Mapping[str, type[Scenario]] = {**RIGHT, **{name: scenario for name, (scenario, _) in BROKEN.items()}}
