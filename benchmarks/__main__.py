"""`python -m benchmarks [NAME...]`: every benchmark, or those named, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    """The modules here that have a `main`."""
    return sorted(path.stem for path in HERE.glob("[a-z]*.py") if "\ndef main(" in path.read_text())


def main() -> int:
    failed = 0
    for name in sys.argv[1:] or names():
        print(f"== {name}", flush=True)
        failed |= subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
        print()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
