"""`listwatch serve`: a data directory as a one-member etcd. Imports nothing above `kvstore.server`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

import click

from controllers.cli.errors import CliError
from controllers.cli.logs import LogFormat, configure_logs
from controllers.cli.options import KubectlCommand, global_options
from kvstore.server import LogConfig, Server
from kvstore.server import serve as serve_until_signalled
from kvstore.server.settings import CONFIG_FILE, SETTINGS, Setting, SettingError, load_config


def _option(setting: Setting) -> click.Option:
    # Environment and defaults are for `load_config` to apply: a configuration file comes before both.
    told = [f"env {setting.variable}"] + ([f"default {setting.default}"] if setting.default else [])
    names = [f"--{name}" for name in (setting.name, setting.alias) if name]
    return click.Option(
        [*names, setting.name.replace("-", "_")],
        is_flag=setting.is_flag,
        default=None,
        metavar=None if setting.is_flag else (setting.unit or "TEXT").upper(),
        help=f"{setting.help}  [{'; '.join(told)}]",
    )


@click.command(
    cls=KubectlCommand,
    params=[_option(setting) for setting in (*SETTINGS, CONFIG_FILE)],
    epilog="Examples: `serve --data-dir ./data`, `serve --data-dir ./data --listen-client-urls http://127.0.0.1:12379`.",
)
@global_options
def serve(**options: Any) -> None:
    """Serve a data directory to etcd clients until Ctrl-C: etcdctl, listwatch, anything that speaks etcd v3."""
    configure_logs("info")
    flags = {
        name.replace("_", "-"): "true" if value is True else str(value)
        for name, value in options.items()
        if value is not None and value is not False
    }
    try:
        config = load_config(flags, os.environ)
    except SettingError as error:
        raise click.UsageError(str(error)) from None
    if config.data_dir.exists() and not config.data_dir.is_dir():
        raise CliError(f"the data directory {config.data_dir} is not a directory")

    def ready(server: Server) -> None:
        urls = ", ".join([*server.client_urls, *server.http_urls])
        click.echo(f"serving {config.data_dir} on {urls}, Ctrl-C stops")

    with _logging(config.log):
        asyncio.run(serve_until_signalled(config, ready))
    click.echo("stopped")


@contextmanager
def _logging(config: LogConfig) -> Iterator[None]:
    level = {"warn": "warning", "dpanic": "critical", "panic": "critical"}.get(config.level, config.level)
    form = cast(LogFormat, config.form)
    if config.output in ("stderr", "stdout"):
        configure_logs(level, form, cast(TextIO, getattr(sys, config.output)))
        yield
        return
    with open(config.output, "a", encoding="utf-8", buffering=1) as output:  # noqa: PTH123
        configure_logs(level, form, output)
        try:
            yield
        finally:
            configure_logs(level, form)
