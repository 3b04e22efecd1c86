"""A user's Python file with reconcilers: running it, and finding the managers in it."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from controllers.cli.errors import CliError
from controllers.manager import Manager


def load_managers(files: Sequence[Path]) -> list[Manager]:
    """The managers that the files define at their top level, in that order.

    Each file is run as `python FILE` would, but as a module: what is under `if __name__ == "__main__"` is left to those
    who run the file by itself. Raises CliError, with the line where the file failed.
    """
    managers: dict[int, Manager] = {}
    for file in files:
        found = [value for value in _load(file).values() if isinstance(value, Manager)]
        if not found:
            raise CliError(f"{file}: there is no Manager in it: write `manager = Manager()` at its top level")
        managers.update((id(manager), manager) for manager in found)
    return list(managers.values())


def _load(file: Path) -> dict[str, object]:
    if not file.is_file():
        raise CliError(f"{file}: no such file")
    path, name = file.resolve(), file.stem
    if name in sys.modules:
        if getattr(sys.modules[name], "__file__", None) == str(path):
            return vars(sys.modules[name])  # another file has imported it
        # It would take the place of a module that somebody else imports by this name.
        name = f"__reconcilers_{name}__"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CliError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:  # for good: a reconciler may import what it needs when it runs
        sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        own = error.filename in (None, str(path))
        raise CliError(f"{file if own else error.filename}:{error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        raise CliError(f"{where([file], error) or file}: {type(error).__name__}: {error}") from error
    return vars(module)


def where(files: Sequence[Path], error: BaseException) -> str | None:
    """The last line of the user's own files that led to the error, as FILE:LINE; None if none did."""
    paths = {str(file.resolve()): file for file in files}
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in paths]
    return f"{paths[own[-1].filename]}:{own[-1].lineno}" if own else None
