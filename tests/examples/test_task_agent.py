from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "task_agent.py"


def test_the_difference_between_the_agents_is_seen() -> None:
    ran = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [line.rstrip() for line in ran.stdout.splitlines()]
    assert "only watches        4 7             1 2 3 5 6" in lines
    assert "lists, then watches 1 2 3 4 5 6 7   -" in lines
    assert lines[-1].startswith("checked: ")
