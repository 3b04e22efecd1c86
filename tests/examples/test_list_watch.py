from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "list_watch.py"


def test_it_lists_watches_resumes_and_relists() -> None:
    ran = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        "------ at first",
        "LIST   ['/fruit/plum'] at revision 4",
        "WATCH  from revision 5",
        "------ after a lost connection",
        "WATCH  from revision 5",
        "PUT    /fruit/pear at revision 5",
        "PUT    /fruit/plum at revision 6",
        "DELETE /fruit/pear at revision 7",
        "------ after a longer one, with history compacted",
        "WATCH  from revision 8",
        "GONE   the oldest revision left is 10",
        "LIST   ['/fruit/plum'] at revision 10",
        "WATCH  from revision 11",
    ]


def test_it_stays_under_sixty_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
