"""`label` and `annotate`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def maps(cli: Cli) -> Cli:
    for name in ("one", "two"):
        cli("create", "configmap", name, "--from-literal=a=b")
    return cli


def metadata(cli: Cli, name: str = "one") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("get", "cm", name, "-o", "json").out)["metadata"]
    return found


def test_labels_are_set_and_removed(maps: Cli) -> None:
    assert maps("label", "cm/one", "tier=front", "example.com/zone=").out == "configmap/one labeled\n"
    assert metadata(maps)["labels"] == {"tier": "front", "example.com/zone": ""}
    assert maps("label", "cm", "one", "tier=front").out == "configmap/one not labeled\n"
    refused = maps("label", "cm", "one", "tier=back")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == "error: configmap/one: 'tier' already has a value (front), and --overwrite is false\n"
    assert maps("label", "cm", "one", "tier=back", "--overwrite").out == "configmap/one labeled\n"
    assert maps("label", "cm", "one", "tier-", "example.com/zone-").out == "configmap/one unlabeled\n"
    assert "labels" not in metadata(maps)
    gone = maps("label", "cm", "one", "tier-")
    assert (gone.code, gone.out, gone.err) == (0, "configmap/one not labeled\n", 'label "tier" not found.\n')


def test_labels_of_many(maps: Cli) -> None:
    assert maps("label", "cm", "--all", "tier=front").lines == ["configmap/one labeled", "configmap/two labeled"]
    assert maps("label", "cm", "one", "two", "kind=x").lines == ["configmap/one labeled", "configmap/two labeled"]
    assert maps("label", "cm", "-l", "tier=front", "tier-").lines == [
        "configmap/one unlabeled", "configmap/two unlabeled",
    ]  # fmt: skip
    some = maps("label", "cm/one", "cm/nope", "a=b")
    assert (some.code, some.lines, some.err) == (1, ["configmap/one labeled"], 'error: configmaps "nope" not found\n')
    assert maps("label", "cm", "-l", "no=such", "a=b").err == "error: no objects found\n"


def test_listing(maps: Cli) -> None:
    maps("label", "cm/one", "b=2", "a=1")
    assert maps("label", "cm/one", "--list").lines == ["a=1", "b=2"]
    assert maps("label", "cm/one", "cm/two", "--list").lines == [
        "Listing labels for configmap/one:", " a=1", " b=2", "Listing labels for configmap/two:",
    ]  # fmt: skip


def test_nothing_is_written_in_a_dry_run(maps: Cli) -> None:
    assert maps("label", "cm/one", "a=1", "--dry-run=client").out == "configmap/one labeled (dry run)\n"
    shown = maps("label", "cm/one", "a=1", "--dry-run=client", "-o", "json")
    assert json.loads(shown.out)["metadata"]["labels"] == {"a": "1"}
    assert "labels" not in metadata(maps)


def test_only_at_a_revision(maps: Cli) -> None:
    version = metadata(maps)["resourceVersion"]
    assert maps("label", "cm/one", "a=1", "--resource-version", version).code == 0
    stale = maps("label", "cm/one", "a=2", "--overwrite", "--resource-version", version)
    assert (stale.code, stale.out) == (1, "")
    assert stale.err.startswith('error: configmap/one: configmaps "one" was changed')
    assert metadata(maps)["labels"] == {"a": "1"}
    assert maps("label", "cm", "--all", "a=1", "--resource-version", version).code == 2


def test_annotations(maps: Cli) -> None:
    assert maps("annotate", "cm/one", "note=any text = here").out == "configmap/one annotated\n"
    assert metadata(maps)["annotations"] == {"note": "any text = here"}
    refused = maps("annotate", "cm/one", "note=other")
    assert refused.err == (
        "error: configmap/one: 'note' already has a value (any text = here), and --overwrite is false\n"
    )
    assert maps("annotate", "cm/one", "note-").out == "configmap/one annotated\n"
    assert "annotations" not in metadata(maps)


def test_a_cause_given_by_hand_is_in_the_history_of_rollouts(cli: Cli) -> None:
    cli("create", "deployment", "web", "--image=web:1")
    cli("annotate", "deploy/web", "kubernetes.io/change-cause=first")
    assert cli("annotate", "deploy/web", "--list").lines == ["kubernetes.io/change-cause=first"]


@pytest.mark.parametrize("verb", ["label", "annotate"])
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("cm/one",),
        ("a=b",),
        ("cm/one", "a=b", "cm/two"),
        ("cm/one", "a=b", "a-"),
        ("cm/one", "-bad=x"),
        ("cm/one", "=x"),
        ("cm", "a=b"),
        ("cm/one", "a=b", "--dry-run=server"),
        ("cm/one", "a=b", "-o", "wide"),
        ("cm/one", "a=b", "--all"),
    ],
)
def test_wrong_calls(maps: Cli, verb: str, arguments: tuple[str, ...]) -> None:
    wrong = maps(verb, *arguments)
    assert (wrong.code, wrong.out) == (2, "")
    assert len(wrong.err.splitlines()) == 1
    assert wrong.err.startswith("error: ")


def test_values_that_are_none(maps: Cli) -> None:
    assert 'invalid label value "a=no blanks"' in maps("label", "cm/one", "a=no blanks").err
    assert maps("annotate", "cm/one", "a=blanks are fine").code == 0
    assert maps("label", "nope/one", "a=b").err.startswith('error: the store doesn\'t have a resource type "nope"')
