"""Where the example manifests are: in a checkout, or in the installed package."""

from __future__ import annotations

from pathlib import Path

import controllers.cli
from controllers.cli.errors import CliError


def find_manifests() -> Path:
    """The directory. Raises `CliError` if neither place has it."""
    package = Path(controllers.cli.__file__).parent
    for place in (package / "manifests", package.parent.parent / "examples" / "manifests"):
        if place.is_dir():
            return place
    raise CliError("the example manifests are neither in the package nor in a checkout around it: install it anew")
