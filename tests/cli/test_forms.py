"""`get` in other forms: JSONPath templates, custom columns, sorted, selected by fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controllers.cli.field_selector import FieldSelector
from controllers.cli.jsonpath import JsonPath, Template
from controllers.core.types import Node, Pod, Secret
from informer.errors import Invalid
from tests.cli.conftest import Cli
from tests.cli.seeding import pod, seed

LIST = {
    "items": [
        {"name": "a", "size": 3, "tags": {"x.y": True}, "on": [{"type": "Ready", "ok": "True"}]},
        {"name": "b", "size": 10, "tags": {}, "on": [{"type": "Ready", "ok": "False"}, {"type": "Odd"}]},
        {"name": "c", "on": []},
    ]
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("{.items[?(@.size>3)].name}", ["b"]),
        ("{.items[?(@.size<=3)].name}", ["a"]),
        ("{.items[?(@.size)].name}", ["a", "b"]),
        ('{.items[?(@.name=="c")].name}', ["c"]),
        ("{.items[?(@.name!='c')].name}", ["a", "b"]),
        ('{.items[*].on[?(@.type=="Ready")].ok}', ["True", "False"]),
        ("{.items[?(@.tags['x.y']==true)].name}", ["a"]),
        ("{.items[0:2].name}", ["a", "b"]),
        ("{.items[-1:].name}", ["c"]),
        ("{.items[::2].name}", ["a", "c"]),
        ("{.items[0,2].name}", ["a", "c"]),
        ("{.items[0]['name','size']}", ["a", 3]),
        ("{..type}", ["Ready", "Ready", "Odd"]),
        (r"{.items[0].tags.x\.y}", [True]),
        ("{.items[9].name}", []),
    ],
)
def test_paths(path: str, found: list[Any]) -> None:
    assert JsonPath(path).find(LIST) == found


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.items[*].name}", "a b c"),
        (".items[0].name", "a"),
        ("name: {.items[0].name}!", "name: a!"),
        ('{range .items[*]}{.name}{"\\t"}{.size}{"\\n"}{end}', "a\t3\nb\t10\nc\t\n"),
        ("{range .items[*]}{.name}:{range .on[*]} {.type}{end};{end}", "a: Ready;b: Ready Odd;c:;"),
        ("{.items[0].tags}", '{"x.y":true}'),
        ("{.items[0].on[0].ok}{'}'}", "True}"),
        ("{.nothing}", ""),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert Template(template).render(LIST) == text


@pytest.mark.parametrize("template", ["{.a", "{range .a}", "{end}", "{}", "{.a[}", "{range .a}{.b}{end}{end}"])
def test_templates_that_are_none(template: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Template(template)


@pytest.fixture
def pods(cli: Cli, tmp_path: Path) -> Cli:
    seed(
        tmp_path / "store",
        pod("a", node="n2", metadata={"labels": {"tier": "front", "example.com/zone": "z"}}),
        pod("b", node="n1", status={"phase": "Pending"}),
        pod("c", node="n10", spec={"priority": 9}),
        pod("d", spec={"priority": 100}, status={"phase": "Pending"}),
    )
    return cli


def names(cli: Cli, *arguments: str) -> list[str]:
    return [line.removeprefix("pod/") for line in cli("get", "pods", "-o", "name", *arguments).lines]


def test_field_selectors(pods: Cli) -> None:
    assert names(pods, "--field-selector=status.phase=Pending") == ["b", "d"]
    assert names(pods, "--field-selector", "status.phase!=Pending,spec.nodeName==n2") == ["a"]
    assert names(pods, "--field-selector=spec.nodeName=") == ["d"]
    assert names(pods, "--field-selector=metadata.name=c,metadata.namespace=default") == ["c"]
    assert names(pods, "-l", "tier=front", "--field-selector=spec.nodeName=n1") == []
    for wrong, problem in (
        ("spec.color=red", 'field label not supported: "spec.color"; pods can be selected by metadata.name, '),
        ("status.phase", 'invalid field selector "status.phase": write FIELD=VALUE or FIELD!=VALUE'),
    ):
        refused = pods("get", "pods", "--field-selector", wrong)
        assert (refused.code, refused.out) == (1, "")
        assert problem in refused.err
    assert pods("get", "pods", "a", "--field-selector=status.phase=Pending").code == 2


def test_what_a_field_that_is_not_there_counts_as() -> None:
    assert FieldSelector("spec.unschedulable=false").matches(Node, {})
    assert not FieldSelector("spec.unschedulable=false").matches(Node, {"spec": {"unschedulable": True}})
    assert FieldSelector("type=Opaque").matches(Secret, {"type": "Opaque"})
    with pytest.raises(Invalid):
        FieldSelector("type=Opaque").check(Pod)


def test_sorting(pods: Cli) -> None:
    assert names(pods, "--sort-by=.spec.nodeName") == ["d", "b", "c", "a"]
    assert names(pods, "--sort-by={.spec.priority}") == ["a", "b", "c", "d"]
    assert names(pods, "--sort-by=metadata.name") == ["a", "b", "c", "d"]
    missing = pods("get", "pods", "--sort-by=.spec.nothing")
    assert (missing.code, missing.err) == (
        1, 'error: couldn\'t find any field with path ".spec.nothing" in the list of objects\n',
    )  # fmt: skip
    assert pods("get", "pods", "--sort-by=.spec[").code == 2


def test_quantities_are_sorted_by_size(cli: Cli, tmp_path: Path) -> None:
    for name, size in (("big", "1Gi"), ("small", "900Mi"), ("tiny", "5k")):
        claim = {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
        }  # fmt: skip
        seed(tmp_path / "store", claim)
    listed = cli("get", "pvc", "--sort-by=.spec.resources.requests.storage", "-o", "name").lines
    assert [line.rpartition("/")[2] for line in listed] == ["tiny", "small", "big"]


def test_templates_and_columns_of_ones_own(pods: Cli, tmp_path: Path) -> None:
    assert pods("get", "pods", "-o", "jsonpath={.items[*].metadata.name}").out == "a b c d"
    assert pods("get", "pod", "a", "-o", "jsonpath={.spec.nodeName}").out == "n2"
    assert pods("get", "pods", "-o", "custom-columns=POD:.metadata.name,NODE:.spec.nodeName").lines == [
        "POD   NODE", "a     n2", "b     n1", "c     n10", "d     <none>",
    ]  # fmt: skip
    file = tmp_path / "columns"
    file.write_text("POD            PHASE\n.metadata.name .status.phase\n")
    assert pods("get", "pods", "-o", f"custom-columns-file={file}", "--no-headers").lines[0] == "a   Running"
    file.write_text("{range .items[*]}{.metadata.name},{end}\n")
    assert pods("get", "pods", "-o", f"jsonpath-file={file}").out == "a,b,c,d,"
    for wrong in ("jsonpath=", "jsonpath={.a", "custom-columns=", "custom-columns=A", "custom-columns-file=/no/such",
                  "go-template={{.}}"):  # fmt: skip
        refused = pods("get", "pods", "-o", wrong)
        assert (refused.code, refused.out) == (2, "")
        assert len(refused.err.splitlines()) == 1


def test_the_columns_that_a_definition_gives_its_kind(cli: Cli, tmp_path: Path) -> None:
    columns = [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Note", "type": "string", "jsonPath": ".spec.note", "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Broken", "type": "string", "jsonPath": ".["},
    ]
    version = {"name": "v1", "served": True, "storage": True, "additionalPrinterColumns": columns}
    names = {"kind": "Gizmo", "plural": "gizmos"}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gizmos.example.com"},
        "spec": {"group": "example.com", "names": names, "versions": [version]},
    }  # fmt: skip
    gizmo = {
        "apiVersion": "example.com/v1", "kind": "Gizmo", "metadata": {"name": "g"}, "spec": {"size": 3, "note": "hm"},
    }  # fmt: skip
    file = tmp_path / "gizmo.json"
    file.write_text(json.dumps(definition) + json.dumps(gizmo))
    assert cli("apply", "-f", file).code == 0
    header, row = cli("get", "gizmos").lines
    assert header.split() == ["NAME", "SIZE", "READY", "AGE"]
    assert row.split()[:2] == ["g", "3"]
    header, row = cli("get", "gizmos", "-o", "wide").lines
    assert header.split() == ["NAME", "SIZE", "READY", "NOTE", "AGE"]
    assert row.split()[2] == "hm"
    columns[:] = []
    file.write_text(json.dumps(definition))
    cli("apply", "-f", file)
    assert cli("get", "gizmos").lines[0].split() == ["NAME", "AGE"]


def test_deleting_by_fields(pods: Cli) -> None:
    gone = pods("delete", "pods", "--field-selector=spec.nodeName=", "--dry-run=client")
    assert gone.lines == ['pod "d" deleted (dry run)']
    assert pods("delete", "pods", "--field-selector=spec.nodeName=").lines == ['pod "d" deleted']
    assert names(pods) == ["a", "b", "c"]
    assert pods("delete", "pods", "-l", "tier=front", "--field-selector=status.phase=Pending").out == ""
    assert pods("delete", "pods", "--field-selector=spec.x=y").code == 1
    assert pods("delete", "pods", "a", "--field-selector=status.phase=Pending").code == 2
    assert names(pods) == ["a", "b", "c"]


def test_columns_of_labels(pods: Cli) -> None:
    header, first, second, *_ = pods("get", "pods", "-L", "tier,example.com/zone", "-L", "nope").lines
    assert header.split()[-3:] == ["TIER", "ZONE", "NOPE"]
    assert first.split()[-3:] == ["front", "z", "<none>"]
    assert second.split()[-3:] == ["<none>"] * 3


def test_objects_of_a_manifest(pods: Cli, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(pods("get", "pod", "a", "-o", "yaml").out)
    assert pods("get", "-f", file, "-o", "name").lines == ["pod/a"]


def test_all_is_what_kubectl_calls_all(cli: Cli) -> None:
    cli("create", "deployment", "web", "--image=w")
    cli("create", "service", "clusterip", "web", "--tcp=80")
    cli("create", "cronjob", "night", "--image=n", "--schedule=0 0 * * *")
    cli("create", "job", "once", "--image=o")
    cli("create", "configmap", "not-this")
    assert cli("get", "all", "-o", "name").lines == [
        "service/web", "deployment.apps/web", "cronjob.batch/night", "job.batch/once",
    ]  # fmt: skip
