"""`listwatch serve`: a data directory as a one-member etcd. Imports nothing above `kvstore.server`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import msgspec

from controllers.cli.errors import CliError
from controllers.cli.logs import FORMATS, LEVELS, LogFormat, configure_logs
from controllers.cli.options import KubectlCommand, global_options

DEFAULT_URL = "http://127.0.0.1:2379"  # etcd's client port, on this machine only


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `serve --data-dir ./data`, `serve --data-dir ./data --listen-client-urls http://127.0.0.1:12379`.",
)
@click.option(
    "--data-dir",
    envvar="ETCD_DATA_DIR",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    show_envvar=True,
    help="Where the data is; made if it is not there.",
)
@click.option(
    "--listen-client-urls",
    "urls",
    envvar="ETCD_LISTEN_CLIENT_URLS",
    default=DEFAULT_URL,
    show_default=True,
    metavar="URL[,URL]",
    show_envvar=True,
    help="Where to listen: http://HOST:PORT, port 0 for any.",
)
@click.option("--name", envvar="ETCD_NAME", default="default", show_envvar=True, help="The member's name.")
@click.option(
    "--quota-backend-bytes",
    "quota",
    envvar="ETCD_QUOTA_BACKEND_BYTES",
    type=click.IntRange(min=0),
    default=0,
    show_envvar=True,
    help="How large the data may grow; 0 is etcd's 2 GiB.",
)
@click.option("--max-txn-ops", envvar="ETCD_MAX_TXN_OPS", type=click.IntRange(min=1), default=128, show_envvar=True)
@click.option(
    "--max-request-bytes",
    envvar="ETCD_MAX_REQUEST_BYTES",
    type=click.IntRange(min=1),
    default=1_572_864,
    show_envvar=True,
)
@click.option("--log-level", envvar="ETCD_LOG_LEVEL", type=click.Choice(LEVELS), default="info", show_envvar=True)
@click.option("--log-format", type=click.Choice(FORMATS), default="auto", help="auto: by whether it is a terminal.")
@global_options
def serve(
    data_dir: Path,
    urls: str,
    name: str,
    quota: int,
    max_txn_ops: int,
    max_request_bytes: int,
    log_level: str,
    log_format: LogFormat,
) -> None:
    """Serve a data directory to etcd clients until Ctrl-C: etcdctl, listwatch, anything that speaks etcd v3."""
    configure_logs(log_level, log_format)
    listen = tuple(url.strip() for url in urls.split(",") if url.strip())
    if not listen:
        raise click.UsageError("--listen-client-urls names no URL")
    if data_dir.exists() and not data_dir.is_dir():
        raise CliError(f"the data directory {data_dir} is not a directory")
    from kvstore.node import NodeOptions
    from kvstore.server import ServeConfig, Server
    from kvstore.server import serve as serve_until_signalled

    options = NodeOptions(name=name, max_txn_ops=max_txn_ops, max_request_bytes=max_request_bytes)
    if quota:
        options = msgspec.structs.replace(options, quota_bytes=quota)
    config = ServeConfig(data_dir=data_dir, listen_client_urls=listen, node=options)

    def ready(server: Server) -> None:
        click.echo(f"serving {data_dir} on {', '.join(server.client_urls)}, Ctrl-C stops")

    asyncio.run(serve_until_signalled(config, ready))
    click.echo("stopped")
