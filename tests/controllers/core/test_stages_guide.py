"""The stage and the program of docs/stages.md work, and its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from controllers import Manager
from controllers.core.stages import StageError, check_stages
from controllers.core.stages.reading import SETS, ContainerChange, DelaySpec, NextSpec, StageSpec
from kvstore.api import Client
from tests.controllers.cluster import virtual_now

GUIDE = Path(__file__).parents[3] / "docs" / "stages.md"


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert isinstance(found, str)
    return found


@pytest.mark.virtual_time
async def test_the_guides_stage_is_as_slow_as_it_says(
    store: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "slow.yaml"
    file.write_text(block("yaml"))
    names: dict[str, Any] = {}
    exec(compile(block("python"), str(GUIDE), "exec"), names)
    # The guide's own store is on the disk and in real time.
    names["Manager"] = lambda: Manager(client=store, now=virtual_now)
    assert 20 <= await names["seconds_until_ready"](str(file)) <= 43


def test_the_guides_error_is_the_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("slow.yaml").write_text(block("yaml").replace("durationMilliseconds: 20000", "durationMilliseconds: soon"))
    with pytest.raises(StageError) as caught:
        check_stages(["slow.yaml"])
    assert f"    {caught.value}\n" in GUIDE.read_text()


def test_the_guide_names_every_field_set_and_annotation() -> None:
    text = GUIDE.read_text()
    for struct in (StageSpec, DelaySpec, NextSpec, ContainerChange):
        for field in struct.__struct_encode_fields__:
            assert re.search(rf"[`.]{field}[`.]", text), field
    for name in SETS:
        assert f"| `{name}` |" in text
    chaos = (Path(check_stages.__code__.co_filename).parent / "chaos.yaml").read_text()
    for value in re.findall(r"listwatch.dev/simulate: ([a-z-]+)\}", chaos):
        assert f"| `{value}` |" in text
