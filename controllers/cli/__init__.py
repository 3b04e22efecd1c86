"""The `listwatch` command."""

from controllers.cli.app import main

__all__ = ["main"]
