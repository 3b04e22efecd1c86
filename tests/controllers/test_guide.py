"""The code of docs/reconcilers.md runs, and its test passes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from controllers import Manager

GUIDE = Path(__file__).parents[2] / "docs" / "reconcilers.md"


async def test_the_guide_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    # One module, as its reader would type it.
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile("\n".join(blocks), str(GUIDE), "exec"), names)

    await names["test_it_greets"](tmp_path / "a")

    blocking: Manager = names["blocking"]
    names["manager"] = blocking
    await names["test_it_greets"](tmp_path / "b")
    assert blocking.store == str(tmp_path / "b")
